//! `quaymaster.yaml` as a value: strict reading, every error with line and column.
//!
//! Called by [`crate::request`]. Everything that can be known without Vault and Kubernetes is
//! checked here, all errors at once, and no error quotes the file.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use proto::error::Place;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;
use serde_json::Value;

use crate::bundle;
use crate::bundle::InputError;
use crate::fleet::ValueRule;
use crate::health;
use crate::image::ImageRef;
use crate::ports::Branch;
use crate::ports::ChartRef;
use crate::ports::Crds;
use crate::ports::Hooks;
use crate::ports::Parameters;
use crate::ports::ReleaseName;
use crate::secret::VaultPath;
use crate::template::Template;
use crate::yaml::core;

use self::conflicts::ConflictRule;

mod charts;
pub mod conflicts;
mod expose;
mod fields;
mod flux;
mod healths;
mod parse;
mod registries;
mod remote;
mod rotate;
mod secrets;
mod variables;

pub use self::charts::ValuePath;
pub use self::flux::FluxName;
pub use self::rotate::OnDeleted;
pub use self::rotate::Restart;
pub use self::rotate::Rotate;
pub use self::rotate::Window;
pub use self::rotate::Workload;
pub use self::rotate::WorkloadKind;

/// The name of the spec's file inside a bundle.
pub const SPEC_FILE: &str = bundle::SPEC_FILE;

/// Types of Secrets that are never written: credentials for the cluster itself, and Helm's records.
pub(crate) const FORBIDDEN_TYPES: &[&str] = &[
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    "helm.sh/release.v1",
];

/// A valid spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The app's name.
    pub name: DeployName,
    /// The cluster; unset where the rule grants exactly one.
    pub cluster: Option<ClusterName>,
    /// The namespace; unset where the rule grants exactly one.
    pub namespace: Option<Namespace>,
    /// Secrets to materialize, in the order of the file.
    pub secrets: Vec<SecretSpec>,
    /// Files and folders of the bundle to apply, in the order of the file.
    pub manifests: Vec<String>,
    /// What two different objects of one identity in the manifests mean.
    pub duplicates: Duplicates,
    /// The folder of the bundle with the kustomization to render; unset: none.
    pub kustomize: Option<String>,
    /// The chart to render and install; unset: none. Boxed for its size.
    pub helm: Option<Box<Helm>>,
    /// The branch to change and what Flux makes of it; unset: none. Boxed for its size.
    pub flux: Option<Box<Flux>>,
    /// Images by the name that manifests use.
    pub images: BTreeMap<String, ImageRef>,
    /// Registries whose images are looked for before anything is written, by `host[:port]`.
    pub registries: BTreeMap<String, Option<RegistryCredential>>,
    /// How the rollout is judged.
    pub rollout: Rollout,
    /// Health rules of the user's own.
    pub health: Vec<health::Rule>,
    /// What happens to fields that other managers own; the first rule that fits decides.
    pub conflicts: Vec<ConflictRule>,
    /// Managers whose fields become ours.
    pub adopt: Vec<String>,
    /// Variables that a command of the job gets, by name. No deploy reads them.
    pub expose: BTreeMap<String, Source>,
    /// The file as it was read, so that a run can be taken up again.
    pub text: String,
}

/// One Kubernetes Secret to write.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretSpec {
    /// The Secret's name.
    pub name: String,
    /// The Secret's type; `Opaque` unless given.
    pub kind: String,
    /// Its keys.
    pub keys: BTreeMap<String, Source>,
    /// How it is kept fresh after the deploy; unset: it is not.
    pub rotate: Option<Rotate>,
}

impl Spec {
    /// Says whether there is anything to deploy.
    #[must_use]
    pub fn deploys(&self) -> bool {
        !self.secrets.is_empty()
            || !self.manifests.is_empty()
            || self.kustomize.is_some()
            || self.helm.is_some()
            || self.flux.is_some()
    }
}

