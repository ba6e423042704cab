//! The story of one run on in-memory ports: order of stages, what is left behind when one fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use proto::event::Body;
use proto::event::Event;
use proto::report::Action;
use proto::report::Mode;
use proto::report::Report;
use proto::report::Status;
use serde_json::Value;

use super::*;
use crate::audience::Seats;
use crate::authorize;
use crate::bundle::Bundle;
use crate::fakes::Fakes;
use crate::object::Gvk;
use crate::policy::Policy;
use crate::ports::ClusterError;
use crate::ports::Entry;
use crate::ports::SecretsError;
use crate::principal::Principal;
use crate::principal::PrincipalKind;
use crate::register::Home;
use crate::request;
use crate::secret::Secret;

mod flux;
mod images;
mod kept;
mod leaving;
mod promote;
mod remote;
mod resumed;
mod same;
mod scene;

const POLICY: &str = r#"
version = 1
[[rule]]
id = "app"
[rule.match]
project_id = 42
[rule.vault]
role = "app"
paths = ["kv/app/*", "database/creds/app"]
[rule.cluster.demo]
namespaces = ["app"]
kinds = ["v1/ConfigMap", "apps/Deployment", "v1/Secret:app-own"]
secrets = ["app-*"]
require_digest = false
charts = ["oci://registry.example.com/team/*"]
verbs = ["apply", "rotate", "commit", "reconcile", "revert", "rollback"]
[[rule.cluster.demo.flux]]
repositories = ["https://git.example.com/team/*"]
branches = ["main"]
files = ["apps/*"]
objects = ["flux-system/*"]
"#;

/// How long nobody may follow a run.
const GRACE: Duration = Duration::from_secs(15);
const SECRETS: &str = "version: 1\nname: app\nsecrets:\n  - name: app-db\n    keys:\n      user: { vault: database/creds/app, field: username }\n      password: { vault: database/creds/app, field: password }\n      api: { vault: kv/app/api, field: key }\n      url: { template: \"db://{{ user }}:{{ password }}@db\" }\n";
const CONF: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: conf }\ndata: { key: value }\n";

fn policy() -> Policy {
    Policy::parse(POLICY).expect("the policy is valid")
}

fn job() -> Principal {
    let claims = [
        ("project_id", "42"),
        ("job_project_id", "42"),
        ("job_id", "7"),
        ("namespace_id", "3"),
    ];
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Principal::unchecked(PrincipalKind::GitlabJob, claims.iter().map(own).collect())
}

struct Stage {
    fakes: Fakes,
    log: Arc<RunLog>,
    stop: CancellationToken,
    seats: Seats,
    /// How many runs there were; the number of the last one is its id.
    runs: AtomicU32,
    home: Home,
}

impl Stage {
    fn new() -> Self {
        let fakes = Fakes::default();
        fakes.vault.put("kv/app/api", &[("key", "api-key-value")]);
        let log = Arc::new(RunLog::new(Arc::clone(&fakes.clock) as _));
        Self {
            fakes,
            log,
            stop: CancellationToken::new(),
            seats: Seats::default(),
            runs: AtomicU32::new(0),
            home: Home {
                namespace: "quaymaster".to_owned(),
            },
        }
    }

    async fn run(&self, spec: &str, manifests: &str, mode: Mode) -> Report {
        let mut files = BTreeMap::from([("quaymaster.yaml".to_owned(), spec.as_bytes().to_vec())]);
        if !manifests.is_empty() {
            files.insert("k8s/all.yaml".to_owned(), manifests.as_bytes().to_vec());
        }
        let request = request::read(&Bundle { files }, mode).expect("the bundle is valid");
        self.run_asked(request).await
    }

    async fn run_asked(&self, request: request::Request) -> Report {
        self.run_under(&policy(), request).await
    }

