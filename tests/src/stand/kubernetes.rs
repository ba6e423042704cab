//! The control plane: kube-apiserver, kube-controller-manager, kube-scheduler, and kubectl on them.
//!
//! Started by `servers` once etcd answers. Identities are certificates: `admin` may do everything, the agent's
//! own (`quaymaster-agent`) is made powerless here and gets its few rights in `access`. Invariant: the API
//! server listens on loopback only.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use serde_json::Value;

use super::certs::Certs;
use super::http;
use super::layout::Site;
use super::process;
use super::process::Server;
use crate::wait::until;

/// Cluster addresses of services; nothing routes them.
const SERVICE_NETWORK: &str = "10.96.0.0/16";

/// Identity with all rights.
pub const ADMIN: &str = "admin";
/// The agent's own identity.
pub const AGENT: &str = "agent";

/// Name and subject of every identity of the cluster.
const IDENTITIES: &[(&str, &str)] = &[
    (ADMIN, "/O=system:masters/CN=admin"),
    ("controllers", "/CN=system:kube-controller-manager"),
    ("scheduler", "/CN=system:kube-scheduler"),
    ("kubelet", "/O=system:nodes/CN=system:node:node-1"),
    (AGENT, "/CN=quaymaster-agent"),
];

/// A cluster and the rights to do everything in it.
#[derive(Clone, Debug)]
pub struct Cluster {
    site: Site,
    /// Kubeconfig with all rights.
    pub kubeconfig: PathBuf,
}

impl Cluster {
    /// The cluster that `kubeconfig` names.
    #[must_use]
    pub const fn at(site: Site, kubeconfig: PathBuf) -> Self {
        Self { site, kubeconfig }
    }

    /// Runs kubectl with all rights and returns what it printed.
    ///
    /// # Errors
    /// When kubectl fails; with what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with(arguments, None).await
    }

    /// Runs kubectl with `input`, as [`Self::kubectl`].
    ///
    /// # Errors
    /// When kubectl fails; with what it said.
    pub async fn kubectl_with(&self, arguments: &[&str], input: Option<&[u8]>) -> Result<String> {
        let mut command = process::command(&self.site, self.site.program("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments);
        process::run_with(&mut command, input, Duration::from_secs(120)).await
    }

    /// Applies an object, or a list of them.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        self.apply_text(&object.to_string()).await
    }

    /// Applies the objects of a text, YAML or JSON.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn apply_text(&self, text: &str) -> Result<()> {
        let arguments = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=stand",
            "-f",
            "-",
        ];
        let sent = self.kubectl_with(&arguments, Some(text.as_bytes()));
        sent.await.map(drop)
    }
}

/// Makes certificates and kubeconfigs. Needs no server, so it is done while etcd starts.
///
/// # Errors
/// When openssl fails.
pub(super) async fn prepare(site: &Site) -> Result<Certs<'_>> {
    let certs = Certs::make(site).await?;
    let here = format!("https://127.0.0.1:{}", site.ports.api);
    let names = "IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default.svc";
    certs.sign("apiserver", "/CN=kube-apiserver", names).await?;
    certs.service_accounts().await?;
    for (name, subject) in IDENTITIES {
        certs.sign(name, subject, &format!("DNS:{name}")).await?;
        certs.kubeconfig(name, &here, &site.dir.join(format!("{name}.kubeconfig")))?;
    }
    Ok(certs)
}

/// Starts the API server and waits until it is ready.
///
/// # Errors
/// When it is not ready in time.
pub(super) async fn api_server(site: &Site, certs: &Certs<'_>) -> Result<Server> {
    let arguments = [
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        // Otherwise it refuses an address on loopback.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--secure-port={}", site.ports.api),
        format!("--etcd-servers=http://127.0.0.1:{}", site.ports.etcd),
        "--authorization-mode=RBAC,Node".to_owned(),
        format!("--client-ca-file={}", certs.path("ca.crt")),
        format!("--tls-cert-file={}", certs.path("apiserver.crt")),
        format!("--tls-private-key-file={}", certs.path("apiserver.key")),
        format!("--service-cluster-ip-range={SERVICE_NETWORK}"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", certs.path("sa.pub")),
        format!(
            "--service-account-signing-key-file={}",
            certs.path("sa.key")
        ),
        // Otherwise `kubectl logs` looks the node's name up in DNS.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--kubelet-client-certificate={}", certs.path("admin.crt")),
        format!("--kubelet-client-key={}", certs.path("admin.key")),
        format!("--cert-dir={}", site.dir.join("certs").display()),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ];
    let mut server = Server::start(
        site,
        "kube-apiserver",
        site.program("kube-apiserver"),
        &arguments,
    )?;
    let client = http::client(Some(&fs::read(certs.path("ca.crt"))?))?;
    let url = format!("https://127.0.0.1:{}/readyz", site.ports.api);
    until(
        "the Kubernetes API server",
        Duration::from_secs(120),
        async || {
            let probe = async { client.get(&url).send().await?.error_for_status() };
            server.look(probe.await.context("asking /readyz"))
        },
    )
    .await?;
    Ok(server)
}

/// Starts the controllers and the scheduler; the API server must answer.
///
/// # Errors
/// When they cannot be started.
pub(super) fn controllers(site: &Site, certs: &Certs<'_>) -> Result<Vec<Server>> {
    let kubeconfig = |name: &str| {
        site.dir
            .join(format!("{name}.kubeconfig"))
            .display()
            .to_string()
    };
    let common = |name: &str, port: u16| {
        vec![
            format!("--kubeconfig={}", kubeconfig(name)),
            format!("--authentication-kubeconfig={}", kubeconfig(name)),
            format!("--authorization-kubeconfig={}", kubeconfig(name)),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            "--leader-elect=false".to_owned(),
            "--profiling=false".to_owned(),
        ]
    };
    let mut manager = common("controllers", site.ports.controllers);
    manager.extend([
        "--use-service-account-credentials=true".to_owned(),
        format!(
            "--service-account-private-key-file={}",
            certs.path("sa.key")
        ),
        format!("--root-ca-file={}", certs.path("ca.crt")),
        format!("--cluster-signing-cert-file={}", certs.path("ca.crt")),
        format!("--cluster-signing-key-file={}", certs.path("ca.key")),
        // The defaults allow five Deployments a second, whatever tool makes them.
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=2000".to_owned(),
    ]);
    let mut scheduler = common("scheduler", site.ports.scheduler);
    scheduler.extend([
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=2000".to_owned(),
    ]);
    Ok(vec![
        Server::start(
            site,
            "kube-controller-manager",
            site.program("kube-controller-manager"),
            &manager,
        )?,
        Server::start(
            site,
            "kube-scheduler",
            site.program("kube-scheduler"),
            &scheduler,
        )?,
    ])
}
