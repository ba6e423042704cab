//! Runs in memory: those that are on, and the newest of those that ended, with their logs.
//!
//! Private to [`super`]. Bounded: older reports come from the journal, older logs are gone. Runs that
//! the agent itself began are many and rarely asked about: few of them are kept, and they take no
//! place from those of jobs. Locks are held for map operations only.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use deploy::audience::Seat;
use deploy::audience::Seats;
use deploy::log::RunLog;
use deploy::ports::Clock;
use proto::event::Body;
use proto::ids::RunId;
use proto::report::Mode;
use proto::report::Report;
use proto::report::Status;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::settled;

/// What is kept of the ended runs of jobs.
const OF_JOBS: Room = Room {
    runs: 1_000,
    log_bytes: 8 << 20,
};
/// What is kept of the ended runs of rotation.
const OF_ROTATION: Room = Room {
    runs: 50,
    log_bytes: 1 << 20,
};
/// How far apart the events of a run are numbered before and after a restart: more than a log holds.
const SEQ_STEP: u64 = 1_000_000;

/// A run as a caller finds it: its report now and later, and its log where it is still there.
#[derive(Clone)]
pub struct Run {
    report: watch::Receiver<Arc<Report>>,
    log: Option<Arc<RunLog>>,
    stop: CancellationToken,
    seats: Seats,
}

impl Run {
    pub(super) fn ended(report: Report) -> Self {
        Self {
            report: settled(report),
            log: None,
            stop: CancellationToken::new(),
            seats: Seats::default(),
        }
    }

    /// Returns the report as it stands.
    #[must_use]
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.report.borrow())
    }

    /// Waits for the final report.
    pub async fn done(&mut self) -> Arc<Report> {
        let done = self.report.wait_for(|report| report.status.is_final());
        if let Ok(report) = done.await {
            return Arc::clone(&report);
        }
        // The sender is gone: what is there is the last word.
        self.report()
    }

    /// Returns the log; unset when it is not in memory any more.
    #[must_use]
    pub fn log(&self) -> Option<Arc<RunLog>> {
        self.log.clone()
    }

    /// Counts the caller as a follower of the run for as long as the seat is kept.
    pub fn take_seat(&self) -> Seat {
        self.seats.take()
    }

    /// Cancels the run, on the caller's wish.
    pub fn cancel(&self) {
        self.stop.cancel();
    }
}

/// The writing side of a run that is on.
#[derive(Clone)]
pub(super) struct Live {
    owner: String,
    report: watch::Sender<Arc<Report>>,
    log: Arc<RunLog>,
    stop: CancellationToken,
    seats: Seats,
    cut: Arc<AtomicBool>,
    planned: Arc<AtomicBool>,
}

impl Live {
    pub(super) fn new(owner: &str, report: Report, clock: Arc<dyn Clock>) -> Self {
        Self::with_log(owner, report, RunLog::new(clock))
    }

    /// A run that goes on after a restart: its events come after all that were told before.
    pub(super) fn again(owner: &str, report: Report, restarts: u64, clock: Arc<dyn Clock>) -> Self {
        let base = (restarts + 1) * SEQ_STEP;
        let run = Self::with_log(owner, report, RunLog::after(base, clock));
        run.planned.store(true, Ordering::Relaxed);
        run
    }

    fn with_log(owner: &str, report: Report, log: RunLog) -> Self {
        Self {
            owner: owner.to_owned(),
            report: watch::Sender::new(Arc::new(report)),
            log: Arc::new(log),
            stop: CancellationToken::new(),
            seats: Seats::default(),
            cut: Arc::default(),
            planned: Arc::default(),
        }
    }

    pub(super) fn id(&self) -> RunId {
        self.report.borrow().id.clone()
    }

    pub(super) fn report(&self) -> Arc<Report> {
        Arc::clone(&self.report.borrow())
    }

    pub(super) fn reports(&self) -> watch::Receiver<Arc<Report>> {
        self.report.subscribe()
    }

    pub(super) fn log(&self) -> Arc<RunLog> {
        Arc::clone(&self.log)
    }

    pub(super) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub(super) fn seats(&self) -> &Seats {
        &self.seats
    }

    /// Says whether the agent, not the caller, cancelled it.
    pub(super) fn was_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Returns the mark of a run that could go on after a restart.
    pub(super) fn planned(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.planned)
    }

    /// Says whether the next process goes on with this run, which this process cut.
    pub(super) fn goes_on(&self, report: &Report) -> bool {
        self.was_cut() && self.planned.load(Ordering::Relaxed) && report.status == Status::Cancelled
    }

    fn cut(&self) {
        if !self.stop.is_cancelled() {
            if self.planned.load(Ordering::Relaxed) {
                // What it says of its end is not the end.
                self.log.hush();
            }
            self.cut.store(true, Ordering::Relaxed);
            self.stop.cancel();
        }
    }

    fn reader(&self) -> Run {
        Run {
            report: self.report.subscribe(),
            log: Some(self.log()),
            stop: self.stop(),
            seats: self.seats.clone(),
        }
    }
}

