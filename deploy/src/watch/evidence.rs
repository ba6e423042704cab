//! Turns blames into causes, with the last lines of the containers that stopped.
//!
//! Used by [`super::watch`] once, when the verdict stands. Logs can hold secrets, so every line goes
//! through the run's redactor. A log that cannot be read is said, never a reason to wait.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::report::Cause;
use tokio_util::sync::CancellationToken;

use super::verdict::Blame;
use crate::log::RunLog;
use crate::ports::LogRequest;
use crate::ports::Ports;
use crate::principal::Actor;

/// More causes than these do not help a reader.
const MAX_CAUSES: usize = 20;

/// Logs are read for the first causes only.
const MAX_LOGS: usize = 5;

/// How long all logs together may take: the verdict is more important.
const PATIENCE: Duration = Duration::from_secs(3);

/// Longer lines are cut.
const MAX_LINE: usize = 400;

/// Makes the causes of a verdict.
pub(super) async fn causes(
    blames: Vec<Blame>,
    actor: &Actor,
    ports: &Ports,
    log: &RunLog,
    stop: &CancellationToken,
) -> Vec<Cause> {
    let end = tokio::time::Instant::now() + PATIENCE;
    let left = blames.len().saturating_sub(MAX_CAUSES);
    let mut read = BTreeSet::new();
    let mut causes = Vec::new();
    for blame in blames.into_iter().take(MAX_CAUSES) {
        let mut cause = blame.finding.cause(&blame.object);
        if let Some(request) = &blame.finding.log
            && read.len() < MAX_LOGS
            && read.insert((request.pod.clone(), request.container.clone()))
        {
            // Losing a read loses nothing but evidence.
            let lines = tokio::select! {
                () = stop.cancelled() => Vec::new(),
                () = tokio::time::sleep_until(end) => vec!["its log was not read in time".to_owned()],
                lines = last_lines(request, actor, ports, log) => lines,
            };
            cause.evidence.extend(lines);
        }
        cause.message = log.clean(&cause.message);
        cause.evidence = cause.evidence.iter().map(|line| log.clean(line)).collect();
        causes.push(cause);
    }
    if left > 0
        && let Some(last) = causes.last_mut()
    {
        last.evidence
            .push(format!("{left} more causes are left out"));
    }
    causes
}

/// Reads the log that was asked for, or that of the container's other instance.
async fn last_lines(
    request: &LogRequest,
    actor: &Actor,
    ports: &Ports,
    log: &RunLog,
) -> Vec<String> {
    let other = LogRequest {
        previous: !request.previous,
        ..request.clone()
    };
    let mut refusal = None;
    for request in [request, &other] {
        match ports.cluster.log(actor, request).await {
            Ok(text) if !text.trim().is_empty() => return shown(&log.clean(&text), request),
            Ok(_) => {}
            Err(error) => {
                refusal.get_or_insert(error);
            }
        }
    }
    let why = refusal.map_or_else(
        || "it wrote nothing".to_owned(),
        |error| format!("its log cannot be read: {error}"),
    );
    vec![why]
}

/// Lines are cut after the redactor has seen the whole text: half a secret is not recognized.
fn shown(text: &str, request: &LogRequest) -> Vec<String> {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let limit = usize::try_from(request.lines).unwrap_or(usize::MAX);
    let skipped = lines.len().saturating_sub(limit);
    let head = format!("last lines of container {}:", request.container);
    let tail = lines.iter().skip(skipped).map(|line| {
        let cut: String = line.chars().take(MAX_LINE).collect();
        format!("| {cut}")
    });
    std::iter::once(head).chain(tail).collect()
}
