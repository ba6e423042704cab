//! The manifests' reading of YAML: as kubectl does it, into JSON, document by document.
//!
//! Called by [`crate::manifest`]. kubectl reads YAML 1.1 through Go's reader and sends JSON: `on`
//! and `0644` in value position are a boolean and a number, `1.0` becomes `1`, `<<` merges. Keys
//! stay the text they are. Differences on purpose: duplicate keys and tags of somebody's own are
//! errors.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Map;
use serde_json::Number;
use serde_json::Value;

use super::Flaw;
use super::build;
use super::core::is_decimal;
use super::shown;
use super::text;
use super::tree::Budget;
use super::tree::Content;
use super::tree::Dialect;
use super::tree::Extras;
use super::tree::MERGE;
use super::tree::Node;

/// What a manifest may use.
const MANIFEST: Dialect = Dialect {
    extras: Extras::Taken,
    depth: 100,
    nodes: 250_000,
};

const LISTING: Dialect = Dialect {
    extras: Extras::Taken,
    depth: 32,
    nodes: 500_000,
};

/// Whole floats below this become integers, as Go writes them: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Whether tabs may indent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// YAML, where they may not.
    Yaml,
    /// JSON, where they may, and where no text can hold one.
    Json,
}

/// Reads the documents of a file that are not empty.
pub(crate) fn documents(file: &[u8], form: Form, budget: &mut Budget) -> Result<Vec<Node>, Flaw> {
    let text = text(file)?;
    let nodes = match form {
        Form::Yaml => build::documents(text, MANIFEST, budget)?,
        Form::Json => build::documents(&text.replace('\t', " "), MANIFEST, budget)?,
    };
    let filled = |node: &Node| !matches!(resolve(node), Ok(Value::Null));
    Ok(nodes.into_iter().filter(filled).collect())
}

/// Reads the documents of a long list that somebody else keeps, inside a budget of its own; few of
/// its values are ever looked at.
pub(crate) fn listing(file: &[u8]) -> Result<Vec<Node>, Flaw> {
    build::documents(text(file)?, LISTING, &mut Budget::default())
}

/// Turns a node into JSON.
pub(crate) fn value(node: &Node) -> Result<Value, Flaw> {
    match &node.content {
        Content::Plain(_) | Content::Quoted(_) => resolve(node),
        Content::Shared(target) => value(target),
        Content::Sequence(items) => {
            check_tag(node, "seq")?;
            items.iter().map(value).collect()
        }
        Content::Mapping(entries) => {
            check_tag(node, "map")?;
            mapping(entries).map(Value::Object)
        }
    }
}

fn check_tag(node: &Node, standard: &str) -> Result<(), Flaw> {
    match node.tag.as_deref() {
        None | Some("") => Ok(()),
        Some(tag) if tag == standard => Ok(()),
        Some(_) => Err(node.flaw("this tag is not taken; leave it out")),
    }
}

fn mapping(entries: &[(Node, Node)]) -> Result<Map<String, Value>, Flaw> {
    let mut object = Map::new();
    let mut merged = Map::new();
    for (key, content) in entries {
        let name = name(key)?;
        if is_merge(key) {
            merge(content, &mut merged)?;
        } else if object.insert(name.clone(), value(content)?).is_some() {
            return Err(key.flaw(format!("{} is written twice", shown(&name))));
        }
    }
    for (name, content) in merged {
        object.entry(name).or_insert(content);
    }
    Ok(object)
}

fn is_merge(key: &Node) -> bool {
    let plain = matches!(&key.target().content, Content::Plain(text) if text == MERGE);
    plain || (key.scalar() == Some(MERGE) && key.target().tag.as_deref() == Some("merge"))
}

/// Collects what a merge key brings; the first mapping that has a key wins.
fn merge(content: &Node, merged: &mut Map<String, Value>) -> Result<(), Flaw> {
    let sources = match content.sequence() {
        Some(items) => items,
        None => std::slice::from_ref(content),
    };
    for source in sources {
        let Some(entries) = source.mapping() else {
            return Err(source.flaw("a merge key takes a mapping or a list of mappings"));
        };
        for (name, content) in mapping(entries)? {
            merged.entry(name).or_insert(content);
        }
    }
    Ok(())
}

