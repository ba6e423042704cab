//! Fields of objects for people: which are contested and by whom, and which change, by path.
//!
//! Pure; called by [`crate::check`]. Values of Secrets are never shown, nor are the values of
//! containers' environment variables and the copy that `kubectl apply` keeps of all it sent.

use std::collections::BTreeSet;

use proto::report::FieldChange;
use serde_json::Value;

use crate::field::FieldPath;
use crate::field::Segment;
use crate::lists;
use crate::managers::Manager;
use crate::object::Gvk;
use crate::ports::FieldConflict;
use crate::terms::segments;

/// Shown instead of a value that may be secret.
const HIDDEN: &str = "(changed)";

/// Fields whose values, and all below them, may be secret.
const HIDDEN_KEYS: [&str; 2] = ["env", "kubectl.kubernetes.io/last-applied-configuration"];

/// A field that another manager owns, with both values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contested {
    /// The field.
    pub field: String,
    /// Its manager.
    pub manager: String,
    /// When the manager wrote last; may be empty.
    pub since: String,
    /// What is there, as JSON; masked in Secrets.
    pub theirs: String,
    /// What the manifest has, as JSON; masked in Secrets.
    pub ours: String,
}

/// Finds the exact path of a contested field: the server tells keys with dots as if they were many.
pub(super) fn exact(conflict: &FieldConflict, managers: &[Manager]) -> FieldPath {
    let own = managers
        .iter()
        .filter(|manager| manager.name == conflict.manager)
        .flat_map(|manager| &manager.fields)
        .find(|field| as_server(field) == conflict.field);
    own.cloned()
        .or_else(|| conflict.field.parse().ok())
        .unwrap_or_default()
}

/// Writes a path as the server tells it.
fn as_server(path: &FieldPath) -> String {
    let segments = path.0.iter().map(|segment| match segment {
        Segment::Key(key) => format!(".{key}"),
        other => other.to_string(),
    });
    segments.collect()
}

/// Puts both values beside a contested field.
pub(super) fn contested(
    gvk: &Gvk,
    conflict: &FieldConflict,
    managers: &[Manager],
    live: &Value,
    body: &Value,
) -> Contested {
    let path = exact(conflict, managers);
    let value = |whole: &Value| match path.get(whole) {
        _ if gvk.is("", "Secret") || is_hidden(&path) => "(masked)".to_owned(),
        Some(value) => shown(value),
        None => "(not set)".to_owned(),
    };
    let since = managers
        .iter()
        .filter(|manager| manager.name == conflict.manager && manager.owns(&path))
        .map(|manager| manager.time.clone())
        .max();
    Contested {
        field: if path.0.is_empty() {
            conflict.field.clone()
        } else {
            path.to_string()
        },
        manager: conflict.manager.clone(),
        since: since.unwrap_or_default(),
        theirs: value(live),
        ours: value(body),
    }
}

/// Lists the fields that differ, without what the server keeps for itself.
pub(super) fn changes(gvk: &Gvk, before: &Value, after: &Value) -> Vec<FieldChange> {
    const SERVER: [&str; 6] = [
        ".metadata.managedFields",
        ".metadata.resourceVersion",
        ".metadata.generation",
        ".metadata.uid",
        ".metadata.creationTimestamp",
        ".status",
    ];
    let mut found = Vec::new();
    Walk {
        gvk,
        whole: Whole::Both,
    }
    .values(
        Some(before),
        Some(after),
        &[],
        &FieldPath::default(),
        &mut found,
    );
    found.retain(|change| {
        !SERVER.iter().any(|own| {
            let rest = change.field.strip_prefix(own);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    });
    found
}

/// Lists the fields that a body wants otherwise than they are.
pub(super) fn wanted(gvk: &Gvk, live: &Value, body: &Value) -> Vec<FieldChange> {
    let mut found = Vec::new();
    Walk {
        gvk,
        whole: Whole::Wanted,
    }
    .values(
        Some(live),
        Some(body),
        &[],
        &FieldPath::default(),
        &mut found,
    );
    found
}

/// Which fields are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    /// Those of both sides.
    Both,
    /// Those that the second side has.
    Wanted,
}

struct Walk<'a> {
    gvk: &'a Gvk,
    whole: Whole,
}

