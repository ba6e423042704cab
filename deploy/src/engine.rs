//! The story of one run: strings the stages together and turns every error into a verdict.
//!
//! The only async orchestration here. Called by `agent::runs` in a tracked task that is never
//! dropped: cancelling is by token, between writes. Whatever happens, leases that are in no written
//! Secret are revoked, the run's own Vault token is ended unless credentials live by it, and the log
//! ends with the verdict. [`told`] says what happens, [`values`] cares for the secret values.

mod told;
mod values;

use std::collections::BTreeMap;

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
use crate::log::RunLog;
use crate::object::ObjectId;
use crate::plan;
use crate::plan::Content;
use crate::plan::Live;
use crate::plan::Plan;
use crate::ports::Login;
use crate::ports::Ports;
use crate::report;
use crate::report::Verdict;
use crate::resolve::Draft;
use crate::secret::FingerprintKey;
use crate::watch;
use crate::watch::Outcome;
use crate::watch::Watched;

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
    let verdict = match execute(permit, login, &tools, &patience, &mut told).await {
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

/// The part of a run during which no other run may touch the app.
async fn alone(
    permit: Permit,
    wanted: Vec<(ObjectId, Content)>,
    login: Option<Login>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Result<Verdict, Problem> {
    let mode = permit.request().mode;
    let draft = values::draft(&permit, login, tools, patience).await?;
    let plan = match make_plan(permit, wanted, draft.as_ref(), tools, patience).await {
        Ok(plan) => plan,
        Err(problem) => {
            values::close(draft, tools, patience).await;
            return Err(problem);
        }
    };
    told.steps = plan.told();
    told::tell_plan(&plan, tools.log);
    match mode {
        Mode::DryRun => {
            values::close(draft, tools, patience).await;
            Ok(Verdict::succeeded(told::summary(&plan), Vec::new()))
        }
        Mode::Deploy | Mode::Rollback => write_and_watch(&plan, draft, tools, patience).await,
    }
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
    let applied = apply::apply(plan, &secrets, tools.ports, patience).await;
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
        Ok(applied) => judge(plan, &applied, tools, patience).await,
        Err(failure) => Verdict::problem(report::of_apply(&failure)),
    })
}

async fn judge(
    plan: &Plan,
    applied: &Applied,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    tools.log.start(Stage::Watch, "watch the rollout");
    let permit = plan.permit();
    let watched = Watched {
        objects: applied.objects(),
        namespace: permit.namespace().as_str(),
        rules: &permit.request().spec.health,
    };
    let outcome = watch::watch(
        watched,
        permit.actor(),
        tools.ports,
        tools.log,
        patience.deadline,
        &tools.stop,
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
        Outcome::Stopped => Verdict::problem(Problem::new(
            Code::Cancelled,
            "the run was cancelled after everything was written; the rollout goes on unwatched",
        )),
    }
}

#[cfg(test)]
mod tests;
