//! Promotions on in-memory ports: whose images are taken, when they are refused, and what is left untouched.

use futures::StreamExt as _;
use serde_json::json;

use super::flux::branch;
use super::flux::flux_id;
use super::flux::requested;
use super::flux::set;
use super::*;
use crate::authorize::Denial;
use crate::bundle::InputError;
use crate::object::text;
use crate::ports::Files;
use crate::ports::Observation;
use crate::ports::Scope as Watch;
use crate::principal::Actor;

const FROM: &str = ".from.yaml";
const ENVIRONMENTS: [&str; 2] = ["staging", "live"];

fn spec(environment: &str) -> String {
    format!(
        "version: 1\nname: {environment}\nflux:\n  repository: https://git.example.com/team/fleet.git\n  \
         path: apps/{environment}\n  sources: fleet\n  wait: {{ kustomizations: [{environment}] }}\n\
         images: {{ web: web }}\nrollout: {{ timeout: 60s }}\n"
    )
}

fn path(environment: &str) -> String {
    format!("apps/{environment}/web.yaml")
}

fn files(staging: &str, live: &str) -> Files {
    let file = |(environment, tag): (&str, &str)| {
        let text = format!(
            "image: registry.example.com/web:{tag} # {{\"$imagepolicy\": \"flux-system:web\"}}\n"
        );
        (path(environment), text.into_bytes())
    };
    [("staging", staging), ("live", live)].map(file).into()
}

fn source() -> ObjectId {
    flux_id("source.toolkit.fluxcd.io/v1", "GitRepository", "fleet")
}

fn kustomization(environment: &str) -> ObjectId {
    flux_id(
        "kustomize.toolkit.fluxcd.io/v1",
        "Kustomization",
        environment,
    )
}

fn stage(staging: &str) -> Stage {
    let stage = Stage::new();
    let git = &stage.fakes.git;
    git.put(&branch(), &files(staging, "1"), "first");
    let spec = json!({ "url": branch().repository.as_str(), "ref": { "branch": "main" } });
    set(&stage, &source(), &spec, &json!({}));
    for environment in ENVIRONMENTS {
        set(&stage, &kustomization(environment), &json!({}), &json!({}));
    }
    stage
}

/// What Flux says of an environment at the head of the branch; a tag that begins with `bad` never becomes healthy.
fn status(stage: &Stage, environment: &str, token: &str) -> Value {
    let (commit, _, files) = stage.fakes.git.head(&branch()).expect("a head");
    let revision = format!("main@sha1:{commit}");
    let content = String::from_utf8_lossy(&files[&path(environment)]).into_owned();
    let (ready, reason) = if content.contains(":bad") {
        ("False", "HealthCheckFailed")
    } else {
        ("True", "ReconciliationSucceeded")
    };
    json!({ "observedGeneration": 1, "lastHandledReconcileAt": token,
        "lastAttemptedRevision": revision, "lastAppliedRevision": revision,
        "conditions": [{ "type": "Ready", "status": ready, "reason": reason, "message": "said by Flux" }] })
}

/// Plays Flux: what is asked for is done.
async fn play(stage: &Stage) {
    let actor = Actor {
        user: "flux".to_owned(),
        groups: Vec::new(),
    };
    let ids = [source()]
        .into_iter()
        .chain(ENVIRONMENTS.map(kustomization));
    let scopes = ids.map(|id| Watch {
        gvk: id.gvk,
        namespace: id.namespace,
        name: Some(id.name),
    });
    let cluster = stage.fakes.ports().cluster;
    let mut seen = cluster.observe(&actor, scopes.collect());
    while let Some(observed) = seen.next().await {
        let Observation::Present(object) = observed else {
            continue;
        };
        let token = requested(&object);
        if token.is_empty() || token == text(&object, &["status", "lastHandledReconcileAt"]) {
            continue;
        }
        let name = text(&object, &["metadata", "name"]);
        if object["kind"] == "GitRepository" {
            let (commit, _, _) = stage.fakes.git.head(&branch()).expect("a head");
            let status = json!({ "observedGeneration": 1, "lastHandledReconcileAt": token,
                "artifact": { "revision": format!("main@sha1:{commit}") } });
            set(stage, &source(), &object["spec"], &status);
        } else {
            let status = status(stage, name, &token);
            set(stage, &kustomization(name), &object["spec"], &status);
        }
    }
}

fn request(from: &str, to: &str, mode: Mode) -> Result<request::Request, InputError> {
    let files = BTreeMap::from([
        ("quaymaster.yaml".to_owned(), to.as_bytes().to_vec()),
        (FROM.to_owned(), from.as_bytes().to_vec()),
    ]);
    request::promotion(&Bundle { files }, FROM, mode)
}

fn allowed(policy: &str, mode: Mode) -> Result<Permit, Denial> {
    let policy = Policy::parse(policy).expect("the policy is valid");
    let request = request(&spec("staging"), &spec("live"), mode).expect("the specs are valid");
    authorize::authorize(&policy, job(), request, &[], "d1")
}

