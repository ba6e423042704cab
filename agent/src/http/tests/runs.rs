//! Requests that become runs.

use super::*;

#[tokio::test]
async fn a_deploy_is_taken_followed_and_judged() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    let run = jobs.run("succeed").await;
    let (status, report) = jobs.result(&run).await;
    assert_eq!((status, report.status), (200, Status::Succeeded));
    let events = jobs.get(&format!("{run}/events")).await.events();
    let seqs: Vec<_> = events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
    let end = Body::End {
        status: Status::Succeeded,
    };
    assert_eq!(events.last().map(|event| &event.body), Some(&end));
}

#[tokio::test]
async fn a_rollback_is_a_run_like_a_deploy() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    let ask = async |kind: &str, body: &str| {
        let length = body.len().to_string();
        let more = [("content-type", kind), ("content-length", length.as_str())];
        jobs.send("POST", "/v1/rollbacks", &more, body.as_bytes())
            .await
    };
    let json = "application/json";
    let reply = ask(json, r#"{"name":"succeed"}"#).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let run = reply.header("location").expect("a location").to_owned();
    let (status, report) = jobs.result(&run).await;
    assert_eq!((status, report.mode), (200, Mode::Rollback));
    for body in ["", "{}", r#"{"name":"succeed","to":1}"#, r#"{"name":"NO"}"#] {
        assert_eq!(ask(json, body).await.code(), Code::BadRequest, "{body}");
    }
    let tar = ask("application/x-tar", r#"{"name":"succeed"}"#).await;
    assert_eq!(tar.code(), Code::UnsupportedMediaType);
}

#[tokio::test]
async fn an_app_is_shown_to_whom_the_brain_lets_look() {
    let world = World::start().await;
    let path = "/v1/apps/demo/flask/web";
    let reply = world.jobs().project(42).get(path).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["namespace"], "flask");
    let other = world.jobs().project(99).get(path).await;
    assert_eq!(other.code(), Code::Denied);
}

#[tokio::test]
async fn a_reader_goes_on_after_since() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    let run = jobs.run("succeed").await;
    jobs.result(&run).await;
    let seqs = |reply: Reply| {
        reply
            .events()
            .iter()
            .map(|event| event.seq)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        seqs(jobs.get(&format!("{run}/events?since=2")).await),
        [3, 4]
    );
    assert_eq!(seqs(jobs.get(&format!("{run}/events?since=4")).await), [4]);
    assert_eq!(seqs(jobs.get(&format!("{run}/events?since=99")).await), [4]);
}

#[tokio::test]
async fn plain_text_is_a_job_log_with_sections() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    let run = jobs.run("fail").await;
    let reply = jobs
        .with("accept", "text/plain")
        .get(&format!("{run}/events"))
        .await;
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    let text = reply.text();
    assert!(text.starts_with("section_start:"), "{text}");
    assert!(
        text.contains(":quaymaster_apply\r\x1b[0KApply\nworking\n"),
        "{text}"
    );
    assert!(text.ends_with("quaymaster: failed\x1b[0m\n"), "{text}");
}

#[tokio::test]
async fn verdicts_have_their_status() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    let failed = jobs.run("fail").await;
    assert_eq!(jobs.result(&failed).await.0, 424);
    let on = jobs.run("wait").await;
    assert_eq!(jobs.get(&format!("{on}/result")).await.status, 504);
    assert_eq!(jobs.get(&on).await.status, 200);
    assert_eq!(jobs.post(&format!("{on}/cancel")).await.status, 202);
    let (status, report) = jobs.result(&on).await;
    assert_eq!((status, report.status), (424, Status::Cancelled));
    assert_eq!(jobs.post(&format!("{on}/cancel")).await.status, 200);
}

