//! One run from the request to the verdict, through cuts and restarts of the agent.
//!
//! Called by `commands`. Invariants: a request is repeated only with the same idempotency key, so
//! nothing runs twice; the log goes on after the last event that was seen; a log without its `end`
//! is incomplete and is asked for again; nothing is waited for beyond the deadline. Every failure
//! is a [`Problem`], whose code decides the exit code.

use std::cell::OnceCell;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use proto::error::Code;
use proto::error::Problem;
use proto::event::Body;
use proto::event::Event;
use proto::ids::RunId;
use proto::report::Accepted;
use proto::report::Report;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::lines::Lines;
use crate::patience::Patience;
use crate::progress::Progress;
use crate::progress::Tell;
use crate::wire::Agent;
use crate::wire::Answer;
use crate::wire::Call;

/// The longest that one call asks the agent to wait for a result.
const LONG_POLL: Duration = Duration::from_secs(30);

/// A value and the exact JSON that it came in.
#[derive(Debug)]
pub(crate) struct Told<T> {
    /// The value.
    pub(crate) value: T,
    /// The JSON, with members that this version does not know.
    pub(crate) json: Bytes,
}

/// A request for a run.
#[derive(Debug, Clone)]
pub(crate) struct Submission {
    /// The path with its query.
    pub(crate) path: &'static str,
    /// The media type of the body.
    pub(crate) media: &'static str,
    /// The archive, or the JSON.
    pub(crate) body: Bytes,
    /// The same for every repetition.
    pub(crate) key: HeaderValue,
    /// Which runs of an earlier request with this key are taken for this one.
    pub(crate) joins: Joins,
}

/// Which runs of an earlier request with the same key are taken for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joins {
    /// Any: the same request never has two runs.
    Any,
    /// Those that are on: a request after their end is another one.
    Running,
}

/// How far the log is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// To its last event.
    End,
    /// To what there is now.
    Now,
}

/// Reads a success.
pub(crate) fn told<T: DeserializeOwned>(answer: Answer) -> Result<Told<T>, Problem> {
    let json = answer.success()?;
    match serde_json::from_slice(&json) {
        Ok(value) => Ok(Told { value, json }),
        Err(error) => Err(Problem::new(
            Code::Internal,
            format!("the agent's answer cannot be read: {error}"),
        )
        .hint("the client and the agent may be of different versions; see 'quaymaster version'")),
    }
}

/// Hands a request in. `started` is set as soon as the run is known.
///
/// # Errors
/// What the agent refuses, or why it cannot be reached.
pub(crate) async fn submit(
    agent: &Agent,
    submission: Submission,
    patience: &mut Patience,
    started: &OnceCell<RunId>,
    tell: &mut Tell<'_>,
) -> Result<Told<Accepted>, Problem> {
    let call = Call::post(submission.path).carry(submission.media, submission.body, submission.key);
    loop {
        let failed = match timeout_at(patience.deadline(), agent.call(&call)).await {
            Err(_) => return Err(patience.too_late(None)),
            Ok(Err(error)) => error.problem(),
            Ok(Ok(answer)) => match told::<Accepted>(answer) {
                Ok(accepted) => {
                    patience.progressed();
                    // A second setting would be of the same run.
                    drop(started.set(accepted.value.id.clone()));
                    return Ok(accepted);
                }
                Err(problem) => problem,
            },
        };
        patience.pause(failed, None, tell).await?;
    }
}

/// Follows the log of a run and returns the seq of the last event.
///
/// # Errors
/// What the agent refuses, why it cannot be reached, or that the deadline passed.
pub(crate) async fn follow(
    agent: &Agent,
    run: &RunId,
    until: Until,
    patience: &mut Patience,
    tell: &mut Tell<'_>,
) -> Result<u64, Problem> {
    let mut seen = 0;
    loop {
        let failed = match read(agent, run, until, &mut seen, patience, tell).await {
            Ok(Read::Complete) => return Ok(seen),
            Ok(Read::Cut(why)) => Problem::new(Code::Unavailable, why),
            Err(problem) => problem,
        };
        patience.pause(failed, Some(run), tell).await?;
    }
}

/// How a stream of events ended.
enum Read {
    /// With its last event, or with all there is now.
    Complete,
    /// Before.
    Cut(String),
}

