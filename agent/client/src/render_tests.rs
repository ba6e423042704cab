//! What people see of an answer.

use std::collections::BTreeMap;

use proto::error::Code;
use proto::error::Place;
use proto::error::Problem;
use proto::ids::RunId;
use proto::report::Action;
use proto::report::Cause;
use proto::report::FieldChange;
use proto::report::KeyChange;
use proto::report::Mode;
use proto::report::NearMiss;
use proto::report::Report;
use proto::report::Status;
use proto::report::Step;
use proto::report::WhoAmI;

use super::problem;
use super::result;
use super::verdict;
use super::whoami;

pub(crate) fn report(status: Status, message: &str) -> Report {
    Report {
        id: RunId::from_bits(1),
        mode: Mode::Deploy,
        name: "flask-demo".parse().expect("a name"),
        cluster: "demo".parse().expect("a name"),
        namespace: "flask".parse().expect("a name"),
        status,
        started: "2026-11-24T08:00:00Z".to_owned(),
        finished: None,
        message: message.to_owned(),
        code: None,
        revision: None,
        problem: None,
        steps: Vec::new(),
        images: Vec::new(),
        url: None,
        plan: None,
        causes: Vec::new(),
        warnings: Vec::new(),
    }
}

const RUN: &str = "r00000000000000000000000000000001";

#[test]
fn a_success_is_one_line() {
    let text = verdict(&report(Status::Succeeded, "2 objects are ready"));
    assert_eq!(
        text,
        format!("OK demo/flask/flask-demo: 2 objects are ready (run {RUN})\n")
    );
}

#[test]
fn a_failure_ends_with_causes_evidence_hint_and_the_verdict() {
    let mut report = report(Status::Failed, "the rollout failed; what was written stays");
    report.warnings = vec!["Pod other was broken before".to_owned()];
    report.causes = vec![Cause {
        kind: "image_missing".to_owned(),
        object: "Deployment/flask".to_owned(),
        message: "the registry has no such image".to_owned(),
        evidence: vec!["Failed: not found\nsecond \u{1b}[31mline".to_owned()],
        hint: Some("push the image before the deploy".to_owned()),
    }];
    let expected = format!(
        "warning: Pod other was broken before\n\
         \n\
         cause: Deployment/flask: image_missing\n  \
         the registry has no such image\n  \
         | Failed: not found\n  \
         | second [31mline\n  \
         what to do: push the image before the deploy\n\
         \n\
         FAILED demo/flask/flask-demo: the rollout failed; what was written stays (run {RUN})\n"
    );
    assert_eq!(verdict(&report), expected);
}

#[test]
fn a_plan_lists_steps_and_keys_and_says_that_nothing_was_written() {
    let mut report = report(Status::Succeeded, "the plan is complete");
    report.mode = Mode::DryRun;
    report.steps = vec![Step {
        object: "v1 Secret flask/flask-db".to_owned(),
        action: Action::Change,
        reason: "1 key differs".to_owned(),
        keys: vec![KeyChange {
            key: "api-key".to_owned(),
            action: Action::Change,
            source: "kv/flask/app api_key version 7".to_owned(),
        }],
        fields: vec![FieldChange {
            field: ".metadata.labels.a".to_owned(),
            before: None,
            after: Some("\"b\"".to_owned()),
        }],
        notes: vec!["takes over the fields of kubectl".to_owned()],
    }];
    let expected = format!(
        "  ~ change v1 Secret flask/flask-db: 1 key differs\n        \
         + .metadata.labels.a: \"b\"\n        \
         ~ api-key: changes, from kv/flask/app api_key version 7\n        \
         note: takes over the fields of kubectl\n\
         OK demo/flask/flask-demo: the plan is complete (run {RUN})\n"
    );
    assert_eq!(result(&report), expected);
    assert_eq!(verdict(&report).lines().count(), 1);
}

#[test]
fn a_problem_names_places_hint_and_decision() {
    let mut told = Problem::new(Code::SpecInvalid, "1 error")
        .hint("fix it")
        .places([Place {
            file: Some("quaymaster.yaml".to_owned()),
            line: Some(3),
            column: Some(5),
            path: Some("secrets[0].name".to_owned()),
            message: "expected a name".to_owned(),
        }]);
    told.decision_id = Some("d-1".to_owned());
    let expected = "quaymaster.yaml is not valid: 1 error\n  \
                    quaymaster.yaml:3:5: secrets[0].name: expected a name\n\
                    what to do: fix it\n\
                    decision: d-1\n";
    assert_eq!(problem(&told), expected);
}

#[test]
fn whoami_shows_the_nearest_failing_condition() {
    let who = WhoAmI {
        kind: "gitlab_job".to_owned(),
        attributes: BTreeMap::from([
            ("project_id".to_owned(), "42".to_owned()),
            ("ref".to_owned(), "main".to_owned()),
        ]),
        rules: Vec::new(),
        nearest: vec![NearMiss {
            rule: "flask-prod".to_owned(),
            attribute: "ref_protected".to_owned(),
            message: "wants true, the token has false".to_owned(),
        }],
    };
    let expected = "you are a gitlab_job\n  \
                    project_id  42\n  \
                    ref         main\n\
                    no rule matches: every deploy is denied\n  \
                    rule flask-prod does not match: ref_protected: wants true, the token has false\n";
    assert_eq!(whoami(&who), expected);
}
