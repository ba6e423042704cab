//! The story of one run: strings the stages together and turns every error into a verdict.
//!
//! The only async orchestration here. Called by `agent::runs` in a tracked task that is never
//! dropped: cancelling is by token, between writes. Whatever happens, leases that are in no written
//! Secret are revoked, the run's own Vault token is ended unless credentials live by it, and the log
//! ends with the verdict. [`told`] says what happens, [`values`] cares for the secret values.

mod resumed;
mod told;
mod values;

use std::collections::BTreeMap;

use futures::FutureExt as _;
use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::ids::RunId;
use proto::report::Mode;
use proto::report::Report;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::apply;
use crate::apply::Applied;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::check;
use crate::lock::Gate;
use crate::lock::Holder;
use crate::lock::Reins;
use crate::log::RunLog;
use crate::object::ObjectId;
use crate::plan;
use crate::plan::Content;
use crate::plan::Live;
use crate::plan::Plan;
use crate::ports::Entry;
use crate::ports::Login;
use crate::ports::Ports;
use crate::report;
use crate::report::Verdict;
use crate::resolve::Draft;
use crate::resume::Brief;
use crate::secret::FingerprintKey;
use crate::watch;
use crate::watch::Outcome;

pub use self::resumed::resume;

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
    /// Cancels the run.
    pub stop: CancellationToken,
    /// The name of this agent, for those who find the app locked.
    pub agent: &'a str,
}

/// What is told about a run beside its verdict.
#[derive(Default)]
struct Told {
    steps: Vec<proto::report::Step>,
    revision: Option<u64>,
}

/// Carries out a permit. `login` is how the run gets its Vault token; unset when the caller brought
/// nothing that Vault takes, which only fails a run that needs secrets. Always ends the log.
pub async fn run(permit: Permit, login: Option<Login>, tools: Tools<'_>) -> Report {
    let report = told::first_report(&permit, &tools);
    let patience = Patience {
        deadline: Instant::now() + permit.request().spec.rollout.timeout,
        stop: &tools.stop,
        log: tools.log,
        seed: told::seed(&tools.id),
    };
    told::introduce(&permit, tools.log);
    let mut told = Told::default();
    // Boxed for its size.
    let executed = execute(permit, login, &tools, &patience, &mut told).boxed();
    let verdict = match executed.await {
        Ok(verdict) => verdict,
        // Any stage that was cut short by the stop token ends as what it is.
        Err(_) if tools.stop.is_cancelled() => Verdict::problem(Problem::new(
            Code::Cancelled,
            "the run was cancelled; nothing was written",
        )),
        Err(problem) => Verdict::problem(problem),
    };
    told::tell(&verdict, tools.log);
    let report = told::finish(report, verdict, told, &tools);
    tools.log.end(report.status);
    report
}

