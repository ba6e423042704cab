//! Answers: how bodies, problems and their headers are put into HTTP.
//!
//! Used by every handler. Every refusal is a problem as `application/problem+json`; nothing that is
//! sent may be cached.

use std::convert::Infallible;

use bytes::Bytes;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use proto::error::Code;
use proto::error::PROBLEM_JSON;
use proto::error::Problem;
use serde::Serialize;

use crate::journal::Fault;
use crate::runs::SubmitError;
use crate::telemetry::Chain;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub type Answer = Response<Body>;

/// What a client waits for before it tries again, in seconds.
const RETRY_AFTER: &str = "5";

/// A request that is refused.
#[derive(Debug)]
pub struct Refusal {
    /// What the caller is told.
    pub problem: Box<Problem>,
    /// The methods that the path takes.
    allow: Option<&'static str>,
    /// Whether the connection ends with the answer.
    close: bool,
}

impl Refusal {
    /// Refuses with a code.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    /// Refuses with 400.
    #[must_use]
    pub fn bad(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem.hint = Some(hint.into());
        self
    }

    /// Adds the methods that the path takes.
    #[must_use]
    pub const fn allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// Ends the connection with the answer.
    #[must_use]
    pub const fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// Makes the answer. `path` is where the request went.
    #[must_use]
    pub fn answer(mut self, path: &str) -> Answer {
        self.problem.instance.get_or_insert_with(|| path.to_owned());
        let status =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = json(status, &*self.problem);
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(methods) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        answer
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            allow: None,
            close: false,
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        tracing::error!(error = %Chain(&fault), "the journal does not work");
        Self::new(Code::Unavailable, "the agent's journal does not work")
            .hint("tell the operator to look at the disk of the agent")
    }
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Draining => Self::new(Code::Unavailable, error.to_string())
                .hint("try again when the agent is back"),
            SubmitError::Full { .. } => {
                Self::new(Code::Unavailable, error.to_string()).hint("try again in a while")
            }
            SubmitError::OtherBody => Self::new(
                Code::IdempotencyConflict,
                "this Idempotency-Key came with another body within the last 24 hours",
            )
            .hint("send a fresh key for each new request"),
            SubmitError::Journal(fault) => fault.into(),
            SubmitError::Randomness(_) => {
                tracing::error!(error = %Chain(&error), "no run id");
                Self::new(Code::Internal, "the run got no id")
            }
        }
    }
}

/// Makes an answer with a JSON body.
#[must_use]
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => full(status, "application/json", bytes),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            full(StatusCode::INTERNAL_SERVER_ERROR, "application/json", "{}")
        }
    }
}

/// Makes an answer with a body that is there.
#[must_use]
pub fn full(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).boxed_unsync();
    with_body(status, kind, body)
}

/// Makes an answer with any body.
#[must_use]
pub fn with_body(status: StatusCode, kind: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
