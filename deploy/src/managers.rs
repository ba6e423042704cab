//! Who owns which field of a live object, read from `metadata.managedFields`, and how fields of
//! other tools move to us.
//!
//! Used by [`crate::terms`], [`crate::check`] and [`crate::apply`]. Pure. Ownership moves by one JSON
//! patch that tests the resource version, so nothing that happened meanwhile is overwritten.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::field::FieldPath;
use crate::field::Segment;
use crate::object::list;
use crate::object::text;

/// Our own field manager.
const OURS: &str = "quaymaster";

/// Tools that leave an object behind when they hand it over: `kubectl apply` and `create` without
/// server-side apply, and the name that the server gives to what was there before the first apply.
const HANDED_OVER: [&str; 3] = [
    "kubectl-client-side-apply",
    "before-first-apply",
    "kubectl-create",
];

/// Where `kubectl apply` keeps what it sent.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One manager of an object, as the server lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Manager {
    /// Its name.
    pub name: String,
    /// `Apply` or `Update`.
    pub operation: String,
    /// The subresource that it wrote; empty for the object itself.
    pub subresource: String,
    /// When it wrote last, RFC 3339; may be empty.
    pub time: String,
    /// What it owns.
    pub fields: Vec<FieldPath>,
}

impl Manager {
    /// Says whether this is what our own applies own.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.name == OURS && self.operation == "Apply" && self.subresource.is_empty()
    }

    /// Says whether its fields become ours; `adopt` are the names that the spec adds.
    #[must_use]
    pub fn is_handed_over(&self, adopt: &[String]) -> bool {
        self.subresource.is_empty()
            && (self.operation == "Update" && HANDED_OVER.contains(&self.name.as_str())
                || self.name != OURS && adopt.contains(&self.name))
    }

    /// Says whether it owns a field, a part of it, or what it is a part of.
    #[must_use]
    pub fn owns(&self, field: &FieldPath) -> bool {
        self.fields.iter().any(|own| own.touches(field))
    }
}

/// Says whether a manager that the server names in a conflict hands its fields over.
#[must_use]
pub(crate) fn hands_over(name: &str, adopt: &[String]) -> bool {
    HANDED_OVER.contains(&name) || adopt.iter().any(|other| other == name)
}

/// Reads the managers of a live object.
#[must_use]
pub fn of(body: &Value) -> Vec<Manager> {
    let read = |entry: &Value| Manager {
        name: text(entry, &["manager"]).to_owned(),
        operation: text(entry, &["operation"]).to_owned(),
        subresource: text(entry, &["subresource"]).to_owned(),
        time: text(entry, &["time"]).to_owned(),
        fields: {
            let mut fields = Vec::new();
            leaves(&entry["fieldsV1"], &FieldPath::default(), &mut fields);
            fields
        },
    };
    list(body, &["metadata", "managedFields"])
        .iter()
        .map(read)
        .collect()
}

/// Collects the ends of a tree of owned fields. A parent that is owned itself (`.`) counts only
/// where nothing below it is.
fn leaves(tree: &Value, path: &FieldPath, found: &mut Vec<FieldPath>) {
    let children = tree.as_object().into_iter().flatten();
    let mut any = false;
    for (name, below) in children {
        let Some(segment) = segment(name) else {
            continue;
        };
        any = true;
        leaves(below, &path.then(segment), found);
    }
    if !any && !path.0.is_empty() {
        found.push(path.clone());
    }
}

fn segment(name: &str) -> Option<Segment> {
    let (kind, rest) = name.split_once(':')?;
    match kind {
        "f" => Some(Segment::Key(rest.to_owned())),
        "k" => Some(Segment::Item(serde_json::from_str(rest).ok()?)),
        "v" => Some(Segment::Is(serde_json::from_str(rest).ok()?)),
        "i" => Some(Segment::Index(rest.parse().ok()?)),
        _ => None,
    }
}

/// Fields that move to us, and the patch that moves them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Move {
    /// Whose they are.
    pub(crate) managers: Vec<String>,
    /// The JSON patch; it holds only for the live object that it was made from.
    pub(crate) patch: Value,
}

