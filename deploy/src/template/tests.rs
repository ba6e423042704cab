//! What templates take, give and refuse.

use super::*;

fn render(text: &str, values: &[(&str, &[u8])]) -> Result<Vec<u8>, TemplateError> {
    let secrets: Vec<_> = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Secret::new(value.to_vec())))
        .collect();
    let by_key = secrets
        .iter()
        .map(|(name, secret)| (name.clone(), secret))
        .collect();
    let template = Template::parse(text)?;
    template
        .render(&by_key)
        .map(|secret| secret.bytes().to_vec())
}

#[test]
fn expressions_are_replaced_and_everything_else_is_kept() {
    let values: &[(&str, &[u8])] = &[("user", b"ann"), ("pass", b"a b/c\"\\\n")];
    for (text, expected) in [
        ("plain", "plain"),
        ("", ""),
        ("line\n", "line\n"),
        ("{{ user }}\r\n", "ann\r\n"),
        (
            "postgresql://{{ user }}:{{ pass | url }}@db/x",
            "postgresql://ann:a%20b%2Fc%22%5C%0A@db/x",
        ),
        ("{{user|b64}}", "YW5u"),
        ("{\"p\":{{ pass | json }}}", r#"{"p":"a b/c\"\\\n"}"#),
        ("{{ (user ~ \":\" ~ 'x}}') | b64 }}", "YW5uOnh9fQ=="),
        ("{{ user ~ '<&>' }}", "ann<&>"),
        ("a {{- user -}} b", "aannb"),
        ("{ {user} }", "{ {user} }"),
    ] {
        assert_eq!(
            render(text, values),
            Ok(expected.as_bytes().to_vec()),
            "{text}"
        );
    }
}

#[test]
fn names_are_collected_before_anything_is_rendered() {
    let template = Template::parse("{{ a }}{{ (b ~ a) | b64 | json }}").expect("valid");
    assert_eq!(
        template.names,
        BTreeSet::from(["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(template.text, "{{ a }}{{ (b ~ a) | b64 | json }}");
}

#[test]
fn statements_and_everything_that_computes_are_refused() {
    for text in [
        "{% set a = 1 %}",
        "{% for x in a %}{% endfor %}",
        "{% macro m() %}{% endmacro %}",
        "{% include 'x' %}",
        "{# note #}",
        "{{ a * 9 }}",
        "{{ 1 }}",
        "{{ a[0] }}",
        "{{ a.b }}",
        "{{ range(9) }}",
        "{{ a() }}",
        "{{ a if b else c }}",
        "{{ not a }}",
        "{{ a == b }}",
        "{{ [a] }}",
        "{{ {} }}",
        "{{ a, b }}",
        "{{ a | upper }}",
        "{{ a | }}",
        "{{ | b64 }}",
        "{{ a b }}",
        "{{ a ~ }}",
        "{{ ~ a }}",
        "{{ (a }}",
        "{{ a) }}",
        "{{ () }}",
        "{{ }}",
        "{{ a",
        "{{",
        "{{ 'a }}",
        "{{ api-key }}",
        "{{ ä }}",
        "{{ true }}",
        "{{ self }}",
        "{{{ a }}}",
        "{{ a | b64() }}",
        "{{ a | json(indent=9) }}",
        "{{ a | b64 | b64 | b64 | b64 | b64 }}",
    ] {
        assert!(Template::parse(text).is_err(), "{text}");
    }
}

#[test]
fn huge_templates_are_refused() {
    assert!(Template::parse(&"x".repeat(65 << 10)).is_err());
    assert!(Template::parse(&format!("{{{{ {}a{} }}}}", "(".repeat(9), ")".repeat(9))).is_err());
    assert!(Template::parse(&format!("{{{{ {}a{} }}}}", "(".repeat(8), ")".repeat(8))).is_ok());
    assert!(Template::parse(&format!("{{{{ a{} }}}}", " ~ a".repeat(40))).is_err());
}

#[test]
fn keys_that_are_no_identifiers_get_the_reason() {
    let error = Template::parse("{{ api-key }}").expect_err("refused");
    assert!(error.problem.contains("identifier"));
}

#[test]
fn a_name_without_a_value_is_an_error() {
    assert!(render("{{ a }}", &[]).is_err());
}

#[test]
fn bytes_that_are_not_text_pass_through_b64_only() {
    let values: &[(&str, &[u8])] = &[("a", &[0xff, 0xfe])];
    assert_eq!(render("{{ a | b64 }}", values), Ok(b"//4=".to_vec()));
    for text in [
        "{{ a }}",
        "{{ a | json }}",
        "{{ a | url }}",
        "{{ ('x' ~ a) | b64 }}",
        "{{ (a) | b64 }}",
    ] {
        assert!(render(text, values).is_err(), "{text}");
    }
}

#[test]
fn results_over_a_mebibyte_are_refused() {
    let big = vec![b'x'; 1 << 20];
    assert!(render("{{ a }}", &[("a", &big)]).is_ok());
    assert!(render("{{ a }}x", &[("a", &big)]).is_err());
    assert!(render("{{ a | b64 }}", &[("a", &big)]).is_err());
}

#[test]
fn errors_hold_no_value() {
    let mut canary = b"canary\xff".repeat(9);
    for text in ["{{ a }}", "{{ a | json }}", "{{ a }}{{ b }}"] {
        let error = render(text, &[("a", &canary)]).expect_err("refused");
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
    canary = b"canary".repeat(1 << 20);
    let error = render("{{ a }}", &[("a", &canary)]).expect_err("refused");
    assert!(!format!("{error} {error:?}").contains("canary"));
}
