//! The real node: containerd and kubelet, with a bridge, pods' addresses and cgroups of the stand's own.
//!
//! Started by `servers`, only inside namespaces. containerd does not need the cluster and starts beside it; the
//! kubelet exits when containerd does not answer, so it starts last. Invariant: everything starts from empty
//! folders, otherwise the kubelet registers too late.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use serde_json::Value;
use serde_json::json;

use super::image;
use super::isolate;
use super::kubernetes::Cluster;
use super::layout::NODE_ADDRESS;
use super::layout::NODE_NAME;
use super::layout::POD_NETWORK;
use super::layout::Site;
use super::process;
use super::process::Server;
use crate::wait::Look;
use crate::wait::until;

/// The bridge that pods and the node share.
const BRIDGE: &str = "pods0";

/// Makes the bridge with the node's address.
///
/// # Errors
/// When the kernel refuses.
pub(super) async fn network(site: &Site) -> Result<()> {
    let address = format!("{NODE_ADDRESS}/16");
    for words in [
        &["link", "add", BRIDGE, "type", "bridge"][..],
        &["addr", "add", &address, "dev", BRIDGE],
        &["link", "set", BRIDGE, "up"],
    ] {
        process::run(process::command(site, "ip").args(words)).await?;
    }
    Ok(())
}

/// Starts containerd and gives it the pause image.
///
/// # Errors
/// When it is not installed or does not answer.
pub(super) async fn containerd(site: &Site) -> Result<Server> {
    let dir = site.folder("containerd")?;
    let cni = site.folder("cni")?;
    let network = json!({ "cniVersion": "1.0.0", "name": "stand", "plugins": [
        { "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": false, "hairpinMode": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": POD_NETWORK, "gateway": NODE_ADDRESS }]],
            "routes": [{ "dst": "0.0.0.0/0" }], "dataDir": site.folder("cni-data")? } },
    ] });
    fs::write(
        cni.join("10-stand.conflist"),
        serde_json::to_vec_pretty(&network)?,
    )?;
    let socket = "/run/containerd/containerd.sock";
    let config = format!(
        r#"version = 2
root = "{root}"
state = "/run/containerd"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"
"#,
        root = dir.display(),
        pause = image::PAUSE,
        cni = cni.display(),
    );
    let path = site.dir.join("containerd.toml");
    fs::write(&path, config)?;
    let mut server = Server::start(
        site,
        "containerd",
        "containerd",
        &["--config".to_owned(), path.display().to_string()],
    )?;
    until("containerd", Duration::from_secs(60), async || {
        let mut version = process::command(site, "ctr");
        version.args(["--address", socket, "version"]);
        server.look(process::run(&mut version).await)
    })
    .await?;
    let mut import = process::command(site, "ctr");
    import
        .args([
            "--address",
            socket,
            "--namespace",
            "k8s.io",
            "images",
            "import",
        ])
        .arg(image::busybox_archive(&site.cache));
    process::run(&mut import)
        .await
        .context("giving containerd the pause image")?;
    Ok(server)
}

/// Starts the kubelet; containerd and the API server must answer.
///
/// # Errors
/// When it cannot be started.
pub(super) fn kubelet(site: &Site) -> Result<Server> {
    let cgroup = site.cgroup();
    isolate::make_cgroups(&cgroup)?;
    fs::write(site.dir.join("resolv.conf"), "")?;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": false,
        "failSwapOn": false,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        // Nobody answers there; without an address every pod gets a warning event.
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "resolvConf": site.dir.join("resolv.conf"),
        "imageGCHighThresholdPercent": 100,
        "evictionHard": { "memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%" },
        "volumePluginDir": site.folder("kubelet-plugins")?,
        "registryPullQPS": 50,
        "registryBurst": 100,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "eventRecordQPS": 0,
        "serializeImagePulls": false,
        "maxPods": 250,
    });
    let path = site.dir.join("kubelet.json");
    fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
    let arguments = [
        format!(
            "--kubeconfig={}",
            site.dir.join("kubelet.kubeconfig").display()
        ),
        format!("--config={}", path.display()),
        format!("--node-ip={NODE_ADDRESS}"),
        format!("--hostname-override={NODE_NAME}"),
        "--root-dir=/var/lib/kubelet".to_owned(),
    ];
    Server::start(site, "kubelet", site.program("kubelet"), &arguments)
}

/// Waits until the node says that it is ready.
///
/// # Errors
/// When it is not in time, with what its condition said.
pub(super) async fn ready(cluster: &Cluster, kubelet: &mut Server) -> Result<()> {
    until(
        "the node to be ready",
        Duration::from_secs(120),
        async || {
            let node = cluster
                .kubectl(&["get", "node", NODE_NAME, "-o", "json"])
                .await;
            match kubelet.look(node) {
                Look::Ready(text) => judge(&text),
                Look::NotYet(status) => Look::NotYet(status),
                Look::Hopeless(error) => Look::Hopeless(error),
            }
        },
    )
    .await
}

fn judge(text: &str) -> Look<()> {
    let node: Value = serde_json::from_str(text).unwrap_or_default();
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    match ready {
        // The scheduler looks at taints, which follow the condition.
        Some(condition) if condition["status"] == "True" => match node.pointer("/spec/taints") {
            None => Look::Ready(()),
            Some(taints) => Look::NotYet(format!("tainted: {taints}")),
        },
        Some(condition) => Look::NotYet(condition["message"].to_string()),
        None => Look::NotYet("the node has no Ready condition yet".to_owned()),
    }
}
