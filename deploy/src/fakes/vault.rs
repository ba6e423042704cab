//! A Vault in memory: secrets with versions, leases, login tokens, queued faults.
//!
//! Keeps the contract of [`crate::ports::Secrets`].

use super::lock;
use crate::ports::Allowance;
use crate::ports::Child;
use crate::ports::Engine;
use crate::ports::Login;
use crate::ports::Mount;
use crate::ports::Newest;
use crate::ports::OwnToken;
use crate::ports::Parameters;
use crate::ports::SecretData;
use crate::ports::Secrets;
use crate::ports::SecretsError;
use crate::ports::Session;
use crate::ports::Standing;
use crate::secret::Accessor;
use crate::secret::Lease;
use crate::secret::LeaseId;
use crate::secret::Secret;
use crate::secret::VaultPath;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;

/// A Vault in memory. Mounts: `kv1` is KV v1, `database` issues, everything else is KV v2.
#[derive(Default)]
pub struct FakeVault {
    inner: Mutex<VaultState>,
}

#[derive(Default)]
struct VaultState {
    secrets: BTreeMap<String, Vec<Option<BTreeMap<String, String>>>>,
    forbidden: BTreeSet<String>,
    /// Lease id to the accessor of the token that holds it; unset for a run's own token.
    leases: BTreeMap<String, Option<Accessor>>,
    children: BTreeSet<Accessor>,
    grant: Grant,
    own: Option<OwnToken>,
    issued: u64,
    tokens: u64,
    revoked_tokens: u64,
    faults: VecDeque<SecretsError>,
    calls: Vec<String>,
}

/// What a lease gets when it is issued or renewed.
#[derive(Clone, Copy)]
struct Grant {
    seconds: u64,
    renewable: bool,
}

impl Default for Grant {
    fn default() -> Self {
        Self {
            seconds: 3_600,
            renewable: true,
        }
    }
}

/// How long a child token lives.
const CHILD_SECONDS: u64 = 86_400;

impl FakeVault {
    /// Gives the agent an identity of its own.
    pub fn set_own(&self, own: OwnToken) {
        lock(&self.inner).own = Some(own);
    }

    /// Says what leases get from now on, at issue and at renewal.
    pub fn grant(&self, seconds: u64, renewable: bool) {
        lock(&self.inner).grant = Grant { seconds, renewable };
    }

    /// Ends a lease as an operator would.
    pub fn lose_lease(&self, lease: &LeaseId) {
        lock(&self.inner).leases.remove(&lease.0);
    }

    /// Returns how many child tokens are alive.
    #[must_use]
    pub fn live_children(&self) -> usize {
        lock(&self.inner).children.len()
    }

    /// Writes a new version of a secret.
    pub fn put(&self, path: &str, fields: &[(&str, &str)]) {
        let fields = fields
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        lock(&self.inner)
            .secrets
            .entry(path.to_owned())
            .or_default()
            .push(Some(fields));
    }

    /// Deletes the latest version of a secret.
    pub fn delete_latest(&self, path: &str) {
        if let Some(last) = lock(&self.inner)
            .secrets
            .get_mut(path)
            .and_then(|versions| versions.last_mut())
        {
            *last = None;
        }
    }

    /// Makes a path forbidden.
    pub fn forbid(&self, path: &str) {
        lock(&self.inner).forbidden.insert(path.to_owned());
    }

    /// Makes the next call fail.
    pub fn fail_next(&self, error: SecretsError) {
        lock(&self.inner).faults.push_back(error);
    }

    /// Returns the ids of the leases that are alive.
    #[must_use]
    pub fn live_leases(&self) -> Vec<String> {
        lock(&self.inner).leases.keys().cloned().collect()
    }

    /// Returns how many login tokens were made and not revoked.
    #[must_use]
    pub fn live_tokens(&self) -> u64 {
        let inner = lock(&self.inner);
        inner.tokens - inner.revoked_tokens
    }

