//! The stand-in for GitLab: discovery, keys, and the API call by which a job token names its job.
//!
//! The keeper runs one for the stand; scenarios that want it slow, failing or with other keys run their own in
//! their process. It answers what GitLab answers at these paths, and has one corner of its own, `/-/stand/`. Invariant: every request is
//! counted, so that scenarios can say how often they may be asked.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use axum::Json;
use axum::Router;
use axum::extract::Path;
use axum::extract::Request;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::routing::get;
use axum::routing::put;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::token::IdToken;
use super::token::IssuerKey;

/// How it behaves for now.
#[derive(Clone, Debug, Default)]
pub struct Mood {
    /// Waits this long before each answer.
    pub delay: Duration,
    /// Answers everything with this status.
    pub status: Option<u16>,
}

#[derive(Default)]
struct Inner {
    keys: Vec<IssuerKey>,
    jobs: BTreeMap<String, Value>,
    counts: BTreeMap<String, u64>,
    mood: Mood,
}

/// A running stand-in; it ends when this is dropped.
pub struct Gitlab {
    url: String,
    inner: Arc<Mutex<Inner>>,
    task: JoinHandle<()>,
}

impl Drop for Gitlab {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gitlab {
    /// Starts one with a fresh key on a free port of loopback.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> Result<Self> {
        Self::start_with(IssuerKey::generate()?).await
    }

    /// Starts one with `key`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start_with(key: IssuerKey) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("opening a port for the issuer")?;
        let url = format!("http://127.0.0.1:{}", listener.local_addr()?.port());
        let inner = Arc::new(Mutex::new(Inner {
            keys: vec![key],
            ..Inner::default()
        }));
        let shared = Shared {
            url: url.clone(),
            inner: Arc::clone(&inner),
        };
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/oauth/discovery/keys", get(keys))
            .route("/api/v4/job", get(job))
            .route("/-/stand/jobs/{token}", put(start_job).delete(end_job))
            .route("/-/stand/requests", get(requests))
            .layer(from_fn_with_state(shared.clone(), count))
            .with_state(shared);
        let task = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { url, inner, task })
    }

    /// Its address, which is also the issuer that its tokens name.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A token of this issuer, to be changed and signed.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn token(&self) -> Result<IdToken> {
        IdToken::new(&self.url)
    }

    /// Signs with the current key.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, token: IdToken) -> Result<String> {
        token.sign(self.lock().keys.last().context("the issuer has no key")?)
    }

    /// Public part of the current key, PEM, for `jwt_validation_pubkeys`.
    ///
    /// # Errors
    /// When it has no key.
    pub fn public_pem(&self) -> Result<String> {
        self.lock()
            .keys
            .last()
            .context("the issuer has no key")?
            .public_pem()
    }

    /// Adds a key, which signs from now on; the old ones are still published.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn add_key(&self) -> Result<()> {
        let key = IssuerKey::generate()?;
        self.lock().keys.push(key);
        Ok(())
    }

    /// Withdraws every key but the current one.
    pub fn withdraw_old_keys(&self) {
        let mut inner = self.lock();
        let old = inner.keys.len().saturating_sub(1);
        inner.keys.drain(..old);
    }

    /// Makes it slow, failing, or well again.
    pub fn set_mood(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// Lets `GET /api/v4/job` answer `job` to whoever shows `token`.
    pub fn set_job(&self, token: &str, job: Value) {
        self.lock().jobs.insert(token.to_owned(), job);
    }

    /// Lets the token name no job any more, as when the job has ended.
    pub fn end_job(&self, token: &str) {
        self.lock().jobs.remove(token);
    }

    /// Number of requests to `path` so far.
    #[must_use]
    pub fn requests(&self, path: &str) -> u64 {
        self.lock().counts.get(path).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

#[derive(Clone)]
struct Shared {
    url: String,
    inner: Arc<Mutex<Inner>>,
}

/// A panic while the lock was held leaves plain data behind, which is still good.
fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn count(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let mood = {
        let mut inner = lock(&shared.inner);
        *inner
            .counts
            .entry(request.uri().path().to_owned())
            .or_default() += 1;
        inner.mood.clone()
    };
    if !mood.delay.is_zero() {
        crate::wait::pause(mood.delay).await;
    }
    match mood.status.and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(status) => (
            status,
            Json(json!({ "message": "the stand-in was told to fail" })),
        )
            .into_response(),
        None => next.run(request).await,
    }
}

/// For processes that use a stand without owning its stand-in.
async fn start_job(
    State(shared): State<Shared>,
    Path(token): Path<String>,
    Json(job): Json<Value>,
) {
    lock(&shared.inner).jobs.insert(token, job);
}

async fn end_job(State(shared): State<Shared>, Path(token): Path<String>) {
    lock(&shared.inner).jobs.remove(&token);
}

async fn requests(State(shared): State<Shared>) -> Json<BTreeMap<String, u64>> {
    Json(lock(&shared.inner).counts.clone())
}

async fn discovery(State(shared): State<Shared>) -> Json<Value> {
    let url = &shared.url;
    Json(json!({
        "issuer": url,
        "authorization_endpoint": format!("{url}/oauth/authorize"),
        "token_endpoint": format!("{url}/oauth/token"),
        "jwks_uri": format!("{url}/oauth/discovery/keys"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }))
}

async fn keys(State(shared): State<Shared>) -> Json<Value> {
    let keys: Vec<Value> = lock(&shared.inner)
        .keys
        .iter()
        .map(IssuerKey::jwk)
        .collect();
    Json(json!({ "keys": keys }))
}

async fn job(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let token = headers
        .get("JOB-TOKEN")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match lock(&shared.inner).jobs.get(token) {
        Some(job) => Json(job.clone()).into_response(),
        None => (
            StatusCode::UNAUTHORIZED,
            Json(json!({ "message": "401 Unauthorized" })),
        )
            .into_response(),
    }
}