/// Makes the patch that moves the fields of tools that handed the object over; `None` where there
/// are none.
pub(crate) fn to_us(live: &Value, adopt: &[String], api_version: &str) -> Option<Move> {
    let entries = list(live, &["metadata", "managedFields"]);
    let managers = of(live);
    let mut names = Vec::new();
    let mut fields = Value::Object(Map::new());
    let mut kept = Vec::new();
    for (entry, manager) in entries.iter().zip(&managers) {
        if manager.is_handed_over(adopt) {
            names.push(manager.name.clone());
            merge(&mut fields, &entry["fieldsV1"]);
        } else if manager.is_ours() {
            merge(&mut fields, &entry["fieldsV1"]);
        } else {
            kept.push(entry.clone());
        }
    }
    if names.is_empty() {
        return None;
    }
    let copy = format!("f:{LAST_APPLIED}");
    let copied = fields
        .pointer_mut("/f:metadata/f:annotations")
        .and_then(Value::as_object_mut)
        .and_then(|annotations| annotations.remove(&copy));
    let ours = json!({
        "manager": OURS,
        "operation": "Apply",
        "apiVersion": api_version,
        "time": managers.iter().map(|manager| manager.time.as_str()).max(),
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    });
    kept.push(ours);
    let version = text(live, &["metadata", "resourceVersion"]);
    let mut patch = vec![
        json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version }),
        json!({ "op": "replace", "path": "/metadata/managedFields", "value": kept }),
    ];
    if copied.is_some() {
        let name = LAST_APPLIED.replace('/', "~1");
        let path = format!("/metadata/annotations/{name}");
        patch.push(json!({ "op": "remove", "path": path }));
    }
    names.sort();
    names.dedup();
    Some(Move {
        managers: names,
        patch: Value::Array(patch),
    })
}

fn merge(into: &mut Value, other: &Value) {
    let (Some(into), Some(other)) = (into.as_object_mut(), other.as_object()) else {
        return;
    };
    for (key, value) in other {
        match into.get_mut(key) {
            Some(known) => merge(known, value),
            None => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> Value {
        json!({"metadata": {"resourceVersion": "7", "managedFields": [
            {"manager": "kubectl-client-side-apply", "operation": "Update", "time": "2026-01-02T00:00:00Z",
             "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": {
                "f:metadata": {"f:annotations": {".": {}, "f:kubectl.kubernetes.io/last-applied-configuration": {}}},
                "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
                    "k:{\"name\":\"app\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}}},
            {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status",
             "fieldsV1": {"f:status": {"f:replicas": {}}}},
            {"manager": "helm", "operation": "Update", "fieldsV1": {"f:spec": {"f:paused": {}}}},
        ]}})
    }

    #[test]
    fn owned_fields_are_read_as_paths() {
        let managers = of(&live());
        let told: Vec<String> = managers[0].fields.iter().map(ToString::to_string).collect();
        assert!(told.contains(&".spec.replicas".to_owned()), "{told:?}");
        let image = ".spec.template.spec.containers[name=\"app\"].image";
        assert!(told.contains(&image.to_owned()), "{told:?}");
        assert_eq!(told.len(), 4, "{told:?}");
        let field = ".spec.template".parse().expect("a path");
        assert!(managers[0].owns(&field) && !managers[2].owns(&field));
    }

    #[test]
    fn fields_of_client_side_apply_move_with_a_test_of_the_version() {
        let moved = to_us(&live(), &[], "apps/v1").expect("kubectl owns fields");
        assert_eq!(moved.managers, ["kubectl-client-side-apply"]);
        assert_eq!(moved.patch[0]["value"], "7");
        let entries = moved.patch[1]["value"].as_array().expect("entries");
        let names: Vec<&str> = entries
            .iter()
            .map(|entry| text(entry, &["manager"]))
            .collect();
        assert_eq!(names, ["kube-controller-manager", "helm", "quaymaster"]);
        let ours = &entries[2]["fieldsV1"];
        assert!(ours.pointer("/f:spec/f:replicas").is_some());
        assert!(!ours.to_string().contains("last-applied"));
        assert_eq!(moved.patch[2]["op"], "remove");
    }

    #[test]
    fn other_managers_move_only_when_named() {
        let mut live = live();
        live["metadata"]["managedFields"]
            .as_array_mut()
            .expect("entries")
            .remove(0);
        assert_eq!(to_us(&live, &[], "apps/v1"), None);
        let moved = to_us(&live, &["helm".to_owned()], "apps/v1").expect("named");
        assert_eq!(moved.managers, ["helm"]);
        assert_eq!(moved.patch.as_array().map(Vec::len), Some(2));
    }
}
