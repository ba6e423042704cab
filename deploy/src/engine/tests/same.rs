//! Runs that change nothing or little: what is proved to be right is neither asked about nor written.

use serde_json::json;

use super::*;

const SPEC: &str = "version: 1\nname: app\nmanifests: [k8s/]\n";
const STATIC: &str = "version: 1\nname: app\nsecrets:\n  - name: app-db\n    keys:\n      api: { vault: kv/app/api, field: key }\n      url: { vault: kv/app/api, field: key }\n";

fn maps(count: usize, value: &str) -> String {
    let map = |number| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: c{number} }}\ndata: {{ key: {value} }}\n---\n"
        )
    };
    (0..count).map(map).collect()
}

fn secret(values: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{ name: app-own }}\nstringData: {values}\n")
}

fn actions(report: &Report) -> Vec<Action> {
    report.steps.iter().map(|step| step.action).collect()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_or_written_for_objects_that_are_right() {
    let stage = Stage::new();
    stage.run(SPEC, &maps(6, "one"), Mode::Deploy).await;
    let asked = stage.fakes.cluster.dry_runs();
    let report = stage.run(SPEC, &maps(6, "one"), Mode::Deploy).await;
    assert_eq!(actions(&report), [Action::Same; 6]);
    assert_eq!(stage.fakes.cluster.dry_runs(), asked);
    assert_eq!(stage.fakes.cluster.writes().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn only_the_object_that_changed_is_asked_about_and_written() {
    let stage = Stage::new();
    stage.run(SPEC, &maps(6, "one"), Mode::Deploy).await;
    let asked = stage.fakes.cluster.dry_runs();
    let changed = maps(6, "one").replacen("one", "two", 1);
    let report = stage.run(SPEC, &changed, Mode::Deploy).await;
    assert_eq!(actions(&report)[..2], [Action::Change, Action::Same]);
    assert!(report.steps[0].reason.contains(".data.key"), "{report:?}");
    assert_eq!(stage.fakes.cluster.dry_runs(), asked + 1);
    assert_eq!(stage.fakes.cluster.writes().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn objects_are_read_one_by_one_where_the_job_may_not_list() {
    let stage = Stage::new();
    stage.fakes.cluster.deny("list", "configmaps");
    stage.run(SPEC, &maps(6, "one"), Mode::Deploy).await;
    let report = stage.run(SPEC, &maps(6, "one"), Mode::Deploy).await;
    assert_eq!(actions(&report), [Action::Same; 6]);
}

#[tokio::test(start_paused = true)]
async fn a_secret_from_vault_is_written_once() {
    let stage = Stage::new();
    stage.run(STATIC, "", Mode::Deploy).await;
    let report = stage.run(STATIC, "", Mode::Deploy).await;
    assert_eq!(actions(&report), [Action::Same], "{report:?}");
    assert_eq!(stage.fakes.cluster.writes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_left_the_spec_is_a_change_and_goes() {
    let stage = Stage::new();
    stage.run(STATIC, "", Mode::Deploy).await;
    let fewer: String = STATIC
        .lines()
        .filter(|line| !line.contains("url"))
        .map(|line| format!("{line}\n"))
        .collect();
    let report = stage.run(&fewer, "", Mode::Deploy).await;
    assert_eq!(actions(&report), [Action::Change], "{report:?}");
    let goes = report.steps[0].keys.iter().find(|key| key.key == "url");
    assert_eq!(goes.map(|key| key.action), Some(Action::Delete));
    let left = stage.fakes.cluster.secret_keys("app-db");
    assert_eq!(left, Some(vec!["api".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_label_that_somebody_removed_from_a_secret_is_put_back() {
    let stage = Stage::new();
    stage.run(STATIC, "", Mode::Deploy).await;
    let id = id("v1", "Secret", "app-db");
    let mut body = stage.fakes.cluster.object(&id).expect("it was written");
    body["metadata"]["labels"] = json!({});
    stage.fakes.cluster.set(&id, body);
    let report = stage.run(STATIC, "", Mode::Deploy).await;
    assert_eq!(actions(&report), [Action::Change]);
    assert!(report.steps[0].reason.contains("labels"), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_issued_anew_are_always_written() {
    let stage = Stage::new();
    stage.run(SECRETS, "", Mode::Deploy).await;
    let report = stage.run(SECRETS, "", Mode::Deploy).await;
    assert_eq!(actions(&report), [Action::Change]);
    assert_eq!(stage.fakes.cluster.writes().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_a_manifest_is_compared_by_its_values_and_shows_none() {
    let stage = Stage::new();
    let first = secret("{ token: first-token-value, other: other-token-value }");
    stage.run(SPEC, &first, Mode::Deploy).await;
    let report = stage.run(SPEC, &first, Mode::Deploy).await;
    assert_eq!(actions(&report), [Action::Same], "{report:?}");
    assert_eq!(stage.fakes.cluster.writes().len(), 1);
    let second = secret("{ token: second-token-value }");
    let report = stage.run(SPEC, &second, Mode::Deploy).await;
    let keys = report.steps[0].keys.iter();
    let keys: Vec<_> = keys.map(|key| (key.key.as_str(), key.action)).collect();
    assert_eq!(keys, [("token", Action::Change), ("other", Action::Delete)]);
    let told = format!("{}{report:?}", stage.text());
    for value in [
        "first-token",
        "second-token",
        "other-token",
        "Zmlyc3Q",
        "c2Vjb25k",
    ] {
        assert!(!told.contains(value), "{value}");
    }
}

#[test]
fn the_debug_form_of_a_step_shows_no_manifest() {
    let content = Content::Object(json!({ "data": { "k": "aHVudGVyMg==" } }));
    assert_eq!(format!("{content:?}"), "Object");
}
