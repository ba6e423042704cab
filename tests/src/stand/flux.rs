//! Flux: its kustomize and helm controllers, beside the stand-in for its source controller.
//!
//! They start when the first scenario asks (`Stand::flux`), because they cost memory and most need none of them.
//! Invariant: an answer is only given when all of them are ready.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use serde_json::json;

use super::http;
use super::install::flux::Flux;
use super::kubernetes::Cluster;
use super::layout::Site;
use super::on_demand;
use super::process::Server;
use crate::wait::until;

/// Namespace that Flux believes to run in.
const NAMESPACE: &str = "flux-system";

/// Longest that a start may take, of one server.
const START: Duration = Duration::from_secs(90);

/// Name of the service for those who ask.
const NAME: &str = "flux";

/// Lets Flux run on a stand; returns when its controllers are ready.
///
/// # Errors
/// When they do not start.
pub(super) async fn ask(site: &Site, flux: &Flux) -> Result<()> {
    on_demand::ask(site, NAME, serde_json::to_vec(flux)?).await
}

/// Waits for askers, for as long as it is polled, and keeps up what it started.
pub(super) async fn on_demand(site: &Site) {
    on_demand::serve(site, NAME, async |line: &str| start(site, line).await).await;
}

async fn start(site: &Site, line: &str) -> Result<Vec<Server>> {
    ensure!(
        site.own_cluster,
        "it runs on the stand's own cluster only, and another one is named"
    );
    let flux: Flux = serde_json::from_str(line)?;
    let cluster = Cluster::at(site.clone(), site.dir.join("admin.kubeconfig"));
    define(&cluster, &flux).await?;
    let program = std::env::current_exe().context("finding this program")?;
    let arguments = ["source".to_owned(), site.dir.display().to_string()];
    let source = Server::start(site, "flux-source", program, &arguments)?;
    let (kustomize, helm) = tokio::try_join!(
        controller(
            site,
            "kustomize-controller",
            &flux.kustomize,
            site.ports.kustomize
        ),
        controller(site, "helm-controller", &flux.helm, site.ports.helm),
    )?;
    Ok(vec![source, kustomize, helm])
}

/// Makes the kinds of Flux, and the namespace that it believes to run in.
async fn define(cluster: &Cluster, flux: &Flux) -> Result<()> {
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    cluster.apply(&namespace).await?;
    let folders: Vec<String> = flux
        .definitions
        .iter()
        .map(|dir| dir.display().to_string())
        .collect();
    let mut words = vec!["apply", "--server-side", "--force-conflicts"];
    words.extend(folders.iter().flat_map(|dir| ["-f", dir.as_str()]));
    cluster.kubectl(&words).await?;
    let mut words = vec!["wait", "--for=condition=Established", "--timeout=60s"];
    words.extend(folders.iter().flat_map(|dir| ["-f", dir.as_str()]));
    cluster.kubectl(&words).await.map(drop)
}

async fn controller(site: &Site, name: &str, program: &Path, health: u16) -> Result<Server> {
    let kubeconfig = site.dir.join("admin.kubeconfig");
    let arguments = [
        format!("KUBECONFIG={}", kubeconfig.display()),
        format!("RUNTIME_NAMESPACE={NAMESPACE}"),
        program.display().to_string(),
        "--watch-all-namespaces".to_owned(),
        "--enable-leader-election=false".to_owned(),
        "--events-addr=".to_owned(),
        "--metrics-addr=0".to_owned(),
        format!("--health-addr=127.0.0.1:{health}"),
        "--concurrent=8".to_owned(),
    ];
    // Settings of theirs are read from the environment only.
    let mut server = Server::start(site, name, "env", &arguments)?;
    let url = format!("http://127.0.0.1:{health}/readyz");
    until(name, START, async || server.look(http::get(&url).await)).await?;
    Ok(server)
}
