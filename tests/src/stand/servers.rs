//! The order in which the servers of a stand start, and keeping them up.
//!
//! Runs inside the namespaces (or, without them, in the keeper). What does not depend on each other starts side
//! by side. Invariant: [`start`] returns when everything answers and is furnished; a server that dies later is
//! started again, because scenarios kill them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use serde::Deserialize;
use serde::Serialize;

use super::access;
use super::docker;
use super::etcd;
use super::flux;
use super::git;
use super::image;
use super::isolate;
use super::kubernetes;
use super::kubernetes::Cluster;
use super::kwok;
use super::layout::Site;
use super::layout::write_whole;
use super::node;
use super::openbao;
use super::postgres;
use super::process::Server;
use super::registry;
use crate::progress::Progress;

/// Shortest time between two starts of one server.
const PAUSE: Duration = Duration::from_millis(500);

/// What the inside knows and the keeper does not; written to `inside.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Inside {
    /// Token with all rights on the stand's OpenBao.
    pub root_token: String,
    /// Key that unseals it.
    pub unseal_key: String,
}

impl Inside {
    /// Reads what the inside wrote.
    ///
    /// # Errors
    /// When it wrote nothing.
    pub fn read(state: &Path) -> Result<Self> {
        let text = fs::read_to_string(state.join("inside.json")).context("reading inside.json")?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// Starts everything and furnishes it.
///
/// # Errors
/// When one server does not come up; the error names it and quotes its log.
pub async fn start(site: &Site, progress: &Progress) -> Result<Vec<Server>> {
    fs::create_dir_all(site.dir.join("tmp"))?;
    if site.isolated {
        isolate::furnish(site).await?;
        node::network(site).await?;
    }
    let database = async {
        let server = postgres::start(site).await?;
        progress.up("PostgreSQL");
        anyhow::Ok(server)
    };
    let images = async {
        let server = registry::start(site).await?;
        image::push_busybox(site).await?;
        progress.up("registry");
        anyhow::Ok(server)
    };
    let repositories = async {
        let servers = git::start(site).await?;
        progress.up("Git server");
        anyhow::Ok(servers)
    };
    let (cluster, vault, database, images, repositories) = tokio::try_join!(
        Box::pin(cluster(site, progress)),
        Box::pin(vault(site, progress)),
        database,
        images,
        Box::pin(repositories)
    )?;
    let mut servers = cluster;
    servers.extend(vault);
    servers.extend(repositories);
    servers.extend([database, images]);
    Ok(servers)
}

async fn vault(site: &Site, progress: &Progress) -> Result<Option<Server>> {
    if !site.own_vault {
        return Ok(None);
    }
    let bao = openbao::start(site).await?;
    openbao::furnish(site, &openbao::address(site), &bao.root_token)
        .await
        .context("setting OpenBao up")?;
    let database = format!("127.0.0.1:{}", site.ports.postgres);
    let within = Duration::from_secs(60);
    openbao::connect_database(&openbao::address(site), &bao.root_token, &database, within).await?;
    let inside = Inside {
        root_token: bao.root_token,
        unseal_key: bao.unseal_key,
    };
    write_whole(&site.dir.join("inside.json"), &serde_json::to_vec(&inside)?)?;
    progress.up("OpenBao with its engines");
    Ok(Some(bao.server))
}

async fn cluster(site: &Site, progress: &Progress) -> Result<Vec<Server>> {
    if !site.own_cluster {
        return Ok(Vec::new());
    }
    let runtime = async {
        if site.isolated {
            node::containerd(site).await.map(Some)
        } else {
            Ok(None)
        }
    };
    let control = async {
        let (etcd, certs) = tokio::try_join!(etcd::start(site), kubernetes::prepare(site))?;
        let api = kubernetes::api_server(site, &certs).await?;
        progress.up("Kubernetes API");
        let mut servers = vec![etcd, api];
        servers.extend(kubernetes::controllers(site, &certs)?);
        anyhow::Ok(servers)
    };
    let (runtime, mut servers) = tokio::try_join!(runtime, control)?;
    let cluster = Cluster::at(site.clone(), site.dir.join("admin.kubeconfig"));
    let rights = async {
        access::agent(&cluster).await?;
        access::grant_project(&cluster, "flask", "42").await
    };
    let kubelet = async {
        let Some(containerd) = runtime else {
            return Ok(Vec::new());
        };
        let mut kubelet = node::kubelet(site)?;
        node::ready(&cluster, &mut kubelet).await?;
        progress.up("node");
        anyhow::Ok(vec![containerd, kubelet])
    };
    let ((), kwok, node) = tokio::try_join!(rights, kwok::start(site, &cluster), kubelet)?;
    servers.push(kwok);
    servers.extend(node);
    Ok(servers)
}

/// Starts again what ends, for as long as it is polled.
pub async fn supervise(site: &Site, servers: Vec<Server>) {
    let kept = futures::future::join_all(servers.into_iter().map(|server| keep_up(site, server)));
    // These wait for somebody who wants them; that does not keep a stand alive whose servers are gone.
    tokio::select! {
        _ = kept => {}
        () = flux::on_demand(site) => {}
        () = docker::on_demand(site) => {}
    }
}

/// Starts a server again whenever it ends; returns when it cannot be started any more.
pub(super) async fn keep_up(site: &Site, mut server: Server) {
    loop {
        server.end().await;
        crate::wait::pause(PAUSE).await;
        if server.again(site).is_err() {
            return;
        }
    }
}
