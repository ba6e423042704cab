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

impl Freshness {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Fresh,
        Self::Waiting,
        Self::Changing,
        Self::Kept,
        Self::Failing,
        Self::Unknown,
    ];

    /// Returns the word as it stands on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Waiting => "waiting",
            Self::Changing => "changing",
            Self::Kept => "kept",
            Self::Failing => "failing",
            Self::Unknown => "unknown",
        }
    }
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
    /// Since when it may not be what Vault has, and why; unset while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
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

/// Why a Secret may not be what Vault has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// Since when, as RFC 3339: the last time that it was known to be right, or when that was noticed.
    pub since: String,
    /// In words.
    pub why: String,
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
    /// In the order of cluster, namespace, app and name.
    pub secrets: Vec<ManagedSecret>,
    /// How soon a new version in Vault is noticed, by KV mount and folder; on the admin socket only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<FolderFreshness>,
    /// Clusters of which the agent has not read yet what is kept fresh there: it has just begun, or they
    /// do not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<ClusterName>,
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

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    /// Reads a recorded body and writes it again.
    fn kept<T: Serialize + DeserializeOwned>(golden: &str) -> T {
        let recorded: serde_json::Value = serde_json::from_str(golden).expect("JSON");
        let read: T = serde_json::from_str(golden).expect("the type reads its recorded body");
        let written = serde_json::to_value(&read).expect("it is serializable");
        assert_eq!(written, recorded);
        read
    }

    #[test]
    fn recorded_bodies_are_read_and_written_the_same() {
        let list: ManagedList = kept(include_str!("../golden/managed_list.json"));
        assert_eq!(list.secrets[0].freshness, Freshness::Kept);
        assert_eq!(list.secrets[1].expires_in_seconds, None);
        let changed: Changed = kept(include_str!("../golden/changed.json"));
        assert_eq!(changed.paths.len(), 2);
        let name: SecretName = kept(include_str!("../golden/secret_name.json"));
        assert_eq!(name.name, "shop-db");
        let taken: Taken = kept(include_str!("../golden/taken.json"));
        assert_eq!(taken.run, Some(RunId::from_bits(2)));
    }

    #[test]
    fn requests_take_no_unknown_field_and_answers_may_gain_some() {
        assert!(serde_json::from_str::<Changed>(r#"{"paths":[],"path":"kv/a"}"#).is_err());
        let name = |text| serde_json::from_str::<SecretName>(text);
        assert!(name(r#"{"name":"db","namespaces":"shop"}"#).is_err());
        assert_eq!(name(r#"{"name":"db"}"#).expect("valid").cluster, None);
        let newer = r#"{"secrets":[],"more":1}"#;
        let list: ManagedList = serde_json::from_str(newer).expect("a newer agent's answer");
        assert_eq!(list.secrets, []);
    }

    #[test]
    fn words_and_serde_agree() {
        for word in Freshness::ALL {
            let json = serde_json::to_string(&word).expect("a word is serializable");
            assert_eq!(json, format!("\"{}\"", word.word()));
        }
    }
}