impl SecretSpec {
    /// Writes it as it would stand in the spec.
    #[must_use]
    pub fn to_value(&self) -> Value {
        secrets::to_value(self)
    }
}

/// Where the value of one key comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A field of a Vault secret.
    Field {
        /// Mount and path.
        path: VaultPath,
        /// The field.
        field: String,
        /// KV v2: this version instead of the latest.
        version: Option<u64>,
        /// Engines that issue by a write: what the request says, such as `common_name`.
        parameters: Parameters,
    },
    /// A text over other keys of the same Secret.
    Template(Template),
}

/// A Helm chart and what it gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Helm {
    /// Where the chart is.
    pub chart: ChartSource,
    /// The release's name; the app's unless given.
    pub release: ReleaseName,
    /// Values files of the bundle; a later one wins.
    pub values: Vec<String>,
    /// Single values by their paths, typed as they are written; they win over the files.
    pub set: BTreeMap<ValuePath, Value>,
    /// Where the chart wants the parts of an image, by the name under `images`.
    pub image: BTreeMap<String, ImagePaths>,
    /// Helm's own limit for hooks and single calls; unset: what is left of the run's.
    pub timeout: Option<Duration>,
    /// What happens to hooks. Default: they run.
    pub hooks: Hooks,
    /// What happens to definitions in `crds/`. Default: Helm installs them once.
    pub crds: Crds,
}

/// A deploy through Flux: images are replaced in a repository that Flux reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flux {
    /// The branch.
    pub branch: Branch,
    /// Files and folders of the repository in which images may be replaced.
    pub paths: Vec<String>,
    /// Who we are to the Git server; unset: nobody.
    pub credential: Option<GitCredential>,
    /// The `GitRepository` objects that read the branch.
    pub sources: Vec<FluxName>,
    /// The `Kustomization` objects that apply it.
    pub kustomizations: Vec<FluxName>,
    /// The `HelmRelease` objects that install charts of it.
    pub helmreleases: Vec<FluxName>,
    /// Places of images that nothing in the files marks.
    pub values: Vec<ValueRule>,
    /// The first line of the commit, as a template; unset: the usual one.
    pub message: Option<String>,
    /// Author and committer.
    pub author: String,
    /// The address of both.
    pub email: String,
}

impl Flux {
    /// Lists every object of Flux that is asked.
    pub fn objects(&self) -> impl Iterator<Item = &FluxName> {
        let sources = self.sources.iter();
        sources
            .chain(&self.kustomizations)
            .chain(&self.helmreleases)
    }
}

/// Where the credential of a Git server is in Vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitCredential {
    /// For `https`.
    Password {
        /// Mount and path.
        path: VaultPath,
        /// The field with the user name.
        username: String,
        /// The field with the password or token.
        password: String,
    },
    /// For `ssh`.
    Key {
        /// Mount and path.
        path: VaultPath,
        /// The field with the private key.
        identity: String,
        /// The field with the server's keys.
        known_hosts: String,
    },
}

impl GitCredential {
    /// Returns where it is.
    #[must_use]
    pub const fn path(&self) -> &VaultPath {
        match self {
            Self::Password { path, .. } | Self::Key { path, .. } => path,
        }
    }
}

/// Where the credential of an image registry is in Vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryCredential {
    /// Mount and path.
    pub path: VaultPath,
    /// The field with the user name.
    pub username: String,
    /// The field with the password or token.
    pub password: String,
}

/// Where a chart is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChartSource {
    /// Its folder, or its archive (`*.tgz`), in the bundle.
    Bundle(String),
    /// A registry or repository; the run fetches it, if the rule allows that.
    Remote(ChartRef),
}

impl fmt::Display for ChartSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(path) => f.write_str(path),
            Self::Remote(reference) => reference.fmt(f),
        }
    }
}

/// Where a chart's values want the parts of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImagePaths {
    /// Registry and repository.
    pub repository: Option<ValuePath>,
    /// The tag; with the digest behind it where the chart has no place for one.
    pub tag: Option<ValuePath>,
    /// The digest.
    pub digest: Option<ValuePath>,
}

