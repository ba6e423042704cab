//! The saved plan: what a dry run saw and would do, in a form that a later deploy can be held to.
//!
//! Made by `deploy::saved` as part of the report of a dry run, kept by the caller as a file, and sent
//! back inside a bundle. It has no values: objects appear as SHA-256 of their JSON without Secret
//! data, Vault secrets as paths with versions. Whoever changes it can only make a deploy refuse.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use super::Action;
use crate::ids::ClusterName;
use crate::ids::DeployName;
use crate::ids::Namespace;
use crate::ids::RunId;

/// The form of saved plans that this version writes and reads.
pub const FORMAT: u32 = 1;

/// What a dry run would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPlan {
    /// The form of this document: [`FORMAT`].
    pub format: u32,
    /// The dry run that made it.
    pub run: RunId,
    /// When it looked, RFC 3339.
    pub made: String,
    /// The app's name.
    pub name: DeployName,
    /// The app's cluster.
    pub cluster: ClusterName,
    /// The app's namespace.
    pub namespace: Namespace,
    /// `sha256:` over names and contents of the bundle's files.
    pub bundle: String,
    /// What would be done, in the order of the plan.
    pub steps: Vec<SavedStep>,
}

/// One step of a saved plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedStep {
    /// The object, as in the report.
    pub object: String,
    /// What would be done.
    pub action: Action,
    /// `sha256:` over what would be sent, without Secret data.
    pub sends: String,
    /// What was there; unset where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// For a Secret from Vault: each key with the path, field and version of its value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, String>,
}

/// An object as a dry run saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The server's uid.
    pub uid: String,
    /// The server's resource version.
    pub resource_version: String,
    /// `sha256:` over the object without its status and the server's bookkeeping; unset for Secrets,
    /// whose values are not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}
