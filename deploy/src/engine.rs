//! The story of one run: strings the stages together and turns every error into a verdict.
//!
//! The only async orchestration here. Called by `agent::runs` in a tracked task that is never
//! dropped: cancelling is by token, between writes. Whatever happens, leases that are in no written
//! Secret are revoked, the run's own Vault token is ended unless credentials live by it, and the log
//! ends with the verdict. [`scene`] looks around, [`course`] writes and judges, [`back`] goes back,
//! [`book`] keeps the history, [`charts`] is what differs for a release of Helm, [`flux`] for a
//! deploy through Flux, [`images`] finds images in their registries, [`leaving`] says what a run without
//! followers becomes, [`landing`] tells images and the address, [`told`] says what
//! happens, [`values`] cares for the secret values.

mod back;
mod book;
mod charts;
mod course;
mod flux;
mod images;
mod landing;
mod leaving;
mod resumed;
mod rotation;
mod scene;
mod told;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::ids::RunId;
use proto::report::ImageChange;
use proto::report::Mode;
use proto::report::Report;
use proto::report::saved::SavedPlan;
use proto::report::text;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::book::App;
use self::course::Course;
use self::flux::Fleet;
use self::scene::Asked;
use self::scene::Scene;
use crate::apply;
use crate::audience::Audience;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::check;
use crate::history;
use crate::lock::Gate;
use crate::lock::Holder;
use crate::lock::Line;
use crate::lock::Locks;
use crate::lock::Reins;
use crate::lock::Sight;
use crate::lock::Stops;
use crate::lock::Subject;
use crate::log::RunLog;
use crate::object::ObjectId;
use crate::plan;
use crate::plan::Content;
use crate::plan::Live;
use crate::plan::Plan;
use crate::ports::Cluster;
use crate::ports::Entry;
use crate::ports::Login;
use crate::ports::Ports;
use crate::prune;
use crate::prune::Leftover;
use crate::register::Home;
use crate::release;
use crate::render;
use crate::report;
use crate::report::Verdict;
use crate::resolve::Draft;
use crate::resume::Brief;
use crate::saved;
use crate::secret::FingerprintKey;

pub use self::resumed::resume;
pub use self::rotation::Order;
pub use self::rotation::rotate;

/// What one run gets besides its permit.
pub struct Tools<'a> {
    /// The run's id.
    pub id: RunId,
    /// Vault, the cluster, the clock, the run's journal.
    pub ports: &'a Ports,
    /// Where events go.
    pub log: &'a RunLog,
    /// The agent's key for fingerprints.
    pub key: &'a FingerprintKey,
    /// Cancels the run; a child of `end`.
    pub stop: CancellationToken,
    /// Cancels the run and, once it goes back to what worked before, that too.
    pub end: CancellationToken,
    /// Who follows the run.
    pub audience: &'a Audience,
    /// The name of this agent, for those who find the app locked.
    pub agent: &'a str,
    /// Where the agents note which Secrets they keep fresh; unset where this one keeps none.
    pub home: Option<&'a Home>,
}

impl Tools<'_> {
    /// Returns what a way back gets, which goes on where only the way forward was told to stop.
    fn way_back(&self) -> Self {
        Self {
            id: self.id.clone(),
            stop: self.end.clone(),
            end: self.end.clone(),
            ..*self
        }
    }

    fn stops(&self) -> Stops<'_> {
        Stops {
            forward: &self.stop,
            all: &self.end,
        }
    }
}

/// What is told about a run beside its verdict.
#[derive(Default)]
struct Told {
    steps: Vec<proto::report::Step>,
    images: Vec<ImageChange>,
    url: Option<String>,
    revision: Option<u64>,
    plan: Option<SavedPlan>,
}

/// How a promotion reaches the environment that its images come from.
pub struct Elsewhere {
    /// The cluster of that environment.
    pub cluster: Arc<dyn Cluster>,
    /// How its credential is read; unset as for [`run`].
    pub login: Option<Login>,
}

