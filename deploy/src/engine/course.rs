//! From the first write to the verdict: issue, write, watch, prune or go back, note the end.
//!
//! Called by [`super`] with a checked plan, under the app's lock where anything is written. Once
//! something may have been written every end is a verdict. A run that lost its lock touches nothing
//! more: not the objects, not the history.

use std::collections::BTreeSet;

use futures::FutureExt as _;
use futures::future;
use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::report::Status;

use super::Told;
use super::Tools;
use super::back;
use super::book;
use super::book::After;
use super::book::App;
use super::charts;
use super::flux;
use super::flux::Fleet;
use super::leaving;
use super::told;
use super::values;
use crate::apply;
use crate::apply::Applied;
use crate::apply::ApplyFailure;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::history::Past;
use crate::history::State;
use crate::history::store::Pieces;
use crate::lock::Reins;
use crate::object::AppliedObject;
use crate::object::ObjectId;
use crate::plan::Plan;
use crate::ports::CommitId;
use crate::ports::Entry;
use crate::prune;
use crate::prune::Leftover;
use crate::report;
use crate::report::Verdict;
use crate::resolve::Draft;
use crate::watch;
use crate::watch::Outcome;
use crate::watch::Watched;

/// Ends the message of a failed rollout; taken off again where something is put back.
pub(super) const KEPT: &str = "; what was written is kept";

/// What a run that writes has in hand.
pub(super) struct Course<'a> {
    pub(super) plan: &'a Plan,
    pub(super) app: &'a App,
    pub(super) past: Past,
    pub(super) leftovers: &'a [Leftover],
    /// Whether a former process has written some of it.
    pub(super) resumed: bool,
    /// What stops it.
    pub(super) reins: Reins,
    /// What is recorded of its revision beside the writes.
    pub(super) pieces: Option<Pieces>,
    /// What a run through Flux has; unset for all others.
    pub(super) fleet: Option<&'a mut Fleet>,
}

impl Course<'_> {
    /// Says whether anything will be written, so that the run needs the lock.
    pub(super) fn writes(&self) -> bool {
        let rollout = &self.plan.permit().request().spec.rollout;
        let deletes = prune::going(rollout, self.leftovers).next().is_some();
        let unwell = self.past.revisions.last();
        let unwell = unwell.is_some_and(|revision| revision.state != State::Deployed);
        let commits = self.fleet.as_ref().is_some_and(|fleet| fleet.changes());
        self.plan.writes() || deletes || unwell || commits
    }

    async fn begin(&mut self, tools: &Tools<'_>, patience: &Patience<'_>) -> Result<(), Problem> {
        let past = &mut self.past;
        book::begin(self.plan, self.app, past, self.resumed, tools, patience).await
    }
}

