//! Tests of the causes, one sentence a rule.

use serde_json::Value;
use serde_json::json;

use super::*;
use crate::object::Gvk;
use crate::object::ObjectId;

/// Long enough for every bound.
const LATER: Duration = Duration::from_secs(4);

fn applied(api_version: &str, kind: &str) -> AppliedObject {
    AppliedObject {
        id: ObjectId {
            gvk: Gvk::new(api_version, kind),
            namespace: Some("shop".to_owned()),
            name: "web".to_owned(),
        },
        uid: "owner".to_owned(),
        generation: 2,
        resource_version: "7".to_owned(),
    }
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": image}]}})
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "owner", "generation": 2,
            "annotations": {"deployment.kubernetes.io/revision": "2"},
        },
        "spec": {"replicas": 1, "template": template("new")},
        "status": {"observedGeneration": 2},
    })
}

fn replica_set(name: &str, image: &str, revision: &str) -> Value {
    let mut template = template(image);
    template["metadata"]["labels"]["pod-template-hash"] = json!(name);
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": "shop", "uid": name,
            "annotations": {"deployment.kubernetes.io/revision": revision},
            "ownerReferences": [{"uid": "owner", "kind": "Deployment"}],
        },
        "spec": {"template": template},
        "status": {"replicas": 1},
    })
}

fn pod(name: &str, owner: &str, state: Value) -> Value {
    let mut status = json!({"name": "app", "restartCount": 0, "ready": false});
    if let (Some(into), Some(from)) = (status.as_object_mut(), state.as_object()) {
        into.extend(from.clone());
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "uid": name,
            "ownerReferences": [{"uid": owner}],
        },
        "spec": {"containers": [{
            "name": "app", "image": "reg.example/web:2",
            "resources": {"limits": {"memory": "64Mi"}},
        }]},
        "status": {"phase": "Pending", "containerStatuses": [status]},
    })
}

fn event(about: &str, reason: &str, message: &str, count: i64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{about}.{reason}.{}", message.len()), "namespace": "shop"},
        "involvedObject": {"uid": about}, "reason": reason, "message": message, "count": count,
        "lastTimestamp": "2026-01-01T00:00:05Z",
    })
}

/// The world of a Deployment with its new and its old ReplicaSet, and more.
fn world(more: Vec<Value>) -> World {
    let mut world = World::default();
    let base = [
        deployment(),
        replica_set("web-2", "new", "2"),
        replica_set("web-1", "old", "1"),
    ];
    for object in base.into_iter().chain(more) {
        world.put(object, Arrival::Live);
    }
    world
}

fn found(more: Vec<Value>) -> Vec<Finding> {
    findings(&applied("apps/v1", "Deployment"), &world(more))
}

fn only(more: Vec<Value>) -> Finding {
    let mut found = found(more);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"state": {"waiting": {"reason": reason, "message": message}}})
}

fn new_pod(state: Value) -> Value {
    pod("web-2-x", "web-2", state)
}

#[test]
fn pods_of_an_older_revision_are_not_judged() {
    let old = pod("web-1-x", "web-1", waiting("CrashLoopBackOff", ""));
    assert_eq!(found(vec![old]), []);
}

#[test]
fn pods_that_are_being_deleted_are_not_judged() {
    let mut leaving = new_pod(waiting("InvalidImageName", ""));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(found(vec![leaving]), []);
}

#[test]
fn no_pod_is_judged_before_the_controller_has_seen_the_generation() {
    let mut world = world(vec![new_pod(waiting("InvalidImageName", ""))]);
    let mut unseen = deployment();
    unseen["status"]["observedGeneration"] = json!(1);
    world.put(unseen, Arrival::Live);
    assert_eq!(findings(&applied("apps/v1", "Deployment"), &world), []);
}

#[test]
fn a_replica_set_of_another_template_is_not_the_newest_even_with_the_newest_number() {
    let mut world = World::default();
    world.put(deployment(), Arrival::Live);
    world.put(replica_set("web-1", "old", "2"), Arrival::Live);
    assert_eq!(newest_replica_set(&deployment(), &world), None);
}

