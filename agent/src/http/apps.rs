//! The handlers of `/v1/rollbacks` and `/v1/apps`: going back to a revision, and what an app has.
//!
//! Called by [`super`] with a checked head. A rollback is a submission like a deploy: same order of
//! checks, same idempotency, and its run is found under `/v1/deploys`.

use http::HeaderMap;
use http::StatusCode;
use hyper::body::Incoming;
use proto::app::Rollback;
use proto::report::Mode;
use sha2::Digest;
use sha2::Sha256;

use super::Site;
use super::answer::Answer;
use super::answer::Refusal;
use super::answer::json;
use super::brain::Wish;
use super::deploys::arrive;
use super::deploys::decision;
use super::deploys::enter;
use super::deploys::identify;
use super::deploys::read;
use super::guard::idempotency_key;
use super::guard::plain_json;
use super::route::AppName;

/// Names, a number and a duration need no more.
const LIMIT: u64 = 4 << 10;

const FORM: &str = "send {\"name\": \"app\"} and, where needed, cluster, namespace, revision (a \
                    number) and timeout (such as \"10m\")";

/// Answers `POST /v1/rollbacks`.
pub async fn rollback(site: &Site, headers: &HeaderMap, body: Incoming) -> Result<Answer, Refusal> {
    plain_json(headers)?;
    let arrived = arrive(site, headers, idempotency_key(headers)?).await?;
    let body = read(body, LIMIT, FORM, site.limits.body_time).await?;
    let digest = Sha256::digest(&body).into();
    let wish = || {
        let wrong = |error: serde_json::Error| {
            // The position only: the words of the error may quote the body.
            let place = format!("line {} column {}", error.line(), error.column());
            Refusal::bad(format!("the body is no request for a rollback ({place})")).hint(FORM)
        };
        let asked = serde_json::from_slice::<Rollback>(&body).map_err(wrong)?;
        Ok(Wish::Revision(asked))
    };
    enter(site, arrived, Mode::Rollback, digest, wish).await
}

/// Answers `GET /v1/apps/{cluster}/{namespace}/{name}`.
pub async fn show(site: &Site, headers: &HeaderMap, app: AppName) -> Result<Answer, Refusal> {
    let principal = identify(site, headers).await?.principal;
    let told = (site.brain.look)(principal, app, decision()?).await?;
    Ok(json(StatusCode::OK, &told))
}
