//! Secrets that are kept fresh, on in-memory ports: deploys that issue nothing twice, rotations.

use std::collections::BTreeSet;

use super::*;
use crate::managed::Record;
use crate::ports::OwnToken;
use crate::principal::Actor;
use crate::register;
use crate::rotate::Reason;
use serde_json::json;

/// As [`SECRETS`], kept fresh.
fn kept(rotate: &str) -> String {
    format!("{SECRETS}    rotate: {rotate}\n")
}

fn stage() -> Stage {
    let stage = Stage::new();
    stage.fakes.vault.set_own(OwnToken {
        id: "own-1".to_owned(),
        ends: None,
    });
    stage
}

fn record(stage: &Stage) -> Record {
    let secret = stage.fakes.cluster.object(&id("v1", "Secret", "app-db"));
    let secret = secret.expect("the Secret is there");
    Record::of(&secret)
        .expect("the record can be read")
        .expect("the Secret is managed")
}

async fn values(stage: &Stage) -> BTreeMap<String, Secret> {
    let actor = Actor {
        user: "test".to_owned(),
        groups: Vec::new(),
    };
    let secret = id("v1", "Secret", "app-db");
    let values = stage.fakes.cluster.values(&actor, &secret).await;
    let values = values.expect("the cluster is there");
    values.expect("the Secret is there")
}

fn entry(stage: &Stage) -> register::Entry {
    let body = stage.fakes.cluster.object(&stage.home.entry("app", "app"));
    register::Entry::read(&body.expect("the app is noted")).expect("an entry")
}

fn issued(stage: &Stage) -> usize {
    let calls = stage.fakes.vault.calls();
    calls
        .iter()
        .filter(|call| call.starts_with("issue"))
        .count()
}

impl Stage {
    /// Rotates the Secret as the daemon would, for these reasons.
    async fn rotate(&self, reasons: &[Reason]) -> Report {
        self.rotate_what_was_seen(&record(self), reasons).await
    }