/// Carries out a permit. `login` is how the run gets its Vault token; unset when the caller brought
/// nothing that Vault takes, which only fails a run that needs secrets. Always ends the log.
pub async fn run(permit: Permit, login: Option<Login>, tools: Tools<'_>) -> Report {
    promote(permit, login, None, tools).await
}

/// As [`run`], for a permit with an origin: its images are read there first, and the run ends before it
/// writes anything unless that environment is ready with them.
pub async fn promote(
    permit: Permit,
    login: Option<Login>,
    elsewhere: Option<Elsewhere>,
    tools: Tools<'_>,
) -> Report {
    let report = told::first_report(&permit, &tools);
    let patience = Patience {
        deadline: Instant::now() + permit.request().spec.rollout.timeout,
        stop: &tools.stop,
        log: tools.log,
        seed: told::seed(&tools.id),
    };
    told::introduce(&permit, tools.log);
    let mut told = Told::default();
    let on_disconnect = permit.request().spec.rollout.on_disconnect;
    // Boxed for its size.
    let executed = execute(permit, (login, elsewhere), &tools, &patience, &mut told).boxed();
    let verdict = match leaving::attended(executed, on_disconnect, &tools).await {
        Ok(verdict) => verdict,
        // Any stage that was cut short by the stop token ends as what it is.
        Err(_) if tools.stop.is_cancelled() => Verdict::problem(Problem::new(
            Code::Cancelled,
            "the run was cancelled; nothing was written",
        )),
        Err(problem) => Verdict::problem(problem),
    };
    let verdict = leaving::explained(verdict, &tools);
    let planned: &[_] = match report.mode {
        Mode::DryRun => &told.steps,
        Mode::Deploy | Mode::Rollback | Mode::Rotation => &[],
    };
    told::tell_landing(&told, tools.log);
    told::tell(&verdict, planned, tools.log);
    let report = told::finish(report, verdict, told, &tools);
    tools.log.end(report.status);
    report
}

