//! Secrets that are kept fresh, as the sockets tell of them and as callers ask about them.
//!
//! Served under `/v1/secrets` (a project's own, on the jobs socket) and `/v1/managed` (all, on the
//! admin socket). Never holds a value, a token or the id of a lease.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::ids::ClusterName;
use crate::ids::DeployName;
use crate::ids::Namespace;
use crate::ids::RunId;

/// How a Secret that is kept fresh stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// It has what Vault has.
    Fresh,
    /// A change is known and waits for its time (a window, the least age, after a setback).
    Waiting,
    /// It is being changed, or a change is being judged.
    Changing,
    /// Vault has something else that is not taken by choice: a deleted version, or one that did not
    /// work.
    Kept,
    /// It could not be kept right; the notes say why.
    Failing,
    /// Nothing is known yet: the agent has just begun, or Vault is away.
    Unknown,
}

/// One Secret that is kept fresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedSecret {
    /// The cluster.
    pub cluster: ClusterName,
    /// The namespace.
    pub namespace: Namespace,
    /// The Secret.
    pub name: String,
    /// The app whose deploy brought it.
    pub app: DeployName,
    /// The numeric id of the project that answers for it; empty where there is none.
    pub project: String,
    /// How it stands.
    pub freshness: Freshness,
    /// How often its values have changed.
    pub generation: u64,
    /// When its values were written, as RFC 3339.
    pub written: String,
    /// Seconds since then.
    pub age_seconds: u64,
    /// The KV versions in it, by path.
    pub versions: BTreeMap<String, u64>,
    /// The credentials in it.
    pub credentials: Vec<ManagedCredential>,
    /// Seconds until the first of them ends; unset where nothing in it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
    /// When Vault last answered about it, as RFC 3339; unset for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_contact: Option<String>,
    /// Restarts of workloads that it has caused.
    pub restarts: u64,
    /// The run that wrote its values.
    pub run: String,
    /// The agent that keeps it; empty where no agent does just now.
    pub agent: String,
    /// What there is to know about it, each a sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A credential in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedCredential {
    /// The path that issued it.
    pub path: String,
    /// Seconds until it ends unless it is extended.
    pub left_seconds: u64,
    /// Whether it can be extended.
    pub renewable: bool,
}

/// A list of Secrets that are kept fresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedList {
    /// In the order of cluster, namespace and name.
    pub secrets: Vec<ManagedSecret>,
    /// How soon a new version in Vault is noticed, by KV mount and folder; on the admin socket only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<FolderFreshness>,
}

/// How soon changes below a folder are noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderFreshness {
    /// Mount and folder.
    pub folder: String,
    /// Whether the whole folder is asked in one request, else each secret by itself.
    pub whole: bool,
    /// A change is noticed within this many milliseconds while Vault answers.
    pub within_millis: u64,
}

/// `POST /v1/secrets/changed`: these paths were just written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// As `vault kv put` takes them: mount and path.
    pub paths: Vec<String>,
}

/// `POST /v1/secrets/rotate` and `/forget`: one Secret of the caller's project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretName {
    /// The cluster; may be left out where only one has a Secret of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterName>,
    /// The namespace; may be left out where only one has a Secret of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// The Secret.
    pub name: String,
}

/// The answer to a request that lets the agent look at Secrets now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The Secrets that are looked at, as `cluster/namespace/name`.
    pub secrets: Vec<String>,
    /// The run that was begun; unset where the agent looks first whether there is anything to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
}
