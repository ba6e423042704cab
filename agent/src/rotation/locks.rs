//! Locks of rotations that the end of the last process cut off: given back at the start, so that the app
//! is not locked until they run out.
//!
//! One future inside the daemon's task. Invariant: a lock is given back only where its holder is this agent
//! and a run of its own journal that is not on any more; a run that goes on takes its own lock over itself.

use std::time::Duration;

use deploy::lock;
use deploy::lock::Found;
use deploy::principal::Actor;
use proto::ids::RunId;
use proto::report::Mode;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Tools;
use super::table::Place;
use super::table::Table;

/// How often it is tried.
const AGAIN: Duration = Duration::from_millis(500);
/// After this time the lock has run out by itself.
const OVER: Duration = Duration::from_secs(40);

/// Whether something is left to do for a run.
enum Left {
    Nothing,
    Open,
}

/// Gives the locks back, then ends.
pub(super) async fn run(table: &Table, tools: &Tools, stop: &CancellationToken) {
    let mut runs = tools.cut.clone();
    let over = Instant::now() + OVER;
    while !runs.is_empty() && Instant::now() < over {
        let mut open = Vec::new();
        for run in runs {
            match settle(&run, table, tools).await {
                Left::Nothing => {}
                Left::Open => open.push(run),
            }
        }
        runs = open;
        tokio::select! {
            // Nothing is under way while the timer runs.
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN), if !runs.is_empty() => {}
        }
    }
}

async fn settle(run: &RunId, table: &Table, tools: &Tools) -> Left {
    if tools.runs.active().contains(run) {
        return Left::Nothing;
    }
    let report = match tools.journal.load(run).await {
        Ok(Some(record)) if record.report.mode == Mode::Rotation => record.report,
        Ok(_) => return Left::Nothing,
        Err(_) => return Left::Open,
    };
    let place = Place {
        cluster: report.cluster,
        namespace: report.namespace,
        app: report.name,
    };
    // Locks are written as the project that answers for the app, which stands in the register.
    let found = table.with(|rows| {
        let synced = rows.synced.contains(&place.cluster);
        let app = rows.apps.get(&place);
        (synced, app.map(|app| app.entry.owner.principal()))
    });
    let actor = match found {
        (false, None) => return Left::Open,
        (true, None) => return Left::Nothing,
        (_, Some(principal)) => Actor::of_project(&principal),
    };
    let (Some(actor), Some(cluster)) = (actor, tools.clusters.get(&place.cluster)) else {
        return Left::Nothing;
    };
    let app = (place.namespace.as_str(), place.app.as_str());
    let holder = (run.as_str(), tools.agent.as_str());
    match lock::give_back(app, holder, &actor, &**cluster).await {
        Ok(Found::NothingLeft) => Left::Nothing,
        Ok(Found::GivenBack) => {
            tracing::info!(%run, app = %place.app, namespace = %place.namespace,
                "gave back the lock of a rotation that the end of the last process cut off");
            table.wake();
            Left::Nothing
        }
        Err(error) => {
            tracing::warn!(%run, %error, "the lock of a dead rotation could not be given back yet");
            Left::Open
        }
    }
}
