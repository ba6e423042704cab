//! Pods that the API server refuses to take: quota, limits, pod security, webhooks, service account.
//!
//! Used by [`super::findings`]. The refusal shows in the owner: in the condition `ReplicaFailure` of
//! a ReplicaSet, and in events `FailedCreate` of every owner. Events outlive their reason by an hour,
//! so only those count that were written while we watched and after the last success.

use serde_json::Value;

use super::Finding;
use super::Permanence;
use super::REPEATED;
use super::SETTLED;
use super::World;
use super::revision::newest_replica_set;
use super::world::event_count;
use super::world::event_line;
use super::world::event_time;
use super::world::is_fresh;
use super::world::is_leaving;
use super::world::is_owned_by;
use crate::object::AppliedObject;
use crate::object::at;
use crate::object::number;
use crate::object::text;
use crate::rollout::condition;
use crate::rollout::has_condition;

/// Says why pods of an applied workload are refused.
pub(super) fn refusals(applied: &AppliedObject, live: &Value, world: &World) -> Option<Finding> {
    let gvk = &applied.id.gvk;
    let owner = match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("apps", "Deployment") => newest_replica_set(live, world)?,
        ("apps", "StatefulSet" | "DaemonSet" | "ReplicaSet") | ("batch", "Job") => live,
        _ => return None,
    };
    let events = current_events(owner, world);
    let failure = has_condition(owner, "ReplicaFailure", "True")
        .then(|| condition(owner, "ReplicaFailure"))
        .flatten();
    let words = failure
        .map(|failure| text(failure, &["message"]))
        .filter(|words| !words.is_empty())
        .or_else(|| events.first().map(|event| text(event, &["message"])))?;
    let count = events
        .iter()
        .map(|event| event_count(event))
        .sum::<u64>()
        .max(1);
    let fresh = events.iter().any(|event| is_fresh(event));
    let title = format!(
        "{} {}",
        text(owner, &["kind"]),
        text(owner, &["metadata", "name"])
    );
    let mut finding = named(words, &title)
        .counted(count)
        .seen(words)
        .seen_all(events.iter().take(1).map(|event| event_line(event)));
    let may_free = finding.kind == "quota_exceeded" && frees_pods(live, owner, world);
    // Between two tries up to a quarter of an hour passes, so the condition of an unchanged object may
    // be about a quota that was raised since. Without events it is all there is.
    let is_current = fresh || (failure.is_some() && events.is_empty());
    if may_free || !is_current {
        finding = finding.transient();
    } else if failure.is_some() && finding.permanence == Permanence::Permanent {
        finding.bound = SETTLED;
    }
    Some(finding)
}

/// Failures since the last success, the newest first.
fn current_events<'a>(owner: &Value, world: &'a World) -> Vec<&'a Value> {
    let success = world
        .events_of(owner, &["SuccessfulCreate"])
        .first()
        .map_or("", |event| event_time(event));
    let mut events = world.events_of(owner, &["FailedCreate"]);
    events.retain(|event| event_time(event) > success);
    events
}

/// Quota can become free while pods of the same workload go away.
fn frees_pods(live: &Value, owner: &Value, world: &World) -> bool {
    let namespace = text(live, &["metadata", "namespace"]);
    let leaving = world
        .of_kind("", "Pod", None)
        .filter(|pod| text(pod, &["metadata", "namespace"]) == namespace)
        .any(is_leaving);
    leaving || (text(live, &["kind"]) == "Deployment" && old_sets_shrink(live, owner, world))
}

/// A Deployment whose strategy allows missing pods scales its old ReplicaSets down even when the new
/// one gets no pod.
fn old_sets_shrink(live: &Value, newest: &Value, world: &World) -> bool {
    let uid = text(newest, &["metadata", "uid"]);
    let old: i64 = world
        .of_kind("apps", "ReplicaSet", None)
        .filter(|set| is_owned_by(set, live) && text(set, &["metadata", "uid"]) != uid)
        .map(|set| number(set, &["status", "replicas"]).unwrap_or(0))
        .sum();
    old > 0 && allows_missing(live)
}

fn allows_missing(deployment: &Value) -> bool {
    let wanted = number(deployment, &["spec", "replicas"]).unwrap_or(1);
    let path = ["spec", "strategy", "rollingUpdate", "maxUnavailable"];
    match at(deployment, &path) {
        Some(Value::Number(count)) => count.as_i64().unwrap_or(0) > 0,
        Some(Value::String(share)) => {
            let percent: i64 = share.trim_end_matches('%').parse().unwrap_or(0);
            wanted * percent / 100 > 0
        }
        _ => wanted / 4 > 0,
    }
}

fn named(words: &str, title: &str) -> Finding {
    let lower = words.to_ascii_lowercase();
    let any = |list: &[&str]| list.iter().any(|word| lower.contains(word));
    let say = |kind, what: &str| Finding::new(kind, title, format!("{title} gets no pods: {what}"));
    if any(&["exceeded quota", "failed quota"]) {
        return say("quota_exceeded", "the namespace's resource quota refuses them")
            .permanent(REPEATED)
            .hint("lower requests or replicas, set the requests and limits that the quota asks for, or have the quota raised");
    }
    if any(&[
        "connection refused",
        "deadline exceeded",
        "timed out",
        "timeout",
        "no endpoints available",
        "the object has been modified",
        "failed calling webhook",
        "etcdserver",
        "too many requests",
    ]) {
        return say(
            "admission_unavailable",
            "the API server or a webhook does not answer",
        )
        .hint("look at the webhook that the message names");
    }
    if lower.contains("being terminated") {
        return say("namespace_terminating", "their namespace is being deleted")
            .permanent(REPEATED)
            .hint("wait until the namespace is gone and deploy again; a finalizer of an object in it may hold it");
    }
    if lower.contains("podsecurity") {
        return say(
            "admission_refused",
            "the namespace's pod security level refuses them",
        )
        .permanent(REPEATED)
        .hint("set the security context that the message asks for");
    }
    if lower.contains("denied the request") || lower.contains("denied by") {
        return say(
            "admission_refused",
            "an admission webhook or policy refuses them",
        )
        .permanent(REPEATED)
        .hint("change the pod as the message asks, or talk to the owner of the policy");
    }
    if lower.contains("serviceaccount") && lower.contains("not found") {
        return say(
            "service_account_missing",
            "their service account does not exist",
        )
        .permanent(REPEATED)
        .hint("add the ServiceAccount to the manifests, or correct its name");
    }
    if any(&[
        "usage per container",
        "usage per pod",
        "limit to request ratio",
    ]) {
        return say("limit_range", "the namespace's limit range refuses them")
            .permanent(REPEATED)
            .hint("set requests and limits within what the limit range allows");
    }
    if any(&["is forbidden", "is invalid"]) {
        return say("admission_refused", "the API server refuses them")
            .permanent(REPEATED)
            .hint("change the pod template as the message asks");
    }
    say("create_failed", "creating them fails")
}
