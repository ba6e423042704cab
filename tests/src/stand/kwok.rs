//! kwok: nodes and pods without containers, for scale and for failures that are hard to make with real ones.
//!
//! Started by `servers` after the cluster. Its nodes carry an annotation, by which kwok knows them, and a taint,
//! so that only pods that tolerate `kwok.x-k8s.io/node` land there (without a real node: no taint, everything
//! lands there). What its pods do is in the stage files in `tests/stand/kwok-stages`.

use std::fs;
use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use serde_json::json;

use super::kubernetes::Cluster;
use super::layout::Site;
use super::process::Server;

/// Number of nodes without containers.
const NODES: usize = 2;

/// Starts kwok and makes its nodes.
///
/// # Errors
/// When the stage files are missing or the cluster refuses the nodes.
pub(super) async fn start(site: &Site, cluster: &Cluster) -> Result<Server> {
    let stages = stages(site)?;
    let arguments = [
        format!("--kubeconfig={}", cluster.kubeconfig.display()),
        "--manage-all-nodes=false".to_owned(),
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake".to_owned(),
        format!("--config={}", stages.display()),
        "--node-lease-duration-seconds=40".to_owned(),
        "--cidr=10.99.0.1/24".to_owned(),
        format!("--server-address=127.0.0.1:{}", site.ports.kwok),
    ];
    let server = Server::start(site, "kwok", site.program("kwok"), &arguments)?;
    let taints = if site.isolated {
        json!([{ "key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule" }])
    } else {
        json!([])
    };
    let nodes: Vec<_> = (0..NODES)
        .map(|i| {
            json!({ "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": format!("fake-{i}"), "annotations": { "kwok.x-k8s.io/node": "fake" },
                    "labels": { "type": "kwok", "kubernetes.io/hostname": format!("fake-{i}"), "kubernetes.io/os": "linux" } },
                "spec": { "taints": taints },
                "status": { "allocatable": { "cpu": "64", "memory": "256Gi", "pods": "5000" },
                    "capacity": { "cpu": "64", "memory": "256Gi", "pods": "5000" } } })
        })
        .collect();
    cluster
        .apply(&json!({ "apiVersion": "v1", "kind": "List", "items": nodes }))
        .await?;
    Ok(server)
}

/// Joins the stage files to one, which is what kwok takes.
fn stages(site: &Site) -> Result<std::path::PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("stand/kwok-stages");
    let entries = fs::read_dir(&source).with_context(|| format!("reading {}", source.display()))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    let texts = files
        .iter()
        .map(|file| fs::read_to_string(file).context("reading a stage"))
        .collect::<Result<Vec<_>>>()?;
    let path = site.dir.join("kwok-stages.yaml");
    fs::write(&path, texts.join("---\n"))?;
    Ok(path)
}
