//! The journal on disk: every run, what it did, its report, and the idempotency keys.
//!
//! Written by `runs` and, through [`deploy::ports::Journal`], by the engine; read at start to tell
//! the truth about runs that a kill cut off. One redb file (0600) in the state folder (0700), held
//! by one process. Invariant: when a call returns, what it says is on disk. Holds no secret value
//! and no token. Table layouts are in [`record`].

mod error;
mod file;
mod folder;
pub mod record;
mod recovery;
mod owed;

use std::io;
use std::path::Path;
use std::sync::Arc;

use deploy::ports::Entry;
use deploy::ports::Journal;
use deploy::ports::JournalError;
use futures::future::BoxFuture;
use jiff::Timestamp;
use proto::ids::RunId;
use proto::report::Mode;
use proto::report::Report;
use redb::Database;
use redb::ReadableDatabase;
use redb::ReadableTable;

pub use self::error::Fault;
use self::error::FaultCause;
pub use self::error::OpenError;
use self::file::JournalFile;
use self::folder::private_folder;
use self::record::BRIEFS;
use self::record::ENTRIES;
use self::record::Grip;
use self::record::KEYS;
use self::record::KeyRecord;
use self::record::LEASES;
pub use self::record::MadeToken;
use self::record::OPEN;
use self::record::OWNERS;
use self::record::RUNS;
use self::record::RunRecord;
use self::record::StoredEntry;
use self::record::TOKENS;
use self::record::decode;
use self::record::encode;
use self::record::key_text;
pub use self::recovery::Phase;
pub use self::recovery::UnfinishedRun;

/// What is known about a request when its run begins.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Who may see it: the principal's owner key.
    pub owner: String,
    /// The caller's idempotency key.
    pub key: Option<String>,
    /// SHA-256 of the request's body.
    pub digest: [u8; 32],
    /// The report as it stands at the beginning.
    pub report: Report,
}

/// What became of a begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is a new run.
    New,
    /// The key belongs to this run, with the same body.
    Same(RunId),
    /// The key belongs to a run with another body.
    OtherBody,
}

/// The journal; clones share the file.
#[derive(Clone)]
pub struct DiskJournal {
    file: Arc<JournalFile>,
}

