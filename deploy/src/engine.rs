//! The story of one run: strings the stages together and turns every error into a verdict.
//!
//! The only async orchestration here. Called by `agent::runs` in a tracked task that is never
//! dropped: cancelling is by token, between writes. Whatever happens, leases that are in no written
//! Secret are revoked, the run's own Vault token is ended unless credentials live by it, and the log
//! ends with the verdict.

use std::collections::BTreeMap;

use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::ids::RunId;
use proto::report::Action;
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
use crate::resolve;
use crate::resolve::Draft;
use crate::resolve::ResolvedSecrets;
use crate::resolve::clean_up;
use crate::secret::FingerprintKey;
use crate::watch;
use crate::watch::Outcome;

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
}

/// Carries out a permit. `login` is how the run gets its Vault token; unset when the caller brought
/// nothing that Vault takes, which only fails a run that needs secrets. Always ends the log.
pub async fn run(permit: Permit, login: Option<Login>, tools: Tools<'_>) -> Report {
    let mut report = first_report(&permit, &tools);
    let patience = Patience {
        deadline: Instant::now() + permit.request().spec.rollout.timeout,
        stop: &tools.stop,
        log: tools.log,
        seed: seed(&tools.id),
    };
    introduce(&permit, tools.log);
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
    tell(&verdict, tools.log);
    report.steps = told.steps;
    report.finished = Some(stamp(&tools));
    report.status = verdict.status;
    report.message = tools.log.clean(&verdict.message);
    report.code = verdict.problem.as_ref().map(|problem| problem.code);
    report.problem = verdict
        .problem
        .map(|problem| clean_problem(problem, &tools));
    report.causes = verdict
        .causes
        .into_iter()
        .map(|cause| clean_cause(cause, tools.log))
        .collect();
    report.warnings = verdict
        .warnings
        .iter()
        .map(|warning| tools.log.clean(warning))
        .collect();
    tools.log.end(report.status);
    report
}

fn first_report(permit: &Permit, tools: &Tools<'_>) -> Report {
    Report {
        id: tools.id.clone(),
        mode: permit.request().mode,
        name: permit.request().spec.name.clone(),
        cluster: permit.cluster().clone(),
        namespace: permit.namespace().clone(),
        status: proto::report::Status::Running,
        started: stamp(tools),
        finished: None,
        message: "the run is on".to_owned(),
        code: None,
        problem: None,
        steps: Vec::new(),
        causes: Vec::new(),
        warnings: Vec::new(),
    }
}

fn stamp(tools: &Tools<'_>) -> String {
    format!("{:.3}", tools.ports.clock.now())
}

/// Spreads the retries of different runs: the low bits of the id are random.
fn seed(id: &RunId) -> u64 {
    let digits = id.as_str();
    u64::from_str_radix(&digits[digits.len() - 16..], 16)
        .unwrap_or(1)
        .max(1)
}

