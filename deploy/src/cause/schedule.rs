//! Pods that no node takes.
//!
//! Used by [`super::findings`]. Never permanent but for a claim that does not exist: an autoscaler may
//! bring a node.

use serde_json::Value;

use super::Finding;
use super::SETTLED;
use super::World;
use super::world::event_line;
use crate::object::text;
use crate::rollout::condition;

/// Says why no node takes a pod.
pub(super) fn unschedulable(pod: &Value, world: &World) -> Option<Finding> {
    if text(pod, &["status", "phase"]) != "Pending" {
        return None;
    }
    let scheduled = condition(pod, "PodScheduled")?;
    if text(scheduled, &["status"]) != "False" {
        return None;
    }
    let name = text(pod, &["metadata", "name"]);
    let words = text(scheduled, &["message"]);
    if text(scheduled, &["reason"]) == "SchedulingGated" {
        let message = format!("pod {name} is held back by its scheduling gates");
        return Some(Finding::new("scheduling_gated", name, message).seen(words));
    }
    if let Some(claim) = missing_claim(words) {
        return Some(no_claim(name, claim, words, world));
    }
    let message = format!("no node takes pod {name}: {}", words.trim_end_matches('.'));
    let events = world.events_of(pod, &["FailedScheduling", "NotTriggerScaleUp"]);
    Some(
        Finding::new("unschedulable", name, message)
            .seen_all(events.iter().take(2).map(|event| event_line(event)))
            .hint(hint(words)),
    )
}

fn missing_claim(words: &str) -> Option<&str> {
    let rest = words.split_once("persistentvolumeclaim \"")?.1;
    let (claim, rest) = rest.split_once('"')?;
    rest.trim_start().starts_with("not found").then_some(claim)
}

fn no_claim(name: &str, claim: &str, words: &str, world: &World) -> Finding {
    let message = format!("pod {name} needs PersistentVolumeClaim {claim}, which does not exist");
    let finding = Finding::new("claim_missing", name, message)
        .seen(words)
        .hint("add the claim to the manifests, or correct its name");
    let mut finding = if world.may_be_made(claim) {
        finding
    } else {
        finding.permanent(SETTLED)
    };
    finding.missing = Some(claim.to_owned());
    finding
}

fn hint(words: &str) -> &'static str {
    let words = words.to_ascii_lowercase();
    if words.contains("insufficient") || words.contains("too many pods") {
        "lower resources.requests, or add nodes; requests count, not what is used"
    } else if words.contains("unbound") || words.contains("volume") {
        "look at the pod's PersistentVolumeClaims and their storage class"
    } else if words.contains("affinity") || words.contains("selector") {
        "check nodeSelector and affinity against the labels of the nodes"
    } else if words.contains("taint") {
        "add a toleration for the taint, or free other nodes"
    } else {
        "compare what the pod asks for with what the nodes have"
    }
}
