//! The adapter against scripted answers: what is sent, and what an answer means.

use super::*;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

fn vault_at(address: SocketAddr) -> Vault {
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
