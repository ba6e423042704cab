//! What the API server says about a bad object, without the object's values.
//!
//! Called by [`super::error`] only; pure. The server's texts quote what was sent (`Invalid value:
//! "hunter2"`), so field paths and the kind of problem are kept and everything quoted is dropped.

use serde::de::IgnoredAny;
use serde_json::Value;

use deploy::object::list;
use deploy::object::text;
use deploy::ports::FieldConflict;

/// At most this many causes are passed on.
const CAUSES_LIMIT: usize = 20;

/// The longest text of the server that is passed on.
const TEXT_LIMIT: usize = 512;

/// How the server ends a refusal to change what cannot change.
const IMMUTABLE: &str = ": field is immutable";

/// How the server's decoder begins to quote what it read.
const DECODER: [&str; 2] = [", but found ", ", error found in #"];

/// How the server begins a refusal of a body that does not fit the kind's schema.
const TYPED: [&str; 3] = [
    "failed to create typed patch object",
    "failed to convert new object",
    "failed to create typed live object",
];

/// Returns whether a message (which comes with status 500) says that the body has a wrong shape.
pub(super) fn is_about_shape(message: &str) -> bool {
    TYPED.iter().any(|start| message.starts_with(start))
}

/// Returns the fields that other managers own.
pub(super) fn conflicts(status: &Value) -> Vec<FieldConflict> {
    list(status, &["details", "causes"])
        .iter()
        .filter(|cause| text(cause, &["reason"]) == "FieldManagerConflict")
        .map(|cause| FieldConflict {
            field: text(cause, &["field"]).to_owned(),
            manager: manager(text(cause, &["message"])).to_owned(),
        })
        .collect()
}

/// Reads `conflict with "kubectl" with subresource "scale" using apps/v1`.
fn manager(message: &str) -> &str {
    let mut parts = message.split('"');
    parts.nth(1).unwrap_or("another manager")
}

/// Returns one line a problem: the field, and what is wrong with it.
pub(super) fn invalid(status: &Value) -> Vec<String> {
    let causes = list(status, &["details", "causes"]);
    if causes.is_empty() {
        return shape(text(status, &["message"]));
    }
    let line = |cause: &Value| {
        let field = text(cause, &["field"]);
        let problem = problem(text(cause, &["message"]));
        let reason = text(cause, &["reason"]);
        match (field.is_empty(), problem.is_empty()) {
            (false, false) => format!("{field}: {problem}"),
            (false, true) => format!("{field}: {reason}"),
            (true, false) => problem,
            (true, true) => reason.to_owned(),
        }
    };
    causes.iter().take(CAUSES_LIMIT).map(line).collect()
}

/// Reads a message without causes: wrong shape, unknown or doubled fields.
fn shape(message: &str) -> Vec<String> {
    let named = named_fields(message);
    if !named.is_empty() {
        return named;
    }
    let body = if is_about_shape(message) {
        message.split_once("): ").map_or(message, |(_, rest)| rest)
    } else {
        message
    };
    body.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && *line != "errors:")
        .take(CAUSES_LIMIT)
        .map(|line| match line.split_once(": ") {
            Some((path, rest)) if path.starts_with('.') => format!("{path}: {}", problem(rest)),
            _ => problem(line),
        })
        .collect()
}

/// Finds `unknown field "spec.x"` and its like: there the quoted part is a name, not a value.
fn named_fields(message: &str) -> Vec<String> {
    let mut found = Vec::new();
    let pieces: Vec<&str> = message.split('"').collect();
    for window in pieces.windows(3) {
        let [before, name, after] = window else {
            continue;
        };
        let doubled_key = before.ends_with("key ") && after.starts_with(" already set in map");
        let line = if before.ends_with("unknown field ") {
            format!("{name}: unknown field")
        } else if before.ends_with("duplicate field ") || doubled_key {
            format!("{name}: duplicate field")
        } else {
            continue;
        };
        if found.len() < CAUSES_LIMIT {
            found.push(line);
        }
    }
    found
}

/// Returns the kind of problem and its explanation without the value.
fn problem(message: &str) -> String {
    let said = match message.split_once(" value: ") {
        Some((kind, rest)) if !kind.contains([':', '"']) => match after_value(kind, rest) {
            Some(detail) => format!("{kind} value: {detail}"),
            None => format!("{kind} value"),
        },
        // Further lines are a listing of both objects, environments included.
        _ => message.lines().next().unwrap_or_default().to_owned(),
    };
    // The decoder shows where it stood, with what is around it.
    let said = DECODER.iter().fold(said.as_str(), |said, words| {
        said.split(words).next().unwrap_or_default()
    });
    // Older servers print the Go structure of what they got.
    let said = said.split(", got &").next().unwrap_or_default();
    unquoted(said)
}

/// Returns the explanation behind a value, where the value's end can be told for sure.
fn after_value<'m>(kind: &str, rest: &'m str) -> Option<&'m str> {
    if kind == "Required" {
        return Some(rest);
    }
    let end = match rest.strip_prefix('"') {
        Some(inner) => quoted_end(inner).map(|end| end + 1),
        None => json_end(rest),
    };
    let explained = end.and_then(|end| rest.get(end..)?.strip_prefix(": "));
    // The Go structures of older servers end nowhere, but this end of theirs is well known.
    explained.or_else(|| rest.ends_with(IMMUTABLE).then_some(&IMMUTABLE[2..]))
}

