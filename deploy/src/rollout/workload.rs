//! Readiness of kinds that keep a number of pods: Deployment, StatefulSet, DaemonSet, ReplicaSet.
//!
//! Called by [`super::standing`] after identity and observed generation were checked. Counts alone
//! never suffice: they are compared with the update's own counters, so that old pods do not make a
//! new revision look ready.

use serde_json::Value;

use super::Standing;
use super::because;
use super::condition;
use super::failed;
use super::flag;
use super::has_condition;
use super::pending;
use crate::object::at;
use crate::object::number;
use crate::object::text;

/// The reason of a Deployment's condition `Progressing` when its own deadline has passed.
pub(crate) const DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";

struct Counts {
    wanted: i64,
    total: i64,
    updated: i64,
    ready: i64,
    available: i64,
}

impl Counts {
    fn of(live: &Value) -> Self {
        let count = |name| number(live, &["status", name]).unwrap_or(0);
        Self {
            wanted: number(live, &["spec", "replicas"]).unwrap_or(1),
            total: count("replicas"),
            updated: count("updatedReplicas"),
            ready: count("readyReplicas"),
            available: count("availableReplicas"),
        }
    }

    fn detail(&self) -> String {
        format!(
            "{} of {} updated, {} ready",
            self.updated, self.wanted, self.ready
        )
    }
}

fn unobserved(live: &Value) -> bool {
    at(live, &["status", "observedGeneration"]).is_none()
}

fn not_seen_yet() -> Standing {
    pending("its controller has not seen it yet")
}

pub(super) fn deployment(live: &Value) -> Standing {
    if unobserved(live) {
        return not_seen_yet();
    }
    if flag(live, &["spec", "paused"]) {
        return Standing::Ready;
    }
    let progressing = condition(live, "Progressing");
    if let Some(progressing) = progressing
        && text(progressing, &["status"]) == "False"
        && text(progressing, &["reason"]) == DEADLINE_EXCEEDED
    {
        return failed(because(progressing));
    }
    let counts = Counts::of(live);
    if counts.updated < counts.wanted {
        return pending(counts.detail());
    }
    if counts.total > counts.updated {
        let old = counts.total - counts.updated;
        return pending(format!("{}, {old} old still running", counts.detail()));
    }
    if counts.total > counts.wanted {
        let surplus = counts.total - counts.wanted;
        return pending(format!("{}, {surplus} too many", counts.detail()));
    }
    if counts.available < counts.wanted || counts.ready < counts.wanted {
        return pending(format!(
            "{}, {} available",
            counts.detail(),
            counts.available
        ));
    }
    if let Some(available) = condition(live, "Available")
        && text(available, &["status"]) == "False"
    {
        return pending(because(available));
    }
    match progressing {
        Some(progressing) if text(progressing, &["reason"]) != "NewReplicaSetAvailable" => {
            pending(because(progressing))
        }
        Some(_) | None => Standing::Ready,
    }
}

pub(super) fn stateful_set(live: &Value) -> Standing {
    if unobserved(live) {
        return not_seen_yet();
    }
    let counts = Counts::of(live);
    let strategy = text(live, &["spec", "updateStrategy", "type"]);
    let partition = number(
        live,
        &["spec", "updateStrategy", "rollingUpdate", "partition"],
    )
    .unwrap_or(0);
    let needed = if strategy == "OnDelete" {
        0
    } else {
        (counts.wanted - partition).max(0)
    };
    if counts.updated < needed {
        return pending(format!(
            "{} of {needed} updated, {} of {} ready",
            counts.updated, counts.ready, counts.wanted
        ));
    }
    if counts.ready < counts.wanted {
        return pending(counts.detail());
    }
    if counts.total > counts.wanted {
        let surplus = counts.total - counts.wanted;
        return pending(format!("{}, {surplus} too many", counts.detail()));
    }
    let holds_back = partition > 0 || strategy == "OnDelete";
    if !holds_back && revisions_differ(live) {
        return pending(format!("{}, old revision not gone", counts.detail()));
    }
    if number(live, &["spec", "minReadySeconds"]).unwrap_or(0) > 0
        && counts.available < counts.wanted
    {
        return pending(format!(
            "{}, {} available",
            counts.detail(),
            counts.available
        ));
    }
    Standing::Ready
}

fn revisions_differ(live: &Value) -> bool {
    let current = text(live, &["status", "currentRevision"]);
    let update = text(live, &["status", "updateRevision"]);
    !current.is_empty() && !update.is_empty() && current != update
}

pub(super) fn daemon_set(live: &Value) -> Standing {
    if unobserved(live) {
        return not_seen_yet();
    }
    let count = |name| number(live, &["status", name]).unwrap_or(0);
    let wanted = count("desiredNumberScheduled");
    let updated = count("updatedNumberScheduled");
    let ready = count("numberReady");
    let available = count("numberAvailable");
    let detail = format!("{updated} of {wanted} updated, {ready} ready");
    let on_delete = text(live, &["spec", "updateStrategy", "type"]) == "OnDelete";
    if count("currentNumberScheduled") < wanted || (!on_delete && updated < wanted) {
        return pending(detail);
    }
    if ready < wanted || available < wanted {
        return pending(format!("{detail}, {available} available"));
    }
    Standing::Ready
}

pub(super) fn replica_set(live: &Value) -> Standing {
    if unobserved(live) {
        return not_seen_yet();
    }
    let counts = Counts::of(live);
    if has_condition(live, "ReplicaFailure", "True")
        && let Some(refusal) = condition(live, "ReplicaFailure")
    {
        return pending(because(refusal));
    }
    if counts.ready < counts.wanted || counts.available < counts.wanted {
        return pending(format!(
            "{} of {} ready, {} available",
            counts.ready, counts.wanted, counts.available
        ));
    }
    if counts.total > counts.wanted {
        return pending(format!("{} too many", counts.total - counts.wanted));
    }
    Standing::Ready
}
