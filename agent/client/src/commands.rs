//! What each command does, from arguments to the exit code.
//!
//! Called by `main`. A command asks the agent through `follow` and tells the answer through
//! `output`; it decides nothing about the run itself.

use std::cell::OnceCell;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use proto::app::App;
use proto::error::Code;
use proto::error::Problem;
use proto::ids::RunId;
use proto::report::Action;
use proto::report::Report;
use proto::report::RunList;
use proto::report::Status;
use proto::report::Version;
use proto::report::WhoAmI;
use serde_json::Value;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::apps;
use crate::apps::Place;
use crate::args::AppOf;
use crate::args::Command;
use crate::args::Deploy;
use crate::args::Key;
use crate::args::List;
use crate::args::Plan;
use crate::args::Rollback;
use crate::args::Run;
use crate::exit::Exit;
use crate::expand::Environment;
use crate::follow;
use crate::follow::Submission;
use crate::follow::Told;
use crate::follow::Until;
use crate::output::Output;
use crate::pack;
use crate::patience;
use crate::patience::Patience;
use crate::progress::Progress;
use crate::render;
use crate::saved;
use crate::wire::Agent;
use crate::wire::Call;

/// The longest that commands other than those that wait may take.
const SHORT: Duration = Duration::from_secs(90);

/// What commands work with.
pub(crate) struct Session<'a> {
    /// The agent.
    pub(crate) agent: &'a Agent,
    /// The job's environment.
    pub(crate) environment: &'a Environment,
    /// Where to tell.
    pub(crate) output: &'a mut Output,
}

/// What a request for a run is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// A deploy or rollback whose verdict is waited for.
    Deploy,
    /// A deploy or rollback that goes on alone.
    Detached,
    /// A dry run.
    Plan,
}

/// Runs a command, tells its answer and returns the exit code.
pub(crate) async fn run(session: &mut Session<'_>, command: Command) -> Exit {
    let done = match command {
        Command::Deploy(arguments) => deploy(session, &arguments).await,
        Command::Plan(arguments) => plan(session, &arguments).await,
        Command::Status(Run { run }) => status(session, &run).await,
        Command::List(list) => list_runs(session, &list).await,
        Command::Log(log) => {
            let until = if log.follow { Until::End } else { Until::Now };
            log_of(session, &log.run, until, log.waiting.timeout).await
        }
        Command::Result(result) if result.wait => {
            verdict(session, &result.run, result.waiting.timeout).await
        }
        Command::Result(result) => {
            let report = follow::result(session.agent, &result.run, Duration::ZERO).await;
            report.map(|report| tell_result(session.output, &report))
        }
        Command::Cancel(Run { run }) => cancel(session, &run).await,
        Command::Rollback(rollback) => roll_back(session, rollback).await,
        Command::History(app) => history(session, &app).await,
        Command::Whoami => whoami(session).await,
        Command::Version => version(session).await,
    };
    done.unwrap_or_else(|problem| {
        session.output.problem(&problem);
        Exit::of_code(problem.code)
    })
}

async fn deploy(session: &mut Session<'_>, arguments: &Deploy) -> Result<Exit, Problem> {
    let order = match (arguments.dry_run, arguments.detach) {
        (true, _) => Order::Plan,
        (false, true) => Order::Detached,
        (false, false) => Order::Deploy,
    };
    let mut bundle = packed(session, &arguments.dir)?;
    let bound = match &arguments.plan {
        Some(file) => {
            let plan = saved::read(file)?;
            let bound = bundle.bind(saved::NAME, &plan);
            bound.map_err(pack::PackError::problem)?;
            Bound::ToPlan
        }
        None => Bound::ToNothing,
    };
    let submission = Submission {
        path: path(order, bound),
        media: "application/x-tar",
        body: Bytes::from(bundle.archive),
        key: idempotency_key(&arguments.key)?,
    };
    let ended = submit(session, order, submission, arguments.waiting.timeout).await?;
    Ok(tell_end(session.output, &ended))
}

