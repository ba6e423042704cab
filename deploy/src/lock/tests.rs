//! The lock of an app on a cluster in memory, with paused time.

use std::sync::Arc;

use futures::FutureExt as _;
use serde_json::Value;

use super::*;
use crate::fakes::Fakes;
use crate::log::RunLog;
use crate::ports::Branch;
use crate::ports::BranchName;
use crate::ports::GitAddress;

struct Bench {
    fakes: Fakes,
    ports: Ports,
    log: RunLog,
    stop: CancellationToken,
}

const APP: (&str, &str) = ("shop", "web");

fn app() -> Subject {
    Subject::App(APP.1.to_owned())
}

fn actor() -> Actor {
    Actor {
        user: "gitlab:ci_job:7".to_owned(),
        groups: Vec::new(),
    }
}

impl Bench {
    fn new() -> Self {
        let fakes = Fakes::default();
        let ports = fakes.ports();
        let log = RunLog::new(Arc::clone(&fakes.clock) as _);
        let stop = CancellationToken::new();
        Self {
            fakes,
            ports,
            log,
            stop,
        }
    }

    fn stops(&self) -> Stops<'_> {
        Stops {
            forward: &self.stop,
            all: &self.stop,
        }
    }

    fn gate(&self, run: &str) -> Gate<'_> {
        let me = Holder {
            run: run.to_owned(),
            job: "7".to_owned(),
            url: format!("https://gitlab.example.com/{run}"),
            agent: "host-a".to_owned(),
        };
        Gate::new((APP.0, app()), me, &actor(), &self.ports, self.stops())
    }

    fn patience(&self, seconds: u64) -> Patience<'_> {
        Patience {
            deadline: Instant::now() + Duration::from_secs(seconds),
            stop: &self.stop,
            log: &self.log,
            seed: 7,
        }
    }

    async fn taken(&self, run: &str) -> Lock<'_> {
        let patience = self.patience(600);
        let mut gate = self.gate(run);
        let seen = gate.look(&patience).await.expect("it can be read");
        let lock = gate.take(&seen, &patience).await.expect("it is written");
        lock.expect("nobody has it")
    }

    fn object(&self) -> Value {
        let object = self.fakes.cluster.object(&record::id(APP.0, &app()));
        object.expect("the lock object is there")
    }

    fn holder(&self) -> Option<String> {
        record::read(&self.object()).holder.map(|holder| holder.run)
    }

    /// Puts the lock into the hands of a run that nobody renews for.
    fn hold_by_hand(&self, run: &str, fence: u64) {
        let id = record::id(APP.0, &app());
        let holder = Holder {
            run: run.to_owned(),
            job: String::new(),
            url: String::new(),
            agent: String::new(),
        };
        let times = Times {
            acquired: "then".to_owned(),
            renewed: "then".to_owned(),
        };
        let mut body = record::held(&id, &app(), &holder, fence, &times, None);
        body["metadata"]["resourceVersion"] = Value::from(format!("by-hand-{fence}"));
        body["metadata"]["uid"] = Value::from("u");
        self.fakes.cluster.set(&id, body);
    }
}

