//! What expansion does to a spec, case by case.

use super::Environment;
use super::expand;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn expanded(source: &str, value: &str) -> String {
    expand(source, &environment(&[("X", value)])).expect("the source is good")
}

/// Returns `line:column message` of every place.
fn refused(source: &str, pairs: &[(&str, &str)]) -> Vec<(u64, u64)> {
    let places = expand(source, &environment(pairs)).expect_err("the source is bad");
    places
        .into_iter()
        .map(|place| (place.line.unwrap_or(0), place.column.unwrap_or(0)))
        .collect()
}

#[test]
fn a_plain_text_stays_plain_when_that_is_safe() {
    let image = "registry.example.com/team/flask@sha256:0a1b";
    assert_eq!(expanded("a: ${X} # c", image), format!("a: {image} # c"));
    assert_eq!(expanded("a: v${X}-b\n", "1.2"), "a: v1.2-b\n");
    assert_eq!(expanded("a: ${X}\n", "7"), "a: 7\n");
    assert_eq!(expanded("a: ${X}\n", "-7"), "a: -7\n");
}

#[test]
fn a_plain_text_is_quoted_when_the_value_would_leave_it() {
    assert_eq!(expanded("a: ${X}\n", "b: c"), "a: \"b: c\"\n");
    assert_eq!(expanded("a: ${X}\n", "b #c"), "a: \"b #c\"\n");
    assert_eq!(expanded("a: ${X}\n", ""), "a: \"\"\n");
    assert_eq!(expanded("a: ${X}\n", "null"), "a: \"null\"\n");
    assert_eq!(expanded("a: ${X}\n", "x\ny: z"), "a: \"x\\ny: z\"\n");
    assert_eq!(expanded("a: ${X}\n", "*x"), "a: \"*x\"\n");
    assert_eq!(expanded("a: ${X}\n", "- x"), "a: \"- x\"\n");
    assert_eq!(expanded("a: ${X}\n", "{x: y}"), "a: \"{x: y}\"\n");
    assert_eq!(expanded("- ${X}\n", "!tag"), "- \"!tag\"\n");
    assert_eq!(expanded("a: q\"${X}\n", "\\ "), "a: \"q\\\"\\\\\\x20\"\n");
}

#[test]
fn quoted_texts_are_escaped_in_their_own_way() {
    assert_eq!(expanded("a: 'b ''${X}'\n", "it's"), "a: 'b ''it''s'\n");
    assert_eq!(
        expanded("a: 'b ''\"\\${X}'\n", "x\ny"),
        "a: \"b '\\\"\\\\x\\ny\"\n"
    );
    assert_eq!(
        expanded("a: \"b ${X}\"\n", "q\"\\\n\t\u{1}"),
        "a: \"b q\\\"\\\\\\n\\t\\u0001\"\n"
    );
    assert_eq!(
        expanded("i: { f: \"${X}\", g: '${X}' }\n", "a, b}"),
        "i: { f: \"a, b}\", g: 'a, b}' }\n"
    );
}

#[test]
fn blanks_at_a_fold_survive() {
    assert_eq!(expanded("a: \"${X}\n  b\"\n", "x "), "a: \"x\\x20\n  b\"\n");
    assert_eq!(expanded("a: '${X}\n  b'\n", "x "), "a: \"x\\x20\n  b\"\n");
    assert_eq!(expanded("a: b ${X}\n  c\n", "#"), "a: \"b #\n  c\"\n");
}

#[test]
fn a_block_text_gets_the_value_with_its_indentation() {
    assert_eq!(
        expanded("a: |\n  b ${X}\n  c\n", "1\n2"),
        "a: |\n  b 1\n  2\n  c\n"
    );
    assert_eq!(
        expanded("a: |\n\n    ${X}\nb: c\n", "1\n2"),
        "a: |\n\n    1\n    2\nb: c\n"
    );
    assert_eq!(
        expanded("a:\n- |2\n      ${X}\n    c\n", "1"),
        "a:\n- |2\n      1\n    c\n"
    );
    assert_eq!(expanded("a: >-\n  b ${X}\n", "1"), "a: >-\n  b 1\n");
    assert_eq!(expanded("a: |\n  ${X}", "1\n"), "a: |\n  1\n  ");
}

#[test]
fn a_block_text_refuses_what_it_cannot_hold() {
    assert_eq!(refused("a: >\n  b ${X}\n", &[("X", "1\n2")]), [(2, 5)]);
    assert_eq!(refused("a: |\n  ${X}\n", &[("X", "\u{7}")]), [(2, 3)]);
    assert_eq!(refused("a: |\n  ${X}\n  b\n", &[("X", " 1")]), [(2, 3)]);
}

#[test]
fn a_doubled_dollar_is_a_literal_and_stays_so() {
    assert_eq!(expanded("a: $${X}\n", "1"), "a: \"$${X}\"\n");
    assert_eq!(expanded("a: '$${X} ${X}'\n", "1"), "a: '$${X} 1'\n");
    assert_eq!(expanded("a: $X $ $(X) $$\n", "1"), "a: $X $ $(X) $$\n");
}

#[test]
fn values_are_not_expanded_again() {
    assert_eq!(expanded("a: '${X}'\n", "${X}"), "a: '$${X}'\n");
}

#[test]
fn keys_and_comments_are_left_alone() {
    let source = "# ${NO}\n? [a, \"${NO}\"]\n: b # ${NO}\n\"${NO}\": {\"${NO}\": c}\n";
    assert_eq!(expanded(source, "1"), source);
}

#[test]
fn every_unset_variable_is_named_with_its_place() {
    let source = "a: 'é${A}'\r\nb:\r\n- x\r\n- \"${B} ${C}\"\r\n";
    assert_eq!(refused(source, &[]), [(1, 6), (4, 4), (4, 9)]);
    let places = expand(source, &environment(&[])).expect_err("unset");
    assert!(places[1].message.contains(" B "), "{}", places[1].message);
}

#[test]
fn shell_forms_are_refused() {
    assert_eq!(refused("a: '${X:-y}'\n", &[("X", "1")]), [(1, 5)]);
    assert_eq!(refused("a: '${X'\n", &[("X", "1")]), [(1, 5)]);
    assert_eq!(refused("a: '${}'\n", &[("X", "1")]), [(1, 5)]);
}

#[test]
fn a_marker_hidden_by_an_escape_is_refused() {
    assert_eq!(refused("a: b\nc: \"\\x24{X}\"\n", &[("X", "1")]), [(2, 4)]);
}

#[test]
fn a_variable_without_quotes_in_a_flow_collection_is_an_error_that_says_so() {
    let places = expand("i: { f: ${X} }\n", &environment(&[("X", "1")])).expect_err("flow");
    assert_eq!(places[0].line, Some(1));
    assert!(
        places[0].message.contains("quotes"),
        "{}",
        places[0].message
    );
}

#[test]
fn a_byte_order_mark_and_crlf_are_kept() {
    assert_eq!(
        expanded("\u{feff}a: '${X}'\r\nb: c\r\n", "1"),
        "\u{feff}a: '1'\r\nb: c\r\n"
    );
}

#[test]
fn a_source_without_variables_is_returned_as_it_is() {
    let source = "---\na: [b, 'c']   # d\n\n...\n";
    assert_eq!(expanded(source, "1"), source);
}
