//! The handlers of `/v1/deploys` and `/v1/whoami`: taking a request, showing, following, cancelling.
//!
//! Called by [`super`] with a checked head. Order of a submission: head, token, rule, and only then
//! the body, so that a caller who waits for `100 Continue` never sends what is refused anyway.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy::bundle::Packing;
use deploy::principal::Principal;
use http::HeaderMap;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::body::Incoming;
use proto::error::Code;
use proto::ids::RunId;
use proto::report::Accepted;
use proto::report::Mode;
use proto::report::Report;
use proto::report::RunList;
use proto::report::Status;
use proto::report::WhoAmI;
use sha2::Digest;
use sha2::Sha256;
use tokio::time::Instant;

use super::Site;
use super::answer::Answer;
use super::answer::Refusal;
use super::answer::json;
use super::brain::Asked;
use super::brain::Named;
use super::brain::Wish;
use super::guard::idempotency_key;
use super::guard::presented;
use super::joblog::JobLog;
use super::query::Query;
use super::stream::Writer;
use super::stream::follow;
use crate::auth::Identity;
use crate::clock;
use crate::runs::Run;
use crate::runs::Submission;
use crate::runs::Submitted;

/// Answers `GET /v1/whoami`.
pub async fn whoami(site: &Site, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let principal = identify(site, headers).await?.principal;
    let (rules, nearest) = (site.brain.explain)(&principal);
    let answer = WhoAmI {
        kind: principal.kind().word().to_owned(),
        attributes: principal.attributes().clone(),
        rules,
        nearest,
    };
    Ok(json(StatusCode::OK, &answer))
}

/// Answers `POST /v1/deploys`.
pub async fn submit(
    site: &Site,
    headers: &HeaderMap,
    query: &Query,
    body: Incoming,
) -> Result<Answer, Refusal> {
    let mode = query.mode()?;
    let named = Named {
        plan: query.plan()?,
        promote: query.promote()?,
    };
    let packing = packing(headers)?;
    let key = idempotency_key(headers)?;
    let arrived = arrive(site, headers, key).await?;
    let body = read_bundle(site, body).await?;
    enter_bundle(site, arrived, mode, body, packing, named).await
}

/// Reads a bundle.
pub(super) async fn read_bundle(site: &Site, body: Incoming) -> Result<Bytes, Refusal> {
    let limit = site.limits.bundle.total;
    let hint = "send only the files that quaymaster.yaml names";
    read(body, limit, hint, site.limits.body_time).await
}

/// Makes a run of a bundle, or finds the one that it made before.
pub(super) async fn enter_bundle(
    site: &Site,
    arrived: Arrived,
    mode: Mode,
    body: Bytes,
    packing: Packing,
    named: Named,
) -> Result<Answer, Refusal> {
    let digest = digest(&body, &named);
    let wish = || {
        Ok(Wish::Bundle {
            body,
            packing,
            named,
        })
    };
    enter(site, arrived, mode, digest, wish).await
}

/// A caller who may send a body.
pub(super) struct Arrived {
    pub(super) identity: Identity,
    pub(super) decision: String,
    key: Option<String>,
}

/// Lets a caller in whose body is not read yet.
pub(super) async fn arrive(
    site: &Site,
    headers: &HeaderMap,
    key: Option<String>,
) -> Result<Arrived, Refusal> {
    let identity = identify(site, headers).await?;
    let decision = decision()?;
    (site.brain.admit)(&identity.principal, &decision)?;
    if site.lifecycle.is_draining() && key.is_none() {
        return Err(crate::runs::SubmitError::Draining.into());
    }
    Ok(Arrived {
        identity,
        decision,
        key,
    })
}

