//! The port to Vault or OpenBao: logins, reading, issuing, revoking.
//!
//! Called by [`crate::resolve`] and through it by the engine; implemented by `agent::vault` and
//! `deploy::fakes`. One call is one request: who calls decides whether to repeat it.

use std::collections::BTreeMap;

use futures::future::BoxFuture;

use crate::class::Class;
use crate::secret::Accessor;
use crate::secret::Lease;
use crate::secret::LeaseId;
use crate::secret::Secret;
use crate::secret::VaultPath;

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
    /// Use the agent's own identity, for credentials that outlive the run. Its token is not ended
    /// with the run; without an identity this is [`SecretsError::LoginRefused`].
    Own,
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
    /// Values that end without a lease: the seconds until then (a certificate's expiry, the next
    /// rotation of a static role).
    pub ends_in: Option<u64>,
}

/// What a request to issue says beside its path, such as `common_name`; empty for most engines.
pub type Parameters = BTreeMap<String, String>;

/// The agent's own token, without the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnToken {
    /// Tells one token from the next: derived from its accessor, of no use to anybody.
    pub id: String,
    /// When it ends however often it is renewed; unset where it can live on for ever.
    pub ends: Option<jiff::Timestamp>,
}

/// A token that was made for one credential.
#[derive(Debug)]
pub struct Child {
    /// Its session; the credential is issued in it.
    pub session: Session,
    /// Ends and extends it.
    pub accessor: Accessor,
    /// How long it lives unless it is extended, in seconds.
    pub seconds: u64,
}

/// The newest version of a KV v2 secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// Its number.
    pub version: u64,
    /// Whether it can be read.
    pub standing: Standing,
}

/// Whether a version can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It can.
    Live,
    /// It is deleted and can be undeleted.
    Deleted,
    /// It is gone for good.
    Destroyed,
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

    /// Issues a credential: with parameters by a write, else by a read. Not idempotent: each call
    /// makes another one (only static roles return the same until their next rotation).
    fn issue<'a>(
        &'a self,
        session: &'a Session,
        path: &'a VaultPath,
        parameters: &'a Parameters,
    ) -> BoxFuture<'a, Result<SecretData, SecretsError>>;

    /// Revokes a lease. Idempotent: a lease that is gone is revoked.
    fn revoke<'a>(
        &'a self,
        session: &'a Session,
        lease: &'a LeaseId,
    ) -> BoxFuture<'a, Result<(), SecretsError>>;

    /// Returns what the agent's own token is; unset without an identity, and before its first login.
    fn own(&self) -> Option<OwnToken>;

    /// Makes a token below the session's. What is issued with it ends with it, also a lease whose id
    /// was lost together with the answer. A token below it that is never used costs nothing.
    fn child<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Child, SecretsError>>;

    /// Ends a child token and every lease that it holds. Idempotent: a token that is gone is ended.
    fn end<'a>(
        &'a self,
        session: &'a Session,
        accessor: &'a Accessor,
    ) -> BoxFuture<'a, Result<(), SecretsError>>;

    /// Renews a child token and returns the seconds that it has now; [`SecretsError::Missing`] where
    /// it is gone.
    fn extend<'a>(
        &'a self,
        session: &'a Session,
        accessor: &'a Accessor,
    ) -> BoxFuture<'a, Result<u64, SecretsError>>;

    /// Renews a lease, asking for `seconds`, and returns what was granted, which may be less.
    /// [`SecretsError::Missing`] means that the lease is gone, and nothing else does.
    fn renew<'a>(
        &'a self,
        session: &'a Session,
        lease: &'a LeaseId,
        seconds: u64,
    ) -> BoxFuture<'a, Result<Lease, SecretsError>>;

    /// Says which of these paths the session may use as [`Secrets::read`] or [`Secrets::issue`]
    /// (without parameters a read, with some a write) would, in their order. Nothing is read.
    fn may_use<'a>(
        &'a self,
        session: &'a Session,
        places: &'a [(Mount, VaultPath, Parameters)],
    ) -> BoxFuture<'a, Result<Vec<Allowance>, SecretsError>>;

    /// Returns the newest version of every secret directly in a folder of a KV v2 mount, by its name
    /// in the folder. `folder` is empty for the mount itself. [`SecretsError::Missing`] where the
    /// server does not know the call (HashiCorp Vault) or the folder is empty.
    fn folder<'a>(
        &'a self,
        session: &'a Session,
        mount: &'a Mount,
        folder: &'a str,
    ) -> BoxFuture<'a, Result<BTreeMap<String, Newest>, SecretsError>>;

    /// Returns the newest version of one secret of a KV v2 mount, without reading it.
    fn newest<'a>(
        &'a self,
        session: &'a Session,
        mount: &'a Mount,
        path: &'a VaultPath,
    ) -> BoxFuture<'a, Result<Newest, SecretsError>>;

    /// Ends a session that is ours by revoking its token (which would end its leases too, so leases
    /// that shall live on are issued under a token that outlives the run, or `keep_leases` is set).
    fn logout(&self, session: Session) -> BoxFuture<'_, Result<(), SecretsError>>;
}

/// Whether a session may use a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// It may.
    Allowed,
    /// Its policies do not say so.
    Denied,
}

/// A mounted engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount path without slashes at the ends.
    pub path: String,
    /// What it is.
    pub engine: Engine,
}
