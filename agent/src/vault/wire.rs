//! One HTTP exchange with Vault: sends a vaultrs endpoint through our own HTTP client.
//!
//! Called by [`super`] only. vaultrs's own client loses the `Retry-After` header and whether a
//! request left at all, so this file gives rustify another transport and classifies what came
//! back. Invariant: nothing that this file returns as a failure holds a token or a secret value.

use std::future::Future;
use std::pin::Pin;

use http::Request;
use http::Response;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use rustify::Endpoint;
use rustify::errors::ClientError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use vaultrs::api::EndpointMiddleware;
use vaultrs::api::EndpointResult;
use zeroize::Zeroize;
use zeroize::Zeroizing;

use deploy::ports::SecretsError;
use deploy::secret::Secret;

/// An answer longer than this is not one of Vault's.
const ANSWER_LIMIT: usize = 16 << 20;

/// The transport that rustify endpoints run on; clones share its connections.
#[derive(Clone)]
pub(super) struct Wire {
    /// Scheme, host and port.
    pub(super) base: String,
    /// The namespace header; unset sends none.
    pub(super) namespace: Option<String>,
    /// Our own client: no redirects, no proxy, bounded, pinned roots.
    pub(super) http: reqwest::Client,
}

/// Why an exchange gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The token cannot be sent in a header.
    BadToken,
    /// No connection came about: the request surely had no effect.
    NotSent {
        /// In words, such as `connection refused`.
        reason: String,
    },
    /// The request left and no whole answer came.
    Cut {
        /// In words.
        reason: String,
    },
    /// Vault answered with a status that is not a success.
    Refused(Refusal),
    /// A success whose body makes no sense.
    Garbled,
    /// The call was to be made with the agent's own token, and there is none that works.
    NoOwnToken(SecretsError),
}

/// The answer of a call that succeeded; its body is wiped on drop.
pub(super) struct Reply {
    body: Zeroizing<Vec<u8>>,
    /// The server's time.
    pub(super) at: Option<Timestamp>,
}

impl Reply {
    /// Reads the body. The parser's error may quote a value, so it goes no further.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|_quotes_the_body| Failure::Garbled)
    }

    /// Takes an answer that says only that something is done: without a body, or in Vault's form. A page
    /// with a good status from something in between is neither.
    pub(super) fn done(&self) -> Result<(), Failure> {
        if self.body.is_empty() {
            return Ok(());
        }
        self.parse::<Done>().map(drop)
    }
}

/// The envelope of an answer whose shape is not known beforehand.
pub(super) type Envelope = EndpointResult<Value>;

/// An answer with a status that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Refusal {
    /// The status.
    pub(super) code: u16,
    /// Vault's words; empty where the body is not Vault's.
    pub(super) errors: Vec<String>,
    /// Whether the body is Vault's own form.
    pub(super) speaks_vault: bool,
    /// Whether the body describes a deleted or destroyed KV v2 version.
    pub(super) tombstone: bool,
    /// What the server asked to wait.
    pub(super) retry_after_seconds: Option<u64>,
}

/// What the transport tells through rustify's error, which has no room for it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no answer from Vault")]
struct Lost(Failure);

/// What an answer without a result may have in it: warnings, and fields of Vault's form that are empty.
#[derive(Deserialize)]
struct Done {
    #[serde(rename = "data")]
    _data: Option<serde_json::Map<String, Value>>,
    #[serde(rename = "warnings")]
    _warnings: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Option<Vec<String>>,
    data: Option<Value>,
}

impl Wire {
    /// Runs an endpoint and returns the envelope of its answer.
    pub(super) async fn ask<E: Endpoint>(
        &self,
        token: Option<&Secret>,
        endpoint: E,
    ) -> Result<Envelope, Failure> {
        self.call(token, endpoint).await?.parse()
    }

    /// Runs an endpoint.
    pub(super) async fn call<E: Endpoint>(
        &self,
        token: Option<&Secret>,
        endpoint: E,
    ) -> Result<Reply, Failure> {
        let mut middle = EndpointMiddleware {
            token: token.map_or(Ok(String::new()), header_text)?,
            version: "v1".to_owned(),
            wrap: None,
            namespace: self.namespace.clone(),
        };
        let result = endpoint.with_middleware(&middle).exec(self).await;
        middle.token.zeroize();
        let response = result.map_err(|error| failure_of(&error))?.response;
        if response.status().is_success() {
            return Ok(Reply {
                at: date(&response),
                body: Zeroizing::new(response.into_body()),
            });
        }
        Err(Failure::Refused(refusal(&response)))
    }

    async fn fetch(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Failure> {
        let request =
            reqwest::Request::try_from(request).map_err(|_no_detail| Failure::NotSent {
                reason: "the request cannot be built".to_owned(),
            })?;
        let mut answer = self.http.execute(request).await.map_err(|e| lost(&e))?;
        let mut response = Response::new(Vec::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        while let Some(chunk) = answer.chunk().await.map_err(|e| lost(&e))? {
            if response.body().len() + chunk.len() > ANSWER_LIMIT {
                return Err(Failure::Cut {
                    reason: "the answer is too long".to_owned(),
                });
            }
            response.body_mut().extend_from_slice(&chunk);
        }
        Ok(response)
    }
}

type Sending<'f> =
    Pin<Box<dyn Future<Output = Result<Response<Vec<u8>>, ClientError>> + Send + 'f>>;

// Written out because the trait is made with a macro crate that we do not need otherwise.
impl rustify::client::Client for Wire {
    fn base(&self) -> &str {
        &self.base
    }

    fn send<'a, 'f>(&'a self, request: Request<Vec<u8>>) -> Sending<'f>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            self.fetch(request).await.map_err(|failure| {
                let source = anyhow::Error::new(Lost(failure));
                ClientError::GenericError { source }
            })
        })
    }

