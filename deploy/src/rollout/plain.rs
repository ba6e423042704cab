//! Readiness of single things: Job, Pod, volume claim, Service, Namespace, CRD and the like.
//!
//! Called by [`super::standing`] after identity and observed generation were checked. A pending
//! claim is pending here; whether it only waits for its first consumer is known from events, so
//! [`crate::watch`] decides that.

use serde_json::Value;

use super::Standing;
use super::because;
use super::condition;
use super::failed;
use super::flag;
use super::has_condition;
use super::pending;
use crate::object::at;
use crate::object::list;
use crate::object::number;
use crate::object::text;

pub(super) fn job(live: &Value) -> Standing {
    if has_condition(live, "Failed", "True")
        && let Some(failure) = condition(live, "Failed")
    {
        return failed(because(failure));
    }
    if has_condition(live, "Complete", "True") {
        return Standing::Ready;
    }
    if flag(live, &["spec", "suspend"]) {
        return if has_condition(live, "Suspended", "True") {
            Standing::Ready
        } else {
            pending("its controller has not seen it yet")
        };
    }
    let count = |name| number(live, &["status", name]).unwrap_or(0);
    let wanted = number(live, &["spec", "completions"]).unwrap_or(1);
    if at(live, &["status", "startTime"]).is_none() {
        return pending("has not started");
    }
    pending(format!(
        "{} of {wanted} completed, {} active, {} failed",
        count("succeeded"),
        count("active"),
        count("failed")
    ))
}

pub(super) fn pod(live: &Value) -> Standing {
    match text(live, &["status", "phase"]) {
        "Succeeded" => Standing::Ready,
        "Failed" => failed(pod_failure(live)),
        "Running" => {
            if has_condition(live, "Ready", "True") {
                return Standing::Ready;
            }
            let containers = list(live, &["status", "containerStatuses"]);
            let ready = containers
                .iter()
                .filter(|container| flag(container, &["ready"]))
                .count();
            pending(format!("{ready} of {} containers ready", containers.len()))
        }
        _ => pending(
            waiting_reason(live)
                .unwrap_or("is not running yet")
                .to_owned(),
        ),
    }
}

fn pod_failure(live: &Value) -> String {
    let status = &live["status"];
    match (text(status, &["reason"]), text(status, &["message"])) {
        ("", "") => "has failed".to_owned(),
        (reason, "") => format!("has failed: {reason}"),
        ("", message) => format!("has failed: {message}"),
        (reason, message) => format!("has failed: {reason}: {message}"),
    }
}

fn waiting_reason(live: &Value) -> Option<&str> {
    ["initContainerStatuses", "containerStatuses"]
        .into_iter()
        .flat_map(|field| list(live, &["status", field]))
        .map(|container| text(container, &["state", "waiting", "reason"]))
        .find(|reason| !reason.is_empty())
}

pub(super) fn claim(live: &Value) -> Standing {
    match text(live, &["status", "phase"]) {
        "Bound" => Standing::Ready,
        "Lost" => failed("its volume is gone"),
        _ => pending("is not bound to a volume yet"),
    }
}

pub(super) fn service(live: &Value) -> Standing {
    if text(live, &["spec", "type"]) != "LoadBalancer"
        || !list(live, &["status", "loadBalancer", "ingress"]).is_empty()
        || !list(live, &["spec", "externalIPs"]).is_empty()
    {
        return Standing::Ready;
    }
    pending("has no load balancer address yet")
}

pub(super) fn namespace(live: &Value) -> Standing {
    match text(live, &["status", "phase"]) {
        "Active" => Standing::Ready,
        "Terminating" => failed("is being deleted"),
        _ => pending("is not active yet"),
    }
}

pub(super) fn definition(live: &Value) -> Standing {
    if has_condition(live, "NamesAccepted", "False")
        && let Some(refusal) = condition(live, "NamesAccepted")
    {
        return failed(because(refusal));
    }
    if has_condition(live, "Established", "True") {
        return Standing::Ready;
    }
    pending("is not established yet")
}

pub(super) fn api_service(live: &Value) -> Standing {
    if has_condition(live, "Available", "True") {
        return Standing::Ready;
    }
    pending(condition(live, "Available").map_or_else(|| "is not available yet".to_owned(), because))
}

/// Where the API server keeps the conditions of an autoscaler for readers of `autoscaling/v1`.
const OLD_CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// An autoscaler that cannot scale at the moment does not make a deploy wrong, but it is not ready.
pub(super) fn autoscaler(live: &Value) -> Standing {
    let old: Vec<Value> = at(live, &["metadata", "annotations", OLD_CONDITIONS])
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let conditions = match list(live, &["status", "conditions"]) {
        [] => old.as_slice(),
        conditions => conditions,
    };
    if conditions.is_empty() {
        return if at(live, &["status", "currentReplicas"]).is_some() {
            Standing::Ready
        } else {
            pending("its controller has not seen it yet")
        };
    }
    let refusal = conditions.iter().find(|found| {
        matches!(text(found, &["type"]), "AbleToScale" | "ScalingActive")
            && text(found, &["status"]) == "False"
            && text(found, &["reason"]) != "ScalingDisabled"
    });
    refusal.map_or(Standing::Ready, |found| pending(because(found)))
}
