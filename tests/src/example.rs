//! The examples as files, and their pages as a browser sees them.
//!
//! Called by the demo and the scenarios that deploy examples. Pages are fetched from inside the stand's network.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use serde_json::Value;

use crate::stand::Stand;

/// The folder of an example.
#[must_use]
pub fn folder(way: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(way)
}

/// Reads all files of a folder, by their paths in it.
///
/// # Errors
/// When one cannot be read, or is no text.
pub fn files(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root)?.display().to_string();
                found.insert(name, fs::read_to_string(&path)?);
            }
        }
    }
    Ok(found)
}

/// A pod that serves.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its address, as the stand's network knows it.
    pub address: String,
}

/// Lists the ready pods of a namespace.
///
/// # Errors
/// When kubectl fails.
pub async fn pods(stand: &Stand, namespace: &str) -> Result<Vec<Pod>> {
    let text = stand
        .kubectl(&["-n", namespace, "get", "pods", "-o", "json"])
        .await?;
    let list: Value = serde_json::from_str(&text)?;
    let mut found = Vec::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let conditions = pod["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let ready = conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        let leaving = !pod["metadata"]["deletionTimestamp"].is_null();
        if let (true, false, Some(name), Some(address)) = (
            ready,
            leaving,
            pod["metadata"]["name"].as_str(),
            pod["status"]["podIP"].as_str(),
        ) {
            found.push(Pod {
                name: name.to_owned(),
                address: address.to_owned(),
            });
        }
    }
    Ok(found)
}

/// Fetches the page of a pod.
///
/// # Errors
/// When it is not served.
pub async fn page(stand: &Stand, pod: &Pod) -> Result<String> {
    let url = format!("http://{}:8080/", pod.address);
    let output = stand
        .inside("curl")
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "10",
            &url,
        ])
        .output()
        .await
        .context("starting curl")?;
    if !output.status.success() {
        bail!(
            "the page of {} cannot be fetched: {}",
            pod.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
