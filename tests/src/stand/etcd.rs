//! etcd: the store behind the Kubernetes API server.
//!
//! Started by `servers`. It does not wait for the disk (`--unsafe-no-fsync`), which a stand that is thrown
//! away does not need; a scenario about crashes of etcd itself would start its own.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use super::layout::Site;
use super::process::Server;
use crate::wait::until;

/// Starts etcd and waits until it answers.
///
/// # Errors
/// When it does not answer in time.
pub(super) async fn start(site: &Site) -> Result<Server> {
    let client = format!("http://127.0.0.1:{}", site.ports.etcd);
    let peer = format!("http://127.0.0.1:{}", site.ports.etcd_peer);
    let arguments = [
        "--name=stand".to_owned(),
        format!("--data-dir={}", site.folder("etcd")?.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=stand={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    let mut server = Server::start(site, "etcd", site.program("etcd"), &arguments)?;
    let url = format!("{client}/health");
    until("etcd", Duration::from_secs(60), async || {
        let probe = super::http::get(&url).await;
        server.look(probe.and_then(|text| {
            ensure!(text.contains("true"), "{text}");
            Ok(())
        }))
    })
    .await
    .context("etcd is the store of the cluster")?;
    Ok(server)
}
