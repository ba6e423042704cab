//! The only traits that tests substitute: Vault, Kubernetes, rendering programs, clock and journal.
//!
//! Each states what a second implementation must keep; `tests/it/contract.rs` runs one suite against
//! the in-memory doubles and the real adapters. All calls have their own timeouts inside the
//! adapter. A timed-out read is [`Class::Upstream`]; a timed-out write is
//! [`Class::OutcomeUnknown`]. Adapters do not retry: [`crate::backoff`] does.

mod charts;
mod renderer;

use std::collections::BTreeMap;
use std::sync::Arc;

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
use crate::secret::Lease;
use crate::secret::LeaseId;
use crate::secret::Secret;
use crate::secret::VaultPath;

pub use self::charts::ChartAddress;
pub use self::charts::ChartDigest;
pub use self::charts::ChartError;
pub use self::charts::ChartName;
pub use self::charts::ChartRef;
pub use self::charts::ChartVersion;
pub use self::charts::Fetched;
pub use self::charts::Home;
pub use self::renderer::Chart;
pub use self::renderer::Crds;
pub use self::renderer::Files;
pub use self::renderer::Hooks;
pub use self::renderer::Lookup;
pub use self::renderer::Marks;
pub use self::renderer::Presence;
pub use self::renderer::Release;
pub use self::renderer::ReleaseName;
pub use self::renderer::RenderError;
pub use self::renderer::Renderer;

/// How a run gets its Vault token.
#[derive(Debug)]
pub enum Login {
    /// Trade an id_token for a token by the JWT method with the rule's role.
    Jwt {
        /// The job's id_token.
        token: Secret,
        /// The role of the rule.
        role: String,
    },
    /// Use the token that the job passed. It is not ours: it is not revoked at the end.
    Passed {
        /// The token.
        token: Secret,
    },
}

/// A live login. Dropping it does not end it: [`Secrets::logout`] does.
#[derive(Debug)]
pub struct Session {
    /// The token of this session.
    pub token: Secret,
    /// Whether the agent made the token and so has to revoke it.
    pub ours: bool,
}

/// What stands behind a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// KV version 1.
    KvV1,
    /// KV version 2.
    KvV2,
    /// Any engine whose read issues a leased credential (database and others).
    Dynamic,
}

/// The fields of a secret that was read or issued.
#[derive(Debug)]
pub struct SecretData {
    /// Field values. Text is kept as it is; numbers, booleans, lists and objects as their JSON.
    pub fields: BTreeMap<String, Secret>,
    /// KV v2: the version that was read.
    pub version: Option<u64>,
    /// Dynamic engines: the lease.
    pub lease: Option<Lease>,
}

/// Why a Vault call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    /// Vault refuses the login (401 class: the token, role or audience are not accepted).
    #[error("Vault refuses the login: {reason}")]
    LoginRefused {
        /// Vault's words, without values.
        reason: String,
    },
    /// The session may not read this.
    #[error("Vault forbids access to {path}")]
    Forbidden {
        /// The path.
        path: String,
    },
    /// No mount, no secret, or no such role.
    #[error("there is no secret at {path}")]
    Missing {
        /// The path.
        path: String,
    },
    /// The version exists no more, or is deleted.
    #[error("{} of {path} is deleted or destroyed", if *version == 0 { "the latest version".to_owned() } else { format!("version {version}") })]
    VersionGone {
        /// The path.
        path: String,
        /// The version; 0 is the latest.
        version: u64,
    },
    /// A KV v2 path as the API spells it; users write it without `data/` or `metadata/`.
    #[error("{path} names an API path of a KV v2 mount: drop the {prefix} behind the mount")]
    DataPrefix {
        /// The path.
        path: String,
        /// The segment to drop, such as `data/`.
        prefix: &'static str,
    },
    /// Vault is sealed, standby, restarting, throttling or cannot be reached.
    #[error("Vault is not available: {reason}")]
    Unavailable {
        /// Such as `sealed`, `429`, `connection refused`.
        reason: String,
        /// What the server asked to wait.
        retry_after_seconds: Option<u64>,
    },
    /// A write (issue, revoke) was sent and no answer came.
    #[error("Vault did not answer a request that changes something at {path}")]
    Unanswered {
        /// The path.
        path: String,
    },
    /// An answer that nobody expected.
    #[error("unexpected answer from Vault: {reason}")]
    Unexpected {
        /// What was unexpected, without values.
        reason: String,
    },
}

