//! The `Secrets` port on a real Vault or OpenBao.
//!
//! Made by `app`, called by the engine through the port, and by `auth` and `readiness` for the calls
//! that are not in it. Invariants: one call is one request that is bounded in time and never
//! repeated here (exceptions: a read that met a bare 404 asks once more to tell a missing version
//! from a missing secret, a folder is read page by page, and a call in a session of the agent's own
//! identity is repeated once when that identity had to log in again, see [`sessions`]); what vaultrs
//! says is mapped in [`error`] and goes no further; a token is revealed only for the header or login
//! body that carries it.

mod data;
mod endpoints;
mod error;
mod identity;
mod leases;
mod reads;
mod rights;
mod sessions;
mod setup;
mod versions;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use deploy::ports::Allowance;
use deploy::ports::Child;
use deploy::ports::Clock;
use deploy::ports::Engine;
use deploy::ports::Login;
use deploy::ports::Mount;
use deploy::ports::Newest;
use deploy::ports::OwnToken;
use deploy::ports::Parameters;
use deploy::ports::SecretData;
use deploy::ports::Secrets;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::secret::Accessor;
use deploy::secret::Lease;
use deploy::secret::LeaseId;
use deploy::secret::Secret;
use deploy::secret::VaultPath;

pub use self::data::TokenLookup;
use self::error::Doing;
use self::error::meaning;
use self::identity::Identity;
pub use self::identity::IdentitySettings;
pub use self::identity::IdentityStatus;
pub use self::setup::VaultSettings;
pub use self::setup::VaultSetupError;
use self::wire::Failure;
use self::wire::Wire;
use crate::clock::SystemClock;

/// Vault or OpenBao behind its HTTP API.
pub struct Vault {
    wire: Wire,
    settings: VaultSettings,
    clock: Arc<dyn Clock>,
    identity: Option<Arc<Identity>>,
}

impl Vault {
    /// Makes the adapter; nothing is sent.
    ///
    /// # Errors
    /// Says which setting cannot be used.
    pub fn new(settings: VaultSettings) -> Result<Self, VaultSetupError> {
        Ok(Self {
            wire: setup::wire(&settings)?,
            settings,
            clock: Arc::new(SystemClock),
            identity: None,
        })
    }

    /// Gives the adapter an identity of its own; nothing is sent before [`Vault::keep_identity`] runs
    /// or a session of its own is asked for.
    ///
    /// # Errors
    /// Says which setting cannot be used.
    pub fn with_identity(self, own: IdentitySettings) -> Result<Self, VaultSetupError> {
        let clock = Arc::clone(&own.clock);
        let identity = Identity::new(&self.settings, self.wire.clone(), own)?;
        Ok(Self {
            clock,
            identity: Some(Arc::new(identity)),
            ..self
        })
    }

    /// Keeps the agent's own token alive until it is told to stop.
    pub async fn keep_identity(self: Arc<Self>, stop: CancellationToken) {
        match &self.identity {
            Some(identity) => Arc::clone(identity).keep(stop).await,
            None => stop.cancelled().await,
        }
    }

    /// Says whether the agent's own identity works; without one nothing is missing.
    ///
    /// # Errors
    /// Says in words what is wrong.
    pub async fn identity_ready(&self) -> Result<(), String> {
        match &self.identity {
            Some(identity) => identity.ready().await,
            None => Ok(()),
        }
    }

    /// Returns how the agent's own login stands; unset without one.
    #[must_use]
    pub fn identity_status(&self) -> Option<IdentityStatus> {
        self.identity.as_ref().map(|identity| identity.status())
    }

    /// Returns what a session may do at API paths, in Vault's words, by path.
    ///
    /// # Errors
    /// Vault is away, or does not let the token ask.
    pub async fn capabilities(
        &self,
        session: &Session,
        paths: &[String],
    ) -> Result<BTreeMap<String, Vec<String>>, SecretsError> {
        self.held(session, paths).await
    }

