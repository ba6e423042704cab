//! A stand-in for Flux's source controller, which cannot be built here: a module that it needs is not served.
//!
//! It keeps that controller's contract as far as scenarios of deploys look at it, for GitRepositories (a branch,
//! over HTTP or SSH, with the Secret that is named) and for HelmCharts out of a GitRepository: it fetches, serves
//! an artifact over HTTP on loopback, and sets `status` (artifact, observed generation, handled request, the
//! condition Ready); it obeys `suspend` and `interval`. Tags, semver, verification, includes, `valuesFiles`, and
//! the other kinds of sources it does not know, and says so in the condition where they are asked for. A process of its own (`stand
//! source`). Invariant: an artifact that a status names is there, and has the digest that is named.

mod api;
mod chart;
mod desk;
mod repository;
mod status;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use anyhow::Result;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::Uri;
use axum::response::IntoResponse;
use axum::response::Response;
use tokio::net::TcpListener;

use self::api::Api;
use super::layout::Site;

/// Where artifacts are.
fn artifacts(site: &Site) -> PathBuf {
    site.dir.join("artifacts")
}

/// Plays source controller for a stand until it is ended.
///
/// # Errors
/// When the port is taken, or the cluster cannot be spoken to.
pub async fn serve(site: Site) -> Result<()> {
    std::fs::create_dir_all(artifacts(&site))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, site.ports.source))
        .await
        .context("opening the port of the artifacts")?;
    let api = Arc::new(Api::new(&site)?);
    let site = Arc::new(site);
    let app = Router::new()
        .fallback(artifact)
        .with_state(Arc::clone(&site));
    tokio::select! {
        // Either ends the process, and the stand starts it again.
        served = async { axum::serve(listener, app).await } => Ok(served?),
        () = desk::work(&site, &api) => Ok(()),
    }
}

async fn artifact(State(site): State<Arc<Site>>, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return StatusCode::NOT_FOUND.into_response();
    }
    match tokio::fs::read(artifacts(&site).join(path)).await {
        Ok(content) => content.into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}
