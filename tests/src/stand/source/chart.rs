//! HelmChart: a folder of a GitRepository's artifact becomes a packaged chart.
//!
//! Called by [`super::desk`]. With `reconcileStrategy: Revision` the version carries the commit, as source controller has it;
//! otherwise a chart is new only when its version is.

use std::fs;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;

use super::api::Key;
use super::artifacts;
use super::status;
use super::status::Outcome;
use super::status::text;
use crate::stand::layout::Site;
use crate::stand::process;

/// Packages the chart if its version is new; `source` is the GitRepository, if there is one.
pub(super) async fn look(
    site: &Site,
    key: &Key,
    object: &Value,
    source: Option<&Value>,
) -> Outcome {
    let kind = text(&object["spec"]["sourceRef"]["kind"]);
    if kind != "GitRepository" {
        return Outcome::Failed {
            reason: "SourceUnavailable",
            message: format!("the stand-in for source controller does not know charts of a {kind}"),
        };
    }
    let Some(from) = source
        .map(|source| &source["status"]["artifact"])
        .filter(|a| a.is_object())
    else {
        return Outcome::Failed {
            reason: "NoSourceArtifact",
            message: "no artifact available for the source".to_owned(),
        };
    };
    match package(site, key, object, from).await {
        Ok((artifact, chart)) => Outcome::Stored {
            artifact,
            more: json!({ "observedChartName": chart, "observedSourceArtifactRevision": from["revision"] }),
        },
        Err(error) => Outcome::Failed {
            reason: "ChartPackageError",
            message: format!("{error:#}"),
        },
    }
}

async fn package(site: &Site, key: &Key, object: &Value, from: &Value) -> Result<(Value, String)> {
    let spec = &object["spec"];
    ensure!(
        spec["valuesFiles"].as_array().is_none_or(Vec::is_empty),
        "the stand-in for source controller does not know `valuesFiles`"
    );
    let dir = tempfile::tempdir_in(site.folder("tmp")?)?;
    let tree = dir.path().join("tree");
    fs::create_dir_all(&tree)?;
    let mut unpack = process::command(site, "tar");
    unpack
        .arg("-xzf")
        .arg(artifacts(site).join(text(&from["path"])))
        .arg("-C")
        .arg(&tree);
    process::run(&mut unpack).await?;
    let folder = tree.join(text(&spec["chart"]).trim_start_matches("./"));
    let meta = fs::read_to_string(folder.join("Chart.yaml"))
        .with_context(|| format!("no chart found at '{}'", text(&spec["chart"])))?;
    let field = |name: &str| {
        let value = meta
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = value.map(|value| value.trim().trim_matches(['"', '\'']).to_owned());
        value.with_context(|| format!("Chart.yaml has no {name}"))
    };
    let (chart, mut version) = (field("name")?, field("version")?);
    if spec["reconcileStrategy"] == "Revision" {
        let commit = text(&from["revision"])
            .rsplit(':')
            .next()
            .unwrap_or_default();
        version.push_str(&format!("+{}", commit.get(..12).unwrap_or(commit)));
    }
    if let Some(artifact) = status::kept(site, object, &version) {
        return Ok((artifact.clone(), chart));
    }
    let mut helm = process::command(site, site.program("helm"));
    helm.arg("package")
        .arg(&folder)
        .args(["--version", &version, "--destination"]);
    process::run(helm.arg(dir.path())).await?;
    let path = format!(
        "helmchart/{}/{}/{chart}-{version}.tgz",
        key.namespace, key.name
    );
    let file = artifacts(site).join(&path);
    fs::create_dir_all(file.parent().context("an artifact has a folder")?)?;
    fs::rename(dir.path().join(format!("{chart}-{version}.tgz")), &file)?;
    Ok((status::artifact(site, &path, &version)?, chart))
}