/// Finds the byte behind a JSON value.
fn json_end(text: &str) -> Option<usize> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(values.byte_offset())
}

/// Finds the byte behind the closing quote of a Go string.
fn quoted_end(inner: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Replaces everything in quotes; an open quote drops the rest.
fn unquoted(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = opening(rest) {
        let quote = rest.as_bytes()[start];
        out.push_str(&rest[..start]);
        out.push_str("(...)");
        let inner = &rest[start + 1..];
        let end = if quote == b'"' {
            quoted_end(inner)
        } else {
            inner.find(char::from(quote)).map(|end| end + 1)
        };
        rest = end.map_or("", |end| &inner[end..]);
    }
    out.push_str(rest);
    capped(&out)
}

/// Finds a quote that opens: an apostrophe inside a word does not.
fn opening(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|at| match bytes[*at] {
        b'"' | b'`' => true,
        b'\'' => *at == 0 || !bytes[at - 1].is_ascii_alphanumeric(),
        _ => false,
    })
}

/// Puts a text of the server on one line of bounded length.
pub(super) fn capped(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= TEXT_LIMIT {
        return line;
    }
    let mut short: String = line.chars().take(TEXT_LIMIT - 3).collect();
    short.push_str("...");
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn caused(field: &str, reason: &str, message: &str) -> Value {
        json!({"details": {"causes": [{"field": field, "reason": reason, "message": message}]}})
    }

    #[test]
    fn the_value_goes_and_the_explanation_stays() {
        let rows = [
            (
                "Invalid value: -1: must be greater than or equal to 0",
                "f: Invalid value: must be greater than or equal to 0",
            ),
            (
                "Invalid value: \"hun\\\"ter2: x\": must be no more than 63 characters",
                "f: Invalid value: must be no more than 63 characters",
            ),
            (
                "Invalid value: {\"a\":\"hunter2\"}: `selector` does not match",
                "f: Invalid value: (...) does not match",
            ),
            (
                "Invalid value: {\"a\":{\"b\":\"hunter2: x\"}}: field is immutable",
                "f: Invalid value: field is immutable",
            ),
            (
                "Invalid value: v1.Selector{A:\"hunter2: x\"}: field is immutable",
                "f: Invalid value: field is immutable",
            ),
            (
                "Invalid value: v1.Selector{A:\"hunter2\"}: it is wrong",
                "f: Invalid value",
            ),
            (
                "Unsupported value: \"hunter2\": supported values: \"A\", \"B\"",
                "f: Unsupported value: supported values: (...), (...)",
            ),
            ("Duplicate value: \"hunter2\"", "f: Duplicate value"),
            ("Required value", "f: Required value"),
            (
                "Required value: must be given",
                "f: Required value: must be given",
            ),
            (
                "Forbidden: the server's fields other than 'hunter2' are fixed",
                "f: Forbidden: the server's fields other than (...) are fixed",
            ),
            (
                "Forbidden: pod updates may not change fields other than `spec.x`\n  core.PodSpec{\n- \tPort: 5432,\n+ \tPort: 6543,\n }",
                "f: Forbidden: pod updates may not change fields other than (...)",
            ),
            (
                "Secret in version \"v1\" cannot be handled: ReadString: expects \" or n, but found 5, error found in #10 byte of ...|\"a\":5432}|...",
                "f: Secret in version (...) cannot be handled: ReadString: expects (...)",
            ),
            ("", "f: FieldValueInvalid"),
        ];
        for (message, expected) in rows {
            assert_eq!(
                invalid(&caused("f", "FieldValueInvalid", message)),
                [expected]
            );
        }
    }

    #[test]
    fn a_wrong_shape_names_the_field() {
        let said = |tail: &str| {
            let start = "failed to create typed patch object (a/b; apps/v1, Kind=Deployment): ";
            invalid(&json!({"message": format!("{start}{tail}")}))
        };
        assert_eq!(
            said(".spec.replicaz: field not declared in schema"),
            [".spec.replicaz: field not declared in schema"]
        );
        assert_eq!(
            said(
                "errors:\n  .a: field not declared in schema\n  .b: expected string, got &{hunter2}"
            ),
            [".a: field not declared in schema", ".b: expected string"]
        );
        assert_eq!(
            said(".spec.containers: duplicate entries for key [name=\"hunter2\"]"),
            [".spec.containers: duplicate entries for key [name=(...)]"]
        );
    }

    #[test]
    fn unknown_and_doubled_fields_keep_their_names() {
        let message = "strict decoding error: unknown field \"spec.x\", duplicate field \"spec.y\"";
        assert_eq!(
            invalid(&json!({ "message": message })),
            ["spec.x: unknown field", "spec.y: duplicate field"]
        );
        let message = "error strict decoding patch: key \"replicas\" already set in map";
        assert_eq!(
            invalid(&json!({ "message": message })),
            ["replicas: duplicate field"]
        );
    }

    #[test]
    fn conflicts_name_field_and_manager() {
        let message = "conflict with \"kubectl\" with subresource \"scale\" using apps/v1";
        let status = caused(".spec.replicas", "FieldManagerConflict", message);
        let expected = FieldConflict {
            field: ".spec.replicas".to_owned(),
            manager: "kubectl".to_owned(),
        };
        assert_eq!(conflicts(&status), [expected]);
    }

    #[test]
    fn an_open_quote_drops_the_rest() {
        assert_eq!(unquoted("bad \"hunter2"), "bad (...)");
        assert_eq!(unquoted("it's fine"), "it's fine");
    }
}
