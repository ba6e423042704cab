//! One run per app over all hosts: a Kubernetes Lease in the app's namespace, called *lock* here. A run through
//! Flux needs one more for each path that it may change ([`mod@line`]).
//!
//! [`crate::engine`] looks at the lock before it plans ([`Gate::look`]), takes it when there is
//! something to write and nothing has changed since ([`Gate::take`]), else waits and plans anew
//! ([`Gate::wait`]). [`Lock::hold`] renews it while the run works and gives it back whatever
//! happened. It is written as the job, so RBAC has to allow it. Invariants: whether a lock of another
//! run is over is judged by watching it stay unchanged for its duration on our own clock, clocks of
//! two machines are never compared; every write names the version that was seen; the number of
//! takings (`spec.leaseTransitions`) never goes down and fences one holder from the next.

mod dead;
mod hold;
mod line;
mod record;

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::record::Record;
use self::record::Times;
use crate::backoff::Patience;
use crate::object::ObjectId;
use crate::plan::cluster_trouble;
use crate::ports::ClusterError;
use crate::ports::Ports;
use crate::principal::Actor;
use crate::spec::WhenLocked;

pub use self::dead::Found;
pub use self::dead::give_back;
pub use self::hold::Lock;
pub use self::line::Line;
pub use self::line::Locks;
pub use self::line::Sight;
pub use self::record::Holder;
pub use self::record::Subject;

/// How often a lock that another run holds is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often a waiting run says what it waits for.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Why a run does not get the lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Another run has it, and this one does not wait.
    #[error("{what} is locked by {holder}")]
    Held {
        /// The app, or the files on a branch.
        what: String,
        /// The other run.
        holder: Holder,
    },
    /// Another run has it, and this one has waited until its deadline.
    #[error("{what} was still locked by {holder} at the deadline of this run")]
    Waited {
        /// As above.
        what: String,
        /// The other run.
        holder: Holder,
    },
    /// The run was told to stop while it waited.
    #[error("the run was told to stop while it waited for the lock")]
    Stopped,
    /// The lock object could not be read or written.
    #[error("{doing} the lock of {what}")]
    Cluster {
        /// What was done: "looking at" or "taking".
        doing: &'static str,
        /// As above.
        what: String,
        /// As whom.
        user: String,
        /// Why not.
        source: ClusterError,
    },
}

impl LockError {
    /// Says whether the lock cannot be there because its namespace is not.
    #[must_use]
    pub const fn is_homeless(&self) -> bool {
        matches!(
            self,
            Self::Cluster {
                source: ClusterError::Missing { .. },
                ..
            }
        )
    }
}

/// The lock object as it was looked at before planning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    record: Option<Record>,
    holder: Option<Holder>,
}

impl Seen {
    /// Says whether nobody but `run` has had the lock since the taking with this number.
    #[must_use]
    pub fn is_untouched_since(&self, run: &str, fence: u64) -> bool {
        let Some(record) = &self.record else {
            // Cut between making the namespace and taking the lock in it.
            return fence == 0;
        };
        match &record.holder {
            Some(holder) => holder.run == run,
            None => record.fence == fence,
        }
    }
}

/// What stops a run.
#[derive(Debug, Clone)]
pub struct Reins {
    /// Cancelled when it has to stop writing: because it is told to, or because it cannot be sure of
    /// its lock.
    pub writing: CancellationToken,
    /// Cancelled when watching is of no use: it is told to stop, or another run has the lock.
    pub watching: CancellationToken,
    /// The number of the lock; 0 without one.
    pub fence: u64,
    /// The same for its way back, which goes on where only the way forward was told to stop.
    back: Ropes,
}

/// Those of the way back.
#[derive(Debug, Clone)]
struct Ropes {
    writing: CancellationToken,
    watching: CancellationToken,
}

/// What tells a run to stop from outside.
#[derive(Debug, Clone, Copy)]
pub struct Stops<'a> {
    /// Ends its way forward.
    pub forward: &'a CancellationToken,
    /// Ends its way back too.
    pub all: &'a CancellationToken,
}

impl Reins {
    /// Those of a run that needs no lock: only `stops` end it.
    #[must_use]
    pub fn loose(stops: Stops<'_>) -> Self {
        Self {
            writing: stops.forward.clone(),
            watching: stops.forward.clone(),
            fence: 0,
            back: Ropes {
                writing: stops.all.clone(),
                watching: stops.all.clone(),
            },
        }
    }

    fn of_lock(stops: Stops<'_>, fence: u64) -> Self {
        Self {
            writing: stops.forward.child_token(),
            watching: stops.forward.child_token(),
            fence,
            back: Ropes {
                writing: stops.all.child_token(),
                watching: stops.all.child_token(),
            },
        }
    }

    /// Returns those of the way back.
    #[must_use]
    pub fn way_back(&self) -> Self {
        Self {
            writing: self.back.writing.clone(),
            watching: self.back.watching.clone(),
            fence: self.fence,
            back: self.back.clone(),
        }
    }

    /// Stops writing, either way: the lock may be another run's soon.
    fn doubt(&self) {
        self.writing.cancel();
        self.back.writing.cancel();
    }

    /// Stops everything, either way: the lock is not ours.
    fn lose(&self) {
        self.doubt();
        self.watching.cancel();
        self.back.watching.cancel();
    }
}

/// The way to one lock for one run.
pub struct Gate<'a> {
    id: ObjectId,
    subject: Subject,
    me: Holder,
    actor: Actor,
    ports: &'a Ports,
    stop: CancellationToken,
    end: CancellationToken,
    /// The lock of another run, and since when it has not changed.
    watched: Option<(Record, Instant)>,
}

