//! The double as the port: each call on the state that [`super`] keeps.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::CHILD_SECONDS;
use super::FakeVault;
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
use crate::secret::Accessor;
use crate::secret::Lease;
use crate::secret::LeaseId;
use crate::secret::VaultPath;

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
                "database" | "pki" => Engine::Dynamic,
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
        seconds: u64,
    ) -> BoxFuture<'a, Result<Lease, SecretsError>> {
        async move {
            let inner = self.call(format!("renew {}", lease.0))?;
            if !inner.leases.contains_key(&lease.0) {
                return Err(SecretsError::Missing {
                    path: "sys/leases/renew".to_owned(),
                });
            }
            Ok(Lease {
                id: lease.clone(),
                seconds: inner.grant.seconds.min(seconds),
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
            if inner.forbidden.contains(prefix.trim_end_matches('/')) {
                return Err(SecretsError::Forbidden { path: prefix });
            }
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
