//! The handlers of the admin socket: health, metrics, status, drain, Secrets that are kept fresh.
//!
//! Called by [`super`]. The socket's mode is the authorization: who may connect is the operator.

use http::StatusCode;
use proto::error::Code;
use proto::health::AgentStatus;
use proto::health::Keeping;
use proto::health::StaleSecret;
use proto::ids::RunId;
use proto::managed::ManagedList;
use proto::managed::ManagedSecret;
use proto::managed::SecretName;
use serde::Serialize;

use super::Site;
use super::answer::Answer;
use super::answer::Refusal;
use super::answer::full;
use super::answer::json;
use super::secrets::desk;
use crate::rotation::Asker;
use crate::rotation::Rotation;

/// What Prometheus reads.
const METRICS_TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The answer of `/v1/drain`.
#[derive(Debug, Serialize)]
struct Drained {
    draining: bool,
    runs: Vec<RunId>,
}

/// Answers `GET /livez`: the process answers, so it lives.
pub fn livez() -> Answer {
    full(StatusCode::OK, "text/plain; charset=utf-8", "ok\n")
}

/// Answers `GET /readyz`, always with the blockers by name.
pub fn readyz(site: &Site) -> Answer {
    let mut now = site.readiness.now();
    if site.lifecycle.is_draining() {
        now.ready = false;
        now.blockers.push(proto::health::Blocker {
            name: "draining".to_owned(),
            reason: "the agent takes no new runs".to_owned(),
        });
    }
    let status = if now.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(status, &now)
}

/// Answers `GET /metrics`.
pub fn metrics(site: &Site) -> Result<Answer, Refusal> {
    let kept = site.rotation.as_ref();
    let kept = kept.map(|desk| desk.list(&Asker::Operator));
    let text = site.metrics.text(kept.as_ref(), site.clock.now());
    let text = text.map_err(|error| {
        tracing::error!(%error, "metrics cannot be written");
        Refusal::new(Code::Internal, "the metrics cannot be written")
    })?;
    Ok(full(StatusCode::OK, METRICS_TEXT, text))
}

/// Answers `GET /v1/status`.
pub fn status(site: &Site) -> Answer {
    let now = AgentStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: site.readiness.now().ready && !site.lifecycle.is_draining(),
        draining: site.lifecycle.is_draining(),
        policy: site.policy.clone(),
        runs: site.runs.active(),
        identity: (site.identity)(),
        keeping: site.rotation.as_ref().map(keeping),
    };
    json(StatusCode::OK, &now)
}

fn keeping(desk: &Rotation) -> Keeping {
    let ManagedList {
        secrets, folders, ..
    } = desk.list(&Asker::Operator);
    let stale = secrets.iter().filter_map(|secret| {
        let ManagedSecret {
            cluster,
            namespace,
            name,
            stale,
            ..
        } = secret;
        Some(StaleSecret {
            secret: format!("{cluster}/{namespace}/{name}"),
            stale: stale.clone()?,
        })
    });
    Keeping {
        stale: stale.collect(),
        secrets: secrets.len(),
        folders,
    }
}

/// Answers `POST /v1/drain`: new runs are refused from now on, the process stays.
pub fn drain(site: &Site) -> Answer {
    site.lifecycle.drain();
    let runs = site.runs.active();
    tracing::info!(runs = runs.len(), "draining, as the operator asked");
    json(
        StatusCode::ACCEPTED,
        &Drained {
            draining: true,
            runs,
        },
    )
}

/// Answers `GET /v1/managed`.
pub fn managed(site: &Site) -> Result<Answer, Refusal> {
    Ok(json(StatusCode::OK, &desk(site)?.list(&Asker::Operator)))
}

/// Answers `GET /v1/managed/{cluster}/{namespace}/{name}`.
pub fn managed_one(site: &Site, name: &SecretName) -> Result<Answer, Refusal> {
    let found = desk(site)?.one(&Asker::Operator, name);
    let found = found.map_err(|problem| *problem)?;
    Ok(json(StatusCode::OK, &found))
}

/// Answers `POST /v1/managed/{cluster}/{namespace}/{name}/rotate`.
pub fn managed_rotate(site: &Site, name: &SecretName) -> Result<Answer, Refusal> {
    let taken = desk(site)?
        .rotate(&Asker::Operator, name)
        .map_err(|problem| *problem)?;
    tracing::info!(secrets = ?taken.secrets, "rotating, as the operator asked");
    Ok(json(StatusCode::ACCEPTED, &taken))
}
