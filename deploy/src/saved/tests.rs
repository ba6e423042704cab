//! What counts as a difference between two plans, and what does not.

use serde_json::json;

use super::*;

fn step(object: &str) -> SavedStep {
    SavedStep {
        object: object.to_owned(),
        action: Action::Change,
        sends: "sha256:a".to_owned(),
        seen: Some(Seen {
            uid: "u1".to_owned(),
            resource_version: "7".to_owned(),
            content: Some("sha256:c".to_owned()),
        }),
        keys: BTreeMap::from([("key".to_owned(), "kv/app field f version 3".to_owned())]),
    }
}

fn plan(steps: Vec<SavedStep>) -> SavedPlan {
    SavedPlan {
        format: FORMAT,
        run: RunId::from_bits(1),
        made: "2026-11-24T08:00:00Z".to_owned(),
        name: "app".parse().expect("a name"),
        cluster: "demo".parse().expect("a name"),
        namespace: "app".parse().expect("a name"),
        bundle: "sha256:b".to_owned(),
        steps,
    }
}

/// The differences after one change of a plan with one step.
fn told(change: impl FnOnce(&mut SavedPlan)) -> Vec<String> {
    let mut now = plan(vec![step("one")]);
    change(&mut now);
    let places = differences(&plan(vec![step("one")]), &now);
    places.into_iter().map(|place| place.message).collect()
}

#[test]
fn equal_plans_differ_in_nothing_whoever_made_them_and_when() {
    let moved = told(|now| {
        now.run = RunId::from_bits(2);
        now.made = "later".to_owned();
    });
    assert_eq!(moved, Vec::<String>::new());
}

/// Something that happens between two plans.
type Change = fn(&mut SavedPlan);

#[test]
fn every_difference_is_told_and_names_its_object() {
    let rows: [(&str, Change); 12] = [
        ("the bundle", |now| now.bundle = "sha256:x".to_owned()),
        ("demo/other/app", |now| {
            now.namespace = "other".parse().expect("a name");
        }),
        ("two: is not in the plan", |now| now.steps.push(step("two"))),
        ("one: is in the plan", |now| now.steps.clear()),
        ("one: existed", |now| now.steps[0].seen = None),
        ("one: was deleted and made anew", |now| {
            seen_of(now).uid = "u2".to_owned();
        }),
        ("one: was changed", |now| {
            seen_of(now).resource_version = "8".to_owned();
            seen_of(now).content = Some("sha256:d".to_owned());
        }),
        (
            "one: key key came from kv/app field f version 3, and now from kv/app field f version 4",
            |now| {
                now.steps[0]
                    .keys
                    .insert("key".to_owned(), "kv/app field f version 4".to_owned());
            },
        ),
        ("one: has no key", |now| now.steps[0].keys.clear()),
        ("one: has a new key", |now| {
            now.steps[0].keys.insert("more".to_owned(), String::new());
        }),
        ("one: what is sent", |now| {
            now.steps[0].sends = "sha256:z".to_owned();
        }),
        ("one: something else", |now| {
            now.steps[0].action = Action::Same;
        }),
    ];
    for (expected, change) in rows {
        let moved = told(change);
        assert_eq!(moved.len(), 1, "{expected}: {moved:?}");
        assert!(moved[0].contains(expected), "{expected}: {moved:?}");
    }
}

fn seen_of(plan: &mut SavedPlan) -> &mut Seen {
    plan.steps[0].seen.as_mut().expect("it was seen")
}

#[test]
fn a_status_that_moved_is_no_difference_and_a_secret_that_was_written_is_one() {
    let status = told(|now| seen_of(now).resource_version = "8".to_owned());
    assert_eq!(status, Vec::<String>::new());
    let mut was = plan(vec![step("s")]);
    seen_of(&mut was).content = None;
    let mut is = was.clone();
    seen_of(&mut is).resource_version = "8".to_owned();
    assert_eq!(differences(&was, &is).len(), 1);
}

#[test]
fn what_moves_by_itself_is_not_seen() {
    let ours = json!({"spec": {"paused": false}});
    let live = |replicas: i64, revision: &str, status: i64, paused: bool| {
        json!({"metadata": {"name": "a", "resourceVersion": status.to_string(), "generation": status,
                "annotations": {ROLLOUT_COUNT: revision}},
            "spec": {"replicas": replicas, "paused": paused}, "status": {"n": status}})
    };
    let base = stable(&live(1, "1", 1, false), &ours);
    assert_eq!(base, stable(&live(5, "2", 9, false), &ours));
    assert_ne!(base, stable(&live(1, "1", 1, true), &ours));
    let fixed = json!({"spec": {"replicas": 1}});
    assert_ne!(
        stable(&live(1, "1", 1, false), &fixed),
        stable(&live(5, "1", 1, false), &fixed)
    );
    assert_eq!(
        stable(&json!({"metadata": {"name": "a"}}), &ours),
        stable(
            &json!({"metadata": {"name": "a", "annotations": {ROLLOUT_COUNT: "1"}}}),
            &ours
        ),
        "before and after the controller's first look"
    );
}

#[test]
fn values_of_a_secret_are_not_hashed_and_its_keys_are() {
    let secret = |data: Value| public(&json!({"kind": "Secret", "data": data}));
    assert_eq!(secret(json!({"k": "YQ=="})), secret(json!({"k": "Yg=="})));
    assert_ne!(secret(json!({"k": "YQ=="})), secret(json!({"l": "YQ=="})));
    assert!(!secret(json!({"k": "YQ=="})).to_string().contains("YQ=="));
}
