//! Kinds of well-known add-ons that say how they stand in fields of their own.
//!
//! Used by [`super::custom`] beside the conventions of conditions. Only what those would get wrong is
//! here. Nearly every rule only holds back: it says why the object is not ready yet. Kinds that run
//! once, to an end, can fail for good: nobody starts them again.

use serde_json::Value;

use super::because;
use super::condition;
use super::flag;
use crate::object::Gvk;
use crate::object::at;
use crate::object::list;
use crate::object::text;

/// Says why an object of a known kind is not ready, as far as only this kind's own fields tell.
pub(super) fn reservation(gvk: &Gvk, live: &Value) -> Option<String> {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("argoproj.io", "Rollout") => {
            flag(live, &["status", "abort"]).then(|| "the rollout was aborted".to_owned())
        }
        ("argoproj.io", "Workflow" | "AnalysisRun") | ("tekton.dev", _) => running(live),
        ("gateway.networking.k8s.io", "Gateway") => listener(live),
        ("ceph.rook.io", "CephCluster") => word(live, &["status", "ceph", "health"], "HEALTH_OK"),
        ("acid.zalan.do", "postgresql") => {
            word(live, &["status", "PostgresClusterStatus"], "Running")
        }
        ("opentelemetry.io", "OpenTelemetryCollector") => replicas(live),
        ("minio.min.io", "Tenant") => word(live, &["status", "currentState"], "Initialized"),
        ("grafana.integreatly.org", "Grafana") => grafana(live),
        ("keda.sh", "ScaledObject") => condition(live, "Ready")
            .is_none()
            .then(|| "its controller has not called it ready yet".to_owned()),
        _ => None,
    }
}

/// Says why an object that runs once has ended badly.
pub(super) fn bad_end(gvk: &Gvk, live: &Value) -> Option<String> {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("argoproj.io", "Workflow" | "AnalysisRun") => {
            let phase = text(live, &["status", "phase"]);
            let message = text(live, &["status", "message"]);
            let colon = if message.is_empty() { "" } else { ": " };
            matches!(phase, "Failed" | "Error")
                .then(|| format!("ended in phase {phase}{colon}{message}"))
        }
        ("tekton.dev", "TaskRun" | "PipelineRun" | "Run" | "CustomRun") => {
            condition(live, "Succeeded")
                .filter(|found| text(found, &["status"]) == "False")
                .map(because)
        }
        _ => None,
    }
}

/// Kinds that run to an end: "running" is not the end.
fn running(live: &Value) -> Option<String> {
    (text(live, &["status", "phase"]) == "Running").then(|| "is running".to_owned())
}

fn word(live: &Value, path: &[&str], good: &str) -> Option<String> {
    let found = text(live, path);
    (!found.is_empty() && found != good).then(|| format!("its status says {found}"))
}

fn listener(live: &Value) -> Option<String> {
    list(live, &["status", "listeners"])
        .iter()
        .find_map(|listener| {
            let refused = list(listener, &["conditions"]).iter().find(|condition| {
                matches!(
                    text(condition, &["type"]),
                    "Accepted" | "Programmed" | "ResolvedRefs"
                ) && text(condition, &["status"]) == "False"
            })?;
            Some(format!(
                "listener {}: {}",
                text(listener, &["name"]),
                text(refused, &["message"])
            ))
        })
}

/// Written as `1/3`.
fn replicas(live: &Value) -> Option<String> {
    let counts = text(live, &["status", "scale", "statusReplicas"]);
    let (ready, wanted) = counts.split_once('/')?;
    (ready != wanted).then(|| format!("{ready} of {wanted} replicas ready"))
}

fn grafana(live: &Value) -> Option<String> {
    let stage = text(live, &["status", "stage"]);
    let outcome = text(live, &["status", "stageStatus"]);
    at(live, &["status", "stage"])?;
    (stage != "complete" || outcome != "success").then(|| format!("stage {stage}: {outcome}"))
}
