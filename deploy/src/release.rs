//! Helm's write: the chart of a run becomes a release, and a release goes back to an earlier one.
//!
//! Called by [`crate::apply`] once the Secrets from Vault are written, and by [`crate::engine`] for
//! a rollback. Helm gets the chart that [`crate::chart::frozen`] makes of the plan's own objects.
//! Every record that we let Helm write carries the run and a digest of its content as labels, by
//! which the next run tells "nothing changed", and its own dead runs from other people's Helm.

mod records;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures::FutureExt as _;
use futures::StreamExt as _;
use proto::report::Action;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;
use tokio::time::Instant;

use self::records::Pending;
use self::records::Record;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::backoff::Trouble;
use crate::chart;
use crate::manifest;
use crate::object::AppliedObject;
use crate::object::ObjectId;
use crate::object::number;
use crate::object::text;
use crate::plan::Plan;
use crate::plan::Step;
use crate::plan::WIDTH;
use crate::plan::cluster_trouble;
use crate::ports::Chart;
use crate::ports::ClusterError;
use crate::ports::Deletion;
use crate::ports::Dependents;
use crate::ports::Marks;
use crate::ports::Ports;
use crate::ports::Presence;
use crate::ports::Release;
use crate::ports::RenderError;
use crate::ports::Write;
use crate::render::release_of;
use crate::request::Source;
use crate::spec::Helm;

/// Label of a record: the decision that let a run write it; every run has its own.
const RUN: &str = "state.quaymaster.dev/decision";
/// Label of a record: a digest of what was written.
const CONTENT: &str = "state.quaymaster.dev/content";
/// Label of a record: what the watch said of it.
const ROLLOUT: &str = "state.quaymaster.dev/rollout";
/// The value of [`ROLLOUT`] once everything was ready.
const READY: &str = "ready";

/// Why the release is not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Helm says no, or could not be run.
    #[error("Helm did not write release {release}")]
    Helm {
        /// The release.
        release: String,
        /// Why.
        source: RenderError,
    },
    /// A hook of the chart failed.
    #[error("a hook of release {release} failed")]
    Hook {
        /// The release.
        release: String,
        /// Helm's words.
        said: String,
        /// The hooks that are there, for a look at why.
        hooks: Vec<AppliedObject>,
    },
    /// Another Helm works on the release, or was killed while it did.
    #[error("release {release} is {status} in revision {revision}, and not by an earlier deploy")]
    Busy {
        /// The release.
        release: String,
        /// Helm's word.
        status: String,
        /// The revision.
        revision: u64,
    },
    /// There is no earlier revision that worked.
    #[error("release {release} has no earlier revision that worked")]
    NoEarlier {
        /// The release.
        release: String,
    },
    /// The cluster could not be read, or does not let us.
    #[error("reading {what}")]
    Cluster {
        /// What.
        what: String,
        /// Why.
        source: ClusterError,
    },
    /// What Helm recorded cannot be read.
    #[error("reading the manifest of release {release}")]
    Manifest {
        /// The release.
        release: String,
    },
}

