//! What each command does, from arguments to the exit code.
//!
//! Called by `main`. A command asks the agent through `follow` and tells the answer through
//! `output`, mostly by way of `session`; it decides nothing about the run itself.

use std::time::Duration;

use bytes::Bytes;
use proto::app::App;
use proto::error::Code;
use proto::error::Problem;
use proto::ids::RunId;
use proto::report::Action;
use proto::report::RunList;
use proto::report::Status;
use proto::report::Version;
use proto::report::WhoAmI;
use serde_json::Value;

use crate::apps;
use crate::apps::Place;
use crate::args::AppOf;
use crate::args::Command;
use crate::args::Deploy;
use crate::args::Files;
use crate::args::List;
use crate::args::Plan;
use crate::args::Promote;
use crate::args::Rollback;
use crate::args::Run;
use crate::cancel;
use crate::exec;
use crate::exit::Exit;
use crate::follow;
use crate::follow::Submission;
use crate::follow::Told;
use crate::follow::Until;
use crate::pack;
use crate::patience::Patience;
use crate::print;
use crate::progress::Progress;
use crate::render;
use crate::saved;
use crate::secrets;
use crate::session::Ended;
use crate::session::Order;
use crate::session::Session;
use crate::session::ask;
use crate::session::bundled;
use crate::session::close;
use crate::session::interrupted;
use crate::session::key_of;
use crate::session::packed;
use crate::session::stopped;
use crate::session::submit;
use crate::session::tell_result;
use crate::wire::Call;

/// Where a promotion is sent; the file is [`pack::FROM`].
const PROMOTE: &str = "/v1/deploys?promote=.quaymaster-from.yaml";

/// Runs a command, tells its answer and returns the exit code.
pub(crate) async fn run(session: &mut Session<'_>, command: Command) -> Exit {
    let done = match command {
        Command::Deploy(arguments) => deploy(session, &arguments).await,
        Command::Plan(arguments) => plan(session, &arguments).await,
        Command::Promote(arguments) => promote(session, &arguments).await,
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
        Command::Cancel(which) => cancel::cancel(session, &which).await,
        Command::Rollback(rollback) => roll_back(session, rollback).await,
        Command::History(app) => history(session, &app).await,
        Command::Secrets(command) => secrets::secrets(session, command).await,
        Command::Managed(managed) => secrets::managed(session, managed).await,
        Command::Exec(arguments) => exec::exec(session, &arguments).await,
        Command::Env(arguments) => print::env(session, &arguments).await,
        Command::Whoami => whoami(session).await,
        Command::Version => version(session).await,
    };
    done.unwrap_or_else(|problem| {
        session.output.problem(&problem);
        Exit::of_code(problem.code)
    })
}

async fn deploy(session: &mut Session<'_>, arguments: &Deploy) -> Result<Exit, Problem> {
    let ended = deployed(session, arguments).await;
    close(session, &arguments.files, ended)
}

async fn deployed(session: &mut Session<'_>, arguments: &Deploy) -> Result<Ended, Problem> {
    let order = match (arguments.dry_run, arguments.detach) {
        (true, _) => Order::Plan,
        (false, true) => Order::Detached,
        (false, false) => Order::Deploy,
    };
    let mut bundle = packed(session, &arguments.dir, &arguments.image)?;
    let bound = match &arguments.plan {
        Some(file) => {
            let plan = saved::read(file)?;
            let bound = bundle.bind(saved::NAME, &plan);
            bound.map_err(pack::PackError::problem)?;
            Bound::ToPlan
        }
        None => Bound::ToNothing,
    };
    let submission = bundled(path(order, bound), bundle, &arguments.key)?;
    let limit = arguments.waiting.timeout;
    submit(session, order, submission, limit, &arguments.files).await
}

async fn plan(session: &mut Session<'_>, arguments: &Plan) -> Result<Exit, Problem> {
    let bundle = packed(session, &arguments.dir, &arguments.image)?;
    let submission = bundled(path(Order::Plan, Bound::ToNothing), bundle, &arguments.key)?;
    let limit = arguments.waiting.timeout;
    let files = Files::default();
    let ended = submit(session, Order::Plan, submission, limit, &files).await?;
    let Ended::Over(report) = ended else {
        return Ok(Exit::Done);
    };
    let done = report.value.status == Status::Succeeded;
    if let Some(file) = arguments.save.as_deref().filter(|_| done) {
        saved::write(file, &report.json).map_err(saved::SaveError::problem)?;
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

/// Deploys the images of another environment.
async fn promote(session: &mut Session<'_>, arguments: &Promote) -> Result<Exit, Problem> {
    let ended = promoted(session, arguments).await;
    close(session, &arguments.files, ended)
}

async fn promoted(session: &mut Session<'_>, arguments: &Promote) -> Result<Ended, Problem> {
    let (order, path) = match (arguments.dry_run, arguments.detach) {
        (true, _) => (
            Order::Plan,
            "/v1/deploys?dry_run=true&promote=.quaymaster-from.yaml",
        ),
        (false, true) => (Order::Detached, PROMOTE),
        (false, false) => (Order::Deploy, PROMOTE),
    };
    let bundle = pack::promotion(&arguments.from, &arguments.to, session.environment)
        .map_err(pack::PackError::problem)?;
    let submission = bundled(path, bundle, &arguments.key)?;
    let limit = arguments.waiting.timeout;
    submit(session, order, submission, limit, &arguments.files).await
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

/// Goes back to a revision.
async fn roll_back(session: &mut Session<'_>, rollback: Rollback) -> Result<Exit, Problem> {
    let ended = rolled_back(session, &rollback).await;
    close(session, &rollback.files, ended)
}

async fn rolled_back(session: &mut Session<'_>, rollback: &Rollback) -> Result<Ended, Problem> {
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
    let (key, joins) = key_of(&rollback.key)?;
    let submission = Submission {
        path: "/v1/rollbacks",
        media: "application/json",
        body: Bytes::from(body),
        key,
        joins,
    };
    let order = if rollback.detach {
        Order::Detached
    } else {
        Order::Deploy
    };
    let limit = rollback.waiting.timeout;
    submit(session, order, submission, limit, &rollback.files).await
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