/// From here on something may have been written, so there is a verdict and no plain error.
pub(super) async fn write_and_watch(
    course: &mut Course<'_>,
    draft: Option<Draft>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Result<Verdict, Problem> {
    let plan = course.plan;
    if tools.stop.is_cancelled() {
        values::close(draft, tools, patience).await;
        return Err(Problem::new(Code::Cancelled, "the run was cancelled"));
    }
    tools.log.start(Stage::Apply, "write");
    let secrets = match values::issue(draft, tools, patience).await {
        Ok(secrets) => secrets,
        Err(problem) => {
            tools.log.end_stage(Stage::Apply);
            return Err(problem);
        }
    };
    // On disk before the first write anywhere: after a kill the truth about this run is known.
    let noted = tools
        .ports
        .journal
        .append(Entry::Applying {
            fence: course.reins.fence,
        })
        .await;
    let begun = match noted.map_err(|error| report::of_journal(&error)) {
        Ok(()) => course.begin(tools, patience).await,
        Err(problem) => Err(problem),
    };
    let begun = match begun {
        Ok(()) => values::add_to_register(plan, &secrets, tools, patience).await,
        Err(problem) => Err(problem),
    };
    if let Err(problem) = begun {
        values::settle_secrets(secrets, &[], tools, patience).await;
        tools.log.end_stage(Stage::Apply);
        return Err(problem);
    }
    let writing = Patience {
        stop: &course.reins.writing,
        ..patience.clone()
    };
    let (applied, pieces) = future::join(
        apply::apply(plan, &secrets, tools.ports, &writing),
        book::keep(plan, course.app, &course.past, tools, &writing),
    )
    .await;
    course.pieces = pieces;
    tools.log.end_stage(Stage::Apply);
    let written: Vec<ObjectId> = match &applied {
        Ok(applied) => applied
            .objects()
            .iter()
            .map(|object| object.id.clone())
            .collect(),
        Err(failure) => failure.written.clone(),
    };
    let settled = async {
        if applied.is_ok() {
            // Until it is noted, the records of before are taken too, which does no harm.
            let noted = values::settle_register(plan, &secrets, tools, patience).await;
            noted.unwrap_or_else(|problem| tools.log.warn(problem.detail));
        }
        values::settle_secrets(secrets, &written, tools, patience).await;
    };
    // The rollout does not wait for Vault.
    let ((), verdict) = future::join(
        settled,
        after_writing(course, &applied, tools, patience, told),
    )
    .await;
    Ok(verdict)
}

async fn after_writing(
    course: &mut Course<'_>,
    applied: &Result<Applied, ApplyFailure>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Verdict {
    let plan = course.plan;
    let (verdict, objects) = match applied {
        Ok(applied) => {
            let objects = applied.objects();
            // Boxed for its size.
            let through = flux::deliver(course, objects, tools, patience).boxed();
            match through.await {
                Some(verdict) => (verdict, objects),
                None => (
                    judge(plan.permit(), applied, &course.reins, tools, patience).await,
                    objects,
                ),
            }
        }
        Err(failure) if course.reins.writing.is_cancelled() && !tools.stop.is_cancelled() => {
            return Verdict::problem(report::of_lost_lock(&course.reins, failure));
        }
        Err(failure) => (
            charts::refused(plan, failure, tools, patience).await,
            &[][..],
        ),
    };
    settle(course, verdict, objects, tools, patience, told).await
}

/// Judges what a former process wrote, and closes the run as if nothing had happened.
pub(super) async fn watch_on(
    course: &mut Course<'_>,
    applied: &Applied,
    commit: Option<&CommitId>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Verdict {
    let begun = course.begin(tools, patience).await;
    let permit = course.plan.permit();
    let through = match commit {
        Some(commit) => flux::go_on(course, commit, applied.objects(), tools, patience).await,
        None => None,
    };
    let mut verdict = match through {
        Some(verdict) => verdict,
        None => judge(permit, applied, &course.reins, tools, patience).await,
    };
    if let Err(problem) = begun {
        let why = problem.detail;
        verdict
            .warnings
            .push(format!("what was written is not recorded: {why}"));
    }
    let objects = applied.objects();
    settle(course, verdict, objects, tools, patience, told).await
}

/// After the rollout: prunes what is not wanted any more, or goes back, and closes the history.
async fn settle(
    course: &mut Course<'_>,
    verdict: Verdict,
    objects: &[AppliedObject],
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Verdict {
    let plan = course.plan;
    let rollout = &plan.permit().request().spec.rollout;
    let place = course.app.place(tools.ports);
    let mut verdict = verdict;
    let mut gone = BTreeSet::new();
    if verdict.status == Status::Succeeded && rollout.prune {
        let (deleted, warnings) = prune::delete(place, course.leftovers, patience).await;
        gone = deleted;
        verdict.warnings.extend(warnings);
    }
    verdict.warnings.extend(told::left(plan, course.leftovers));
    if leaving::goes_back(&verdict, rollout, tools) {
        verdict = leaving::going_back(verdict, tools);
        verdict = go_back(course, verdict, objects, tools, patience).await;
    } else if verdict.status == Status::Succeeded {
        charts::mark_ready(plan, tools, patience).await;
    }
    close(course, verdict, objects, &gone, tools, patience, told).await
}

/// Notes how the run ended.
async fn close(
    course: &mut Course<'_>,
    mut verdict: Verdict,
    objects: &[AppliedObject],
    gone: &BTreeSet<ObjectId>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Verdict {
    let after = After {
        applied: objects,
        leftovers: course.leftovers,
        gone,
        pieces: course.pieces.take(),
    };
    told.revision = book::close(
        course.plan,
        course.app,
        &mut course.past,
        after,
        &mut verdict,
        tools,
        patience,
    )
    .await;
    verdict
}

/// Goes on with a way back that a former process had begun, and closes the run.
pub(super) async fn back_on(
    course: &mut Course<'_>,
    failed: Verdict,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Verdict {
    let verdict = go_back(course, failed, &[], tools, patience).await;
    close(
        course,
        verdict,
        &[],
        &BTreeSet::new(),
        tools,
        patience,
        told,
    )
    .await
}

/// Goes back to what worked before, each kind of deploy in its own way.
async fn go_back(
    course: &mut Course<'_>,
    failed: Verdict,
    objects: &[AppliedObject],
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    let tools = tools.way_back();
    let patience = Patience {
        stop: &tools.stop,
        ..patience.clone()
    };
    course.reins = course.reins.way_back();
    let spec = &course.plan.permit().request().spec;
    if spec.flux.is_none()
        && let Err(error) = tools.ports.journal.append(Entry::Returning).await
    {
        let problem = report::of_journal(&error);
        let what = format!("; nothing is put back: {}", problem.detail);
        return back::told(failed, Status::RollbackFailed, &what);
    }
    // Boxed for their size.
    match (&spec.helm, &spec.flux) {
        (Some(helm), _) => {
            let back = charts::roll_back(course, helm, failed, &tools, &patience).boxed();
            back.await
        }
        (None, Some(_)) => {
            let back = flux::revert(course, failed, objects, &tools, &patience).boxed();
            back.await
        }
        (None, None) => {
            let back = back::put_back(course, failed, &tools, &patience).boxed();
            back.await
        }
    }
}

pub(super) async fn judge(
    permit: &Permit,
    applied: &Applied,
    reins: &Reins,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    tools.log.start(Stage::Watch, "watch the rollout");
    let outcome = watch::watch(
        Watched {
            objects: applied.objects(),
            namespace: permit.namespace().as_str(),
            rules: &permit.request().spec.health,
        },
        permit.actor(),
        tools.ports,
        tools.log,
        patience.deadline,
        &reins.watching,
    )
    .await;
    tools.log.end_stage(Stage::Watch);
    let name = &permit.request().spec.name;
    match outcome {
        Outcome::Ready { warnings } => Verdict::succeeded(
            format!(
                "{name} is deployed: {} objects are ready",
                applied.objects().len()
            ),
            warnings,
        ),
        Outcome::Failed { causes } => {
            let why = causes
                .first()
                .map_or("no cause was found", |cause| cause.message.as_str());
            let message = format!("the rollout of {name} failed: {why}{KEPT}");
            Verdict::rollout(Code::RolloutFailed, message, causes)
        }
        Outcome::TimedOut { causes } => {
            let seconds = permit.request().spec.rollout.timeout.as_secs();
            let message = format!("the rollout of {name} was not done after {seconds} s{KEPT}");
            Verdict::rollout(Code::RolloutTimeout, message, causes)
        }
        Outcome::Stopped if !tools.stop.is_cancelled() => Verdict::problem(Problem::new(
            Code::ApplyConflict,
            format!(
                "another run took the lock of {name} while this one watched the rollout; \
                 everything was written, and may be overwritten now"
            ),
        )),
        Outcome::Stopped => Verdict::problem(Problem::new(
            Code::Cancelled,
            "the run was cancelled after everything was written; the rollout goes on unwatched",
        )),
    }
}