/// Tells a verdict, or the id of a run that goes on alone.
fn tell_end(output: &mut Output, ended: &Ended) -> Exit {
    match ended {
        Ended::Over(report) => tell_result(output, report),
        Ended::Detached(accepted) => {
            output.answer(&accepted.json, &format!("{}\n", accepted.value.id));
            Exit::Done
        }
    }
}

async fn plan(session: &mut Session<'_>, arguments: &Plan) -> Result<Exit, Problem> {
    let bundle = packed(session, &arguments.dir)?;
    let submission = Submission {
        path: path(Order::Plan, Bound::ToNothing),
        media: "application/x-tar",
        body: Bytes::from(bundle.archive),
        key: idempotency_key(&arguments.key)?,
    };
    let limit = arguments.waiting.timeout;
    let Ended::Over(report) = submit(session, Order::Plan, submission, limit).await? else {
        return Ok(Exit::Done);
    };
    let done = report.value.status == Status::Succeeded;
    if let Some(file) = arguments.save.as_deref().filter(|_| done) {
        saved::write(file, &report.json).map_err(|error| error.problem(file))?;
        let text = format!("the plan is saved in {}", file.display());
        session.output.notice(&text);
    }
    let exit = tell_result(session.output, &report);
    let mut steps = report.value.steps.iter();
    let changes = done && steps.any(|step| step.action != Action::Same);
    Ok(if changes && arguments.detailed_exitcode {
        Exit::Changes
    } else {
        exit
    })
}

/// Packs a folder and tells what was packed.
fn packed(session: &mut Session<'_>, dir: &Path) -> Result<pack::Bundle, Problem> {
    let bundle = pack::pack(dir, session.environment).map_err(pack::PackError::problem)?;
    for (name, size) in &bundle.files {
        let text = format!("packed {name} ({size} bytes)");
        session.output.progress(Progress::Detail(text));
    }
    Ok(bundle)
}

/// Whether a bundle has the saved plan that the run has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// It has none.
    ToNothing,
    /// It has one, under [`saved::NAME`].
    ToPlan,
}

const fn path(order: Order, bound: Bound) -> &'static str {
    match (order, bound) {
        (Order::Deploy | Order::Detached, Bound::ToNothing) => "/v1/deploys",
        (Order::Deploy | Order::Detached, Bound::ToPlan) => {
            "/v1/deploys?plan=.quaymaster-plan.json"
        }
        (Order::Plan, Bound::ToNothing) => "/v1/deploys?dry_run=true",
        (Order::Plan, Bound::ToPlan) => "/v1/deploys?dry_run=true&plan=.quaymaster-plan.json",
    }
}

/// Submits, and unless detached follows to the verdict.
async fn submit(
    session: &mut Session<'_>,
    order: Order,
    submission: Submission,
    limit: Duration,
) -> Result<Ended, Problem> {
    let started = OnceCell::new();
    let agent = session.agent;
    let output = &mut *session.output;
    output.leave_verdict();
    let work = async {
        let patience = &mut Patience::new(limit);
        let mut tell = |progress: Progress<'_>| output.progress(progress);
        let accepted = follow::submit(agent, submission, patience, &started, &mut tell).await?;
        let run = accepted.value.id.clone();
        if order == Order::Detached {
            return Ok(Ended::Detached(accepted));
        }
        tell(Progress::Notice(format!("run {run}")));
        follow::follow(agent, &run, Until::End, patience, &mut tell).await?;
        let report = follow::verdict(agent, &run, patience, &mut tell).await?;
        Ok(Ended::Over(Box::new(report)))
    };
    let ended = tokio::select! {
        ended = work => ended,
        // Nothing is lost: the run belongs to the agent, and its id is told.
        () = interrupted() => Err(stopped(started.get())),
    };
    ended.map_err(|problem| with_run(problem, started.get()))
}

/// How a submission ended.
enum Ended {
    /// With a verdict.
    Over(Box<Told<Report>>),
    /// With an id.
    Detached(Told<proto::report::Accepted>),
}

