//! Tests of the readiness rules, one sentence a rule.

use serde_json::Value;
use serde_json::json;

use super::*;
use crate::object::ObjectId;

fn applied(api_version: &str, kind: &str, generation: i64) -> AppliedObject {
    AppliedObject {
        id: ObjectId {
            gvk: Gvk::new(api_version, kind),
            namespace: Some("shop".to_owned()),
            name: "web".to_owned(),
        },
        uid: "u1".to_owned(),
        generation,
        resource_version: "7".to_owned(),
    }
}

fn live(generation: i64, spec: Value, status: Value) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "generation": generation},
        "spec": spec,
        "status": status,
    })
}

fn judge(api_version: &str, kind: &str, spec: Value, status: Value) -> Standing {
    standing(
        &applied(api_version, kind, 2),
        Some(&live(2, spec, status)),
        &[],
    )
}

fn deployment(spec: Value, status: Value) -> Standing {
    judge("apps/v1", "Deployment", spec, status)
}

fn done() -> Value {
    json!({
        "observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3,
        "availableReplicas": 3,
        "conditions": [
            {"type": "Available", "status": "True"},
            {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
        ],
    })
}

fn with(mut status: Value, field: &str, value: Value) -> Value {
    status[field] = value;
    status
}

fn is_pending(standing: &Standing) -> bool {
    matches!(standing, Standing::Pending(_))
}

fn is_failed(standing: &Standing) -> bool {
    matches!(standing, Standing::Failed(_))
}

#[test]
fn a_deployment_with_all_new_pods_available_is_ready() {
    assert_eq!(deployment(json!({"replicas": 3}), done()), Standing::Ready);
}

#[test]
fn good_numbers_of_an_earlier_generation_are_not_ready() {
    let status = with(done(), "observedGeneration", json!(1));
    let standing = deployment(json!({"replicas": 3}), status);
    let reason = "its controller has seen generation 1, waiting for 2";
    assert_eq!(standing, Standing::Pending(reason.to_owned()));
}

#[test]
fn a_listing_from_before_our_write_is_not_ready() {
    let old = live(
        1,
        json!({"replicas": 3}),
        with(done(), "observedGeneration", json!(1)),
    );
    let standing = standing(&applied("apps/v1", "Deployment", 2), Some(&old), &[]);
    assert!(is_pending(&standing), "{standing:?}");
}

#[test]
fn a_later_generation_of_somebody_else_has_to_be_observed_too() {
    let newer = live(3, json!({"replicas": 3}), done());
    let standing = standing(&applied("apps/v1", "Deployment", 2), Some(&newer), &[]);
    assert!(is_pending(&standing), "{standing:?}");
}

#[test]
fn a_deployment_without_status_is_not_ready() {
    assert!(is_pending(&deployment(json!({"replicas": 0}), json!({}))));
}

#[test]
fn old_pods_that_still_run_keep_a_deployment_pending() {
    let status = with(done(), "replicas", json!(4));
    let reason = "3 of 3 updated, 3 ready, 1 old still running";
    assert_eq!(
        deployment(json!({"replicas": 3}), status),
        Standing::Pending(reason.to_owned())
    );
}

#[test]
fn a_deployment_scaled_to_zero_is_ready_when_its_pods_are_gone() {
    let status = |replicas: i64| json!({"observedGeneration": 2, "replicas": replicas});
    let spec = json!({"replicas": 0});
    assert_eq!(deployment(spec.clone(), status(0)), Standing::Ready);
    assert!(is_pending(&deployment(spec, status(1))));
}

#[test]
fn a_passed_progress_deadline_of_this_generation_fails_a_deployment() {
    let conditions = json!([{
        "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
        "message": "ReplicaSet \"web-1\" has timed out progressing.",
    }]);
    let status = with(done(), "conditions", conditions);
    let expected =
        "ProgressDeadlineExceeded: ReplicaSet \"web-1\" has timed out progressing.".to_owned();
    assert_eq!(
        deployment(json!({"replicas": 3}), status.clone()),
        Standing::Failed(expected)
    );
    let stale = with(status, "observedGeneration", json!(1));
    assert!(is_pending(&deployment(json!({"replicas": 3}), stale)));
}

#[test]
fn a_paused_deployment_is_ready_and_noted() {
    let spec = json!({"replicas": 3, "paused": true});
    let status = json!({"observedGeneration": 2});
    assert_eq!(deployment(spec.clone(), status.clone()), Standing::Ready);
    let note = notes(&Gvk::new("apps/v1", "Deployment"), &live(2, spec, status));
    assert_eq!(
        note.as_deref(),
        Some("is paused: new pods start only when it is resumed")
    );
}

#[test]
fn an_object_of_the_same_name_and_another_uid_was_replaced() {
    let mut other = live(2, json!({"replicas": 3}), done());
    other["metadata"]["uid"] = json!("u2");
    let standing = standing(&applied("apps/v1", "Deployment", 2), Some(&other), &[]);
    assert!(matches!(&standing, Standing::Failed(why) if why.contains("replaced by somebody")));
}

#[test]
fn an_object_that_is_being_deleted_has_failed_and_names_its_finalizers() {
    let mut leaving = live(2, json!({}), done());
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    leaving["metadata"]["finalizers"] = json!(["example.com/guard"]);
    let standing = standing(&applied("apps/v1", "Deployment", 2), Some(&leaving), &[]);
    let expected = "is being deleted, waiting for the finalizers example.com/guard";
    assert_eq!(standing, Standing::Failed(expected.to_owned()));
}

#[test]
fn an_object_that_is_gone_has_failed() {
    assert!(is_failed(&standing(&applied("v1", "Pod", 0), None, &[])));
}

fn set_status(updated: i64, ready: i64) -> Value {
    json!({
        "observedGeneration": 2, "replicas": 3, "updatedReplicas": updated, "readyReplicas": ready,
        "currentRevision": if updated == 3 { "b" } else { "a" }, "updateRevision": "b",
    })
}

fn stateful_set(spec: Value, status: Value) -> Standing {
    judge("apps/v1", "StatefulSet", spec, status)
}

#[test]
fn a_stateful_set_is_ready_when_all_pods_are_of_the_new_revision_and_ready() {
    let spec = json!({"replicas": 3});
    assert_eq!(
        stateful_set(spec.clone(), set_status(3, 3)),
        Standing::Ready
    );
    assert!(is_pending(&stateful_set(spec.clone(), set_status(2, 3))));
    assert!(is_pending(&stateful_set(spec, set_status(3, 2))));
}

#[test]
fn a_stateful_set_whose_revision_is_not_rolled_out_is_pending() {
    let status = with(set_status(3, 3), "currentRevision", json!("a"));
    assert!(is_pending(&stateful_set(json!({"replicas": 3}), status)));
}

#[test]
fn a_partition_is_honored() {
    let spec = |partition: i64| {
        json!({
            "replicas": 3,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}},
        })
    };
    assert_eq!(stateful_set(spec(2), set_status(1, 3)), Standing::Ready);
    assert!(is_pending(&stateful_set(spec(1), set_status(1, 3))));
    assert_eq!(stateful_set(spec(5), set_status(0, 3)), Standing::Ready);
}