#[tokio::test]
async fn runs_of_other_projects_are_not_there() {
    let world = World::start().await;
    let run = world.jobs().project(42).run("wait").await;
    let other = world.jobs().project(43);
    for uri in [
        run.clone(),
        format!("{run}/events"),
        format!("{run}/result"),
    ] {
        assert_eq!(other.get(&uri).await.code(), Code::NotFound, "{uri}");
    }
    assert_eq!(
        other.post(&format!("{run}/cancel")).await.code(),
        Code::NotFound
    );
    let list: RunList = serde_json::from_value(other.get("/v1/deploys").await.json()).unwrap();
    assert_eq!(list.runs, []);
    assert_eq!(
        world.jobs().project(42).get(&run).await.json()["status"],
        "running"
    );
}

#[tokio::test]
async fn the_list_is_paged_newest_first() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(jobs.run("succeed").await);
    }
    let page = async |uri: &str| -> RunList {
        serde_json::from_value(jobs.get(uri).await.json()).expect("the wire type")
    };
    let first = page("/v1/deploys?limit=2").await;
    let next = first.next.expect("there is a next page");
    let second = page(&format!("/v1/deploys?limit=2&after={next}")).await;
    let all = first.runs.iter().chain(&second.runs);
    let mut seen: Vec<_> = all.map(|run| format!("/v1/deploys/{}", run.id)).collect();
    assert_eq!((seen.len(), second.next), (3, None));
    seen.sort();
    runs.sort();
    assert_eq!(seen, runs);
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_request() {
    let world = World::start().await;
    let jobs = world.jobs().project(42).with("idempotency-key", "k");
    let first = jobs.run("succeed").await;
    assert_eq!(jobs.run("succeed").await, first);
    let other = jobs.deploy("/v1/deploys", "fail").await;
    assert_eq!(other.code(), Code::IdempotencyConflict);
    let dry = jobs.deploy("/v1/deploys?dry_run=true", "succeed").await;
    assert_eq!(dry.status, 202);
    assert_ne!(dry.header("location"), Some(first.as_str()));
    let theirs = world
        .jobs()
        .project(43)
        .with("idempotency-key", "k")
        .run("succeed")
        .await;
    assert_ne!(theirs, first);
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_end_its_run() {
    let world = World::start().await;
    let jobs = world.jobs().project(42);
    let run = jobs.run("wait").await;
    let mut stream = jobs.connect().await;
    let head = jobs.head("GET", &format!("{run}/events"), &[]);
    stream.write_all(head.as_bytes()).await.expect("it is sent");
    let mut some = [0; 64];
    assert!(soon(stream.read(&mut some)).await.expect("it answers") > 0);
    drop(stream);
    assert_eq!(jobs.get(&run).await.json()["status"], "running");
}

/// Runs something in a runtime of its own, so that its end is like that of a process.
fn process<T>(life: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(life)
}

#[test]
fn reports_and_ends_outlive_the_process() {
    let (done, cut, folder) = process(async {
        let world = World::start().await;
        let jobs = world.jobs().project(42);
        let done = jobs.run("fail").await;
        jobs.result(&done).await;
        let cut = jobs.run("hang").await;
        world.signal().await;
        world.signal().await;
        let (ending, folder) = world.end().await;
        assert_eq!(ending, Ending::Cut { runs: 1 });
        (done, cut, folder)
    });
    process(async {
        let world = World::start_in(folder, "").await;
        let jobs = world.jobs().project(42);
        let (status, report) = jobs.result(&done).await;
        assert_eq!((status, report.status), (424, Status::Failed));
        let (status, report) = jobs.result(&cut).await;
        assert_eq!((status, report.status), (424, Status::Interrupted));
        let events = jobs.get(&format!("{cut}/events?since=7")).await.events();
        let verdict = Body::Message {
            level: Level::Error,
            text: report.message,
        };
        let end = Body::End {
            status: Status::Interrupted,
        };
        let told: Vec<_> = events
            .into_iter()
            .map(|event| (event.seq, event.body))
            .collect();
        assert_eq!(told, [(8, verdict), (9, end)]);
    });
}
