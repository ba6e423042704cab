//! The port to image registries: does an image exist, and which digest does its tag mean now?
//!
//! Called by [`crate::engine`] before anything is written; implemented by `agent::registries` and
//! `deploy::fakes`. [`RegistryError`] is also what servers of charts answer, which are asked the same way.

use futures::future::BoxFuture;

use super::ChartError;
use crate::class::Class;
use crate::secret::Secret;

/// An image as its registry knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImagePlace {
    /// `host[:port]`, as references name it.
    pub registry: String,
    /// The repository in it, such as `team/flask`.
    pub repository: String,
    /// The tag, or the digest with its algorithm.
    pub reference: String,
}

/// Says whether a text is a SHA-256 digest as registries write it: `sha256:` and 64 hexadecimal digits in lower case.
#[must_use]
pub fn is_digest(digest: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    digest
        .strip_prefix("sha256:")
        .is_some_and(|rest| rest.len() == 64 && rest.bytes().all(hex))
}

/// Who asks.
#[derive(Debug)]
pub struct RegistryLogin {
    /// The user name.
    pub user: String,
    /// The password or token.
    pub password: Secret,
}

/// Why a registry did not say it. Words of servers are cut to a limit and not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It has no such thing, or does not let the caller know of it.
    #[error("{server} has no {what}")]
    Missing {
        /// The server.
        server: String,
        /// What is missing.
        what: String,
    },
    /// It wants to know who asks, or does not let them.
    #[error("{server} answers {status}")]
    Denied {
        /// The server.
        server: String,
        /// Its status.
        status: u16,
    },
    /// It is away, busy or slow.
    #[error("{server} is not available: {reason}")]
    Unavailable {
        /// The server.
        server: String,
        /// Such as `connection refused`, `503`.
        reason: String,
        /// What the server asked to wait.
        retry_after_seconds: Option<u64>,
    },
    /// More came than is taken.
    #[error("{what} is over {limit} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// It answers what no such server should, or leads where we do not go.
    #[error("{server} is not followed: {reason}")]
    Unfit {
        /// The server.
        server: String,
        /// Why.
        reason: String,
    },
    /// The agent cannot ask.
    #[error("the agent cannot ask: {reason}")]
    Broken {
        /// Why.
        reason: String,
    },
}

impl RegistryError {
    /// Returns the class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Missing { .. } => Class::NotFound,
            Self::Denied { .. } => Class::Denied,
            Self::Unavailable { .. } => Class::Upstream,
            Self::TooLarge { .. } | Self::Unfit { .. } => Class::Caller,
            Self::Broken { .. } => Class::Bug,
        }
    }

    /// Returns what the server asked to wait, in seconds.
    #[must_use]
    pub const fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::Unavailable {
                retry_after_seconds,
                ..
            } => *retry_after_seconds,
            Self::Missing { .. }
            | Self::Denied { .. }
            | Self::TooLarge { .. }
            | Self::Unfit { .. }
            | Self::Broken { .. } => None,
        }
    }
}

impl From<RegistryError> for ChartError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Missing { server, what } => Self::Missing { server, what },
            RegistryError::Denied { server, status } => Self::Denied { server, status },
            RegistryError::Unavailable {
                server,
                reason,
                retry_after_seconds,
            } => Self::Unavailable {
                server,
                reason,
                retry_after_seconds,
            },
            RegistryError::TooLarge { what, limit } => Self::TooLarge { what, limit },
            RegistryError::Unfit { server, reason } => Self::Unfit { server, reason },
            RegistryError::Broken { reason } => Self::Broken { reason },
        }
    }
}

/// Image registries. Nothing is ever written there.
pub trait Registry: Send + Sync {
    /// Looks for an image and returns its digest, `sha256:` and 64 hexadecimal digits: the one that the tag
    /// means at this moment, or the one that was asked for. Idempotent. A login is shown to the image's own
    /// registry, and to the server of tokens that this one names, and to nobody else.
    fn digest<'a>(
        &'a self,
        image: &'a ImagePlace,
        login: Option<&'a RegistryLogin>,
    ) -> BoxFuture<'a, Result<String, RegistryError>>;
}