impl SecretsError {
    /// Returns the class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::LoginRefused { .. } | Self::Forbidden { .. } => Class::Denied,
            Self::Missing { .. } | Self::VersionGone { .. } => Class::NotFound,
            Self::DataPrefix { .. } => Class::Caller,
            Self::Unavailable { .. } => Class::Upstream,
            Self::Unanswered { .. } => Class::OutcomeUnknown,
            Self::Unexpected { .. } => Class::Bug,
        }
    }
}

/// Vault or OpenBao.
pub trait Secrets: Send + Sync {
    /// Opens a session. With [`Login::Passed`] nothing is sent.
    fn login<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Session, SecretsError>>;

    /// Looks up what engine serves `path`. A KV v2 path whose inner path starts with `data/` or
    /// `metadata/` is [`SecretsError::DataPrefix`].
    fn engine<'a>(
        &'a self,
        session: &'a Session,
        path: &'a VaultPath,
    ) -> BoxFuture<'a, Result<Mount, SecretsError>>;

    /// Reads a KV secret; `version` only for KV v2, unset is the latest. Idempotent.
    fn read<'a>(
        &'a self,
        session: &'a Session,
        mount: &'a Mount,
        path: &'a VaultPath,
        version: Option<u64>,
    ) -> BoxFuture<'a, Result<SecretData, SecretsError>>;

    /// Issues a credential. Not idempotent: each call makes another one.
    fn issue<'a>(
        &'a self,
        session: &'a Session,
        path: &'a VaultPath,
    ) -> BoxFuture<'a, Result<SecretData, SecretsError>>;

    /// Revokes a lease. Idempotent: a lease that is gone is revoked.
    fn revoke<'a>(
        &'a self,
        session: &'a Session,
        lease: &'a LeaseId,
    ) -> BoxFuture<'a, Result<(), SecretsError>>;

    /// Ends a session that is ours by revoking its token (which would end its leases too, so leases
    /// that shall live on are issued under a token that outlives the run, or `keep_leases` is set).
    fn logout(&self, session: Session) -> BoxFuture<'_, Result<(), SecretsError>>;
}

/// A mounted engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount path without slashes at the ends.
    pub path: String,
    /// What it is.
    pub engine: Engine,
}

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
    /// An object is there, in this state (`managedFields` removed; Secrets never come here).
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

/// Wall time. Waiting is tokio's timer, which tests pause.
pub trait Clock: Send + Sync {
    /// Returns the time.
    fn now(&self) -> jiff::Timestamp;
}

/// What one run leaves on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A lease was issued for this run and is not in a written Secret yet.
    LeaseIssued {
        /// The lease.
        lease: LeaseId,
    },
    /// The run has a plan and is about to take its lock: what [`crate::resume`] needs, without any
    /// secret value. A later one replaces it.
    Planned {
        /// A [`crate::resume::Brief`] as JSON.
        brief: Value,
    },
    /// A cut run goes on after a restart, with this lock.
    Resumed {
        /// As in [`Entry::Applying`].
        fence: u64,
    },
    /// All writes of this run begin now.
    Applying {
        /// The number of the lock that it holds; 0 where it needs none.
        fence: u64,
    },
    /// Every Secret of the run is written.
    Supplied,
    /// All objects are written.
    Applied {
        /// As the cluster has them.
        objects: Vec<AppliedObject>,
    },
    /// A lease of this run was revoked.
    LeaseRevoked {
        /// The lease.
        lease: LeaseId,
    },
}

/// The journal of one run. When a call returns, the entry is on disk.
pub trait Journal: Send + Sync {
    /// Adds an entry.
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<(), JournalError>>;
}

/// The journal cannot be written: nothing may be written elsewhere either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot write the journal: {reason}")]
pub struct JournalError {
    /// Why.
    pub reason: String,
}

/// All ports that one run needs, with its cluster already chosen.
#[derive(Clone)]
pub struct Ports {
    /// Vault.
    pub secrets: Arc<dyn Secrets>,
    /// The run's cluster.
    pub cluster: Arc<dyn Cluster>,
    /// kustomize and Helm for the run's cluster.
    pub renderer: Arc<dyn Renderer>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// The run's own journal.
    pub journal: Arc<dyn Journal>,
}