impl Walk<'_> {
    fn values(
        &self,
        before: Option<&Value>,
        after: Option<&Value>,
        names: &[&str],
        path: &FieldPath,
        found: &mut Vec<FieldChange>,
    ) {
        match (before, after) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                let mut keys: BTreeSet<&String> = new.keys().collect();
                if self.whole == Whole::Both {
                    keys.extend(old.keys());
                }
                for key in keys {
                    let names = [names, &[key.as_str()]].concat();
                    self.values(old.get(key), new.get(key), &names, &path.key(key), found);
                }
            }
            (Some(Value::Array(old)), Some(Value::Array(new))) => {
                self.lists(old, new, names, path, found);
            }
            (before, after) if before == after => {}
            (before, after) => self.push(before, after, path, found),
        }
    }

    fn lists(
        &self,
        old: &[Value],
        new: &[Value],
        names: &[&str],
        path: &FieldPath,
        found: &mut Vec<FieldChange>,
    ) {
        let keys = lists::keys(self.gvk, names);
        let named = keys.and_then(|keys| Some((segments(old, keys)?, segments(new, keys)?)));
        if let Some((was, is)) = named {
            for (item, segment) in new.iter().zip(&is) {
                let place = was.iter().position(|other| other == segment);
                let before = place.and_then(|place| old.get(place));
                self.values(
                    before,
                    Some(item),
                    names,
                    &path.then(segment.clone()),
                    found,
                );
            }
            if self.whole == Whole::Both {
                for (item, segment) in old.iter().zip(&was) {
                    if !is.contains(segment) {
                        let path = path.then(segment.clone());
                        self.values(Some(item), None, names, &path, found);
                    }
                }
            }
        } else if old.len() == new.len() {
            for (index, (before, after)) in old.iter().zip(new).enumerate() {
                let path = path.then(Segment::Index(index));
                self.values(Some(before), Some(after), names, &path, found);
            }
        } else {
            let whole = |items: &[Value]| Value::Array(items.to_vec());
            self.push(Some(&whole(old)), Some(&whole(new)), path, found);
        }
    }

    fn push(
        &self,
        before: Option<&Value>,
        after: Option<&Value>,
        path: &FieldPath,
        found: &mut Vec<FieldChange>,
    ) {
        let told = |value: Option<&Value>| {
            value.map(|value| {
                if self.gvk.is("", "Secret") || is_hidden(path) {
                    HIDDEN.to_owned()
                } else {
                    shown(value)
                }
            })
        };
        found.push(FieldChange {
            field: path.to_string(),
            before: told(before),
            after: told(after),
        });
    }
}

/// Says whether a value at this path may be secret.
fn is_hidden(path: &FieldPath) -> bool {
    path.0
        .iter()
        .any(|segment| matches!(segment, Segment::Key(key) if HIDDEN_KEYS.contains(&key.as_str())))
        && !matches!(path.0.last(), Some(Segment::Key(key)) if key == "name")
}

/// Writes a value as short JSON; environment variables inside it lose their values.
fn shown(value: &Value) -> String {
    const MOST: usize = 120;
    let mut value = value.clone();
    mask(&mut value);
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if HIDDEN_KEYS.contains(&key.as_str()) {
                    *value = Value::from(HIDDEN);
                } else {
                    mask(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::managers;

    fn gvk() -> Gvk {
        Gvk::new("v1", "Pod")
    }

    fn told(before: &Value, after: &Value) -> Vec<String> {
        let told = changes(&gvk(), before, after).into_iter().map(|change| {
            let side = |side: Option<String>| side.unwrap_or_else(|| "-".to_owned());
            format!(
                "{} {} {}",
                change.field,
                side(change.before),
                side(change.after)
            )
        });
        told.collect()
    }

    #[test]
    fn changes_name_items_by_their_keys() {
        let before = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b"}], "args": [1, 2]}});
        let after = json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "image": "y"}, {"name": "c"}], "args": [1, 3]}});
        assert_eq!(
            told(&before, &after),
            [
                ".spec.args[1] 2 3",
                ".spec.containers[name=\"a\"].image \"x\" \"y\"",
                ".spec.containers[name=\"c\"] - {\"name\":\"c\"}",
            ]
        );
    }

    #[test]
    fn values_of_environments_and_secrets_are_not_shown() {
        let before = json!({"spec": {"containers": [{"name": "a", "env": [{"name": "P", "value": "hunter2"}]}]},
            "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hunter2"}}});
        let after = json!({"spec": {"containers": [
            {"name": "a", "env": [{"name": "P", "value": "hunter3"}, {"name": "Q", "value": "hunter4"}]},
            {"name": "b", "env": [{"name": "R", "value": "hunter5"}]}]}});
        let text = told(&before, &after).join("\n");
        assert!(!text.contains("hunter"), "{text}");
        assert!(
            text.contains(".env[name=\"P\"].value (changed) (changed)"),
            "{text}"
        );
        let secret = changes(
            &Gvk::new("v1", "Secret"),
            &json!({"data": {"a": "hunter2"}}),
            &json!({"data": {"a": "hunter3"}}),
        );
        assert_eq!(secret[0].after.as_deref(), Some(HIDDEN));
    }

    #[test]
    fn what_the_server_keeps_for_itself_is_no_difference() {
        let before = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"replicas": 1}, "status": {}});
        let after =
            json!({"metadata": {"name": "a", "resourceVersion": "2"}, "spec": {"replicas": 2}});
        assert_eq!(told(&before, &after), [".spec.replicas 1 2"]);
        assert_eq!(told(&before, &before), Vec::<String>::new());
    }

    #[test]
    fn a_contested_field_has_both_values_manager_and_time() {
        let live = json!({"metadata": {"annotations": {"example.com/x": "1"}, "managedFields": [
            {"manager": "m", "operation": "Update", "time": "2026-01-01T00:00:00Z",
             "fieldsV1": {"f:metadata": {"f:annotations": {"f:example.com/x": {}}}}}]}});
        let body = json!({"metadata": {"annotations": {"example.com/x": "2"}}});
        let conflict = FieldConflict {
            field: ".metadata.annotations.example.com/x".to_owned(),
            manager: "m".to_owned(),
        };
        let found = contested(&gvk(), &conflict, &managers::of(&live), &live, &body);
        assert_eq!(found.field, ".metadata.annotations[\"example.com/x\"]");
        assert_eq!(
            (found.theirs.as_str(), found.ours.as_str()),
            ("\"1\"", "\"2\"")
        );
        assert_eq!(found.since, "2026-01-01T00:00:00Z");
        let secret = Gvk::new("v1", "Secret");
        let found = contested(&secret, &conflict, &managers::of(&live), &live, &body);
        assert_eq!(found.theirs, "(masked)");
    }
}
