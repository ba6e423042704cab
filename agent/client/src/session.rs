//! What all commands share: one bounded call, one submission to its verdict, and how they are told.
//!
//! Called by `commands` and `secrets`. A command asks the agent through `follow` and tells the answer
//! through `output`; nothing here decides anything about the run itself.

use std::cell::OnceCell;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use proto::error::Code;
use proto::error::Problem;
use proto::ids::RunId;
use proto::report::Accepted;
use proto::report::Report;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::args::Files;
use crate::args::Key;
use crate::exit::Exit;
use crate::expand::Environment;
use crate::feedback;
use crate::feedback::End;
use crate::follow;
use crate::follow::Joins;
use crate::follow::Submission;
use crate::follow::Told;
use crate::follow::Until;
use crate::images::Image;
use crate::output::Output;
use crate::pack;
use crate::patience;
use crate::patience::Patience;
use crate::progress::Progress;
use crate::progress::Tell;
use crate::render;
use crate::wire::Agent;
use crate::wire::Call;

/// Stands in a key between what the caller chose and the run that came before.
const AFTER: &str = "..";
/// So much of a key is the caller's; the rest is room for a run's id.
const LONGEST_BASE: usize = 200;
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
pub(crate) enum Order {
    /// A deploy or rollback whose verdict is waited for.
    Deploy,
    /// A deploy or rollback that goes on alone.
    Detached,
    /// A dry run.
    Plan,
}

/// Tells a verdict, or the id of a run that goes on alone.
pub(crate) fn tell_end(output: &mut Output, ended: &Ended) -> Exit {
    match ended {
        Ended::Over(report) => tell_result(output, report),
        Ended::Detached(accepted) => {
            output.answer(&accepted.json, &format!("{}\n", accepted.value.id));
            Exit::Done
        }
    }
}

/// Tells how a request for a run ended, and writes the files about it. A file that cannot be written
/// is told and changes neither the verdict nor the exit code.
pub(crate) fn close(
    session: &mut Session<'_>,
    files: &Files,
    ended: Result<Ended, Problem>,
) -> Result<Exit, Problem> {
    let end = match &ended {
        Ok(Ended::Over(report)) => Some(End::Report(&report.value, &report.json)),
        Ok(Ended::Detached(_)) => None,
        Err(problem) => Some(End::Problem(problem)),
    };
    let written = end.map_or(Ok(()), |end| {
        feedback::write(files, end, session.environment)
    });
    written.unwrap_or_else(|problem| session.output.notice(&problem.detail));
    let ended = ended?;
    if let Ended::Over(report) = &ended {
        tell_address(session, &report.value);
    }
    Ok(tell_end(session.output, &ended))
}

/// Tells where the environment of the job can be seen.
fn tell_address(session: &mut Session<'_>, report: &Report) {
    let Some(name) = session.environment.get("CI_ENVIRONMENT_NAME") else {
        // Outside of an environment the agent's own line says what is known.
        return;
    };
    if let Some(url) = feedback::address(Some(report), session.environment) {
        let text = format!("environment {name}: {url}");
        session.output.notice(&text);
    }
}