/// Everything up to the verdict; an `Err` means that nothing was written.
async fn execute(
    permit: Permit,
    login: Option<Login>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Result<Verdict, Problem> {
    let wanted = plan::wanted(&permit);
    check::access(&wanted, permit.actor(), tools.ports, patience)
        .await
        .map_err(|error| report::of_check(&error))?;
    alone(permit, wanted, login, tools, patience, told).await
}

/// The part of a run during which no other run may touch the app. A plan that was made while another
/// run held the lock is thrown away.
async fn alone(
    mut permit: Permit,
    mut wanted: Vec<(ObjectId, Content)>,
    login: Option<Login>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Result<Verdict, Problem> {
    let mode = permit.request().mode;
    let mut gate = gate(&permit, tools);
    loop {
        let seen = match mode {
            Mode::DryRun => None,
            Mode::Deploy | Mode::Rollback => {
                let seen = gate.look(patience).await;
                Some(seen.map_err(|error| report::of_lock(&error))?)
            }
        };
        let draft = values::draft(&permit, login.as_ref(), tools, patience).await?;
        let plan = match make_plan(permit, wanted, draft.as_ref(), tools, patience).await {
            Ok(plan) => plan,
            Err(problem) => {
                values::close(draft, tools, patience).await;
                return Err(problem);
            }
        };
        told.steps = plan.told();
        told::tell_plan(&plan, tools.log);
        let Some(seen) = seen else {
            values::close(draft, tools, patience).await;
            return Ok(Verdict::succeeded(told::summary(&plan), Vec::new()));
        };
        if let Err(problem) = note(&plan, tools, patience).await {
            values::close(draft, tools, patience).await;
            return Err(problem);
        }
        if !plan.writes() {
            return write_and_watch(&plan, draft, &Reins::loose(&tools.stop), tools, patience)
                .await;
        }
        match gate.take(&seen, patience).await {
            Ok(Some(lock)) => {
                let reins = lock.reins();
                let work = write_and_watch(&plan, draft, &reins, tools, patience);
                // Boxed for its size.
                return lock.hold(patience, work.boxed()).await;
            }
            Ok(None) => values::close(draft, tools, patience).await,
            Err(error) => {
                values::close(draft, tools, patience).await;
                return Err(report::of_lock(&error));
            }
        }
        let when_locked = plan.permit().request().spec.rollout.when_locked;
        let waited = gate.wait(when_locked, patience).await;
        waited.map_err(|error| report::of_lock(&error))?;
        tools.log.info("another run has had the app: planning anew");
        permit = plan.into_permit();
        wanted = plan::wanted(&permit);
    }
}

/// Notes what it takes to go on with the run after a restart.
async fn note(plan: &Plan, tools: &Tools<'_>, patience: &Patience<'_>) -> Result<(), Problem> {
    let left = patience.deadline.saturating_duration_since(Instant::now());
    let now = tools.ports.clock.now();
    let brief = Brief::of(plan, now.checked_add(left).unwrap_or(now)).to_value();
    let noted = tools.ports.journal.append(Entry::Planned { brief }).await;
    noted.map_err(|_full| report::of_journal())
}

/// Stands before the lock of the permit's app.
fn gate<'a>(permit: &Permit, tools: &Tools<'a>) -> Gate<'a> {
    let me = Holder::of(&tools.id, permit.principal(), tools.agent);
    let place = (
        permit.namespace().as_str(),
        permit.request().spec.name.as_str(),
    );
    Gate::new(place, me, permit.actor(), tools.ports, &tools.stop)
}

async fn make_plan(
    permit: Permit,
    wanted: Vec<(ObjectId, Content)>,
    draft: Option<&Draft>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Plan, Problem> {
    tools.log.start(Stage::Plan, "find out what changes");
    let observed: Result<BTreeMap<ObjectId, Live>, _> =
        plan::observe(&permit, &wanted, tools.ports, patience).await;
    tools.log.end_stage(Stage::Plan);
    let observed = observed.map_err(|error| report::of_cluster("reading what is there", &error))?;
    let mut plan = plan::plan(permit, wanted, &observed, draft, tools.key);
    tools
        .log
        .start(Stage::Check, "ask the cluster whether it takes it");
    let checked = check::dry_run(&mut plan, &observed, draft, tools.ports, patience).await;
    tools.log.end_stage(Stage::Check);
    checked.map_err(|error| report::of_check(&error))?;
    Ok(plan)
}

/// From here on something may have been written, so there is a verdict and no plain error.
async fn write_and_watch(
    plan: &Plan,
    draft: Option<Draft>,
    reins: &Reins,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Verdict, Problem> {
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
    let writing = Patience {
        stop: &reins.writing,
        ..patience.clone()
    };
    let applied = apply::apply(plan, &secrets, reins.fence, tools.ports, &writing).await;
    let written: Vec<ObjectId> = match &applied {
        Ok(applied) => applied
            .objects()
            .iter()
            .map(|object| object.id.clone())
            .collect(),
        Err(failure) => failure.written.clone(),
    };
    values::settle_secrets(secrets, &written, tools, patience).await;
    tools.log.end_stage(Stage::Apply);
    Ok(match applied {
        Ok(applied) => judge(plan.permit(), &applied, reins, tools, patience).await,
        Err(failure) if reins.writing.is_cancelled() && !tools.stop.is_cancelled() => {
            Verdict::problem(report::of_lost_lock(reins, &failure))
        }
        Err(failure) => Verdict::problem(report::of_apply(&failure)),
    })
}

async fn judge(
    permit: &Permit,
    applied: &Applied,
    reins: &Reins,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    tools.log.start(Stage::Watch, "watch the rollout");
    let outcome = watch::watch(
        applied.objects(),
        permit.namespace().as_str(),
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
            let message = format!("the rollout of {name} failed: {why}; what was written is kept");
            Verdict::rollout(Code::RolloutFailed, message, causes)
        }
        Outcome::TimedOut { causes } => {
            let seconds = permit.request().spec.rollout.timeout.as_secs();
            let message = format!(
                "the rollout of {name} was not done after {seconds} s; what was written is kept"
            );
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

#[cfg(test)]
mod tests;