#[test]
fn a_missing_image_is_permanent_on_the_second_look() {
    let words = "Back-off pulling image \"reg.example/web:2\": ErrImagePull: rpc error: code = NotFound desc = failed to pull and unpack image: reg.example/web:2: not found";
    let finding = only(vec![new_pod(waiting("ImagePullBackOff", words))]);
    assert_eq!(finding.kind, "image_missing");
    assert_eq!(
        finding.message,
        "the image of container app of pod web-2-x does not exist: reg.example/web:2"
    );
    assert!(!finding.is_final(Duration::from_secs(1)));
    assert!(finding.is_final(Duration::from_secs(2)));
}

#[test]
fn the_words_of_the_event_count_where_the_back_off_says_nothing() {
    let words = "Failed to pull image \"reg.example/web:2\": manifest unknown";
    let finding = only(vec![
        new_pod(waiting("ImagePullBackOff", "Back-off pulling image")),
        event("web-2-x", "Failed", words, 2),
    ]);
    assert_eq!(finding.kind, "image_missing");
    assert_eq!(finding.count, 2);
}

#[test]
fn a_refused_image_is_permanent_and_a_busy_or_absent_registry_is_not() {
    let kind = |words: &str| {
        let finding = only(vec![new_pod(waiting("ErrImagePull", words))]);
        (finding.kind, finding.is_final(LATER))
    };
    assert_eq!(kind("401 Unauthorized"), ("image_auth", true));
    assert_eq!(
        kind("pull access denied, repository does not exist or may require authorization"),
        ("image_auth", true)
    );
    assert_eq!(
        kind("toomanyrequests: You have reached your pull rate limit"),
        ("image_rate_limit", false)
    );
    assert_eq!(
        kind("dial tcp 192.0.2.1:443: connect: connection refused"),
        ("registry_unreachable", false)
    );
    assert_eq!(kind("something else"), ("image_pull", false));
}

#[test]
fn an_invalid_image_name_is_permanent_at_once() {
    let finding = only(vec![new_pod(waiting("InvalidImageName", "bad"))]);
    assert_eq!(finding.kind, "image_name_invalid");
    assert!(finding.is_final(Duration::ZERO));
}

#[test]
fn what_configuration_is_missing_is_named_and_final_after_three_seconds() {
    let of = |words: &str| {
        let finding = only(vec![new_pod(waiting("CreateContainerConfigError", words))]);
        assert!(!finding.is_final(Duration::from_secs(2)));
        assert!(finding.is_final(Duration::from_secs(3)));
        (finding.kind, finding.message)
    };
    let title = "container app of pod web-2-x needs";
    assert_eq!(
        of("secret \"db\" not found"),
        (
            "secret_missing",
            format!("{title} Secret db, which does not exist")
        )
    );
    assert_eq!(
        of("configmap \"conf\" not found"),
        (
            "config_map_missing",
            format!("{title} ConfigMap conf, which does not exist")
        )
    );
    assert_eq!(
        of("couldn't find key url in Secret shop/db"),
        (
            "secret_key_missing",
            format!("{title} the key url of Secret db, which does not have it")
        )
    );
    assert_eq!(
        of("couldn't find key mode in ConfigMap shop/conf"),
        (
            "config_key_missing",
            format!("{title} the key mode of ConfigMap conf, which does not have it")
        )
    );
    assert_eq!(
        of("container has runAsNonRoot and image will run as root").0,
        "config_invalid"
    );
}

#[test]
fn a_cache_that_lags_is_not_permanent() {
    let words = "failed to sync secret cache: timed out waiting for the condition";
    let finding = only(vec![new_pod(waiting("CreateContainerConfigError", words))]);
    assert!(!finding.is_final(Duration::from_secs(60)));
}

#[test]
fn a_secret_that_an_applied_custom_object_names_may_still_come() {
    let certificate = json!({
        "apiVersion": "cert-manager.io/v1", "kind": "Certificate",
        "metadata": {"name": "tls", "namespace": "shop"}, "spec": {"secretName": "web-tls"},
    });
    let words = "secret \"web-tls\" not found";
    let finding = only(vec![
        certificate,
        new_pod(waiting("CreateContainerConfigError", words)),
    ]);
    assert_eq!(finding.kind, "secret_missing");
    assert!(!finding.is_final(Duration::from_secs(60)));
}

#[test]
fn a_volume_of_a_missing_secret_is_found_in_the_events() {
    let words = "MountVolume.SetUp failed for volume \"tls\" : secret \"web-tls\" not found";
    let finding = only(vec![
        new_pod(waiting("ContainerCreating", "")),
        event("web-2-x", "FailedMount", words, 3),
    ]);
    assert_eq!(
        finding.message,
        "a volume of pod web-2-x needs Secret web-tls, which does not exist"
    );
    assert!(finding.is_final(LATER));
}

