//! The end of the process, seen from the sockets.

use super::*;

#[tokio::test]
async fn a_signal_without_runs_ends_cleanly_and_leaves_no_sockets() {
    let world = World::start().await;
    world.jobs().get("/ping").await;
    world.signal().await;
    let (ending, folder) = world.end().await;
    assert_eq!(ending, Ending::Clean);
    assert!(!folder.path().join("jobs/q.sock").exists());
    assert!(!folder.path().join("admin/q.sock").exists());
}

#[tokio::test]
async fn draining_refuses_new_runs_and_lets_running_ones_be_followed() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    let run = jobs.run("wait").await;
    assert_eq!(world.admin().post("/v1/drain").await.status, 202);
    let refused = jobs.deploy("/v1/deploys", "succeed").await;
    assert_eq!(refused.code(), Code::Unavailable);
    let ready = world.admin().get("/readyz").await;
    assert_eq!(
        (ready.status, &ready.json()["blockers"][0]["name"]),
        (503, &"draining".into())
    );

    world.signal().await;
    let follower = jobs.clone();
    let path = format!("{run}/events");
    let followed = tokio::spawn(async move { follower.get(&path).await.events() });
    assert_eq!(jobs.post(&format!("{run}/cancel")).await.status, 202);
    let events = followed.await.expect("it does not panic");
    let end = Body::End {
        status: Status::Cancelled,
    };
    assert_eq!(events.last().map(|event| &event.body), Some(&end));
    assert_eq!(world.end().await.0, Ending::Clean);
}

#[tokio::test]
async fn runs_that_outlast_the_drain_time_are_cancelled_and_told_as_interrupted() {
    let world = World::start_with("drain_timeout = \"0s\"").await;
    let jobs = world.jobs().project(42);
    let run = jobs.run("wait").await;
    let waiting = jobs.clone();
    let path = run.clone();
    let result = tokio::spawn(async move { waiting.result(&path).await });
    let mut stream = jobs.connect().await;
    let head = jobs.head("GET", &format!("{run}/events"), &[("connection", "close")]);
    stream.write_all(head.as_bytes()).await.expect("it is sent");
    let mut first = [0; 12];
    soon(stream.read_exact(&mut first))
        .await
        .expect("it answers");
    assert_eq!(&first, b"HTTP/1.1 200");

    world.signal().await;
    assert_eq!(world.end().await.0, Ending::Clean);
    let rest = Reply::read(&mut stream).await;
    assert!(
        rest.text().contains("\"status\":\"interrupted\""),
        "{}",
        rest.text()
    );
    // The long poll may have come too late to be taken; if it was, it says the truth.
    if let Ok((status, report)) = result.await {
        assert_eq!((status, report.status), (424, Status::Interrupted));
    }
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let world = World::start().await;
    world.jobs().project(42).run("hang").await;
    world.signal().await;
    world.signal().await;
    assert_eq!(world.end().await.0, Ending::Cut { runs: 1 });
}
