//! What a start does with the journal: tells the truth about runs that were cut off, forgets old ones.
//!
//! Called by `app` before the sockets are bound, and hourly. Invariant: a run that is recorded as
//! running while no run is on becomes `interrupted`, with a message that says how far it got; it
//! stays listed by [`DiskJournal::unfinished`] until it is settled.

use deploy::ports::Entry;
use deploy::secret::LeaseId;
use jiff::SignedDuration;
use jiff::Timestamp;
use proto::error::Code;
use proto::error::Problem;
use proto::ids::RunId;
use proto::report::Mode;
use proto::report::Report;
use proto::report::Status;
use redb::Database;
use redb::ReadableDatabase;
use redb::ReadableTable;

use super::DiskJournal;
use super::Fault;
use super::FaultCause;
use super::record::ENTRIES;
use super::record::KEYS;
use super::record::KeyRecord;
use super::record::OPEN;
use super::record::OWNERS;
use super::record::RUNS;
use super::record::RunRecord;
use super::record::StoredEntry;
use super::record::decode;
use super::record::encode;

/// How long the record of a run is kept.
const RUN_LIFE: SignedDuration = SignedDuration::from_hours(24 * 30);

/// How far a run got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No object was written.
    NothingWritten,
    /// Writing had begun; which objects are written is not known.
    Writing,
    /// All objects are written; the rollout was not judged.
    Written,
}

impl Phase {
    /// Says it to the caller of the run.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::NothingWritten => "nothing was written to the cluster",
            Self::Writing => {
                "writing to the cluster had begun and may be incomplete; deploy again to complete it"
            }
            Self::Written => "all objects were written, but the rollout was not judged",
        }
    }
}

/// A run that was cut off by the end of a former process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedRun {
    /// The run.
    pub id: RunId,
    /// How far it got.
    pub phase: Phase,
    /// Leases that it was issued and that are not recorded as revoked.
    pub leases: Vec<LeaseId>,
}

impl DiskJournal {
    /// Marks every run that is recorded as running as interrupted. Only before the first run begins.
    ///
    /// # Errors
    /// The disk.
    pub async fn recover(&self, now: Timestamp) -> Result<Vec<UnfinishedRun>, Fault> {
        self.with("recover runs", move |database| {
            let cut = open_runs(database)?;
            let tx = database.begin_write()?;
            {
                let mut runs = tx.open_table(RUNS)?;
                for run in &cut {
                    let found = runs
                        .get(run.id.as_str())?
                        .map(|value| decode::<RunRecord>(value.value()));
                    let Some(mut record) = found.transpose()? else {
                        continue;
                    };
                    if record.report.status == Status::Running {
                        interrupt(&mut record.report, run.phase, now);
                        runs.insert(run.id.as_str(), encode(&record)?.as_slice())?;
                    }
                }
            }
            tx.commit()?;
            Ok(cut)
        })
        .await
    }

    /// Lists runs that were cut off and are not settled. Empty phases and leases are listed too.
    ///
    /// # Errors
    /// The disk.
    pub async fn unfinished(&self) -> Result<Vec<UnfinishedRun>, Fault> {
        self.with("list unfinished runs", open_runs).await
    }

    /// Records that nothing is left to do for a run that was cut off.
    ///
    /// # Errors
    /// The disk.
    pub async fn settle(&self, id: &RunId) -> Result<(), Fault> {
        let id = id.clone();
        self.with("settle a run", move |database| {
            let tx = database.begin_write()?;
            tx.open_table(OPEN)?.remove(id.as_str())?;
            tx.commit()?;
            Ok(())
        })
        .await
    }

    /// Forgets idempotency keys and runs whose time is over.
    ///
    /// # Errors
    /// The disk.
    pub async fn purge(&self, now: Timestamp) -> Result<(), Fault> {
        self.with("forget old runs", move |database| {
            let tx = database.begin_write()?;
            tx.open_table(KEYS)?.retain(|_, value| {
                decode::<KeyRecord>(value).is_ok_and(|record| !record.is_over(now))
            })?;
            let oldest = now.as_millisecond() - RUN_LIFE.as_millis() as i64;
            // A run id begins with its time, so an id made of a time sorts among them.
            let bits = u128::from(u64::try_from(oldest).unwrap_or(0)) << 80;
            let end = RunId::from_bits(bits);
            let open = tx.open_table(OPEN)?;
            let kept = |id: &str| open.get(id).is_ok_and(|found| found.is_some());
            tx.open_table(RUNS)?
                .retain_in(..end.as_str(), |id, _| kept(id))?;
            tx.open_table(ENTRIES)?
                .retain_in(..(end.as_str(), 0), |(id, _), _| kept(id))?;
            tx.open_table(OWNERS)?
                .retain(|(_, id), ()| id >= end.as_str() || kept(id))?;
            drop(open);
            tx.commit()?;
            Ok(())
        })
        .await
    }
}

fn open_runs(database: &Database) -> Result<Vec<UnfinishedRun>, FaultCause> {
    let tx = database.begin_read()?;
    let entries = tx.open_table(ENTRIES)?;
    let mut runs = Vec::new();
    for row in tx.open_table(OPEN)?.iter()? {
        let (key, _) = row?;
        let Ok(id) = key.value().parse::<RunId>() else {
            continue;
        };
        let mut run = UnfinishedRun {
            id,
            phase: Phase::NothingWritten,
            leases: Vec::new(),
        };
        for row in entries.range((run.id.as_str(), 0)..=(run.id.as_str(), u64::MAX))? {
            let (_, value) = row?;
            run.take(decode::<StoredEntry>(value.value())?.into());
        }
        runs.push(run);
    }
    Ok(runs)
}

impl UnfinishedRun {
    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::LeaseIssued { lease } => self.leases.push(lease),
            Entry::Applying => self.phase = Phase::Writing,
            Entry::Applied => self.phase = Phase::Written,
            Entry::LeaseRevoked { lease } => self.leases.retain(|kept| *kept != lease),
        }
    }
}

/// Turns the report of a run that was on into that of an interrupted one.
fn interrupt(report: &mut Report, phase: Phase, now: Timestamp) {
    let message = match report.mode {
        Mode::DryRun => "the agent was stopped during the dry run; nothing was written".to_owned(),
        Mode::Deploy | Mode::Rollback => {
            format!("the agent was stopped during the run; {}", phase.message())
        }
    };
    report.status = Status::Interrupted;
    report.finished = Some(format!("{now:.3}"));
    report.code = Some(Code::Interrupted);
    report.problem = Some(Problem::new(Code::Interrupted, message.clone()));
    report.message = message;
}
