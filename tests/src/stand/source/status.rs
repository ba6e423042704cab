//! What a look at a source comes to, and how that is written into its status.
//!
//! Used by [`super::desk`], [`super::repository`] and [`super::chart`]. Invariant: a failure leaves the artifact
//! that was there, as source controller does, and the observed generation.

use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use aws_lc_rs::digest;
use serde_json::Value;
use serde_json::json;

use super::artifacts;
use crate::stand::layout::Site;

/// What one look at a source came to.
pub(super) enum Outcome {
    /// There is an artifact; more fields of the status beside it.
    Stored { artifact: Value, more: Value },
    /// It cannot be had; reason and message of the condition.
    Failed {
        reason: &'static str,
        message: String,
    },
}

/// Describes the file at `path` below the artifacts.
pub(super) fn artifact(site: &Site, path: &str, revision: &str) -> Result<Value> {
    let file = artifacts(site).join(path);
    let content = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let digest: String = digest::digest(&digest::SHA256, &content)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(json!({
        "url": format!("http://127.0.0.1:{}/{path}", site.ports.source),
        "path": path,
        "revision": revision,
        "digest": format!("sha256:{digest}"),
        "lastUpdateTime": now(),
        "size": content.len(),
    }))
}

/// The artifact that an object's status names, if it is of this revision and still there.
pub(super) fn kept<'o>(site: &Site, object: &'o Value, revision: &str) -> Option<&'o Value> {
    let artifact = &object["status"]["artifact"];
    let path = artifact["path"].as_str()?;
    let fits = artifact["revision"] == revision && Path::is_file(&artifacts(site).join(path));
    fits.then_some(artifact)
}

/// The status that an object gets after a look.
pub(super) fn status(object: &Value, outcome: &Outcome) -> Value {
    let generation = &object["metadata"]["generation"];
    let condition = |status: &str, reason: &str, message: &str| {
        let before = object["status"]["conditions"].as_array();
        let before = before.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
        let since = before
            .filter(|one| one["status"] == status)
            .map_or_else(|| json!(now()), |one| one["lastTransitionTime"].clone());
        json!([{ "type": "Ready", "status": status, "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": since }])
    };
    let mut status = match outcome {
        Outcome::Stored { artifact, more } => {
            let message = format!(
                "stored artifact for revision '{}'",
                text(&artifact["revision"])
            );
            let mut status = more.clone();
            status["artifact"] = artifact.clone();
            status["observedGeneration"] = generation.clone();
            status["conditions"] = condition("True", "Succeeded", &message);
            status
        }
        Outcome::Failed { reason, message } => {
            json!({ "conditions": condition("False", reason, message) })
        }
    };
    if let Some(asked) = requested(object) {
        status["lastHandledReconcileAt"] = json!(asked);
    }
    status
}

/// What somebody wrote to have an object looked at now.
pub(super) fn requested(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"]["reconcile.fluxcd.io/requestedAt"].as_str()
}

/// A text, or nothing.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}
