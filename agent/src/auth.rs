//! Who is this? Tokens in, a verified [`Principal`] out.
//!
//! Called by the HTTP layer before anything else of a request is looked at. An id_token is checked
//! against the issuer's keys by `token`, `claims` and `keys`; a Vault token by a look-up that
//! the composition root brings. Of two tokens the id_token is the identity, and both must be good.
//!
//! Invariant: nothing here tells a caller about keys, and no token is ever part of an error. The
//! id_token is revealed in one place, `Authenticator::job`, because verifying it means reading it.

mod claims;
mod fetch;
mod keys;
mod members;
mod token;
mod vault_token;

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deploy::ports::Clock;
use deploy::principal::Principal;
use deploy::secret::Secret;
use futures::future::BoxFuture;
use proto::error::Code;

use self::claims::Expected;
use self::keys::KeyCache;
pub use self::vault_token::TokenFacts;
pub use self::vault_token::principal;

/// What a caller presents: raw header values.
#[derive(Debug)]
pub struct Presented {
    /// The id_token of `Authorization: Bearer`.
    pub id_token: Option<Secret>,
    /// The token of `X-Vault-Token`.
    pub vault_token: Option<Secret>,
}

/// Who the caller is, with the tokens that proved it.
#[derive(Debug)]
pub struct Identity {
    /// Verified.
    pub principal: Principal,
    /// The id_token, for the JWT login.
    pub id_token: Option<Secret>,
    /// The Vault token, for reading secrets.
    pub vault_token: Option<Secret>,
}

/// Which of the two tokens an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The GitLab id_token.
    IdToken,
    /// The Vault token.
    VaultToken,
}

/// Why a caller is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Nothing was presented.
    #[error("the request carries no token")]
    Missing,
    /// The token is not one that can be read, or lacks a claim, or has one of another type.
    #[error("the id_token cannot be read: {problem}")]
    Malformed {
        /// What is wrong; names of claims, never values.
        problem: String,
    },
    /// Too late, too early or too old.
    #[error("the id_token {problem}")]
    Expired {
        /// Which of them.
        problem: &'static str,
    },
    /// Not of the issuer, or not for this agent.
    #[error("the id_token {problem}")]
    Untrusted {
        /// What is wrong, without anything about keys.
        problem: &'static str,
    },
    /// The Vault token is not good, or says nothing about its holder that could be trusted.
    #[error("the Vault token {problem}")]
    VaultRefused {
        /// What is wrong.
        problem: String,
    },
    /// The check could not be made.
    #[error("the {} cannot be checked now: {problem}", match which {
        Which::IdToken => "id_token",
        Which::VaultToken => "Vault token",
    })]
    Unavailable {
        /// Which token.
        which: Which,
        /// What is away.
        problem: String,
    },
}

impl AuthError {
    /// Returns the code for the caller.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Missing => Code::TokenMissing,
            Self::Malformed { .. } => Code::TokenMalformed,
            Self::Expired { .. } => Code::TokenExpired,
            Self::Untrusted { .. } => Code::TokenUntrusted,
            Self::VaultRefused { .. } => Code::VaultTokenRefused,
            Self::Unavailable { .. } => Code::Unavailable,
        }
    }

    /// Returns what to do.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Missing => {
                "send the job's id_token as `Authorization: Bearer ..`, or a Vault token as \
                 `X-Vault-Token`; in .gitlab-ci.yml the keyword `id_tokens` makes one"
            }
            Self::Malformed { .. } => {
                "send the id_token as GitLab put it into the variable, without quotes or line ends"
            }
            Self::Expired { .. } => {
                "an id_token lives as long as its job may, and at most the agent's own limit: \
                 deploy in a job of its own, and compare the clocks if it is fresh"
            }
            Self::Untrusted { .. } => {
                "let `id_tokens: NAME: aud:` name this agent's audience and nothing else, and use a \
                 runner of the GitLab that this agent trusts"
            }
            Self::VaultRefused { .. } => {
                "pass a token of a login that writes the job's claims into the token's metadata \
                 (claim_mappings), at a mount that the operator trusts"
            }
            Self::Unavailable { .. } => "try again in a moment",
        }
    }
}