/// Submits, and unless detached follows to the verdict. Files that were asked for name the run at once.
pub(crate) async fn submit(
    session: &mut Session<'_>,
    order: Order,
    submission: Submission,
    limit: Duration,
    files: &Files,
) -> Result<Ended, Problem> {
    let started = OnceCell::new();
    let agent = session.agent;
    let output = &mut *session.output;
    let environment = session.environment;
    output.leave_verdict();
    let work = async {
        let patience = &mut Patience::new(limit);
        let mut tell = |progress: Progress<'_>| output.progress(progress);
        let accepted = joined(agent, submission, patience, &started, &mut tell).await?;
        let run = accepted.value.id.clone();
        feedback::write(files, End::Begun(&accepted.value), environment)
            .unwrap_or_else(|problem| tell(Progress::Notice(problem.detail)));
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

/// Submits under the key, or under one that is made of it where its run is over and does not count any more.
async fn joined(
    agent: &Agent,
    mut submission: Submission,
    patience: &mut Patience,
    started: &OnceCell<RunId>,
    tell: &mut Tell<'_>,
) -> Result<Told<Accepted>, Problem> {
    loop {
        let found = OnceCell::new();
        let accepted = follow::submit(agent, submission.clone(), patience, &found, tell).await?;
        let Accepted { id, status, .. } = &accepted.value;
        if submission.joins == Joins::Any || !status.is_final() {
            // A second setting would be of the same run.
            drop(started.set(id.clone()));
            return Ok(accepted);
        }
        tell(Progress::Detail(format!(
            "run {id} of this key is over ({})",
            status.word()
        )));
        submission.key = after(&submission.key, id)?;
    }
}

/// Makes the key of the run after an earlier one. Every job makes the same, so that they meet again.
fn after(key: &HeaderValue, run: &RunId) -> Result<HeaderValue, Problem> {
    let text = key.to_str().unwrap_or_default();
    let base = text.split_once(AFTER).map_or(text, |(base, _)| base);
    key_from(&format!("{base}{AFTER}{run}"))
}

/// Packs a folder and tells what was packed.
pub(crate) fn packed(
    session: &mut Session<'_>,
    dir: &Path,
    images: &[Image],
) -> Result<pack::Bundle, Problem> {
    let bundle = pack::pack(dir, images, session.environment).map_err(pack::PackError::problem)?;
    for (name, size) in &bundle.files {
        let text = format!("packed {name} ({size} bytes)");
        session.output.progress(Progress::Detail(text));
    }
    Ok(bundle)
}

/// Makes a request of a packed bundle.
pub(crate) fn bundled(
    path: &'static str,
    bundle: pack::Bundle,
    key: &Key,
) -> Result<Submission, Problem> {
    let (key, joins) = key_of(key)?;
    Ok(Submission {
        path,
        media: "application/x-tar",
        body: Bytes::from(bundle.archive),
        key,
        joins,
    })
}

/// How a submission ended.
pub(crate) enum Ended {
    /// With a verdict.
    Over(Box<Told<Report>>),
    /// With an id.
    Detached(Told<Accepted>),
}

/// Makes one bounded call.
pub(crate) async fn ask<T: serde::de::DeserializeOwned>(
    agent: &Agent,
    call: &Call,
) -> Result<Told<T>, Problem> {
    let late = |_| Problem::new(Code::Unavailable, "the agent did not answer in time");
    let answer = tokio::time::timeout(SHORT, agent.call(call)).await;
    follow::told(answer.map_err(late)?.map_err(|error| error.problem())?)
}

/// Tells a verdict.
pub(crate) fn tell_result(output: &mut Output, report: &Told<Report>) -> Exit {
    output.answer(&report.json, &render::result(&report.value));
    Exit::of_status(report.value.status)
}

/// Returns the given key, or a fresh one, and which runs are found by it.
pub(crate) fn key_of(key: &Key) -> Result<(HeaderValue, Joins), Problem> {
    let (text, joins) = match (&key.idempotency_key, &key.key) {
        (Some(text), _) => (text.clone(), Joins::Any),
        (None, Some(text)) if text.len() > LONGEST_BASE || text.contains(AFTER) => {
            let detail = format!("--key takes at most {LONGEST_BASE} characters, and no '{AFTER}'");
            return Err(Problem::new(Code::BadRequest, detail));
        }
        (None, Some(text)) => (text.clone(), Joins::Running),
        (None, None) => {
            let text = format!("{:016x}{:016x}", patience::random(0), patience::random(1));
            (text, Joins::Any)
        }
    };
    Ok((key_from(&text)?, joins))
}

fn key_from(text: &str) -> Result<HeaderValue, Problem> {
    let is_key =
        (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let wrong = || {
        let text = "a key has 1 to 255 visible ASCII characters without blanks";
        Problem::new(Code::BadRequest, text)
            .hint("look at what --key or --idempotency-key was given")
    };
    HeaderValue::from_str(text)
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
pub(crate) fn stopped(run: Option<&RunId>) -> Problem {
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
pub(crate) async fn interrupted() {
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
