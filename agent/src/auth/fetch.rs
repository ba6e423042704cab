//! Asks the issuer for its keys: discovery, then the key set that it names.
//!
//! Called by [`super::keys`] only, which decides how often. Bounded in time and size; no redirects,
//! no proxies of the environment, plain HTTP on loopback alone. Errors are for the operator.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use reqwest::Certificate;
use reqwest::Client;
use reqwest::Url;
use serde::Deserialize;

use super::AuthSetupError;
use super::IssuerSettings;
use super::keys::KeySet;
use crate::outbound;

const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(5);
/// GitLab's documents have some 5 KiB.
const MAX_BODY: usize = 256 << 10;

/// Asks one issuer.
pub(super) struct Fetch {
    http: Client,
    issuer: String,
    discovery: Url,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Fetch {
    /// Makes the client; nothing is sent.
    pub(super) fn new(settings: &IssuerSettings) -> Result<Self, AuthSetupError> {
        let issuer = settings.issuer.clone();
        let discovery = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let discovery = allowed(&discovery).map_err(|problem| AuthSetupError {
            key: "url",
            problem: problem.to_owned(),
        })?;
        let http = client(&discovery, settings.ca_file.as_deref())?;
        Ok(Self {
            http,
            issuer,
            discovery,
        })
    }

    /// Fetches the usable keys.
    pub(super) async fn keys(&self) -> Result<KeySet, String> {
        let body = self.get(self.discovery.clone()).await?;
        let found: Discovery = serde_json::from_slice(&body)
            .map_err(|error| format!("the discovery document cannot be read: {error}"))?;
        if found.issuer != self.issuer {
            return Err(format!(
                "the discovery document is of issuer {:?}, configured is {:?}",
                found.issuer, self.issuer
            ));
        }
        let url = allowed(&found.jwks_uri).map_err(|problem| format!("jwks_uri {problem}"))?;
        KeySet::parse(&self.get(url).await?)
    }

    async fn get(&self, url: Url) -> Result<Vec<u8>, String> {
        let what = url.to_string();
        let failed = |error: &reqwest::Error| {
            let mut text = format!("{what}: ");
            let mut cause: Option<&dyn std::error::Error> = Some(error);
            while let Some(error) = cause {
                cause = error.source();
                // The outer layers only say that something below went wrong.
                if cause.is_none() {
                    text.push_str(&error.to_string());
                }
            }
            text
        };
        let answer = self.http.get(url).send().await;
        let answer = answer.map_err(|error| failed(&error))?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("{what}: answered {}", answer.status().as_u16()));
        }
        let mut body = Vec::new();
        let mut chunks = answer.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| failed(&error))?;
            if body.len() + chunk.len() > MAX_BODY {
                return Err(format!("{what}: answered more than 256 KiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Takes a URL that keys may come from.
pub(super) fn allowed(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_no_detail| "is not a URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has user information");
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err("is plain http and not on loopback; expected https"),
        _ => Err("is neither https nor http"),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Makes a client that trusts the machine's roots, or those of a file alone.
pub(super) fn client(url: &Url, ca_file: Option<&Path>) -> Result<Client, AuthSetupError> {
    let mut builder = outbound::builder(CONNECT_LIMIT).timeout(LIMIT);
    if url.scheme() == "http" {
        // Without TLS no roots are needed, and a machine may have none.
        builder = builder.tls_certs_only([]);
    } else if let Some(path) = ca_file {
        builder = builder.tls_certs_only(roots(path)?);
    }
    builder.build().map_err(|error| AuthSetupError {
        key: "url",
        problem: format!("cannot make an HTTP client: {error}"),
    })
}

fn roots(path: &Path) -> Result<Vec<Certificate>, AuthSetupError> {
    let unusable = |problem: String| AuthSetupError {
        key: "ca_file",
        problem: format!("{}: {problem}", path.display()),
    };
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(roots) if !roots.is_empty() => Ok(roots),
        _ => Err(unusable("has no usable PEM certificate".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_alone() {
        for good in [
            "https://git.example.org/x",
            "http://127.0.0.1:1/x",
            "http://[::1]:1/",
            "http://localhost/",
        ] {
            assert!(allowed(good).is_ok(), "{good}");
        }
        for bad in [
            "http://git.example.org",
            "http://127.0.0.1.example.org",
            "http://localhost.example.org",
            "https://u:p@git.example.org",
            "file:///etc/keys",
            "git.example.org",
        ] {
            assert!(allowed(bad).is_err(), "{bad}");
        }
    }
}
