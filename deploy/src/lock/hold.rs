//! Holding a lock: renewing it while the run works, noticing its loss, giving it back.
//!
//! Made by [`super::Gate::take`]. Invariant: no renewal is dropped half way, and a run that cannot
//! be sure of its lock any more is told through [`Lock::reins`] before another run could have it:
//! the doubt comes five seconds before the lock runs out for others.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Gate;
use super::Reins;
use super::record;
use super::record::DURATION;
use super::record::Holder;
use super::record::Record;
use super::record::Subject;
use super::record::Times;
use crate::backoff::Patience;
use crate::object::ObjectId;
use crate::plan::cluster_trouble;
use crate::ports::ClusterError;
use crate::ports::Ports;
use crate::principal::Actor;

/// How often a lock is renewed.
const RENEW: Duration = Duration::from_secs(10);
/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long after the last renewal the run still writes.
const SURE: Duration = Duration::from_secs(25);
/// How long giving it back may take.
const RELEASE: Duration = Duration::from_secs(30);

/// A lock that this run holds. [`Lock::hold`] gives it back.
#[must_use = "a lock that is not held runs out only by itself"]
pub struct Lock<'a> {
    id: ObjectId,
    subject: Subject,
    me: Holder,
    actor: Actor,
    ports: &'a Ports,
    record: Record,
    acquired: String,
    /// When the last renewal that arrived was sent.
    renewed: Instant,
    reins: Reins,
    standing: Standing,
}

/// Whether it is still there to be given back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Mine,
    Lost,
}

/// How a renewal went.
enum Renewal {
    Done,
    /// Another run has it, or somebody took it away.
    Lost(String),
    /// Not known, or not now.
    Later(String),
}

impl<'a> Lock<'a> {
    pub(super) fn new(gate: &Gate<'a>, record: Record, acquired: String, sent: Instant) -> Self {
        Self {
            id: gate.id.clone(),
            subject: gate.subject.clone(),
            me: gate.me.clone(),
            actor: gate.actor.clone(),
            ports: gate.ports,
            reins: Reins::of_lock(gate.stops(), record.fence),
            record,
            acquired,
            renewed: sent,
            standing: Standing::Mine,
        }
    }

    /// Returns the number of this taking: higher than that of every earlier holder.
    #[must_use]
    pub const fn fence(&self) -> u64 {
        self.record.fence
    }

    /// Lets its loss stop a run that holds another lock too.
    pub(super) fn under(mut self, reins: &Reins) -> Self {
        self.reins = reins.clone();
        self
    }

    /// Returns what stops the run that holds it.
    #[must_use]
    pub fn reins(&self) -> Reins {
        self.reins.clone()
    }

    /// Renews the lock while `work` is on, then gives it back.
    pub async fn hold<T>(mut self, patience: &Patience<'_>, work: impl Future<Output = T>) -> T {
        let done = CancellationToken::new();
        let worked = async {
            let result = work.await;
            done.cancel();
            result
        };
        let (result, ()) = futures::future::join(worked, self.keep(&done, patience)).await;
        if self.standing == Standing::Mine {
            self.release(patience).await;
        }
        result
    }

    async fn keep(&mut self, done: &CancellationToken, patience: &Patience<'_>) {
        let mut next = self.renewed + RENEW;
        let mut said = None;
        loop {
            tokio::select! {
                // Nothing is lost: the token stays cancelled, and the timer is set anew.
                biased;
                () = done.cancelled() => return,
                () = tokio::time::sleep_until(next) => {}
            }
            let doubt = self.renewed + SURE;
            let reins = self.reins.clone();
            let renewal = {
                let mut renewal = std::pin::pin!(self.renew());
                tokio::select! {
                    // The renewal is not dropped when the doubt comes first. The doubt is asked
                    // first: a renewal that fails at once must not outrun it.
                    biased;
                    () = tokio::time::sleep_until(doubt) => {
                        reins.doubt();
                        renewal.await
                    }
                    renewal = &mut renewal => renewal,
                }
            };
            next = Instant::now() + AGAIN;
            match renewal {
                Renewal::Done => {
                    next = self.renewed + RENEW;
                    said = None;
                }
                Renewal::Later(reason) => {
                    if said.as_ref() != Some(&reason) {
                        patience
                            .log
                            .warn(format!("the lock could not be renewed: {reason}"));
                        said = Some(reason);
                    }
                }
                Renewal::Lost(reason) => {
                    patience.log.error(format!("the lock is lost: {reason}"));
                    self.reins.lose();
                    self.standing = Standing::Lost;
                    return;
                }
            }
        }
    }

