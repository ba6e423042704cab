//! Carries out a plan: server-side apply, wave after wave, concurrent inside a wave.
//!
//! Needs the [`Plan`] (and so the permit in it) and the values. The journal notes that writing
//! begins before it is called. [`mod@write`] does one object; what got no answer is looked at before it
//! is sent again. Steps whose object is already right are not written; a chart's objects are Helm's
//! to write. Called by [`crate::engine`] in a task that
//! is never dropped; the stop token is asked between writes.

mod write;

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::StreamExt as _;
use proto::report::Action;

use self::write::Writer;
use crate::backoff::Patience;
use crate::managed;
use crate::object::AppliedObject;
use crate::object::ObjectId;
use crate::plan::Content;
use crate::plan::Plan;
use crate::plan::Step;
use crate::plan::WIDTH;
use crate::plan::Wave;
use crate::ports::ClusterError;
use crate::ports::Entry;
use crate::ports::JournalError;
use crate::ports::Ports;
use crate::release;
use crate::release::ReleaseError;
use crate::resolve::ResolvedSecret;
use crate::resolve::ResolvedSecrets;

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
    /// Helm did not write the chart.
    #[error("writing the release")]
    Release(#[from] ReleaseError),
    /// An object that has to be made anew does not go.
    #[error("{object} is being deleted and does not go: it waits for {finalizers}")]
    Stuck {
        /// The object.
        object: String,
        /// What it waits for.
        finalizers: String,
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
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Applied, ApplyFailure> {
    let failure = |error, written: &[AppliedObject]| ApplyFailure {
        error,
        written: written.iter().map(|object| object.id.clone()).collect(),
    };
    let data: BTreeMap<&str, &ResolvedSecret> = secrets
        .secrets
        .iter()
        .map(|secret| (secret.name.as_str(), secret))
        .collect();
    let mut objects: Vec<AppliedObject> = Vec::with_capacity(plan.steps().len());
    for wave in Wave::ALL {
        let mut writes = Vec::new();
        for step in plan.steps() {
            if step.wave == wave && !plan.by_helm(step) {
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
    if let Some(helm) = &plan.permit().request().spec.helm {
        match release::write(plan, helm, ports, patience).await {
            Ok(released) => objects.extend(released),
            Err(error) => return Err(failure(error.into(), &objects)),
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

/// Writes only the namespace of the run, which the lock is to be in.
///
/// # Errors
/// When it is refused.
pub async fn namespace(
    plan: &Plan,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(), ApplyFailure> {
    let name = plan.permit().namespace().as_str();
    let own = |step: &&Step| step.id.gvk.is("", "Namespace") && step.id.name == name;
    let Some(step) = plan.steps().iter().find(own) else {
        return Ok(());
    };
    let (_, written) = step_one(plan, step, &BTreeMap::new(), ports, patience).await;
    written.map(drop).map_err(|error| ApplyFailure {
        error,
        written: Vec::new(),
    })
}

/// Puts the record that belongs to the values onto a Secret that is kept fresh.
fn recorded(content: &Content, resolved: &ResolvedSecret) -> Option<Content> {
    let (Content::Secret { body, index }, Some(record)) = (content, &resolved.record) else {
        return None;
    };
    let mut body = body.clone();
    managed::write_on(&mut body, record.to_text());
    Some(Content::Secret {
        body,
        index: *index,
    })
}

async fn step_one(
    plan: &Plan,
    step: &Step,
    data: &BTreeMap<&str, &ResolvedSecret>,
    ports: &Ports,
    patience: &Patience<'_>,
) -> (ObjectId, Result<AppliedObject, ApplyError>) {
    let id = step.id.clone();
    if let (Action::Same, Some(checked)) = (step.action, &step.checked) {
        patience.log.object(id.to_string(), "same", "");
        return (id, Ok(checked.clone()));
    }
    let resolved = match &step.content {
        Content::Secret { .. } => data.get(id.name.as_str()).copied(),
        Content::Object(_) => None,
    };
    let recorded = resolved.and_then(|resolved| recorded(&step.content, resolved));
    let writer = Writer {
        plan,
        step,
        content: recorded.as_ref().unwrap_or(&step.content),
        data: resolved.map(|resolved| &resolved.data),
        ports,
        patience,
    };
    let written = writer.write().await;
    if written.is_ok() {
        let state = match step.action {
            Action::Create => "created",
            Action::Change => "changed",
            Action::Recreate => "recreated",
            Action::Same | Action::Unknown | Action::Delete => "applied",
        };
        patience.log.object(id.to_string(), state, "");
    }
    (id, written)
}
