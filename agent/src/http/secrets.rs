//! The handlers of `/v1/secrets`: Secrets alone, and a project's Secrets that are kept fresh.
//!
//! Called by [`super`] with a checked head. A bundle is a deploy like any other once it is known to
//! ask for Secrets only; what is kept fresh is asked of the desk, which shows a caller nothing of
//! other projects. The order of checks is that of a deploy: head, token, rule, and only then the body.

use bytes::Bytes;
use deploy::bundle;
use deploy::bundle::Limits;
use deploy::bundle::Packing;
use deploy::bundle::SPEC_FILE;
use deploy::secret::VaultPath;
use deploy::spec;
use http::HeaderMap;
use http::StatusCode;
use hyper::body::Incoming;
use proto::error::Code;
use proto::error::Place;
use proto::error::Problem;
use proto::managed::Changed;
use proto::managed::SecretName;
use serde::de::DeserializeOwned;

use super::Site;
use super::answer::Answer;
use super::answer::Refusal;
use super::answer::json;
use super::brain::Named;
use super::deploys;
use super::deploys::arrive;
use super::deploys::enter_bundle;
use super::deploys::identify;
use super::deploys::read;
use super::deploys::read_bundle;
use super::guard::idempotency_key;
use super::guard::plain_json;
use super::query::Query;
use crate::rotation::Asker;
use crate::rotation::Rotation;

/// A name needs no more.
const NAME_LIMIT: u64 = 4 << 10;
/// What [`MAX_PATHS`] paths need at most.
const PATHS_LIMIT: u64 = 64 << 10;
/// At most so many paths at once.
const MAX_PATHS: usize = 100;

const NAME_FORM: &str = "send {\"name\": \"secret\"} and, where needed, cluster and namespace";
const PATHS_FORM: &str = "send {\"paths\": [\"kv/app/db\"]} with 1 to 100 paths";

/// Answers `POST /v1/secrets`.
pub async fn apply(
    site: &Site,
    headers: &HeaderMap,
    query: &Query,
    body: Incoming,
) -> Result<Answer, Refusal> {
    let mode = query.mode()?;
    let packing = deploys::packing(headers)?;
    let arrived = arrive(site, headers, idempotency_key(headers)?).await?;
    let body = read_bundle(site, body).await?;
    let (looked, limits) = (body.clone(), site.limits.bundle);
    // Unpacking is pure computing: not on a worker that answers requests.
    let alone = tokio::task::spawn_blocking(move || secrets_alone(&looked, packing, &limits));
    let lost = |_| Refusal::new(Code::Internal, "the bundle could not be read");
    alone.await.map_err(lost)??;
    enter_bundle(site, arrived, mode, body, packing, Named::default()).await
}

/// Checks that a bundle asks for Secrets and nothing else. What is wrong with it otherwise is told
/// when it is read as a deploy.
fn secrets_alone(body: &Bytes, packing: Packing, limits: &Limits) -> Result<(), Refusal> {
    let Ok(bundle) = bundle::unpack(body, packing, limits) else {
        return Ok(());
    };
    let file = bundle.files.get(SPEC_FILE);
    let Some(spec) = file.and_then(|file| spec::parse(file).ok()) else {
        return Ok(());
    };
    let objects = [
        ("manifests", !spec.manifests.is_empty()),
        ("kustomize", spec.kustomize.is_some()),
        ("helm", spec.helm.is_some()),
        ("flux", spec.flux.is_some()),
    ];
    let Some((field, _)) = objects.into_iter().find(|(_, is_there)| *is_there) else {
        return Ok(());
    };
    let detail = format!("this path writes Secrets alone, and the spec has '{field}'");
    let problem = Problem::new(Code::SpecInvalid, detail)
        .hint("send it to /v1/deploys (quaymaster deploy), or leave everything but secrets out");
    Err(problem.into())
}