    async fn run_under(&self, policy: &Policy, request: request::Request) -> Report {
        let permit =
            authorize::authorize(policy, job(), request, &[], "d1").expect("the rule grants it");
        let ports = self.fakes.ports();
        let tools = Tools {
            id: RunId::from_bits(u128::from(self.runs.fetch_add(1, Relaxed)) + 1),
            ports: &ports,
            log: &self.log,
            key: &self.fakes.key,
            stop: self.stop.child_token(),
            end: self.stop.clone(),
            audience: &self.seats.audience(GRACE),
            agent: "host-a",
            home: Some(&self.home),
        };
        let login = Login::Jwt {
            token: Secret::from_text("jwt".to_owned()),
            role: "app".to_owned(),
        };
        run(permit, Some(login), tools).await
    }

    fn text(&self) -> String {
        self.log
            .since(0)
            .iter()
            .map(|event| format!("{:?}\n", event.body))
            .collect()
    }
}

fn id(api_version: &str, kind: &str, name: &str) -> ObjectId {
    ObjectId {
        gvk: Gvk::new(api_version, kind),
        namespace: Some("app".to_owned()),
        name: name.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn secrets_are_written_with_values_that_belong_together() {
    let stage = Stage::new();
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(
        stage.fakes.cluster.secret_keys("app-db"),
        Some(
            vec!["api", "password", "url", "user"]
                .into_iter()
                .map(str::to_owned)
                .collect()
        )
    );
    let issued = stage
        .fakes
        .vault
        .calls()
        .iter()
        .filter(|call| call.starts_with("issue"))
        .count();
    assert_eq!(issued, 1, "user and password are of one credential");
    assert_eq!(stage.fakes.vault.live_leases().len(), 1);
    assert_eq!(
        stage.fakes.vault.live_tokens(),
        1,
        "the credential lives by the token that issued it"
    );
    for value in ["api-key-value", "v-user-1", "v-password-1"] {
        assert!(!stage.text().contains(value), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_journal_knows_a_lease_before_anything_is_written() {
    let stage = Stage::new();
    stage.run(SECRETS, "", Mode::Deploy).await;
    let entries = stage.fakes.journal.entries();
    assert!(
        matches!(
            entries[..],
            [
                Entry::Planned { .. },
                Entry::LeaseIssued { .. },
                Entry::Applying { fence: 1 },
                Entry::Supplied,
                Entry::Applied { .. }
            ]
        ),
        "{entries:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_issues_nothing_and_writes_nothing() {
    let stage = Stage::new();
    let report = stage
        .run(&format!("{SECRETS}manifests: [k8s/]\n"), CONF, Mode::DryRun)
        .await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(report.steps.len(), 2);
    assert!(
        report
            .steps
            .iter()
            .all(|step| step.action == Action::Create)
    );
    assert_eq!(stage.fakes.cluster.writes(), Vec::<String>::new());
    assert_eq!(stage.fakes.vault.live_leases(), Vec::<String>::new());
    assert_eq!(stage.fakes.vault.live_tokens(), 0);
    assert_eq!(stage.fakes.journal.entries(), []);
}

#[tokio::test(start_paused = true)]
async fn a_missing_field_stops_before_any_credential_is_issued() {
    let stage = Stage::new();
    stage.fakes.vault.put("kv/app/api", &[("other", "x")]);
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(
        (report.status, report.code),
        (Status::Failed, Some(Code::SecretMissing))
    );
    assert!(
        report.message.contains("kv/app/api") && report.message.contains("key"),
        "{}",
        report.message
    );
    assert!(
        !stage
            .fakes
            .vault
            .calls()
            .iter()
            .any(|call| call.starts_with("issue"))
    );
    assert_eq!(stage.fakes.vault.live_tokens(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_secret_is_not_written_is_revoked_with_its_token() {
    let stage = Stage::new();
    // The dry run passes; the write itself is refused.
    stage.fakes.cluster.refuse_writes(ClusterError::Forbidden {
        what: "create".to_owned(),
        reason: "quota".to_owned(),
    });
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(
        (report.status, report.code),
        (Status::Denied, Some(Code::ClusterDenied)),
        "{report:?}"
    );
    assert_eq!(stage.fakes.vault.live_leases(), Vec::<String>::new());
    assert_eq!(stage.fakes.vault.live_tokens(), 0);
}

#[tokio::test(start_paused = true)]
async fn missing_rights_are_named_before_vault_is_asked() {
    let stage = Stage::new();
    stage.fakes.cluster.deny("patch", "secrets");
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(
        (report.status, report.code),
        (Status::Denied, Some(Code::ClusterDenied))
    );
    for word in ["gitlab:ci_job:7", "patch", "app-db"] {
        assert!(report.message.contains(word), "{}", report.message);
    }
    assert_eq!(stage.fakes.vault.calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_sealed_vault_is_waited_for_and_told() {
    let stage = Stage::new();
    let sealed = || SecretsError::Unavailable {
        reason: "sealed".to_owned(),
        retry_after_seconds: None,
    };
    stage.fakes.vault.fail_next(sealed());
    stage.fakes.vault.fail_next(sealed());
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert!(
        stage.text().contains("sealed; waiting and trying again"),
        "{}",
        stage.text()
    );
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_write_is_looked_at_and_sent_again() {
    let stage = Stage::new();
    stage
        .fakes
        .cluster
        .refuse_next_write(ClusterError::Unanswered {
            object: "conf".to_owned(),
        });
    let report = stage
        .run(
            "version: 1\nname: app\nmanifests: [k8s/]\n",
            CONF,
            Mode::Deploy,
        )
        .await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert!(
        stage.text().contains("looked: it is not there"),
        "{}",
        stage.text()
    );
    assert_eq!(stage.fakes.cluster.writes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_names_field_manager_and_both_values() {
    let stage = Stage::new();
    let theirs = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf", "namespace": "app", "uid": "u"}, "data": {"key": "theirs"}});
    stage
        .fakes
        .cluster
        .set(&id("v1", "ConfigMap", "conf"), theirs);
    stage
        .fakes
        .cluster
        .conflict("conf", ".data.key", "somebody");
    let report = stage
        .run(
            "version: 1\nname: app\nmanifests: [k8s/]\n",
            CONF,
            Mode::Deploy,
        )
        .await;
    assert_eq!(
        (report.status, report.code),
        (Status::Failed, Some(Code::ApplyConflict))
    );
    for word in [".data.key", "somebody", "\"theirs\"", "\"value\""] {
        assert!(report.message.contains(word), "{word}: {}", report.message);
    }
    assert_eq!(stage.fakes.cluster.writes(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_the_run_before_the_first_write() {
    let stage = Stage::new();
    stage.fakes.journal.fill();
    let report = stage
        .run(
            "version: 1\nname: app\nmanifests: [k8s/]\n",
            CONF,
            Mode::Deploy,
        )
        .await;
    assert_eq!(
        (report.status, report.code),
        (Status::Failed, Some(Code::Internal))
    );
    assert_eq!(stage.fakes.cluster.writes(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_writes_nothing_more() {
    let stage = Stage::new();
    stage.stop.cancel();
    let report = stage
        .run(
            "version: 1\nname: app\nmanifests: [k8s/]\n",
            CONF,
            Mode::Deploy,
        )
        .await;
    assert_eq!(report.status, Status::Cancelled);
    assert_eq!(stage.fakes.cluster.writes(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_log_ends_with_the_verdict_and_has_no_holes() {
    let stage = Stage::new();
    stage
        .run(
            "version: 1\nname: app\nmanifests: [k8s/]\n",
            CONF,
            Mode::Deploy,
        )
        .await;
    let events: Vec<Event> = stage.log.since(0);
    assert!(matches!(
        events.last().map(|event| &event.body),
        Some(Body::End {
            status: Status::Succeeded
        })
    ));
    let holes = events
        .iter()
        .enumerate()
        .filter(|(place, event)| event.seq != *place as u64 + 1)
        .count();
    assert_eq!(holes, 0);
}

#[tokio::test(start_paused = true)]
async fn unchanged_objects_are_not_written() {
    let stage = Stage::new();
    let spec = "version: 1\nname: app\nmanifests: [k8s/]\n";
    stage.run(spec, CONF, Mode::Deploy).await;
    let before: Option<Value> = stage.fakes.cluster.object(&id("v1", "ConfigMap", "conf"));
    let report = stage.run(spec, CONF, Mode::Deploy).await;
    assert_eq!(report.steps[0].action, Action::Same, "{:?}", report.steps);
    assert_eq!(stage.fakes.cluster.writes().len(), 1);
    assert_eq!(
        stage.fakes.cluster.object(&id("v1", "ConfigMap", "conf")),
        before
    );
}

fn lock_object(stage: &Stage) -> Option<Value> {
    let id = id("coordination.k8s.io/v1", "Lease", "quaymaster-app");
    stage.fakes.cluster.object(&id)
}

#[tokio::test(start_paused = true)]
async fn only_a_run_that_writes_takes_the_lock() {
    let stage = Stage::new();
    let spec = "version: 1\nname: app\nmanifests: [k8s/]\n";
    stage.run(spec, CONF, Mode::DryRun).await;
    assert_eq!(lock_object(&stage), None);
    stage.run(spec, CONF, Mode::Deploy).await;
    let first = lock_object(&stage).expect("a run that writes has a lock");
    assert_eq!(first["spec"]["leaseTransitions"], 1);
    assert_eq!(first["spec"]["holderIdentity"], Value::Null);
    stage.run(spec, CONF, Mode::Deploy).await;
    assert_eq!(
        lock_object(&stage),
        Some(first),
        "nothing was to be written"
    );
}

#[tokio::test(start_paused = true)]
async fn a_job_without_rights_to_the_lock_is_told_before_anything_is_issued() {
    let stage = Stage::new();
    let refused = ClusterError::Forbidden {
        what: "create".to_owned(),
        reason: "no right".to_owned(),
    };
    stage.fakes.cluster.refuse_next_lock(refused);
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::ClusterDenied), "{report:?}");
    let hint = report.problem.and_then(|problem| problem.hint);
    assert!(hint.is_some_and(|hint| hint.contains("coordination.k8s.io")));
    assert_eq!(stage.fakes.vault.live_leases(), Vec::<String>::new());
    assert_eq!(stage.fakes.vault.live_tokens(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_for_another_one_and_plans_anew() {
    let stage = Stage::new();
    let held = serde_json::json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": "quaymaster-app", "namespace": "app", "resourceVersion": "x", "uid": "u" },
        "spec": { "holderIdentity": "r-other", "leaseDurationSeconds": 30, "leaseTransitions": 8 },
    });
    let lock = id("coordination.k8s.io/v1", "Lease", "quaymaster-app");
    stage.fakes.cluster.set(&lock, held);
    let fail = "version: 1\nname: app\nmanifests: [k8s/]\nrollout: { when_locked: fail }\n";
    let report = stage.run(fail, CONF, Mode::Deploy).await;
    assert_eq!(
        (report.status, report.code),
        (Status::Superseded, Some(Code::Locked))
    );
    assert!(report.message.contains("r-other"), "{}", report.message);
    assert_eq!(stage.fakes.cluster.writes(), Vec::<String>::new());
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    let calls = stage.fakes.vault.calls();
    let reads = calls.iter().filter(|call| call.starts_with("read"));
    assert_eq!(reads.count(), 2, "values are read again: {calls:?}");
    assert_eq!(stage.fakes.vault.live_tokens(), 1);
    let after = lock_object(&stage).expect("it stays");
    assert_eq!(after["spec"]["leaseTransitions"], 9);
}