#[test]
fn a_volume_that_cannot_be_attached_is_transient() {
    let finding = only(vec![
        new_pod(waiting("ContainerCreating", "")),
        event("web-2-x", "FailedAttachVolume", "Multi-Attach error", 3),
    ]);
    assert_eq!(finding.kind, "volume_mount");
    assert!(!finding.is_final(LATER));
}

fn crashed(restarts: i64, exit: i64, reason: &str) -> Value {
    json!({
        "restartCount": restarts,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {
            "exitCode": exit, "reason": reason,
            "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z",
        }},
    })
}

#[test]
fn a_crash_is_permanent_at_the_fourth_failed_start() {
    assert!(!only(vec![new_pod(crashed(2, 1, "Error"))]).is_final(LATER));
    let finding = only(vec![new_pod(crashed(3, 1, "Error"))]);
    assert_eq!(finding.kind, "crash");
    assert_eq!(
        finding.message,
        "container app of pod web-2-x exits with code 1 right after start (3 restarts)"
    );
    assert!(finding.is_final(Duration::ZERO));
    assert!(
        finding
            .log
            .is_some_and(|log| log.previous && log.lines == 15)
    );
}

#[test]
fn a_container_that_runs_again_may_still_get_ready() {
    let mut state = crashed(5, 1, "Error");
    state["state"] = json!({"running": {}});
    let finding = only(vec![new_pod(state.clone())]);
    assert_eq!(finding.permanence, Permanence::Transient);
    state["ready"] = json!(true);
    assert_eq!(found(vec![new_pod(state)]), []);
}

#[test]
fn a_signal_is_named() {
    let finding = only(vec![new_pod(crashed(3, 139, "Error"))]);
    assert!(
        finding.message.contains("code 139 (signal 11)"),
        "{}",
        finding.message
    );
}

#[test]
fn running_out_of_memory_is_permanent_at_the_third_time() {
    assert!(!only(vec![new_pod(crashed(1, 137, "OOMKilled"))]).is_final(LATER));
    let finding = only(vec![new_pod(crashed(2, 137, "OOMKilled"))]);
    assert_eq!(finding.kind, "oom_killed");
    assert!(
        finding.message.contains("limit of 64Mi"),
        "{}",
        finding.message
    );
    assert!(finding.is_final(LATER));
}

#[test]
fn a_command_that_is_not_in_the_image_is_permanent() {
    let words = "exec: \"serve\": executable file not found in $PATH";
    let finding = only(vec![new_pod(waiting("RunContainerError", words))]);
    assert_eq!(finding.kind, "cannot_run");
    assert!(finding.is_final(LATER));
    let mut later = crashed(1, 128, "StartError");
    later["lastState"]["terminated"]["message"] = json!(words);
    assert_eq!(only(vec![new_pod(later)]).kind, "cannot_run");
}

#[test]
fn an_init_container_that_fails_is_named_as_such() {
    let mut pod = new_pod(waiting("PodInitializing", ""));
    let mut status = crashed(3, 1, "Error");
    status["name"] = json!("migrate");
    pod["status"]["initContainerStatuses"] = json!([status]);
    let finding = only(vec![pod]);
    assert_eq!(finding.kind, "init_failed");
    assert!(
        finding
            .message
            .starts_with("init container migrate of pod web-2-x exits")
    );
}

#[test]
fn a_failing_readiness_probe_waits_for_the_deadline() {
    let mut unhealthy = event(
        "web-2-x",
        "Unhealthy",
        "Readiness probe failed: HTTP 503",
        7,
    );
    unhealthy["involvedObject"]["fieldPath"] = json!("spec.containers{app}");
    let mut pod = new_pod(json!({"state": {"running": {}}}));
    pod["status"]["phase"] = json!("Running");
    let finding = only(vec![pod, unhealthy]);
    assert_eq!(
        finding.message,
        "the readiness probe of container app of pod web-2-x fails (7 times)"
    );
    assert!(!finding.is_final(Duration::from_secs(600)));
}

#[test]
fn a_liveness_probe_that_kills_again_and_again_counts_like_a_crash() {
    let mut kill = event(
        "web-2-x",
        "Killing",
        "Container app failed liveness probe, will be restarted",
        4,
    );
    kill["involvedObject"]["fieldPath"] = json!("spec.containers{app}");
    let finding = only(vec![new_pod(crashed(3, 137, "Error")), kill]);
    assert_eq!(finding.kind, "probe_failing");
    assert!(finding.is_final(LATER));
}

