//! Writes one object on the terms of the plan: deletes what has to go first, moves ownership, applies.
//!
//! Called by [`super::apply`]. Every step looks at the object before it acts, so that doing it twice is
//! doing it once: a write without an answer, or one that met a change, is looked at and then decided
//! on anew, until the object is written, refused, or patience ends.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::ApplyError;
use crate::backoff::Patience;
use crate::backoff::Trouble;
use crate::check::examine::dependents;
use crate::check::examine::harmless;
use crate::check::examine::with_body;
use crate::class::Class;
use crate::managers;
use crate::object::AppliedObject;
use crate::object::list;
use crate::object::text;
use crate::plan::Content;
use crate::plan::Plan;
use crate::plan::Step;
use crate::plan::cluster_trouble;
use crate::ports::ClusterError;
use crate::ports::Deletion;
use crate::ports::FieldConflict;
use crate::ports::Force;
use crate::ports::Ports;
use crate::ports::Write;
use crate::secret::Secret;
use crate::terms;
use crate::terms::Terms;

/// Between two looks at an object that is going away or that others change.
const PAUSE: Duration = Duration::from_millis(200);
/// An object that is not gone after this time is told about.
const LONG: Duration = Duration::from_secs(5);

/// One object, and what it is written with.
pub(super) struct Writer<'a> {
    pub(super) plan: &'a Plan,
    pub(super) step: &'a Step,
    /// What is sent: the step's content, of a Secret that is kept fresh with its final record.
    pub(super) content: &'a Content,
    pub(super) data: Option<&'a BTreeMap<String, Secret>>,
    pub(super) ports: &'a Ports,
    pub(super) patience: &'a Patience<'a>,
}

