//! What nodes do to pods: eviction, preemption, loss of the node, deadlines, sandboxes without network.
//!
//! Used by [`super::findings`]. A controller replaces a pod that was thrown out, so nothing here is
//! permanent at once but the deadline of a pod that nobody replaces.

use serde_json::Value;

use super::AT_ONCE;
use super::Finding;
use super::LASTING;
use super::World;
use super::world::event_count;
use super::world::event_line;
use super::world::event_time;
use crate::object::AppliedObject;
use crate::object::number;
use crate::object::text;
use crate::rollout::condition;
use crate::rollout::has_condition;

/// Says that a pod was thrown out, by its node or for a pod that matters more.
pub(super) fn thrown_out(pod: &Value) -> Option<Finding> {
    let status = &pod["status"];
    if text(status, &["phase"]) != "Failed" {
        return None;
    }
    let target = condition(pod, "DisruptionTarget")
        .filter(|found| text(found, &["status"]) == "True")
        .map_or("", |found| text(found, &["reason"]));
    let reason = match text(status, &["reason"]) {
        "" => target,
        reason => reason,
    };
    let name = text(pod, &["metadata", "name"]);
    let (kind, sentence, hint) = match reason {
        "Evicted"
        | "TerminationByKubelet"
        | "EvictionByEvictionAPI"
        | "NodeShutdown"
        | "Terminated" => (
            "evicted",
            format!("pod {name} was thrown out by its node ({reason})"),
            "look at the node's memory and disk pressure, and at the pod's requests",
        ),
        "Preempting" | "Preempted" | "PreemptionByScheduler" => (
            "preempted",
            format!("pod {name} had to make room for a pod of higher priority ({reason})"),
            "raise its priority class, or add nodes",
        ),
        "NodeLost" | "DeletionByTaintManager" => (
            "node_lost",
            format!("the node of pod {name} was lost ({reason})"),
            "look at the node; the pod is started elsewhere",
        ),
        "OutOfcpu" | "OutOfmemory" | "OutOfpods" | "NodeAffinity" | "UnexpectedAdmissionError" => (
            "node_refused",
            format!("the node of pod {name} did not take it ({reason})"),
            "look at the requests of the pod and at what the node has left",
        ),
        _ => return None,
    };
    Some(
        Finding::new(kind, name, sentence)
            .seen(text(status, &["message"]))
            .hint(hint),
    )
}

/// Says that a pod ran longer than it may.
pub(super) fn too_long(applied: &AppliedObject, pod: &Value) -> Option<Finding> {
    let status = &pod["status"];
    if text(status, &["phase"]) != "Failed" || text(status, &["reason"]) != "DeadlineExceeded" {
        return None;
    }
    let name = text(pod, &["metadata", "name"]);
    let limit = number(pod, &["spec", "activeDeadlineSeconds"]).unwrap_or(0);
    let message = format!("pod {name} ran longer than its activeDeadlineSeconds of {limit}");
    let finding = Finding::new("pod_deadline", name, message)
        .seen(text(status, &["message"]))
        .hint("raise activeDeadlineSeconds; only what runs to an end should have it");
    // Everything but a bare pod is replaced.
    Some(if applied.id.gvk.is("", "Pod") {
        finding.permanent(AT_ONCE)
    } else {
        finding
    })
}

/// Says that the node of a running pod does not answer.
pub(super) fn lost(pod: &Value, world: &World) -> Option<Finding> {
    if text(pod, &["status", "phase"]) != "Running" || has_condition(pod, "Ready", "True") {
        return None;
    }
    let events = world.events_of(pod, &["NodeNotReady"]);
    let event = events.first()?;
    let started = world.events_of(pod, &["Started"]);
    let since = started.first().map_or("", |event| event_time(event));
    if event_time(event) < since {
        return None;
    }
    let name = text(pod, &["metadata", "name"]);
    let node = text(pod, &["spec", "nodeName"]);
    Some(
        Finding::new(
            "node_lost",
            name,
            format!("node {node} of pod {name} does not answer"),
        )
        .seen(event_line(event))
        .hint("look at the node; the pod is started elsewhere after some minutes"),
    )
}

/// Says that a node cannot give a pod its sandbox, mostly for want of a network.
pub(super) fn no_sandbox(pod: &Value, world: &World) -> Option<Finding> {
    if text(pod, &["status", "phase"]) != "Pending"
        || has_condition(pod, "PodReadyToStartContainers", "True")
    {
        return None;
    }
    let events = world.events_of(
        pod,
        &[
            "FailedCreatePodSandBox",
            "FailedCreatePodSandbox",
            "NetworkNotReady",
        ],
    );
    let event = events.first()?;
    let name = text(pod, &["metadata", "name"]);
    let node = text(pod, &["spec", "nodeName"]);
    let count = events.iter().map(|event| event_count(event)).sum();
    let message = format!("node {node} cannot make a sandbox for pod {name}");
    Some(
        Finding::new("sandbox_failed", name, message)
            .permanent(LASTING)
            .counted(count)
            .seen_all(events.iter().take(2).map(|event| event_line(event)))
            .seen(event_line(event))
            .hint("look at the network plugin and the container runtime of the node"),
    )
}