fn unscheduled(words: &str) -> Value {
    let mut pod = new_pod(json!({}));
    pod["status"] = json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words,
    }]});
    pod
}

#[test]
fn a_pod_that_no_node_takes_waits_for_the_deadline() {
    let finding = only(vec![unscheduled(
        "0/3 nodes are available: 3 Insufficient cpu.",
    )]);
    assert_eq!(
        finding.message,
        "no node takes pod web-2-x: 0/3 nodes are available: 3 Insufficient cpu"
    );
    assert!(!finding.is_final(Duration::from_secs(600)));
    assert!(finding.hint.is_some_and(|hint| hint.contains("requests")));
}

#[test]
fn a_claim_that_does_not_exist_is_permanent() {
    let finding = only(vec![unscheduled(
        "persistentvolumeclaim \"data\" not found",
    )]);
    assert_eq!(finding.kind, "claim_missing");
    assert!(finding.is_final(LATER));
}

fn refused(words: &str) -> Value {
    let mut set = replica_set("web-2", "new", "2");
    set["status"]["conditions"] = json!([{
        "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": words,
    }]);
    set
}

#[test]
fn refusals_of_pods_are_told_apart() {
    let kind = |words: &str| {
        let finding = only(vec![refused(words)]);
        assert!(!finding.is_final(Duration::from_secs(2)));
        (finding.kind, finding.is_final(LATER))
    };
    assert_eq!(
        kind("pods \"web-2-\" is forbidden: violates PodSecurity \"restricted:latest\""),
        ("admission_refused", true)
    );
    assert_eq!(
        kind("admission webhook \"p.example\" denied the request: no latest"),
        ("admission_refused", true)
    );
    assert_eq!(
        kind(
            "pods \"web-2-\" is forbidden: error looking up service account shop/x: serviceaccount \"x\" not found"
        ),
        ("service_account_missing", true)
    );
    assert_eq!(
        kind("Internal error occurred: failed calling webhook \"p\": connection refused"),
        ("admission_unavailable", false)
    );
}

#[test]
fn an_exceeded_quota_is_permanent_unless_pods_are_about_to_leave() {
    let words = "pods \"web-2-\" is forbidden: exceeded quota: pods, requested: pods=1";
    let finding = only(vec![refused(words)]);
    assert_eq!(finding.kind, "quota_exceeded");
    assert!(finding.is_final(LATER));
    let mut leaving = pod("web-1-x", "web-1", json!({}));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(!only(vec![refused(words), leaving]).is_final(LATER));
}

fn stateful_world(events: Vec<(Value, Arrival)>) -> Vec<Finding> {
    let mut world = World::default();
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "web", "namespace": "shop", "uid": "owner", "generation": 2},
        "spec": {}, "status": {"updateRevision": "b"},
    });
    world.put(set, Arrival::Listed);
    for (event, arrival) in events {
        world.put(event, arrival);
    }
    findings(&applied("apps/v1", "StatefulSet"), &world)
}

#[test]
fn events_from_before_the_watch_are_evidence_only() {
    let failure = || {
        event(
            "owner",
            "FailedCreate",
            "pods \"web-0\" is forbidden: exceeded quota",
            9,
        )
    };
    let old = stateful_world(vec![(failure(), Arrival::Listed)]);
    assert!(!old[0].is_final(LATER));
    let fresh = stateful_world(vec![(failure(), Arrival::Live)]);
    assert!(fresh[0].is_final(LATER));
}

#[test]
fn a_relisted_event_does_not_become_fresh() {
    let mut failure = event(
        "owner",
        "FailedCreate",
        "pods \"web-0\" is forbidden: exceeded quota",
        9,
    );
    failure["metadata"]["resourceVersion"] = json!("5");
    let mut newer = failure.clone();
    newer["metadata"]["resourceVersion"] = json!("6");
    let again = |second: &Value| {
        let events = vec![
            (failure.clone(), Arrival::Listed),
            (second.clone(), Arrival::Live),
        ];
        stateful_world(events)[0].is_final(LATER)
    };
    assert!(!again(&failure));
    assert!(again(&newer));
}

