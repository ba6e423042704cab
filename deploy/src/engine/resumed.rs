//! A run that goes on after its agent was killed or stopped: the same id, the same verdict in the end.
//!
//! Called by the agent at start with a permit that the present policy gave. What was written is
//! looked at before anything is written again. Values of Secrets ended with the former process, so a
//! run that was cut before all of them were written cannot be completed and says what is there.

use std::time::Duration;

use futures::FutureExt as _;
use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::report::Action;
use proto::report::Report;
use tokio::time::Instant;

use super::Told;
use super::Tools;
use super::book;
use super::book::App;
use super::course::judge;
use super::gate;
use super::make_plan;
use super::told;
use super::wanted_of;
use crate::apply;
use crate::apply::Applied;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::lock::Reins;
use crate::object::ObjectId;
use crate::plan;
use crate::plan::Plan;
use crate::ports::Entry;
use crate::report;
use crate::report::Verdict;
use crate::resolve::ResolvedSecrets;
use crate::resume::Brief;
use crate::resume::Progress;

/// What a run gets at least, however late the agent is back: a look that can end in a verdict.
const GRACE: Duration = Duration::from_secs(30);

/// Goes on with a run. Always ends the log.
pub async fn resume(
    permit: Permit,
    brief: &Brief,
    progress: Progress,
    began: Report,
    tools: Tools<'_>,
) -> Report {
    let left = brief.deadline.duration_since(tools.ports.clock.now());
    let left = Duration::try_from(left).unwrap_or_default().max(GRACE);
    let patience = Patience {
        deadline: Instant::now() + left,
        stop: &tools.stop,
        log: tools.log,
        seed: told::seed(&tools.id),
    };
    tools.log.start(Stage::Authorize, "go on after a restart");
    tools.log.warn(
        "the agent was restarted during this run, which goes on now; earlier lines of its log may be gone",
    );
    tools.log.end_stage(Stage::Authorize);
    let told = Told {
        steps: brief.steps.clone(),
        ..Told::default()
    };
    // Boxed for its size.
    let verdict = go_on(permit, brief, progress, &tools, &patience).boxed();
    let verdict = verdict.await;
    told::tell(&verdict, &[], tools.log);
    let report = told::finish(began, verdict, told, &tools);
    tools.log.end(report.status);
    report
}

async fn go_on(
    permit: Permit,
    brief: &Brief,
    progress: Progress,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    if !brief.writes {
        let reins = Reins::loose(&tools.stop);
        return carry_on(permit, brief, progress, &reins, tools, patience).await;
    }
    let fence = match &progress {
        Progress::Planned => 0,
        Progress::Writing { fence } | Progress::Supplied { fence } => *fence,
        Progress::Applied { fence, .. } => *fence,
    };
    let mut gate = gate(&permit, tools);
    let lock = match gate.look(patience).await {
        Ok(seen) if seen.is_untouched_since(tools.id.as_str(), fence) => {
            gate.take(&seen, patience).await
        }
        Ok(_) => Ok(None),
        Err(error) => Err(error),
    };
    match lock {
        Ok(Some(lock)) => {
            let reins = lock.reins();
            let work = carry_on(permit, brief, progress, &reins, tools, patience);
            lock.hold(patience, work.boxed()).await
        }
        Ok(None) => match progress {
            Progress::Planned => interrupted("nothing was written"),
            Progress::Writing { .. } | Progress::Supplied { .. } => interrupted(
                "writing had begun and may be incomplete, and another run has had the app since",
            ),
            Progress::Applied { .. } => {
                interrupted("all objects were written, and another run has had the app since")
            }
        },
        Err(error) => interrupted(&format!(
            "{}: {}",
            standing(&progress),
            report::of_lock(&error).detail
        )),
    }
}

/// The part under the lock.
async fn carry_on(
    permit: Permit,
    brief: &Brief,
    progress: Progress,
    reins: &Reins,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    let noted = tools
        .ports
        .journal
        .append(Entry::Resumed { fence: reins.fence });
    if noted.await.is_err() {
        return Verdict::problem(Problem::new(
            Code::Internal,
            "the agent cannot write its journal",
        ));
    }
    let app = App::of(&permit);
    let is_release = permit.request().spec.helm.is_some();
    let mut verdict = match progress {
        Progress::Planned => return interrupted("nothing was written"),
        Progress::Writing { .. } | Progress::Supplied { .. } if is_release => interrupted(
            "Helm may have been writing the release; the next deploy puts it right first",
        ),
        Progress::Writing { .. } if !brief.blind.is_empty() => {
            tell_what_is_there(permit, brief, tools, patience).await
        }
        Progress::Writing { .. } | Progress::Supplied { .. } => {
            complete(permit, reins, tools, patience).await
        }
        Progress::Applied { objects, .. } => {
            let applied = Applied::recalled(objects);
            judge(&permit, &applied, reins, tools, patience).await
        }
    };
    book::close_resumed(&app, &mut verdict, tools, patience).await;
    verdict
}

