//! The port to one Kubernetes cluster: reading, writing, watching, always as somebody.
//!
//! Called by every stage that touches the cluster; implemented by `agent::cluster` and
//! `deploy::fakes`. Values of Secrets go in, and come out as fingerprints only.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::class::Class;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::Resource;
use crate::principal::Actor;
use crate::secret::Fingerprint;
use crate::secret::Secret;

/// A right that a run needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Access {
    /// The verb, such as `patch`.
    pub verb: &'static str,
    /// The API group.
    pub group: String,
    /// The plural.
    pub resource: String,
    /// The subresource; empty for none.
    pub subresource: &'static str,
    /// The namespace; unset for cluster scope.
    pub namespace: Option<String>,
    /// The name; unset for any.
    pub name: Option<String>,
}

/// Whether a write is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// The server checks everything and keeps nothing.
    DryRun,
    /// The real thing.
    Commit,
}

/// What happens to fields that other managers own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// The server refuses the whole object and names them.
    No,
    /// They become ours. Only where every contested field was decided on before; the body then
    /// carries the resource version that the decision saw.
    Take,
}

/// A Secret as the cluster has it; its values never leave the adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretView {
    /// The keyed fingerprint of each value; the place of a fingerprint is the key.
    pub values: BTreeMap<String, Fingerprint>,
    /// The object without its data, with `metadata.managedFields`.
    pub rest: Value,
}

/// How an object is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Only this very object: another one of the same name is left alone ([`ClusterError::Raced`]).
    pub uid: String,
    /// What happens to the objects that it owns.
    pub dependents: Dependents,
    /// Whether it is meant.
    pub write: Write,
}

/// What happens to the objects that a deleted object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependents {
    /// The garbage collector deletes them afterwards.
    Background,
    /// They stay, without an owner.
    Orphan,
}

/// What is sent for one object.
#[derive(Debug)]
pub enum Payload<'a> {
    /// An ordinary object: the very JSON.
    Object(&'a Value),
    /// A Kubernetes Secret: metadata and type in `body`, values beside it; the adapter puts them
    /// into `data` as base64 when it sends.
    Secret {
        /// `apiVersion`, `kind`, `metadata`, `type`.
        body: &'a Value,
        /// The values by key.
        data: &'a BTreeMap<String, Secret>,
    },
}

/// A field that another manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldConflict {
    /// The field, such as `.spec.replicas`.
    pub field: String,
    /// The other manager.
    pub manager: String,
}

/// Why a cluster call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// RBAC or admission says no.
    #[error("the cluster refuses {what}: {reason}")]
    Forbidden {
        /// Verb and object.
        what: String,
        /// The server's words.
        reason: String,
    },
    /// The object is not valid to the server.
    #[error("the cluster finds {object} invalid")]
    Invalid {
        /// The object.
        object: String,
        /// The server's causes: field and message, without values.
        causes: Vec<String>,
    },
    /// The kind is not served.
    #[error("the cluster does not know the kind {kind}")]
    UnknownKind {
        /// The kind.
        kind: String,
    },
    /// The object, or its namespace, does not exist.
    #[error("{object} does not exist")]
    Missing {
        /// The object.
        object: String,
    },
    /// Server-side apply met fields of other managers.
    #[error("fields of {object} belong to other managers")]
    Conflict {
        /// The object.
        object: String,
        /// Which fields.
        fields: Vec<FieldConflict>,
    },
    /// An object of this name is there already.
    #[error("{object} exists already")]
    Exists {
        /// The object.
        object: String,
    },
    /// The object is not the one, or not in the version, that the write was meant for.
    #[error("{object} changed meanwhile")]
    Raced {
        /// The object.
        object: String,
    },
    /// Away, restarting or throttling; nothing happened.
    #[error("the API server is not available: {reason}")]
    Unavailable {
        /// Such as `connection refused`, `429`.
        reason: String,
        /// What the server asked to wait.
        retry_after_seconds: Option<u64>,
    },
    /// A write was sent and no answer came.
    #[error("the API server did not answer the write of {object}")]
    Unanswered {
        /// The object.
        object: String,
    },
    /// An answer that nobody expected.
    #[error("unexpected answer from the API server: {reason}")]
    Unexpected {
        /// What was unexpected.
        reason: String,
    },
}

