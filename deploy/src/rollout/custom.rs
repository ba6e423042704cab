//! Readiness of kinds that Kubernetes itself does not know, by the conventions of conditions.
//!
//! Called by [`super::standing`] after identity and observed generation were checked. Only
//! `Stalled=True` and the bad end of a kind that runs once are failures: a controller that reports
//! `Ready=False` usually goes on trying. What follows no convention counts as ready, since nothing
//! would ever say more.

use serde_json::Value;

use super::Standing;
use super::because;
use super::condition;
use super::failed;
use super::known;
use super::pending;
use super::whole;
use crate::object::Gvk;
use crate::object::at;
use crate::object::list;
use crate::object::text;

/// Conditions that sum up everything: with one of them, no other one says "not done".
const SUMS: [&str; 2] = ["Ready", "Synced"];

/// Conditions that say "not done" when they are false.
const POSITIVE: [&str; 12] = [
    "Accepted",
    "AllReplicasReady",
    "Available",
    "Established",
    "Healthy",
    "Programmed",
    "ReconcileSucceeded",
    "ReconcileSuccess",
    "Ready",
    "Succeeded",
    "Synced",
    "Valid",
];

/// Conditions that say "not done" when they are true.
const NEGATIVE: [&str; 9] = [
    "Degraded",
    "Error",
    "Failed",
    "InstallPlanFailed",
    "InstallPlanPending",
    "NotReady",
    "Progressing",
    "ReconcileFailed",
    "Reconciling",
];

/// Fields of the status that hold one word.
const WORDS: [&str; 6] = [
    "phase",
    "state",
    "status",
    "health",
    "currentState",
    "currentStatus",
];

/// Fields of the status that are true in the end.
const FLAGS: [&str; 2] = ["ready", "readyToUse"];

/// Words in `status.phase` and the like of something that is done.
const DONE: [&str; 23] = [
    "active",
    "available",
    "bound",
    "complete",
    "completed",
    "created",
    "current",
    "deployed",
    "established",
    "green",
    "healthy",
    "initialized",
    "ok",
    "online",
    "promoted",
    "provisioned",
    "ready",
    "reconciled",
    "running",
    "success",
    "successful",
    "succeeded",
    "synced",
];

/// Words in `status.phase` and the like of something that is not done, by how they begin. Words
/// that are neither here nor in [`DONE`] say nothing.
const UNDONE: [&str; 21] = [
    "creating",
    "degraded",
    "deleting",
    "down",
    "error",
    "fail",
    "init",
    "inprogress",
    "in progress",
    "not",
    "pending",
    "progressing",
    "provision",
    "reconciling",
    "red",
    "starting",
    "unhealthy",
    "unknown",
    "updat",
    "upgrad",
    "waiting",
];

pub(super) fn by_conditions(gvk: &Gvk, live: &Value, generation: i64) -> Standing {
    if let Some(stalled) = condition(live, "Stalled")
        && text(stalled, &["status"]) == "True"
    {
        return failed(because(stalled));
    }
    if let Some(why) = known::bad_end(gvk, live) {
        return failed(why);
    }
    if let Some(stale) = stale_condition(live, generation) {
        return pending(format!(
            "its condition {} is of an earlier generation",
            text(stale, &["type"])
        ));
    }
    if let Some(found) = first_refusal(live) {
        return pending(because(found));
    }
    if let Some(why) = known::reservation(gvk, live) {
        return pending(why);
    }
    by_words(live)
}

/// Finds the condition that says most clearly "not done".
fn first_refusal(live: &Value) -> Option<&Value> {
    let is = |found: &Value, status: &str| text(found, &["status"]) == status;
    let negative = NEGATIVE
        .iter()
        .filter(|kind| !done_at_last(live, kind))
        .filter_map(|kind| condition(live, kind))
        .find(|found| is(found, "True"));
    if negative.is_some() {
        return negative;
    }
    let sums: Vec<&Value> = SUMS
        .iter()
        .filter_map(|kind| condition(live, kind))
        .collect();
    if let Some(found) = sums.iter().find(|found| !is(found, "True")) {
        return Some(found);
    }
    if !sums.is_empty() {
        return None;
    }
    POSITIVE
        .iter()
        .filter_map(|kind| condition(live, kind))
        .find(|found| !is(found, "True"))
        .or_else(|| condition(live, "Progressing").filter(|found| is(found, "Unknown")))
}

/// A Deployment-like `Progressing=True` stays true when the new version is there.
fn done_at_last(live: &Value, kind: &str) -> bool {
    kind == "Progressing"
        && condition(live, kind).is_some_and(|found| {
            text(found, &["reason"]).ends_with("Available")
                || text(found, &["reason"]).ends_with("Completed")
        })
}

fn stale_condition(live: &Value, generation: i64) -> Option<&Value> {
    list(live, &["status", "conditions"]).iter().find(|found| {
        POSITIVE.contains(&text(found, &["type"]))
            && at(found, &["observedGeneration"])
                .and_then(whole)
                .is_some_and(|observed| observed < generation)
    })
}

fn by_words(live: &Value) -> Standing {
    for field in FLAGS {
        if at(live, &["status", field]) == Some(&Value::Bool(false)) {
            let error = text(live, &["status", "error", "message"]);
            return pending(if error.is_empty() {
                "its status says that it is not ready"
            } else {
                error
            });
        }
    }
    for field in WORDS {
        let word = text(live, &["status", field]).to_ascii_lowercase();
        if DONE.contains(&word.as_str()) {
            continue;
        }
        if UNDONE.iter().any(|start| word.starts_with(start)) {
            return pending(format!("its status says {word}"));
        }
    }
    Standing::Ready
}