async fn promote(stage: &Stage, policy: &str, mode: Mode) -> Report {
    let ports = stage.fakes.ports();
    let tools = Tools {
        id: RunId::from_bits(1),
        ports: &ports,
        log: &stage.log,
        key: &stage.fakes.key,
        stop: stage.stop.child_token(),
        end: stage.stop.clone(),
        audience: &Audience::lasting(),
        agent: "host-a",
        home: None,
    };
    let permit = allowed(policy, mode).expect("the rule grants it");
    tokio::select! {
        report = super::promote(permit, None, None, tools) => report,
        () = play(stage) => panic!("Flux ended"),
    }
}

fn head(stage: &Stage) -> Files {
    stage.fakes.git.head(&branch()).expect("a head").2
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_in_one_environment_goes_to_the_other() {
    let stage = stage("2");
    let report = promote(&stage, POLICY, Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(report.name.to_string(), "live");
    assert_eq!(head(&stage), files("2", "2"));
    let digests = "web registry.example.com/web:2 at commit";
    assert!(stage.text().contains(digests), "{}", stage.text());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_ready_stays_where_it_is() {
    let stage = stage("bad");
    let report = promote(&stage, POLICY, Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::PromotionRefused), "{report:?}");
    assert!(report.message.contains("HealthCheckFailed"), "{report:?}");
    assert!(stage.text().contains("said by Flux"), "{}", stage.text());
    assert_eq!(head(&stage), files("bad", "1"));
    let asked = stage.fakes.cluster.object(&kustomization("live"));
    assert_eq!(
        requested(&asked.unwrap_or_default()),
        "",
        "live is not asked"
    );
}

#[tokio::test(start_paused = true)]
async fn a_plan_asks_flux_for_nothing_and_tells_what_is_not_ready() {
    let stage = stage("2");
    let report = promote(&stage, POLICY, Mode::DryRun).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(report.steps[0].action, Action::Change, "{report:?}");
    assert!(
        stage.text().contains("a promotion waits for it"),
        "{}",
        stage.text()
    );
    assert_eq!(head(&stage), files("2", "1"));
    for id in [source(), kustomization("staging"), kustomization("live")] {
        let object = stage.fakes.cluster.object(&id).unwrap_or_default();
        assert_eq!(requested(&object), "", "{id} is not asked");
    }
    let bad = self::stage("bad");
    let failed = status(&bad, "staging", "");
    set(&bad, &kustomization("staging"), &json!({}), &failed);
    let report = promote(&bad, POLICY, Mode::DryRun).await;
    assert_eq!(report.code, Some(Code::PromotionRefused), "{report:?}");
}

#[test]
fn both_environments_have_to_be_granted() {
    let only = |objects: &str| POLICY.replace("flux-system/*", objects);
    let granted = allowed(&only("flux-system/*"), Mode::Deploy);
    assert!(granted.is_ok_and(|permit| permit.origin().is_some()));
    // One list of names, without the Kustomization of the other environment.
    let live = only("flux-system/fleet\", \"flux-system/live");
    let denial = allowed(&live, Mode::Deploy).expect_err("staging is not granted");
    let told = "promoting from staging: flux: reconciling flux-system/staging is not granted";
    assert_eq!(denial.message, told);
    let staging = only("flux-system/fleet\", \"flux-system/staging");
    let denial = allowed(&staging, Mode::Deploy).expect_err("live is not granted");
    assert_eq!(
        denial.message,
        "flux: reconciling flux-system/live is not granted"
    );
}

#[tokio::test(start_paused = true)]
async fn the_images_that_are_found_have_to_be_granted() {
    let stage = stage("2");
    let policy = POLICY.replace("require_digest = false", "require_digest = true");
    let report = promote(&stage, &policy, Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::Denied), "{report:?}");
    assert_eq!(head(&stage), files("2", "1"));
}

#[test]
fn specs_that_cannot_be_promoted_are_refused() {
    let (staging, live) = (spec("staging"), spec("live"));
    let plain = "version: 1\nname: live\nsecrets:\n  - name: a\n    keys: { k: { vault: kv/a, field: f } }\n";
    for (from, to, file, expected) in [
        (
            staging.as_str(),
            plain,
            "quaymaster.yaml",
            "this spec has no 'flux'",
        ),
        (plain, live.as_str(), FROM, "this spec has no 'flux'"),
        ("version: 2", live.as_str(), FROM, ""),
        (
            &staging.replace("{ web: web }", "{ api: api }"),
            live.as_str(),
            FROM,
            "the image web of quaymaster.yaml is not listed",
        ),
    ] {
        let error = request(from, to, Mode::Deploy).expect_err(expected);
        assert_eq!(error.places[0].file.as_deref(), Some(file), "{error:?}");
        assert!(error.places[0].message.contains(expected), "{error:?}");
    }
}
