//! The spec's reading of YAML: 1.2 core scalars, one document, nothing that needs a second look.
//!
//! Called by [`crate::spec`].

use super::Flaw;
use super::build::documents;
use super::text;
use super::tree::Budget;
use super::tree::Content;
use super::tree::Dialect;
use super::tree::Extras;
use super::tree::Node;

/// What the spec may use.
const SPEC: Dialect = Dialect {
    extras: Extras::Refused,
    depth: 32,
    nodes: 20_000,
};

/// What a scalar is by the YAML 1.2 core schema.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scalar<'a> {
    /// Text, quoted or not.
    Text(&'a str),
    /// `true`, `false` and their capital forms.
    Bool(bool),
    /// A whole number; unset where it does not fit.
    Int(Option<i64>),
    /// A number with a fraction or exponent, or one of the special ones.
    Float,
    /// Nothing, `~` or `null`.
    Null,
}

/// Reads the one document of a spec.
pub(crate) fn document(file: &[u8]) -> Result<Node, Flaw> {
    let mut left = Budget::default();
    let mut nodes = documents(text(file)?, SPEC, &mut left)?.into_iter();
    let Some(first) = nodes.next() else {
        return Err(Flaw::new(1, 1, "the file is empty"));
    };
    match nodes.next() {
        Some(second) => {
            Err(second.flaw("a second document starts before this; the file holds one"))
        }
        None => Ok(first),
    }
}

/// Types a scalar; `None` for lists and mappings.
pub(crate) fn scalar(node: &Node) -> Option<Scalar<'_>> {
    match &node.target().content {
        Content::Plain(text) => Some(plain(text)),
        Content::Quoted(text) => Some(Scalar::Text(text)),
        Content::Sequence(_) | Content::Mapping(_) | Content::Shared(_) => None,
    }
}

fn plain(text: &str) -> Scalar<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "true" | "True" | "TRUE" => Scalar::Bool(true),
        "false" | "False" | "FALSE" => Scalar::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Scalar::Float,
        _ if is_int(text) => Scalar::Int(int(text)),
        _ if is_float(text) => Scalar::Float,
        _ => Scalar::Text(text),
    }
}

fn digits(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_digit(radix))
}

fn is_int(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix("0o") {
        return digits(rest, 8);
    }
    if let Some(rest) = text.strip_prefix("0x") {
        return digits(rest, 16);
    }
    digits(text.strip_prefix(['-', '+']).unwrap_or(text), 10)
}

fn int(text: &str) -> Option<i64> {
    if let Some(rest) = text.strip_prefix("0o") {
        return i64::from_str_radix(rest, 8).ok();
    }
    if let Some(rest) = text.strip_prefix("0x") {
        return i64::from_str_radix(rest, 16).ok();
    }
    text.parse().ok()
}

fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    matches!(text, ".inf" | ".Inf" | ".INF") || is_decimal(text)
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, which YAML 1.2 and Go's reader share.
pub(super) fn is_decimal(text: &str) -> bool {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(exponent)),
        None => (text, None),
    };
    let exponent_fits = exponent
        .is_none_or(|exponent| digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent), 10));
    let number_fits = match number.split_once('.') {
        Some(("", fraction)) => digits(fraction, 10),
        Some((whole, "")) => digits(whole, 10),
        Some((whole, fraction)) => digits(whole, 10) && digits(fraction, 10),
        None => digits(number, 10),
    };
    number_fits && exponent_fits
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