    /// Passes refusals on as they are: the provided method drops their headers.
    fn execute<'a, 'f>(&'a self, request: Request<Vec<u8>>) -> Sending<'f>
    where
        'a: 'f,
        Self: 'f,
    {
        self.send(request)
    }
}

/// Returns the token as a header text; vaultrs would panic on one that is not fit for it.
pub(super) fn header_text(token: &Secret) -> Result<String, Failure> {
    let bytes = token.reveal();
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(Failure::BadToken);
    }
    String::from_utf8(bytes.to_vec()).map_err(|_unreachable_for_ascii| Failure::BadToken)
}

/// Reads when the server answered.
fn date<T>(response: &Response<T>) -> Option<Timestamp> {
    let text = response.headers().get(http::header::DATE)?.to_str().ok()?;
    DateTimeParser::new().parse_timestamp(text).ok()
}

fn failure_of(error: &ClientError) -> Failure {
    match error {
        ClientError::GenericError { source } => source.downcast_ref::<Lost>().map_or_else(
            || Failure::NotSent {
                reason: "the request cannot be built".to_owned(),
            },
            |lost| lost.0.clone(),
        ),
        // Everything else arises before our transport is called.
        ClientError::DataParseError { .. }
        | ClientError::EndpointBuildError { .. }
        | ClientError::RequestError { .. }
        | ClientError::RequestBuildError { .. }
        | ClientError::ReqwestBuildError { .. }
        | ClientError::ResponseError { .. }
        | ClientError::ResponseConversionError { .. }
        | ClientError::ResponseParseError { .. }
        | ClientError::ServerResponseError { .. }
        | ClientError::UrlBuildError { .. }
        | ClientError::UrlQueryParseError { .. }
        | ClientError::UrlParseError { .. } => Failure::NotSent {
            reason: "the request cannot be built".to_owned(),
        },
    }
}

fn lost(error: &reqwest::Error) -> Failure {
    let reason = if error.is_timeout() {
        "timed out".to_owned()
    } else {
        innermost(error)
    };
    if error.is_connect() || error.is_builder() {
        Failure::NotSent { reason }
    } else {
        Failure::Cut { reason }
    }
}

/// Returns the text of the last source: the layers above only repeat the address.
fn innermost(error: &reqwest::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(next) = source.source() {
        source = next;
    }
    source.to_string().chars().take(200).collect()
}

impl Refusal {
    /// Says whether Vault's words have one of these in them.
    pub(super) fn says(&self, texts: &[&str]) -> bool {
        let has = |error: &String| texts.iter().any(|text| error.contains(text));
        self.errors.iter().any(has)
    }
}

fn refusal(response: &Response<Vec<u8>>) -> Refusal {
    let retry_after_seconds = response
        .headers()
        .get(http::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let body: Option<ErrorBody> = serde_json::from_slice(response.body()).ok();
    let tombstone = body
        .as_ref()
        .and_then(|body| body.data.as_ref()?.get("metadata")?.as_object())
        .is_some();
    let errors = body.and_then(|body| body.errors);
    Refusal {
        code: response.status().as_u16(),
        speaks_vault: errors.is_some() || tombstone,
        errors: errors.unwrap_or_default(),
        tombstone,
        retry_after_seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, body: &str) -> Response<Vec<u8>> {
        Response::builder()
            .status(code)
            .body(body.as_bytes().to_vec())
            .expect("a status and a body make a response")
    }

    #[test]
    fn a_deleted_version_is_told_from_a_missing_secret() {
        let deleted = r#"{"data":{"data":null,"metadata":{"version":2,"deletion_time":"x"}}}"#;
        assert!(refusal(&answer(404, deleted)).tombstone);
        let missing = refusal(&answer(404, r#"{"errors":[]}"#));
        assert!(!missing.tombstone && missing.speaks_vault);
    }

    #[test]
    fn retry_after_is_kept_and_a_proxys_page_is_not_vaults() {
        let mut response = answer(429, "<html>slow down</html>");
        let value = http::HeaderValue::from_static("7");
        response
            .headers_mut()
            .insert(http::header::RETRY_AFTER, value);
        let refusal = refusal(&response);
        assert_eq!(refusal.retry_after_seconds, Some(7));
        assert!(!refusal.speaks_vault && refusal.errors.is_empty());
    }

    #[test]
    fn the_servers_time_is_read() {
        let mut response = answer(200, "{}");
        let value = http::HeaderValue::from_static("Fri, 27 Nov 2026 23:38:24 GMT");
        response.headers_mut().insert(http::header::DATE, value);
        let at = date(&response).expect("it is HTTP's form");
        assert_eq!(at.to_string(), "2026-11-27T23:38:24Z");
        assert_eq!(date(&answer(200, "{}")), None);
    }

    #[test]
    fn tokens_that_cannot_be_header_text_are_refused() {
        for bad in ["", "s.abc\n", "s.a b", "s.ä"] {
            let token = Secret::from_text(bad.to_owned());
            assert_eq!(header_text(&token), Err(Failure::BadToken), "{bad:?}");
        }
        let good = Secret::from_text("hvs.CAESIJ_x-1".to_owned());
        assert_eq!(header_text(&good).as_deref(), Ok("hvs.CAESIJ_x-1"));
    }
}