fn unavailable() -> ClusterError {
    ClusterError::Unavailable {
        reason: "connection refused".to_owned(),
        retry_after_seconds: None,
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_given_back_and_its_number_goes_up() {
    let bench = Bench::new();
    for fence in 1..=3 {
        let lock = bench.taken("run-1").await;
        assert_eq!(lock.fence(), fence);
        assert_eq!(bench.holder().as_deref(), Some("run-1"));
        lock.hold(&bench.patience(60), seconds(1)).await;
        assert_eq!(bench.holder(), None);
        assert_eq!(bench.object()["spec"]["leaseTransitions"], fence);
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lock_keeps_others_waiting_until_it_is_given_back() {
    let bench = Bench::new();
    let lock = bench.taken("run-1").await;
    let began = Instant::now();
    let patience = bench.patience(600);
    let mut other = bench.gate("run-2");
    let (waited, ()) = tokio::join!(
        async {
            other.wait(WhenLocked::Wait, &patience).await.expect("free");
            began.elapsed()
        },
        lock.hold(&patience, seconds(200)),
    );
    assert!(waited >= Duration::from_secs(200), "{waited:?}");
    assert!(waited <= Duration::from_secs(203), "{waited:?}");
    let said = bench.log.since(0);
    let told = said.iter().filter(|event| {
        let line = format!("{:?}", event.body);
        line.contains("run-1") && line.contains("https://gitlab.example.com/run-1")
    });
    assert_eq!(told.count(), 7, "once each half minute: {said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_nobody_renews_runs_out() {
    let bench = Bench::new();
    bench.hold_by_hand("run-1", 4);
    let began = Instant::now();
    let patience = bench.patience(600);
    let mut gate = bench.gate("run-2");
    gate.wait(WhenLocked::Wait, &patience).await.expect("free");
    let waited = began.elapsed();
    assert!(waited >= record::DURATION, "{waited:?}");
    assert!(
        waited < record::DURATION + Duration::from_secs(3),
        "{waited:?}"
    );
    let seen = gate.look(&patience).await.expect("it can be read");
    let lock = gate.take(&seen, &patience).await.expect("it is written");
    assert_eq!(lock.map(|lock| lock.fence()), Some(5));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_does_not_wait_names_the_holder() {
    let bench = Bench::new();
    bench.hold_by_hand("run-1", 1);
    let (mut gate, patience) = (bench.gate("run-2"), bench.patience(60));
    let waited = gate.wait(WhenLocked::Fail, &patience).await;
    let error = waited.expect_err("it is held");
    assert!(
        matches!(&error, LockError::Held { holder, .. } if holder.run == "run-1"),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_at_the_deadline_and_with_the_run() {
    let bench = Bench::new();
    let lock = bench.taken("run-1").await;
    let patience = bench.patience(600);
    let work = async {
        let mut other = bench.gate("run-2");
        let late = other.wait(WhenLocked::Wait, &bench.patience(20)).await;
        assert!(matches!(late, Err(LockError::Waited { .. })), "{late:?}");
        let cancel = async {
            seconds(5).await;
            bench.stop.cancel();
        };
        let (stopped, ()) = tokio::join!(other.wait(WhenLocked::Wait, &patience), cancel);
        assert_eq!(stopped, Err(LockError::Stopped));
    };
    lock.hold(&patience, work).await;
    assert_eq!(bench.holder(), None, "a cancelled run gives its lock back");
}

#[tokio::test(start_paused = true)]
async fn of_two_that_saw_it_free_one_takes_it() {
    let bench = Bench::new();
    let patience = bench.patience(60);
    for _ in 0..2 {
        let (mut one, mut two) = (bench.gate("run-1"), bench.gate("run-2"));
        let first = one.look(&patience).await.expect("it can be read");
        let second = two.look(&patience).await.expect("it can be read");
        let lock = one.take(&first, &patience).await.expect("it is written");
        let late = two.take(&second, &patience).await.expect("it is no error");
        assert!(late.is_none());
        let lock = lock.expect("the first one has it");
        lock.hold(&patience, seconds(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_taking_without_an_answer_is_looked_at() {
    let bench = Bench::new();
    bench.fakes.cluster.silence_next_lock();
    let lock = bench.taken("run-1").await;
    // So are a renewal and the giving back.
    bench.fakes.clock.shift(10);
    bench.fakes.cluster.silence_next_lock();
    bench.fakes.cluster.silence_next_lock();
    let reins = lock.reins();
    lock.hold(&bench.patience(60), seconds(12)).await;
    assert!(!reins.writing.is_cancelled());
    assert_eq!(bench.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn a_run_takes_its_own_lock_over_at_once() {
    let bench = Bench::new();
    drop(bench.taken("run-1").await);
    let again = bench.taken("run-1").await;
    assert_eq!(again.fence(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_lost_its_lock_stops_and_leaves_it_alone() {
    let bench = Bench::new();
    let lock = bench.taken("run-1").await;
    let reins = lock.reins();
    bench.hold_by_hand("run-2", 2);
    let work = async {
        reins.writing.cancelled().await;
        reins.watching.cancelled().await;
    };
    lock.hold(&bench.patience(600), work).await;
    assert_eq!(bench.holder().as_deref(), Some("run-2"));
    assert!(!bench.stop.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_run_in_doubt_stops_writing_before_others_can_begin() {
    let bench = Bench::new();
    let lock = bench.taken("run-1").await;
    let (reins, began) = (lock.reins(), Instant::now());
    for _ in 0..20 {
        bench.fakes.cluster.refuse_next_lock(unavailable());
    }
    let work = async {
        reins.writing.cancelled().await;
        let stopped = began.elapsed();
        assert!(stopped < record::DURATION, "{stopped:?}");
        seconds(60).await;
        assert!(!reins.watching.is_cancelled(), "nobody else has it");
    };
    lock.hold(&bench.patience(600), work).await;
    assert_eq!(bench.holder(), None, "it was still its own");
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_no_doubt() {
    let bench = Bench::new();
    let lock = bench.taken("run-1").await;
    let reins = lock.reins();
    for _ in 0..5 {
        bench.fakes.cluster.refuse_next_lock(unavailable());
    }
    lock.hold(&bench.patience(600), seconds(100)).await;
    assert!(!reins.writing.is_cancelled());
    assert_eq!(bench.holder(), None);
}

fn files(path: &str) -> Subject {
    let branch = Branch {
        repository: GitAddress::parse("https://git.example.com/team/fleet.git").expect("good"),
        name: BranchName::parse("main").expect("good"),
    };
    Subject::files(&branch, path)
}

impl Bench {
    fn line(&self, run: &str, app: &str, paths: &[&str]) -> Line<'_> {
        let gate = |subject| {
            let me = Holder {
                run: run.to_owned(),
                job: String::new(),
                url: String::new(),
                agent: String::new(),
            };
            Gate::new((APP.0, subject), me, &actor(), &self.ports, self.stops())
        };
        let paths = paths.iter().map(|path| gate(files(path)));
        Line::new(gate(Subject::App(app.to_owned())), paths.collect())
    }

    fn holder_of(&self, subject: &Subject) -> Option<String> {
        let object = self.fakes.cluster.object(&record::id(APP.0, subject));
        record::read(&object?).holder.map(|holder| holder.run)
    }

    async fn all_of(&self, line: &mut Line<'_>) -> bool {
        let patience = self.patience(600);
        let seen = line.look(&patience).await.expect("they can be read");
        let locks = line.take(&seen, &patience).await.expect("they are written");
        match locks {
            Some(locks) => {
                locks.hold(&patience, std::future::ready(()).boxed()).await;
                true
            }
            None => false,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_apps_that_change_the_same_files_do_so_one_after_the_other() {
    let bench = Bench::new();
    let patience = bench.patience(600);
    let mut one = bench.line("run-1", "web", &["infra", "apps"]);
    let mut two = bench.line("run-2", "api", &["apps"]);
    let mut three = bench.line("run-3", "batch", &["jobs"]);
    let seen = one.look(&patience).await.expect("they can be read");
    let locks = one.take(&seen, &patience).await.expect("they are written");
    let locks = locks.expect("nobody has them");
    let work = async {
        for path in ["apps", "infra"] {
            assert_eq!(bench.holder_of(&files(path)).as_deref(), Some("run-1"));
        }
        assert!(bench.all_of(&mut three).await, "other files are free");
        assert!(!bench.all_of(&mut two).await, "these are not");
        let api = Subject::App("api".to_owned());
        assert_eq!(
            bench.holder_of(&api),
            None,
            "nothing is kept while it waits"
        );
        let short = bench.patience(5);
        let error = two.wait(WhenLocked::Wait, &short).await.expect_err("held");
        let text = error.to_string();
        assert!(
            text.contains("apps on branch main of https://git.example.com/team/fleet.git")
                && text.contains("run-1"),
            "{text}"
        );
        // Longer than a lock lasts without a renewal.
        tokio::time::sleep(record::DURATION * 3).await;
        assert!(!bench.all_of(&mut two).await, "all of them are renewed");
    };
    locks.hold(&patience, work.boxed()).await;
    assert!(bench.all_of(&mut two).await, "they are given back");
}

#[tokio::test(start_paused = true)]
async fn losing_the_lock_of_files_stops_the_run() {
    let bench = Bench::new();
    let patience = bench.patience(600);
    let mut line = bench.line("run-1", "web", &["apps"]);
    let seen = line.look(&patience).await.expect("they can be read");
    let locks = line.take(&seen, &patience).await.expect("they are written");
    let locks = locks.expect("nobody has them");
    let reins = locks.reins();
    let id = record::id(APP.0, &files("apps"));
    let mut body = bench.fakes.cluster.object(&id).expect("it is there");
    body["spec"]["holderIdentity"] = Value::from("run-9");
    body["metadata"]["resourceVersion"] = Value::from("99");
    bench.fakes.cluster.set(&id, body);
    locks
        .hold(&patience, reins.watching.cancelled().boxed())
        .await;
    assert!(reins.writing.is_cancelled());
    assert_eq!(bench.holder_of(&files("apps")).as_deref(), Some("run-9"));
    assert_eq!(
        bench.holder_of(&app()),
        None,
        "that of the app is given back"
    );
}