impl<'a> Gate<'a> {
    /// Stands before a lock that is in a namespace.
    #[must_use]
    pub fn new(
        (namespace, subject): (&str, Subject),
        me: Holder,
        actor: &Actor,
        ports: &'a Ports,
        stops: Stops<'_>,
    ) -> Self {
        Self {
            id: record::id(namespace, &subject),
            subject,
            me,
            actor: actor.clone(),
            ports,
            stop: stops.forward.clone(),
            end: stops.all.clone(),
            watched: None,
        }
    }

    fn stops(&self) -> Stops<'_> {
        Stops {
            forward: &self.stop,
            all: &self.end,
        }
    }

    fn what(&self) -> String {
        self.subject.words().to_owned()
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(ClusterError) -> LockError + use<> {
        let (what, user) = (self.what(), self.actor.user.clone());
        move |source| LockError::Cluster {
            doing,
            what,
            user,
            source,
        }
    }

    /// Looks at the lock. A lock that this very run left behind is its own.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn look(&mut self, patience: &Patience<'_>) -> Result<Seen, LockError> {
        let read = patience
            .retry(
                || self.ports.cluster.get(&self.actor, &self.id),
                cluster_trouble,
            )
            .await;
        let body = match read {
            Ok(body) => body,
            // Its namespace is not there yet: this very run may make it.
            Err(ClusterError::Missing { .. }) => None,
            Err(error) => return Err(self.failed("looking at")(error)),
        };
        let record = body.as_ref().map(record::read);
        let holder = record.as_ref().and_then(|record| self.holder(record));
        Ok(Seen { record, holder })
    }

    /// Says which other run holds it, unless that one has let it run out.
    fn holder(&mut self, record: &Record) -> Option<Holder> {
        let holder = record.holder.clone();
        let Some(holder) = holder.filter(|holder| holder.run != self.me.run) else {
            self.watched = None;
            return None;
        };
        let now = Instant::now();
        let since = match &self.watched {
            // A renewal changes the version.
            Some((before, since)) if before.version == record.version => *since,
            Some(_) | None => {
                self.watched = Some((record.clone(), now));
                now
            }
        };
        (now.duration_since(since) < record.duration).then_some(holder)
    }

    /// Takes the lock if it is still as it was seen. `None`: another run has it, or was faster.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn take(
        &self,
        seen: &Seen,
        patience: &Patience<'_>,
    ) -> Result<Option<Lock<'a>>, LockError> {
        if seen.holder.is_some() {
            return Ok(None);
        }
        let fence = seen.record.as_ref().map_or(0, |record| record.fence) + 1;
        let version = seen.record.as_ref().map(|record| record.version.as_str());
        let now = self.now();
        let times = Times {
            acquired: now.clone(),
            renewed: now,
        };
        let body = record::held(&self.id, &self.subject, &self.me, fence, &times, version);
        let sent = Instant::now();
        let (cluster, actor, id) = (&self.ports.cluster, &self.actor, &self.id);
        let written = patience
            .retry(
                || match version {
                    Some(_) => cluster.replace(actor, id, &body),
                    None => cluster.create(actor, id, &body),
                },
                cluster_trouble,
            )
            .await;
        let body = match written {
            Ok(body) => body,
            Err(ClusterError::Unanswered { .. }) => {
                let look = patience.retry(|| cluster.get(actor, id), cluster_trouble);
                match look.await.map_err(self.failed("taking"))? {
                    Some(body) if self.is_mine(&record::read(&body), fence) => body,
                    Some(_) | None => return Ok(None),
                }
            }
            Err(ClusterError::Exists { .. } | ClusterError::Raced { .. }) => return Ok(None),
            // Somebody deleted the object that was seen; a namespace that is not there is told.
            Err(ClusterError::Missing { .. }) if version.is_some() => return Ok(None),
            Err(error) => return Err(self.failed("taking")(error)),
        };
        let lock = Lock::new(self, record::read(&body), times.acquired, sent);
        Ok(Some(lock))
    }

    fn is_mine(&self, record: &Record, fence: u64) -> bool {
        record.fence == fence
            && record
                .holder
                .as_ref()
                .is_some_and(|holder| holder.run == self.me.run)
    }

    /// Waits until the lock looks free, and says meanwhile who holds it.
    ///
    /// # Errors
    /// At once where the run does not wait; at its deadline; when it is told to stop.
    pub async fn wait(
        &mut self,
        when_locked: WhenLocked,
        patience: &Patience<'_>,
    ) -> Result<(), LockError> {
        let mut said: Option<Instant> = None;
        loop {
            let Some(holder) = self.look(patience).await?.holder else {
                return Ok(());
            };
            let what = self.what();
            match when_locked {
                WhenLocked::Fail => return Err(LockError::Held { what, holder }),
                WhenLocked::Wait => {}
            }
            let now = Instant::now();
            if said.is_none_or(|at| now.duration_since(at) >= SAY_AGAIN) {
                said = Some(now);
                let left = patience.deadline.saturating_duration_since(now).as_secs();
                patience.log.info(format!(
                    "{what} is locked by {holder}; waiting in line, {left} s left"
                ));
            }
            if now + LOOK_AGAIN >= patience.deadline {
                return Err(LockError::Waited { what, holder });
            }
            tokio::select! {
                // Losing the timer is safe: nothing was begun.
                () = patience.stop.cancelled() => return Err(LockError::Stopped),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    fn now(&self) -> String {
        format!("{:.6}", self.ports.clock.now())
    }
}

#[cfg(test)]
mod tests;