    /// Returns what was called, in order, such as `read kv/flask`.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        lock(&self.inner).calls.clone()
    }

    fn call(&self, what: String) -> Result<MutexGuard<'_, VaultState>, SecretsError> {
        let mut inner = lock(&self.inner);
        inner.calls.push(what);
        match inner.faults.pop_front() {
            Some(error) => Err(error),
            None => Ok(inner),
        }
    }

    fn login_now(&self, login: &Login) -> Result<Session, SecretsError> {
        match login {
            Login::Jwt { .. } => {
                let mut inner = self.call("login".to_owned())?;
                inner.tokens += 1;
                let token = Secret::from_text(format!("fake-token-{}", inner.tokens));
                Ok(Session { token, ours: true })
            }
            Login::Passed { token } => Ok(Session {
                token: token.duplicate(),
                ours: false,
            }),
            Login::Own => {
                if self.call("login as itself".to_owned())?.own.is_none() {
                    return Err(SecretsError::LoginRefused {
                        reason: "the agent has no identity of its own".to_owned(),
                    });
                }
                Ok(Session {
                    token: Secret::from_text("fake-own-token".to_owned()),
                    ours: false,
                })
            }
        }
    }

    fn child_now(&self) -> Result<Child, SecretsError> {
        let mut inner = self.call("child".to_owned())?;
        inner.tokens += 1;
        // Children are counted apart.
        inner.revoked_tokens += 1;
        let accessor = Accessor(format!("accessor-{}", inner.tokens));
        inner.children.insert(accessor.clone());
        let token = Secret::from_text(format!("fake-child:{}", accessor.0));
        Ok(Child {
            session: Session { token, ours: false },
            accessor,
            seconds: CHILD_SECONDS,
        })
    }

    fn newest_of(inner: &VaultState, path: &str) -> Option<Newest> {
        let versions = inner.secrets.get(path)?;
        let standing = match versions.last() {
            Some(None) => Standing::Deleted,
            Some(Some(_)) | None => Standing::Live,
        };
        Some(Newest {
            version: versions.len() as u64,
            standing,
        })
    }

    fn read_now(
        &self,
        mount: &Mount,
        path: &VaultPath,
        version: Option<u64>,
    ) -> Result<SecretData, SecretsError> {
        let inner = self.call(format!("read {path}"))?;
        let name = path.as_str();
        if inner.forbidden.contains(name) {
            return Err(SecretsError::Forbidden {
                path: name.to_owned(),
            });
        }
        let versions = inner
            .secrets
            .get(name)
            .ok_or_else(|| SecretsError::Missing {
                path: name.to_owned(),
            })?;
        let latest = versions.len() as u64;
        let number = version.unwrap_or(latest);
        let gone = || SecretsError::VersionGone {
            path: name.to_owned(),
            version: version.unwrap_or(0),
        };
        let index = usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_sub(1))
            .ok_or_else(gone)?;
        let fields = versions
            .get(index)
            .and_then(Option::as_ref)
            .ok_or_else(gone)?;
        let fields = fields
            .iter()
            .map(|(key, value)| (key.clone(), Secret::from_text(value.clone())))
            .collect();
        let version = (mount.engine == Engine::KvV2).then_some(number);
        Ok(SecretData {
            fields,
            version,
            lease: None,
            ends_in: None,
        })
    }

    fn issue_now(&self, session: &Session, path: &VaultPath) -> Result<SecretData, SecretsError> {
        let mut inner = self.call(format!("issue {path}"))?;
        if inner.forbidden.contains(path.as_str()) {
            return Err(SecretsError::Forbidden {
                path: path.to_string(),
            });
        }
        inner.issued += 1;
        let number = inner.issued;
        let id = format!("{path}/{number}");
        let holder = std::str::from_utf8(session.token.bytes())
            .ok()
            .and_then(|token| token.strip_prefix("fake-child:"))
            .map(|accessor| Accessor(accessor.to_owned()));
        if holder
            .as_ref()
            .is_some_and(|accessor| !inner.children.contains(accessor))
        {
            return Err(SecretsError::Forbidden {
                path: path.to_string(),
            });
        }
        inner.leases.insert(id.clone(), holder);
        let grant = inner.grant;
        let fields = [
            ("username", format!("v-user-{number}")),
            ("password", format!("v-password-{number}")),
        ];
        Ok(SecretData {
            fields: fields
                .into_iter()
                .map(|(key, value)| (key.to_owned(), Secret::from_text(value)))
                .collect(),
            version: None,
            lease: Some(Lease {
                id: LeaseId(id),
                seconds: grant.seconds,
                renewable: grant.renewable,
            }),
            ends_in: None,
        })
    }
}

impl Secrets for FakeVault {
    fn login<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Session, SecretsError>> {
        async { self.login_now(login) }.boxed()
    }

