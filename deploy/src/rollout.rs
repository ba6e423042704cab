//! How one object stands after an apply: pure readiness rules per kind, generation-safe.
//!
//! Called by [`crate::watch`] with what was observed. Never waits, never looks anything up, and
//! judges one object alone: what its pods say is [`crate::cause`]'s part. An object counts as ready
//! only in a state that its controller reported for our generation or a later one. One file a
//! family of kinds below `rollout/`.

mod custom;
mod known;
mod plain;
mod workload;

use serde_json::Value;

use crate::health::Health;
use crate::health::Rule;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::at;
use crate::object::list;
use crate::object::number;
use crate::object::text;

/// How an object stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Not there yet; the reason in words.
    Pending(String),
    /// Done.
    Ready,
    /// It says itself that it failed; the reason in words.
    Failed(String),
}

/// Judges one object. `live` is what was observed last, unset when it is gone; `rules` are the
/// user's own for kinds that Kubernetes itself does not know.
#[must_use]
pub fn standing(applied: &AppliedObject, live: Option<&Value>, rules: &[Rule]) -> Standing {
    let Some(live) = live else {
        return Standing::Failed("does not exist any more: somebody deleted it".to_owned());
    };
    if let Some(early) = identity(applied, live) {
        return early;
    }
    let generation = generation(applied, live);
    if number(live, &["metadata", "generation"]).unwrap_or(0) < applied.generation {
        return pending("the change is not visible yet");
    }
    if let Some(observed) = observed(live)
        && observed < generation
    {
        return pending(format!(
            "its controller has seen generation {observed}, waiting for {generation}"
        ));
    }
    let gvk = &applied.id.gvk;
    match rules.iter().find(|rule| gvk.is(&rule.group, &rule.kind)) {
        Some(rule) => match rule.judge(live) {
            Health::Ready => Standing::Ready,
            Health::InProgress(why) => Standing::Pending(why),
            Health::Failed(why) => Standing::Failed(why),
        },
        None => by_kind(gvk, live, generation),
    }
}

/// Things about a ready object that a reader should know.
#[must_use]
pub fn notes(gvk: &Gvk, live: &Value) -> Option<String> {
    let strategy = text(live, &["spec", "updateStrategy", "type"]);
    if gvk.is("apps", "Deployment") && flag(live, &["spec", "paused"]) {
        return Some("is paused: new pods start only when it is resumed".to_owned());
    }
    if gvk.is("batch", "Job") && flag(live, &["spec", "suspend"]) {
        return Some("is suspended: it runs only when it is resumed".to_owned());
    }
    if gvk.group == "apps" && strategy == "OnDelete" {
        return Some(
            "has the update strategy OnDelete: pods change only when they are deleted".to_owned(),
        );
    }
    None
}

fn identity(applied: &AppliedObject, live: &Value) -> Option<Standing> {
    let uid = text(live, &["metadata", "uid"]);
    if !applied.uid.is_empty() && !uid.is_empty() && uid != applied.uid {
        return Some(failed(
            "was replaced by somebody: the object that was applied is gone, another has its name",
        ));
    }
    if at(live, &["metadata", "deletionTimestamp"]).is_some_and(|time| !time.is_null()) {
        let finalizers: Vec<&str> = list(live, &["metadata", "finalizers"])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let wait = if finalizers.is_empty() {
            String::new()
        } else {
            format!(", waiting for the finalizers {}", finalizers.join(", "))
        };
        return Some(failed(format!("is being deleted{wait}")));
    }
    None
}

fn by_kind(gvk: &Gvk, live: &Value, generation: i64) -> Standing {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("apps", "Deployment") => workload::deployment(live),
        ("apps", "StatefulSet") => workload::stateful_set(live),
        ("apps", "DaemonSet") => workload::daemon_set(live),
        ("apps", "ReplicaSet") | ("", "ReplicationController") => workload::replica_set(live),
        ("batch", "Job") => plain::job(live),
        ("", "Pod") => plain::pod(live),
        ("", "PersistentVolumeClaim") => plain::claim(live),
        ("", "Service") => plain::service(live),
        ("", "Namespace") => plain::namespace(live),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => plain::definition(live),
        ("apiregistration.k8s.io", "APIService") => plain::api_service(live),
        ("autoscaling", "HorizontalPodAutoscaler") => plain::autoscaler(live),
        (group, _) if is_builtin(group) => Standing::Ready,
        _ => custom::by_conditions(gvk, live, generation),
    }
}

/// Says whether Kubernetes itself serves this API group. Kinds of them that have no rule here have
/// nothing to wait for. Groups under `.k8s.io` can be add-ons, so they are listed.
#[must_use]
pub fn is_builtin(group: &str) -> bool {
    const GROUPS: [&str; 16] = [
        "",
        "apps",
        "batch",
        "autoscaling",
        "policy",
        "extensions",
        "admissionregistration.k8s.io",
        "certificates.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "flowcontrol.apiserver.k8s.io",
        "networking.k8s.io",
        "node.k8s.io",
        "rbac.authorization.k8s.io",
        "scheduling.k8s.io",
        "storage.k8s.io",
    ];
    GROUPS.contains(&group)
}

/// The generation that has to be observed: ours, or a later one that somebody else made meanwhile.
fn generation(applied: &AppliedObject, live: &Value) -> i64 {
    number(live, &["metadata", "generation"])
        .unwrap_or(0)
        .max(applied.generation)
}

/// What the controller says it has observed. Some kinds write the number as text; text that is no
/// number (a hash) says nothing.
fn observed(live: &Value) -> Option<i64> {
    whole(at(live, &["status", "observedGeneration"])?)
}

fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// Finds a condition of `status.conditions` by type.
#[must_use]
pub fn condition<'a>(live: &'a Value, kind: &str) -> Option<&'a Value> {
    list(live, &["status", "conditions"])
        .iter()
        .find(|condition| text(condition, &["type"]) == kind)
}

/// Says whether a condition of `status.conditions` has this status.
#[must_use]
pub fn has_condition(live: &Value, kind: &str, status: &str) -> bool {
    condition(live, kind).is_some_and(|condition| text(condition, &["status"]) == status)
}

/// Renders a condition's reason and message as far as it has them.
fn because(condition: &Value) -> String {
    match (text(condition, &["reason"]), text(condition, &["message"])) {
        ("", "") => text(condition, &["type"]).to_owned(),
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

fn flag(live: &Value, path: &[&str]) -> bool {
    at(live, path).and_then(Value::as_bool).unwrap_or_default()
}

fn pending(reason: impl Into<String>) -> Standing {
    Standing::Pending(reason.into())
}

fn failed(reason: impl Into<String>) -> Standing {
    Standing::Failed(reason.into())
}

#[cfg(test)]
mod tests;
