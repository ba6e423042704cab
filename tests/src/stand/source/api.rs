//! The few calls of the Kubernetes API that the stand-in makes.
//!
//! Used by [`super::desk`]. Invariant: only `status` is written, and only of the two kinds that are played.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use reqwest::Certificate;
use reqwest::Client;
use reqwest::Identity;
use reqwest::Response;
use serde_json::Value;
use tokio::sync::mpsc::Sender;

use crate::stand::layout::Site;

/// Time between two watches, one of which failed.
const PAUSE: Duration = Duration::from_millis(500);

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A branch of a repository.
    Repository,
    /// A chart in a repository.
    Chart,
}

impl Kind {
    /// Name in the API's paths.
    const fn plural(self) -> &'static str {
        match self {
            Self::Repository => "gitrepositories",
            Self::Chart => "helmcharts",
        }
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    /// The key of an object of this kind.
    pub(super) fn of(kind: Kind, object: &Value) -> Self {
        let text = |field: &str| {
            let value = object["metadata"][field].as_str();
            value.unwrap_or_default().to_owned()
        };
        Self {
            kind,
            namespace: text("namespace"),
            name: text("name"),
        }
    }
}

/// One change that was seen.
pub(super) enum Seen {
    /// It is like this now.
    Is(Key, Box<Value>),
    /// It is no more.
    Gone(Key),
}

/// The API server, with all rights.
pub(super) struct Api {
    client: Client,
    url: String,
}

impl Api {
    pub(super) fn new(site: &Site) -> Result<Self> {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let read = |name: &str| {
            let path = site.dir.join("certs").join(name);
            std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
        };
        let own = [read("admin.crt")?, read("admin.key")?].concat();
        let client = Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .tls_certs_only([Certificate::from_pem(&read("ca.crt")?)?])
            .identity(Identity::from_pem(&own)?)
            .build()
            .context("making an HTTP client")?;
        Ok(Self {
            client,
            url: format!("https://127.0.0.1:{}", site.ports.api),
        })
    }

    /// Sends every object of a kind, then every change, for as long as somebody listens.
    pub(super) async fn watch(&self, kind: Kind, to: Sender<Seen>) {
        while !to.is_closed() {
            // Each watch begins with all objects, so one that is cut loses nothing but deletions of objects,
            // whose status cannot be written any more anyway.
            if self.watch_once(kind, &to).await.is_err() {
                crate::wait::pause(PAUSE).await;
            }
        }
    }

    async fn watch_once(&self, kind: Kind, to: &Sender<Seen>) -> Result<()> {
        let url = format!(
            "{}/apis/source.toolkit.fluxcd.io/v1/{}",
            self.url,
            kind.plural()
        );
        let request = self
            .client
            .get(url)
            .query(&[("watch", "true"), ("timeoutSeconds", "45")]);
        let mut response = request.send().await?.error_for_status()?;
        let mut rest = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line)?;
                let object = event["object"].take();
                let key = Key::of(kind, &object);
                let seen = match event["type"].as_str() {
                    Some("ADDED" | "MODIFIED") => Seen::Is(key, Box::new(object)),
                    Some("DELETED") => Seen::Gone(key),
                    _ => anyhow::bail!("the watch ended: {object}"),
                };
                to.send(seen).await?;
            }
        }
        Ok(())
    }

    /// Values of a Secret.
    pub(super) async fn secret(&self, namespace: &str, name: &str) -> Result<Value> {
        let url = format!("{}/api/v1/namespaces/{namespace}/secrets/{name}", self.url);
        let response = self.client.get(url).send().await?;
        let body = checked(response).await?;
        Ok(body["data"].clone())
    }

    /// Merges `status` into an object's.
    pub(super) async fn set_status(&self, key: &Key, status: &Value) -> Result<()> {
        let url = format!(
            "{}/apis/source.toolkit.fluxcd.io/v1/namespaces/{}/{}/{}/status",
            self.url,
            key.namespace,
            key.kind.plural(),
            key.name
        );
        let body = serde_json::json!({ "status": status }).to_string();
        let request = self.client.patch(url).body(body);
        let request = request.header("content-type", "application/merge-patch+json");
        checked(request.send().await?).await.map(drop)
    }
}

async fn checked(response: Response) -> Result<Value> {
    let status = response.status();
    let body: Value = response.json().await?;
    ensure!(
        status.is_success(),
        "{}",
        body["message"].as_str().unwrap_or_default()
    );
    Ok(body)
}