/// Writes the chart of a plan as a release, unless the cluster has it already. Returns its objects
/// as they are now, without hooks.
///
/// # Errors
/// Something may have been written; Helm's record says how far it came.
pub async fn write(
    plan: &Plan,
    helm: &Helm,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Vec<AppliedObject>, ReleaseError> {
    let permit = plan.permit();
    let release = release_of(helm, permit);
    let mut records = records::read(permit.actor(), &release, ports, patience).await?;
    if recover(permit, &release, &records, ports, patience).await? {
        records = records::read(permit.actor(), &release, ports, patience).await?;
    }
    let chart = frozen_chart(permit, helm, &records);
    let content = digest(&chart);
    if let Some(there) = unchanged(plan, &records, &content) {
        patience.log.info(format!(
            "release {} has this content already; Helm has nothing to do",
            release.name
        ));
        return Ok(there);
    }
    let run = permit.decision().to_owned();
    let marks = Marks {
        description: format!("quaymaster, decision {run}"),
        labels: BTreeMap::from([
            (RUN.to_owned(), run.clone()),
            (CONTENT.to_owned(), content),
            (ROLLOUT.to_owned(), "unknown".to_owned()),
        ]),
    };
    let time = helm.timeout.unwrap_or(Duration::MAX).min(left(patience));
    let written = patience
        .retry(
            || ports.renderer.upgrade(permit.actor(), &chart, &marks, time),
            trouble,
        )
        .await;
    if let Err(error) = written {
        let records = records::read(permit.actor(), &release, ports, patience).await?;
        if !records::is_done(&records, &run) {
            return Err(refused(plan, &release, error, ports, patience).await);
        }
        patience.log.warn(format!(
            "Helm says: {error}; looked: the record of release {} says that it is deployed",
            release.name
        ));
    }
    patience.log.info(format!(
        "Helm wrote release {}; `helm history` shows it as \"{}\"",
        release.name, marks.description
    ));
    let ids = main_objects(plan).map(|step| step.id.clone()).collect();
    live(permit, ids, ports, patience).await
}

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

/// Goes back to the newest revision that worked, before the current one. Returns the revision and
/// its objects as they are now.
///
/// # Errors
/// As [`write`].
pub async fn roll_back(
    permit: &Permit,
    helm: &Helm,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(u64, Vec<AppliedObject>), ReleaseError> {
    let release = release_of(helm, permit);
    let records = records::read(permit.actor(), &release, ports, patience).await?;
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
async fn recover(
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
                    if trouble.class == crate::class::Class::OutcomeUnknown {
                        // By its uid, so a second deletion finds it gone.
                        trouble.class = crate::class::Class::Upstream;
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

/// Tells the retry policy about a program that writes: only what surely wrote nothing is repeated.
fn trouble(error: &RenderError) -> Trouble {
    Trouble {
        class: error.class(),
        retry_after_seconds: None,
        reason: error.to_string(),
    }
}

fn left(patience: &Patience<'_>) -> Duration {
    patience.deadline.saturating_duration_since(Instant::now())
}

/// The chart that Helm writes.
fn frozen_chart(permit: &Permit, helm: &Helm, records: &[Record]) -> Chart {
    let request = permit.request();
    let none = BTreeMap::new();
    let files = match &request.source {
        Source::Rendered(files) => files,
        Source::Manifests | Source::Revision(_) => &none,
    };
    let presence = if records.is_empty() {
        Presence::New
    } else {
        Presence::Installed
    };
    Chart {
        release: release_of(helm, permit),
        files: chart::frozen(files, helm, &request.objects),
        chart: chart::FROZEN.to_owned(),
        values: helm
            .values
            .iter()
            .map(|path| format!("values/{}", chart::plain(path)))
            .collect(),
        set: chart::values(helm, &request.spec.images),
        hooks: helm.hooks,
        crds: helm.crds,
        presence,
    }
}

/// A digest of everything that makes the release what it is; short enough for a label.
fn digest(chart: &Chart) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    for (path, content) in &chart.files {
        add(path.as_bytes());
        add(content);
    }
    chart.values.iter().for_each(|path| add(path.as_bytes()));
    add(chart.set.to_string().as_bytes());
    add(format!("{:?} {:?}", chart.hooks, chart.crds).as_bytes());
    let mut text = String::with_capacity(40);
    for byte in &hash.finalize()[..20] {
        write!(text, "{byte:02x}").expect("writing to a text cannot fail");
    }
    text
}

/// Returns the objects as the check saw them if the last record has this content and the cluster
/// has every object as it is wanted.
fn unchanged(plan: &Plan, records: &[Record], content: &str) -> Option<Vec<AppliedObject>> {
    let last = records.last()?;
    if !last.is_good() || last.content.as_deref() != Some(content) {
        return None;
    }
    main_objects(plan)
        .map(|step| match step.action {
            Action::Same => step.checked.clone(),
            Action::Create
            | Action::Change
            | Action::Unknown
            | Action::Delete
            | Action::Recreate => None,
        })
        .collect()
}

/// The objects of the chart that stay: hooks come and go with Helm.
fn main_objects(plan: &Plan) -> impl Iterator<Item = &Step> {
    let by_helm = plan.steps().iter().filter(|step| plan.by_helm(step));
    by_helm.filter(|step| !plan.is_hook(step))
}

/// Makes an error of what Helm said; for a failed hook with the hooks that are there.
async fn refused(
    plan: &Plan,
    release: &Release,
    source: RenderError,
    ports: &Ports,
    patience: &Patience<'_>,
) -> ReleaseError {
    let name = release.name.to_string();
    let RenderError::Refused { said, .. } = &source else {
        return ReleaseError::Helm {
            release: name,
            source,
        };
    };
    if !said.contains("hook") {
        return ReleaseError::Helm {
            release: name,
            source,
        };
    }
    let hooks = plan
        .steps()
        .iter()
        .filter(|step| plan.is_hook(step))
        .filter(|step| said.contains(&step.id.name));
    let ids = hooks.map(|step| step.id.clone()).collect();
    ReleaseError::Hook {
        release: name,
        said: said.clone(),
        hooks: live(plan.permit(), ids, ports, patience)
            .await
            .unwrap_or_default(),
    }
}

/// Reads objects as they are now; those that are gone are left out.
async fn live(
    permit: &Permit,
    ids: Vec<ObjectId>,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Vec<AppliedObject>, ReleaseError> {
    let mut reads = Vec::with_capacity(ids.len());
    for id in ids {
        reads.push(live_one(permit, id, ports, patience).boxed());
    }
    let mut reads = futures::stream::iter(reads).buffer_unordered(WIDTH);
    let mut found = Vec::new();
    while let Some(read) = reads.next().await {
        found.extend(read?);
    }
    found.sort_by(|a: &AppliedObject, b| a.id.cmp(&b.id));
    Ok(found)
}

async fn live_one(
    permit: &Permit,
    id: ObjectId,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Option<AppliedObject>, ReleaseError> {
    let actor = permit.actor();
    let read = if id.gvk.is("", "Secret") {
        let read = patience.retry(|| ports.cluster.secret(actor, &id), cluster_trouble);
        read.await.map(|found| found.map(|view| view.rest))
    } else {
        let read = patience.retry(|| ports.cluster.get(actor, &id), cluster_trouble);
        read.await
    };
    let body = read.map_err(|source| ReleaseError::Cluster {
        what: id.to_string(),
        source,
    })?;
    Ok(body.map(|body| AppliedObject {
        uid: text(&body, &["metadata", "uid"]).to_owned(),
        generation: number(&body, &["metadata", "generation"]).unwrap_or(0),
        resource_version: text(&body, &["metadata", "resourceVersion"]).to_owned(),
        id,
    }))
}