#[test]
fn a_refusal_of_an_unchanged_workload_needs_a_new_try() {
    let words = "pods \"web-2-\" is forbidden: exceeded quota: pods";
    let judged = |arrival| {
        let mut world = world(vec![refused(words)]);
        world.put(event("web-2", "FailedCreate", words, 3), arrival);
        findings(&applied("apps/v1", "Deployment"), &world)[0].is_final(LATER)
    };
    assert!(!judged(Arrival::Listed));
    assert!(judged(Arrival::Live));
}

#[test]
fn a_success_ends_an_earlier_refusal() {
    let failure = event("owner", "FailedCreate", "exceeded quota", 9);
    let mut success = event("owner", "SuccessfulCreate", "create Pod web-0", 1);
    success["lastTimestamp"] = json!("2026-01-01T00:00:06Z");
    let found = stateful_world(vec![(failure, Arrival::Live), (success, Arrival::Live)]);
    assert_eq!(found, []);
}

#[test]
fn only_pods_of_the_update_revision_of_a_stateful_set_are_judged() {
    let mut world = World::default();
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "web", "namespace": "shop", "uid": "owner"},
        "status": {"updateRevision": "b"},
    });
    world.put(set, Arrival::Listed);
    for (name, revision) in [("web-0", "a"), ("web-1", "b")] {
        let mut pod = pod(name, "owner", waiting("InvalidImageName", ""));
        pod["metadata"]["labels"] = json!({"controller-revision-hash": revision});
        world.put(pod, Arrival::Listed);
    }
    let found = findings(&applied("apps/v1", "StatefulSet"), &world);
    let subjects: Vec<&str> = found
        .iter()
        .map(|finding| finding.subject.as_str())
        .collect();
    assert_eq!(subjects, ["web-1/app"]);
}

#[test]
fn a_failed_job_brings_the_end_of_its_pod_and_a_crash_alone_is_left_to_the_job() {
    let mut world = World::default();
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "web", "namespace": "shop", "uid": "owner"},
        "status": {"failed": 2},
    });
    let mut ended = pod(
        "web-x",
        "owner",
        json!({
            "state": {"terminated": {"exitCode": 3, "reason": "Error"}},
        }),
    );
    ended["spec"]["restartPolicy"] = json!("Never");
    ended["status"]["phase"] = json!("Failed");
    world.put(job.clone(), Arrival::Live);
    world.put(ended, Arrival::Live);
    let found = findings(&applied("batch/v1", "Job"), &world);
    assert_eq!(
        (found[0].kind, found[0].permanence),
        ("crash", Permanence::Transient)
    );
    job["status"]["conditions"] = json!([{
        "type": "Failed", "status": "True", "reason": "BackoffLimitExceeded",
    }]);
    world.put(job, Arrival::Live);
    let found = findings(&applied("batch/v1", "Job"), &world);
    assert_eq!(found[0].kind, "job_failed");
    assert!(found[0].is_final(Duration::ZERO));
    assert!(
        found[0]
            .evidence
            .iter()
            .any(|line| line.contains("exits with code 3"))
    );
    assert!(found[0].log.is_some());
}

#[test]
fn an_evicted_pod_is_transient() {
    let mut pod = new_pod(json!({}));
    pod["status"] = json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"});
    let finding = only(vec![pod]);
    assert_eq!(finding.kind, "evicted");
    assert!(!finding.is_final(Duration::from_secs(600)));
}

#[test]
fn replicas_that_fail_alike_are_one_finding() {
    let one = pod("web-2-x", "web-2", waiting("InvalidImageName", "bad"));
    let two = pod("web-2-y", "web-2", waiting("InvalidImageName", "bad"));
    let finding = only(vec![one, two]);
    assert!(
        finding
            .evidence
            .contains(&"the same holds for 1 more pod".to_owned())
    );
}

#[test]
fn a_claim_that_waits_for_its_first_consumer_is_no_finding() {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "web", "namespace": "shop", "uid": "owner"},
        "status": {"phase": "Pending"},
    });
    let judged = |reason: &str| {
        let mut world = World::default();
        world.put(claim.clone(), Arrival::Listed);
        world.put(event("owner", reason, "words", 1), Arrival::Listed);
        let found = findings(&applied("v1", "PersistentVolumeClaim"), &world);
        (waits_for_consumer(&claim, &world), found.len())
    };
    assert_eq!(judged("WaitForFirstConsumer"), (true, 0));
    assert_eq!(judged("ProvisioningFailed"), (false, 1));
}