/// How the rollout is done and judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// The deadline of the whole run. Default 10 minutes.
    pub timeout: Duration,
    /// What happens to an app whose rollout failed. Default: it is kept.
    pub on_failure: OnFailure,
    /// What becomes of a run that nobody follows any more. Default: it goes on.
    pub on_disconnect: OnDisconnect,
    /// Whether objects of the last revision that are no longer in the bundle are deleted. Default
    /// no.
    pub prune: bool,
    /// The largest share of the app that pruning may delete, in percent. Default 50.
    pub prune_share: u8,
    /// Whether pruning may delete what holds data or other objects (Namespaces, claims and volumes,
    /// StatefulSets, definitions). Default no.
    pub prune_protected: bool,
    /// What a run does that finds another run of the app. Default: it waits in line.
    pub when_locked: WhenLocked,
    /// Whether an older pipeline may overwrite what a newer one deployed. Default no.
    pub allow_older: bool,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10 * 60),
            on_failure: OnFailure::Keep,
            on_disconnect: OnDisconnect::Finish,
            prune: false,
            prune_share: 50,
            prune_protected: false,
            when_locked: WhenLocked::Wait,
            allow_older: false,
        }
    }
}

/// What two different objects of one identity in the manifests mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Duplicates {
    /// A mistake.
    #[default]
    Refuse,
    /// The later one counts, as kubectl's writes would end.
    Last,
}

/// What happens to an app whose rollout failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// What was written stays.
    Keep,
    /// The last revision that was deployed is put back and watched.
    Rollback,
    /// The commit is reverted, and Flux is waited for again; for deploys through Flux.
    Revert,
}

/// What becomes of a run that nobody follows any more, because its job was cancelled or killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisconnect {
    /// It goes on to its verdict.
    Finish,
    /// It is cancelled, between two writes.
    Cancel,
    /// It is cancelled and the last revision that was deployed is put back and watched; through Flux the
    /// commit is reverted.
    Rollback,
}

/// What a run does that finds another run of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenLocked {
    /// It waits in line until its own deadline.
    Wait,
    /// It ends at once and names the other.
    Fail,
}

/// Reads a spec.
///
/// # Errors
/// [`proto::error::Code::SpecInvalid`] with every place that is wrong.
pub fn parse(file: &[u8]) -> Result<Spec, InputError> {
    let root = core::document(file)
        .map_err(|flaw| InputError::one(proto::error::Code::SpecInvalid, flaw.place(SPEC_FILE)))?;
    let mut spec = parse::spec(root)?;
    spec.text = String::from_utf8_lossy(file).into_owned();
    Ok(spec)
}

/// Reads one Secret that was written by [`SecretSpec::to_value`]; `None` where the spec would not take
/// it.
pub(crate) fn secret(value: &Value) -> Option<SecretSpec> {
    let text = serde_json::json!({ "version": 1, "name": "a", "secrets": [value] }).to_string();
    parse(text.as_bytes()).ok()?.secrets.pop()
}

/// Reads `90s`, `10m`, `1h30m`.
///
/// # Errors
/// Says what is expected.
pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    parse::duration(text)
}

/// Makes an error about the image `name` of a spec that was read from `file`.
pub(crate) fn image_error(file: &[u8], name: &str, message: &str) -> Place {
    place_of(file, &["images", name], message)
}

/// Makes an error about a field of a spec that was read from `file`.
pub(crate) fn place_of(file: &[u8], path: &[&str], message: &str) -> Place {
    let root = core::document(file).ok();
    let node = path
        .iter()
        .try_fold(root.as_ref(), |node, key| Some(node?.get(key)));
    let node = node.flatten();
    let joined = path
        .iter()
        .fold(String::new(), |joined, key| fields::join(&joined, key));
    Place {
        file: Some(SPEC_FILE.to_owned()),
        line: node.map(|node| node.line),
        column: node.map(|node| node.column),
        path: Some(joined),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
