//! Looking around before a plan: which trouble is told of several, what is left behind, and how many
//! rounds of requests a deploy takes.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::*;

const SPEC: &str = "version: 1\nname: app\nmanifests: [k8s/]\n";

fn unreadable(name: &str) -> ClusterError {
    ClusterError::Forbidden {
        what: format!("get {name}"),
        reason: "no right".to_owned(),
    }
}

fn sealed() -> SecretsError {
    SecretsError::Unavailable {
        reason: "sealed".to_owned(),
        retry_after_seconds: None,
    }
}

impl Stage {
    /// Puts an object where the history should be, which this agent did not write.
    fn break_history(&self) {
        let parent = json!({ "metadata": { "name": "quaymaster-app", "namespace": "app",
            "resourceVersion": "1", "uid": "u" }, "data": { "revisions": "hello" } });
        let id = id("v1", "ConfigMap", "quaymaster-app");
        self.fakes.cluster.set(&id, parent);
    }

    /// Says that nothing was written anywhere and no token is left in Vault.
    fn left_nothing(&self) {
        let cluster = &self.fakes.cluster;
        assert_eq!(cluster.writes(), Vec::<String>::new());
        assert_eq!(cluster.booked(), Vec::<String>::new());
        assert_eq!(self.fakes.journal.entries(), []);
        assert_eq!(self.fakes.vault.live_tokens(), 0);
        assert_eq!(self.fakes.vault.live_leases(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_is_told_before_a_lock_that_cannot_be_read() {
    let stage = Stage::new();
    stage.fakes.cluster.deny("patch", "secrets");
    let lock = unreadable("quaymaster-app");
    stage.fakes.cluster.refuse_reads("quaymaster-app", lock);
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::ClusterDenied), "{report:?}");
    assert!(report.message.contains("patch"), "{}", report.message);
    assert_eq!(stage.fakes.vault.calls(), Vec::<String>::new());
    stage.left_nothing();
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_cannot_be_read_is_told_before_vault_is_asked() {
    let stage = Stage::new();
    let lock = unreadable("quaymaster-app");
    stage.fakes.cluster.refuse_reads("quaymaster-app", lock);
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::ClusterDenied), "{report:?}");
    let hint = report.problem.and_then(|problem| problem.hint);
    assert!(hint.is_some_and(|hint| hint.contains("coordination.k8s.io")));
    assert_eq!(stage.fakes.vault.calls(), Vec::<String>::new());
    stage.left_nothing();
}

#[tokio::test(start_paused = true)]
async fn a_broken_history_is_told_although_vault_fails_at_the_same_time() {
    let stage = Stage::new();
    stage.break_history();
    stage.fakes.vault.forbid("kv/app/api");
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert!(
        report.message.contains("quaymaster-app"),
        "{}",
        report.message
    );
    stage.left_nothing();
}

#[tokio::test(start_paused = true)]
async fn a_broken_history_ends_the_session_that_was_opened_beside_it() {
    let stage = Stage::new();
    stage.break_history();
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert!(
        report.message.contains("quaymaster-app"),
        "{}",
        report.message
    );
    assert!(stage.fakes.vault.calls().contains(&"login".to_owned()));
    stage.left_nothing();
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_sealed_vault_once_the_run_cannot_go_on() {
    let stage = Stage::new();
    stage.break_history();
    (0..1000).for_each(|_| stage.fakes.vault.fail_next(sealed()));
    let began = Instant::now();
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert!(
        report.message.contains("quaymaster-app"),
        "{}",
        report.message
    );
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    stage.left_nothing();
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_is_told_although_an_object_cannot_be_read() {
    let stage = Stage::new();
    stage.fakes.vault.put("kv/app/api", &[("other", "x")]);
    let error = unreadable("app-db");
    stage.fakes.cluster.refuse_reads("app-db", error);
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::SecretMissing), "{report:?}");
    stage.left_nothing();
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_ends_the_session_and_writes_nothing() {
    let stage = Stage::new();
    let error = unreadable("app-db");
    stage.fakes.cluster.refuse_reads("app-db", error);
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::ClusterDenied), "{report:?}");
    assert!(stage.fakes.vault.calls().contains(&"login".to_owned()));
    stage.left_nothing();
}

/// How many requests to the cluster follow each other in a run.
async fn rounds(stage: &Stage, manifests: &str, mode: Mode) -> u128 {
    const DISTANCE: Duration = Duration::from_secs(1);
    stage.fakes.cluster.place_at(DISTANCE);
    let began = Instant::now();
    let report = stage.run(SPEC, manifests, mode).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    began.elapsed().as_millis().div_ceil(DISTANCE.as_millis())
}

#[tokio::test(start_paused = true)]
async fn what_does_not_depend_on_each_other_is_asked_in_the_same_round() {
    let stage = Stage::new();
    // Rights beside lock, history beside what is there, dry run.
    assert_eq!(rounds(&stage, CONF, Mode::DryRun).await, 3);
    // As before; lock, history, the object beside the piece of its revision, history, lock.
    assert_eq!(rounds(&stage, CONF, Mode::Deploy).await, 8);
    // Nothing is asked about what is proved the same, nothing is written.
    assert_eq!(rounds(&stage, CONF, Mode::Deploy).await, 2);
    let changed = CONF.replace("key: value", "key: other");
    // The parent knows all members, so it is written once only.
    assert_eq!(rounds(&stage, &changed, Mode::Deploy).await, 7);
}

fn pieces(stage: &Stage) -> Vec<bool> {
    let there = |number| {
        let name = format!("quaymaster-app-r{number}-0");
        let piece = id("v1", "ConfigMap", &name);
        stage.fakes.cluster.object(&piece).is_some()
    };
    (1..=3).map(there).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_revision_sent_is_not_kept() {
    let stage = Stage::new();
    stage.run(SPEC, CONF, Mode::Deploy).await;
    assert_eq!(pieces(&stage), [true, false, false]);
    stage
        .fakes
        .cluster
        .refuse_next_write(ClusterError::Forbidden {
            what: "patch".to_owned(),
            reason: "quota".to_owned(),
        });
    let changed = CONF.replace("key: value", "key: other");
    let report = stage.run(SPEC, &changed, Mode::Deploy).await;
    assert_eq!(report.status, Status::Denied, "{report:?}");
    assert!(
        stage
            .fakes
            .cluster
            .booked()
            .contains(&"v1/ConfigMap app/quaymaster-app-r2-0".to_owned())
    );
    assert_eq!(pieces(&stage), [true, false, false]);
    let report = stage.run(SPEC, &changed, Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(pieces(&stage), [true, false, true]);
}
