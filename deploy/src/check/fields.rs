//! Fields of objects: which differ, which are contested, and what stands at a managed field's path.
//!
//! Pure; called by [`crate::check`]. Values of Secrets are never shown.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::plan::Live;
use crate::plan::Step;
use crate::ports::FieldConflict;

/// A field that another manager owns, with both values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contested {
    /// The field.
    pub field: String,
    /// Its manager.
    pub manager: String,
    /// What is there, as JSON; masked in Secrets.
    pub theirs: String,
    /// What the manifest has, as JSON; masked in Secrets.
    pub ours: String,
}

/// Lists the fields that differ, by path, without what the server keeps for itself.
pub(super) fn differences(before: &Value, after: &Value) -> Vec<String> {
    const SERVER: [&str; 5] = [
        ".metadata.managedFields",
        ".metadata.resourceVersion",
        ".metadata.generation",
        ".metadata.uid",
        ".status",
    ];
    let mut fields = Vec::new();
    differ("", before, after, &mut fields);
    fields.retain(|field| !SERVER.iter().any(|own| field.starts_with(own)));
    fields
}

fn differ(path: &str, before: &Value, after: &Value, fields: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let null = Value::Null;
                differ(
                    &format!("{path}.{key}"),
                    before.get(key).unwrap_or(&null),
                    after.get(key).unwrap_or(&null),
                    fields,
                );
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                differ(&format!("{path}[{index}]"), before, after, fields);
            }
        }
        (before, after) if before == after => {}
        _ => fields.push(path.to_owned()),
    }
}

/// Puts both values beside each contested field; values of Secrets stay masked.
pub(super) fn contested(
    step: &Step,
    live: Option<&Live>,
    fields: &[FieldConflict],
) -> Vec<Contested> {
    let secret = step.id.gvk.is("", "Secret");
    let shown = |value: Option<&Value>| match value {
        _ if secret => "(masked)".to_owned(),
        Some(value) => short(&value.to_string()),
        None => "(not set)".to_owned(),
    };
    fields
        .iter()
        .map(|conflict| {
            let theirs = match live {
                Some(Live::Object(body)) => value_at(body, &conflict.field),
                Some(Live::Secret(_) | Live::Absent) | None => None,
            };
            Contested {
                field: conflict.field.clone(),
                manager: conflict.manager.clone(),
                theirs: shown(theirs),
                ours: shown(value_at(step.content.body(), &conflict.field)),
            }
        })
        .collect()
}

fn short(text: &str) -> String {
    const MOST: usize = 120;
    match text.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

/// Follows a managed field's path, such as `.spec.template.spec.containers[name="app"].image`.
fn value_at<'a>(body: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = body;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let close = tail.find(']')?;
            value = item(value, &tail[..close])?;
            rest = &tail[close + 1..];
        } else {
            let tail = rest.strip_prefix('.')?;
            // Keys of labels and annotations hold dots: the longest key that exists wins.
            let object = value.as_object()?;
            let key = object
                .keys()
                .filter(|key| {
                    tail.strip_prefix(key.as_str())
                        .is_some_and(|after| after.is_empty() || after.starts_with(['.', '[']))
                })
                .max_by_key(|key| key.len())?;
            value = &object[key];
            rest = &tail[key.len()..];
        }
    }
    Some(value)
}

/// Finds the list item of a selector such as `name="app"`, `containerPort=80,protocol="TCP"` or `0`.
fn item<'a>(list: &'a Value, selector: &str) -> Option<&'a Value> {
    let items = list.as_array()?;
    if let Ok(index) = selector.parse::<usize>() {
        return items.get(index);
    }
    items.iter().find(|item| {
        selector.split(',').all(|pair| {
            let Some((key, wanted)) = pair.split_once('=') else {
                return false;
            };
            let wanted: Value = serde_json::from_str(wanted).unwrap_or(Value::Null);
            item.get(key) == Some(&wanted)
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn managed_field_paths_are_followed() {
        let body = json!({"metadata": {"labels": {"app.kubernetes.io/name": "x"}},
            "spec": {"containers": [{"name": "a"}, {"name": "app", "image": "i"}]}});
        assert_eq!(
            value_at(&body, ".metadata.labels.app.kubernetes.io/name"),
            Some(&json!("x"))
        );
        assert_eq!(
            value_at(&body, ".spec.containers[name=\"app\"].image"),
            Some(&json!("i"))
        );
        assert_eq!(value_at(&body, ".spec.nothing"), None);
    }

    #[test]
    fn what_the_server_keeps_for_itself_is_no_difference() {
        let before = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"replicas": 1}, "status": {}});
        let after =
            json!({"metadata": {"name": "a", "resourceVersion": "2"}, "spec": {"replicas": 2}});
        assert_eq!(differences(&before, &after), [".spec.replicas"]);
        assert_eq!(differences(&before, &before), Vec::<String>::new());
    }
}