#[test]
fn a_stateful_set_on_delete_waits_for_ready_pods_only() {
    let spec = json!({"replicas": 3, "updateStrategy": {"type": "OnDelete"}});
    assert_eq!(
        stateful_set(spec.clone(), set_status(0, 3)),
        Standing::Ready
    );
    assert!(is_pending(&stateful_set(spec, set_status(0, 2))));
}

fn daemon_status(updated: i64, ready: i64) -> Value {
    json!({
        "observedGeneration": 2, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
        "updatedNumberScheduled": updated, "numberReady": ready, "numberAvailable": ready,
    })
}

#[test]
fn a_daemon_set_needs_updated_and_available_pods_on_every_node() {
    let daemon_set = |spec, status| judge("apps/v1", "DaemonSet", spec, status);
    assert_eq!(daemon_set(json!({}), daemon_status(2, 2)), Standing::Ready);
    assert!(is_pending(&daemon_set(json!({}), daemon_status(1, 2))));
    assert!(is_pending(&daemon_set(json!({}), daemon_status(2, 1))));
    let on_delete = json!({"updateStrategy": {"type": "OnDelete"}});
    assert_eq!(daemon_set(on_delete, daemon_status(0, 2)), Standing::Ready);
}

fn job(spec: Value, status: Value) -> Standing {
    judge("batch/v1", "Job", spec, status)
}

#[test]
fn a_job_is_ready_when_complete_and_failed_when_it_says_so() {
    let says = |kind: &str| {
        json!({"startTime": "x", "conditions": [
            {"type": kind, "status": "True", "reason": "BackoffLimitExceeded"},
        ]})
    };
    assert_eq!(job(json!({}), says("Complete")), Standing::Ready);
    assert_eq!(
        job(json!({}), says("Failed")),
        Standing::Failed("BackoffLimitExceeded".to_owned())
    );
    let running = json!({"startTime": "x", "active": 1, "failed": 2});
    assert_eq!(
        job(json!({"completions": 4}), running),
        Standing::Pending("0 of 4 completed, 1 active, 2 failed".to_owned())
    );
}

#[test]
fn a_suspended_job_is_ready_once_its_controller_says_so() {
    let spec = json!({"suspend": true});
    assert!(is_pending(&job(spec.clone(), json!({}))));
    let status = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    assert_eq!(job(spec, status), Standing::Ready);
}

