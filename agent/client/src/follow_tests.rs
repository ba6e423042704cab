//! Cuts, restarts and refusals, against a scripted agent on a real socket.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use proto::error::Code;
use proto::error::Problem;
use proto::ids::RunId;
use proto::report::Status;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::net::UnixStream;

use super::Joins;
use super::Submission;
use super::Until;
use super::follow;
use super::submit;
use super::verdict;
use crate::patience::Patience;
use crate::progress::Progress;
use crate::render;
use crate::wire::Agent;

/// What the scripted agent does with one connection.
enum Reply {
    /// Answers completely.
    Whole(u16, String),
    /// Begins a stream, sends this and closes without an end.
    Broken(&'static str),
    /// Sends a stream with its end.
    Stream(&'static str),
    /// Begins a stream, sends this and then nothing, with the connection open.
    Quiet(&'static str),
    /// Takes the request and hangs up.
    HangUp,
}

/// A folder for a socket, and the agent on it.
fn agent() -> (TempDir, Agent) {
    let dir = tempfile::tempdir().expect("a folder");
    let agent = Agent {
        socket: dir.path().join("socket"),
        id_token: Some(HeaderValue::from_static("Bearer a.b.c")),
        vault_token: None,
    };
    (dir, agent)
}

/// Serves the replies, one a connection, and returns the requests (head and body as text).
async fn serve(socket: PathBuf, replies: Vec<Reply>) -> Vec<String> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let mut requests = Vec::new();
    let mut open = Vec::new();
    for reply in replies {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        requests.push(request(&mut stream).await);
        let quiet = matches!(reply, Reply::Quiet(_));
        let bytes = match reply {
            Reply::Whole(status, body) => {
                let length = body.len();
                format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}")
            }
            Reply::Broken(lines) | Reply::Quiet(lines) => {
                format!("{CHUNKED}{:x}\r\n{lines}\r\n", lines.len())
            }
            Reply::Stream(lines) => format!("{CHUNKED}{:x}\r\n{lines}\r\n0\r\n\r\n", lines.len()),
            Reply::HangUp => String::new(),
        };
        stream.write_all(bytes.as_bytes()).await.expect("written");
        if quiet {
            open.push(stream);
        }
    }
    if !open.is_empty() {
        // The caller drops this future once the client has given up.
        std::future::pending::<()>().await;
    }
    requests
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

async fn request(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.expect("a request");
        text.extend_from_slice(&buffer[..read]);
        let seen = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = seen.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
            if body.len() >= length {
                return seen;
            }
        }
        assert!(read > 0, "the request broke off");
    }
}

fn submission() -> Submission {
    Submission {
        path: "/v1/deploys",
        media: "application/x-tar",
        body: Bytes::from_static(b"bundle"),
        key: HeaderValue::from_static("key-1"),
        joins: Joins::Any,
    }
}

fn accepted() -> Reply {
    let id = RunId::from_bits(1);
    let body =
        format!("{{\"id\":\"{id}\",\"status\":\"running\",\"location\":\"/v1/deploys/{id}\"}}");
    Reply::Whole(202, body)
}

fn problem(code: Code) -> Reply {
    let problem = Problem::new(code, "told by the test");
    let body = serde_json::to_string(&problem).expect("serializable");
    Reply::Whole(code.status(), body)
}

fn report(status: Status, http: u16) -> Reply {
    let report = render::tests::report(status, "told by the test");
    Reply::Whole(http, serde_json::to_string(&report).expect("serializable"))
}

fn patience() -> Patience {
    Patience::short(Duration::from_secs(20))
}

const EVENT_1: &str =
    "{\"seq\":1,\"ts\":\"t\",\"type\":\"message\",\"level\":\"info\",\"text\":\"one\"}\n";
const EVENTS_1_2_3: &str = "{\"seq\":1,\"ts\":\"t\",\"type\":\"message\",\"level\":\"info\",\"text\":\"one\"}\n\
    {\"seq\":2,\"ts\":\"t\",\"type\":\"from_the_future\"}\n\
    {\"seq\":2,\"ts\":\"t\",\"type\":\"heartbeat\"}\n\
    {\"seq\":3,\"ts\":\"t\",\"type\":\"end\",\"status\":\"succeeded\"}\n";