/// Follows or prints the log of a run.
async fn log_of(
    session: &mut Session<'_>,
    run: &RunId,
    until: Until,
    limit: Duration,
) -> Result<Exit, Problem> {
    let mut events = Vec::new();
    let output = &mut *session.output;
    let patience = &mut Patience::new(limit);
    let mut tell = |progress: Progress<'_>| {
        if let Progress::Event(event) = &progress {
            events.push((*event).clone());
        }
        output.progress(progress);
    };
    tokio::select! {
        done = follow::follow(session.agent, run, until, patience, &mut tell) => drop(done?),
        // Reading a log has no effect that could be lost.
        () = interrupted() => return Err(stopped(Some(run))),
    }
    session.output.document(&events, "");
    Ok(Exit::Done)
}

/// Waits for the verdict of a run.
async fn verdict(session: &mut Session<'_>, run: &RunId, limit: Duration) -> Result<Exit, Problem> {
    let output = &mut *session.output;
    let patience = &mut Patience::new(limit);
    let mut tell = |progress: Progress<'_>| output.progress(progress);
    let report = tokio::select! {
        report = follow::verdict(session.agent, run, patience, &mut tell) => report?,
        // Waiting has no effect that could be lost.
        () = interrupted() => return Err(stopped(Some(run))),
    };
    Ok(tell_result(session.output, &report))
}

async fn status(session: &mut Session<'_>, run: &RunId) -> Result<Exit, Problem> {
    let report = follow::status(session.agent, run).await?;
    session
        .output
        .answer(&report.json, &render::status(&report.value));
    Ok(Exit::Done)
}

async fn list_runs(session: &mut Session<'_>, list: &List) -> Result<Exit, Problem> {
    let mut path = format!("/v1/deploys?limit={}", list.limit);
    if let Some(after) = &list.after {
        path.push_str(&format!("&after={after}"));
    }
    let runs: Told<RunList> = ask(session.agent, &Call::get(path)).await?;
    session
        .output
        .answer(&runs.json, &render::list(&runs.value));
    Ok(Exit::Done)
}

async fn cancel(session: &mut Session<'_>, run: &RunId) -> Result<Exit, Problem> {
    let call = Call::post(format!("/v1/deploys/{run}/cancel"));
    let answer = session
        .agent
        .call(&call)
        .await
        .map_err(|error| error.problem())?;
    let json = answer.success()?;
    let text = match serde_json::from_slice::<Report>(&json) {
        Ok(report) if report.status.is_final() => {
            format!(
                "nothing to cancel, the run is over\n{}",
                render::verdict(&report)
            )
        }
        // The verdict is the run's own business; whoever waits for it is told there.
        Ok(_) | Err(_) => {
            format!("cancelling {run}; its verdict: quaymaster result --wait {run}\n")
        }
    };
    let json = if json.trim_ascii().is_empty() {
        Bytes::from_static(b"{}")
    } else {
        json
    };
    session.output.answer(&json, &text);
    Ok(Exit::Done)
}

/// Goes back to a revision.
async fn roll_back(session: &mut Session<'_>, rollback: Rollback) -> Result<Exit, Problem> {
    let place = place(session, &rollback.app).await?;
    let asked = proto::app::Rollback {
        name: place.name,
        cluster: Some(place.cluster),
        namespace: Some(place.namespace),
        revision: rollback.to,
        timeout: None,
    };
    let body = serde_json::to_vec(&asked)
        .map_err(|error| Problem::new(Code::Internal, format!("writing the request: {error}")))?;
    let submission = Submission {
        path: "/v1/rollbacks",
        media: "application/json",
        body: Bytes::from(body),
        key: idempotency_key(&rollback.key)?,
    };
    let order = if rollback.detach {
        Order::Detached
    } else {
        Order::Deploy
    };
    let ended = submit(session, order, submission, rollback.waiting.timeout).await?;
    Ok(tell_end(session.output, &ended))
}

async fn history(session: &mut Session<'_>, app: &AppOf) -> Result<Exit, Problem> {
    let place = place(session, app).await?;
    let told: Told<App> = ask(session.agent, &Call::get(place.path())).await?;
    session.output.answer(&told.json, &apps::table(&told.value));
    Ok(Exit::Done)
}

