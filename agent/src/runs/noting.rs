//! The journal of one run, which also notes in memory whether the run could go on after a restart.
//!
//! Used by [`super`] only: a run that is cut at the end of the process is put aside when it can.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use deploy::ports::Entry;
use deploy::ports::Journal;
use deploy::ports::JournalError;
use futures::FutureExt as _;
use futures::future::BoxFuture;

pub(super) struct Noting {
    pub(super) journal: Arc<dyn Journal>,
    /// Set once the run has a brief.
    pub(super) planned: Arc<AtomicBool>,
}

impl Journal for Noting {
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<(), JournalError>> {
        async move {
            let is_brief = matches!(entry, Entry::Planned { .. });
            self.journal.append(entry).await?;
            if is_brief {
                self.planned.store(true, Ordering::Relaxed);
            }
            Ok(())
        }
        .boxed()
    }
}
