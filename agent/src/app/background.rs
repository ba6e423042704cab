//! What goes on beside the sockets: probing parts, forgetting old records, ending runs.
//!
//! Started by [`super::Bound::run`]. Everything here ends when the agent stops.

use std::sync::Arc;
use std::time::Duration;

use deploy::ports::Clock;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Ending;
use crate::http::Site;
use crate::http::brain::Brain;
use crate::journal::DiskJournal;
use crate::journal::Fault;
use crate::journal::Phase;
use crate::journal::UnfinishedRun;
use crate::lifecycle::EndSignal;
use crate::readiness::Blocker;
use crate::runs::Runs;
use crate::telemetry::Chain;

/// What cancelled runs have to end before the process does.
const CUT_TIME: Duration = Duration::from_secs(10);
/// How often a part is probed.
const PROBE_PERIOD: Duration = Duration::from_secs(15);
/// How often a part that does not work is probed.
const PROBE_AGAIN: Duration = Duration::from_secs(2);
/// How often old records are forgotten.
const PURGE_PERIOD: Duration = Duration::from_secs(3_600);

/// A part whose standing `/readyz` shows; asked in the background.
pub struct Probe {
    /// The name of its blocker, such as `vault` or `cluster:demo`.
    pub name: String,
    /// Asks it; in words what is wrong. Bounded by the adapter's own timeout.
    pub ask: Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

/// Something that a part has to do as long as the agent lives.
pub struct Chore {
    /// The name of its task.
    pub name: &'static str,
    /// Does it until the token is cancelled.
    pub run: Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, ()> + Send>,
}

/// Lets runs end: by themselves, then by cancelling; a second signal ends the waiting.
pub(super) async fn end_runs(
    site: &Site,
    drain_timeout: Duration,
    signals: &mut mpsc::Receiver<EndSignal>,
) -> Ending {
    site.lifecycle.drain();
    let orderly = async {
        // Waiting for runs changes nothing, so giving it up is safe.
        if tokio::time::timeout(drain_timeout, site.runs.idle())
            .await
            .is_err()
        {
            tracing::warn!(runs = ?site.runs.active(), "the drain time is over, cancelling");
            site.runs.cut_all();
            let cut = tokio::time::timeout(CUT_TIME, site.runs.idle()).await;
            if cut.is_err() {
                tracing::error!("runs did not end after they were cancelled");
            }
        }
    };
    // Either way the waiting ends and nothing of a run is dropped here.
    tokio::select! {
        () = orderly => {}
        Some(EndSignal(name)) = signals.recv() => {
            tracing::warn!(signal = name, "second signal, ending now");
        }
    }
    match site.runs.active().len() {
        0 => Ending::Clean,
        runs => Ending::Cut { runs },
    }
}

/// Tells the log how the runs of the last process stood, and goes on with those that can be; returns all
/// of them.
pub(super) async fn recover(
    journal: &DiskJournal,
    runs: &Runs,
    brain: &Brain,
    clock: &dyn Clock,
) -> Result<Vec<UnfinishedRun>, Fault> {
    let mut cut = Vec::new();
    for run in journal.recover(clock.now()).await? {
        tracing::warn!(
            run = %run.id,
            phase = ?run.phase,
            leases = run.leases.len(),
            "a run was cut off by the end of the last process"
        );
        journal.owe_leases(&run, clock.now()).await?;
        let Some(record) = journal.load(&run.id).await? else {
            continue;
        };
        let is_settled = run.leases.is_empty() || run.phase == Phase::NothingWritten;
        let work = (brain.resume)(&run, &record.report);
        match work {
            Some(work) if !record.report.status.is_final() => {
                runs.adopt(record, run.restarts, work);
            }
            // It has a brief that this version cannot read.
            None if !record.report.status.is_final() => {
                journal.interrupt(&run, clock.now()).await?;
            }
            // Nothing is left to do, unless a credential is.
            Some(_) | None if is_settled => journal.settle(&run.id).await?,
            Some(_) | None => {}
        }
        cut.push(run);
    }
    Ok(cut)
}

/// Forgets old records, now and hourly.
pub(super) async fn purge(journal: DiskJournal, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let mut period = tokio::time::interval(PURGE_PERIOD);
    loop {
        // A lost tick comes again in an hour; the token stays cancelled.
        tokio::select! {
            _ = period.tick() => {}
            () = stop.cancelled() => return,
        }
        if let Err(fault) = journal.purge(clock.now()).await {
            tracing::error!(error = %Chain(&fault), "old records stay");
        }
    }
}

/// Asks a part again and again and keeps its blocker true.
pub(super) async fn watch_part(probe: Probe, blocker: Blocker, stop: CancellationToken) {
    loop {
        let rest = match (probe.ask)().await {
            Ok(()) => {
                blocker.clear();
                PROBE_PERIOD
            }
            Err(reason) => {
                tracing::warn!(part = probe.name, reason, "not ready");
                blocker.set(reason);
                PROBE_AGAIN
            }
        };
        // A lost wait asks a little earlier at worst; the token stays cancelled.
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = stop.cancelled() => return,
        }
    }
}
