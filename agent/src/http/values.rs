//! The handler of `POST /v1/values`: variables for a command of the job.
//!
//! Called by [`super`] with a checked head. The order of checks is that of a deploy: head, token, rule,
//! and only then the body. There is no run: the answer is the values, they are kept nowhere, and a key
//! that would ask for the same answer again is refused. The bytes of the answer are wiped once they are sent.

use bytes::Bytes;
use http::HeaderMap;
use http::StatusCode;
use hyper::body::Incoming;
use proto::error::Code;
use zeroize::Zeroizing;

use super::Site;
use super::answer::Answer;
use super::answer::Refusal;
use super::answer::full;
use super::brain::Ask;
use super::deploys::Arrived;
use super::deploys::arrive;
use super::deploys::packing;
use super::deploys::read_bundle;
use super::guard::idempotency_key;

/// Answers `POST /v1/values`.
pub async fn values(site: &Site, headers: &HeaderMap, body: Incoming) -> Result<Answer, Refusal> {
    let packing = packing(headers)?;
    if idempotency_key(headers)?.is_some() {
        return Err(
            Refusal::bad("this path takes no Idempotency-Key: no answer is kept")
                .hint("leave it out; asking again is safe"),
        );
    }
    let Arrived {
        identity, decision, ..
    } = arrive(site, headers, None).await?;
    let body = read_bundle(site, body).await?;
    let asked = (site.brain.expose)(Ask {
        identity,
        decision,
        body,
        packing,
    });
    // On a task of its own: a caller that goes away leaves no session in Vault behind.
    let lost = |_| Refusal::new(Code::Internal, "the values could not be read");
    let values = tokio::spawn(asked).await.map_err(lost)??;
    let unwritten = |error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        Refusal::new(Code::Internal, "the answer cannot be written")
    };
    let json = serde_json::to_vec(&values).map(Zeroizing::new);
    let json = json.map_err(unwritten)?;
    Ok(full(
        StatusCode::OK,
        "application/json",
        Bytes::from_owner(Wiped(json)),
    ))
}

/// The bytes of an answer, wiped when the last holder is done with them.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
