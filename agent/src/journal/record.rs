//! How records look in the journal's file.
//!
//! JSON values under text keys. Fields may be added with a default; a field never changes its
//! meaning, as files of older versions are read. Used by [`super`] only.

use std::fmt::Write;

use deploy::object::AppliedObject;
use deploy::object::Gvk;
use deploy::object::ObjectId;
use deploy::ports::Entry;
use deploy::ports::Way;
use jiff::SignedDuration;
use jiff::Timestamp;
use proto::ids::RunId;
use proto::report::Mode;
use proto::report::Report;
use redb::TableDefinition;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Digest;
use sha2::Sha256;

use super::FaultCause;

/// Run id to [`RunRecord`].
pub(super) const RUNS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("runs");
/// Run id and position to [`StoredEntry`].
pub(super) const ENTRIES: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("entries");
/// Owner and run id.
pub(super) const OWNERS: TableDefinition<'_, (&str, &str), ()> = TableDefinition::new("owners");
/// Hash of owner, mode and idempotency key to [`KeyRecord`].
pub(super) const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
/// Ids of runs that are on, or were cut off and are not settled.
pub(super) const OPEN: TableDefinition<'_, &str, ()> = TableDefinition::new("open");

/// Accessor of a token that was made for one credential to [`MadeToken`], until it is ended or kept.
pub(super) const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");

/// Lease of a dead run that is in no Secret to since when it is to be revoked.
pub(super) const LEASES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("leases");

/// Run id to the brief of a run that is on, as JSON.
pub(super) const BRIEFS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("briefs");

/// How long an idempotency key is kept.
pub(super) const KEY_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Who may see it.
    pub owner: String,
    /// Its report, first as it begins, later the final one.
    pub report: Report,
}

/// A token that was made for one credential of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeToken {
    /// The run.
    pub run: RunId,
    /// The Secret that the credential is for.
    pub secret: String,
}

/// Who holds an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    run: RunId,
    digest: String,
    at: Timestamp,
}

/// How a taken key meets a new request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Grip {
    /// The same body.
    Same(RunId),
    /// Another body.
    OtherBody,
}

impl KeyRecord {
    pub(super) fn new(run: &RunId, digest: &[u8; 32], now: Timestamp) -> Self {
        Self {
            run: run.clone(),
            digest: hex(digest),
            at: now,
        }
    }

    /// Says how the key meets a request with this digest; `None` once the key's time is over.
    pub(super) fn grip(self, digest: &[u8; 32], now: Timestamp) -> Option<Grip> {
        if self.is_over(now) {
            return None;
        }
        if self.digest == hex(digest) {
            return Some(Grip::Same(self.run));
        }
        Some(Grip::OtherBody)
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        now.duration_since(self.at) > KEY_LIFE
    }
}

/// [`Entry`] as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub(super) enum StoredEntry {
    LeaseIssued {
        lease: String,
    },
    TokenMade {
        accessor: String,
        secret: String,
    },
    TokenKept {
        accessor: String,
    },
    TokenEnded {
        accessor: String,
    },
    Planned,
    Resumed {
        fence: u64,
    },
    Applying {
        #[serde(default)]
        fence: u64,
    },
    Pushing {
        branch: String,
        commit: String,
        #[serde(default)]
        back: bool,
    },
    Supplied,
    Applied {
        #[serde(default)]
        objects: Vec<StoredObject>,
    },
    Returning,
    LeaseRevoked {
        lease: String,
    },
}

/// [`AppliedObject`] as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredObject {
    api_version: String,
    kind: String,
    namespace: Option<String>,
    name: String,
    uid: String,
    generation: i64,
    resource_version: String,
}

impl From<AppliedObject> for StoredObject {
    fn from(object: AppliedObject) -> Self {
        Self {
            api_version: object.id.gvk.api_version(),
            kind: object.id.gvk.kind,
            namespace: object.id.namespace,
            name: object.id.name,
            uid: object.uid,
            generation: object.generation,
            resource_version: object.resource_version,
        }
    }
}

impl From<StoredObject> for AppliedObject {
    fn from(object: StoredObject) -> Self {
        Self {
            id: ObjectId {
                gvk: Gvk::new(&object.api_version, &object.kind),
                namespace: object.namespace,
                name: object.name,
            },
            uid: object.uid,
            generation: object.generation,
            resource_version: object.resource_version,
        }
    }
}

impl From<Entry> for StoredEntry {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::LeaseIssued { lease } => Self::LeaseIssued { lease: lease.0 },
            Entry::TokenMade { accessor, secret } => Self::TokenMade {
                accessor: accessor.0,
                secret,
            },
            Entry::TokenKept { accessor } => Self::TokenKept {
                accessor: accessor.0,
            },
            Entry::TokenEnded { accessor } => Self::TokenEnded {
                accessor: accessor.0,
            },
            // The brief itself has a table of its own.
            Entry::Planned { brief: _ } => Self::Planned,
            Entry::Resumed { fence } => Self::Resumed { fence },
            Entry::Applying { fence } => Self::Applying { fence },
            Entry::Pushing {
                branch,
                commit,
                way,
            } => Self::Pushing {
                branch,
                commit,
                back: way == Way::Back,
            },
            Entry::Supplied => Self::Supplied,
            Entry::Applied { objects } => Self::Applied {
                objects: objects.into_iter().map(StoredObject::from).collect(),
            },
            Entry::Returning => Self::Returning,
            Entry::LeaseRevoked { lease } => Self::LeaseRevoked { lease: lease.0 },
        }
    }
}

pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, FaultCause> {
    serde_json::to_vec(value).map_err(FaultCause::Shape)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FaultCause> {
    serde_json::from_slice(bytes).map_err(FaultCause::Shape)
}

/// Makes the text under which a key is kept. Lengths keep the parts apart.
pub(super) fn key_text(owner: &str, key: &str, mode: Mode) -> String {
    let mode = match mode {
        Mode::Deploy => "deploy",
        Mode::DryRun => "dry_run",
        Mode::Rollback => "rollback",
        Mode::Rotation => "rotation",
    };
    let mut hash = Sha256::new();
    for part in [mode, owner, key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
