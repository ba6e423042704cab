//! The table of runs: admission, idempotency, starting, cancelling, finding again.
//!
//! Called by `http` with work that is ready to go, and by `app` at the end of the process. A run
//! lives in a tracked task of its own: no connection owns it and nothing drops it, cancelling is by
//! token. Invariants: a run is in the journal before it begins; its final report is in the journal
//! before anybody is told; a panic inside a run ends as `internal` and touches no other run.

mod noting;
mod reports;
mod table;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use deploy::audience::Audience;
use deploy::log::RunLog;
use deploy::ports::Clock;
use deploy::ports::Journal;
use futures::future::BoxFuture;
use proto::error::Code;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;
use proto::ids::RunId;
use proto::report::Mode;
use proto::report::Report;
use proto::report::Status;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::noting::Noting;
use self::reports::beginning;
use self::reports::crashed;
use self::table::Live;
pub use self::table::Run;
use self::table::Table;
use crate::clock;
use crate::config::RunLimits;
use crate::gitlab::Herald;
use crate::journal::Begun;
use crate::journal::DiskJournal;
use crate::journal::Fault;
use crate::journal::NewRun;
use crate::journal::record::RunRecord;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::telemetry::Chain;
use crate::telemetry::run_span;

/// How long the end of the process waits until GitLab is told of the last runs.
const HERALDS: Duration = Duration::from_secs(5);

/// What a run's work gets.
pub struct RunTools {
    /// The run.
    pub id: RunId,
    /// Where its events go. The work ends it.
    pub log: Arc<RunLog>,
    /// Its own journal.
    pub journal: Arc<dyn Journal>,
    /// Cancels its way forward; a child of `end`.
    pub stop: CancellationToken,
    /// Cancels all of it.
    pub end: CancellationToken,
    /// Who follows it.
    pub audience: Audience,
}

/// The work of a run: the engine with a permit, or what a test puts in its place.
pub type Work = Box<dyn FnOnce(RunTools) -> BoxFuture<'static, Report> + Send>;

