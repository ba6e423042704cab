//! Making a stand that runs reachable, and saying where everything is.
//!
//! The keeper calls [`describe`] when the servers answer. Ports of namespaces are forwarded to loopback; an
//! OpenBao or a cluster that was named from outside gets the sample's data and rights here. Invariant: addresses
//! in [`Facts`] are those that programs outside of the stand use.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;

use super::access;
use super::certs;
use super::forward;
use super::forward::Door;
use super::git;
use super::kubernetes;
use super::kubernetes::Cluster;
use super::layout::Facts;
use super::layout::Settings;
use super::layout::Site;
use super::openbao;
use super::servers::Inside;
use crate::progress::Progress;

/// Makes the stand reachable from outside and describes it.
///
/// # Errors
/// When the namespaces cannot be entered, or a named server cannot be used.
pub(super) async fn describe(
    settings: &Settings,
    site: &Site,
    inner: Option<u32>,
    doors: Vec<Door>,
    progress: &Progress,
) -> Result<Facts> {
    let inside = [
        site.ports.api,
        site.ports.vault,
        site.ports.registry,
        site.ports.postgres,
    ];
    let [api, vault, registry, postgres] = match inner {
        Some(pid) => forward::start(pid, inside, doors)?,
        None => inside,
    };
    let postgres = format!("127.0.0.1:{postgres}");
    let (vault_addr, keys) = match &settings.vault {
        Some((addr, token)) => (
            addr.clone(),
            named_vault(site, addr, token, &postgres, progress).await?,
        ),
        None => (
            format!("http://127.0.0.1:{vault}"),
            Inside::read(&site.dir)?,
        ),
    };
    let own = format!("https://127.0.0.1:{api}");
    let cluster = match &settings.kubeconfig {
        Some(path) => named_cluster(site, path, progress).await?,
        None => own_cluster(site, own)?,
    };
    Ok(Facts {
        site: site.clone(),
        keeper: std::process::id(),
        inner,
        kubeconfig_admin: cluster.admin,
        kubeconfig_agent: cluster.agent,
        kubeconfig_inside: cluster.inside,
        api: cluster.api,
        vault_addr,
        vault_root_token: keys.root_token,
        vault_unseal_key: keys.unseal_key,
        issuer: site.issuer.clone(),
        registry: format!("localhost:{}", site.ports.registry),
        registry_addr: format!("http://127.0.0.1:{registry}"),
        postgres,
        postgres_for_pods: format!("{}:{}", site.pod_side_address(), site.ports.postgres),
        git: git::http_address(site),
        git_ssh: git::ssh_address(site),
        git_known_hosts: git::known_hosts(site),
        git_accounts: site.git.clone(),
        has_node: cluster.has_node,
        started_in: 0.0,
    })
}

/// A cluster as programs outside of the stand use it.
struct Access {
    admin: PathBuf,
    agent: PathBuf,
    inside: PathBuf,
    api: String,
    has_node: bool,
}

fn own_cluster(site: &Site, api: String) -> Result<Access> {
    let certs = certs::Certs::of(site);
    let path = |name: &str| site.dir.join(format!("{name}.outside.kubeconfig"));
    for name in [kubernetes::ADMIN, kubernetes::AGENT] {
        certs.kubeconfig(name, &api, &path(name))?;
    }
    Ok(Access {
        admin: path(kubernetes::ADMIN),
        agent: path(kubernetes::AGENT),
        inside: site.dir.join("admin.kubeconfig"),
        api,
        has_node: site.isolated,
    })
}

async fn named_cluster(site: &Site, path: &Path, progress: &Progress) -> Result<Access> {
    let cluster = Cluster::at(site.clone(), path.to_owned());
    access::agent(&cluster)
        .await
        .context("using the named cluster")?;
    access::grant_project(&cluster, "flask", "42").await?;
    progress.note(
        "the named cluster's kubeconfig also serves as the agent's; its own rights are not tried",
    );
    let server = "jsonpath={.clusters[0].cluster.server}";
    let real = ["get", "nodes", "--selector=type!=kwok", "--output=name"];
    Ok(Access {
        admin: path.to_owned(),
        agent: path.to_owned(),
        inside: path.to_owned(),
        api: cluster
            .kubectl(&["config", "view", "--minify", "--output", server])
            .await?,
        has_node: !cluster.kubectl(&real).await?.is_empty(),
    })
}

async fn named_vault(
    site: &Site,
    addr: &str,
    token: &str,
    postgres: &str,
    progress: &Progress,
) -> Result<Inside> {
    openbao::furnish(site, addr, token)
        .await
        .context("setting the named OpenBao up")?;
    let within = Duration::from_secs(5);
    if let Err(error) = openbao::connect_database(addr, token, postgres, within).await {
        progress.note(format!(
            "the named OpenBao gives no database credentials: {error:#}"
        ));
    }
    Ok(Inside {
        root_token: token.to_owned(),
        unseal_key: String::new(),
    })
}
