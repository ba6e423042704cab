//! Tests of the watch loop against a cluster that plays a script in paused time.

mod double;

use std::sync::Arc;

use proto::event::Body;
use serde_json::Value;
use serde_json::json;

use super::*;
use crate::class::Class;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::ports::LogRequest;
use crate::secret::Secret;

use double::Line;
use double::Script;

fn id(api_version: &str, kind: &str) -> ObjectId {
    ObjectId {
        gvk: Gvk::new(api_version, kind),
        namespace: Some("shop".to_owned()),
        name: "web".to_owned(),
    }
}

fn applied(api_version: &str, kind: &str) -> AppliedObject {
    AppliedObject {
        id: id(api_version, kind),
        uid: "owner".to_owned(),
        generation: 2,
        resource_version: "7".to_owned(),
    }
}

fn deployment(observed: i64, ready: i64) -> Observation {
    Observation::Present(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", "uid": "owner", "generation": 2},
        "spec": {"replicas": 1, "template": {}},
        "status": {
            "observedGeneration": observed, "replicas": 1, "updatedReplicas": 1,
            "readyReplicas": ready, "availableReplicas": ready,
        },
    }))
}

fn replica_set() -> Observation {
    Observation::Present(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": "web-2", "namespace": "shop", "uid": "set",
            "ownerReferences": [{"uid": "owner"}],
        },
        "spec": {"template": {}}, "status": {},
    }))
}

fn pod(status: Value) -> Observation {
    Observation::Present(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-2-x", "namespace": "shop", "uid": "pod",
            "ownerReferences": [{"uid": "set"}],
        },
        "spec": {"containers": [{"name": "app", "image": "reg.example/web:2"}]},
        "status": {"phase": "Pending", "containerStatuses": [status]},
    }))
}

fn image_missing() -> Observation {
    pod(json!({
        "name": "app", "restartCount": 0, "ready": false,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "web:2: not found"}},
    }))
}

fn crash(restarts: i64) -> Observation {
    pod(json!({
        "name": "app", "restartCount": restarts, "ready": false,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1}},
    }))
}

/// What a watch came to.
struct Run {
    outcome: Outcome,
    after: Duration,
    log: RunLog,
}

impl Run {
    /// The lines of the log, shortened.
    fn lines(&self) -> Vec<String> {
        let line = |body| match body {
            Body::Message { text, .. } => text,
            Body::Object { state, detail, .. } => format!("{state} {detail}").trim().to_owned(),
            Body::StageStarted { .. }
            | Body::StageEnded { .. }
            | Body::Heartbeat
            | Body::End { .. } => String::new(),
        };
        let events = self.log.since(0).into_iter();
        events.map(|event| line(event.body)).collect()
    }

    fn failed(&self) -> &[Cause] {
        match &self.outcome {
            Outcome::Failed { causes } => causes,
            other @ (Outcome::Ready { .. } | Outcome::TimedOut { .. } | Outcome::Stopped) => {
                panic!("expected a failure, got {other:?}")
            }
        }
    }

    fn timed_out(&self) -> &[Cause] {
        match &self.outcome {
            Outcome::TimedOut { causes } => causes,
            other @ (Outcome::Ready { .. } | Outcome::Failed { .. } | Outcome::Stopped) => {
                panic!("expected the deadline, got {other:?}")
            }
        }
    }
}

const DEADLINE: Duration = Duration::from_secs(120);

async fn run(applied: &[AppliedObject], script: Arc<Script>, stop: &CancellationToken) -> Run {
    let ports = double::ports(script);
    let log = RunLog::new(Arc::clone(&ports.clock));
    log.learn(&Secret::new(b"hunter2-hunter2".to_vec()));
    let actor = Actor {
        user: "gitlab:ci_job:1".to_owned(),
        groups: Vec::new(),
    };
    let start = Instant::now();
    let watched = Watched {
        objects: applied,
        namespace: "shop",
        rules: &[],
    };
    let outcome = watch(watched, &actor, &ports, &log, start + DEADLINE, stop).await;
    Run {
        outcome,
        after: start.elapsed(),
        log,
    }
}