/// A request that may become a run.
pub struct Submission {
    /// Who may see it: the principal's owner key.
    pub owner: String,
    /// Whether it writes.
    pub mode: Mode,
    /// The app's name.
    pub name: DeployName,
    /// The app's cluster.
    pub cluster: ClusterName,
    /// The app's namespace.
    pub namespace: Namespace,
    /// The caller's idempotency key.
    pub key: Option<String>,
    /// SHA-256 of the body.
    pub digest: [u8; 32],
    /// What to do.
    pub work: Work,
    /// Tells GitLab about it; unset: nobody does.
    pub herald: Option<Herald>,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// A new run is on.
    New(RunId),
    /// The same request came before: this is its run, and how it stands.
    Same(RunId, Status),
}

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The agent is stopping.
    #[error("the agent is stopping and takes no new runs")]
    Draining,
    /// Too many runs are on.
    #[error("{limit} runs are on, which is the limit")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// The idempotency key was used with another body.
    #[error("the idempotency key was used for another request")]
    OtherBody,
    /// The journal cannot be used, so nothing may begin.
    #[error("the run cannot be recorded")]
    Journal(#[from] Fault),
    /// No id can be made.
    #[error("the run gets no id")]
    Randomness(#[source] io::Error),
}

/// The table of runs; clones share it.
#[derive(Clone)]
pub struct Runs {
    inner: Arc<Inner>,
}

struct Inner {
    table: Table,
    journal: DiskJournal,
    clock: Arc<dyn Clock>,
    lifecycle: Lifecycle,
    metrics: Arc<Metrics>,
    tracker: TaskTracker,
    heralds: TaskTracker,
    limits: RunLimits,
}

impl Runs {
    /// Makes an empty table over a recovered journal.
    #[must_use]
    pub fn new(
        journal: DiskJournal,
        clock: Arc<dyn Clock>,
        lifecycle: Lifecycle,
        metrics: Arc<Metrics>,
        limits: RunLimits,
    ) -> Self {
        let inner = Inner {
            table: Table::default(),
            journal,
            clock,
            lifecycle,
            metrics,
            tracker: TaskTracker::new(),
            heralds: TaskTracker::new(),
            limits,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Looks for the run of an earlier request with the same key and body.
    ///
    /// # Errors
    /// Another body, or the journal.
    pub async fn seen(
        &self,
        owner: &str,
        key: &str,
        mode: Mode,
        digest: [u8; 32],
    ) -> Result<Option<Submitted>, SubmitError> {
        let now = self.inner.clock.now();
        let begun = self.inner.journal.seen(owner, key, mode, digest, now);
        match begun.await? {
            Begun::New => Ok(None),
            Begun::OtherBody => Err(SubmitError::OtherBody),
            Begun::Same(id) => Ok(Some(self.same(owner, id).await?)),
        }
    }

    /// Takes a request and starts its run, unless it was taken before.
    ///
    /// # Errors
    /// Nothing has begun then.
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, SubmitError> {
        let inner = &self.inner;
        if inner.lifecycle.is_draining() {
            return Err(SubmitError::Draining);
        }
        let id = clock::run_id(&*inner.clock).map_err(SubmitError::Randomness)?;
        let report = beginning(&id, &submission, inner.clock.now());
        let owner = submission.owner.clone();
        let live = Live::new(&owner, report.clone(), Arc::clone(&inner.clock));
        // In the table before the key is taken: who finds the key finds the run.
        let limit = inner.limits.runs;
        if !inner.table.insert(&id, live.clone(), limit) {
            return Err(SubmitError::Full { limit });
        }
        let run = NewRun {
            owner: submission.owner,
            key: submission.key,
            digest: submission.digest,
            report,
        };
        let begun = inner.journal.begin(run, inner.clock.now()).await;
        if !matches!(begun, Ok(Begun::New)) {
            inner.table.remove(&id);
        }
        match begun? {
            Begun::New => {}
            Begun::OtherBody => return Err(SubmitError::OtherBody),
            Begun::Same(id) => return self.same(&owner, id).await,
        }
        self.announce(&live, submission.herald);
        self.start(live, submission.work);
        Ok(Submitted::New(id))
    }

    /// Goes on with a run that a former process left, under its own id.
    pub fn adopt(&self, record: RunRecord, restarts: u64, (work, herald): (Work, Option<Herald>)) {
        let RunRecord { owner, report } = record;
        let id = report.id.clone();
        let live = Live::again(&owner, report, restarts, Arc::clone(&self.inner.clock));
        // It was admitted once; the limit is for new ones.
        self.inner.table.insert(&id, live.clone(), usize::MAX);
        self.announce(&live, herald);
        self.start(live, work);
    }

    async fn same(&self, owner: &str, id: RunId) -> Result<Submitted, SubmitError> {
        let run = self.find(owner, &id).await?;
        // A key whose run is gone can only be one that was just taken: it is about to begin.
        let status = run.map_or(Status::Running, |run| run.report().status);
        Ok(Submitted::Same(id, status))
    }

    /// Lets GitLab be told; nothing of the run waits for it.
    fn announce(&self, live: &Live, herald: Option<Herald>) {
        if let Some(herald) = herald {
            let follow = herald(live.reports(), self.inner.lifecycle.stopped());
            drop(self.inner.heralds.spawn(follow));
        }
    }

    /// Waits, for a while, until GitLab is told of the runs that are over.
    pub async fn announced(&self) {
        self.inner.heralds.close();
        if tokio::time::timeout(HERALDS, self.inner.heralds.wait())
            .await
            .is_err()
        {
            tracing::warn!("GitLab is not told of every run that ended");
        }
    }

    fn start(&self, live: Live, work: Work) {
        let id = live.id();
        let tools = RunTools {
            id: id.clone(),
            log: live.log(),
            journal: Arc::new(Noting {
                journal: self.inner.journal.of_run(id.clone()),
                planned: live.planned(),
            }),
            stop: live.stop().child_token(),
            end: live.stop(),
            audience: live.seats().audience(self.inner.limits.disconnect_grace),
        };
        self.inner.metrics.run_started();
        let span = run_span(&id);
        let begun = Instant::now();
        let task = self
            .inner
            .tracker
            .spawn(work(tools).instrument(span.clone()));
        let runs = self.clone();
        let follow = async move {
            // The handle is only awaited, never dropped: a run is not cut off in the middle.
            let report = match task.await {
                Ok(report) if live.goes_on(&report) => {
                    tracing::info!("the run was cut and goes on at the next start");
                    return runs.inner.table.shelve(live);
                }
                Ok(report) => runs.explained(report, &live),
                Err(error) => {
                    tracing::error!(%error, "the run ended by a fault of the agent");
                    live.log().end(Status::Failed);
                    crashed(&live.report(), runs.inner.clock.now())
                }
            };
            runs.end(live, report, begun.elapsed()).await;
        };
        drop(self.inner.tracker.spawn(follow.instrument(span)));
    }

    /// Says of a run that the agent cancelled that it was not the caller.
    fn explained(&self, mut report: Report, live: &Live) -> Report {
        if report.status == Status::Cancelled && live.was_cut() {
            report.status = Status::Interrupted;
            report.code = Some(Code::Interrupted);
            report.message = format!("the agent was stopped; {}", report.message);
        }
        report
    }

    async fn end(&self, live: Live, report: Report, took: Duration) {
        let status = report.status;
        if let Err(fault) = self.inner.journal.finish(report.clone()).await {
            tracing::error!(error = %Chain(&fault), "the report is not on disk");
        }
        self.inner.metrics.run_ended(status, took.as_secs_f64());
        tracing::info!(
            status = status.word(),
            seconds = took.as_secs_f64(),
            "the run ended"
        );
        self.inner.table.end(&live, report);
    }

    /// Finds a run of this owner; the runs of others do not exist.
    ///
    /// # Errors
    /// The journal.
    pub async fn find(&self, owner: &str, id: &RunId) -> Result<Option<Run>, Fault> {
        if let Some((whose, run)) = self.inner.table.find(id) {
            return Ok((whose == owner).then_some(run));
        }
        let record = self.inner.journal.load(id).await?;
        let record = record.filter(|record| record.owner == owner);
        Ok(record.map(|record| Run::ended(record.report)))
    }

    /// Lists the reports of an owner's runs, newest first.
    ///
    /// # Errors
    /// The journal.
    pub async fn list(
        &self,
        owner: &str,
        after: Option<RunId>,
        limit: usize,
    ) -> Result<Vec<Report>, Fault> {
        self.inner.journal.list(owner, after, limit).await
    }

    /// Returns the ids of the runs that are on.
    #[must_use]
    pub fn active(&self) -> Vec<RunId> {
        self.inner.table.active()
    }

    /// Waits until no run is on.
    pub async fn idle(&self) {
        let mut active = self.inner.table.watch_active();
        // The sender lives in the table, which this reference keeps.
        drop(active.wait_for(|count| *count == 0).await);
    }

    /// Cancels every run because the agent ends.
    pub fn cut_all(&self) {
        self.inner.table.cut_all();
    }
}

/// A receiver of a report that will not change any more.
fn settled(report: Report) -> watch::Receiver<Arc<Report>> {
    watch::Sender::new(Arc::new(report)).subscribe()
}

#[cfg(test)]
mod tests;
