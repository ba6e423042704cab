//! All locks that one run needs: that of its app, and through Flux one for each path that it may change.
//!
//! Used by [`crate::engine`] like a single lock. Two apps may change the same files of one branch: without a
//! lock of the files one of them would judge the other's commit. Invariants: the app's lock is taken first
//! and the others in the order of their names, so no two runs wait for each other; all are taken in the
//! version that was seen before the plan, or none is kept.

use futures::FutureExt as _;
use futures::future;
use futures::future::BoxFuture;

use super::Gate;
use super::Lock;
use super::LockError;
use super::Reins;
use super::Seen;
use crate::backoff::Patience;
use crate::spec::WhenLocked;

/// The way to all locks of one run.
pub struct Line<'a> {
    app: Gate<'a>,
    files: Vec<Gate<'a>>,
}

/// All locks of one run, held by it.
#[must_use = "locks that are not held run out only by themselves"]
pub struct Locks<'a> {
    app: Lock<'a>,
    files: Vec<Lock<'a>>,
}

/// All locks of one run as they were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// That of the app.
    pub app: Seen,
    files: Vec<Seen>,
}

impl<'a> Line<'a> {
    /// Stands before the lock of an app and those of files.
    #[must_use]
    pub fn new(app: Gate<'a>, mut files: Vec<Gate<'a>>) -> Self {
        files.sort_by(|one, other| one.id.name.cmp(&other.id.name));
        files.dedup_by(|one, other| one.id.name == other.id.name);
        Self { app, files }
    }

    /// Looks at all of them.
    ///
    /// # Errors
    /// When one cannot be read.
    pub async fn look(&mut self, patience: &Patience<'_>) -> Result<Sight, LockError> {
        let files = self.files.iter_mut().map(|gate| gate.look(patience));
        let files = future::try_join_all(files);
        let (app, files) = future::try_join(self.app.look(patience), files).await?;
        Ok(Sight { app, files })
    }

    /// Takes all of them if they are still as they were seen. `None`: another run has one, or was faster.
    ///
    /// # Errors
    /// When one cannot be written.
    pub async fn take(
        &self,
        seen: &Sight,
        patience: &Patience<'_>,
    ) -> Result<Option<Locks<'a>>, LockError> {
        let Some(app) = self.app.take(&seen.app, patience).await? else {
            return Ok(None);
        };
        let mut locks = Locks {
            app,
            files: Vec::new(),
        };
        for (gate, seen) in self.files.iter().zip(&seen.files) {
            let taken = gate.take(seen, patience).await;
            match taken {
                Ok(Some(lock)) => locks.files.push(lock.under(&locks.app.reins())),
                Ok(None) => {
                    locks.hold(patience, future::ready(()).boxed()).await;
                    return Ok(None);
                }
                Err(error) => {
                    locks.hold(patience, future::ready(()).boxed()).await;
                    return Err(error);
                }
            }
        }
        Ok(Some(locks))
    }

    /// Waits until all look free, and says meanwhile who holds one.
    ///
    /// # Errors
    /// As for [`Gate::wait`].
    pub async fn wait(
        &mut self,
        when_locked: WhenLocked,
        patience: &Patience<'_>,
    ) -> Result<(), LockError> {
        self.app.wait(when_locked, patience).await?;
        for gate in &mut self.files {
            gate.wait(when_locked, patience).await?;
        }
        Ok(())
    }
}

impl<'a> Locks<'a> {
    /// Returns what stops the run that holds them: the loss of any.
    #[must_use]
    pub fn reins(&self) -> Reins {
        self.app.reins()
    }

    /// Renews them while `work` is on, which is boxed for its size, then gives them back.
    pub async fn hold<'w, T: Send + 'w>(
        self,
        patience: &'w Patience<'_>,
        work: BoxFuture<'w, T>,
    ) -> T
    where
        'a: 'w,
    {
        let mut work = work;
        for lock in self.files {
            work = lock.hold(patience, work).boxed();
        }
        self.app.hold(patience, work).await
    }
}
