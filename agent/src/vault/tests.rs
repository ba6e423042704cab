//! The adapter against scripted answers: what is sent, and what an answer means.

pub(super) mod server;

use super::*;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use self::server::Server;

/// The adapter over a server on loopback.
pub(super) fn vault_at(address: SocketAddr) -> Vault {
    let settings = VaultSettings {
        address: format!("http://{address}"),
        ca_file: None,
        jwt_mount: "jwt".to_owned(),
        namespace: None,
        timeout: Duration::from_secs(30),
    };
    Vault::new(settings).expect("plain http to loopback is fine")
}

/// Reads one request and answers it with these bytes; returns what it read.
async fn one_answer(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<Option<String>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound listener");
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.ok()?;
        let mut request = vec![0; 16 << 10];
        let length = stream.read(&mut request).await.ok()?;
        stream.write_all(answer.as_bytes()).await.ok()?;
        request.truncate(length);
        String::from_utf8(request).ok()
    });
    (address, seen)
}

fn session() -> Session {
    Session {
        token: Secret::from_text("s.token".to_owned()),
        ours: true,
    }
}

fn path() -> VaultPath {
    VaultPath::parse("database/creds/flask").expect("the path is valid")
}

#[tokio::test]
async fn an_issue_that_is_cut_has_an_unknown_outcome() {
    let (address, seen) = one_answer("").await;
    let issued = vault_at(address)
        .issue(&session(), &path(), &Parameters::new())
        .await;
    let expected = SecretsError::Unanswered {
        path: "database/creds/flask".to_owned(),
    };
    assert_eq!(issued.err(), Some(expected));
    let request = seen.await.expect("the server ran").expect("a request came");
    assert!(request.starts_with("GET /v1/database/creds/flask HTTP/1.1"));
    assert!(request.to_lowercase().contains("x-vault-token: s.token"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (address, _seen) =
        one_answer("HTTP/1.1 307 x\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n")
            .await;
    let issued = vault_at(address)
        .issue(&session(), &path(), &Parameters::new())
        .await;
    let Err(SecretsError::Unavailable { reason, .. }) = issued else {
        panic!("a redirect means a standby node");
    };
    assert_eq!(reason, "standby node, another one is active");
}

#[tokio::test]
async fn a_body_of_the_wrong_shape_is_not_quoted() {
    let (address, _seen) =
        one_answer("HTTP/1.1 200 x\r\ncontent-length: 19\r\n\r\n{\"data\": \"hunter2\"}").await;
    let read = vault_at(address).lookup_self(&session().token).await;
    let error = read.expect_err("an envelope has more fields");
    assert!(!format!("{error:?} {error}").contains("hunter2"));
}

/// Answers every request with a status and a body; the requests are counted by their path.
async fn answering(code: u16, body: &'static str) -> Server {
    Server::start(move |_request| (code, body.to_owned())).await
}

#[tokio::test]
async fn an_issue_with_parameters_is_a_write() {
    let server = answering(
        200,
        envelope(r#"{"certificate": "c", "expiration": 4000000000}"#),
    )
    .await;
    let parameters = Parameters::from([("common_name".to_owned(), "a.example.com".to_owned())]);
    let vault = vault_at(server.address());
    let issued = vault.issue(&session(), &path(), &parameters).await;
    let ends_in = issued.expect("it is issued").ends_in;
    assert!(ends_in.is_some_and(|seconds| seconds > 1_000_000_000));
    let request = server.last();
    assert_eq!(
        (request.method.as_str(), request.body.as_str()),
        ("POST", r#"{"common_name":"a.example.com"}"#)
    );
}

/// An envelope as Vault writes it.
pub(super) fn envelope(data: &str) -> &'static str {
    let text = format!(
        r#"{{"request_id": "r", "lease_id": "", "renewable": false, "lease_duration": 0,
        "data": {data}, "wrap_info": null, "warnings": null, "auth": null}}"#
    );
    Box::leak(text.into_boxed_str())
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_is_looked_up() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v1/sys/leases/renew" => (400, r#"{"errors": ["lease is not renewable"]}"#.to_owned()),
        _ => (
            200,
            envelope(r#"{"ttl": 41, "renewable": false}"#).to_owned(),
        ),
    })
    .await;
    let lease = LeaseId("pki/issue/x/1".to_owned());
    let renewed = vault_at(server.address())
        .renew(&session(), &lease, 60)
        .await;
    let expected = Lease {
        id: lease,
        seconds: 41,
        renewable: false,
    };
    assert_eq!(renewed, Ok(expected));
}

