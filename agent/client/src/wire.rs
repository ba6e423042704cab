//! One call to the agent: HTTP/1.1 over its unix socket.
//!
//! Called by `follow` and `commands`. A connection serves one call, because calls are rare and a
//! fresh connection finds a restarted agent. Every call is bounded in time and its answer in size.
//! Tokens travel in headers that are marked sensitive; no error ever holds one.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::AUTHORIZATION;
use hyper::header::HOST;
use hyper::header::HeaderValue;
use hyper_util::rt::TokioIo;
use proto::error::Code;
use proto::error::Problem;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// How long the agent may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the agent may take to answer, beyond what it was asked to wait.
const ANSWER_LIMIT: Duration = Duration::from_secs(70);
/// Bytes of an answer that is no stream.
const ANSWER_SIZE_LIMIT: usize = 16 << 20;
/// What the agent is told about us.
const CLIENT: &str = concat!("quaymaster/", env!("CARGO_PKG_VERSION"));

/// The agent, and who we are to it.
#[derive(Debug)]
pub(crate) struct Agent {
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// `Bearer` and the id token.
    pub(crate) id_token: Option<HeaderValue>,
    /// The Vault token.
    pub(crate) vault_token: Option<HeaderValue>,
}

/// What to ask.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: hyper::Method,
    path: String,
    key: Option<HeaderValue>,
    body: Option<(&'static str, Bytes)>,
    wait: Duration,
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The body.
    pub(crate) body: Bytes,
}

/// Why a call has no answer. Each of them may pass: the agent may be restarting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody listens.
    #[error("the agent cannot be reached at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the agent broke")]
    Cut(#[source] hyper::Error),
    /// The answer broke off or was too long.
    #[error("the agent's answer is incomplete")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing came in time.
    #[error("the agent did not answer in time")]
    Silent,
    /// The call cannot be written as HTTP.
    #[error("the call cannot be made")]
    Request(#[source] hyper::http::Error),
}

impl Call {
    /// Asks for a path.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: hyper::Method::GET,
            path: path.into(),
            key: None,
            body: None,
            wait: Duration::ZERO,
        }
    }

    /// Posts nothing.
    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self {
            method: hyper::Method::POST,
            ..Self::get(path)
        }
    }

    /// Carries a body of a media type.
    pub(crate) fn carry(self, media: &'static str, body: Bytes, key: HeaderValue) -> Self {
        Self {
            key: Some(key),
            body: Some((media, body)),
            ..self
        }
    }

    /// Carries a bundle of which nothing is made that a key could find again.
    pub(crate) fn bundle(self, body: Bytes) -> Self {
        Self {
            body: Some(("application/x-tar", body)),
            ..self
        }
    }

    /// Carries JSON that does the same when it comes twice.
    pub(crate) fn json(self, body: Bytes) -> Self {
        Self {
            body: Some(("application/json", body)),
            ..self
        }
    }

    /// Says how long the agent is asked to wait before it answers.
    pub(crate) fn wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }
}

/// A connection's own task; dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Connection(JoinHandle<Result<(), hyper::Error>>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Agent {
    /// Makes a call and reads the whole answer.
    ///
    /// # Errors
    /// [`CallError`] when there is no complete answer; an answer of any status is no error.
    pub(crate) async fn call(&self, call: &Call) -> Result<Answer, CallError> {
        let limit = ANSWER_LIMIT + call.wait;
        let whole = async {
            let (response, _connection) = self.open(call).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_SIZE_LIMIT);
            let body = body.collect().await.map_err(CallError::Body)?.to_bytes();
            Ok(Answer { status, body })
        };
        timeout(limit, whole).await.map_err(silent)?
    }

    /// Makes a call and returns once the answer begins.
    ///
    /// # Errors
    /// As [`Agent::call`].
    pub(crate) async fn stream(
        &self,
        call: &Call,
    ) -> Result<(Response<Incoming>, Connection), CallError> {
        let opened = timeout(ANSWER_LIMIT, self.open(call)).await;
        opened.map_err(silent)?
    }

    async fn open(&self, call: &Call) -> Result<(Response<Incoming>, Connection), CallError> {
        let unreachable = |source| CallError::Connect {
            socket: self.socket.clone(),
            source,
        };
        let stream = timeout(CONNECT_LIMIT, UnixStream::connect(&self.socket)).await;
        let stream = stream.map_err(silent)?.map_err(unreachable)?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(CallError::Cut)?;
        let connection = Connection(tokio::spawn(connection));
        let request = self.request(call)?;
        let response = sender.send_request(request).await.map_err(CallError::Cut)?;
        Ok((response, connection))
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, CallError> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header(HOST, "quaymaster")
            .header(proto::CLIENT_HEADER, CLIENT);
        if let Some(token) = &self.id_token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(token) = &self.vault_token {
            request = request.header(proto::VAULT_TOKEN_HEADER, token);
        }
        if let Some(key) = &call.key {
            request = request.header("idempotency-key", key);
        }
        if let Some((media, _)) = call.body {
            request = request.header("content-type", media);
        }
        let body = call.body.as_ref().map(|(_, body)| body.clone());
        let body = Full::new(body.unwrap_or_default());
        request.body(body).map_err(CallError::Request)
    }
}

fn silent(_: Elapsed) -> CallError {
    CallError::Silent
}

impl CallError {
    /// Returns one line with the cause.
    pub(crate) fn message(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text
    }

    /// Returns the problem that stands for it when it did not pass.
    pub(crate) fn problem(&self) -> Problem {
        let problem = Problem::new(Code::Unavailable, self.message());
        match self {
            Self::Connect { .. } => problem.hint(
                "check that the runner mounts the agent's jobs folder into the job and that \
                 quaymasterd runs; --socket or QUAYMASTER_SOCKET names another socket",
            ),
            Self::Cut(_) | Self::Body(_) | Self::Silent => problem.hint(
                "the agent may be restarting; if this goes on, its operator finds why in its log",
            ),
            Self::Request(_) => Problem::new(Code::BadRequest, self.message()),
        }
    }
}

impl Answer {
    /// Returns the body of a success, or the problem.
    ///
    /// # Errors
    /// The problem that the agent told, or one that stands for an answer that is none of ours.
    pub(crate) fn success(self) -> Result<Bytes, Problem> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        Err(self.problem())
    }

    /// Returns the problem of a refusal.
    pub(crate) fn problem(&self) -> Problem {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| {
            let code = match self.status.as_u16() {
                401 => Code::TokenUntrusted,
                403 => Code::Denied,
                404 => Code::NotFound,
                409 => Code::Superseded,
                413 => Code::TooLarge,
                503 => Code::Unavailable,
                504 => Code::StillRunning,
                400..=499 => Code::BadRequest,
                _ => Code::Internal,
            };
            let status = self.status;
            Problem::new(
                code,
                format!("the agent answered {status} without an explanation"),
            )
        })
    }
}
