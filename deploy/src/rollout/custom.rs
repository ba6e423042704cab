//! Readiness of kinds that Kubernetes itself does not know, by the conventions of conditions.
//!
//! Called by [`super::standing`] after identity and observed generation were checked. Only
//! `Stalled=True` is a failure: a controller that reports `Ready=False` usually goes on trying. What
//! follows no convention counts as ready, since nothing would ever say more.

use serde_json::Value;

use super::Standing;
use super::because;
use super::condition;
use super::failed;
use super::has_condition;
use super::pending;
use super::whole;
use crate::object::Gvk;
use crate::object::at;
use crate::object::list;
use crate::object::text;

/// Conditions that say "done" when they are true, the most telling first.
const POSITIVE: [&str; 9] = [
    "Ready",
    "Available",
    "Healthy",
    "Synced",
    "Succeeded",
    "Established",
    "Accepted",
    "Programmed",
    "ReconcileSucceeded",
];

/// Conditions that say "not done" when they are true.
const NEGATIVE: [&str; 8] = [
    "Reconciling",
    "Progressing",
    "Degraded",
    "Failed",
    "ReconcileFailed",
    "InstallPlanFailed",
    "InstallPlanPending",
    "Error",
];

/// Words in `status.phase` and the like of something that is done.
const DONE: [&str; 22] = [
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
    if let Some(stale) = stale_condition(live, generation) {
        return pending(format!(
            "its condition {} is of an earlier generation",
            text(stale, &["type"])
        ));
    }
    for kind in NEGATIVE {
        if has_condition(live, kind, "True")
            && !done_at_last(live, kind)
            && let Some(found) = condition(live, kind)
        {
            return pending(because(found));
        }
    }
    for kind in POSITIVE {
        if let Some(found) = condition(live, kind) {
            return if text(found, &["status"]) == "True" {
                by_words(gvk, live)
            } else {
                pending(because(found))
            };
        }
    }
    by_words(gvk, live)
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

fn by_words(gvk: &Gvk, live: &Value) -> Standing {
    for field in ["phase", "state", "status", "health"] {
        let word = text(live, &["status", field]).to_ascii_lowercase();
        if word.is_empty() {
            continue;
        }
        if word == "running" && ends_some_day(gvk) {
            return pending(format!("its status says {word}"));
        }
        if DONE.contains(&word.as_str()) {
            continue;
        }
        if UNDONE.iter().any(|start| word.starts_with(start)) {
            return pending(format!("its status says {word}"));
        }
    }
    Standing::Ready
}

/// Kinds that run to an end, for which "running" is not the end.
fn ends_some_day(gvk: &Gvk) -> bool {
    gvk.group == "argoproj.io" && (gvk.kind == "Workflow" || gvk.kind == "AnalysisRun")
        || gvk.group == "tekton.dev"
}
