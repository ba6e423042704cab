//! What a run says of itself: how it began, its plan, its verdict, the final report.
//!
//! Called by [`super`]. Everything that leaves here has passed the run's redactor.

use proto::error::Problem;
use proto::event::Stage;
use proto::ids::RunId;
use proto::report::Action;
use proto::report::Mode;
use proto::report::Report;
use proto::report::Status;

use super::Told;
use super::Tools;
use crate::authorize::Permit;
use crate::log::RunLog;
use crate::plan::Plan;
use crate::report;
use crate::report::Verdict;

/// The report of a run that begins.
pub(super) fn first_report(permit: &Permit, tools: &Tools<'_>) -> Report {
    Report {
        id: tools.id.clone(),
        mode: permit.request().mode,
        name: permit.request().spec.name.clone(),
        cluster: permit.cluster().clone(),
        namespace: permit.namespace().clone(),
        status: Status::Running,
        started: stamp(tools),
        finished: None,
        message: "the run is on".to_owned(),
        code: None,
        revision: None,
        problem: None,
        steps: Vec::new(),
        causes: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Puts the verdict into the report.
pub(super) fn finish(
    mut report: Report,
    verdict: Verdict,
    told: Told,
    tools: &Tools<'_>,
) -> Report {
    let steps = told.steps.into_iter();
    report.steps = steps.map(|step| clean_step(step, tools.log)).collect();
    report.revision = told.revision;
    report.finished = Some(stamp(tools));
    report.status = verdict.status;
    report.message = tools.log.clean(&verdict.message);
    report.code = verdict.problem.as_ref().map(|problem| problem.code);
    report.problem = verdict.problem.map(|problem| clean_problem(problem, tools));
    let causes = verdict.causes.into_iter();
    report.causes = causes.map(|cause| clean_cause(cause, tools.log)).collect();
    let warnings = verdict.warnings.iter();
    report.warnings = warnings.map(|warning| tools.log.clean(warning)).collect();
    report
}

fn stamp(tools: &Tools<'_>) -> String {
    format!("{:.3}", tools.ports.clock.now())
}

/// Spreads the retries of different runs: the low bits of the id are random.
pub(super) fn seed(id: &RunId) -> u64 {
    let digits = id.as_str();
    u64::from_str_radix(&digits[digits.len() - 16..], 16)
        .unwrap_or(1)
        .max(1)
}

pub(super) fn introduce(permit: &Permit, log: &RunLog) {
    let request = permit.request();
    let what = match request.mode {
        Mode::Deploy => "deploy",
        Mode::DryRun => "plan",
        Mode::Rollback => "roll back",
    };
    let place = format!(
        "{} to namespace {} of cluster {}",
        request.spec.name,
        permit.namespace(),
        permit.cluster()
    );
    log.start(Stage::Authorize, format!("{what} {place}"));
    log.info(format!(
        "allowed by rule {} (decision {}); in the cluster the agent acts as {}",
        permit.rule(),
        permit.decision(),
        permit.actor().user
    ));
    request.notes.iter().for_each(|note| log.info(note.clone()));
    log.end_stage(Stage::Authorize);
}

pub(super) fn tell_plan(plan: &Plan, log: &RunLog) {
    for step in plan.told() {
        let word = match step.action {
            Action::Create => "create",
            Action::Change => "change",
            Action::Same => "same",
            Action::Unknown => "not known before",
            Action::Delete => "delete",
            Action::Recreate => "recreate",
        };
        let mut line = format!("{word}: {} ({})", step.object, step.reason);
        for key in &step.keys {
            let word = match key.action {
                Action::Create => "new",
                Action::Change => "changes",
                Action::Same => "same",
                Action::Unknown => "set anew",
                Action::Delete | Action::Recreate => "goes",
            };
            line.push_str(&format!("\n    {}: {word}, from {}", key.key, key.source));
        }
        for field in &step.fields {
            let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".to_owned());
            let (before, after) = (side(&field.before), side(&field.after));
            line.push_str(&format!("\n    {}: {before} -> {after}", field.field));
        }
        for note in &step.notes {
            line.push_str(&format!("\n    {note}"));
        }
        log.info(line);
    }
}

pub(super) fn summary(plan: &Plan) -> String {
    let count = |action| {
        plan.steps()
            .iter()
            .filter(|step| step.action == action)
            .count()
    };
    let mut text = format!(
        "plan: {} to create, {} to change, {} the same",
        count(Action::Create),
        count(Action::Change),
        count(Action::Same)
    );
    for (action, words) in [
        (Action::Recreate, "to recreate"),
        (Action::Delete, "to delete"),
        (Action::Unknown, "not known before the run"),
    ] {
        match count(action) {
            0 => {}
            some => text.push_str(&format!(", {some} {words}")),
        }
    }
    text
}

pub(super) fn tell(verdict: &Verdict, log: &RunLog) {
    log.start(Stage::Report, "verdict");
    verdict
        .warnings
        .iter()
        .for_each(|warning| log.warn(warning.clone()));
    match verdict.problem {
        None => log.info(verdict.message.clone()),
        Some(_) => report::digest(verdict)
            .into_iter()
            .for_each(|line| log.error(line)),
    }
    log.end_stage(Stage::Report);
}

fn clean_problem(mut problem: Problem, tools: &Tools<'_>) -> Problem {
    problem.detail = tools.log.clean(&problem.detail);
    problem.instance = Some(format!("/v1/deploys/{}", tools.id));
    for place in &mut problem.errors {
        place.message = tools.log.clean(&place.message);
    }
    problem
}

fn clean_step(mut step: proto::report::Step, log: &RunLog) -> proto::report::Step {
    for field in &mut step.fields {
        let sides = [&mut field.before, &mut field.after];
        for side in sides.into_iter().flatten() {
            *side = log.clean(side);
        }
    }
    step
}

fn clean_cause(mut cause: proto::report::Cause, log: &RunLog) -> proto::report::Cause {
    cause.message = log.clean(&cause.message);
    cause.evidence = cause.evidence.iter().map(|line| log.clean(line)).collect();
    cause
}
