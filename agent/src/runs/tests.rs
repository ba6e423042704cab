//! The table of runs: admission, keys, cancelling, panics, what outlives a connection.

use futures::FutureExt;
use proto::event::Body;

use super::*;
use crate::clock::SystemClock;

struct Bench {
    runs: Runs,
    lifecycle: Lifecycle,
    _folder: tempfile::TempDir,
}

fn bench(limit: usize) -> Bench {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = DiskJournal::open(&folder.path().join("state")).expect("it opens");
    let lifecycle = Lifecycle::default();
    let runs = Runs::new(
        journal,
        Arc::new(SystemClock),
        lifecycle.clone(),
        Arc::default(),
        RunLimits {
            runs: limit,
            disconnect_grace: Duration::from_secs(15),
        },
    );
    Bench {
        runs,
        lifecycle,
        _folder: folder,
    }
}

const OWNER: &str = "project:42";

fn submission(key: Option<&str>, digest: u8, work: Work) -> Submission {
    Submission {
        owner: OWNER.to_owned(),
        mode: Mode::Deploy,
        name: "flask".parse().expect("a name"),
        cluster: "demo".parse().expect("a name"),
        namespace: "flask".parse().expect("a name"),
        key: key.map(str::to_owned),
        digest: [digest; 32],
        work,
        herald: None,
    }
}

fn report(id: &RunId, status: Status) -> Report {
    let nothing = submission(None, 0, ends(Status::Succeeded));
    let mut report = beginning(id, &nothing, jiff::Timestamp::UNIX_EPOCH);
    report.status = status;
    report.message = status.word().to_owned();
    report
}

/// Work that ends at once.
fn ends(status: Status) -> Work {
    Box::new(move |tools| async move { report(&tools.id, status) }.boxed())
}

/// Work that goes on until it is cancelled.
fn waits() -> Work {
    Box::new(|tools| {
        async move {
            tools.stop.cancelled().await;
            report(&tools.id, Status::Cancelled)
        }
        .boxed()
    })
}

fn panics() -> Work {
    Box::new(|_| async { panic!("a fault") }.boxed())
}

impl Bench {
    async fn start(&self, work: Work) -> RunId {
        match self.runs.submit(submission(None, 0, work)).await {
            Ok(Submitted::New(id)) => id,
            other => panic!("expected a new run, got {other:?}"),
        }
    }

    async fn run(&self, id: &RunId) -> Run {
        let found = self.runs.find(OWNER, id).await.expect("the journal works");
        found.expect("the run is there")
    }

    async fn done(&self, id: &RunId) -> Arc<Report> {
        self.run(id).await.done().await
    }
}

#[tokio::test]
async fn a_run_ends_with_its_report_in_memory_and_on_disk() {
    let bench = bench(8);
    let id = bench.start(ends(Status::Succeeded)).await;
    assert_eq!(bench.done(&id).await.status, Status::Succeeded);
    let stored = bench.runs.inner.journal.load(&id).await.unwrap().unwrap();
    assert_eq!(stored.report.status, Status::Succeeded);
    assert_eq!(stored.owner, OWNER);
}

#[tokio::test]
async fn other_owners_do_not_find_a_run() {
    let bench = bench(8);
    let id = bench.start(waits()).await;
    let found = bench.runs.find("project:43", &id).await.unwrap();
    assert!(found.is_none());
    bench.run(&id).await.cancel();
    bench.done(&id).await;
    let found = bench.runs.find("project:43", &id).await.unwrap();
    assert!(found.is_none());
}

#[tokio::test]
async fn a_panic_ends_one_run_as_internal() {
    let bench = bench(8);
    let other = bench.start(waits()).await;
    let id = bench.start(panics()).await;
    let report = bench.done(&id).await;
    assert_eq!(
        (report.status, report.code),
        (Status::Failed, Some(Code::Internal))
    );
    let events = bench
        .run(&id)
        .await
        .log()
        .expect("the log is kept")
        .since(0);
    let end = Body::End {
        status: Status::Failed,
    };
    assert_eq!(events.last().map(|event| &event.body), Some(&end));
    assert_eq!(bench.runs.active(), [other]);
}

