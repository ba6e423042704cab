//! A Vault in memory: secrets with versions, leases, login tokens, queued faults.
//!
//! Keeps the contract of [`crate::ports::Secrets`].

use super::lock;
use crate::ports::Engine;
use crate::ports::Login;
use crate::ports::Mount;
use crate::ports::SecretData;
use crate::ports::Secrets;
use crate::ports::SecretsError;
use crate::ports::Session;
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
    leases: BTreeSet<String>,
    issued: u64,
    tokens: u64,
    revoked_tokens: u64,
    faults: VecDeque<SecretsError>,
    calls: Vec<String>,
}

impl FakeVault {
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
        lock(&self.inner).leases.iter().cloned().collect()
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
        }
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
        })
    }

    fn issue_now(&self, path: &VaultPath) -> Result<SecretData, SecretsError> {
        let mut inner = self.call(format!("issue {path}"))?;
        if inner.forbidden.contains(path.as_str()) {
            return Err(SecretsError::Forbidden {
                path: path.to_string(),
            });
        }
        inner.issued += 1;
        let number = inner.issued;
        let id = format!("{path}/{number}");
        inner.leases.insert(id.clone());
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
                seconds: 3600,
                renewable: true,
            }),
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
        _: &'a Session,
        path: &'a VaultPath,
    ) -> BoxFuture<'a, Result<SecretData, SecretsError>> {
        async move { self.issue_now(path) }.boxed()
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