impl DiskJournal {
    /// Opens the journal, and makes it where there is none.
    ///
    /// # Errors
    /// The folder is open to others, another agent holds it, or the file is broken.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Folder {
            path: folder.to_owned(),
            source,
        };
        private_folder(folder)?;
        let path = folder.to_owned();
        let file = JournalFile::open(folder).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.clone() },
            redb::DatabaseError::Storage(redb::StorageError::Io(source))
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                unusable(source)
            }
            error => OpenError::Database {
                path: path.clone(),
                source: error.into(),
            },
        })?;
        let journal = Self {
            file: Arc::new(file),
        };
        journal
            .make_tables()
            .map_err(|source| OpenError::Database { path, source })?;
        Ok(journal)
    }

    fn make_tables(&self) -> Result<(), FaultCause> {
        self.file.with(|database| {
            let tx = database.begin_write()?;
            tx.open_table(RUNS)?;
            tx.open_table(ENTRIES)?;
            tx.open_table(OWNERS)?;
            tx.open_table(KEYS)?;
            tx.open_table(OPEN)?;
            tx.open_table(BRIEFS)?;
            tx.open_table(TOKENS)?;
            tx.open_table(LEASES)?;
            tx.commit()?;
            Ok(())
        })
    }

    /// Runs blocking work on the file away from the workers that answer requests.
    async fn with<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Database) -> Result<T, FaultCause> + Send + 'static,
    ) -> Result<T, Fault> {
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || file.with(work))
            .await
            .unwrap_or(Err(FaultCause::Worker))
            .map_err(|source| Fault { doing, source })
    }

    /// Records a run as running, unless its idempotency key is taken; both in one step.
    ///
    /// # Errors
    /// The disk. Then the run must not begin.
    pub async fn begin(&self, run: NewRun, now: Timestamp) -> Result<Begun, Fault> {
        self.with("record a new run", move |database| {
            let tx = database.begin_write()?;
            if let Some(key) = &run.key {
                let text = key_text(&run.owner, key, run.report.mode);
                let mut keys = tx.open_table(KEYS)?;
                if let Some(grip) = taken(&keys, &text, &run.digest, now)? {
                    return Ok(grip.into());
                }
                let taken = KeyRecord::new(&run.report.id, &run.digest, now);
                keys.insert(text.as_str(), encode(&taken)?.as_slice())?;
            }
            let id = run.report.id.clone();
            let record = RunRecord {
                owner: run.owner,
                report: run.report,
            };
            tx.open_table(RUNS)?
                .insert(id.as_str(), encode(&record)?.as_slice())?;
            tx.open_table(OWNERS)?
                .insert((record.owner.as_str(), id.as_str()), ())?;
            tx.open_table(OPEN)?.insert(id.as_str(), ())?;
            tx.commit()?;
            Ok(Begun::New)
        })
        .await
    }

    /// Looks up an idempotency key without taking it.
    ///
    /// # Errors
    /// The disk.
    pub async fn seen(
        &self,
        owner: &str,
        key: &str,
        mode: Mode,
        digest: [u8; 32],
        now: Timestamp,
    ) -> Result<Begun, Fault> {
        let text = key_text(owner, key, mode);
        self.with("look up an idempotency key", move |database| {
            let keys = database.begin_read()?.open_table(KEYS)?;
            Ok(taken(&keys, &text, &digest, now)?.map_or(Begun::New, Begun::from))
        })
        .await
    }

    /// Records the final report of a run.
    ///
    /// # Errors
    /// The disk. The run is then told as interrupted after the next start.
    pub async fn finish(&self, report: Report) -> Result<(), Fault> {
        self.with("record a report", move |database| {
            let tx = database.begin_write()?;
            {
                let mut runs = tx.open_table(RUNS)?;
                let found = runs
                    .get(report.id.as_str())?
                    .map(|old| decode::<RunRecord>(old.value()));
                if let Some(record) = found.transpose()? {
                    let id = report.id.clone();
                    let record = RunRecord { report, ..record };
                    runs.insert(id.as_str(), encode(&record)?.as_slice())?;
                    tx.open_table(OPEN)?.remove(id.as_str())?;
                    tx.open_table(BRIEFS)?.remove(id.as_str())?;
                }
            }
            tx.commit()?;
            Ok(())
        })
        .await
    }

    /// Reads one run.
    ///
    /// # Errors
    /// The disk.
    pub async fn load(&self, id: &RunId) -> Result<Option<RunRecord>, Fault> {
        let id = id.clone();
        self.with("read a run", move |database| {
            let runs = database.begin_read()?.open_table(RUNS)?;
            let found = runs.get(id.as_str())?;
            found.map(|value| decode(value.value())).transpose()
        })
        .await
    }

    /// Reads the reports of an owner's runs, newest first, those before `after`.
    ///
    /// # Errors
    /// The disk.
    pub async fn list(
        &self,
        owner: &str,
        after: Option<RunId>,
        limit: usize,
    ) -> Result<Vec<Report>, Fault> {
        let owner = owner.to_owned();
        self.with("list runs", move |database| {
            let tx = database.begin_read()?;
            let owners = tx.open_table(OWNERS)?;
            let runs = tx.open_table(RUNS)?;
            // Ids sort by time; "s" sorts after every id, which begins with "r".
            let end = after.as_ref().map_or("s", RunId::as_str);
            let range = owners.range((owner.as_str(), "")..(owner.as_str(), end))?;
            let mut reports = Vec::new();
            for row in range.rev().take(limit) {
                let (place, ()) = {
                    let (key, value) = row?;
                    (key.value().1.to_owned(), value.value())
                };
                if let Some(value) = runs.get(place.as_str())? {
                    reports.push(decode::<RunRecord>(value.value())?.report);
                }
            }
            Ok(reports)
        })
        .await
    }

    /// Returns the journal of one run, as the engine needs it.
    #[must_use]
    pub fn of_run(&self, id: RunId) -> Arc<dyn Journal> {
        Arc::new(RunJournal {
            journal: self.clone(),
            id,
        })
    }

    async fn append(&self, id: RunId, entry: Entry) -> Result<(), Fault> {
        self.with("add an entry of a run", move |database| {
            let tx = database.begin_write()?;
            if let Entry::Planned { brief } = &entry {
                let brief = encode(brief)?;
                tx.open_table(BRIEFS)?
                    .insert(id.as_str(), brief.as_slice())?;
            }
            match &entry {
                Entry::TokenMade { accessor, secret } => {
                    let made = MadeToken {
                        run: id.clone(),
                        secret: secret.clone(),
                    };
                    tx.open_table(TOKENS)?
                        .insert(accessor.0.as_str(), encode(&made)?.as_slice())?;
                }
                Entry::TokenEnded { accessor } | Entry::TokenKept { accessor } => {
                    tx.open_table(TOKENS)?.remove(accessor.0.as_str())?;
                }
                Entry::LeaseIssued { .. }
                | Entry::Planned { .. }
                | Entry::Resumed { .. }
                | Entry::Pushing { .. }
                | Entry::Applying { .. }
                | Entry::Supplied
                | Entry::Applied { .. }
                | Entry::Returning
                | Entry::LeaseRevoked { .. } => {}
            }
            {
                let mut entries = tx.open_table(ENTRIES)?;
                let next = entries
                    .range((id.as_str(), 0)..=(id.as_str(), u64::MAX))?
                    .next_back()
                    .transpose()?
                    .map_or(0, |(key, _)| key.value().1 + 1);
                let stored = encode(&StoredEntry::from(entry))?;
                entries.insert((id.as_str(), next), stored.as_slice())?;
            }
            tx.commit()?;
            Ok(())
        })
        .await
    }
}

/// The journal of one run.
struct RunJournal {
    journal: DiskJournal,
    id: RunId,
}

impl Journal for RunJournal {
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            let appended = self.journal.append(self.id.clone(), entry).await;
            appended.map_err(|fault| JournalError {
                reason: crate::telemetry::Chain(&fault).to_string(),
            })
        })
    }
}

impl From<Grip> for Begun {
    fn from(grip: Grip) -> Self {
        match grip {
            Grip::Same(id) => Self::Same(id),
            Grip::OtherBody => Self::OtherBody,
        }
    }
}

/// Says who holds a key that is not past its time.
fn taken(
    keys: &impl ReadableTable<&'static str, &'static [u8]>,
    text: &str,
    digest: &[u8; 32],
    now: Timestamp,
) -> Result<Option<Grip>, FaultCause> {
    let Some(value) = keys.get(text)? else {
        return Ok(None);
    };
    Ok(decode::<KeyRecord>(value.value())?.grip(digest, now))
}

#[cfg(test)]
mod tests;