#[tokio::test]
async fn a_lease_that_may_not_be_looked_up_is_not_taken_for_gone() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v1/sys/leases/renew" => (400, r#"{"errors": ["lease is not renewable"]}"#.to_owned()),
        _ => (403, r#"{"errors": ["permission denied"]}"#.to_owned()),
    })
    .await;
    let lease = LeaseId("pki/issue/x/1".to_owned());
    let renewed = vault_at(server.address())
        .renew(&session(), &lease, 60)
        .await;
    let expected = SecretsError::Forbidden {
        path: "sys/leases/lookup".to_owned(),
    };
    assert_eq!(renewed, Err(expected));
}

#[tokio::test]
async fn a_token_that_is_gone_is_ended_on_both_servers() {
    let accessor = Accessor("a".to_owned());
    let vault = answering(
        403,
        r#"{"errors": ["1 error occurred:\n\t* invalid accessor\n\n"]}"#,
    )
    .await;
    assert_eq!(
        vault_at(vault.address()).end(&session(), &accessor).await,
        Ok(())
    );
    let openbao = answering(
        200,
        r#"{"request_id": "1", "lease_id": "", "renewable": false, "lease_duration": 0,
            "warnings": ["No token found with this accessor"], "data": null, "auth": null}"#,
    )
    .await;
    assert_eq!(
        vault_at(openbao.address()).end(&session(), &accessor).await,
        Ok(())
    );
    let page = answering(200, "<html>welcome</html>").await;
    let error = vault_at(page.address()).end(&session(), &accessor).await;
    assert!(
        matches!(error, Err(SecretsError::Unanswered { .. })),
        "a page of something in between ends nothing: {error:?}"
    );
    let denied = answering(403, r#"{"errors": ["permission denied"]}"#).await;
    let error = vault_at(denied.address()).end(&session(), &accessor).await;
    assert!(
        matches!(error, Err(SecretsError::Forbidden { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_folder_is_read_page_by_page() {
    let server = Server::start(|request| {
        let entry = |number: usize| {
            format!(
                r#""s{number:04}": {{"current_version": 1, "versions": {{"1": {{"destroyed": false}}}}}}"#
            )
        };
        let (numbers, last) = match request.path.split_once("after=") {
            Some((_, rest)) if rest.starts_with("s0499") => (500..503, "s0502"),
            Some((_, rest)) if rest.starts_with('&') => (0..500, "s0499"),
            _ => return (404, r#"{"errors": []}"#.to_owned()),
        };
        let entries: Vec<String> = numbers.map(entry).collect();
        let info = entries.join(",");
        let data = format!(r#"{{"keys": ["x", "{last}"], "key_info": {{{info}, "sub/": {{}}}}}}"#);
        (200, envelope(&data).to_owned())
    })
    .await;
    let mount = Mount {
        path: "kv".to_owned(),
        engine: Engine::KvV2,
    };
    let found = vault_at(server.address())
        .folder(&session(), &mount, "team")
        .await;
    assert_eq!(found.map(|found| found.len()), Ok(503));
    assert_eq!(server.last().method, "LIST");
    assert_eq!(server.count("/v1/kv/detailed-metadata/team"), 2);
}
