//! HTTP over a unix socket for scenarios: any request, also a wrong one.
//!
//! Scenarios use it where they need to see status, headers and body, or to send what the real client
//! never would. One connection a request, so that nothing of an earlier one is left.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::Request;
use hyper::header::HeaderMap;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

/// Longest that a request of a scenario may take.
const LONGEST: Duration = Duration::from_secs(180);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Returns the body as JSON.
    ///
    /// # Errors
    /// When it is something else.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// Returns the body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the stable code of a problem; empty for anything else.
    #[must_use]
    pub fn code(&self) -> String {
        self.json()
            .ok()
            .and_then(|body| body["code"].as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// A caller of one socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    headers: Vec<(String, String)>,
}

impl Client {
    /// Makes a caller that sends the client header and nothing else.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        let headers = vec![("x-quaymaster-client".to_owned(), "scenario/1".to_owned())];
        Self {
            socket: socket.to_owned(),
            headers,
        }
    }

    /// Adds a header to every request.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a header out of every request.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(have, _)| have != name);
        self
    }

    /// Calls as a job with this id_token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the agent cannot be reached or does not answer.
    pub async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
        tokio::time::timeout(LONGEST, self.send_now(method, path, body.into()))
            .await
            .with_context(|| format!("{method} {path} took longer than {LONGEST:?}"))?
            .with_context(|| format!("{method} {path}"))
    }

    async fn send_now(&self, method: &str, path: &str, body: Bytes) -> Result<Answer> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .context("connecting to the socket")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "quaymaster");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body))?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Answer {
                status: parts.status.as_u16(),
                headers: parts.headers,
                body,
            })
        };
        tokio::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        let mut open = true;
        loop {
            tokio::select! {
                // The answer is all that is wanted; the connection ends with it.
                answer = &mut exchange => return answer,
                // The exchange reports whatever the end of the connection means to it.
                _ = &mut connection, if open => open = false,
            }
        }
    }

    /// Sends a GET.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send("GET", path, Bytes::new()).await
    }

    /// Sends raw bytes and returns what comes back until the agent closes, or a second passes.
    ///
    /// # Errors
    /// When the socket cannot be connected to.
    pub async fn raw(&self, bytes: &[u8]) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        // The agent may close before it has read everything; what it says is read all the same.
        let _cut = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let mut read = std::pin::pin!(stream.read_to_end(&mut answer));
        let _open = tokio::time::timeout(Duration::from_secs(10), &mut read).await;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}
