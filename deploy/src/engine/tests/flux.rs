//! Runs through Flux on in-memory ports, with a double of Flux that does what its status says.

use futures::StreamExt as _;
use serde_json::json;

use super::*;
use crate::object::text;
use crate::ports::Branch;
use crate::ports::BranchName;
use crate::ports::Files;
use crate::ports::GitAddress;
use crate::ports::GitError;
use crate::ports::Observation;
use crate::ports::Scope as Watch;
use crate::principal::Actor;

pub(super) const SPEC: &str = "version: 1
name: app
flux:
  repository: https://git.example.com/team/fleet.git
  path: apps
  sources: fleet
  wait: { kustomizations: [app] }
images: { web: \"registry.example.com/web:2\" }
rollout: { timeout: 60s, on_failure: revert }
";
const PATH: &str = "apps/web.yaml";

pub(super) fn file(tag: &str) -> Files {
    let text = format!(
        "# kept\nimage: registry.example.com/web:{tag} # {{\"$imagepolicy\": \"flux-system:web\"}}\n"
    );
    Files::from([(PATH.to_owned(), text.into_bytes())])
}

pub(super) fn branch() -> Branch {
    Branch {
        repository: GitAddress::parse("https://git.example.com/team/fleet.git").expect("good"),
        name: BranchName::parse("main").expect("good"),
    }
}

pub(super) fn flux_id(api: &str, kind: &str, name: &str) -> ObjectId {
    ObjectId {
        namespace: Some("flux-system".to_owned()),
        ..id(api, kind, name)
    }
}

fn source() -> ObjectId {
    flux_id("source.toolkit.fluxcd.io/v1", "GitRepository", "fleet")
}

fn kustomization() -> ObjectId {
    flux_id("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "app")
}

/// A stage with a repository, a source and a Kustomization.
pub(super) fn stage() -> Stage {
    let stage = Stage::new();
    stage.fakes.git.put(&branch(), &file("1"), "first");
    set(
        &stage,
        &source(),
        &json!({ "url": "ssh://git@git.example.com/team/fleet", "ref": { "branch": "main" } }),
        &json!({}),
    );
    set(&stage, &kustomization(), &json!({}), &json!({}));
    stage
}

pub(super) fn set(stage: &Stage, id: &ObjectId, spec: &Value, status: &Value) {
    let old = stage.fakes.cluster.object(id).unwrap_or_default();
    let body = json!({
        "apiVersion": id.gvk.api_version(), "kind": id.gvk.kind,
        "metadata": { "name": id.name, "namespace": id.namespace, "generation": 1, "uid": "u",
            "resourceVersion": "1", "annotations": old["metadata"]["annotations"] },
        "spec": spec, "status": status });
    stage.fakes.cluster.set(id, body);
}

pub(super) fn requested(object: &Value) -> String {
    let path = ["metadata", "annotations", "reconcile.fluxcd.io/requestedAt"];
    text(object, &path).to_owned()
}

/// Plays Flux: what is asked for is done, and a tag named `bad` never becomes healthy.
pub(super) async fn play(stage: &Stage) {
    let actor = Actor {
        user: "flux".to_owned(),
        groups: Vec::new(),
    };
    let scopes = [source(), kustomization()].map(|id| Watch {
        gvk: id.gvk,
        namespace: id.namespace,
        name: Some(id.name),
    });
    let cluster = stage.fakes.ports().cluster;
    let mut seen = cluster.observe(&actor, scopes.into());
    while let Some(observed) = seen.next().await {
        let Observation::Present(object) = observed else {
            continue;
        };
        let token = requested(&object);
        let handled = text(&object, &["status", "lastHandledReconcileAt"]);
        if token.is_empty() || token == handled {
            continue;
        }
        let (commit, _, files) = stage.fakes.git.head(&branch()).expect("a head");
        let revision = format!("main@sha256:{commit}");
        if object["kind"] == "GitRepository" {
            let status = json!({ "observedGeneration": 1, "lastHandledReconcileAt": token,
                "artifact": { "revision": revision } });
            set(stage, &source(), &object["spec"], &status);
            continue;
        }
        let content = String::from_utf8_lossy(&files[PATH]).into_owned();
        let (status, reason) = if content.contains(":bad") {
            ("False", "HealthCheckFailed")
        } else {
            ("True", "ReconciliationSucceeded")
        };
        let applied = if status == "True" {
            revision.as_str()
        } else {
            ""
        };
        let status = json!({ "observedGeneration": 1, "lastHandledReconcileAt": token,
            "lastAttemptedRevision": revision, "lastAppliedRevision": applied,
            "conditions": [{ "type": "Ready", "status": status, "reason": reason, "message": "said by Flux" }] });
        set(stage, &kustomization(), &object["spec"], &status);
    }
}

/// Runs a spec while Flux is played.
async fn run(stage: &Stage, spec: &str, mode: Mode) -> Report {
    tokio::select! {
        report = stage.run(spec, "", mode) => report,
        () = play(stage) => panic!("Flux ended"),
    }
}

pub(super) fn head(stage: &Stage) -> (String, Files) {
    let (_, message, files) = stage.fakes.git.head(&branch()).expect("a head");
    (message, files)
}

#[tokio::test(start_paused = true)]
async fn an_image_is_replaced_pushed_and_waited_for() {
    let stage = stage();
    let report = run(&stage, SPEC, Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert!(
        report.message.contains("through Flux"),
        "{}",
        report.message
    );
    let (message, files) = head(&stage);
    assert_eq!(files, file("2"));
    assert!(message.contains("Run: "), "{message}");
    let entries = stage.fakes.journal.entries();
    let pushing = entries
        .iter()
        .position(|entry| matches!(entry, Entry::Pushing { .. }));
    let applying = entries
        .iter()
        .position(|entry| matches!(entry, Entry::Applying { .. }));
    assert!(applying.is_some() && applying < pushing, "{entries:?}");
}

#[tokio::test(start_paused = true)]
async fn a_plan_shows_the_place_and_pushes_nothing() {
    let stage = stage();
    let report = run(&stage, SPEC, Mode::DryRun).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    let step = &report.steps[0];
    assert_eq!(step.action, Action::Change);
    assert!(step.object.contains(PATH), "{step:?}");
    assert_eq!(head(&stage).1, file("1"));
}

#[tokio::test(start_paused = true)]
async fn nothing_to_change_is_no_commit_and_is_waited_for() {
    let stage = stage();
    stage.fakes.git.put(&branch(), &file("2"), "by hand");
    let report = run(&stage, SPEC, Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(head(&stage).0, "by hand");
}

#[tokio::test(start_paused = true)]
async fn what_others_push_meanwhile_is_kept() {
    let stage = stage();
    for number in 0..3 {
        let other = Files::from([(format!("other/{number}"), b"x".to_vec())]);
        stage.fakes.git.race(other);
    }
    let report = run(&stage, SPEC, Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    let (_, files) = head(&stage);
    assert_eq!(files.len(), 4);
    assert_eq!(files.get(PATH), file("2").get(PATH));
}

#[tokio::test(start_paused = true)]
async fn a_push_without_an_answer_is_looked_at_and_not_repeated_blindly() {
    let stage = stage();
    // The first one is taken by the fetch, which is repeated.
    stage.fakes.git.fail(GitError::Unreachable {
        said: "away".to_owned(),
    });
    let report = run(&stage, SPEC, Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(head(&stage).1, file("2"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_rollout_is_taken_back_by_a_commit() {
    let stage = stage();
    let report = run(&stage, &SPEC.replace("web:2", "web:bad"), Mode::Deploy).await;
    assert_eq!(report.status, Status::RolledBack, "{report:?}");
    assert!(
        report.causes[0]
            .evidence
            .contains(&"said by Flux".to_owned()),
        "{report:?}"
    );
    let (message, files) = head(&stage);
    assert_eq!(files, file("1"));
    assert!(message.starts_with("Revert \""), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_rollout_is_kept_where_the_spec_says_so() {
    let stage = stage();
    let spec = SPEC
        .replace("web:2", "web:bad")
        .replace(", on_failure: revert", "");
    let report = run(&stage, &spec, Mode::Deploy).await;
    assert_eq!(report.status, Status::Failed, "{report:?}");
    assert_eq!(head(&stage).1, file("bad"));
}

#[tokio::test(start_paused = true)]
async fn flux_that_is_not_able_ends_the_run_before_a_commit() {
    let suspended = json!({ "suspend": true });
    let elsewhere =
        json!({ "url": "https://git.example.com/team/fleet.git", "ref": { "branch": "old" } });
    let depends = json!({ "dependsOn": [{ "name": "infra" }] });
    for (id, spec, expected) in [
        (kustomization(), &suspended, "is suspended"),
        (source(), &suspended, "is suspended"),
        (source(), &elsewhere, "reads branch old, not main"),
        (kustomization(), &depends, "infra, which does not exist"),
    ] {
        let stage = stage();
        set(&stage, &id, spec, &json!({}));
        let report = run(&stage, SPEC, Mode::Deploy).await;
        assert_eq!(report.code, Some(Code::FluxNotReady), "{report:?}");
        assert!(report.message.contains(expected), "{}", report.message);
        assert_eq!(head(&stage).1, file("1"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_without_a_place_ends_the_run_before_a_commit() {
    let stage = stage();
    let spec = SPEC.replace("images: { web:", "images: { other:");
    let report = run(&stage, &spec, Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::ImagePlaceMissing), "{report:?}");
    assert!(report.message.contains("other"), "{}", report.message);
}

#[tokio::test(start_paused = true)]
async fn a_refused_push_says_what_the_server_said() {
    let stage = stage();
    let plan = run(&stage, SPEC, Mode::DryRun).await;
    assert_eq!(plan.status, Status::Succeeded);
    let refused = GitError::Refused {
        said: "You are not allowed to push".to_owned(),
    };
    // A race first, so that the refusal is the second push's.
    stage
        .fakes
        .git
        .race(Files::from([("other".to_owned(), Vec::new())]));
    let push = async {
        let report = run(&stage, SPEC, Mode::Deploy).await;
        (report.code, report.message)
    };
    stage.fakes.git.refuse_pushes(refused);
    let (code, message) = push.await;
    assert_eq!(code, Some(Code::GitRefused));
    assert!(message.contains("You are not allowed to push"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn secrets_are_written_before_the_commit() {
    let stage = stage();
    let spec = format!(
        "{SPEC}secrets:\n  - name: app-db\n    keys:\n      api: {{ vault: kv/app/api, field: key }}\n"
    );
    let report = run(&stage, &spec, Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert!(stage.fakes.cluster.secret_keys("app-db").is_some());
    assert_eq!(head(&stage).1, file("2"));
}

#[tokio::test(start_paused = true)]
async fn two_apps_on_the_same_files_are_judged_one_after_the_other() {
    let stage = stage();
    let other = SPEC
        .replace("name: app", "name: other")
        .replace("web:2", "web:3");
    let both = async {
        let runs = (
            stage.run(SPEC, "", Mode::Deploy),
            stage.run(&other, "", Mode::Deploy),
        );
        futures::join!(runs.0, runs.1)
    };
    let (one, two) = tokio::select! {
        both = both => both,
        () = play(&stage) => panic!("Flux ended"),
    };
    assert_eq!(one.status, Status::Succeeded, "{one:?}");
    assert_eq!(two.status, Status::Succeeded, "{two:?}");
    let text = stage.text();
    let waits = format!("apps on {} is locked by run", branch());
    assert!(text.contains(&waits), "{text}");
    assert!(!text.contains("somebody else pushed meanwhile"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn source_that_never_fetches_is_told_with_what_it_said_last() {
    let stage = stage();
    let said = json!({ "conditions": [{ "type": "Ready", "status": "False",
        "reason": "GitOperationFailed", "message": "no route to host" }] });
    let object = stage.fakes.cluster.object(&source()).expect("it is there");
    set(&stage, &source(), &object["spec"], &said);
    let spec = SPEC.replace(", on_failure: revert", "");
    let report = stage.run(&spec, "", Mode::Deploy).await;
    assert_eq!(report.code, Some(Code::RolloutTimeout), "{report:?}");
    assert_eq!(report.causes[0].kind, "flux_late");
    let evidence = report.causes[0].evidence.join("; ");
    assert!(
        evidence.contains("GitOperationFailed: no route to host"),
        "{evidence}"
    );
}

#[tokio::test(start_paused = true)]
async fn commit_that_somebody_has_taken_back_already_is_not_taken_back_again() {
    let stage = stage();
    let bad = SPEC.replace("web:2", "web:bad");
    let by_hand = async {
        while head(&stage).1 != file("bad") {
            tokio::task::yield_now().await;
        }
        // Before the push that would take it back.
        stage.fakes.git.race(file("1"));
        std::future::pending::<()>().await;
    };
    let report = tokio::select! {
        report = run(&stage, &bad, Mode::Deploy) => report,
        () = by_hand => panic!("it never ends"),
    };
    assert_eq!(report.status, Status::RolledBack, "{report:?}");
    assert_eq!(head(&stage).0, "somebody else");
}

/// Runs until the commit is pushed and nobody answers, then ends as a process that is killed.
async fn cut_after_push(stage: &Stage, spec: &str) -> Report {
    let began = run(stage, spec, Mode::DryRun).await;
    stage.fakes.journal.clear();
    let work = stage.run(spec, "", Mode::Deploy);
    let ended = tokio::time::timeout(Duration::from_secs(1), work).await;
    assert!(ended.is_err(), "nobody plays Flux");
    began
}

async fn go_on(stage: &Stage, began: &Report) -> Report {
    tokio::select! {
        report = stage.go_on(began) => report.expect("it had a plan"),
        () = play(stage) => panic!("Flux ended"),
    }
}

#[tokio::test(start_paused = true)]
async fn run_that_was_cut_after_its_push_goes_on_to_the_same_verdict() {
    let stage = stage();
    let began = cut_after_push(&stage, SPEC).await;
    let pushed = stage.fakes.git.head(&branch());
    let report = go_on(&stage, &began).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    assert_eq!(stage.fakes.git.head(&branch()), pushed);

    let stage = self::stage();
    let bad = SPEC.replace("web:2", "web:bad");
    let began = cut_after_push(&stage, &bad).await;
    let report = go_on(&stage, &began).await;
    assert_eq!(report.status, Status::RollbackFailed, "{report:?}");
    assert_eq!(report.causes[0].kind, "flux_failed", "{report:?}");
    assert!(report.message.contains("credential"), "{}", report.message);
}

#[tokio::test(start_paused = true)]
async fn run_that_was_cut_before_its_push_arrived_says_that_nothing_is_there() {
    let stage = stage();
    stage
        .fakes
        .git
        .refuse_pushes(GitError::Late { seconds: 60 });
    let began = cut_after_push(&stage, SPEC).await;
    assert_eq!(head(&stage).1, file("1"));
    let report = go_on(&stage, &began).await;
    assert_eq!(report.status, Status::Interrupted, "{report:?}");
    assert!(
        report.message.contains("does not hold commit"),
        "{}",
        report.message
    );
}

/// As [`Stage::run`], held to a plan.
async fn run_as_planned(stage: &Stage, plan: &Report) -> Report {
    let files = BTreeMap::from([("quaymaster.yaml".to_owned(), SPEC.as_bytes().to_vec())]);
    let mut request = request::read(&Bundle { files }, Mode::Deploy).expect("the bundle is valid");
    request.binding.plan.clone_from(&plan.plan);
    assert!(request.binding.plan.is_some());
    tokio::select! {
        report = stage.run_asked(request) => report,
        () = play(stage) => panic!("Flux ended"),
    }
}

#[tokio::test(start_paused = true)]
async fn saved_plan_is_refused_when_an_edited_file_moved() {
    let stage = stage();
    let plan = run(&stage, SPEC, Mode::DryRun).await;
    let mut theirs = file("1");
    theirs.insert("other".to_owned(), b"theirs".to_vec());
    stage.fakes.git.put(&branch(), &theirs, "other files");
    let moved = Files::from([(
        PATH.to_owned(),
        [&*file("1")[PATH], &b"# more\n"[..]].concat(),
    )]);
    let good = run_as_planned(&stage, &plan).await;
    assert_eq!(good.status, Status::Succeeded, "{good:?}");

    let stage = self::stage();
    let plan = run(&stage, SPEC, Mode::DryRun).await;
    stage.fakes.git.put(&branch(), &moved, "theirs");
    let report = run_as_planned(&stage, &plan).await;
    assert_eq!(report.code, Some(Code::PlanChanged), "{report:?}");
    assert!(report.message.contains(PATH), "{}", report.message);
    assert_eq!(head(&stage).1, moved);

    // Also where it moves while the commit is on its way.
    let stage = self::stage();
    let plan = run(&stage, SPEC, Mode::DryRun).await;
    stage.fakes.git.race(moved.clone());
    let report = run_as_planned(&stage, &plan).await;
    assert_eq!(report.code, Some(Code::PlanChanged), "{report:?}");
    assert_eq!(head(&stage).1, moved);
}
