//! On what terms an object is written: which fields stay others', which are taken, whose become ours.
//!
//! Pure. [`crate::check`] finds the terms by dry runs and keeps them in the plan, [`crate::apply`]
//! writes by them and, when the object changed meanwhile, shapes the body anew from what is there
//! then.

use serde_json::Value;

use crate::field::FieldPath;
use crate::field::Segment;
use crate::field::item_key;
use crate::lists;
use crate::managers;
use crate::managers::Manager;
use crate::object::Gvk;

/// On what terms one object is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Terms {
    /// Fields (with all below them) that stay as they are in the cluster.
    pub leave: Vec<FieldPath>,
    /// Fields that are taken from these managers, as the server named both.
    pub take: Vec<(String, String)>,
    /// Managers, beside those that always hand over, whose fields become ours.
    pub adopt: Vec<String>,
    /// Managers whose fields move to us before the write; none when nothing has to move.
    pub moves: Vec<String>,
    /// The object that has to go before this one is made.
    pub replaces: Option<Replaced>,
}

/// An object that is deleted and made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Its uid.
    pub uid: String,
}

/// Shapes what is sent: fields that are left are sent with their live value while only we own them
/// (else they would go), and not at all when others own them.
pub(crate) fn shape(
    gvk: &Gvk,
    body: &mut Value,
    live: &Value,
    leave: &[FieldPath],
    adopt: &[String],
) {
    if leave.is_empty() {
        return;
    }
    let managers = managers::of(live);
    let own = |manager: &Manager| manager.is_ours() || manager.is_handed_over(adopt);
    let mut fields = leaves(gvk, body);
    let owned = managers.iter().filter(|manager| own(manager));
    fields.extend(owned.flat_map(|manager| manager.fields.iter().cloned()));
    // Items of lists that are atomic to us, and not to the server.
    fields.extend(leave.iter().cloned());
    for field in fields {
        if !leave.iter().any(|left| left.covers(&field)) {
            continue;
        }
        let (ours, others): (Vec<&Manager>, Vec<&Manager>) = managers
            .iter()
            .filter(|manager| manager.owns(&field))
            .partition(|manager| own(manager));
        if ours.is_empty() || !others.is_empty() {
            // Already gone where a part of it went before.
            drop(field.remove(body));
        } else if let Some(value) = field.get(live) {
            field.set(body, value.clone());
        }
    }
}

/// Lists the ends of a body: scalars, and lists that the server takes as a whole.
pub(crate) fn leaves(gvk: &Gvk, body: &Value) -> Vec<FieldPath> {
    let mut found = Vec::new();
    let fields = body.as_object().into_iter().flatten();
    for (key, value) in fields {
        match key.as_str() {
            "apiVersion" | "kind" | "status" => {}
            "metadata" => {
                for part in ["labels", "annotations"] {
                    if let Some(value) = value.get(part) {
                        let path = FieldPath::default().key(key).key(part);
                        ends(gvk, value, &[key, part], &path, &mut found);
                    }
                }
            }
            _ => ends(
                gvk,
                value,
                &[key],
                &FieldPath::default().key(key),
                &mut found,
            ),
        }
    }
    found
}