/// The objects that can be written without values.
fn open(permit: &Permit, tools: &Tools<'_>) -> Vec<(ObjectId, plan::Content)> {
    let wanted = wanted_of(permit, &App::of(permit), tools).into_iter();
    wanted.filter(|(id, _)| !id.gvk.is("", "Secret")).collect()
}

async fn plan_of(
    permit: Permit,
    wanted: Vec<(ObjectId, plan::Content)>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Plan, Problem> {
    let app = App::of(&permit);
    let set = app.place(tools.ports).set_id();
    let told = &mut Told::default();
    make_plan(permit, wanted, None, &set, tools, patience, told).await
}

/// Writes what is not written yet, and watches.
async fn complete(
    permit: Permit,
    reins: &Reins,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    let wanted = open(&permit, tools);
    let plan = match plan_of(permit, wanted, tools, patience).await {
        Ok(plan) => plan,
        Err(problem) => return Verdict::problem(begun(problem)),
    };
    told::tell_plan(&plan.told(), tools.log);
    tools.log.start(Stage::Apply, "write what is missing");
    let writing = Patience {
        stop: &reins.writing,
        ..patience.clone()
    };
    let none = ResolvedSecrets::none();
    let applied = apply::apply(&plan, &none, tools.ports, &writing).await;
    tools.log.end_stage(Stage::Apply);
    match applied {
        Ok(applied) => judge(plan.permit(), &applied, reins, tools, patience).await,
        Err(failure) if reins.writing.is_cancelled() && !tools.stop.is_cancelled() => {
            Verdict::problem(report::of_lost_lock(reins, &failure))
        }
        Err(failure) => Verdict::problem(begun(report::of_apply(&failure))),
    }
}

/// Ends a run that cannot be completed with what is known about it.
async fn tell_what_is_there(
    permit: Permit,
    brief: &Brief,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    let wanted = open(&permit, tools);
    let all = wanted.len();
    let standing = match plan_of(permit, wanted, tools, patience).await {
        Ok(plan) => {
            let same = plan.steps().iter();
            let same = same.filter(|step| step.action == Action::Same).count();
            format!("{same} of {all} other objects are as this run wanted them")
        }
        Err(problem) => format!(
            "how the other objects stand is not known ({})",
            problem.detail
        ),
    };
    let secrets = brief.blind.join(", ");
    let message = format!(
        "the agent was stopped while it wrote Secrets, whose values ended with it: {secrets} may be written or \
         not; {standing}"
    );
    Verdict::problem(
        Problem::new(Code::RolloutFailed, message)
            .hint("run the job again: it writes what is missing and nothing twice"),
    )
}

const fn standing(progress: &Progress) -> &'static str {
    match progress {
        Progress::Planned => "nothing was written",
        Progress::Writing { .. } | Progress::Supplied { .. } => {
            "writing to the cluster had begun and may be incomplete; deploy again to complete it"
        }
        Progress::Applied { .. } => "all objects were written, but the rollout was not judged",
    }
}

fn interrupted(standing: &str) -> Verdict {
    let message = format!("the agent was stopped during the run; {standing}");
    Verdict::problem(Problem::new(Code::Interrupted, message).hint("run the job again"))
}

/// Makes a problem say that the app has changed: it is no denial and no wrong input any more.
fn begun(problem: Problem) -> Problem {
    let code = match report::status_of(problem.code) {
        proto::report::Status::Denied
        | proto::report::Status::Invalid
        | proto::report::Status::Superseded => Code::RolloutFailed,
        proto::report::Status::Running
        | proto::report::Status::Succeeded
        | proto::report::Status::Failed
        | proto::report::Status::RolledBack
        | proto::report::Status::RollbackFailed
        | proto::report::Status::Cancelled
        | proto::report::Status::Interrupted => problem.code,
    };
    let detail = format!(
        "{}; writing had begun before the agent was restarted",
        problem.detail
    );
    let mut told = Problem::new(code, detail);
    told.hint = problem.hint;
    told.errors = problem.errors;
    told
}
