//! A stand-in for GitLab's commit statuses: notes what is posted and answers as it is told.
//!
//! GitLab itself cannot be had here. What it documents as "Set the commit status" (docs.gitlab.com/api/commits) is
//! checked on each request: method, path, the header of the token, and that the body has documented members only,
//! `state` among the documented words, texts of at most 255 characters. What is not so is answered with 400 as
//! GitLab would, so that a scenario sees it. Used by scenarios only; ends when it is dropped.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use anyhow::Result;
use axum::Json;
use axum::Router;
use axum::extract::Path;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

/// The members that GitLab documents.
const MEMBERS: [&str; 8] = [
    "state",
    "ref",
    "name",
    "context",
    "target_url",
    "description",
    "coverage",
    "pipeline_id",
];
const STATES: [&str; 6] = [
    "pending", "running", "success", "failed", "canceled", "skipped",
];

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// As GitLab does.
    Well,
    /// With this status.
    Failing(u16),
    /// Not at all.
    Silent,
}

/// One status that was posted.
#[derive(Debug, Clone, PartialEq)]
pub struct Post {
    /// The project in the path.
    pub project: String,
    /// The commit in the path.
    pub sha: String,
    /// The body.
    pub body: Value,
}

#[derive(Debug)]
struct Inner {
    token: String,
    mood: Mood,
    posts: Vec<Post>,
}

/// The stand-in.
#[derive(Debug)]
pub struct StatusBoard {
    /// Where it is.
    pub url: String,
    inner: Arc<Mutex<Inner>>,
    _stop: DropGuard,
}

impl StatusBoard {
    /// Starts one that takes this token.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(token: &str, mood: Mood) -> Result<Self> {
        let inner = Arc::new(Mutex::new(Inner {
            token: token.to_owned(),
            mood,
            posts: Vec::new(),
        }));
        let routes = Router::new()
            .route("/api/v4/projects/{project}/statuses/{sha}", post(take))
            .with_state(Arc::clone(&inner));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let stop = CancellationToken::new();
        let ended = stop.clone();
        let serving = async move {
            tokio::select! {
                // Nobody waits for its end; the token stays cancelled.
                _ = axum::serve(listener, routes) => {}
                () = ended.cancelled() => {}
            }
        };
        drop(tokio::spawn(serving));
        Ok(Self {
            url,
            inner,
            _stop: stop.drop_guard(),
        })
    }

    /// What was posted so far, in this order.
    #[must_use]
    pub fn posts(&self) -> Vec<Post> {
        lock(&self.inner).posts.clone()
    }
}

/// A panic while the lock was held leaves plain data behind, which is still good.
fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take(
    State(inner): State<Arc<Mutex<Inner>>>,
    Path((project, sha)): Path<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let refused = |status: StatusCode, why: &str| (status, Json(json!({ "message": why })));
    let (mood, token) = {
        let mut inner = lock(&inner);
        inner.posts.push(Post {
            project: project.clone(),
            sha: sha.clone(),
            body: body.clone(),
        });
        (inner.mood, inner.token.clone())
    };
    match mood {
        Mood::Well => {}
        Mood::Failing(code) => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return refused(status, "told to fail");
        }
        Mood::Silent => return std::future::pending().await,
    }
    let shown = headers.get("PRIVATE-TOKEN").map(|value| value.as_bytes());
    if shown != Some(token.as_bytes()) {
        return refused(StatusCode::UNAUTHORIZED, "401 Unauthorized");
    }
    match undocumented(&project, &sha, &body) {
        None => (StatusCode::CREATED, Json(body)),
        Some(why) => refused(StatusCode::BAD_REQUEST, &why),
    }
}

/// Says what is not as it is documented.
fn undocumented(project: &str, sha: &str, body: &Value) -> Option<String> {
    if project.parse::<u64>().is_err() || !sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some("the path names no project or commit".to_owned());
    }
    let members = body.as_object()?;
    let unknown = members
        .keys()
        .find(|name| !MEMBERS.contains(&name.as_str()));
    if let Some(name) = unknown {
        return Some(format!("{name} is not documented"));
    }
    let long = members.iter().find(|(_, value)| {
        value
            .as_str()
            .is_some_and(|text| text.chars().count() > 255)
    });
    if let Some((name, _)) = long {
        return Some(format!("{name} is too long"));
    }
    let state = body["state"].as_str().unwrap_or_default();
    (!STATES.contains(&state)).then(|| format!("state {state:?} is not documented"))
}