fn name(key: &Node) -> Result<String, Flaw> {
    let target = key.target();
    match (&target.content, target.tag.as_deref()) {
        (Content::Plain(text), None) if is_null(text) => {
            Err(key.flaw("a key is missing before the colon"))
        }
        (
            Content::Plain(text) | Content::Quoted(text),
            None | Some("" | "str" | "int" | "float" | "bool" | "merge"),
        ) => Ok(text.clone()),
        (Content::Plain(_) | Content::Quoted(_), Some(_)) => {
            Err(key.flaw("this tag is not taken on a key; leave it out"))
        }
        (Content::Sequence(_) | Content::Mapping(_) | Content::Shared(_), _) => {
            Err(key.flaw("a key has to be plain text"))
        }
    }
}

fn resolve(node: &Node) -> Result<Value, Flaw> {
    let (text, typed) = match &node.content {
        Content::Plain(text) => (text, untagged(text)),
        Content::Quoted(text) => (text, Some(Value::String(text.clone()))),
        Content::Sequence(_) | Content::Mapping(_) => return Ok(Value::Bool(true)),
        Content::Shared(target) => return resolve(target),
    };
    let mismatch = || node.flaw("the value does not fit its tag");
    let infinite = || node.flaw("not-a-number and infinity cannot be written in JSON; use quotes");
    match node.tag.as_deref() {
        None => typed.ok_or_else(infinite),
        Some("" | "str" | "timestamp") => Ok(Value::String(text.clone())),
        Some("binary") => binary(text).ok_or_else(mismatch),
        Some(tag @ ("int" | "float" | "bool" | "null")) => match untagged(text) {
            None => Err(infinite()),
            Some(value) if fits(tag, &value) => Ok(value),
            Some(_) => Err(mismatch()),
        },
        Some(_) => Err(node.flaw("this tag is not taken; leave it out")),
    }
}

fn fits(tag: &str, value: &Value) -> bool {
    match tag {
        "int" => value.is_i64() || value.is_u64(),
        "float" => value.is_number(),
        "bool" => value.is_boolean(),
        _ => value.is_null(),
    }
}

fn binary(text: &str) -> Option<Value> {
    let joined: String = text.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(joined).ok()?;
    String::from_utf8(bytes).ok().map(Value::String)
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Types plain text by YAML 1.1 as Go's reader does; `None` for what JSON cannot hold.
fn untagged(text: &str) -> Option<Value> {
    if is_null(text) {
        return Some(Value::Null);
    }
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Some(Value::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Some(Value::Bool(false));
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => return None,
        _ => {}
    }
    if text.starts_with(|letter: char| letter.is_ascii_digit() || "+-.".contains(letter)) {
        return number(text);
    }
    Some(Value::String(text.to_owned()))
}

fn number(text: &str) -> Option<Value> {
    // Go takes underscores out everywhere but in numbers that start with a dot.
    let plain = if text.starts_with('.') {
        text.to_owned()
    } else {
        text.replace('_', "")
    };
    if let Some(number) = whole(&plain) {
        return Some(Value::Number(number));
    }
    if !is_decimal(plain.strip_prefix(['-', '+']).unwrap_or(&plain)) {
        return Some(Value::String(text.to_owned()));
    }
    let float: f64 = plain.parse().ok()?;
    if !float.is_finite() {
        // Go fails to parse it and keeps the text.
        return Some(Value::String(text.to_owned()));
    }
    Some(Value::Number(normal(float)?))
}

/// Writes a float without a fraction as an integer.
fn normal(float: f64) -> Option<Number> {
    if float.fract() == 0.0 && float.abs() < EXACT {
        // Exact: whole and below 2^53.
        return format!("{float:.0}").parse::<i64>().ok().map(Number::from);
    }
    Number::from_f64(float)
}

fn whole(plain: &str) -> Option<Number> {
    let (negative, digits) = match plain.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, plain.strip_prefix('+').unwrap_or(plain)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|letter: char| letter.is_digit(radix)) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if !negative {
        return Some(Number::from(magnitude));
    }
    i64::try_from(-i128::from(magnitude)).ok().map(Number::from)
}

#[cfg(test)]
#[path = "legacy_tests.rs"]
mod tests;