/// Finds out which app is meant; asks for the project's runs only where it was not said.
async fn place(session: &Session<'_>, app: &AppOf) -> Result<Place, Problem> {
    if let Some(place) = apps::named(app) {
        return Ok(place);
    }
    let runs: Told<RunList> = ask(session.agent, &Call::get("/v1/deploys?limit=100")).await?;
    apps::found(app, &runs.value)
}

async fn whoami(session: &mut Session<'_>) -> Result<Exit, Problem> {
    let who: Told<WhoAmI> = ask(session.agent, &Call::get("/v1/whoami")).await?;
    session
        .output
        .answer(&who.json, &render::whoami(&who.value));
    Ok(Exit::Done)
}

/// Tells our version even when there is no agent.
async fn version(session: &mut Session<'_>) -> Result<Exit, Problem> {
    let ours = env!("CARGO_PKG_VERSION");
    let asked: Result<Told<Version>, Problem> = ask(session.agent, &Call::get("/version")).await;
    let (agent, text) = match &asked {
        Ok(told) => (
            serde_json::from_slice(&told.json).unwrap_or_default(),
            format!(
                "{} (interface {})",
                told.value.version,
                told.value.api.join(", ")
            ),
        ),
        Err(problem) => (Value::Null, format!("not known: {}", problem.detail)),
    };
    let document = serde_json::json!({ "client": ours, "agent": agent });
    let text = format!("client {ours}\nagent  {text}\n");
    session.output.document(&document, &text);
    Ok(Exit::Done)
}

/// Makes one bounded call.
async fn ask<T: serde::de::DeserializeOwned>(
    agent: &Agent,
    call: &Call,
) -> Result<Told<T>, Problem> {
    let late = |_| Problem::new(Code::Unavailable, "the agent did not answer in time");
    let answer = tokio::time::timeout(SHORT, agent.call(call)).await;
    follow::told(answer.map_err(late)?.map_err(|error| error.problem())?)
}

fn tell_result(output: &mut Output, report: &Told<Report>) -> Exit {
    output.answer(&report.json, &render::result(&report.value));
    Exit::of_status(report.value.status)
}

/// Returns the given key, or a fresh one.
fn idempotency_key(key: &Key) -> Result<HeaderValue, Problem> {
    let text = key
        .idempotency_key
        .clone()
        .unwrap_or_else(|| format!("{:016x}{:016x}", patience::random(0), patience::random(1)));
    let is_key =
        (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let wrong = || {
        let text = "--idempotency-key takes 1 to 255 visible ASCII characters without blanks";
        Problem::new(Code::BadRequest, text)
    };
    HeaderValue::from_str(&text)
        .ok()
        .filter(|_| is_key)
        .ok_or_else(wrong)
}

/// Adds to a problem that a run is on whose end is not known here.
fn with_run(mut problem: Problem, run: Option<&RunId>) -> Problem {
    let Some(run) = run else { return problem };
    problem
        .instance
        .get_or_insert_with(|| format!("/v1/deploys/{run}"));
    if !matches!(problem.code, Code::StillRunning) && problem.hint.is_none() {
        problem.hint = Some(patience::go_on(run));
    }
    problem
}

/// Returns the problem that a signal ended the waiting.
fn stopped(run: Option<&RunId>) -> Problem {
    match run {
        Some(run) => {
            let text = format!("a signal ended the client; run {run} goes on");
            Problem::new(Code::StillRunning, text).hint(patience::go_on(run))
        }
        None => Problem::new(
            Code::Unavailable,
            "a signal ended the client before the agent accepted the run",
        )
        .hint("quaymaster list shows whether it was accepted"),
    }
}

/// Returns at SIGINT or SIGTERM.
async fn interrupted() {
    let (Ok(mut int), Ok(mut term)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        // Without handlers the default applies: the signal ends the process.
        return std::future::pending().await;
    };
    tokio::select! {
        // Either signal means the same; losing the other is safe.
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}