    /// Ends the token that this adapter has logged in for; one out of a file is its owner's and stays.
    ///
    /// # Errors
    /// Vault is away, or does not let the token end itself.
    pub async fn end_identity(&self) -> Result<(), SecretsError> {
        match &self.identity {
            Some(identity) if identity.logs_in() && identity.own().is_some() => {
                let session = Session {
                    token: identity.ticket(),
                    ours: true,
                };
                self.close(session).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Looks up what a token is. A token that Vault does not know is a refused login.
    ///
    /// # Errors
    /// Refused, or Vault is away.
    pub async fn lookup_self(&self, token: &Secret) -> Result<TokenLookup, SecretsError> {
        let answer = self
            .wire
            .ask(Some(token), endpoints::LookupSelf {})
            .await
            .map_err(|failure| meaning(failure, Doing::Login))?;
        Ok(data::lookup(&answer.data.unwrap_or_default()))
    }

    /// Says whether Vault can serve: initialized, unsealed, and active or a standby that forwards.
    ///
    /// # Errors
    /// Says in words what is wrong.
    pub async fn health(&self) -> Result<(), String> {
        match self.wire.call(None, endpoints::Health {}).await {
            Ok(_answer) => Ok(()),
            Err(Failure::Refused(refusal)) => match refusal.code {
                // Standby nodes pass requests on to the active one.
                429 | 473 => Ok(()),
                472 => Err("disaster recovery standby".to_owned()),
                501 => Err("not initialized".to_owned()),
                503 => Err("sealed".to_owned()),
                code => Err(format!("status {code}")),
            },
            Err(Failure::NotSent { reason } | Failure::Cut { reason }) => Err(reason),
            Err(Failure::BadToken | Failure::Garbled | Failure::NoOwnToken(_)) => {
                Err("no answer of Vault's form".to_owned())
            }
        }
    }
}

impl Secrets for Vault {
    fn login<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Session, SecretsError>> {
        self.open(login).boxed()
    }

    fn engine<'a>(
        &'a self,
        session: &'a Session,
        path: &'a VaultPath,
    ) -> BoxFuture<'a, Result<Mount, SecretsError>> {
        self.mount_of(session, path).boxed()
    }

    fn read<'a>(
        &'a self,
        session: &'a Session,
        mount: &'a Mount,
        path: &'a VaultPath,
        version: Option<u64>,
    ) -> BoxFuture<'a, Result<SecretData, SecretsError>> {
        async move {
            match (mount.engine, version) {
                (Engine::KvV2, version) => self.read_versioned(session, mount, path, version).await,
                (Engine::KvV1, None) => self.read_plain(session, path).await,
                (Engine::KvV1, Some(version)) => Err(SecretsError::VersionGone {
                    path: path.to_string(),
                    version,
                }),
                (Engine::Dynamic, _) => Err(SecretsError::Unexpected {
                    reason: format!("{path} is not a KV secret and cannot be read twice"),
                }),
            }
        }
        .boxed()
    }

    fn issue<'a>(
        &'a self,
        session: &'a Session,
        path: &'a VaultPath,
        parameters: &'a Parameters,
    ) -> BoxFuture<'a, Result<SecretData, SecretsError>> {
        self.make(session, path, parameters).boxed()
    }

    fn revoke<'a>(
        &'a self,
        session: &'a Session,
        lease: &'a LeaseId,
    ) -> BoxFuture<'a, Result<(), SecretsError>> {
        self.revoke_lease(session, lease).boxed()
    }

    fn own(&self) -> Option<OwnToken> {
        self.identity.as_ref()?.own()
    }

    fn child<'a>(&'a self, session: &'a Session) -> BoxFuture<'a, Result<Child, SecretsError>> {
        self.make_child(session).boxed()
    }

    fn end<'a>(
        &'a self,
        session: &'a Session,
        accessor: &'a Accessor,
    ) -> BoxFuture<'a, Result<(), SecretsError>> {
        self.end_child(session, accessor).boxed()
    }

    fn extend<'a>(
        &'a self,
        session: &'a Session,
        accessor: &'a Accessor,
    ) -> BoxFuture<'a, Result<u64, SecretsError>> {
        self.extend_child(session, accessor).boxed()
    }

    fn renew<'a>(
        &'a self,
        session: &'a Session,
        lease: &'a LeaseId,
        seconds: u64,
    ) -> BoxFuture<'a, Result<Lease, SecretsError>> {
        self.renew_lease(session, lease, seconds).boxed()
    }

    fn may_use<'a>(
        &'a self,
        session: &'a Session,
        places: &'a [(Mount, VaultPath, Parameters)],
    ) -> BoxFuture<'a, Result<Vec<Allowance>, SecretsError>> {
        self.allowances(session, places).boxed()
    }

    fn folder<'a>(
        &'a self,
        session: &'a Session,
        mount: &'a Mount,
        folder: &'a str,
    ) -> BoxFuture<'a, Result<BTreeMap<String, Newest>, SecretsError>> {
        self.newest_in(session, mount, folder).boxed()
    }

    fn newest<'a>(
        &'a self,
        session: &'a Session,
        mount: &'a Mount,
        path: &'a VaultPath,
    ) -> BoxFuture<'a, Result<Newest, SecretsError>> {
        self.newest_of(session, mount, path).boxed()
    }

    fn logout(&self, session: Session) -> BoxFuture<'_, Result<(), SecretsError>> {
        self.close(session).boxed()
    }
}

#[cfg(test)]
mod tests;
