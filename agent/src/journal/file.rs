//! The journal's file, opened again after a disk that failed works again.
//!
//! Used by [`super`] only. redb refuses everything after an error of the disk until its file is opened
//! anew; an agent must not need a restart because its disk was full for a while. Invariant: at most one
//! database is open on the file, and what failed is told to who asked for it: nothing is repeated here.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use redb::Database;
use redb::DatabaseError;
use redb::backends::FileBackend;

use super::FaultCause;

/// The file inside the state folder.
const FILE: &str = "journal.redb";
/// What redb may keep in memory; records are small and read rarely.
const CACHE_BYTES: usize = 1 << 20;

/// The file and the database on it.
pub(super) struct JournalFile {
    path: PathBuf,
    /// Unset while it could not be opened again.
    database: RwLock<Option<Database>>,
    /// Whether it has to be opened again.
    broken: AtomicBool,
}

impl JournalFile {
    /// Opens the file in a folder, and makes it where there is none.
    pub(super) fn open(folder: &Path) -> Result<Self, DatabaseError> {
        let path = folder.join(FILE);
        let database = open(&path)?;
        Ok(Self {
            path,
            database: RwLock::new(Some(database)),
            broken: AtomicBool::new(false),
        })
    }

    /// Works on the database; opens it again first where the disk failed before.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, FaultCause>,
    ) -> Result<T, FaultCause> {
        if self.broken.load(Ordering::Acquire) {
            self.open_again()?;
        }
        // The database is replaced whole, so a poisoned lock does no harm.
        let database = self.database.read();
        let database = database.unwrap_or_else(PoisonError::into_inner);
        let Some(database) = &*database else {
            return Err(FaultCause::Database(Box::new(redb::Error::PreviousIo)));
        };
        let worked = work(database);
        if let Err(FaultCause::Database(error)) = &worked
            && matches!(**error, redb::Error::Io(_) | redb::Error::PreviousIo)
        {
            self.broken.store(true, Ordering::Release);
        }
        worked
    }

    fn open_again(&self) -> Result<(), FaultCause> {
        let database = self.database.write();
        let mut database = database.unwrap_or_else(PoisonError::into_inner);
        if !self.broken.load(Ordering::Acquire) {
            // Somebody else was faster.
            return Ok(());
        }
        // Its lock on the file has to go first.
        drop(database.take());
        *database = Some(open(&self.path)?);
        self.broken.store(false, Ordering::Release);
        tracing::warn!("the journal is opened again after an error of the disk");
        Ok(())
    }
}

fn open(path: &Path) -> Result<Database, DatabaseError> {
    let io = |error: io::Error| DatabaseError::Storage(redb::StorageError::Io(error));
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    let backend = FileBackend::new(file)?;
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend)
}
