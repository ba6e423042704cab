//! Values for jobs over the socket: who is refused before the body, and an answer that nothing may keep.

use super::*;

#[tokio::test]
async fn the_answer_holds_the_values_and_is_not_to_be_stored() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    let reply = jobs.deploy("/v1/values", "a bundle").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let values: Values = serde_json::from_value(reply.json()).expect("the wire type");
    let value = values.values["PROJECT"].decode().expect("base64");
    assert_eq!(value.as_slice(), b"42");
    let list = jobs.get("/v1/deploys").await.json();
    assert_eq!(list["runs"], serde_json::json!([]), "there is no run");
}

#[tokio::test]
async fn what_is_refused_is_refused_before_the_body_is_asked_for() {
    let world = World::start().await;
    let refused = async |tester: Tester, key: &str, kind: &str| {
        let mut headers = vec![("content-type", kind), ("content-length", "9")];
        if !key.is_empty() {
            headers.push(("idempotency-key", key));
        }
        // No byte of the body is sent: an agent that waited for it would not answer.
        let reply = tester.send("POST", "/v1/values", &headers, b"").await;
        (reply.status, reply.json()["code"].clone())
    };
    let tar = "application/x-tar";
    let jobs = || world.jobs().project(42);
    assert_eq!(
        refused(jobs(), "key", tar).await,
        (400, "bad_request".into())
    );
    assert_eq!(
        refused(jobs(), "", "application/json").await,
        (415, "unsupported_media_type".into())
    );
    assert_eq!(
        refused(world.jobs(), "", tar).await,
        (401, "token_missing".into())
    );
    assert_eq!(
        refused(world.jobs().project(13), "", tar).await,
        (403, "denied".into())
    );
    let bare = jobs().bare().project(42);
    assert_eq!(
        refused(bare, "", tar).await,
        (400, "client_header_missing".into())
    );
    assert_eq!(world.admin().deploy("/v1/values", "x").await.status, 404);
}
