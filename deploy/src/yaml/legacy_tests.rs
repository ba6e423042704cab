//! The same input as kubectl gets, read as kubectl reads it.

use serde_json::json;

use super::*;
use crate::yaml::FlawKind;

fn read(text: &str) -> Result<Vec<Value>, Flaw> {
    let mut budget = Budget::default();
    documents(text.as_bytes(), Form::Yaml, &mut budget)?
        .iter()
        .map(value)
        .collect()
}

fn one(text: &str) -> Value {
    let mut values = read(text).expect(text);
    assert_eq!(values.len(), 1, "{text}");
    values.remove(0)
}

#[test]
fn values_are_typed_as_go_does() {
    for (text, expected) in [
        ("on", json!(true)),
        ("y", json!(true)),
        ("NO", json!(false)),
        ("off", json!(false)),
        ("yEs", json!("yEs")),
        ("0644", json!(420)),
        ("0755", json!(493)),
        ("0o755", json!(493)),
        ("0x1F", json!(31)),
        ("0b101", json!(5)),
        ("-0b101", json!(-5)),
        ("-010", json!(-8)),
        ("1_000", json!(1000)),
        ("08", json!(8)),
        ("0", json!(0)),
        ("+7", json!(7)),
        ("1.0", json!(1)),
        ("-0.0", json!(0)),
        ("1e3", json!(1000)),
        ("1.5", json!(1.5)),
        (".5", json!(0.5)),
        ("1e21", json!(1e21)),
        (
            "12345678901234567890",
            json!(12_345_678_901_234_567_890_u64),
        ),
        ("-9223372036854775808", json!(i64::MIN)),
        ("1e999", json!("1e999")),
        ("2024-01-01", json!("2024-01-01")),
        ("1.2.3", json!("1.2.3")),
        ("100m", json!("100m")),
        ("0x", json!("0x")),
        ("-", json!([null])),
        ("~", json!(null)),
        ("\"on\"", json!("on")),
        ("'0644'", json!("0644")),
        ("!!str 12", json!("12")),
        ("! 12", json!("12")),
        ("!!int \"12\"", json!(12)),
        ("!!float 1", json!(1)),
        ("!!bool \"yes\"", json!(true)),
        ("!!null \"\"", json!(null)),
        ("!!binary aGk=", json!("hi")),
        ("!!timestamp 2024-01-01", json!("2024-01-01")),
    ] {
        assert_eq!(
            one(&format!("a:\n  {text}\n")),
            json!({ "a": expected }),
            "{text}"
        );
    }
}

#[test]
fn what_json_cannot_hold_is_refused() {
    for text in [
        ".inf",
        "-.INF",
        ".nan",
        "!!float .inf",
        "!!binary /w==",
        "!!int x",
        "!own 1",
    ] {
        assert_eq!(
            read(&format!("x: 1\na: {text}\n")).expect_err(text).line,
            2,
            "{text}"
        );
    }
    for text in ["!own {a: 1}", "!!set {a}", "!!omap []"] {
        assert_eq!(
            read(&format!("x: 1\na: {text}\n")).expect_err(text).line,
            2,
            "{text}"
        );
    }
}