/// Makes a run of a body that has come, or finds the one that it made before.
pub(super) async fn enter(
    site: &Site,
    arrived: Arrived,
    mode: Mode,
    digest: [u8; 32],
    wish: impl FnOnce() -> Result<Wish, Refusal>,
) -> Result<Answer, Refusal> {
    let Arrived {
        identity,
        decision,
        key,
    } = arrived;
    let owner = identity.principal.owner_key();
    if let Some(key) = &key
        && let Some(seen) = site.runs.seen(&owner, key, mode, digest).await?
    {
        return Ok(accepted(seen));
    }
    if site.lifecycle.is_draining() {
        return Err(crate::runs::SubmitError::Draining.into());
    }
    let asked = Asked {
        identity,
        wish: wish()?,
        mode,
        decision,
    };
    let prepared = (site.brain.prepare)(asked).await?;
    let submission = Submission {
        owner,
        mode,
        name: prepared.name,
        cluster: prepared.cluster,
        namespace: prepared.namespace,
        key,
        digest,
        work: prepared.work,
        herald: prepared.herald,
    };
    Ok(accepted(site.runs.submit(submission).await?))
}

/// Makes the digest by which a request with the same key is known again: whether it is bound to a plan, or a
/// promotion, is as much of it as the body.
fn digest(body: &[u8], named: &Named) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(body);
    for (word, file) in [("plan", &named.plan), ("promote", &named.promote)] {
        if let Some(file) = file {
            hash.update(word);
            hash.update(file);
        }
    }
    hash.finalize().into()
}

fn accepted(submitted: Submitted) -> Answer {
    let (id, status) = match submitted {
        Submitted::New(id) => (id, Status::Running),
        Submitted::Same(id, status) => (id, status),
    };
    let location = format!("/v1/deploys/{id}");
    let value = HeaderValue::from_str(&location);
    let body = Accepted {
        id,
        status,
        location,
    };
    let mut answer = json(StatusCode::ACCEPTED, &body);
    if let Ok(value) = value {
        answer.headers_mut().insert(header::LOCATION, value);
    }
    answer
}

/// Answers `GET /v1/deploys`.
pub async fn list(site: &Site, headers: &HeaderMap, query: &Query) -> Result<Answer, Refusal> {
    let limit = query.limit()?;
    let after = query.after()?;
    let owner = identify(site, headers).await?.principal.owner_key();
    // One more than asked tells whether there is a next page.
    let mut runs = site.runs.list(&owner, after, limit + 1).await?;
    let more = runs.len() > limit;
    runs.truncate(limit);
    // A page of reports is for an overview; the saved form of a plan is in its own report.
    runs.iter_mut().for_each(|report| report.plan = None);
    let next = runs.last().filter(|_| more).map(|report| report.id.clone());
    Ok(json(StatusCode::OK, &RunList { runs, next }))
}

/// Answers `GET /v1/deploys/{id}`.
pub async fn show(site: &Site, headers: &HeaderMap, id: &RunId) -> Result<Answer, Refusal> {
    let run = find(site, headers, id).await?;
    Ok(json(StatusCode::OK, &*run.report()))
}

/// Answers `GET /v1/deploys/{id}/events`.
pub async fn events(
    site: &Site,
    headers: &HeaderMap,
    query: &Query,
    id: &RunId,
) -> Result<Answer, Refusal> {
    let since = query.since()?;
    let run = find(site, headers, id).await?;
    Ok(follow(run, since, writer(headers), Arc::clone(&site.clock)))
}

/// Chooses the form: text where it is asked for and NDJSON is not.
fn writer(headers: &HeaderMap) -> Writer {
    let accepts = |kind: &str| {
        let values = headers.get_all(header::ACCEPT).iter();
        let mut texts = values.filter_map(|value| value.to_str().ok());
        texts.any(|text| text.to_ascii_lowercase().contains(kind))
    };
    if accepts("text/plain") && !accepts("application/x-ndjson") {
        Writer::Text(JobLog::default())
    } else {
        Writer::Ndjson
    }
}

/// Answers `GET /v1/deploys/{id}/result`.
pub async fn outcome(
    site: &Site,
    headers: &HeaderMap,
    query: &Query,
    id: &RunId,
) -> Result<Answer, Refusal> {
    let wait = query.wait()?;
    let mut run = find(site, headers, id).await?;
    // Who waits follows the run; a connection that ends drops this with the handler.
    let _seat = run.take_seat();
    // Waiting changes nothing, so giving up on it is safe.
    let waited = tokio::time::timeout(wait, run.done()).await;
    let report = waited.unwrap_or_else(|_elapsed| run.report());
    Ok(json(status_of(&report), &*report))
}

