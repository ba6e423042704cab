//! Why secrets could not be had: one error for reading, issuing and keeping fresh.
//!
//! Made by the rest of [`super`], told by [`crate::report`]. Holds paths, fields and numbers, never a
//! value.

use crate::class::Class;
use crate::ports::ClusterError;
use crate::ports::JournalError;
use crate::ports::SecretsError;
use crate::template::TemplateError;

/// Why secrets could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The run needs secrets and brought no token that Vault takes.
    #[error("the run needs secrets, and no token for Vault came with it")]
    NoLogin,
    /// The login or a read failed.
    #[error("reading {what}")]
    Vault {
        /// What was read: "the login", or a path.
        what: String,
        /// Why.
        source: SecretsError,
    },
    /// The secret has no such field.
    #[error("the secret at {path} has no field {field} (key {key} of Secret {secret})")]
    FieldMissing {
        /// The path.
        path: String,
        /// The field.
        field: String,
        /// The Secret.
        secret: String,
        /// The key.
        key: String,
    },
    /// A version was asked of an engine that has none.
    #[error(
        "{path} is not in a KV version 2 engine, so it has no version (key {key} of Secret {secret})"
    )]
    NoVersions {
        /// The path.
        path: String,
        /// The Secret.
        secret: String,
        /// The key.
        key: String,
    },
    /// The Secret is over the API server's limit.
    #[error("Secret {secret} would hold {bytes} bytes; the API server takes 1 MiB")]
    TooLarge {
        /// The Secret.
        secret: String,
        /// Its size.
        bytes: usize,
    },
    /// A template could not be rendered.
    #[error("key {key} of Secret {secret}")]
    Template {
        /// The Secret.
        secret: String,
        /// The key.
        key: String,
        /// Why.
        source: TemplateError,
    },
    /// The agent could not keep a Secret fresh after the run.
    #[error("the agent's own identity may not use {path}, so it could not keep it fresh")]
    NotForRotation {
        /// The path.
        path: String,
    },
    /// A credential does not live long enough for the outage budget.
    #[error(
        "a credential of {path} lives {seconds} s; to bridge {budget} s without Vault (outage_budget of Secret {secret}) it has to live {needed} s at least"
    )]
    ShortLife {
        /// The Secret.
        secret: String,
        /// The path.
        path: String,
        /// How long it was granted for.
        seconds: u64,
        /// The outage budget in seconds.
        budget: u64,
        /// The least life for that, in seconds.
        needed: u64,
    },
    /// A Secret that is kept fresh could not be read.
    #[error("looking at Secret {secret}")]
    Cluster {
        /// The Secret.
        secret: String,
        /// Why.
        source: ClusterError,
    },
    /// The journal cannot be written.
    #[error("noting a lease before it is used")]
    Journal(#[from] JournalError),
}

impl ResolveError {
    /// Returns the class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::NoLogin
            | Self::NoVersions { .. }
            | Self::TooLarge { .. }
            | Self::Template { .. } => Class::Caller,
            Self::Vault { source, .. } => source.class(),
            Self::FieldMissing { .. } => Class::NotFound,
            Self::NotForRotation { .. } => Class::Denied,
            Self::ShortLife { .. } => Class::Caller,
            Self::Cluster { source, .. } => source.class(),
            Self::Journal(_) => Class::Bug,
        }
    }
}