impl Writer<'_> {
    /// Writes the object.
    pub(super) async fn write(&self) -> Result<AppliedObject, ApplyError> {
        let plain = Terms::default();
        let terms = self.plan.terms.get(&self.step.id).unwrap_or(&plain);
        if let Some(replaced) = &terms.replaces {
            self.remove(&replaced.uid).await?;
        }
        if !terms.moves.is_empty() {
            self.move_ownership(terms).await?;
        }
        if terms.take.is_empty() {
            self.apply(terms).await
        } else {
            self.take(terms).await
        }
    }

    fn failed(&self, source: ClusterError) -> ApplyError {
        ApplyError::Write {
            object: self.step.id.to_string(),
            source,
        }
    }

    /// Reads the object, of a Secret everything but its values.
    async fn read(&self) -> Result<Option<Value>, ApplyError> {
        let actor = self.plan.permit().actor();
        let id = &self.step.id;
        let cluster = &self.ports.cluster;
        let read = if id.gvk.is("", "Secret") {
            let read = self
                .patience
                .retry(|| cluster.secret(actor, id), cluster_trouble);
            read.await.map(|view| view.map(|view| view.rest))
        } else {
            self.patience
                .retry(|| cluster.get(actor, id), cluster_trouble)
                .await
        };
        read.map_err(|error| self.failed(error))
    }

    /// Waits a little before the next look; ends with the run's stop token or deadline.
    async fn pause(&self, at_the_end: ClusterError) -> Result<(), ApplyError> {
        if Instant::now() + PAUSE >= self.patience.deadline {
            return Err(self.failed(at_the_end));
        }
        tokio::select! {
            // Losing the timer is safe: nothing is being written while it runs.
            () = self.patience.stop.cancelled() => Err(ApplyError::Stopped),
            () = tokio::time::sleep(PAUSE) => Ok(()),
        }
    }

    fn raced(&self) -> ClusterError {
        ClusterError::Raced {
            object: self.step.id.to_string(),
        }
    }

    async fn send(&self, body: &Value, force: Force) -> Result<AppliedObject, ClusterError> {
        let actor = self.plan.permit().actor();
        let cluster = &self.ports.cluster;
        let look = |error: &ClusterError| self.trouble(error);
        let payload = || with_body(self.content, body, self.data);
        let sent = self.patience.retry(
            || cluster.apply(actor, &self.step.id, payload(), Write::Commit, force),
            look,
        );
        sent.await.map(|(applied, _)| applied)
    }

    fn trouble(&self, error: &ClusterError) -> Trouble {
        let mut trouble = cluster_trouble(error);
        if matches!(error, ClusterError::UnknownKind { .. }) && self.plan.defines(&self.step.id.gvk)
        {
            // The definition was written a moment ago; the server serves it soon.
            trouble.class = Class::Upstream;
        }
        trouble
    }

    /// Applies without force.
    async fn apply(&self, terms: &Terms) -> Result<AppliedObject, ApplyError> {
        let mut body = self.content.body().clone();
        loop {
            if self.patience.stop.is_cancelled() {
                return Err(ApplyError::Stopped);
            }
            match self.send(&body, Force::No).await {
                Err(ClusterError::Unanswered { .. }) => self.look().await?,
                // Somebody set a field that is left to others between the check and now.
                Err(error @ ClusterError::Conflict { .. }) if !terms.leave.is_empty() => {
                    let live = self.read().await?.unwrap_or(Value::Null);
                    let mut anew = self.content.body().clone();
                    let gvk = &self.step.id.gvk;
                    terms::shape(gvk, &mut anew, &live, &terms.leave, &terms.adopt);
                    if anew == body {
                        return Err(self.failed(error));
                    }
                    body = anew;
                }
                other => return other.map_err(|error| self.failed(error)),
            }
        }
    }

    /// Applies with force, bound to the version in which nothing is contested but what was decided.
    async fn take(&self, terms: &Terms) -> Result<AppliedObject, ApplyError> {
        let actor = self.plan.permit().actor();
        let cluster = &self.ports.cluster;
        loop {
            if self.patience.stop.is_cancelled() {
                return Err(ApplyError::Stopped);
            }
            let live = self.read().await?.unwrap_or(Value::Null);
            let mut body = self.content.body().clone();
            let gvk = &self.step.id.gvk;
            terms::shape(gvk, &mut body, &live, &terms.leave, &terms.adopt);
            let payload = || with_body(self.content, &body, self.data);
            let probe = self.patience.retry(
                || cluster.apply(actor, &self.step.id, payload(), Write::DryRun, Force::No),
                harmless,
            );
            let force = match probe.await {
                Ok(_) => Force::No,
                Err(ClusterError::Conflict { fields, .. }) if decided(&fields, terms) => {
                    Force::Take
                }
                Err(error) => return Err(self.failed(error)),
            };
            if force == Force::Take {
                let version = text(&live, &["metadata", "resourceVersion"]);
                body["metadata"]["resourceVersion"] = Value::from(version);
            }
            match self.send(&body, force).await {
                Err(ClusterError::Unanswered { .. }) => self.look().await?,
                Err(ClusterError::Raced { .. } | ClusterError::Conflict { .. }) => {
                    self.pause(self.raced()).await?;
                }
                other => return other.map_err(|error| self.failed(error)),
            }
        }
    }

    /// Moves the fields of tools that handed the object over.
    async fn move_ownership(&self, terms: &Terms) -> Result<(), ApplyError> {
        let actor = self.plan.permit().actor();
        let id = &self.step.id;
        let cluster = &self.ports.cluster;
        loop {
            let Some(live) = self.read().await? else {
                return Ok(());
            };
            let moved = managers::to_us(&live, &terms.adopt, &id.gvk.api_version());
            let Some(moved) = moved else {
                return Ok(());
            };
            let sent = self
                .patience
                .retry(
                    || cluster.patch(actor, id, &moved.patch, Write::Commit),
                    cluster_trouble,
                )
                .await;
            match sent {
                // The next look finds nothing left to move.
                Ok(_) => {
                    let whose = moved.managers.join(" and ");
                    let detail = format!("fields of {whose} are ours now");
                    self.patience.log.object(id.to_string(), "adopted", detail);
                }
                Err(ClusterError::Raced { .. } | ClusterError::Unanswered { .. }) => {
                    self.pause(self.raced()).await?;
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Deletes the very object that stands in the way and waits until it is gone.
    async fn remove(&self, uid: &str) -> Result<(), ApplyError> {
        let actor = self.plan.permit().actor();
        let id = &self.step.id;
        let cluster = &self.ports.cluster;
        let deletion = Deletion {
            uid: uid.to_owned(),
            dependents: dependents(self.step),
            write: Write::Commit,
        };
        let begun = Instant::now();
        let mut told = Instant::now();
        loop {
            let Some(live) = self.read().await? else {
                self.patience
                    .log
                    .object(id.to_string(), "deleted", "to be made anew");
                return Ok(());
            };
            if text(&live, &["metadata", "uid"]) != uid {
                return Err(self.failed(self.raced()));
            }
            if text(&live, &["metadata", "deletionTimestamp"]).is_empty() {
                if self.patience.stop.is_cancelled() {
                    return Err(ApplyError::Stopped);
                }
                let sent = self
                    .patience
                    .retry(|| cluster.delete(actor, id, &deletion), cluster_trouble);
                match sent.await {
                    // The next look says whether it is gone.
                    Ok(()) => {}
                    Err(ClusterError::Unanswered { .. } | ClusterError::Raced { .. }) => {
                        self.pause(self.raced()).await?;
                    }
                    Err(error) => return Err(self.failed(error)),
                }
                continue;
            }
            let held = finalizers(&live);
            if told.elapsed() >= LONG {
                told = Instant::now();
                let seconds = begun.elapsed().as_secs();
                self.patience.log.warn(format!(
                    "{id} is being deleted for {seconds} s; it waits for {held}"
                ));
            }
            if Instant::now() + PAUSE >= self.patience.deadline {
                return Err(ApplyError::Stuck {
                    object: id.to_string(),
                    finalizers: held,
                });
            }
            self.pause(self.raced()).await?;
        }
    }

    /// After a write without an answer: waits until the server answers again and says what is there.
    /// The same apply may follow: it is the same content by the same manager, so twice is once.
    async fn look(&self) -> Result<(), ApplyError> {
        let seen = match self.read().await? {
            Some(_) => "it is there",
            None => "it is not there",
        };
        let id = &self.step.id;
        self.patience.log.warn(format!(
            "no answer to the write of {id}; looked: {seen}; applying the same content again"
        ));
        if Instant::now() >= self.patience.deadline {
            return Err(self.failed(ClusterError::Unanswered {
                object: id.to_string(),
            }));
        }
        Ok(())
    }
}

/// Says whether every contested field was decided on in the check.
fn decided(fields: &[FieldConflict], terms: &Terms) -> bool {
    fields.iter().all(|conflict| {
        let mut pairs = terms.take.iter();
        pairs.any(|(field, manager)| *field == conflict.field && *manager == conflict.manager)
    })
}

/// Names the finalizers of an object.
fn finalizers(live: &Value) -> String {
    let names = list(live, &["metadata", "finalizers"]).iter();
    let names: Vec<&str> = names.filter_map(Value::as_str).collect();
    match names.as_slice() {
        [] => "the API server".to_owned(),
        names => format!("finalizers {}", names.join(", ")),
    }
}
