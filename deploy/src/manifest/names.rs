//! Metadata of manifests: names, labels and annotations that are taken.
//!
//! Called by [`super::object`].

use serde_json::Map;
use serde_json::Value;

use super::object::Findings;
use crate::options;
use crate::yaml::shown;

/// Where the options of an object are.
const OPTIONS: &str = "metadata.annotations";

/// `v1`, `apps/v1`.
pub(super) fn is_api_version(text: &str) -> bool {
    let (group, version) = match text.split_once('/') {
        Some((group, version)) => (Some(group), version),
        None => (None, text),
    };
    group.is_none_or(|group| proto::ids::dns_subdomain(group).is_ok())
        && proto::ids::dns_subdomain(version).is_ok()
        && !version.contains('.')
}

/// A word of letters and digits that starts with a capital; a few add-ons (groups with a dot) have
/// kinds that do not.
pub(super) fn is_kind(text: &str, api_version: &str) -> bool {
    let first = |letter: char| {
        letter.is_ascii_uppercase() || (letter.is_ascii_lowercase() && api_version.contains('.'))
    };
    text.len() <= 63
        && text.starts_with(first)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What can be one segment of a path; kinds have stricter rules of their own (roles take colons).
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 253
        && !matches!(text, "." | "..")
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && !text.contains(['/', '%'])
}

/// Checks the metadata of an object and of every template inside it.
pub(super) fn check(body: &Map<String, Value>, findings: &mut Findings<'_>) {
    if let Some(Value::Object(metadata)) = body.get("metadata") {
        for field in ["ownerReferences", "finalizers"] {
            let empty = match metadata.get(field) {
                None | Some(Value::Null) => true,
                Some(Value::Array(items)) => items.is_empty(),
                Some(_) => false,
            };
            if !empty {
                findings.at(
                    &format!("metadata.{field}"),
                    "is taken only where a rule allows it, and this version knows no such rule; \
                     leave it out",
                );
            }
        }
    }
    walk(body, "", findings);
}

/// Looks at every `metadata` in the tree. Its depth is bounded by the YAML reader.
fn walk(object: &Map<String, Value>, path: &str, findings: &mut Findings<'_>) {
    for (key, value) in object {
        let below = match path {
            "" => shown_segment(key),
            _ => format!("{path}.{}", shown_segment(key)),
        };
        match value {
            Value::Object(fields) => {
                if key == "metadata" {
                    marks(fields, &below, findings);
                }
                walk(fields, &below, findings);
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Object(fields) = item {
                        walk(fields, &format!("{below}[{index}]"), findings);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

fn shown_segment(key: &str) -> String {
    match shown(key).strip_prefix('\'') {
        Some(_) => key.to_owned(),
        None => "?".to_owned(),
    }
}

/// Checks labels and annotations.
fn marks(metadata: &Map<String, Value>, path: &str, findings: &mut Findings<'_>) {
    for field in ["labels", "annotations"] {
        let Some(Value::Object(marks)) = metadata.get(field) else {
            continue;
        };
        let path = format!("{path}.{field}");
        if path == OPTIONS {
            for flaw in options::read(marks).1 {
                findings.at(&path, format!("{} {}", shown(&flaw.name), flaw.problem));
            }
        }
        for (name, value) in marks {
            if let Some(problem) = reserved(name, &path) {
                findings.at(&path, format!("{} {problem}", shown(name)));
            }
            let text_there = value.is_string();
            // Schemas of custom kinds describe labels by objects; only scalars are mistakes.
            if !text_there && !value.is_object() {
                findings.at(
                    &path,
                    format!("{} is not text; put it in quotes", shown(name)),
                );
            }
        }
    }
}

fn reserved(name: &str, path: &str) -> Option<&'static str> {
    let (domain, _) = name.split_once('/')?;
    if domain == "applyset.kubernetes.io" || domain.ends_with(".quaymaster.dev") {
        return Some("is written by the agent alone; leave it out");
    }
    (domain == "quaymaster.dev" && path != OPTIONS)
        .then_some("is an option of a whole object; put it into the object's own annotations")
}
