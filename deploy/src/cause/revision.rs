//! Which pods belong to the revision that was just applied.
//!
//! Used by [`super::findings`]. Pods of older revisions are not judged: they may have been broken
//! for weeks. Where the revision cannot be told yet, no pod is judged.

use serde_json::Value;

use super::World;
use super::world::is_leaving;
use super::world::is_owned_by;
use crate::object::AppliedObject;
use crate::object::at;
use crate::object::number;
use crate::object::text;

const REVISION: &str = "deployment.kubernetes.io/revision";

/// Returns the pods of the new revision of an applied workload that are not being deleted.
#[must_use]
pub fn pods_of<'a>(applied: &AppliedObject, world: &'a World) -> Vec<&'a Value> {
    let Some(live) = world.get(&applied.id) else {
        return Vec::new();
    };
    let gvk = &applied.id.gvk;
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => vec![live],
        ("apps", "Deployment") => match newest_replica_set(live, world) {
            Some(replica_set) => owned_pods(replica_set, world, |_| true),
            None => Vec::new(),
        },
        ("apps", "StatefulSet") => {
            let revision = text(live, &["status", "updateRevision"]);
            owned_pods(live, world, |pod| has_revision(pod, revision))
        }
        ("apps", "DaemonSet") => daemon_pods(live, world),
        ("apps", "ReplicaSet") | ("batch", "Job") | ("", "ReplicationController") => {
            owned_pods(live, world, |_| true)
        }
        _ => Vec::new(),
    }
}

fn owned_pods<'a>(
    owner: &Value,
    world: &'a World,
    keep: impl Fn(&Value) -> bool,
) -> Vec<&'a Value> {
    pods_in(owner, world)
        .into_iter()
        .filter(|pod| is_owned_by(pod, owner) && !is_leaving(pod) && keep(pod))
        .collect()
}

fn pods_in<'a>(owner: &Value, world: &'a World) -> Vec<&'a Value> {
    let namespace = text(owner, &["metadata", "namespace"]);
    world
        .of_kind("", "Pod", None)
        .filter(|pod| text(pod, &["metadata", "namespace"]) == namespace)
        .collect()
}

fn has_revision(pod: &Value, revision: &str) -> bool {
    !revision.is_empty()
        && text(pod, &["metadata", "labels", "controller-revision-hash"]) == revision
}

/// A DaemonSet does not say which revision is its newest; its pods carry the generation of the
/// template that they were made from.
fn daemon_pods<'a>(live: &Value, world: &'a World) -> Vec<&'a Value> {
    let generation = |pod: &Value| -> i64 {
        text(pod, &["metadata", "labels", "pod-template-generation"])
            .parse()
            .unwrap_or(0)
    };
    let declared: Option<i64> = text(
        live,
        &[
            "metadata",
            "annotations",
            "deprecated.daemonset.template.generation",
        ],
    )
    .parse()
    .ok();
    let newest = declared.unwrap_or_else(|| {
        owned_pods(live, world, |_| true)
            .into_iter()
            .map(generation)
            .max()
            .unwrap_or(0)
    });
    owned_pods(live, world, |pod| generation(pod) >= newest)
}

/// Finds the ReplicaSet of a Deployment's current template, as the Deployment's controller does: the
/// template is the same but for the hash label. The revision number alone would not do, since it
/// follows the template with a delay.
#[must_use]
pub fn newest_replica_set<'a>(deployment: &Value, world: &'a World) -> Option<&'a Value> {
    let generation = number(deployment, &["metadata", "generation"]).unwrap_or(0);
    let observed = number(deployment, &["status", "observedGeneration"]).unwrap_or(0);
    if observed < generation {
        return None;
    }
    let template = template(deployment);
    let revision = annotation(deployment, REVISION);
    world
        .of_kind("apps", "ReplicaSet", None)
        .filter(|set| is_owned_by(set, deployment))
        .filter(|set| revision.is_empty() || annotation(set, REVISION) == revision)
        .find(|set| self::template(set) == template)
}

fn template(owner: &Value) -> Value {
    let mut template = at(owner, &["spec", "template"])
        .cloned()
        .unwrap_or_default();
    if let Some(labels) = template
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.remove("pod-template-hash");
    }
    without_nulls(&mut template);
    template
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    text(object, &["metadata", "annotations", name])
}