fn introduce(permit: &Permit, log: &RunLog) {
    let request = permit.request();
    let what = match request.mode {
        Mode::Deploy => "deploy",
        Mode::DryRun => "plan",
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
    let draft = draft(&permit, login, tools, patience).await?;
    let planned = make_plan(permit, wanted, draft.as_ref(), tools, patience).await;
    let plan = match planned {
        Ok(plan) => plan,
        Err(problem) => {
            close(draft, tools, patience).await;
            return Err(problem);
        }
    };
    told.steps = plan.told();
    match plan.permit().request().mode {
        Mode::DryRun => {
            close(draft, tools, patience).await;
            tell_plan(&plan, tools.log);
            Ok(Verdict::succeeded(summary(&plan), Vec::new()))
        }
        Mode::Deploy => {
            tell_plan(&plan, tools.log);
            write_and_watch(&plan, draft, tools, patience).await
        }
    }
}

async fn draft(
    permit: &Permit,
    login: Option<Login>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Option<Draft>, Problem> {
    let specs = &permit.request().spec.secrets;
    if specs.is_empty() {
        // No Vault login happens for a run that needs no secret.
        return Ok(None);
    }
    tools.log.start(Stage::Resolve, "read secrets");
    let draft = resolve::draft(specs, login, tools.ports, patience).await;
    if let Ok(draft) = &draft {
        for spec in specs {
            for (key, source) in &spec.keys {
                tools.log.info(format!(
                    "Secret {} key {key}: {}",
                    spec.name,
                    draft.describe(source)
                ));
            }
        }
    }
    tools.log.end_stage(Stage::Resolve);
    draft.map(Some).map_err(|error| report::of_resolve(&error))
}

async fn close(draft: Option<Draft>, tools: &Tools<'_>, patience: &Patience<'_>) {
    if let Some(draft) = draft {
        draft.close(tools.ports, patience).await;
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

fn tell_plan(plan: &Plan, log: &RunLog) {
    for step in plan.told() {
        let word = match step.action {
            Action::Create => "create",
            Action::Change => "change",
            Action::Same => "same",
            Action::Unknown => "not known before",
        };
        let mut line = format!("{word}: {} ({})", step.object, step.reason);
        for key in &step.keys {
            let word = match key.action {
                Action::Create => "new",
                Action::Change => "changes",
                Action::Same => "same",
                Action::Unknown => "set anew",
            };
            line.push_str(&format!("\n    {}: {word}, from {}", key.key, key.source));
        }
        log.info(line);
    }
}

fn summary(plan: &Plan) -> String {
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
    match count(Action::Unknown) {
        0 => {}
        unknown => text.push_str(&format!(", {unknown} not known before the run")),
    }
    text
}

/// From here on something may have been written, so there is a verdict and no plain error.
async fn write_and_watch(
    plan: &Plan,
    draft: Option<Draft>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Verdict, Problem> {
    if tools.stop.is_cancelled() {
        close(draft, tools, patience).await;
        return Err(Problem::new(Code::Cancelled, "the run was cancelled"));
    }
    tools.log.start(Stage::Apply, "write");
    let secrets = match issue(draft, tools, patience).await {
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
    settle_secrets(secrets, &written, tools, patience).await;
    tools.log.end_stage(Stage::Apply);
    Ok(match applied {
        Ok(applied) => judge(plan, &applied, tools, patience).await,
        Err(failure) => Verdict::problem(report::of_apply(&failure)),
    })
}

async fn issue(
    draft: Option<Draft>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<ResolvedSecrets, Problem> {
    let Some(draft) = draft else {
        return Ok(ResolvedSecrets::none());
    };
    match draft.issue(tools.ports, patience).await {
        Ok(secrets) => Ok(secrets),
        Err((error, secrets)) => {
            settle_secrets(secrets, &[], tools, patience).await;
            Err(report::of_resolve(&error))
        }
    }
}

/// Revokes every lease whose Secret was not written, and ends the session unless a credential that
/// is in a Secret now lives by it: Vault revokes the leases of a token together with the token.
async fn settle_secrets(
    secrets: ResolvedSecrets,
    written: &[ObjectId],
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) {
    let Some(session) = secrets.session else {
        return;
    };
    let in_use = |secret: &str| {
        written
            .iter()
            .any(|id| id.gvk.is("", "Secret") && id.name == secret)
    };
    let (kept, unused): (Vec<_>, Vec<_>) = secrets
        .leases
        .into_iter()
        .partition(|lease| in_use(&lease.secret));
    // Cleaning up has its own patience: a cancelled or timed out run still revokes.
    let stop = CancellationToken::new();
    let patience = Patience {
        deadline: Instant::now() + CLEAN_UP,
        stop: &stop,
        ..patience.clone()
    };
    clean_up::revoke(&unused, &session, tools.ports, &patience).await;
    if kept.is_empty() {
        clean_up::end_session(session, tools.ports, &patience).await;
        return;
    }
    for lease in &kept {
        tools.log.info(format!(
            "the credential from {} in Secret {} is granted for {} s, and not longer than the Vault token that issued it",
            lease.path, lease.secret, lease.seconds
        ));
    }
}

/// How long cleaning up after a run may take.
const CLEAN_UP: std::time::Duration = std::time::Duration::from_secs(30);

async fn judge(
    plan: &Plan,
    applied: &Applied,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    tools.log.start(Stage::Watch, "watch the rollout");
    let permit = plan.permit();
    let outcome = watch::watch(
        applied.objects(),
        permit.namespace().as_str(),
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

fn tell(verdict: &Verdict, log: &RunLog) {
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

fn clean_cause(mut cause: proto::report::Cause, log: &RunLog) -> proto::report::Cause {
    cause.message = log.clean(&cause.message);
    cause.evidence = cause.evidence.iter().map(|line| log.clean(line)).collect();
    cause
}

#[cfg(test)]
mod tests;
