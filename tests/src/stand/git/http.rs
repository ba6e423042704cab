//! Git over HTTP: checks the account, then lets `git http-backend` answer.
//!
//! A process of its own (`stand git`), so that scenarios can end it as any server. Invariant: without a
//! password that is right the answer is 401, and only an account that may push reaches `git-receive-pack`.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context;
use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::Account;
use super::Right;
use super::repositories;
use crate::stand::layout::Site;
use crate::stand::process;

/// Longest body that is taken.
const BODY: usize = 64 << 20;

/// Serves the repositories of a stand until it is ended.
///
/// # Errors
/// When the port is taken.
pub async fn serve(site: Site) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, site.ports.git))
        .await
        .context("opening the port of the Git server")?;
    let app = Router::new().fallback(answer).with_state(Arc::new(site));
    axum::serve(listener, app).await?;
    Ok(())
}

/// What of a request `git http-backend` is told.
struct Call {
    path: String,
    query: String,
    method: String,
    headers: HeaderMap,
    body: Bytes,
    account: String,
}

impl Call {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// Whether a push begins with this call.
    fn begins_push(&self) -> bool {
        self.query == "service=git-receive-pack"
    }

    fn pushes(&self) -> bool {
        self.begins_push() || self.path.ends_with("/git-receive-pack")
    }
}

async fn answer(State(site): State<Arc<Site>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(account) = account(&site, &parts.headers) else {
        return refuse(StatusCode::UNAUTHORIZED, "HTTP Basic: Access denied");
    };
    let Ok(body) = axum::body::to_bytes(body, BODY).await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long");
    };
    let call = Call {
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        method: parts.method.to_string(),
        headers: parts.headers,
        body,
        account: account.name.clone(),
    };
    match (call.pushes(), account.right) {
        (true, Right::Read) => {
            return refuse(
                StatusCode::FORBIDDEN,
                "You are not allowed to push code to this project.",
            );
        }
        (true, Right::Write) | (false, Right::Write | Right::Read) => {}
    }
    match backend(&site, &call).await {
        Ok(response) => response,
        Err(error) => refuse(StatusCode::BAD_GATEWAY, &format!("{error:#}")),
    }
}

fn account<'s>(site: &'s Site, headers: &HeaderMap) -> Option<&'s Account> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (kind, value) = given.split_once(' ')?;
    if !kind.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    let (name, password) = pair.split_once(':')?;
    let mut accounts = site.git.all().into_iter();
    accounts.find(|account| account.name == name && account.password == password)
}

fn refuse(status: StatusCode, words: &str) -> Response {
    let realm = (header::WWW_AUTHENTICATE, "Basic realm=\"GitLab\"");
    let kind = (header::CONTENT_TYPE, "text/plain");
    let words = format!("{words}\n");
    if status == StatusCode::UNAUTHORIZED {
        (status, [realm, kind], words).into_response()
    } else {
        (status, [kind], words).into_response()
    }
}

async fn backend(site: &Site, call: &Call) -> Result<Response> {
    if call.begins_push()
        && let Some(name) = call.path.strip_suffix("/info/refs")
    {
        let repository = repositories(site).join(name.trim_start_matches('/'));
        let race = repository.join("hooks/race");
        if race.is_file() {
            process::run(process::command(site, race).arg("before")).await?;
        }
    }
    let mut child = process::command(site, "git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", repositories(site))
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_PROTOCOL", call.header("git-protocol"))
        .env("PATH_INFO", &call.path)
        .env("QUERY_STRING", &call.query)
        .env("REQUEST_METHOD", &call.method)
        .env("CONTENT_TYPE", call.header("content-type"))
        .env("CONTENT_LENGTH", call.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", call.header("content-encoding"))
        .env("REMOTE_USER", &call.account)
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting git http-backend")?;
    let mut pipe = child.stdin.take().context("git has an input")?;
    let feed = async {
        // A program that ends early says why itself.
        drop(pipe.write_all(&call.body).await);
        drop(pipe);
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    translate(&output?.stdout)
}

/// Makes the answer of a CGI program one of HTTP.
fn translate(output: &[u8]) -> Result<Response> {
    let end = output
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("git http-backend gave no answer")?;
    let mut response = Response::builder();
    for line in std::str::from_utf8(&output[..end])?.lines() {
        let (name, value) = line.split_once(':').context("a header of the answer")?;
        response = match name {
            "Status" => response.status(value.trim().split(' ').next().unwrap_or_default()),
            _ => response.header(name, value.trim()),
        };
    }
    Ok(response.body(Body::from(output[end + 4..].to_vec()))?)
}
