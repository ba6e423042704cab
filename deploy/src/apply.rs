//! Carries out a plan: server-side apply, wave after wave, concurrent inside a wave.
//!
//! Needs the [`Plan`] (and so the permit in it) and the values. The journal notes that writing
//! begins before the first write. A write without an answer is looked at before it is sent again.
//! Steps whose object is already right are not written. Called by [`crate::engine`] in a task that
//! is never dropped; the stop token is asked between writes.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::StreamExt as _;
use proto::report::Action;
use serde_json::Value;

use crate::backoff::Patience;
use crate::check::payload;
use crate::class::Class;
use crate::object::AppliedObject;
use crate::object::ObjectId;
use crate::plan::Content;
use crate::plan::Plan;
use crate::plan::Step;
use crate::plan::WIDTH;
use crate::plan::Wave;
use crate::plan::cluster_trouble;
use crate::ports::ClusterError;
use crate::ports::Entry;
use crate::ports::Force;
use crate::ports::JournalError;
use crate::ports::Ports;
use crate::ports::Write;
use crate::resolve::ResolvedSecrets;
use crate::secret::Secret;

/// All objects of a run as the cluster has them now: the proof that everything was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    objects: Vec<AppliedObject>,
}

impl Applied {
    /// Takes the proof out of the journal: for a run that was cut after everything was written.
    pub(crate) const fn recalled(objects: Vec<AppliedObject>) -> Self {
        Self { objects }
    }

    /// Returns the objects.
    #[must_use]
    pub fn objects(&self) -> &[AppliedObject] {
        &self.objects
    }
}

/// Why not everything was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Some objects were refused, or the server was away too long.
    #[error("writing {object}")]
    Write {
        /// The first object that failed.
        object: String,
        /// Why.
        source: ClusterError,
    },
    /// The run was told to stop.
    #[error("the run was told to stop")]
    Stopped,
    /// The journal cannot be written, so nothing else was.
    #[error("noting that writing begins")]
    Journal(#[from] JournalError),
}

/// What was written before it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyFailure {
    /// Why.
    pub error: ApplyError,
    /// What was written, and what may have been.
    pub written: Vec<ObjectId>,
}

/// Writes everything. `fence` is the number of the run's lock.
///
/// # Errors
/// The first failure, after the other writes of the same wave have ended, with what was written.
pub async fn apply(
    plan: &Plan,
    secrets: &ResolvedSecrets,
    fence: u64,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Applied, ApplyFailure> {
    let failure = |error, written: &[AppliedObject]| ApplyFailure {
        error,
        written: written.iter().map(|object| object.id.clone()).collect(),
    };
    ports
        .journal
        .append(Entry::Applying { fence })
        .await
        .map_err(|error| failure(error.into(), &[]))?;
    let data: BTreeMap<&str, &BTreeMap<String, Secret>> = secrets
        .secrets
        .iter()
        .map(|secret| (secret.name.as_str(), &secret.data))
        .collect();
    let mut objects: Vec<AppliedObject> = Vec::with_capacity(plan.steps().len());
    for wave in Wave::ALL {
        let mut writes = Vec::new();
        for step in plan.steps() {
            if step.wave == wave {
                writes.push(step_one(plan, step, &data, ports, patience).boxed());
            }
        }
        let mut writes = futures::stream::iter(writes).buffer_unordered(WIDTH);
        let mut failed = None;
        while let Some((id, result)) = writes.next().await {
            match result {
                Ok(object) => objects.push(object),
                Err(error) => {
                    patience
                        .log
                        .object(id.to_string(), "failed", error.to_string());
                    failed = failed.or(Some(error));
                }
            }
        }
        if let Some(error) = failed {
            return Err(failure(error, &objects));
        }
        if wave == Wave::Supplies && plan.steps().iter().any(|step| step.id.gvk.is("", "Secret")) {
            ports
                .journal
                .append(Entry::Supplied)
                .await
                .map_err(|error| failure(error.into(), &objects))?;
        }
    }
    ports
        .journal
        .append(Entry::Applied {
            objects: objects.clone(),
        })
        .await
        .map_err(|error| failure(error.into(), &objects))?;
    Ok(Applied { objects })
}

async fn step_one(
    plan: &Plan,
    step: &Step,
    data: &BTreeMap<&str, &BTreeMap<String, Secret>>,
    ports: &Ports,
    patience: &Patience<'_>,
) -> (ObjectId, Result<AppliedObject, ApplyError>) {
    let id = step.id.clone();
    if let (Action::Same, Some(checked)) = (step.action, &step.checked) {
        patience.log.object(id.to_string(), "same", "");
        return (id, Ok(checked.clone()));
    }
    let data = match &step.content {
        Content::Secret { .. } => data.get(id.name.as_str()).copied(),
        Content::Object(_) => None,
    };
    let written = write(plan, step, data, ports, patience).await;
    if written.is_ok() {
        let state = match step.action {
            Action::Create => "created",
            Action::Change => "changed",
            Action::Same | Action::Unknown | Action::Delete | Action::Recreate => "applied",
        };
        patience.log.object(id.to_string(), state, "");
    }
    (id, written.map(|(applied, _)| applied))
}

/// Writes one object until it is written, refused, or patience ends.
async fn write(
    plan: &Plan,
    step: &Step,
    data: Option<&BTreeMap<String, Secret>>,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(AppliedObject, Value), ApplyError> {
    let actor = plan.permit().actor();
    let failed = |source| ApplyError::Write {
        object: step.id.to_string(),
        source,
    };
    loop {
        if patience.stop.is_cancelled() {
            return Err(ApplyError::Stopped);
        }
        let result = patience
            .retry(
                || {
                    ports.cluster.apply(
                        actor,
                        &step.id,
                        payload(&step.content, data),
                        Write::Commit,
                        Force::No,
                    )
                },
                |error| {
                    let mut trouble = cluster_trouble(error);
                    if matches!(error, ClusterError::UnknownKind { .. })
                        && plan.defines(&step.id.gvk)
                    {
                        // The definition was written a moment ago; the server serves it soon.
                        trouble.class = Class::Upstream;
                    }
                    trouble
                },
            )
            .await;
        match result {
            Err(ClusterError::Unanswered { .. }) => {
                look(plan, step, ports, patience).await.map_err(failed)?;
            }
            other => return other.map_err(failed),
        }
    }
}

/// After a write without an answer: waits until the server answers again and says what is there.
/// The same apply may follow: it is the same content by the same manager, so twice is once.
async fn look(
    plan: &Plan,
    step: &Step,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(), ClusterError> {
    let actor = plan.permit().actor();
    let there = if step.id.gvk.is("", "Secret") {
        let read = patience
            .retry(|| ports.cluster.secret(actor, &step.id), cluster_trouble)
            .await;
        read?.is_some()
    } else {
        let read = patience
            .retry(|| ports.cluster.get(actor, &step.id), cluster_trouble)
            .await;
        read?.is_some()
    };
    let seen = if there {
        "it is there"
    } else {
        "it is not there"
    };
    patience.log.warn(format!(
        "no answer to the write of {}; looked: {seen}; applying the same content again",
        step.id
    ));
    if tokio::time::Instant::now() >= patience.deadline {
        return Err(ClusterError::Unanswered {
            object: step.id.to_string(),
        });
    }
    Ok(())
}