    /// As [`Self::rotate`], with the record as a daemon saw it earlier.
    async fn rotate_what_was_seen(&self, seen: &Record, reasons: &[Reason]) -> Report {
        let namespace = "app".parse().expect("a namespace");
        let text = seen.declaration.request(&namespace).to_string();
        let files = BTreeMap::from([("quaymaster.yaml".to_owned(), text.into_bytes())]);
        let request = request::read(&Bundle { files }, Mode::Rotation).expect("it was deployed so");
        let owner = seen.declaration.owner.principal();
        let permit = authorize::authorize(&policy(), owner, request, &[], "d2");
        let permit = permit.expect("the rule grants it");
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
        let name = "app-db".to_owned();
        let order = Order {
            reasons: BTreeMap::from([(name.clone(), reasons.iter().cloned().collect())]),
            generations: BTreeMap::from([(name.clone(), seen.state.generation)]),
            digests: BTreeMap::from([(name, entry(self).secrets["app-db"].clone())]),
            lost: BTreeMap::new(),
        };
        rotate(permit, order, tools).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_deploy_that_changes_nothing_issues_nothing() {
    let stage = stage();
    let spec = kept("{outage_budget: 10m}");
    let report = stage.run(&spec, "", Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    let state = record(&stage).state;
    assert_eq!(state.generation, 1);
    assert_eq!(
        state.versions,
        BTreeMap::from([("kv/app/api".to_owned(), 1)])
    );
    assert_eq!(state.credentials["database/creds/app"].parent, "own-1");
    assert_eq!(
        stage.fakes.vault.live_tokens(),
        0,
        "what lasts does not live by the token of the run"
    );
    let digest = record(&stage).declaration.digest("app");
    assert_eq!(entry(&stage).secrets["app-db"], BTreeSet::from([digest]));

    let writes = stage.fakes.cluster.writes().len();
    let booked = stage.fakes.cluster.booked().len();
    let report = stage.run(&spec, "", Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(issued(&stage), 1);
    assert_eq!(stage.fakes.cluster.writes().len(), writes);
    assert_eq!(stage.fakes.cluster.booked().len(), booked);
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_is_gone_is_issued_anew_by_a_deploy() {
    let stage = stage();
    stage.run(&kept("{}"), "", Mode::Deploy).await;
    let before = record(&stage).state;
    let lease = before.credentials["database/creds/app"].lease.clone();
    stage
        .fakes
        .vault
        .lose_lease(&lease.expect("it has a lease"));
    let report = stage.run(&kept("{}"), "", Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(issued(&stage), 2);
    let after = record(&stage).state;
    assert_eq!(after.generation, 2);
    assert_eq!(
        after.retiring.len(),
        1,
        "pods may use it; the daemon ends it"
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_carry_its_budget_is_refused_with_the_numbers() {
    let stage = stage();
    stage.fakes.vault.grant(60, true);
    let report = stage
        .run(&kept("{outage_budget: 1h}"), "", Mode::Deploy)
        .await;
    assert_eq!(report.code, Some(Code::RotationRefused), "{report:?}");
    for number in ["60 s", "3600 s", "4500 s"] {
        assert!(report.message.contains(number), "{}", report.message);
    }
    assert_eq!(stage.fakes.vault.live_leases(), Vec::<String>::new());
    assert_eq!(stage.fakes.vault.live_children(), 0);
    assert_eq!(stage.fakes.cluster.writes(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn paths_that_the_agent_or_the_job_may_not_use_are_refused_before_issuing() {
    let stage = stage();
    stage.fakes.vault.forbid("database/creds/app");
    let report = stage.run(&kept("{}"), "", Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::VaultDenied), "{report:?}");
    assert_eq!(issued(&stage), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_leaves_no_credential() {
    let stage = stage();
    stage.fakes.cluster.refuse_writes(ClusterError::Forbidden {
        what: "create".to_owned(),
        reason: "quota".to_owned(),
    });
    let report = stage.run(&kept("{}"), "", Mode::Deploy).await;
    assert_ne!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(stage.fakes.vault.live_leases(), Vec::<String>::new());
    assert_eq!(stage.fakes.vault.live_children(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rotation_issues_writes_and_then_ends_the_old() {
    let stage = stage();
    stage.run(&kept("{}"), "", Mode::Deploy).await;
    let report = stage.rotate(&[Reason::Asked]).await;
    assert_eq!(
        report.status,
        Status::Succeeded,
        "{report:?}\n{}",
        stage.text()
    );
    let state = record(&stage).state;
    assert_eq!(state.generation, 2);
    assert_eq!(state.trial, None);
    assert_eq!(state.retiring, []);
    assert_eq!(stage.fakes.vault.live_leases(), ["database/creds/app/2"]);
    assert_eq!(stage.fakes.vault.live_children(), 1);
    let backup = stage
        .fakes
        .cluster
        .object(&id("v1", "Secret", "app-db.previous"));
    assert_eq!(backup, None);
    for value in ["v-user-1", "v-password-1", "v-user-2", "v-password-2"] {
        assert!(!stage.text().contains(value), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_version_changes_its_key_and_keeps_the_credential() {
    let stage = stage();
    stage.run(&kept("{}"), "", Mode::Deploy).await;
    stage
        .fakes
        .vault
        .put("kv/app/api", &[("key", "another-value")]);
    let reason = Reason::Version {
        path: "kv/app/api".to_owned(),
        version: 2,
    };
    let report = stage.rotate(&[reason]).await;
    assert_eq!(
        report.status,
        Status::Succeeded,
        "{report:?}\n{}",
        stage.text()
    );
    assert_eq!(issued(&stage), 1);
    let state = record(&stage).state;
    assert_eq!(
        state.versions,
        BTreeMap::from([("kv/app/api".to_owned(), 2)])
    );
    assert_eq!(stage.fakes.vault.live_leases(), ["database/creds/app/1"]);
    let values = values(&stage).await;
    assert_eq!(values["api"].bytes(), b"another-value");
    assert_eq!(values["user"].bytes(), b"v-user-1");
    assert_eq!(values["url"].bytes(), b"db://v-user-1:v-password-1@db");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_did_meanwhile_is_not_done_twice() {
    let stage = stage();
    stage.run(&kept("{}"), "", Mode::Deploy).await;
    let seen = record(&stage);
    stage.rotate(&[Reason::Asked]).await;
    let report = stage.rotate_what_was_seen(&seen, &[Reason::Asked]).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert!(report.message.contains("meanwhile"), "{}", report.message);
    assert_eq!(issued(&stage), 2);
}

#[tokio::test(start_paused = true)]
async fn a_record_of_somebody_else_is_not_acted_on() {
    let stage = stage();
    stage.run(&kept("{}"), "", Mode::Deploy).await;
    let secret = id("v1", "Secret", "app-db");
    let mut forged = record(&stage);
    forged.declaration.owner = crate::managed::Owner::of(&Principal::unchecked(
        PrincipalKind::GitlabJob,
        job()
            .attributes()
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .chain([("user_login".to_owned(), "mallory".to_owned())])
            .collect(),
    ));
    let mut body = stage.fakes.cluster.object(&secret).expect("it is there");
    crate::managed::write_on(&mut body, forged.to_text());
    stage.fakes.cluster.set(&secret, body);
    let report = stage.rotate(&[Reason::Asked]).await;
    assert_eq!(report.code, Some(Code::RotationRefused), "{report:?}");
    assert_eq!(issued(&stage), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rotation_without_a_rule_is_denied() {
    let stage = stage();
    stage.run(&kept("{}"), "", Mode::Deploy).await;
    let seen = record(&stage);
    let namespace = "app".parse().expect("a namespace");
    let text = seen.declaration.request(&namespace).to_string();
    let files = BTreeMap::from([("quaymaster.yaml".to_owned(), text.into_bytes())]);
    let request = request::read(&Bundle { files }, Mode::Rotation).expect("it was deployed so");
    let narrow = Policy::parse(&POLICY.replace(", \"rotate\"", "")).expect("valid");
    let owner = seen.declaration.owner.principal();
    let denied = authorize::authorize(&narrow, owner, request, &[], "d3");
    let denied = denied.expect_err("the verb is not granted");
    assert!(denied.message.contains("rotate"), "{}", denied.message);
    assert_eq!(json!(Mode::Rotation), json!("rotation"));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_version_keeps_its_values_while_the_credential_is_replaced() {
    let stage = stage();
    stage.run(&kept("{}"), "", Mode::Deploy).await;
    stage.fakes.vault.delete_latest("kv/app/api");
    let report = stage.rotate(&[Reason::Asked]).await;
    assert_eq!(
        report.status,
        Status::Succeeded,
        "{report:?}\n{}",
        stage.text()
    );
    let state = record(&stage).state;
    assert_eq!(
        state.versions,
        BTreeMap::from([("kv/app/api".to_owned(), 1)])
    );
    assert_eq!(stage.fakes.vault.live_leases(), ["database/creds/app/2"]);
    let values = values(&stage).await;
    assert_eq!(values["api"].bytes(), b"api-key-value");
    assert_eq!(values["user"].bytes(), b"v-user-2");
}

#[tokio::test(start_paused = true)]
async fn the_version_before_a_deleted_one_is_used_where_the_spec_says_so() {
    let stage = stage();
    stage
        .fakes
        .vault
        .put("kv/app/api", &[("key", "second-value")]);
    let report = stage
        .run(&kept("{on_deleted: previous}"), "", Mode::Deploy)
        .await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    stage.fakes.vault.delete_latest("kv/app/api");
    let reason = Reason::Version {
        path: "kv/app/api".to_owned(),
        version: 1,
    };
    let report = stage.rotate(&[reason]).await;
    assert_eq!(
        report.status,
        Status::Succeeded,
        "{report:?}\n{}",
        stage.text()
    );
    let state = record(&stage).state;
    assert_eq!(
        state.versions,
        BTreeMap::from([("kv/app/api".to_owned(), 1)])
    );
}

#[tokio::test(start_paused = true)]
async fn a_deploy_that_takes_a_new_version_leaves_pods_to_be_restarted() {
    let stage = stage();
    stage.run(&kept("{}"), "", Mode::Deploy).await;
    assert!(!record(&stage).state.is_open(), "nothing was there before");
    stage
        .fakes
        .vault
        .put("kv/app/api", &[("key", "second-value")]);
    stage.run(&kept("{}"), "", Mode::Deploy).await;
    assert!(record(&stage).state.stale);
    let report = stage.rotate(&[Reason::Unsettled]).await;
    assert_eq!(
        report.status,
        Status::Succeeded,
        "{report:?}\n{}",
        stage.text()
    );
    assert!(!record(&stage).state.is_open());
}
