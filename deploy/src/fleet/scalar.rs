//! A text in the style of the scalar that it replaces.
//!
//! Used by the finders of [`super`]. Plain stays plain where the new text is read as text by YAML 1.1 and 1.2;
//! else it is put in double quotes, since a tag `1.10` would become a number.

use granit_parser::ScalarStyle;
use serde_json::Value;

use super::EditError;
use super::Source;
use super::Splice;
use super::Told;
use super::scan::Scalar;
use crate::yaml::core;
use crate::yaml::legacy;
use crate::yaml::tree::Content;
use crate::yaml::tree::Node;

/// Replaces a scalar.
pub(super) fn replace(
    source: &Source<'_>,
    scalar: &Scalar,
    what: String,
    new: &str,
) -> Result<Splice, EditError> {
    if scalar.is_special {
        let problem = "an image with an anchor or a tag is not replaced; write it plainly";
        return Err(source.broken(scalar.line, problem));
    }
    let text = match scalar.style {
        _ if scalar.value == new => source.text[scalar.place.clone()].to_owned(),
        ScalarStyle::Plain if is_plain_text(new) => new.to_owned(),
        ScalarStyle::Plain | ScalarStyle::DoubleQuoted => format!("\"{new}\""),
        ScalarStyle::SingleQuoted => format!("'{new}'"),
        ScalarStyle::Literal | ScalarStyle::Folded => {
            let problem = "an image in a block text is not replaced; write it on one line";
            return Err(source.broken(scalar.line, problem));
        }
    };
    Ok(Splice {
        start: scalar.place.start,
        end: scalar.place.end,
        text,
        told: Some(Told {
            line: scalar.line,
            what,
            old: scalar.value.clone(),
            new: new.to_owned(),
        }),
    })
}

/// Says whether a text without quotes is read as that text.
pub(super) fn is_plain_text(text: &str) -> bool {
    let node = Node {
        line: 0,
        column: 0,
        tag: None,
        content: Content::Plain(text.to_owned()),
    };
    let is_text = core::scalar(&node) == Some(core::Scalar::Text(text))
        && legacy::value(&node) == Ok(Value::String(text.to_owned()));
    let first = text.chars().next();
    is_text && first.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_as_something_else_needs_quotes() {
        for text in [
            "1.10", "123", "0123", "1e5", "0x1f", "true", "no", "null", "1_000", "~", "",
        ] {
            assert!(!is_plain_text(text), "{text}");
        }
        for text in [
            "1.4.2",
            "v1.10",
            "main-abc-123",
            "registry.example.com/web:1.10",
            "latest",
        ] {
            assert!(is_plain_text(text), "{text}");
        }
    }
}
