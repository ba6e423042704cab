//! Helm's write: the chart of a run becomes a release, and a release goes back to an earlier one.
//!
//! Called by [`crate::apply`] once the Secrets from Vault are written, and by [`crate::engine`] for
//! a rollback. Helm gets the chart that [`crate::chart::frozen`] makes of the plan's own objects.
//! Every record that we let Helm write carries the run and a digest of its content as labels, by
//! which the next run tells "nothing changed", and its own dead runs from other people's Helm.

pub mod back;
mod records;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures::FutureExt as _;
use futures::StreamExt as _;
use proto::report::Action;
use sha2::Digest as _;
use sha2::Sha256;
use tokio::time::Instant;

use self::records::Record;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::backoff::Trouble;
use crate::chart;
use crate::object::AppliedObject;
use crate::object::ObjectId;
use crate::plan::Plan;
use crate::plan::Released;
use crate::plan::Step;
use crate::plan::WIDTH;
use crate::plan::cluster_trouble;
use crate::ports::Chart;
use crate::ports::ClusterError;
use crate::ports::Marks;
use crate::ports::Ports;
use crate::ports::Presence;
use crate::ports::Release;
use crate::ports::RenderError;
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
    /// The newest revision is not of this run.
    #[error("release {release} was not written by this run")]
    Untouched {
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

/// Finds out whether Helm has anything to do for a plan: if the last record has this content and the
/// cluster has every object as it is wanted, the plan says so and nothing is written.
///
/// # Errors
/// The cluster.
pub async fn look(
    plan: &mut Plan,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(), ReleaseError> {
    let permit = plan.permit();
    let Some(helm) = &permit.request().spec.helm else {
        return Ok(());
    };
    let records = records::read(permit.actor(), &release_of(helm, permit), ports, patience).await?;
    let content = digest(&frozen_chart(permit, helm, &records));
    if unchanged(plan, &records, &content).is_none() {
        return Ok(());
    }
    plan.released = Released::Current;
    let hooks = plan.steps().iter().enumerate();
    let hooks: Vec<usize> = hooks
        .filter(|(_, step)| plan.is_hook(step))
        .map(|(index, _)| index)
        .collect();
    for step in hooks {
        let step = &mut plan.steps[step];
        step.action = Action::Same;
        "a hook: the release does not change, so it does not run".clone_into(&mut step.reason);
    }
    Ok(())
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
    if let (Released::Current, Some(there)) = (plan.released, as_checked(plan)) {
        // Without the app's lock, perhaps: so without another look.
        patience.log.info(format!(
            "release {} has this content already; Helm has nothing to do",
            release.name
        ));
        return Ok(there);
    }
    let mut records = records::read(permit.actor(), &release, ports, patience).await?;
    if back::recover(permit, &release, &records, ports, patience).await? {
        records = records::read(permit.actor(), &release, ports, patience).await?;
    }
    let chart = frozen_chart(permit, helm, &records);
    let content = digest(&chart);
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
        Source::Manifests | Source::Revision(_) | Source::Environment => &none,
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
    as_checked(plan)
}

/// Returns the objects as the check saw them, if each is as it is wanted.
fn as_checked(plan: &Plan) -> Option<Vec<AppliedObject>> {
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
    Ok(body.map(|body| AppliedObject::of(id, &body)))
}
