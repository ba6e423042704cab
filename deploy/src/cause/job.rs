//! Jobs that failed, and crashes that a Job may still retry.
//!
//! Used by [`super::findings`]. A Job counts its own failures against its own limit, so a crash of
//! one of its pods is never the verdict while the Job goes on.

use serde_json::Value;

use super::AT_ONCE;
use super::Finding;
use super::SECOND_LOOK;
use super::World;
use super::container;
use super::revision::pods_of;
use super::world::event_line;
use crate::object::AppliedObject;
use crate::object::number;
use crate::object::text;
use crate::rollout::condition;
use crate::rollout::has_condition;

/// Says why a Job failed.
pub(super) fn failure(applied: &AppliedObject, live: &Value, world: &World) -> Option<Finding> {
    if !applied.id.gvk.is("batch", "Job") || !has_condition(live, "Failed", "True") {
        return None;
    }
    let failed = condition(live, "Failed")?;
    let name = &applied.id.name;
    let attempts = number(live, &["status", "failed"]).unwrap_or(0);
    let (sentence, hint) = match text(failed, &["reason"]) {
        "BackoffLimitExceeded" => (
            format!(
                "job {name} failed: {attempts} of its pods failed, more than its backoffLimit allows"
            ),
            "read the last lines of its pod above",
        ),
        "DeadlineExceeded" => (
            format!("job {name} ran longer than its activeDeadlineSeconds"),
            "raise activeDeadlineSeconds, or make the job faster",
        ),
        "PodFailurePolicy" => (
            format!("job {name} failed by its own podFailurePolicy"),
            "read the last lines of its pod above",
        ),
        reason => (
            format!("job {name} failed: {reason}"),
            "read its message above",
        ),
    };
    let mut finding = Finding::new("job_failed", name, sentence)
        .permanent(SECOND_LOOK)
        .seen(text(failed, &["message"]))
        .hint(hint);
    let pods = pods_of(applied, world);
    let newest = pods
        .iter()
        .filter(|pod| text(pod, &["status", "phase"]) != "Succeeded")
        .max_by_key(|pod| text(pod, &["metadata", "creationTimestamp"]));
    // The news of the Job may come before that of its pod: without its end there is a second look.
    if let Some(pod) = newest {
        let stopped = container::all(pod)
            .iter()
            .find_map(|container| container::failure(container, pod, world));
        if let Some(stopped) = stopped {
            finding = finding.seen(stopped.message).seen_all(stopped.evidence);
            finding.log = stopped.log;
            finding.bound = AT_ONCE;
        }
    }
    let events = world.events_of(
        live,
        &["BackoffLimitExceeded", "DeadlineExceeded", "FailedCreate"],
    );
    Some(finding.seen_all(events.iter().take(1).map(|event| event_line(event))))
}

/// Takes the finality from a crash of a Job's pod.
pub(super) fn leave_to_the_job(applied: &AppliedObject, finding: Finding) -> Finding {
    if applied.id.gvk.is("batch", "Job") {
        finding.transient()
    } else {
        finding
    }
}
