//! What the spec's YAML takes and refuses.

use super::*;

fn flaw(text: &str) -> Flaw {
    document(text.as_bytes()).expect_err(text)
}

#[test]
fn scalars_are_typed_by_yaml_1_2() {
    for (text, expected) in [
        ("on", Scalar::Text("on")),
        ("yes", Scalar::Text("yes")),
        ("True", Scalar::Bool(true)),
        ("false", Scalar::Bool(false)),
        ("~", Scalar::Null),
        ("0755", Scalar::Int(Some(755))),
        ("0o17", Scalar::Int(Some(15))),
        ("0x1f", Scalar::Int(Some(31))),
        ("-3", Scalar::Int(Some(-3))),
        ("99999999999999999999", Scalar::Int(None)),
        ("1_000", Scalar::Text("1_000")),
        ("1.5", Scalar::Float),
        ("1e3", Scalar::Float),
        (".inf", Scalar::Float),
        ("1.2.3", Scalar::Text("1.2.3")),
        ("10m", Scalar::Text("10m")),
        ("\"1\"", Scalar::Text("1")),
        ("'true'", Scalar::Text("true")),
    ] {
        let node = document(format!("a: {text}").as_bytes()).expect(text);
        let value = node.get("a").expect("the key is there");
        assert_eq!(scalar(value), Some(expected), "{text}");
    }
}

#[test]
fn line_ends_and_a_byte_order_mark_do_not_matter() {
    let unix = document(b"a: 1\nb: [x]\n").expect("valid");
    let windows = document(b"\xef\xbb\xbfa: 1\r\nb: [x]\r\n").expect("valid");
    assert_eq!(unix, windows);
}

#[test]
fn one_document_with_a_leading_mark_is_fine() {
    assert!(document(b"---\na: 1\n").is_ok());
    assert!(document(b"# note\n---\na: 1\n...\n").is_ok());
}

#[test]
fn a_second_document_is_refused_even_when_empty() {
    assert_eq!(flaw("a: 1\n---\nb: 2\n").line, 3);
    assert!(flaw("a: 1\n---\n").line >= 2);
    assert!(flaw("---\n---\na: 1\n").line >= 2);
}

#[test]
fn an_empty_file_is_refused() {
    for text in ["", "\n\n", "# only a comment\n", "\u{feff}"] {
        assert_eq!(flaw(text).line, 1, "{text:?}");
    }
}

#[test]
fn tags_anchors_aliases_and_directives_are_refused_with_their_position() {
    assert_eq!(flaw("a: 1\nb: !!str 2\n").line, 2);
    assert_eq!(flaw("a: !own 2\n").line, 1);
    assert_eq!(flaw("a: 1\nb: &x 2\n").line, 2);
    assert_eq!(flaw("a: &x [1]\n").line, 1);
    assert_eq!(flaw("a: *x\n").line, 1);
    assert_eq!(flaw("%YAML 1.2\n---\na: 1\n").line, 1);
    assert_eq!(flaw("%TAG ! tag:x,2000:\n---\na: 1\n").line, 1);
}

#[test]
fn duplicate_keys_are_refused_where_the_second_stands() {
    let flaw = flaw("a: 1\nb:\n  c: 1\n  'c': 2\n");
    assert_eq!((flaw.line, flaw.column), (4, 3));
}

#[test]
fn complex_keys_are_refused() {
    assert_eq!(flaw("? [a, b]\n: 1\n").line, 1);
    assert_eq!(flaw("{{a: 1}: 2}\n").line, 1);
}

#[test]
fn nesting_stops_at_32_levels() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(document(nested(32).as_bytes()).is_ok());
    assert_eq!(flaw(&nested(33)).line, 1);
    assert_eq!(flaw(&nested(20_000)).line, 1);
    assert_eq!(flaw(&"[".repeat(20_000)).line, 1);
    let block: String = (0..40)
        .map(|level| format!("{}a:\n", " ".repeat(level)))
        .collect();
    assert!(flaw(&block).line >= 32);
}

#[test]
fn nodes_stop_at_20_000() {
    let list = |items: usize| "- a\n".repeat(items);
    assert!(document(list(19_999).as_bytes()).is_ok());
    assert_eq!(flaw(&list(20_000)).kind, super::super::FlawKind::TooLarge);
}

#[test]
fn positions_count_characters_from_one() {
    let node = document("ä: 1\nlist:\n  - ß: x\n".as_bytes()).expect("valid");
    let item = &node.get("list").and_then(Node::sequence).expect("a list")[0];
    let value = item.get("ß").expect("the key is there");
    assert_eq!((value.line, value.column), (3, 8));
}