/// Everything up to the verdict; an `Err` means that nothing was written.
async fn execute(
    permit: Permit,
    (login, elsewhere): (Option<Login>, Option<Elsewhere>),
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Result<Verdict, Problem> {
    // Boxed for its size.
    let found = flux::origin::complete(permit, elsewhere, tools, patience).boxed();
    let permit = found.await?;
    let permit = back::complete(permit, tools, patience).await?;
    // Boxed for its size.
    let permit = images::found(permit, login.as_ref(), tools, patience)
        .boxed()
        .await?;
    let permit = render::rendered(permit, tools.ports, patience)
        .await
        .map_err(|failure| report::charts::of_render(&failure))?;
    let app = App::of(&permit);
    let wanted = wanted_of(&permit, &app, tools);
    values::learn(&wanted, tools.log);
    // Boxed for its size.
    let mut fleet = flux::open(&permit, login.as_ref(), tools, patience).await?;
    let work = alone(
        permit,
        &app,
        wanted,
        (login, fleet.as_mut()),
        tools,
        patience,
        told,
    );
    let verdict = work.boxed().await;
    if let Some(fleet) = fleet {
        fleet.close(tools, patience).await;
    }
    verdict
}

/// The part of a run during which no other run may touch the app. A plan that was made while another
/// run held the lock is thrown away.
async fn alone(
    mut permit: Permit,
    app: &App,
    mut wanted: Vec<(ObjectId, Content)>,
    (login, mut fleet): (Option<Login>, Option<&mut Fleet>),
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Result<Verdict, Problem> {
    let mut line = line(&permit, tools);
    loop {
        let asked = Asked {
            permit: &permit,
            app,
            wanted: &wanted,
            login: login.as_ref(),
        };
        let Scene {
            seen,
            past,
            leftovers,
            draft,
            observed,
        } = scene::around(asked, &mut line, tools, patience).await?;
        let files = match &mut fleet {
            None => Vec::new(),
            Some(fleet) => match fleet.look(&permit, tools, patience).await {
                Ok(files) => files,
                Err(problem) => {
                    values::close(draft, tools, patience).await;
                    return Err(problem);
                }
            },
        };
        values::mark_records(&mut wanted, &permit, draft.as_ref(), tools);
        let set = app.place(tools.ports).set_id();
        let values = draft.as_ref();
        let planned = plan_for(permit, wanted, &observed, values, &set, tools, patience).await;
        let kept = match planned {
            Ok(plan) => keep(&plan, &observed, &leftovers, fleet.as_deref(), tools)
                .map(|saved| (plan, saved))
                .map_err(|problem| *problem),
            Err(problem) => Err(problem),
        };
        let plan = match kept {
            Ok((plan, saved)) => {
                told.plan = saved;
                plan
            }
            Err(problem) => {
                values::close(draft, tools, patience).await;
                return Err(problem);
            }
        };
        told.steps = plan.told();
        told.steps.extend(told::deletions(&plan, &leftovers));
        told.steps.extend(files);
        told.images = landing::images(&plan, &observed);
        told.url = landing::url(&plan);
        let Some(seen) = seen else {
            values::close(draft, tools, patience).await;
            let warnings = told::left(&plan, &leftovers);
            let summary = format!("plan: {}; nothing was written", text::summary(&told.steps));
            return Ok(Verdict::succeeded(summary, warnings));
        };
        told::tell_plan(&told.steps, tools.log);
        let mut course = Course {
            plan: &plan,
            app,
            past,
            leftovers: &leftovers,
            resumed: false,
            reins: Reins::loose(tools.stops()),
            pieces: None,
            fleet: fleet.as_deref_mut(),
        };
        if let Err(problem) = note(&course, told, tools, patience).await {
            values::close(draft, tools, patience).await;
            return Err(problem);
        }
        if !course.writes() {
            return course::write_and_watch(&mut course, draft, tools, patience, told).await;
        }
        match take(&line, &seen, &plan, tools, patience).await {
            Ok(Some(locks)) => {
                course.reins = locks.reins();
                let work = course::write_and_watch(&mut course, draft, tools, patience, told);
                return locks.hold(patience, work.boxed()).await;
            }
            Ok(None) => values::close(draft, tools, patience).await,
            Err(problem) => {
                values::close(draft, tools, patience).await;
                return Err(problem);
            }
        }
        let when_locked = plan.permit().request().spec.rollout.when_locked;
        let waited = line.wait(when_locked, patience).await;
        waited.map_err(|error| report::of_lock(&error))?;
        tools
            .log
            .info("another run has had the lock: planning anew");
        permit = plan.into_permit();
        wanted = wanted_of(&permit, app, tools);
    }
}

/// Takes the locks; where the plan makes the namespace that they belong in, makes that first.
async fn take<'a>(
    line: &Line<'a>,
    seen: &Sight,
    plan: &Plan,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Option<Locks<'a>>, Problem> {
    let namespace = plan.permit().namespace().as_str();
    let taken = match line.take(seen, patience).await {
        Err(error) if error.is_homeless() && plan.makes_namespace(namespace) => {
            let applying = Entry::Applying { fence: 0 };
            let noted = tools.ports.journal.append(applying).await;
            noted.map_err(|error| report::of_journal(&error))?;
            apply::namespace(plan, tools.ports, patience)
                .await
                .map_err(|failure| report::of_apply(&failure))?;
            line.take(seen, patience).await
        }
        taken => taken,
    };
    taken.map_err(|error| report::of_lock(&error))
}

/// Lists what is wanted, with the app's label on it.
fn wanted_of(permit: &Permit, app: &App, tools: &Tools<'_>) -> Vec<(ObjectId, Content)> {
    let mut wanted = plan::wanted(permit);
    // A chart's objects are the release's, which Helm keeps a record of.
    let is_release = permit.request().spec.helm.is_some();
    let ours = wanted
        .iter_mut()
        .filter(|(_, content)| !is_release || matches!(content, Content::Secret { .. }));
    history::mark(ours, &app.place(tools.ports).set_id());
    wanted
}

/// Notes what it takes to go on with the run after a restart.
async fn note(
    course: &Course<'_>,
    told: &Told,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<(), Problem> {
    let left = patience.deadline.saturating_duration_since(Instant::now());
    let now = tools.ports.clock.now();
    let deadline = now.checked_add(left).unwrap_or(now);
    let mut brief = Brief::of(course.plan, &told.steps, course.writes(), deadline);
    brief.image_changes.clone_from(&told.images);
    brief.url.clone_from(&told.url);
    let brief = brief.to_value();
    let noted = tools.ports.journal.append(Entry::Planned { brief }).await;
    noted.map_err(|error| report::of_journal(&error))
}

/// Stands before the lock of the permit's app, and through Flux before those of its files.
fn line<'a>(permit: &Permit, tools: &Tools<'a>) -> Line<'a> {
    let flux = permit.request().spec.flux.iter();
    let files = flux.flat_map(|flux| {
        let paths = flux.paths.iter();
        paths.map(|path| Subject::files(&flux.branch, path))
    });
    let files = files.map(|files| gate(permit, files, tools)).collect();
    Line::new(gate(permit, app(permit), tools), files)
}