    async fn renew(&mut self) -> Renewal {
        let times = Times {
            acquired: self.acquired.clone(),
            renewed: format!("{:.6}", self.ports.clock.now()),
        };
        let version = Some(self.record.version.as_str());
        let body = record::held(
            &self.id,
            &self.subject,
            &self.me,
            self.record.fence,
            &times,
            version,
        );
        let sent = Instant::now();
        let cluster = &self.ports.cluster;
        match cluster.replace(&self.actor, &self.id, &body).await {
            Ok(body) => {
                self.record = record::read(&body);
                self.renewed = sent;
                Renewal::Done
            }
            Err(error @ (ClusterError::Raced { .. } | ClusterError::Unanswered { .. })) => {
                self.look(&error, sent).await
            }
            Err(ClusterError::Missing { .. }) => Renewal::Lost(deleted()),
            // A cluster that has just started refuses everything for a moment.
            Err(
                error @ (ClusterError::Forbidden { .. }
                | ClusterError::Invalid { .. }
                | ClusterError::UnknownKind { .. }
                | ClusterError::Conflict { .. }
                | ClusterError::Exists { .. }
                | ClusterError::Unavailable { .. }
                | ClusterError::Unexpected { .. }),
            ) => Renewal::Later(error.to_string()),
        }
    }

    /// Learns what became of a renewal: it may have arrived, or somebody touched the object.
    async fn look(&mut self, error: &ClusterError, sent: Instant) -> Renewal {
        match self.ports.cluster.get(&self.actor, &self.id).await {
            Ok(Some(body)) => {
                let found = record::read(&body);
                if !self.is_mine(&found) {
                    return Renewal::Lost(taken(&found));
                }
                let arrived = found.renewed != self.record.renewed;
                self.record = found;
                if arrived {
                    // Nobody can have seen it before it was sent.
                    self.renewed = sent;
                    return Renewal::Done;
                }
                Renewal::Later(error.to_string())
            }
            Ok(None) => Renewal::Lost(deleted()),
            Err(_) => Renewal::Later(error.to_string()),
        }
    }

    fn is_mine(&self, found: &Record) -> bool {
        let holder = found.holder.as_ref();
        found.fence == self.record.fence && holder.is_some_and(|holder| holder.run == self.me.run)
    }

    /// Clears the holder; the number stays.
    async fn release(mut self, patience: &Patience<'_>) {
        // A cancelled or timed out run still gives its lock back.
        let stop = CancellationToken::new();
        let patience = Patience {
            deadline: Instant::now() + RELEASE,
            stop: &stop,
            ..patience.clone()
        };
        let (cluster, actor, id) = (&self.ports.cluster, &self.actor, &self.id);
        loop {
            let body = record::free(id, &self.subject, self.record.fence, &self.record.version);
            let written = patience
                .retry(|| cluster.replace(actor, id, &body), cluster_trouble)
                .await;
            let error = match written {
                Ok(_) | Err(ClusterError::Missing { .. }) => return,
                Err(error @ (ClusterError::Raced { .. } | ClusterError::Unanswered { .. })) => {
                    let look = patience.retry(|| cluster.get(actor, id), cluster_trouble);
                    match look.await {
                        Ok(Some(body)) if self.is_mine(&record::read(&body)) => {
                            self.record = record::read(&body);
                            if Instant::now() < patience.deadline {
                                continue;
                            }
                            error
                        }
                        Ok(_) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            let seconds = DURATION.as_secs();
            patience.log.warn(format!(
                "the lock could not be given back ({error}); it runs out by itself after {seconds} s"
            ));
            return;
        }
    }
}

fn deleted() -> String {
    "somebody deleted its object".to_owned()
}

fn taken(found: &Record) -> String {
    match &found.holder {
        Some(holder) => format!("{holder} has it"),
        None => "somebody cleared its holder".to_owned(),
    }
}