/// Maps a verdict to HTTP, so that `curl --fail-with-body` has the right exit code.
fn status_of(report: &Report) -> StatusCode {
    match report.status {
        Status::Succeeded => StatusCode::OK,
        Status::Running => StatusCode::GATEWAY_TIMEOUT,
        Status::Denied => StatusCode::FORBIDDEN,
        Status::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Status::Superseded => StatusCode::CONFLICT,
        Status::Failed
        | Status::RolledBack
        | Status::RollbackFailed
        | Status::Cancelled
        | Status::Interrupted => StatusCode::FAILED_DEPENDENCY,
    }
}

/// Answers `POST /v1/deploys/{id}/cancel`.
pub async fn cancel(site: &Site, headers: &HeaderMap, id: &RunId) -> Result<Answer, Refusal> {
    let run = find(site, headers, id).await?;
    let report = run.report();
    if report.status.is_final() {
        return Ok(json(StatusCode::OK, &*report));
    }
    run.cancel();
    Ok(json(StatusCode::ACCEPTED, &*report))
}

/// Finds a run of the caller; the runs of others are not there.
async fn find(site: &Site, headers: &HeaderMap, id: &RunId) -> Result<Run, Refusal> {
    let principal: Principal = identify(site, headers).await?.principal;
    let found = site.runs.find(&principal.owner_key(), id).await?;
    found.ok_or_else(|| {
        Refusal::new(Code::NotFound, "there is no such run")
            .hint("GET /v1/deploys lists the runs of your project")
    })
}

pub(super) async fn identify(site: &Site, headers: &HeaderMap) -> Result<Identity, Refusal> {
    Ok((site.brain.identify)(presented(headers)?).await?)
}

pub(super) fn decision() -> Result<String, Refusal> {
    clock::decision_id().map_err(|error| {
        tracing::error!(%error, "no randomness");
        Refusal::new(Code::Internal, "the decision got no id")
    })
}

/// Reads how a bundle is packed.
pub(super) fn packing(headers: &HeaderMap) -> Result<Packing, Refusal> {
    let refused = |what| {
        Refusal::new(Code::UnsupportedMediaType, what)
            .hint("send a tar as `application/x-tar`, or a tar.gz as `application/gzip`")
    };
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(refused("no Content-Encoding is taken"));
    }
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let kind = kinds
        .next()
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if kinds.next().is_some() {
        return Err(refused("the request has two Content-Type headers"));
    }
    if kind.eq_ignore_ascii_case("application/x-tar") {
        Ok(Packing::Tar)
    } else if kind.eq_ignore_ascii_case("application/gzip") {
        Ok(Packing::TarGz)
    } else {
        Err(refused("the Content-Type is not one of a bundle"))
    }
}

/// Reads a whole body within its limits of size and time.
pub(super) async fn read(
    body: Incoming,
    limit: u64,
    hint: &'static str,
    time: Duration,
) -> Result<Bytes, Refusal> {
    let too_large = || {
        Refusal::new(Code::TooLarge, format!("the body is over {limit} bytes"))
            .hint(hint)
            .close()
    };
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let deadline = Instant::now() + time;
    let mut body = body;
    let mut bytes = Vec::new();
    loop {
        // A read that is given up ends the request; nothing was begun.
        let frame = tokio::time::timeout_at(deadline, body.frame()).await;
        let late = |_| Refusal::bad(format!("the body took longer than {} s", time.as_secs()));
        let Some(frame) = frame.map_err(late).map_err(Refusal::close)? else {
            return Ok(bytes.into());
        };
        let broken = |_| Refusal::bad("the body was cut off or is not well formed").close();
        let data = frame.map_err(broken)?.into_data();
        let data = data.map_err(|_trailers| Refusal::bad("trailers are not taken").close())?;
        if (bytes.len() + data.len()) as u64 > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
}
