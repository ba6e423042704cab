//! What is refused, and when: before the body, over a size, over a count.

use super::*;

/// Reads until the blank line of a head.
async fn read_head(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let byte = soon(stream.read_u8()).await.expect("the head goes on");
        bytes.push(byte);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const TAR: (&str, &str) = ("content-type", "application/x-tar");

#[tokio::test]
async fn the_body_is_asked_for_only_when_the_caller_is_admitted() {
    let world = World::start().await;
    let expect = [TAR, ("content-length", "7"), ("expect", "100-continue")];

    let jobs = world.jobs().project(42);
    let mut stream = jobs.connect().await;
    let head = jobs.head("POST", "/v1/deploys", &expect);
    stream.write_all(head.as_bytes()).await.expect("it is sent");
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 100"));
    stream.write_all(b"succeed").await.expect("it is sent");
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 202"));

    let denied = world.jobs().project(13);
    let head = denied.head("POST", "/v1/deploys", &expect);
    let reply = denied.raw(head.as_bytes()).await;
    assert_eq!(reply.code(), Code::Denied);
    assert!(reply.json()["decision_id"].is_string());

    let nobody = world.jobs();
    let head = nobody.head("POST", "/v1/deploys", &expect);
    assert_eq!(nobody.raw(head.as_bytes()).await.code(), Code::TokenMissing);
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_by_length_and_by_count() {
    let world = World::start_with("[limits]\nbundle_bytes = 10240").await;
    let jobs = world.jobs().project(42);
    let long = [TAR, ("content-length", "10241")];
    assert_eq!(
        jobs.send("POST", "/v1/deploys", &long, b"").await.code(),
        Code::TooLarge
    );
    let chunked = [TAR, ("transfer-encoding", "chunked")];
    let body = format!("2801\r\n{}\r\n0\r\n\r\n", "x".repeat(10_241));
    let reply = jobs
        .send("POST", "/v1/deploys", &chunked, body.as_bytes())
        .await;
    assert_eq!(reply.code(), Code::TooLarge);
}

#[tokio::test]
async fn media_types_and_encodings_other_than_a_bundle_are_415() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    let length = ("content-length", "7");
    for headers in [
        vec![length],
        vec![length, ("content-type", "application/json")],
        vec![length, ("content-type", "application/x-tar; x=y")],
        vec![length, TAR, ("content-encoding", "gzip")],
        vec![length, TAR, TAR],
    ] {
        let reply = jobs.send("POST", "/v1/deploys", &headers, b"succeed").await;
        assert_eq!(reply.code(), Code::UnsupportedMediaType, "{headers:?}");
    }
    let gzip = [length, ("content-type", "Application/GZIP")];
    assert_eq!(
        jobs.send("POST", "/v1/deploys", &gzip, b"succeed")
            .await
            .status,
        202
    );
}

#[tokio::test]
async fn a_misspelt_dry_run_deploys_nothing() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    for uri in ["/v1/deploys?dryrun=true", "/v1/deploys?dry_run=yes"] {
        assert_eq!(
            jobs.deploy(uri, "succeed").await.code(),
            Code::BadRequest,
            "{uri}"
        );
    }
    let list: RunList = serde_json::from_value(jobs.get("/v1/deploys").await.json()).unwrap();
    assert_eq!(list.runs, []);
}

#[tokio::test]
async fn trailers_after_a_chunked_body_are_refused() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    let chunked = [TAR, ("transfer-encoding", "chunked")];
    let body = b"7\r\nsucceed\r\n0\r\nx-late: 1\r\n\r\n";
    let reply = jobs.send("POST", "/v1/deploys", &chunked, body).await;
    assert_eq!(reply.code(), Code::BadRequest);
}

#[tokio::test]
async fn other_protocols_are_closed() {
    let world = World::start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for bytes in [
        &preface[..],
        b"GET /ping\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
    ] {
        let reply = world.jobs().raw(bytes).await;
        assert!(
            matches!(reply.status, 0 | 400),
            "{}: {}",
            reply.status,
            reply.text()
        );
    }
}

#[tokio::test]
async fn headers_far_over_the_limit_are_431_too() {
    let world = World::start().await;
    let big = "x".repeat(100 << 10);
    let reply = world.jobs().with("x-big", &big).get("/ping").await;
    assert_eq!(reply.status, 431);
    let mut many = world.jobs();
    for _ in 0..200 {
        many = many.with("x-many", "1");
    }
    assert_eq!(many.get("/ping").await.status, 431);
}

#[tokio::test]
async fn connections_over_the_limit_are_told_to_come_back() {
    let world = World::start_with("[limits]\nconnections_per_process = 2").await;
    let jobs = world.jobs();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = jobs.connect().await;
        let head = jobs.head("GET", "/ping", &[]);
        stream.write_all(head.as_bytes()).await.expect("it is sent");
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
        held.push(stream);
    }
    let reply = jobs.get("/ping").await;
    assert_eq!(reply.code(), Code::Unavailable);
    assert_eq!(reply.header("retry-after"), Some("5"));
}

#[tokio::test]
async fn silent_and_idle_connections_are_closed_in_their_time() {
    let limits = "[limits]\nheader_time = \"1s\"\nidle_time = \"2s\"";
    let world = World::start_with(limits).await;
    let jobs = world.jobs();
    let mut half = jobs.connect().await;
    half.write_all(b"GET /ping HT").await.expect("it is sent");
    let mut idle = jobs.connect().await;
    let head = jobs.head("GET", "/ping", &[]);
    idle.write_all(head.as_bytes()).await.expect("it is sent");
    assert_eq!(Reply::read(&mut half).await.status, 0);
    assert_eq!(Reply::read(&mut idle).await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let world = World::start_with("[limits]\nbody_time = \"1s\"").await;
    let jobs = world.jobs().project(42);
    let head = jobs.head("POST", "/v1/deploys", &[TAR, ("content-length", "7")]);
    assert_eq!(jobs.raw(head.as_bytes()).await.code(), Code::BadRequest);
}