#[tokio::test]
async fn a_cut_request_is_repeated_with_the_same_key_token_and_body() {
    let (_dir, agent) = agent();
    let replies = vec![Reply::HangUp, problem(Code::Unavailable), accepted()];
    let server = serve(agent.socket.clone(), replies);
    let started = OnceCell::new();
    let (mut patience, mut tell) = (patience(), |_: Progress<'_>| {});
    let client = submit(&agent, submission(), &mut patience, &started, &mut tell);
    let (requests, accepted) = tokio::join!(server, client);
    assert_eq!(accepted.expect("accepted").value.id, RunId::from_bits(1));
    assert_eq!(started.get(), Some(&RunId::from_bits(1)));
    for request in &requests {
        assert!(
            request.starts_with("POST /v1/deploys HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(
            request.contains("\r\nidempotency-key: key-1\r\n"),
            "{request}"
        );
        assert!(
            request.contains("\r\nauthorization: Bearer a.b.c\r\n"),
            "{request}"
        );
        assert!(
            request.contains("\r\nx-quaymaster-client: quaymaster/"),
            "{request}"
        );
        assert!(
            request.contains("\r\ncontent-type: application/x-tar\r\n"),
            "{request}"
        );
        assert!(request.ends_with("\r\n\r\nbundle"), "{request}");
    }
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    for code in [
        Code::Denied,
        Code::SpecInvalid,
        Code::TokenExpired,
        Code::Internal,
    ] {
        let (_dir, agent) = agent();
        let server = serve(agent.socket.clone(), vec![problem(code)]);
        let started = OnceCell::new();
        let (mut patience, mut tell) = (patience(), |_: Progress<'_>| {});
        let client = submit(&agent, submission(), &mut patience, &started, &mut tell);
        let (_, refused) = tokio::join!(server, client);
        assert_eq!(refused.expect_err("refused").code, code);
        assert_eq!(started.get(), None);
    }
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_unreachable_after_the_grace() {
    let (_dir, agent) = agent();
    let started = OnceCell::new();
    let (mut patience, mut tell) = (patience(), |_: Progress<'_>| {});
    let refused = submit(&agent, submission(), &mut patience, &started, &mut tell).await;
    let problem = refused.expect_err("nobody is there");
    assert_eq!(problem.code, Code::Unavailable);
    assert!(problem.hint.is_some());
}

#[tokio::test]
async fn a_cut_log_goes_on_after_the_last_event_and_tells_none_twice() {
    let (_dir, agent) = agent();
    let replies = vec![
        Reply::Broken(EVENT_1),
        Reply::HangUp,
        Reply::Stream(EVENT_1),
        Reply::Stream(EVENTS_1_2_3),
    ];
    let server = serve(agent.socket.clone(), replies);
    let mut told = Vec::new();
    let mut tell = |progress: Progress<'_>| {
        if let Progress::Event(event) = progress {
            told.push(event.seq);
        }
    };
    let run = RunId::from_bits(1);
    let mut patience = patience();
    let client = follow(&agent, &run, Until::End, &mut patience, &mut tell);
    let (requests, seen) = tokio::join!(server, client);
    assert_eq!(seen, Ok(3));
    assert_eq!(told, [1, 3]);
    let since = |request: &String| request.split([' ', '=']).nth(2).map(str::to_owned);
    let since: Vec<_> = requests.iter().filter_map(since).collect();
    assert_eq!(since, ["0", "1", "1", "1"]);
}

#[tokio::test]
async fn a_refused_log_tells_the_problem() {
    let (_dir, agent) = agent();
    let server = serve(agent.socket.clone(), vec![problem(Code::NotFound)]);
    let (mut patience, mut tell) = (patience(), |_: Progress<'_>| {});
    let run = RunId::from_bits(1);
    let client = follow(&agent, &run, Until::End, &mut patience, &mut tell);
    let (_, seen) = tokio::join!(server, client);
    assert_eq!(seen.expect_err("refused").code, Code::NotFound);
}

#[tokio::test]
async fn a_verdict_is_read_whatever_its_status_and_after_long_polls_and_cuts() {
    let (_dir, agent) = agent();
    let replies = vec![
        problem(Code::StillRunning),
        Reply::HangUp,
        report(Status::Running, 504),
        report(Status::RolledBack, 424),
    ];
    let server = serve(agent.socket.clone(), replies);
    let (mut patience, mut tell) = (patience(), |_: Progress<'_>| {});
    let run = RunId::from_bits(1);
    let client = verdict(&agent, &run, &mut patience, &mut tell);
    let (_, report) = tokio::join!(server, client);
    assert_eq!(report.expect("a verdict").value.status, Status::RolledBack);
}

#[tokio::test]
async fn nothing_is_waited_for_beyond_the_deadline() {
    let (_dir, agent) = agent();
    let listener = UnixListener::bind(&agent.socket).expect("a socket");
    let (mut patience, mut tell) = (
        Patience::short(Duration::from_millis(50)),
        |_: Progress<'_>| {},
    );
    let run = RunId::from_bits(1);
    let seen = follow(&agent, &run, Until::End, &mut patience, &mut tell).await;
    let problem = seen.expect_err("the agent never answers");
    assert_eq!(problem.code, Code::StillRunning);
    assert!(
        problem
            .hint
            .is_some_and(|hint| hint.contains("quaymaster cancel r0"))
    );
    drop(listener);
}

#[tokio::test]
async fn a_run_that_is_on_at_the_deadline_is_still_running_and_not_unreachable() {
    let (_dir, agent) = agent();
    let server = serve(agent.socket.clone(), vec![Reply::Quiet(EVENT_1)]);
    let mut told = Vec::new();
    let mut tell = |progress: Progress<'_>| {
        if let Progress::Event(event) = progress {
            told.push(event.seq);
        }
    };
    let mut patience = Patience::short(Duration::from_millis(100));
    let run = RunId::from_bits(1);
    let client = follow(&agent, &run, Until::End, &mut patience, &mut tell);
    let seen = tokio::select! {
        seen = client => seen,
        _ = server => panic!("the server waits for ever"),
    };
    assert_eq!(seen.expect_err("no end").code, Code::StillRunning);
    assert_eq!(told, [1]);
}