    fn engine<'a>(
        &'a self,
        _: &'a Session,
        path: &'a VaultPath,
    ) -> BoxFuture<'a, Result<Mount, SecretsError>> {
        async move {
            drop(self.call(format!("engine {path}"))?);
            let mount = path.as_str().split('/').next().unwrap_or_default();
            let engine = match mount {
                "kv1" => Engine::KvV1,
                "database" => Engine::Dynamic,
                _ => Engine::KvV2,
            };
            Ok(Mount {
                path: mount.to_owned(),
                engine,
            })
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        _: &'a Session,
        mount: &'a Mount,
        path: &'a VaultPath,
        version: Option<u64>,
    ) -> BoxFuture<'a, Result<SecretData, SecretsError>> {
        async move { self.read_now(mount, path, version) }.boxed()
    }

    fn issue<'a>(
        &'a self,
        session: &'a Session,
        path: &'a VaultPath,
        _: &'a Parameters,
    ) -> BoxFuture<'a, Result<SecretData, SecretsError>> {
        async move { self.issue_now(session, path) }.boxed()
    }

    fn revoke<'a>(
        &'a self,
        _: &'a Session,
        lease: &'a LeaseId,
    ) -> BoxFuture<'a, Result<(), SecretsError>> {
        async {
            self.call(format!("revoke {}", lease.0))?
                .leases
                .remove(&lease.0);
            Ok(())
        }
        .boxed()
    }

    fn own(&self) -> Option<OwnToken> {
        lock(&self.inner).own.clone()
    }

    fn child<'a>(&'a self, _: &'a Session) -> BoxFuture<'a, Result<Child, SecretsError>> {
        async { self.child_now() }.boxed()
    }

    fn end<'a>(
        &'a self,
        _: &'a Session,
        accessor: &'a Accessor,
    ) -> BoxFuture<'a, Result<(), SecretsError>> {
        async {
            let mut inner = self.call(format!("end {}", accessor.0))?;
            inner.children.remove(accessor);
            inner
                .leases
                .retain(|_, holder| holder.as_ref() != Some(accessor));
            Ok(())
        }
        .boxed()
    }

    fn extend<'a>(
        &'a self,
        _: &'a Session,
        accessor: &'a Accessor,
    ) -> BoxFuture<'a, Result<u64, SecretsError>> {
        async {
            let inner = self.call(format!("extend {}", accessor.0))?;
            if inner.children.contains(accessor) {
                return Ok(CHILD_SECONDS);
            }
            Err(SecretsError::Missing {
                path: "auth/token".to_owned(),
            })
        }
        .boxed()
    }

    fn renew<'a>(
        &'a self,
        _: &'a Session,
        lease: &'a LeaseId,
        _: u64,
    ) -> BoxFuture<'a, Result<Lease, SecretsError>> {
        async {
            let inner = self.call(format!("renew {}", lease.0))?;
            if !inner.leases.contains_key(&lease.0) {
                return Err(SecretsError::Missing {
                    path: "sys/leases/renew".to_owned(),
                });
            }
            Ok(Lease {
                id: lease.clone(),
                seconds: inner.grant.seconds,
                renewable: inner.grant.renewable,
            })
        }
        .boxed()
    }

    fn may_use<'a>(
        &'a self,
        _: &'a Session,
        places: &'a [(Mount, VaultPath, Parameters)],
    ) -> BoxFuture<'a, Result<Vec<Allowance>, SecretsError>> {
        async move {
            let inner = self.call("may use".to_owned())?;
            let allowance = |path: &VaultPath| {
                if inner.forbidden.contains(path.as_str()) {
                    Allowance::Denied
                } else {
                    Allowance::Allowed
                }
            };
            Ok(places.iter().map(|(_, path, _)| allowance(path)).collect())
        }
        .boxed()
    }

    fn folder<'a>(
        &'a self,
        _: &'a Session,
        mount: &'a Mount,
        folder: &'a str,
    ) -> BoxFuture<'a, Result<BTreeMap<String, Newest>, SecretsError>> {
        async move {
            let prefix = match folder {
                "" => format!("{}/", mount.path),
                folder => format!("{}/{folder}/", mount.path),
            };
            let inner = self.call(format!("folder {prefix}"))?;
            let names = inner.secrets.keys();
            let found: BTreeMap<String, Newest> = names
                .filter_map(|path| {
                    let name = path.strip_prefix(&prefix)?;
                    let direct = !name.contains('/');
                    Some((name.to_owned(), Self::newest_of(&inner, path)?)).filter(|_| direct)
                })
                .collect();
            if found.is_empty() {
                return Err(SecretsError::Missing { path: prefix });
            }
            Ok(found)
        }
        .boxed()
    }

    fn newest<'a>(
        &'a self,
        _: &'a Session,
        _: &'a Mount,
        path: &'a VaultPath,
    ) -> BoxFuture<'a, Result<Newest, SecretsError>> {
        async move {
            let inner = self.call(format!("newest {path}"))?;
            if inner.forbidden.contains(path.as_str()) {
                return Err(SecretsError::Forbidden {
                    path: path.to_string(),
                });
            }
            Self::newest_of(&inner, path.as_str()).ok_or_else(|| SecretsError::Missing {
                path: path.to_string(),
            })
        }
        .boxed()
    }

    fn logout(&self, session: Session) -> BoxFuture<'_, Result<(), SecretsError>> {
        async move {
            let mut inner = self.call("logout".to_owned())?;
            if session.ours {
                inner.revoked_tokens += 1;
            }
            Ok(())
        }
        .boxed()
    }
}