/// Reads one stream of events.
async fn read(
    agent: &Agent,
    run: &RunId,
    until: Until,
    seen: &mut u64,
    patience: &mut Patience,
    tell: &mut Tell<'_>,
) -> Result<Read, Problem> {
    let call = Call::get(format!("/v1/deploys/{run}/events?since={seen}"));
    let opened = timeout_at(patience.deadline(), agent.stream(&call)).await;
    let opened = opened.ok().ok_or_else(|| patience.too_late(Some(run)))?;
    let (response, _connection) = opened.map_err(|error| error.problem())?;
    if !response.status().is_success() {
        let status = response.status();
        let limit = Instant::now() + patience.silence;
        let answer = Lines::new(response.into_body()).rest(status, limit).await;
        return Err(answer.problem());
    }
    let mut lines = Lines::new(response.into_body());
    loop {
        let limit = match until {
            Until::End => patience.silence,
            Until::Now => patience.lull,
        };
        let limit = patience.deadline().min(Instant::now() + limit);
        let line = match timeout_at(limit, lines.next()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Ok(Read::Cut("the log broke off".to_owned())),
            Ok(Err(why)) => return Ok(Read::Cut(why)),
            Err(_) if until == Until::Now => return Ok(Read::Complete),
            Err(_) if Instant::now() >= patience.deadline() => {
                return Err(patience.too_late(Some(run)));
            }
            Err(_) => return Ok(Read::Cut("the log fell silent".to_owned())),
        };
        let Ok(event) = serde_json::from_slice::<Event>(&line) else {
            // A newer agent may tell what this version does not know.
            continue;
        };
        patience.progressed();
        match event.body {
            Body::Heartbeat if until == Until::Now => return Ok(Read::Complete),
            Body::Heartbeat => tell(Progress::Detail("the run is on".to_owned())),
            // A reader that reconnects may be sent what it has.
            _ if event.seq <= *seen => {}
            Body::End { .. } => {
                *seen = event.seq;
                tell(Progress::Event(&event));
                return Ok(Read::Complete);
            }
            Body::StageStarted { .. }
            | Body::StageEnded { .. }
            | Body::Message { .. }
            | Body::Object { .. } => {
                *seen = event.seq;
                tell(Progress::Event(&event));
            }
        }
    }
}

/// Waits for the verdict of a run.
///
/// # Errors
/// As [`follow`].
pub(crate) async fn verdict(
    agent: &Agent,
    run: &RunId,
    patience: &mut Patience,
    tell: &mut Tell<'_>,
) -> Result<Told<Report>, Problem> {
    loop {
        let left = patience
            .deadline()
            .saturating_duration_since(Instant::now());
        let wait = left.min(LONG_POLL);
        match result(agent, run, wait).await {
            Ok(report) if report.value.status.is_final() => return Ok(report),
            Ok(_) if left.is_zero() => return Err(patience.too_late(Some(run))),
            Ok(_) => patience.progressed(),
            Err(problem) if problem.code == Code::StillRunning && !left.is_zero() => {
                patience.progressed();
            }
            Err(problem) => patience.pause(problem, Some(run), tell).await?,
        }
    }
}

/// Asks for the result of a run once.
///
/// # Errors
/// The problem when there is no report, [`Code::StillRunning`] among them.
pub(crate) async fn result(
    agent: &Agent,
    run: &RunId,
    wait: Duration,
) -> Result<Told<Report>, Problem> {
    // Zero is no duration to the agent; "0" means: do not wait.
    let unit = if wait.as_secs() == 0 { "" } else { "s" };
    let path = format!("/v1/deploys/{run}/result?wait={}{unit}", wait.as_secs());
    let answer = agent.call(&Call::get(path).wait(wait)).await;
    let answer = answer.map_err(|error| error.problem())?;
    // A failed run is told with its own status code; the body is the report all the same.
    match serde_json::from_slice(&answer.body) {
        Ok(value) => Ok(Told {
            value,
            json: answer.body,
        }),
        Err(_) => told(answer),
    }
}

/// Asks for the end of a run; asking twice is asking once. Returns the agent's answer.
///
/// # Errors
/// As [`follow`].
pub(crate) async fn cancel(
    agent: &Agent,
    run: &RunId,
    patience: &mut Patience,
    tell: &mut Tell<'_>,
) -> Result<Bytes, Problem> {
    let call = Call::post(format!("/v1/deploys/{run}/cancel"));
    loop {
        let problem = match timeout_at(patience.deadline(), agent.call(&call)).await {
            Err(_) => {
                return Err(Problem::new(
                    Code::Unavailable,
                    "the agent did not answer in time",
                ));
            }
            Ok(Err(error)) => error.problem(),
            Ok(Ok(answer)) => match answer.success() {
                Ok(json) => return Ok(json),
                Err(problem) => problem,
            },
        };
        patience.pause(problem, Some(run), tell).await?;
    }
}

/// Asks how a run stands.
///
/// # Errors
/// The problem.
pub(crate) async fn status(agent: &Agent, run: &RunId) -> Result<Told<Report>, Problem> {
    let answer = agent.call(&Call::get(format!("/v1/deploys/{run}"))).await;
    told(answer.map_err(|error| error.problem())?)
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