#[test]
fn keys_keep_their_text() {
    assert_eq!(
        one("yes: a\n0644: b\n1.0: c\n"),
        json!({"yes": "a", "0644": "b", "1.0": "c"})
    );
    for text in ["~: a\n", "null: a\n", ": a\n", "[a]: b\n", "{a: b}: c\n"] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn merge_keys_fill_in_what_is_not_written() {
    let text = "base: &b {x: 1, y: 2}\nmore: &m {y: 3, z: 4}\none:\n  <<: *b\n  y: 9\nboth:\n  <<: [*b, *m]\n";
    let value = one(text);
    assert_eq!(value["one"], json!({"x": 1, "y": 9}));
    assert_eq!(value["both"], json!({"x": 1, "y": 2, "z": 4}));
    assert!(read("a: {<<: 1}\n").is_err());
    assert_eq!(one("a: {'<<': 1}\n"), json!({"a": {"<<": 1}}));
}

#[test]
fn duplicate_keys_are_refused_though_kubectl_takes_the_last() {
    assert_eq!(read("a: 1\nb: 2\na: 3\n").expect_err("twice").line, 3);
    assert_eq!(read("{\"a\": 1, \"a\": 2}").expect_err("twice").column, 10);
}

#[test]
fn empty_documents_are_skipped_and_lines_are_kept() {
    let nodes = documents(
        b"---\n# nothing\n---\na: 1\n---\n~\n---\n\n---\nb: 2\n...\n",
        Form::Yaml,
        &mut Budget::default(),
    )
    .expect("valid");
    let lines: Vec<_> = nodes.iter().map(|node| node.line).collect();
    assert_eq!(lines, [4, 10]);
}

#[test]
fn byte_order_mark_and_windows_line_ends_are_fine() {
    let nodes = documents(
        b"\xef\xbb\xbfa: |\r\n  x\r\n  y\r\nb: on\r\n",
        Form::Yaml,
        &mut Budget::default(),
    )
    .expect("valid");
    assert_eq!(
        value(&nodes[0]).expect("valid"),
        json!({"a": "x\ny\n", "b": true})
    );
}

#[test]
fn utf_16_is_refused() {
    let wide: Vec<u8> = "a: 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(documents(&wide, Form::Yaml, &mut Budget::default()).is_err());
}

#[test]
fn json_files_may_be_indented_with_tabs() {
    let file = b"{\n\t\"a\": {\n\t\t\"b\": [1,\t2],\n\t\t\"c\": \"x\\ty\\/\\u00e9\\ud83d\\ude00\"\n\t}\n}\n";
    let nodes = documents(file, Form::Json, &mut Budget::default()).expect("valid");
    assert_eq!(
        value(&nodes[0]).expect("valid"),
        json!({"a": {"b": [1, 2], "c": "x\ty/é😀"}})
    );
}

#[test]
fn an_alias_bomb_is_refused_before_it_is_expanded() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let flaw = read(&text).expect_err("a bomb");
    assert_eq!((flaw.kind, flaw.line), (FlawKind::TooLarge, 6));
}

#[test]
fn aliases_cannot_nest_deeper_than_the_limit() {
    let mut text = "a0: &a0 [x]\n".to_owned();
    for level in 1..5_000 {
        text.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert_eq!(read(&text).expect_err("too deep").line, 100);
}

#[test]
fn an_alias_inside_its_own_anchor_is_refused() {
    assert!(read("a: &a [*a]\n").is_err());
    assert!(read("a: &a {<<: *a}\n").is_err());
    assert!(read("a: *b\n").is_err());
}

#[test]
fn nesting_and_nodes_are_bounded() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(read(&nested(100)).is_ok());
    assert!(read(&nested(101)).is_err());
    assert!(read(&nested(20_000)).is_err());
    assert!(read(&"{a: ".repeat(20_000)).is_err());
    assert!(read(&"- ".repeat(20_000)).is_err());
    assert!(read(&"- a\n".repeat(249_999)).is_ok());
    assert_eq!(
        read(&"- a\n".repeat(250_000)).expect_err("big").kind,
        FlawKind::TooLarge
    );
}

#[test]
fn thousands_of_documents_are_read() {
    assert_eq!(
        read(&"---\na: {b: [1, 2]}\n".repeat(3_000))
            .expect("valid")
            .len(),
        3_000
    );
}

#[test]
fn all_files_together_share_one_budget() {
    let mut budget = Budget {
        nodes: 10,
        bytes: 100,
    };
    let file = b"a: 1\n---\nb: 2\n";
    assert!(documents(file, Form::Yaml, &mut budget).is_ok());
    let flaw = documents(file, Form::Yaml, &mut budget).expect_err("too many");
    assert_eq!((flaw.kind, flaw.line), (FlawKind::TooLarge, 3));
}

#[test]
fn aliases_of_long_texts_are_counted_in_bytes() {
    let text = format!(
        "a: &a {}\nb: [{}]\n",
        "x".repeat(1 << 20),
        vec!["*a"; 100].join(", ")
    );
    assert_eq!(read(&text).expect_err("too much").kind, FlawKind::TooLarge);
}
