//! Volumes that cannot be bound, attached or mounted.
//!
//! Used by [`super::findings`]. A missing Secret or ConfigMap behind a volume is as permanent as one
//! behind the environment; storage itself may come late and is only reported at the deadline.

use serde_json::Value;

use super::Finding;
use super::SETTLED;
use super::World;
use super::config;
use super::world::event_count;
use super::world::event_line;
use crate::object::at;
use crate::object::list;
use crate::object::text;

/// Says why the volumes of a pod are not there.
pub(super) fn mounts(pod: &Value, world: &World) -> Vec<Finding> {
    if text(pod, &["status", "phase"]) != "Pending" {
        return Vec::new();
    }
    let mut found: Vec<Finding> = claims(pod, world)
        .into_iter()
        .filter_map(|claim_live| claim(claim_live, world))
        .collect();
    if waits_for_volumes(pod) {
        found.extend(unmounted(pod, world));
    }
    found
}

/// A pod whose containers were created once has its volumes.
fn waits_for_volumes(pod: &Value) -> bool {
    let statuses = list(pod, &["status", "containerStatuses"]);
    statuses.iter().all(|status| {
        at(status, &["state", "waiting"]).is_some()
            && matches!(
                text(status, &["state", "waiting", "reason"]),
                "ContainerCreating" | "PodInitializing" | ""
            )
    })
}

fn unmounted(pod: &Value, world: &World) -> Option<Finding> {
    let name = text(pod, &["metadata", "name"]);
    let events = world.events_of(
        pod,
        &["FailedMount", "FailedAttachVolume", "FailedMapVolume"],
    );
    let event = events.first()?;
    let said = events
        .iter()
        .find_map(|event| missing_object(text(event, &["message"]), name, world));
    let finding = said.unwrap_or_else(|| {
        let what = if text(event, &["reason"]) == "FailedAttachVolume" {
            "attached to the node of"
        } else {
            "mounted into"
        };
        Finding::new(
            "volume_mount",
            name,
            format!("a volume cannot be {what} pod {name}"),
        )
        .hint("read the event above: the volume's driver says why")
    });
    let count = events.iter().map(|event| event_count(event)).sum();
    Some(
        finding
            .counted(count)
            .seen_all(events.iter().take(2).map(|event| event_line(event))),
    )
}

fn missing_object(words: &str, pod: &str, world: &World) -> Option<Finding> {
    let title = format!("a volume of pod {pod}");
    if let Some(missing) = config::missing(words) {
        return Some(missing.finding(pod, &title, world));
    }
    let (kind, key) = missing_volume_key(words)?;
    let (word, what) = match kind {
        "secret" => ("secret_key_missing", "Secret"),
        _ => ("config_key_missing", "ConfigMap"),
    };
    let message = format!("{title} needs the key {key}, which its {what} does not have");
    Some(
        Finding::new(word, pod, message)
            .permanent(SETTLED)
            .hint("add the key, or correct the items of the volume"),
    )
}

/// Reads `references non-existent secret key: ca.crt` (or `config key`).
fn missing_volume_key(words: &str) -> Option<(&str, &str)> {
    let rest = words.split_once("references non-existent ")?.1;
    let (kind, key) = rest.split_once(" key: ")?;
    Some((kind, key.split_whitespace().next().unwrap_or(key)))
}

fn claims<'a>(pod: &Value, world: &'a World) -> Vec<&'a Value> {
    let namespace = text(pod, &["metadata", "namespace"]);
    let names: Vec<&str> = list(pod, &["spec", "volumes"])
        .iter()
        .map(|volume| text(volume, &["persistentVolumeClaim", "claimName"]))
        .filter(|name| !name.is_empty())
        .collect();
    world
        .of_kind("", "PersistentVolumeClaim", None)
        .filter(|claim| text(claim, &["metadata", "namespace"]) == namespace)
        .filter(|claim| names.contains(&text(claim, &["metadata", "name"])))
        .collect()
}

/// Says why a claim is not bound.
pub(super) fn claim(claim: &Value, world: &World) -> Option<Finding> {
    if text(claim, &["status", "phase"]) == "Bound" || waits_for_consumer(claim, world) {
        return None;
    }
    let name = text(claim, &["metadata", "name"]);
    let class = text(claim, &["spec", "storageClassName"]);
    let events = world.events_of(claim, &["ProvisioningFailed", "FailedBinding"]);
    let finding = Finding::new(
        "volume_not_bound",
        name,
        format!("PersistentVolumeClaim {name} is not bound to a volume"),
    )
    .seen_all(events.iter().take(2).map(|event| event_line(event)))
    .hint("check that the storage class exists and its provisioner runs, or that a fitting volume is free");
    let class_missing = events.first().is_some_and(|event| {
        let message = text(event, &["message"]);
        message.contains("storageclass") && message.contains("not found")
    });
    Some(if class_missing && !class.is_empty() {
        finding.permanent(SETTLED)
    } else {
        finding
    })
}

/// Says whether a claim is only bound when a pod uses it: the volume controller says so in an event.
#[must_use]
pub(crate) fn waits_for_consumer(claim: &Value, world: &World) -> bool {
    let news = world.events_of(
        claim,
        &[
            "WaitForFirstConsumer",
            "WaitForPodScheduled",
            "ProvisioningFailed",
            "FailedBinding",
        ],
    );
    text(claim, &["status", "phase"]) == "Pending"
        && news
            .first()
            .is_some_and(|event| text(event, &["reason"]).starts_with("WaitFor"))
}
