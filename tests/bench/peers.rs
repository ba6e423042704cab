//! What others need for the same objects on the same API server: the raw limit, kubectl, Helm.
//!
//! Used by `deploys`. The raw limit is nothing but concurrent server-side apply requests of one client, 16 at a
//! time, with the agent's identity acting as the same job: no plan, no check, no judgement.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use serde_json::Value;
use tests::stand::Stand;
use tests::world::World;
use tokio::process::Command;
use tokio::time::Instant;

use crate::mix::Document;

/// Begins a client of the API server with a kubeconfig's certificate.
pub(crate) fn client(kubeconfig: &Path) -> Result<reqwest::ClientBuilder> {
    let config: Value = serde_json::from_slice(&fs::read(kubeconfig)?)?;
    let pem = |path: &str| -> Result<Vec<u8>> {
        let text = config.pointer(path).and_then(Value::as_str);
        Ok(STANDARD.decode(text.context("the stand's kubeconfig has its certificates inside")?)?)
    };
    let mut identity = pem("/users/0/user/client-certificate-data")?;
    identity.extend(pem("/users/0/user/client-key-data")?);
    let authority = pem("/clusters/0/cluster/certificate-authority-data")?;
    Ok(reqwest::Client::builder()
        .no_proxy()
        .identity(reqwest::Identity::from_pem(&identity)?)
        .tls_certs_only([reqwest::Certificate::from_pem(&authority)?]))
}

/// A client of the API server that acts as a job.
pub(crate) struct Raw {
    client: reqwest::Client,
    server: String,
    project: String,
}

impl Raw {
    /// Makes a client that acts as a job of the world's project.
    pub(crate) fn new(world: &World, server: &str) -> Result<Self> {
        let client = client(&world.stand.facts().kubeconfig_agent)?
            .timeout(Duration::from_secs(60))
            .build()?;
        Ok(Self {
            client,
            server: server.to_owned(),
            project: world.project.clone(),
        })
    }

    /// Applies everything; returns how long it took.
    pub(crate) async fn apply(&self, documents: &[Document]) -> Result<Duration> {
        self.each(documents, "").await
    }

    /// Lets the server check everything as an apply, without writing; returns how long it took.
    pub(crate) async fn dry_run(&self, documents: &[Document]) -> Result<Duration> {
        self.each(documents, "?dryRun=All").await
    }

    async fn each(&self, documents: &[Document], words: &str) -> Result<Duration> {
        let began = Instant::now();
        futures::stream::iter(documents)
            .map(async |document| {
                let path = format!("{}{words}", document.path);
                let yaml = document.yaml.clone();
                self.send(&path, "apply-patch+yaml", yaml).await
            })
            .buffer_unordered(16)
            .try_collect::<()>()
            .await?;
        Ok(began.elapsed())
    }

    /// Sends one patch; `form` is the end of its media type.
    pub(crate) async fn send(&self, path: &str, form: &str, body: String) -> Result<()> {
        let words = [
            ("fieldManager", "raw"),
            ("force", "true"),
            ("fieldValidation", "Strict"),
        ];
        // Only an apply can be forced.
        let words = words
            .iter()
            .filter(|word| form.starts_with("apply") || word.0 != "force");
        let answer = self
            .client
            .patch(format!("{}/{path}", self.server))
            .query(&words.collect::<Vec<_>>())
            .header("content-type", format!("application/{form}"))
            .header("impersonate-user", "gitlab:ci_job:1")
            .header(
                "impersonate-group",
                format!("gitlab:project:{}", self.project),
            )
            .body(body)
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{status} at {path}: {text}");
        Ok(())
    }

    /// Counts the server-side applies that the API server has answered: dry runs and real ones.
    pub(crate) async fn applies(stand: &Stand) -> Result<(u64, u64)> {
        let metrics = stand.kubectl(&["get", "--raw", "/metrics"]).await?;
        let mut counts = (0, 0);
        for line in metrics.lines() {
            if line.starts_with("apiserver_request_total{") && line.contains("verb=\"APPLY\"") {
                let count = line
                    .rsplit(' ')
                    .next()
                    .and_then(|count| count.parse::<f64>().ok());
                let count = count.unwrap_or_default() as u64;
                if line.contains("dry_run=\"All\"") {
                    counts.0 += count;
                } else {
                    counts.1 += count;
                }
            }
        }
        Ok(counts)
    }
}

/// Runs `kubectl apply` with more words; returns how long it took.
pub(crate) async fn kubectl(world: &World, file: &Path, words: &[&str]) -> Result<Duration> {
    let file = file.display().to_string();
    let mut all = vec!["apply", "-f", &file];
    all.extend(words);
    let began = Instant::now();
    world.kubectl(&all).await?;
    Ok(began.elapsed())
}

/// Finds Helm among the stand's programs.
pub(crate) fn helm(stand: &Stand) -> Option<PathBuf> {
    let kubectl = stand.facts().site.program("kubectl");
    let bin = kubectl.parent()?.parent()?;
    let mut found: Vec<PathBuf> = fs::read_dir(bin)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("helm")))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop()
}

/// Installs or upgrades a chart of these objects; returns how long it took.
pub(crate) async fn helm_upgrade(
    world: &World,
    helm: &Path,
    folder: &Path,
    manifests: &str,
) -> Result<Duration> {
    let chart = folder.join("chart");
    fs::create_dir_all(chart.join("templates"))?;
    fs::write(
        chart.join("Chart.yaml"),
        "apiVersion: v2\nname: mix\nversion: 0.1.0\n",
    )?;
    fs::write(chart.join("templates/all.yaml"), manifests)?;
    let began = Instant::now();
    let output = Command::new(helm)
        .args(["upgrade", "--install", "mix"])
        .arg(&chart)
        .args(["-n", &world.namespace])
        .env("KUBECONFIG", &world.stand.facts().kubeconfig_admin)
        .env("HOME", folder)
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(began.elapsed())
}