#[tokio::test]
async fn the_same_key_and_body_is_the_same_run() {
    let bench = bench(8);
    let first = bench.runs.submit(submission(Some("k"), 1, waits())).await;
    let Ok(Submitted::New(id)) = first else {
        panic!("expected a new run, got {first:?}");
    };
    let again = bench.runs.submit(submission(Some("k"), 1, panics())).await;
    assert_eq!(again.unwrap(), Submitted::Same(id.clone(), Status::Running));
    let other = bench.runs.submit(submission(Some("k"), 2, panics())).await;
    assert!(matches!(other, Err(SubmitError::OtherBody)));
    assert_eq!(bench.runs.active(), [id]);
}

#[tokio::test]
async fn twenty_requests_of_one_key_at_once_make_one_run() {
    let bench = bench(64);
    let submit = |_| bench.runs.submit(submission(Some("k"), 1, waits()));
    let answers = futures::future::join_all((0..20).map(submit)).await;
    let new = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(Submitted::New(_))))
        .count();
    assert_eq!((new, bench.runs.active().len()), (1, 1));
}

#[tokio::test]
async fn a_known_key_is_answered_while_draining() {
    let bench = bench(8);
    let first = bench.runs.submit(submission(Some("k"), 1, waits())).await;
    assert!(matches!(first, Ok(Submitted::New(_))));
    bench.lifecycle.drain();
    let seen = bench.runs.seen(OWNER, "k", Mode::Deploy, [1; 32]).await;
    assert!(matches!(
        seen,
        Ok(Some(Submitted::Same(_, Status::Running)))
    ));
    let fresh = bench.runs.submit(submission(None, 1, waits())).await;
    assert!(matches!(fresh, Err(SubmitError::Draining)));
}

#[tokio::test]
async fn runs_over_the_limit_are_refused() {
    let bench = bench(1);
    let id = bench.start(waits()).await;
    let second = bench.runs.submit(submission(None, 0, waits())).await;
    assert!(matches!(second, Err(SubmitError::Full { limit: 1 })));
    bench.run(&id).await.cancel();
    bench.runs.idle().await;
    bench.start(ends(Status::Succeeded)).await;
}

#[tokio::test]
async fn a_run_that_the_agent_cuts_is_interrupted_and_one_that_the_caller_cancels_is_cancelled() {
    let bench = bench(8);
    let mine = bench.start(waits()).await;
    let cut = bench.start(waits()).await;
    bench.run(&mine).await.cancel();
    bench.runs.cut_all();
    bench.runs.idle().await;
    assert_eq!(bench.done(&mine).await.status, Status::Cancelled);
    let report = bench.done(&cut).await;
    assert_eq!(report.status, Status::Interrupted);
    assert_eq!(report.code, Some(Code::Interrupted));
}

#[tokio::test]
async fn runs_of_rotation_are_forgotten_soon_and_take_no_place_from_jobs() {
    let bench = bench(8);
    let job = bench.start(ends(Status::Succeeded)).await;
    bench.runs.idle().await;
    let mut rotations = Vec::new();
    for _ in 0..60 {
        let work: Work = Box::new(|tools| {
            async move {
                let mut report = report(&tools.id, Status::Succeeded);
                report.mode = Mode::Rotation;
                report
            }
            .boxed()
        });
        rotations.push(bench.start(work).await);
        bench.runs.idle().await;
    }
    let has_log = async |id: &RunId| bench.run(id).await.log().is_some();
    assert!(has_log(&job).await);
    assert!(!has_log(&rotations[0]).await);
    assert!(has_log(&rotations[59]).await);
    let first = bench.done(&rotations[0]).await;
    assert_eq!(first.status, Status::Succeeded, "the journal has it");
}