/// Answers `GET /v1/secrets`.
pub async fn list(site: &Site, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let principal = identify(site, headers).await?.principal;
    let told = desk(site)?.list(&Asker::Project(principal));
    Ok(json(StatusCode::OK, &told))
}

/// Answers `POST /v1/secrets/changed`.
pub async fn changed(site: &Site, headers: &HeaderMap, body: Incoming) -> Result<Answer, Refusal> {
    let (asker, asked) = asked::<Changed>(site, headers, body, (PATHS_LIMIT, PATHS_FORM)).await?;
    let paths = vault_paths(&asked.paths)?;
    let taken = desk(site)?.changed(&asker, &paths);
    Ok(json(StatusCode::ACCEPTED, &taken))
}

/// Answers `POST /v1/secrets/rotate`.
pub async fn rotate(site: &Site, headers: &HeaderMap, body: Incoming) -> Result<Answer, Refusal> {
    let (asker, name) = asked::<SecretName>(site, headers, body, (NAME_LIMIT, NAME_FORM)).await?;
    let taken = desk(site)?
        .rotate(&asker, &name)
        .map_err(|problem| *problem)?;
    Ok(json(StatusCode::ACCEPTED, &taken))
}

/// Answers `POST /v1/secrets/forget`.
pub async fn forget(site: &Site, headers: &HeaderMap, body: Incoming) -> Result<Answer, Refusal> {
    let (asker, name) = asked::<SecretName>(site, headers, body, (NAME_LIMIT, NAME_FORM)).await?;
    let taken = desk(site)?.forget(&asker, &name).await?;
    Ok(json(StatusCode::OK, &taken))
}

/// Lets a caller in and reads what it asks; the body is not read before the caller is known.
async fn asked<T: DeserializeOwned>(
    site: &Site,
    headers: &HeaderMap,
    body: Incoming,
    (limit, form): (u64, &'static str),
) -> Result<(Asker, T), Refusal> {
    plain_json(headers)?;
    let principal = identify(site, headers).await?.principal;
    (site.brain.admit)(&principal, &deploys::decision()?)?;
    desk(site)?;
    let body = read(body, limit, form, site.limits.body_time).await?;
    let wrong = |error: serde_json::Error| {
        // The position only: the words of the error may quote the body.
        let place = format!("line {} column {}", error.line(), error.column());
        Refusal::bad(format!("the body is not what this path takes ({place})")).hint(form)
    };
    let asked = serde_json::from_slice(&body).map_err(wrong)?;
    Ok((Asker::Project(principal), asked))
}

fn vault_paths(texts: &[String]) -> Result<Vec<VaultPath>, Refusal> {
    if texts.is_empty() || texts.len() > MAX_PATHS {
        return Err(Refusal::bad("the body names no path, or too many").hint(PATHS_FORM));
    }
    let mut paths = Vec::new();
    let mut wrong = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        match VaultPath::parse(text) {
            Ok(path) => paths.push(path),
            Err(error) => wrong.push(Place {
                path: Some(format!("paths[{number}]")),
                ..Place::message(error.to_string())
            }),
        }
    }
    let Some(first) = wrong.first() else {
        return Ok(paths);
    };
    let detail = format!(
        "{}: {}",
        first.path.as_deref().unwrap_or_default(),
        first.message
    );
    let problem = Problem::new(Code::BadRequest, detail)
        .hint("write mount and path as `vault kv put` takes them, without `data/`")
        .places(wrong);
    Err(problem.into())
}

/// Returns the desk.
///
/// # Errors
/// This agent keeps nothing fresh.
pub(super) fn desk(site: &Site) -> Result<&Rotation, Refusal> {
    site.rotation.as_ref().ok_or_else(|| {
        Refusal::new(Code::NotFound, "this agent keeps no Secrets fresh").hint(
            "the operator has to set [rotation] and [vault.identity] in the agent's configuration",
        )
    })
}
