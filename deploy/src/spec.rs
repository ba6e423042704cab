//! `quaymaster.yaml` as a value: strict reading, every error with line and column.
//!
//! Called by [`crate::request`]. Everything that can be known without Vault and Kubernetes is
//! checked here, all errors at once, and no error quotes the file.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::error::Place;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;

use crate::bundle;
use crate::bundle::InputError;
use crate::image::ImageRef;
use crate::secret::VaultPath;
use crate::template::Template;
use crate::yaml::core;

mod fields;
mod parse;
mod secrets;

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
    /// Images by the name that manifests use.
    pub images: BTreeMap<String, ImageRef>,
    /// How the rollout is judged.
    pub rollout: Rollout,
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
    },
    /// A text over other keys of the same Secret.
    Template(Template),
}

/// How the rollout is done and judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// The deadline of the whole run. Default 10 minutes.
    pub timeout: Duration,
    /// What happens to an app whose rollout failed. Default: it is kept.
    pub on_failure: OnFailure,
    /// Whether objects of the last revision that are no longer in the bundle are deleted. Default
    /// no.
    pub prune: bool,
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
            prune: false,
            when_locked: WhenLocked::Wait,
            allow_older: false,
        }
    }
}

/// What happens to an app whose rollout failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// What was written stays.
    Keep,
    /// The last revision that was deployed is put back and watched.
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
    let mut spec = parse::spec(&root)?;
    spec.text = String::from_utf8_lossy(file).into_owned();
    Ok(spec)
}

/// Makes an error about the image `name` of a spec that was read from `file`.
pub(crate) fn image_error(file: &[u8], name: &str, message: &str) -> Place {
    let root = core::document(file).ok();
    let images = root.as_ref().and_then(|root| root.get("images"));
    let image = images.and_then(|images| images.get(name));
    Place {
        file: Some(SPEC_FILE.to_owned()),
        line: image.map(|node| node.line),
        column: image.map(|node| node.column),
        path: Some(fields::join("images", name)),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