fn ends(gvk: &Gvk, value: &Value, names: &[&str], path: &FieldPath, found: &mut Vec<FieldPath>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let names = [names, &[key.as_str()]].concat();
                ends(gvk, value, &names, &path.key(key), found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let named = lists::keys(gvk, names).and_then(|keys| segments(items, keys));
            match named {
                Some(segments) => {
                    for (item, segment) in items.iter().zip(segments) {
                        ends(gvk, item, names, &path.then(segment), found);
                    }
                }
                None => found.push(path.clone()),
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => found.push(path.clone()),
    }
}

/// Names the items of a list by their keys; `None` where an item lacks one.
pub(crate) fn segments(items: &[Value], keys: &[&str]) -> Option<Vec<Segment>> {
    let named = items.iter().map(|item| {
        let pairs = keys
            .iter()
            .map(|key| Some(((*key).to_owned(), item_key(item, key)?)));
        pairs.collect::<Option<_>>().map(Segment::Item)
    });
    named.collect()
}

/// Lists fields that go once ownership has moved: nobody else owns them and the body has them not.
pub(crate) fn leftovers(gvk: &Gvk, body: &Value, live: &Value, adopt: &[String]) -> Vec<FieldPath> {
    let managers = managers::of(live);
    let wanted = leaves(gvk, body);
    let (moving, staying): (Vec<&Manager>, Vec<&Manager>) = managers
        .iter()
        .partition(|manager| manager.is_handed_over(adopt));
    let fields = moving.iter().flat_map(|manager| manager.fields.iter());
    let gone = fields.filter(|field| {
        !wanted.iter().any(|wanted| wanted.touches(field))
            && !staying
                .iter()
                .any(|manager| !manager.is_ours() && manager.owns(field))
    });
    let mut gone: Vec<FieldPath> = gone.cloned().collect();
    gone.dedup();
    gone
}

/// Simulates an apply for a server that cannot be asked about two writes at once: the JSON patch
/// that makes the live object what it would be.
pub(crate) fn simulated(gvk: &Gvk, body: &Value, live: &Value, gone: &[FieldPath]) -> Value {
    let mut after = live.clone();
    for field in gone {
        field.remove(&mut after);
    }
    for field in leaves(gvk, body) {
        if let Some(value) = field.get(body) {
            field.set(&mut after, value.clone());
        }
    }
    let mut patch = Vec::new();
    for (key, value) in after.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
            let path = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
            patch.push(serde_json::json!({ "op": "add", "path": path, "value": value }));
        }
    }
    for part in ["labels", "annotations"] {
        if let Some(value) = after["metadata"].get(part) {
            let path = format!("/metadata/{part}");
            patch.push(serde_json::json!({ "op": "add", "path": path, "value": value }));
        }
    }
    Value::Array(patch)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn gvk() -> Gvk {
        Gvk::new("apps/v1", "Deployment")
    }

    fn live(entries: &[(&str, &str, &str)]) -> Value {
        let entries = entries.iter().map(|(manager, operation, subresource)| {
            json!({"manager": manager, "operation": operation, "subresource": subresource,
                "fieldsV1": {"f:spec": {"f:replicas": {}}}})
        });
        json!({"metadata": {"managedFields": entries.collect::<Vec<_>>()}, "spec": {"replicas": 5}})
    }

    fn shaped(live: &Value, mut body: Value) -> Value {
        let leave = [".spec.replicas".parse().expect("a path")];
        shape(&gvk(), &mut body, live, &leave, &[]);
        body
    }

    #[test]
    fn a_left_field_has_the_live_value_while_only_we_own_it() {
        let mine = live(&[("quaymaster", "Apply", "")]);
        let body = json!({"spec": {"replicas": 2, "paused": false}});
        let expected = json!({"spec": {"replicas": 5, "paused": false}});
        assert_eq!(shaped(&mine, body), expected);
        // Leaving the manifest would take it away, so it is sent all the same.
        let without = json!({"spec": {"paused": false}});
        assert_eq!(shaped(&mine, without), expected);
        let kubectl = live(&[("kubectl-client-side-apply", "Update", "")]);
        assert_eq!(
            shaped(&kubectl, json!({"spec": {"paused": false}})),
            expected
        );
    }

    #[test]
    fn a_left_field_of_others_is_not_sent() {
        let expected = json!({"spec": {"paused": false}});
        let body = || json!({"spec": {"replicas": 2, "paused": false}});
        let theirs = ("kube-controller-manager", "Update", "scale");
        assert_eq!(shaped(&live(&[theirs]), body()), expected);
        let both = live(&[("quaymaster", "Apply", ""), theirs]);
        assert_eq!(shaped(&both, body()), expected);
        assert_eq!(shaped(&live(&[]), body()), expected);
    }

    #[test]
    fn what_leaves_the_manifest_goes_with_the_move() {
        let mut live = live(&[("kubectl-client-side-apply", "Update", "")]);
        live["metadata"]["managedFields"][0]["fieldsV1"] = json!({"f:spec": {"f:replicas": {}, "f:strategy": {"f:type": {}, "f:rollingUpdate": {"f:maxSurge": {}}}}});
        live["spec"] = json!({"replicas": 5, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
        let body = json!({"spec": {"replicas": 2, "strategy": {"type": "Recreate"}}});
        let gone = leftovers(&gvk(), &body, &live, &[]);
        let told: Vec<String> = gone.iter().map(ToString::to_string).collect();
        assert_eq!(told, [".spec.strategy.rollingUpdate.maxSurge"]);
        let patch = simulated(&gvk(), &body, &live, &gone);
        assert_eq!(
            patch[0],
            json!({"op": "add", "path": "/spec", "value": {"replicas": 2, "strategy": {"type": "Recreate"}}})
        );
    }
}
