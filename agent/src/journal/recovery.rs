//! What a start does with the journal: tells the truth about runs that were cut off, forgets old ones.
//!
//! Called by `app` before the sockets are bound, and hourly. Invariant: a run that is recorded as
//! running while no run is on becomes `interrupted`, with a message that says how far it got; it
//! stays listed by [`DiskJournal::unfinished`] until it is settled.

use deploy::object::AppliedObject;
use deploy::ports::CommitId;
use deploy::ports::Way;
use deploy::resume::Progress;
use deploy::secret::Accessor;
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
use serde_json::Value;

use super::DiskJournal;
use super::Fault;
use super::FaultCause;
use super::record::BRIEFS;
use super::record::ENTRIES;
use super::record::KEYS;
use super::record::KeyRecord;
use super::record::MadeToken;
use super::record::OPEN;
use super::record::OWNERS;
use super::record::RUNS;
use super::record::RunRecord;
use super::record::StoredEntry;
use super::record::TOKENS;
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
    /// As before, and every Secret is written.
    Supplied,
    /// All objects are written; the rollout was not judged.
    Written,
}

impl Phase {
    /// Says it to the caller of the run.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::NothingWritten => "nothing was written to the cluster",
            Self::Writing | Self::Supplied => {
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
    /// What it takes to go on with it; unset for a run that had no plan yet.
    pub brief: Option<Value>,
    /// The number of its lock; 0 without one.
    pub fence: u64,
    /// All objects as they were written, in [`Phase::Written`].
    pub objects: Vec<AppliedObject>,
    /// The commit that it pushed last for Flux, or was about to.
    pub pushed: Option<(CommitId, Way)>,
    /// Whether it goes forward, or back to what worked before.
    pub way: Way,
    /// How often it has gone on after a restart.
    pub restarts: u64,
}

impl DiskJournal {
    /// Marks every run that is recorded as running as interrupted, unless it has a brief and so can go
    /// on. Only before the first run begins.
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
                    if record.report.status == Status::Running && run.brief.is_none() {
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

    /// Marks a run that cannot go on as interrupted.
    ///
    /// # Errors
    /// The disk.
    pub async fn interrupt(&self, run: &UnfinishedRun, now: Timestamp) -> Result<(), Fault> {
        let Some(mut record) = self.load(&run.id).await? else {
            return Ok(());
        };
        interrupt(&mut record.report, run.phase, now);
        self.finish(record.report).await
    }

    /// Lists runs that were cut off and are not settled. Empty phases and leases are listed too.
    ///
    /// # Errors
    /// The disk.
    pub async fn unfinished(&self) -> Result<Vec<UnfinishedRun>, Fault> {
        self.with("list unfinished runs", open_runs).await
    }

    /// Lists tokens that were made for credentials and are neither ended nor known to be in a Secret, of
    /// whatever run: a run that goes on, or is over, may have left some of a former process.
    ///
    /// # Errors
    /// The disk.
    pub async fn tokens(&self) -> Result<Vec<(Accessor, MadeToken)>, Fault> {
        self.with("list tokens", |database| {
            let tokens = database.begin_read()?.open_table(TOKENS)?;
            let mut found = Vec::new();
            for row in tokens.iter()? {
                let (accessor, made) = row?;
                let accessor = Accessor(accessor.value().to_owned());
                found.push((accessor, decode(made.value())?));
            }
            Ok(found)
        })
        .await
    }

    /// Records that nothing is left to do for a token.
    ///
    /// # Errors
    /// The disk.
    pub async fn forget_token(&self, accessor: &Accessor) -> Result<(), Fault> {
        let accessor = accessor.0.clone();
        self.with("forget a token", move |database| {
            let tx = database.begin_write()?;
            tx.open_table(TOKENS)?.remove(accessor.as_str())?;
            tx.commit()?;
            Ok(())
        })
        .await
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
            tx.open_table(BRIEFS)?.remove(id.as_str())?;
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
    let briefs = tx.open_table(BRIEFS)?;
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
            brief: None,
            fence: 0,
            objects: Vec::new(),
            pushed: None,
            way: Way::There,
            restarts: 0,
        };
        if let Some(brief) = briefs.get(run.id.as_str())? {
            run.brief = decode(brief.value())?;
        }
        for row in entries.range((run.id.as_str(), 0)..=(run.id.as_str(), u64::MAX))? {
            let (_, value) = row?;
            run.take(decode::<StoredEntry>(value.value())?);
        }
        runs.push(run);
    }
    Ok(runs)
}

impl UnfinishedRun {
    /// Says how far it came, for the engine to go on with it.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let fence = self.fence;
        if self.way == Way::Back {
            return Progress::Returning { fence };
        }
        match self.phase {
            Phase::NothingWritten => Progress::Planned,
            Phase::Writing => Progress::Writing { fence },
            Phase::Supplied => Progress::Supplied { fence },
            Phase::Written => {
                let objects = self.objects.clone();
                match self.pushed.clone() {
                    None => Progress::Applied { fence, objects },
                    Some((commit, way)) => Progress::Pushed {
                        fence,
                        objects,
                        commit,
                        way,
                    },
                }
            }
        }
    }

    fn take(&mut self, entry: StoredEntry) {
        match entry {
            StoredEntry::LeaseIssued { lease } => self.leases.push(LeaseId(lease)),
            // They are in a table of their own, see [`DiskJournal::tokens`].
            StoredEntry::TokenMade { .. }
            | StoredEntry::TokenEnded { .. }
            | StoredEntry::TokenKept { .. } => {}
            StoredEntry::Planned => {}
            StoredEntry::Pushing { commit, back, .. } => {
                let way = if back { Way::Back } else { Way::There };
                self.pushed = CommitId::parse(&commit).map(|commit| (commit, way));
            }
            StoredEntry::Resumed { fence } => {
                self.fence = fence;
                self.restarts += 1;
            }
            StoredEntry::Applying { fence } => {
                self.fence = fence;
                // A run that goes on writes no Secret again.
                if self.phase != Phase::Supplied {
                    self.phase = Phase::Writing;
                }
            }
            StoredEntry::Supplied => self.phase = Phase::Supplied,
            StoredEntry::Applied { objects } => {
                self.phase = Phase::Written;
                self.objects = objects.into_iter().map(AppliedObject::from).collect();
            }
            StoredEntry::Returning => self.way = Way::Back,
            StoredEntry::LeaseRevoked { lease } => self.leases.retain(|kept| kept.0 != lease),
        }
    }
}

/// Turns the report of a run that was on into that of an interrupted one.
fn interrupt(report: &mut Report, phase: Phase, now: Timestamp) {
    let message = match report.mode {
        Mode::DryRun => "the agent was stopped during the dry run; nothing was written".to_owned(),
        Mode::Deploy | Mode::Rollback | Mode::Rotation => {
            format!("the agent was stopped during the run; {}", phase.message())
        }
    };
    report.status = Status::Interrupted;
    report.finished = Some(format!("{now:.3}"));
    report.code = Some(Code::Interrupted);
    report.problem = Some(Problem::new(Code::Interrupted, message.clone()));
    report.message = message;
}