impl ClusterError {
    /// Returns the class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Forbidden { .. } => Class::Denied,
            Self::Invalid { .. } | Self::UnknownKind { .. } => Class::Caller,
            Self::Missing { .. } => Class::NotFound,
            Self::Conflict { .. } | Self::Exists { .. } | Self::Raced { .. } => Class::Conflict,
            Self::Unavailable { .. } => Class::Upstream,
            Self::Unanswered { .. } => Class::OutcomeUnknown,
            Self::Unexpected { .. } => Class::Bug,
        }
    }
}

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// An object is there, in this state (`managedFields` removed; of a Secret there is only its
    /// metadata, with `managedFields`).
    Present(Value),
    /// An object is gone.
    Gone(ObjectId),
    /// The first listing of this kind in this namespace is complete.
    Synced(Gvk),
    /// The watch has trouble and goes on trying, unless `class` says that it is of no use.
    Trouble {
        /// The kind.
        gvk: Gvk,
        /// What kind of trouble.
        class: Class,
        /// In words.
        reason: String,
    },
}

/// What to watch: all objects of a kind in a namespace (or one by name).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The kind.
    pub gvk: Gvk,
    /// The namespace; unset for cluster scope.
    pub namespace: Option<String>,
    /// Only this object.
    pub name: Option<String>,
}

/// Which container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// The previous instance instead of the running one.
    pub previous: bool,
    /// At most this many lines from the end.
    pub lines: u32,
}

/// One Kubernetes cluster. Every call acts as `actor` by impersonation.
pub trait Cluster: Send + Sync {
    /// Finds out how a kind is served; looks again before it says that a kind is unknown.
    fn resource<'a>(&'a self, gvk: &'a Gvk) -> BoxFuture<'a, Result<Resource, ClusterError>>;

    /// Asks whether the actor has a right; `Err` of the answer is the server's reason.
    fn may<'a>(
        &'a self,
        actor: &'a Actor,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<Result<(), String>, ClusterError>>;

    /// Reads an object with its `managedFields`; not for Secrets.
    fn get<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<Value>, ClusterError>>;

    /// Reads all objects of a kind in a namespace (or of a cluster scoped kind), whole, with
    /// `apiVersion`, `kind` and `managedFields`; not for Secrets.
    fn list<'a>(
        &'a self,
        actor: &'a Actor,
        gvk: &'a Gvk,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Value>, ClusterError>>;

    /// Reads a Secret.
    fn secret<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<SecretView>, ClusterError>>;

    /// Reads the values of a Secret, to put the same ones into it again; unset where there is none.
    fn values<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, Secret>>, ClusterError>>;

    /// Reads all Secrets of a namespace by name.
    fn secrets<'a>(
        &'a self,
        actor: &'a Actor,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<BTreeMap<String, SecretView>, ClusterError>>;

    /// Applies server-side as manager `quaymaster` with strict validation. Idempotent: the same
    /// payload twice is a no-op. Returns the object as the server has it (for Secrets without
    /// data).
    fn apply<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        payload: Payload<'a>,
        write: Write,
        force: Force,
    ) -> BoxFuture<'a, Result<(AppliedObject, Value), ClusterError>>;

    /// Creates an object of the agent's own bookkeeping (never a Secret): [`ClusterError::Exists`]
    /// where one is there.
    fn create<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>>;

    /// Replaces an object of the agent's own bookkeeping (never a Secret) if it still has the
    /// `resourceVersion` in `body`; else [`ClusterError::Raced`].
    fn replace<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>>;

    /// Changes single fields by a JSON patch (RFC 6902), for ownership and finalizers, never for
    /// values; its `test` operations that fail are [`ClusterError::Raced`]. Returns the object
    /// (of a Secret without data).
    fn patch<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        patch: &'a Value,
        write: Write,
    ) -> BoxFuture<'a, Result<Value, ClusterError>>;

    /// Begins to delete one very object. Idempotent: an object that is gone is deleted.
    fn delete<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        deletion: &'a Deletion,
    ) -> BoxFuture<'a, Result<(), ClusterError>>;

    /// Watches scopes until the stream is dropped. Starts with what is there, then changes; mends
    /// itself after cuts; ends only when nothing more can come.
    fn observe(&self, actor: &Actor, scopes: Vec<Scope>) -> BoxStream<'static, Observation>;

    /// Reads the end of a container's log, at most 64 KiB.
    fn log<'a>(
        &'a self,
        actor: &'a Actor,
        request: &'a LogRequest,
    ) -> BoxFuture<'a, Result<String, ClusterError>>;
}
