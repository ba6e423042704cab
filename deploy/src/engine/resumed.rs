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
use proto::report::Status;
use tokio::time::Instant;

use super::Told;
use super::Tools;
use super::book;
use super::book::App;
use super::course;
use super::course::Course;
use super::leaving;
use super::line;
use super::make_plan;
use super::scene;
use super::told;
use super::wanted_of;
use crate::apply::Applied;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::history::State;
use crate::lock::Reins;
use crate::object::AppliedObject;
use crate::object::ObjectId;
use crate::object::text;
use crate::plan;
use crate::plan::Content;
use crate::plan::Plan;
use crate::plan::Step;
use crate::plan::Wave;
use crate::plan::cluster_trouble;
use crate::ports::CommitId;
use crate::ports::Entry;
use crate::ports::Way;
use crate::report;
use crate::report::Verdict;
use crate::resume::Brief;
use crate::resume::Progress;
use crate::spec::OnDisconnect;

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
    let mut told = Told {
        steps: brief.steps.clone(),
        images: brief.image_changes.clone(),
        url: brief.url.clone(),
        ..Told::default()
    };
    let on_disconnect = match progress {
        // A way back is finished whoever is there.
        Progress::Returning { .. } => OnDisconnect::Finish,
        Progress::Planned
        | Progress::Writing { .. }
        | Progress::Supplied { .. }
        | Progress::Applied { .. }
        | Progress::Pushed { .. } => permit.request().spec.rollout.on_disconnect,
    };
    // Boxed for its size.
    let work = go_on(permit, brief, progress, &tools, &patience, &mut told).boxed();
    let verdict = leaving::attended(work, on_disconnect, &tools).await;
    let verdict = leaving::explained(verdict, &tools);
    told::tell_landing(&told, tools.log);
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
    told: &mut Told,
) -> Verdict {
    if !brief.writes {
        let reins = Reins::loose(tools.stops());
        let work = carry_on(permit, brief, progress, reins, tools, patience, told);
        // Boxed for its size.
        return work.boxed().await;
    }
    let fence = match &progress {
        Progress::Planned => 0,
        Progress::Writing { fence }
        | Progress::Supplied { fence }
        | Progress::Returning { fence }
        | Progress::Applied { fence, .. }
        | Progress::Pushed { fence, .. } => *fence,
    };
    let mut line = line(&permit, tools);
    let locks = match line.look(patience).await {
        Ok(seen) if seen.app.is_untouched_since(tools.id.as_str(), fence) => {
            line.take(&seen, patience).await
        }
        Ok(_) => Ok(None),
        Err(error) => Err(error),
    };
    match locks {
        Ok(Some(locks)) => {
            let reins = locks.reins();
            let work = carry_on(permit, brief, progress, reins, tools, patience, told);
            locks.hold(patience, work.boxed()).await
        }
        Ok(None) => match progress {
            Progress::Planned => interrupted("nothing was written"),
            Progress::Writing { .. } | Progress::Supplied { .. } => interrupted(
                "writing had begun and may be incomplete, and another run has had the app since",
            ),
            Progress::Applied { .. } => {
                interrupted("all objects were written, and another run has had the app since")
            }
            Progress::Returning { .. } => interrupted(
                "it was on its way back to what worked before, and another run has had the app since",
            ),
            Progress::Pushed { .. } => interrupted(
                "its commit may be pushed, in which case Flux goes on with it; another run has the app or its files now",
            ),
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
    reins: Reins,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Verdict {
    let resumed = Entry::Resumed { fence: reins.fence };
    if let Err(error) = tools.ports.journal.append(resumed).await {
        let mut problem = report::of_journal(&error);
        problem.detail = format!("the agent {error}; {}", standing(&progress));
        return Verdict::problem(problem);
    }
    let is_release = permit.request().spec.helm.is_some();
    let app = App::of(&permit);
    let all = wanted_of(&permit, &app, tools);
    let found = match progress {
        Progress::Planned => return interrupted("nothing was written"),
        Progress::Returning { .. } => Found::WayBack,
        Progress::Writing { .. } | Progress::Supplied { .. } if is_release => {
            let mut verdict = interrupted(
                "Helm may have been writing the release; the next deploy puts it right first",
            );
            book::close_resumed(&app, &mut verdict, tools, patience).await;
            return verdict;
        }
        Progress::Writing { .. } | Progress::Supplied { .. } | Progress::Applied { .. }
            if permit.request().spec.flux.is_some() =>
        {
            let mut verdict = interrupted("no commit was pushed");
            book::close_resumed(&app, &mut verdict, tools, patience).await;
            return verdict;
        }
        Progress::Pushed {
            way: Way::Back,
            commit,
            ..
        } => {
            let short = commit.short();
            let mut verdict = interrupted(&format!(
                "the rollout had failed, and commit {short} may take it back, in which case Flux goes on with it"
            ));
            book::close_resumed(&app, &mut verdict, tools, patience).await;
            return verdict;
        }
        Progress::Writing { .. } if !brief.blind.is_empty() => {
            let mut verdict = tell_what_is_there(permit, brief, &app, all, tools, patience).await;
            book::close_resumed(&app, &mut verdict, tools, patience).await;
            return verdict;
        }
        Progress::Writing { .. } | Progress::Supplied { .. } => Found::Incomplete,
        Progress::Applied { objects, .. } => Found::Written(Applied::recalled(objects), None),
        Progress::Pushed {
            objects, commit, ..
        } => Found::Written(Applied::recalled(objects), Some(commit)),
    };
    let recorded = scene::recorded(&permit, &app, &all, tools, patience).await;
    let (past, leftovers) = match recorded {
        Ok(recorded) => recorded,
        Err(problem) => return Verdict::problem(begun(problem)),
    };
    let own = past.revisions.last();
    match own
        .filter(|last| last.run == tools.id.as_str())
        .map(|last| last.state)
    {
        None | Some(State::Pending | State::Deployed) => {}
        Some(State::Failed) => return interrupted("the rollout had failed before the restart"),
        Some(State::RolledBack) => {
            return interrupted("the rollout had failed, and what worked before is back");
        }
    }
    let plan = match &found {
        // Nothing of it is written any more, so nothing has to be compared.
        Found::Written(..) | Found::WayBack => {
            Ok(plan::plan(permit, all, &[].into(), None, tools.key))
        }
        Found::Incomplete => completing(permit, &app, all, tools, patience).await,
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(problem) => return Verdict::problem(begun(problem)),
    };
    let mut course = Course {
        plan: &plan,
        app: &app,
        past,
        leftovers: &leftovers,
        resumed: true,
        reins,
        pieces: None,
        fleet: None,
    };
    match found {
        Found::Incomplete => {}
        Found::Written(applied, commit) => {
            let commit = commit.as_ref();
            return course::watch_on(&mut course, &applied, commit, tools, patience, told).await;
        }
        Found::WayBack => {
            let failed = interrupted("it was on its way back to what worked before");
            return course::back_on(&mut course, failed, tools, patience, told).await;
        }
    }
    told::tell_plan(&plan.told(), tools.log);
    let ended = course::write_and_watch(&mut course, None, tools, patience, told).await;
    ended.unwrap_or_else(|problem| Verdict::problem(begun(problem)))
}

/// What a run that goes on has to do.
enum Found {
    /// Write what is not written yet.
    Incomplete,
    /// Judge what is written, through Flux with its commit.
    Written(Applied, Option<CommitId>),
    /// Put back what worked before.
    WayBack,
}

/// Objects and what they should be.
type Wanted = Vec<(ObjectId, Content)>;

/// Tells Secrets, whose values are not here, from everything else.
fn apart(all: Wanted) -> (Wanted, Wanted) {
    all.into_iter().partition(|(id, _)| id.gvk.is("", "Secret"))
}

/// Plans what is not written yet. Secrets are in the plan as they are in the cluster.
async fn completing(
    permit: Permit,
    app: &App,
    all: Vec<(ObjectId, Content)>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Plan, Problem> {
    let (secrets, open) = apart(all);
    let set = app.place(tools.ports).set_id();
    let actor = permit.actor().clone();
    let mut plan = make_plan(permit, open, &set, tools, patience).await?;
    for (id, content) in secrets {
        let read = patience
            .retry(|| tools.ports.cluster.secret(&actor, &id), cluster_trouble)
            .await;
        let view = read.map_err(|error| report::of_cluster(&id.to_string(), &error))?;
        let Some(view) = view else {
            let detail = format!("{id} was written before the restart and is gone");
            return Err(Problem::new(Code::RolloutFailed, detail).hint("run the job again"));
        };
        let metadata = |name| text(&view.rest, &["metadata", name]).to_owned();
        plan.steps.push(Step {
            checked: Some(AppliedObject {
                id: id.clone(),
                uid: metadata("uid"),
                generation: 0,
                resource_version: metadata("resourceVersion"),
            }),
            id,
            wave: Wave::Supplies,
            action: Action::Same,
            reason: "written before the restart".to_owned(),
            keys: Vec::new(),
            fields: Vec::new(),
            notes: Vec::new(),
            content,
        });
    }
    plan.steps.sort_by_key(|step| step.wave);
    Ok(plan)
}

/// Ends a run that cannot be completed with what is known about it.
async fn tell_what_is_there(
    permit: Permit,
    brief: &Brief,
    app: &App,
    all: Vec<(ObjectId, Content)>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    let (_, open) = apart(all);
    let count = open.len();
    let set = app.place(tools.ports).set_id();
    let planned = make_plan(permit, open, &set, tools, patience);
    let standing = match planned.await {
        Ok(plan) => {
            let same = plan.steps().iter();
            let same = same.filter(|step| step.action == Action::Same).count();
            format!("{same} of {count} other objects are as this run wanted them")
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
        Progress::Returning { .. } => "it was on its way back to what worked before",
        Progress::Pushed { .. } => {
            "its commit may be pushed, in which case Flux goes on with it; the rollout was not judged"
        }
    }
}

fn interrupted(standing: &str) -> Verdict {
    let message = format!("the agent was stopped during the run; {standing}");
    Verdict::problem(Problem::new(Code::Interrupted, message).hint("run the job again"))
}

/// Makes a problem say that the app has changed: it is no denial and no wrong input any more.
fn begun(problem: Problem) -> Problem {
    let code = match report::status_of(problem.code) {
        Status::Denied | Status::Invalid | Status::Superseded => Code::RolloutFailed,
        Status::Running
        | Status::Succeeded
        | Status::Failed
        | Status::RolledBack
        | Status::RollbackFailed
        | Status::Cancelled
        | Status::Interrupted => problem.code,
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