async fn rollout(lines: Vec<Line>) -> Run {
    let script = Arc::new(Script::new(lines));
    let stop = CancellationToken::new();
    run(&[applied("apps/v1", "Deployment")], script, &stop).await
}

const fn ready(warnings: Vec<String>) -> Outcome {
    Outcome::Ready { warnings }
}

#[tokio::test(start_paused = true)]
async fn a_rollout_ends_as_soon_as_everything_is_ready() {
    let run = rollout(vec![(0, deployment(2, 0)), (5_000, deployment(2, 1))]).await;
    assert_eq!(run.outcome, ready(vec![]));
    assert!(run.after < Duration::from_millis(5_200), "{:?}", run.after);
    assert_eq!(
        run.lines(),
        ["waiting 1 of 1 updated, 0 ready, 0 available", "ready"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_in_the_first_listing_is_not_waited_for() {
    let run = rollout(vec![(0, deployment(2, 1))]).await;
    assert_eq!(run.outcome, ready(vec![]));
    // The timer of the paused clock counts whole milliseconds.
    assert!(run.after < Duration::from_millis(2), "{:?}", run.after);
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_a_moment_after_a_look_is_seen_at_once_and_told_in_peace() {
    let mut lines = vec![(0, deployment(2, 0))];
    lines
        .extend((1..20).map(|number| (number, deployment(if number % 2 == 0 { 1 } else { 2 }, 0))));
    lines.push((20, deployment(2, 1)));
    let run = rollout(lines).await;
    assert_eq!(run.outcome, ready(vec![]));
    assert!(run.after < Duration::from_millis(30), "{:?}", run.after);
    assert_eq!(run.lines(), ["ready"]);
}

#[tokio::test(start_paused = true)]
async fn objects_without_a_state_are_ready_without_a_watch() {
    let script = Arc::new(Script::new(vec![]));
    let objects = [applied("v1", "ConfigMap"), applied("v1", "Secret")];
    let run = run(&objects, script, &CancellationToken::new()).await;
    assert_eq!(run.outcome, ready(vec![]));
}

#[tokio::test(start_paused = true)]
async fn good_numbers_of_an_earlier_generation_do_not_end_the_watch() {
    let run = rollout(vec![(0, deployment(1, 1)), (30_000, deployment(2, 1))]).await;
    assert_eq!(run.outcome, ready(vec![]));
    assert!(run.after >= Duration::from_secs(30), "{:?}", run.after);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_judged_before_every_listing_is_complete() {
    let script = Script::new(vec![(0, deployment(2, 1))]).keeping_back(Gvk::new("v1", "Pod"));
    let objects = [applied("apps/v1", "Deployment")];
    let run = run(&objects, Arc::new(script), &CancellationToken::new()).await;
    assert_eq!(run.after, DEADLINE);
    assert_eq!(
        run.lines()[0],
        "still waiting for the listing of v1/Pod (after 30 s)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_fails_within_five_seconds() {
    let run = rollout(vec![
        (0, deployment(2, 0)),
        (0, replica_set()),
        (10_000, image_missing()),
    ])
    .await;
    let causes = run.failed();
    assert_eq!(causes[0].kind, "image_missing");
    assert_eq!(causes[0].object, "apps/v1/Deployment shop/web");
    let seen = run.after - Duration::from_secs(10);
    assert!(seen <= Duration::from_secs(5), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_that_heals_is_no_failure_and_is_told() {
    let running = pod(json!({
        "name": "app", "restartCount": 3, "ready": true, "state": {"running": {}},
    }));
    let run = rollout(vec![
        (0, deployment(2, 0)),
        (0, replica_set()),
        (1_000, crash(1)),
        (20_000, crash(2)),
        (50_000, running),
        (50_000, deployment(2, 1)),
    ])
    .await;
    let warning = "container app of pod web-2-x was restarted 3 times".to_owned();
    assert_eq!(run.outcome, ready(vec![warning]));
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_probe_that_ends_right_after_start_does_not_count_as_ready() {
    let shortly = |ready: &str| {
        let Observation::Present(mut pod) = pod(json!({
            "name": "app", "restartCount": 0, "ready": true, "state": {"running": {}},
        })) else {
            panic!("the builder makes an object");
        };
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
        Observation::Present(pod)
    };
    let run = rollout(vec![
        (0, deployment(2, 0)),
        (0, replica_set()),
        (1_000, shortly("True")),
        (1_000, deployment(2, 1)),
        (1_900, crash(0)),
        (2_000, deployment(2, 0)),
        (40_000, crash(3)),
    ])
    .await;
    assert_eq!(run.failed()[0].kind, "crash");
}

#[tokio::test(start_paused = true)]
async fn the_fourth_crash_is_the_verdict_and_brings_the_last_lines_redacted() {
    let mut script = Script::new(vec![
        (0, deployment(2, 0)),
        (0, replica_set()),
        (1_000, crash(2)),
        (40_000, crash(3)),
    ]);
    script.previous_log = (1..=20)
        .map(|line| format!("line {line}\n"))
        .chain(["password hunter2-hunter2 refused\n".to_owned()])
        .collect();
    let script = Arc::new(script);
    let objects = [applied("apps/v1", "Deployment")];
    let run = run(&objects, Arc::clone(&script), &CancellationToken::new()).await;
    let evidence = run.failed()[0].evidence.join("\n");
    assert_eq!(run.failed()[0].kind, "crash");
    assert!(run.after < Duration::from_secs(45), "{:?}", run.after);
    assert!(evidence.contains("| line 20"), "{evidence}");
    assert!(!evidence.contains("| line 6\n"), "{evidence}");
    assert!(evidence.contains("refused"), "{evidence}");
    assert!(!evidence.contains("hunter2-hunter2"), "{evidence}");
    let asked = LogRequest {
        namespace: "shop".to_owned(),
        pod: "web-2-x".to_owned(),
        container: "app".to_owned(),
        previous: true,
        lines: 15,
    };
    assert_eq!(script.asked(), [asked]);
}

#[tokio::test(start_paused = true)]
async fn the_other_log_is_read_where_the_first_is_empty() {
    let mut script = Script::new(vec![
        (0, deployment(2, 0)),
        (0, replica_set()),
        (0, crash(3)),
    ]);
    script.current_log = "out of ideas\n".to_owned();
    let objects = [applied("apps/v1", "Deployment")];
    let run = run(&objects, Arc::new(script), &CancellationToken::new()).await;
    let evidence = &run.failed()[0].evidence;
    assert!(
        evidence.contains(&"| out of ideas".to_owned()),
        "{evidence:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_deadline_tells_what_was_seen_and_gives_signs_of_life() {
    let unscheduled = Observation::Present(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-2-x", "namespace": "shop", "uid": "pod",
            "ownerReferences": [{"uid": "set"}],
        },
        "status": {"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available",
        }]},
    }));
    let run = rollout(vec![
        (0, deployment(2, 0)),
        (0, replica_set()),
        (1_000, unscheduled),
    ])
    .await;
    assert_eq!(run.after, DEADLINE);
    assert_eq!(run.timed_out()[0].kind, "unschedulable");
    assert_eq!(
        run.timed_out()[0].evidence,
        ["apps/v1/Deployment shop/web: 1 of 1 updated, 0 ready, 0 available"]
    );
    let lines = run.lines();
    let life = lines
        .iter()
        .filter(|line| line.starts_with("still waiting"));
    assert_eq!(life.count(), 3, "{lines:?}");
    let news = lines.iter().filter(|line| line.contains("no node takes"));
    assert_eq!(news.count(), 1, "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_an_object_without_a_cause_says_how_it_stands() {
    let run = rollout(vec![(0, deployment(2, 0))]).await;
    let cause = &run.timed_out()[0];
    assert_eq!(cause.kind, "not_ready");
    assert_eq!(
        cause.message,
        "apps/v1/Deployment shop/web is not ready: 1 of 1 updated, 0 ready, 0 available"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_watch_at_once() {
    let script = Arc::new(Script::new(vec![(0, deployment(2, 0))]));
    let stop = CancellationToken::new();
    stop.cancel();
    let run = run(&[applied("apps/v1", "Deployment")], script, &stop).await;
    assert_eq!(run.outcome, Outcome::Stopped);
    assert_eq!(run.after, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_object_fails_after_a_second_look() {
    let gone = Observation::Gone(id("apps/v1", "Deployment"));
    let run = rollout(vec![(0, deployment(2, 0)), (10_000, gone)]).await;
    assert_eq!(run.failed()[0].kind, "replaced");
    assert!(run.after >= Duration::from_secs(12), "{:?}", run.after);
}

fn denied(api_version: &str, kind: &str) -> Observation {
    Observation::Trouble {
        gvk: Gvk::new(api_version, kind),
        class: Class::Denied,
        reason: "forbidden".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn evidence_that_may_not_be_watched_is_told_once_and_missed() {
    let pods = || denied("v1", "Pod");
    let script = Script::new(vec![
        (0, pods()),
        (0, deployment(2, 0)),
        (1_000, pods()),
        (2_000, deployment(2, 1)),
    ])
    .keeping_back(Gvk::new("v1", "Pod"));
    let objects = [applied("apps/v1", "Deployment")];
    let run = run(&objects, Arc::new(script), &CancellationToken::new()).await;
    assert_eq!(run.outcome, ready(vec![]));
    let lines = run.lines();
    let told = "v1/Pod cannot be watched as gitlab:ci_job:1: forbidden";
    assert_eq!(lines.iter().filter(|line| *line == told).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_applied_kind_that_may_not_be_watched_fails_naming_the_right_and_the_actor() {
    let gvk = Gvk::new("apps/v1", "Deployment");
    let script = Script::new(vec![(0, denied("apps/v1", "Deployment"))]).keeping_back(gvk);
    let objects = [applied("apps/v1", "Deployment")];
    let run = run(&objects, Arc::new(script), &CancellationToken::new()).await;
    assert_eq!(run.failed()[0].kind, "cannot_watch");
    assert_eq!(
        run.failed()[0].message,
        "apps/v1/Deployment shop/web cannot be watched as gitlab:ci_job:1: the rights list and watch for apps/v1/Deployment are missing"
    );
    assert!(run.after < Duration::from_secs(10), "{:?}", run.after);
}

#[tokio::test(start_paused = true)]
async fn a_completed_job_that_is_cleaned_up_stays_ready() {
    let job = Observation::Present(json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "web", "namespace": "shop", "uid": "owner", "generation": 2},
        "status": {"conditions": [{"type": "Complete", "status": "True"}]},
    }));
    let script = Arc::new(Script::new(vec![
        (0, deployment(2, 0)),
        (0, job),
        (5_000, Observation::Gone(id("batch/v1", "Job"))),
        (9_000, deployment(2, 1)),
    ]));
    let objects = [applied("apps/v1", "Deployment"), applied("batch/v1", "Job")];
    let run = run(&objects, script, &CancellationToken::new()).await;
    assert_eq!(run.outcome, ready(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_waits_for_its_first_consumer_does_not_hold_up_the_run() {
    let claim = Observation::Present(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "web", "namespace": "shop", "uid": "owner", "generation": 2},
        "status": {"phase": "Pending"},
    }));
    let event = Observation::Present(json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "shop"},
        "involvedObject": {"uid": "owner"}, "reason": "WaitForFirstConsumer",
    }));
    let script = Arc::new(Script::new(vec![(0, claim), (2_000, event)]));
    let objects = [applied("v1", "PersistentVolumeClaim")];
    let run = run(&objects, script, &CancellationToken::new()).await;
    let warning =
        "v1/PersistentVolumeClaim shop/web is bound when the first pod uses it".to_owned();
    assert_eq!(run.outcome, ready(vec![warning]));
}

fn timed_out(set: &str) -> Observation {
    let Observation::Present(mut object) = deployment(2, 0) else {
        panic!("the builder makes an object");
    };
    object["status"]["conditions"] = json!([{
        "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
        "message": format!("ReplicaSet \"{set}\" has timed out progressing."),
    }]);
    Observation::Present(object)
}

#[tokio::test(start_paused = true)]
async fn a_progress_deadline_of_an_earlier_replica_set_is_no_failure() {
    let run = rollout(vec![
        (0, timed_out("web-1")),
        (0, replica_set()),
        (20_000, deployment(2, 1)),
    ])
    .await;
    assert_eq!(run.outcome, ready(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_passed_progress_deadline_fails_the_run() {
    let run = rollout(vec![(0, timed_out("web-2")), (0, replica_set())]).await;
    assert_eq!(run.failed()[0].kind, "progress_deadline");
    assert_eq!(
        run.failed()[0].message,
        "apps/v1/Deployment shop/web says: ProgressDeadlineExceeded: ReplicaSet \"web-2\" has timed out progressing."
    );
}

fn with_annotation(observation: Observation, name: &str, value: &str) -> Observation {
    let Observation::Present(mut object) = observation else {
        return observation;
    };
    object["metadata"]["annotations"] = json!({ name: value });
    Observation::Present(object)
}

#[tokio::test(start_paused = true)]
async fn an_object_that_says_so_is_not_waited_for() {
    let deployment = with_annotation(deployment(2, 0), "quaymaster.dev/wait", "skip");
    let run = rollout(vec![(0, deployment), (0, replica_set()), (0, crash(9))]).await;
    let note = "apps/v1/Deployment shop/web is not waited for, as its annotation says".to_owned();
    assert_eq!(run.outcome, ready(vec![note]));
}

#[tokio::test(start_paused = true)]
async fn an_object_fails_alone_at_its_own_deadline() {
    let deployment = with_annotation(deployment(2, 0), "quaymaster.dev/timeout", "7s");
    let run = rollout(vec![(0, deployment)]).await;
    let Outcome::Failed { causes } = &run.outcome else {
        panic!("{:?}", run.outcome);
    };
    assert_eq!(causes[0].kind, "object_timeout");
    assert!(causes[0].message.contains("own deadline of 7 s"));
    assert!(run.after >= Duration::from_secs(7) && run.after < Duration::from_secs(10));
}

fn job(status: Value) -> Observation {
    Observation::Present(json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "web", "namespace": "shop", "uid": "owner", "generation": 2},
        "spec": {}, "status": status,
    }))
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_removed_in_the_moment_it_completes_is_done() {
    let complete = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    let script = Script::new(vec![
        (0, job(json!({"startTime": "x"}))),
        (5_000, job(complete)),
        (5_000, Observation::Gone(id("batch/v1", "Job"))),
    ]);
    let objects = [applied("batch/v1", "Job")];
    let run = run(&objects, Arc::new(script), &CancellationToken::new()).await;
    assert_eq!(run.outcome, ready(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_removed_before_the_first_look_is_done_when_its_event_says_so() {
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "shop"},
        "involvedObject": {"uid": "owner"}, "reason": "Completed",
    });
    let objects = [applied("batch/v1", "Job")];
    let script = Script::new(vec![(0, Observation::Present(event))]);
    let run = run(&objects, Arc::new(script), &CancellationToken::new()).await;
    assert_eq!(run.outcome, ready(vec![]));
}