struct Ended {
    owner: String,
    run: Run,
    log_bytes: usize,
}

#[derive(Default)]
struct Rows {
    live: BTreeMap<RunId, Live>,
    /// Runs that the next process goes on with; kept so that their readers wait instead of ending.
    shelved: BTreeMap<RunId, Live>,
    of_jobs: Shelf,
    of_rotation: Shelf,
}

/// How many ended runs are kept, and about how many bytes of their logs.
struct Room {
    runs: usize,
    log_bytes: usize,
}

/// Ended runs of one kind, oldest first in `order`.
#[derive(Default)]
struct Shelf {
    ended: BTreeMap<RunId, Ended>,
    order: VecDeque<RunId>,
    log_bytes: usize,
}

/// All rows.
#[derive(Default)]
pub(super) struct Table {
    rows: Mutex<Rows>,
    active: watch::Sender<usize>,
}

impl Table {
    fn with<T>(&self, act: impl FnOnce(&mut Rows) -> T) -> T {
        // Rows are changed by whole map operations, so a poisoned table is usable.
        act(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a run unless `limit` runs are on.
    pub(super) fn insert(&self, id: &RunId, live: Live, limit: usize) -> bool {
        let count = self.with(|rows| {
            if rows.live.len() >= limit {
                return None;
            }
            rows.live.insert(id.clone(), live);
            Some(rows.live.len())
        });
        let Some(count) = count else {
            return false;
        };
        self.active.send_replace(count);
        true
    }

    /// Takes out a run that did not begin.
    pub(super) fn remove(&self, id: &RunId) {
        let count = self.with(|rows| {
            rows.live.remove(id);
            rows.live.len()
        });
        self.active.send_replace(count);
    }

    /// Puts the final report in and moves the run to the ended ones.
    pub(super) fn end(&self, live: &Live, report: Report) {
        let id = report.id.clone();
        let log_bytes = log_bytes(&live.log);
        let mode = report.mode;
        live.log.close();
        live.report.send_replace(Arc::new(report));
        let ended = Ended {
            owner: live.owner.clone(),
            run: live.reader(),
            log_bytes,
        };
        let count = self.with(|rows| {
            rows.live.remove(&id);
            match mode {
                Mode::Deploy | Mode::DryRun | Mode::Rollback => {
                    rows.of_jobs.keep(id, ended, &OF_JOBS);
                }
                Mode::Rotation => rows.of_rotation.keep(id, ended, &OF_ROTATION),
            }
            rows.live.len()
        });
        self.active.send_replace(count);
    }

    /// Puts a run aside that the next process goes on with.
    pub(super) fn shelve(&self, live: Live) {
        let id = live.id();
        let count = self.with(|rows| {
            rows.live.remove(&id);
            rows.shelved.insert(id, live);
            rows.live.len()
        });
        self.active.send_replace(count);
    }

    pub(super) fn find(&self, id: &RunId) -> Option<(String, Run)> {
        self.with(|rows| {
            if let Some(live) = rows.live.get(id).or_else(|| rows.shelved.get(id)) {
                return Some((live.owner.clone(), live.reader()));
            }
            let ended = rows.of_jobs.ended.get(id);
            let ended = ended.or_else(|| rows.of_rotation.ended.get(id))?;
            Some((ended.owner.clone(), ended.run.clone()))
        })
    }

    pub(super) fn active(&self) -> Vec<RunId> {
        self.with(|rows| rows.live.keys().cloned().collect())
    }

    pub(super) fn watch_active(&self) -> watch::Receiver<usize> {
        self.active.subscribe()
    }

    pub(super) fn cut_all(&self) {
        self.with(|rows| rows.live.values().for_each(Live::cut));
    }
}

impl Shelf {
    fn keep(&mut self, id: RunId, ended: Ended, room: &Room) {
        self.log_bytes += ended.log_bytes;
        self.order.push_back(id.clone());
        self.ended.insert(id, ended);
        while self.order.len() > room.runs {
            if let Some(gone) = self.order.pop_front().and_then(|id| self.ended.remove(&id)) {
                self.log_bytes -= gone.log_bytes;
            }
        }
        // The newest keeps its log whatever its size: its readers are still here.
        let older = self.order.len().saturating_sub(1);
        for id in self.order.iter().take(older) {
            if self.log_bytes <= room.log_bytes {
                return;
            }
            if let Some(row) = self.ended.get_mut(id) {
                row.run.log = None;
                self.log_bytes -= std::mem::take(&mut row.log_bytes);
            }
        }
    }
}

/// Estimates what a log costs in memory.
fn log_bytes(log: &RunLog) -> usize {
    let size = |body: &Body| match body {
        Body::StageStarted { title, .. } => title.len(),
        Body::Message { text, .. } => text.len(),
        Body::Object { object, detail, .. } => object.len() + detail.len(),
        Body::StageEnded { .. } | Body::Heartbeat | Body::End { .. } => 0,
    };
    log.since(0)
        .iter()
        .map(|event| 160 + size(&event.body))
        .sum()
}
