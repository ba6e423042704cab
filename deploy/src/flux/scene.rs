//! Looking before anything is pushed: can Flux carry it out, and which places of the files would change?
//!
//! Called by [`crate::engine`] for each plan. Nothing is written here; the fetch of the branch changes only the
//! agent's copy of it.

use std::collections::BTreeSet;

use futures::FutureExt as _;
use proto::report::Action;
use proto::report::FieldChange;
use proto::report::Step;
use proto::report::saved::SavedStep;
use serde_json::Value;

use super::CALL;
use super::FluxError;
use super::Kind;
use super::cluster_error;
use super::git_error;
use super::git_trouble;
use super::state;
use super::state::Is;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::backoff::cluster_trouble;
use crate::fleet;
use crate::fleet::Edited;
use crate::object::list;
use crate::object::text;
use crate::ports::CommitId;
use crate::ports::GitLogin;
use crate::ports::Ports;
use crate::ports::Tip;
use crate::saved;
use crate::spec::Flux;
use crate::spec::FluxName;

/// What was seen.
pub struct Scene {
    /// The newest commit of the branch, with the files that may be changed.
    pub tip: Tip,
    /// What becomes of them.
    pub edited: Edited,
    /// Things to know.
    pub notes: Vec<String>,
}

/// Looks.
///
/// # Errors
/// The first thing that would keep Flux from carrying it out, or that there is no place for an image.
pub async fn look(
    permit: &Permit,
    flux: &Flux,
    login: &GitLogin,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Scene, FluxError> {
    let notes = able(permit, flux, ports, patience).await?;
    let (tip, edited) = edit(permit, flux, login, ports, patience).await?;
    Ok(Scene { tip, edited, notes })
}

/// Fetches the branch and edits what is there now.
///
/// # Errors
/// The repository, the places, or the permit.
pub async fn edit(
    permit: &Permit,
    flux: &Flux,
    login: &GitLogin,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(Tip, Edited), FluxError> {
    let tip = tip(flux, login, ports, patience).await?;
    let images = &permit.request().spec.images;
    let edited = fleet::edit(&tip.files, images, &flux.values).map_err(FluxError::Edit)?;
    for path in edited.files.keys() {
        permit.may_change(path).map_err(FluxError::Denied)?;
    }
    Ok((tip, edited))
}

/// Fetches the branch, as often as the server is away.
///
/// # Errors
/// The repository.
pub async fn tip(
    flux: &Flux,
    login: &GitLogin,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Tip, FluxError> {
    let fetch = || {
        ports
            .git
            .tip(&flux.branch, login, &flux.paths, CALL)
            .boxed()
    };
    patience
        .retry(fetch, git_trouble)
        .await
        .map_err(git_error(format!("fetching {}", flux.branch)))
}

/// Looks how an environment stands whose images are to be promoted, without asking Flux for anything.
/// Returns what is not ready yet.
///
/// # Errors
/// What has failed for good, or the cluster.
pub async fn standing(
    permit: &Permit,
    flux: &Flux,
    commit: &CommitId,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Vec<String>, FluxError> {
    let mut open = Vec::new();
    for (kind, names) in [
        (Kind::Kustomization, &flux.kustomizations),
        (Kind::HelmRelease, &flux.helmreleases),
    ] {
        for name in names {
            let object = read(permit, kind, name, ports, patience).await?;
            let object = object.unwrap_or_default();
            let ready = state::condition(&object, "Ready");
            let id = kind.id(name);
            match ready {
                Some(ready) if ready.status == Is::False && !state::is_on_the_way(&ready) => {
                    return Err(FluxError::NotReady {
                        object: id.to_string(),
                        problem: format!("is not ready: {}: {}", ready.reason, ready.message),
                        hint: "mend the environment, or deploy another image to it, before its images are promoted",
                    });
                }
                // The revision of a chart is its version and tells no commit.
                Some(ready)
                    if ready.status == Is::True
                        && (kind == Kind::HelmRelease
                            || state::attempted(&object).as_ref() == Some(commit)) => {}
                Some(_) | None => {
                    open.push(format!("{id} is not at commit {} yet", commit.short()));
                }
            }
        }
    }
    Ok(open)
}

impl Scene {
    /// Says whether a commit is needed.
    #[must_use]
    pub fn changes(&self) -> bool {
        !self.edited.files.is_empty()
    }

    /// Writes down each file as it is and as it would be, for a plan that is saved.
    #[must_use]
    pub fn saved(&self, flux: &Flux) -> Vec<SavedStep> {
        let changes = self.edited.changes.iter();
        let paths: BTreeSet<&String> = changes
            .chain(&self.edited.same)
            .map(|change| &change.file)
            .collect();
        let steps = paths.into_iter().map(|path| {
            let change = self.tip.files.get(path).zip(self.edited.files.get(path));
            let change = change.map(|(old, new)| (old.as_slice(), new.as_slice()));
            saved::file(file_of(path, flux), change)
        });
        steps.collect()
    }

    /// Tells it as steps of the plan: one a file.
    #[must_use]
    pub fn steps(&self, flux: &Flux) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let changes = self.edited.changes.iter().map(|one| (one, Action::Change));
        let same = self.edited.same.iter().map(|one| (one, Action::Same));
        for (change, action) in changes.chain(same) {
            let object = file_of(&change.file, flux);
            let field = FieldChange {
                field: format!("line {}, {}", change.line, change.what),
                before: some(&change.old),
                after: some(&change.new),
            };
            match steps.iter_mut().find(|step| step.object == object) {
                Some(step) if action == Action::Change => step.fields.push(field),
                Some(_) => {}
                None => steps.push(Step {
                    object,
                    action,
                    reason: match action {
                        Action::Same => "names this image already".to_owned(),
                        _ => "names another image".to_owned(),
                    },
                    keys: Vec::new(),
                    fields: (action == Action::Change)
                        .then_some(field)
                        .into_iter()
                        .collect(),
                    notes: Vec::new(),
                }),
            }
        }
        steps
    }
}

/// How a file is told.
fn file_of(path: &str, flux: &Flux) -> String {
    format!("file {path} on {}", flux.branch)
}

/// A text, or nothing where it is empty.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Refuses what Flux would not do: objects that are missing, suspended, read another branch, or wait for
/// others that are not ready. Returns things to know.
///
/// # Errors
/// The first such object, or the cluster.
pub async fn able(
    permit: &Permit,
    flux: &Flux,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Vec<String>, FluxError> {
    let mut notes = Vec::new();
    for name in &flux.sources {
        let source = awake(permit, Kind::Source, name, ports, patience).await?;
        let branch = text(&source, &["spec", "ref", "branch"]);
        let branch = if branch.is_empty() { "master" } else { branch };
        if branch != flux.branch.name.as_str() {
            return Err(FluxError::NotReady {
                object: Kind::Source.id(name).to_string(),
                problem: format!("reads branch {branch}, not {}", flux.branch.name),
                hint: "correct flux.branch, or name the source that reads it",
            });
        }
        let url = text(&source, &["spec", "url"]);
        if plain(url) != plain(flux.branch.repository.as_str()) {
            notes.push(format!(
                "{} reads another address than flux.repository; the commit arrives only if both are one repository",
                Kind::Source.id(name)
            ));
        }
    }
    for (kind, names) in [
        (Kind::Kustomization, &flux.kustomizations),
        (Kind::HelmRelease, &flux.helmreleases),
    ] {
        for name in names {
            let object = awake(permit, kind, name, ports, patience).await?;
            depends(permit, kind, name, &object, ports, patience).await?;
        }
    }
    Ok(notes)
}

/// What is left of an address when the way there does not count.
fn plain(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
    rest.strip_suffix(".git").unwrap_or(rest)
}

async fn read(
    permit: &Permit,
    kind: Kind,
    name: &FluxName,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Option<Value>, FluxError> {
    let id = kind.id(name);
    let read = || ports.cluster.get(permit.actor(), &id).boxed();
    let found = patience.retry(read, cluster_trouble).await;
    found.map_err(cluster_error(format!("reading {id}")))
}

async fn awake(
    permit: &Permit,
    kind: Kind,
    name: &FluxName,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Value, FluxError> {
    let not = |problem: &str, hint| FluxError::NotReady {
        object: kind.id(name).to_string(),
        problem: problem.to_owned(),
        hint,
    };
    let object = read(permit, kind, name, ports, patience).await?;
    let object = object.ok_or_else(|| {
        not(
            "does not exist",
            "correct its name in 'flux', or make it first: `flux get all -A` lists what is there",
        )
    })?;
    if state::is_suspended(&object) {
        return Err(not(
            "is suspended, so Flux would not carry this out",
            "`flux resume` it, or deploy when it is resumed",
        ));
    }
    Ok(object)
}

/// Looks at what an object waits for.
async fn depends(
    permit: &Permit,
    kind: Kind,
    name: &FluxName,
    object: &Value,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(), FluxError> {
    for one in list(object, &["spec", "dependsOn"]) {
        let namespace = match text(one, &["namespace"]) {
            "" => name.namespace.clone(),
            given => given.to_owned(),
        };
        let other = FluxName {
            namespace,
            name: text(one, &["name"]).to_owned(),
        };
        let found = read(permit, kind, &other, ports, patience).await?;
        let ready = found
            .as_ref()
            .and_then(|found| state::condition(found, "Ready"));
        if ready.as_ref().is_some_and(|ready| ready.status == Is::True) {
            continue;
        }
        let why = match (&found, &ready) {
            (None, _) => "does not exist".to_owned(),
            (Some(_), None) => "is not ready yet".to_owned(),
            (Some(_), Some(ready)) => format!("is not ready: {}", ready.message),
        };
        return Err(FluxError::NotReady {
            object: kind.id(name).to_string(),
            problem: format!("waits for {}, which {why}", kind.id(&other)),
            hint: "mend what it depends on first",
        });
    }
    Ok(())
}