fn app(permit: &Permit) -> Subject {
    Subject::App(permit.request().spec.name.to_string())
}

/// Stands before one lock.
fn gate<'a>(permit: &Permit, subject: Subject, tools: &Tools<'a>) -> Gate<'a> {
    let me = Holder::of(&tools.id, permit.principal(), tools.agent);
    let place = (permit.namespace().as_str(), subject);
    Gate::new(place, me, permit.actor(), tools.ports, tools.stops())
}

/// Reads what is there and makes a plan.
async fn make_plan(
    permit: Permit,
    wanted: Vec<(ObjectId, Content)>,
    set: &str,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Plan, Problem> {
    let observed = plan::observe(&permit, &wanted, tools.ports, patience).await;
    let observed = observed.map_err(|error| report::of_cluster("reading what is there", &error))?;
    plan_for(permit, wanted, &observed, None, set, tools, patience).await
}

/// Makes the plan of a run from what is there, and lets the cluster check it.
async fn plan_for(
    permit: Permit,
    wanted: Vec<(ObjectId, Content)>,
    observed: &BTreeMap<ObjectId, Live>,
    draft: Option<&Draft>,
    set: &str,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Plan, Problem> {
    if let Some(id) = history::foreign(observed, set) {
        return Err(report::of_foreign(&id.to_string()));
    }
    tools.log.start(Stage::Plan, "find out what changes");
    let mut plan = plan::plan(permit, wanted, observed, draft, tools.key);
    tools.log.end_stage(Stage::Plan);
    tools
        .log
        .start(Stage::Check, "ask the cluster whether it takes it");
    let checked = check::dry_run(&mut plan, observed, draft, tools.ports, patience).await;
    tools.log.end_stage(Stage::Check);
    checked.map_err(|error| report::of_check(&error))?;
    release::look(&mut plan, tools.ports, patience)
        .await
        .map_err(|error| report::charts::of_release(&error))?;
    Ok(plan)
}

/// Holds the run to the plan that its caller saved, and makes the saved form of a dry run.
fn keep(
    plan: &Plan,
    observed: &BTreeMap<ObjectId, Live>,
    leftovers: &[Leftover],
    fleet: Option<&Fleet>,
    tools: &Tools<'_>,
) -> Result<Option<SavedPlan>, Box<Problem>> {
    let request = plan.permit().request();
    if request.mode != Mode::DryRun && request.binding.plan.is_none() {
        return Ok(None);
    }
    let made = format!("{:.3}", tools.ports.clock.now());
    let going = prune::going(&request.spec.rollout, leftovers);
    let files = fleet.map(|fleet| fleet.saved(plan.permit()));
    let files = files.unwrap_or_default();
    let now = saved::of(plan, observed, going, files, &tools.id, made);
    if let Some(reviewed) = &request.binding.plan {
        let moved = saved::differences(reviewed, &now);
        if !moved.is_empty() {
            return Err(Box::new(report::of_changed_plan(reviewed, moved)));
        }
        tools.log.info(format!(
            "this is the plan that run {} made at {}",
            reviewed.run, reviewed.made
        ));
    }
    Ok((request.mode == Mode::DryRun).then_some(now))
}

#[cfg(test)]
mod tests;
