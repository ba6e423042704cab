//! One small HTTP client for servers of the stand.
//!
//! Used by the files of the servers to see whether they answer and to set OpenBao up. Invariant: every call is
//! bounded in time and no proxy of the environment is used.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use reqwest::Certificate;
use reqwest::Client;
use reqwest::Method;
use serde_json::Value;

/// Longest that one call to a server of the stand may take.
const CALL: Duration = Duration::from_secs(30);

/// A client; with `authority`, one that trusts only that.
///
/// # Errors
/// When the certificate cannot be read.
pub(super) fn client(authority: Option<&[u8]>) -> Result<Client> {
    // Whoever installs a provider first wins; all of ours are the same one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    // No connection waits to be used again: one that the server just closed would fail a call that cannot be repeated.
    let builder = Client::builder()
        .no_proxy()
        .timeout(CALL)
        .pool_max_idle_per_host(0);
    let builder = match authority {
        Some(pem) => builder.tls_certs_only([Certificate::from_pem(pem)?]),
        None => builder.tls_certs_only([]),
    };
    builder.build().context("making an HTTP client")
}

/// Gets a page as text.
///
/// # Errors
/// When nobody answers, or with another status than success.
pub(super) async fn get(url: &str) -> Result<String> {
    let response = client(None)?.get(url).send().await?;
    let status = response.status();
    let text = response.text().await?;
    if !status.is_success() {
        bail!("{url} answered {status}: {text}");
    }
    Ok(text)
}

/// Calls OpenBao or Vault and returns status and body.
///
/// # Errors
/// When nobody answers or the answer is not JSON.
pub(super) async fn vault(
    addr: &str,
    token: &str,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(u16, Value)> {
    let mut request = client(None)?.request(method, format!("{addr}/v1/{path}"));
    if !token.is_empty() {
        request = request.header("X-Vault-Token", token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request
        .send()
        .await
        .with_context(|| format!("calling OpenBao at {path}"))?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    let value = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).context("answer of OpenBao")?
    };
    Ok((status, value))
}