/// How id_tokens are checked.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// The issuer's URL, compared byte by byte with `iss`; discovery starts here.
    pub issuer: String,
    /// The audience that names this agent.
    pub audience: String,
    /// Audiences that a token may have beside ours. Default none.
    pub extra_audiences: Vec<String>,
    /// The longest age since `iat`, whatever `exp` says. Default 1 h.
    pub max_age: Duration,
    /// How far clocks may differ. Default 30 s.
    pub leeway: Duration,
    /// PEM file with the only roots to trust for the issuer; unset trusts the system's.
    pub ca_file: Option<PathBuf>,
    /// A JWKS file that is used instead of the issuer's endpoint; nothing is fetched then.
    pub pinned_jwks: Option<PathBuf>,
}

impl IssuerSettings {
    /// Makes settings with the defaults.
    #[must_use]
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            extra_audiences: Vec::new(),
            max_age: Duration::from_hours(1),
            leeway: Duration::from_secs(30),
            ca_file: None,
            pinned_jwks: None,
        }
    }
}

/// Looks up what a Vault token is; given by the composition root, which knows the adapter. A token
/// that Vault does not know is [`AuthError::VaultRefused`], a Vault that is away is
/// [`AuthError::Unavailable`].
pub type TokenLookup =
    Arc<dyn for<'a> Fn(&'a Secret) -> BoxFuture<'a, Result<TokenFacts, AuthError>> + Send + Sync>;

/// How Vault tokens are checked.
#[derive(Clone)]
pub struct VaultTrust {
    /// Asks Vault.
    pub lookup: TokenLookup,
    /// The auth mounts whose metadata is believed, such as `auth/jwt/`.
    pub trusted_mounts: Vec<String>,
}

/// Makes a client for a server beside the issuer: bounded, no redirects, plain HTTP on loopback alone.
///
/// # Errors
/// The address or the CA is not usable.
pub(crate) fn http_client(
    address: &str,
    ca_file: Option<&Path>,
) -> Result<(reqwest::Url, reqwest::Client), AuthSetupError> {
    let url = fetch::allowed(address).map_err(|problem| AuthSetupError {
        key: "url",
        problem: problem.to_owned(),
    })?;
    let client = fetch::client(&url, ca_file)?;
    Ok((url, client))
}

/// Why the settings give no authenticator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("issuer.{key}: {problem}")]
pub struct AuthSetupError {
    /// The setting.
    pub key: &'static str,
    /// What is wrong and what is expected.
    pub problem: String,
}

/// Verifies tokens.
pub struct Authenticator {
    expected: Expected,
    keys: KeyCache,
    clock: Arc<dyn Clock>,
    vault: VaultTrust,
}

impl Authenticator {
    /// Makes the authenticator; nothing is fetched yet. A pinned file is read here.
    ///
    /// # Errors
    /// Says which setting cannot be used.
    pub fn new(
        settings: IssuerSettings,
        vault: VaultTrust,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuthSetupError> {
        let keys = KeyCache::new(&settings)?;
        let mut audiences = settings.extra_audiences;
        audiences.insert(0, settings.audience);
        Ok(Self {
            expected: Expected {
                issuer: settings.issuer,
                audiences,
                max_age: settings.max_age,
                leeway: settings.leeway,
            },
            keys,
            clock,
            vault,
        })
    }

    /// Finds out who presents these tokens.
    ///
    /// # Errors
    /// The first token that is not good, the id_token first.
    pub async fn identify(&self, presented: Presented) -> Result<Identity, AuthError> {
        let Presented {
            id_token,
            vault_token,
        } = presented;
        let job = match &id_token {
            Some(token) => Some(self.job(token).await?),
            None => None,
        };
        let holder = match &vault_token {
            Some(token) => Some((self.vault.lookup)(token).await?),
            None => None,
        };
        let principal = match (job, holder) {
            (None, None) => return Err(AuthError::Missing),
            (Some(job), None) => job,
            // Here the Vault token only reads, so metadata is of no matter; what it is still is.
            (Some(job), Some(facts)) => {
                vault_token::usable(&facts)?;
                job
            }
            (None, Some(facts)) => principal(&facts, &self.vault.trusted_mounts)?,
        };
        Ok(Identity {
            principal,
            id_token,
            vault_token,
        })
    }

    /// Says whether id_tokens can be checked, and fetches keys if there are none yet.
    ///
    /// # Errors
    /// Says for the operator what is in the way.
    pub async fn ready(&self) -> Result<(), String> {
        self.keys.ready().await
    }

    async fn job(&self, token: &Secret) -> Result<Principal, AuthError> {
        let signed = token::read(token.reveal())?;
        let key = self.keys.find(&signed.kid).await?;
        let payload = signed.verify(&key)?;
        claims::principal(&payload, &self.expected, self.clock.now())
    }
}

#[cfg(test)]
mod tests;
