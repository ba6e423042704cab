//! What a run says of itself: how it began, its plan, its verdict, the final report.
//!
//! Called by [`super`]. Everything that leaves here has passed the run's redactor.

use proto::error::Problem;
use proto::event::Stage;
use proto::ids::RunId;
use proto::report::Action;
use proto::report::ImageChange;
use proto::report::Mode;
use proto::report::Report;
use proto::report::Status;
use proto::report::Step;
use proto::report::text;

use super::Told;
use super::Tools;
use crate::authorize::Permit;
use crate::log::RunLog;
use crate::plan::Plan;
use crate::prune;
use crate::prune::Leftover;
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
        images: Vec::new(),
        url: None,
        plan: None,
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
    let images = told.images.into_iter();
    report.images = images.map(|image| clean_image(image, tools.log)).collect();
    report.url = told.url.map(|url| tools.log.clean(&url));
    report.plan = told.plan;
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
        Mode::Rotation => "keep secrets fresh",
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

/// The steps that delete what is not wanted any more.
pub(super) fn deletions(plan: &Plan, leftovers: &[Leftover]) -> Vec<Step> {
    prune::going(&plan.permit().request().spec.rollout, leftovers)
        .map(|one| Step {
            object: one.id.to_string(),
            action: Action::Delete,
            reason: "is not in the bundle any more".to_owned(),
            keys: Vec::new(),
            fields: Vec::new(),
            notes: Vec::new(),
        })
        .collect()
}

/// Warnings about what is not wanted any more and stays.
pub(super) fn left(plan: &Plan, leftovers: &[Leftover]) -> Vec<String> {
    let prune = plan.permit().request().spec.rollout.prune;
    leftovers
        .iter()
        .filter_map(|one| match one.stays {
            Some(why) => Some(format!(
                "{} is not in the bundle any more and stays: {why}",
                one.id
            )),
            None if prune => None,
            None => Some(format!(
                "{} is not in the bundle any more and stays; rollout.prune: true deletes such objects",
                one.id
            )),
        })
        .collect()
}

/// Tells what is about to be done. The plan of a dry run is told as its result, see [`tell`].
pub(super) fn tell_plan(steps: &[Step], log: &RunLog) {
    for line in text::lines(steps) {
        log.info(line.text);
    }
}

/// Tells what a reader looks for at the end: which images, and where the app is.
pub(super) fn tell_landing(told: &Told, log: &RunLog) {
    for change in &told.images {
        log.info(text::image(change));
    }
    if let Some(url) = &told.url {
        log.info(format!("address: {url}"));
    }
}

/// Tells the verdict; `planned` are the steps of a dry run.
pub(super) fn tell(verdict: &Verdict, planned: &[Step], log: &RunLog) {
    log.start(Stage::Report, "verdict");
    tell_plan(planned, log);
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

fn clean_step(mut step: Step, log: &RunLog) -> Step {
    for field in &mut step.fields {
        let sides = [&mut field.before, &mut field.after];
        for side in sides.into_iter().flatten() {
            *side = log.clean(side);
        }
    }
    step
}

fn clean_image(image: ImageChange, log: &RunLog) -> ImageChange {
    ImageChange {
        name: log.clean(&image.name),
        before: image.before.map(|before| log.clean(&before)),
        after: log.clean(&image.after),
    }
}

fn clean_cause(mut cause: proto::report::Cause, log: &RunLog) -> proto::report::Cause {
    cause.message = log.clean(&cause.message);
    cause.evidence = cause.evidence.iter().map(|line| log.clean(line)).collect();
    cause
}