#[test]
fn a_pod_is_ready_when_it_says_so_or_has_succeeded() {
    let pod = |status| judge("v1", "Pod", json!({}), status);
    let running = |ready: &str| json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
    assert_eq!(pod(running("True")), Standing::Ready);
    assert!(is_pending(&pod(running("False"))));
    assert_eq!(pod(json!({"phase": "Succeeded"})), Standing::Ready);
    assert_eq!(
        pod(json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"})),
        Standing::Failed("has failed: Evicted: low on memory".to_owned())
    );
}

#[test]
fn a_claim_is_ready_when_bound_and_failed_when_its_volume_is_lost() {
    let claim = |phase: &str| {
        judge(
            "v1",
            "PersistentVolumeClaim",
            json!({}),
            json!({"phase": phase}),
        )
    };
    assert_eq!(claim("Bound"), Standing::Ready);
    assert!(is_pending(&claim("Pending")));
    assert!(is_failed(&claim("Lost")));
}

#[test]
fn a_load_balancer_waits_for_its_address_and_other_services_do_not() {
    let service = |kind: &str, status| judge("v1", "Service", json!({"type": kind}), status);
    assert_eq!(service("ClusterIP", json!({})), Standing::Ready);
    assert!(is_pending(&service("LoadBalancer", json!({}))));
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    assert_eq!(service("LoadBalancer", status), Standing::Ready);
}

#[test]
fn a_definition_has_to_be_established_under_accepted_names() {
    let definition = |kind: &str, status: &str| {
        let conditions = json!({"conditions": [{"type": kind, "status": status, "reason": "R"}]});
        judge(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            json!({}),
            conditions,
        )
    };
    assert_eq!(definition("Established", "True"), Standing::Ready);
    assert!(is_pending(&definition("NamesAccepted", "True")));
    assert_eq!(
        definition("NamesAccepted", "False"),
        Standing::Failed("R".to_owned())
    );
}

#[test]
fn built_in_kinds_without_a_state_are_ready() {
    assert_eq!(
        judge("v1", "ConfigMap", json!({}), json!({})),
        Standing::Ready
    );
    assert_eq!(
        judge("networking.k8s.io/v1", "Ingress", json!({}), json!({})),
        Standing::Ready
    );
}

fn custom(status: Value) -> Standing {
    judge("example.com/v1", "Gadget", json!({}), status)
}

fn says(kind: &str, status: &str) -> Value {
    json!({"conditions": [{"type": kind, "status": status, "reason": "Because"}]})
}

#[test]
fn a_custom_kind_follows_its_conditions() {
    assert_eq!(custom(json!({})), Standing::Ready);
    assert_eq!(custom(says("Ready", "True")), Standing::Ready);
    assert_eq!(
        custom(says("Ready", "False")),
        Standing::Pending("Because".to_owned())
    );
    assert!(is_pending(&custom(says("Reconciling", "True"))));
    assert!(is_pending(&custom(says("Available", "False"))));
    assert_eq!(
        custom(says("Stalled", "True")),
        Standing::Failed("Because".to_owned())
    );
}

#[test]
fn a_custom_kind_is_pending_while_its_controller_lags_behind() {
    let mut status = says("Ready", "True");
    status["observedGeneration"] = json!(1);
    assert!(is_pending(&custom(status.clone())));
    status["observedGeneration"] = json!("2");
    assert_eq!(custom(status.clone()), Standing::Ready);
    status["conditions"][0]["observedGeneration"] = json!(1);
    assert!(is_pending(&custom(status)));
}

#[test]
fn a_custom_kind_without_conditions_is_read_by_its_phase() {
    assert_eq!(custom(json!({"phase": "Running"})), Standing::Ready);
    assert!(is_pending(&custom(json!({"phase": "Provisioning"}))));
    assert!(is_pending(&custom(json!({"readyToUse": false}))));
    assert_eq!(custom(json!({"phase": "Quux"})), Standing::Ready);
}

#[test]
fn a_kind_that_runs_once_has_failed_when_it_ended_badly() {
    let workflow = |phase: &str| {
        let status = json!({"phase": phase, "message": "step 2"});
        judge("argoproj.io/v1alpha1", "Workflow", json!({}), status)
    };
    assert!(is_pending(&workflow("Running")));
    assert_eq!(workflow("Succeeded"), Standing::Ready);
    let why = "ended in phase Failed: step 2".to_owned();
    assert_eq!(workflow("Failed"), Standing::Failed(why));
    let pipeline = judge(
        "tekton.dev/v1",
        "PipelineRun",
        json!({}),
        says("Succeeded", "False"),
    );
    assert_eq!(pipeline, Standing::Failed("Because".to_owned()));
}

#[test]
fn the_conditions_of_an_old_autoscaler_are_read_from_its_annotation() {
    let mut scaler = live(2, json!({}), json!({"currentReplicas": 1}));
    let applied = applied("autoscaling/v1", "HorizontalPodAutoscaler", 2);
    assert_eq!(standing(&applied, Some(&scaler), &[]), Standing::Ready);
    scaler["metadata"]["annotations"] = json!({
        "autoscaling.alpha.kubernetes.io/conditions":
            r#"[{"type":"ScalingActive","status":"False","reason":"FailedGetResourceMetric"}]"#,
    });
    let expected = Standing::Pending("FailedGetResourceMetric".to_owned());
    assert_eq!(standing(&applied, Some(&scaler), &[]), expected);
}
