//! The ways back: to the revision that worked, and out of what a killed run left pending.
//!
//! Called by [`super`] before it writes, and by [`crate::engine`] once a rollout is judged. Helm does
//! it; what it wrote is read back, so that a rollback is watched like any other rollout.

use serde_json::json;

use super::READY;
use super::ReleaseError;
use super::left;
use super::live;
use super::records;
use super::records::Pending;
use super::records::Record;
use super::trouble;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::class::Class;
use crate::manifest;
use crate::object::AppliedObject;
use crate::object::ObjectId;
use crate::plan::cluster_trouble;
use crate::ports::Deletion;
use crate::ports::Dependents;
use crate::ports::Ports;
use crate::ports::Release;
use crate::ports::RenderError;
use crate::ports::Write;
use crate::render::release_of;
use crate::spec::Helm;

/// Notes on the newest record of a release that everything was ready, so that a later run can go
/// back to it. Not being able to is only told.
pub async fn mark_ready(permit: &Permit, helm: &Helm, ports: &Ports, patience: &Patience<'_>) {
    let release = release_of(helm, permit);
    let Ok(records) = records::read(permit.actor(), &release, ports, patience).await else {
        return;
    };
    let Some(last) = records.last().filter(|last| last.is_good() && !last.ready) else {
        return;
    };
    let patch = json!([{ "op": "add", "path": "/metadata/labels/state.quaymaster.dev~1rollout", "value": READY }]);
    let noted = ports
        .cluster
        .patch(permit.actor(), &last.id, &patch, Write::Commit)
        .await;
    if let Err(error) = noted {
        patience.log.warn(format!(
            "the record of release {} could not be marked as ready ({error}); a rollback will not \
             come back to it",
            release.name
        ));
    }
}

/// Which process wrote the newest record of a release, if it is of this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// This one, under its own decision.
    ThisOne,
    /// The one before a restart, whose decision was another one; it is known to have written.
    FormerProcess,
}

/// Goes back to the newest revision that worked, before the one that this run wrote. Returns the revision
/// and its objects as they are now.
///
/// # Errors
/// As [`write`]; [`ReleaseError::Untouched`] where the newest revision is not of this run.
pub async fn roll_back(
    permit: &Permit,
    helm: &Helm,
    by: By,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(u64, Vec<AppliedObject>), ReleaseError> {
    let release = release_of(helm, permit);
    let records = records::read(permit.actor(), &release, ports, patience).await?;
    let newest = records.last().and_then(|last| last.run.as_deref());
    if by == By::ThisOne && newest != Some(permit.decision()) {
        // Whatever the newest revision is, this run has not replaced it.
        return Err(ReleaseError::Untouched {
            release: release.name.to_string(),
        });
    }
    let target = records::earlier(&records).ok_or_else(|| ReleaseError::NoEarlier {
        release: release.name.to_string(),
    })?;
    let failed = |source| ReleaseError::Helm {
        release: release.name.to_string(),
        source,
    };
    let revision = target.revision;
    back_to(permit, &release, revision, ports, patience)
        .await
        .map_err(failed)?;
    let text = patience
        .retry(
            || {
                ports
                    .renderer
                    .manifest(permit.actor(), &release, revision, left(patience))
            },
            trouble,
        )
        .await
        .map_err(failed)?;
    let read = manifest::rendered("manifest", &text);
    let objects = read.map_err(|_places| ReleaseError::Manifest {
        release: release.name.to_string(),
    })?;
    let namespaced = |mut id: ObjectId| {
        if id.namespace.is_none() && !crate::kinds::is_cluster_scoped(&id.gvk) {
            id.namespace = Some(release.namespace.clone());
        }
        id
    };
    let ids = objects.objects.into_iter();
    let ids = ids.map(|object| namespaced(object.id)).collect();
    Ok((revision, live(permit, ids, ports, patience).await?))
}

/// Puts a release right that an earlier run of ours left pending. Returns whether it did anything.
pub(super) async fn recover(
    permit: &Permit,
    release: &Release,
    records: &[Record],
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<bool, ReleaseError> {
    let now = ports.clock.now().as_second();
    let (last, target) = match records::pending(records, now) {
        Pending::No => return Ok(false),
        Pending::Others(last) => {
            return Err(ReleaseError::Busy {
                release: release.name.to_string(),
                status: last.status.clone(),
                revision: last.revision,
            });
        }
        Pending::Ours(last, target) => (last, target),
    };
    let name = &release.name;
    let status = &last.status;
    if let Some(target) = target {
        patience.log.warn(format!(
            "an earlier deploy was killed and left release {name} {status}; rolling back to its \
             revision {target} first"
        ));
        back_to(permit, release, target, ports, patience)
            .await
            .map_err(|source| ReleaseError::Helm {
                release: name.to_string(),
                source,
            })?;
    } else {
        patience.log.warn(format!(
            "an earlier deploy was killed and left release {name} {status}; its record is removed, \
             what it wrote is taken over"
        ));
        let deletion = Deletion {
            uid: last.uid.clone(),
            dependents: Dependents::Background,
            write: Write::Commit,
        };
        patience
            .retry(
                || ports.cluster.delete(permit.actor(), &last.id, &deletion),
                |error| {
                    let mut trouble = cluster_trouble(error);
                    if trouble.class == Class::OutcomeUnknown {
                        // By its uid, so a second deletion finds it gone.
                        trouble.class = Class::Upstream;
                    }
                    trouble
                },
            )
            .await
            .map_err(|source| ReleaseError::Cluster {
                what: last.id.to_string(),
                source,
            })?;
    }
    Ok(true)
}

async fn back_to(
    permit: &Permit,
    release: &Release,
    revision: u64,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(), RenderError> {
    patience
        .retry(
            || {
                ports
                    .renderer
                    .roll_back(permit.actor(), release, revision, left(patience))
            },
            trouble,
        )
        .await
}
