//! A Vault in memory: secrets with versions, leases, login tokens, queued faults.
//!
//! Keeps the contract of [`crate::ports::Secrets`].

mod port;

use super::lock;
use crate::ports::Child;
use crate::ports::Engine;
use crate::ports::Login;
use crate::ports::Mount;
use crate::ports::Newest;
use crate::ports::OwnToken;
use crate::ports::SecretData;
use crate::ports::SecretsError;
use crate::ports::Session;
use crate::ports::Standing;
use crate::secret::Accessor;
use crate::secret::Lease;
use crate::secret::LeaseId;
use crate::secret::Secret;
use crate::secret::VaultPath;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;

/// A Vault in memory. Mounts: `kv1` is KV v1, `database` and `pki` issue, everything else is KV v2.
#[derive(Default)]
pub struct FakeVault {
    inner: Mutex<VaultState>,
}

#[derive(Default)]
struct VaultState {
    secrets: BTreeMap<String, Vec<Option<Fields>>>,
    /// Secrets whose newest version is destroyed.
    destroyed: BTreeSet<String>,
    /// What is issued without a lease: the fields, and in how many seconds they end.
    unleased: BTreeMap<String, (Fields, u64)>,
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

/// Values by name.
type Fields = BTreeMap<String, String>;

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

    /// Issues these fields at a path from now on, without a lease: a certificate, a static role.
    pub fn serve(&self, path: &str, fields: &[(&str, &str)], ends_in: u64) {
        let served = (texts(fields), ends_in);
        lock(&self.inner).unleased.insert(path.to_owned(), served);
    }

    /// Destroys the latest version of a secret.
    pub fn destroy_latest(&self, path: &str) {
        self.delete_latest(path);
        lock(&self.inner).destroyed.insert(path.to_owned());
    }

    /// Writes a new version of a secret.
    pub fn put(&self, path: &str, fields: &[(&str, &str)]) {
        let mut inner = lock(&self.inner);
        inner.destroyed.remove(path);
        let versions = inner.secrets.entry(path.to_owned()).or_default();
        versions.push(Some(texts(fields)));
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
            Some(None) if inner.destroyed.contains(path) => Standing::Destroyed,
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
        if let Some((fields, ends_in)) = inner.unleased.get(path.as_str()) {
            return Ok(SecretData {
                fields: secrets(fields),
                version: None,
                lease: None,
                ends_in: Some(*ends_in),
            });
        }
        inner.issued += 1;
        let number = inner.issued;
        let id = format!("{path}/{number}");
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

fn texts(fields: &[(&str, &str)]) -> Fields {
    let fields = fields.iter();
    fields
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn secrets(fields: &Fields) -> BTreeMap<String, Secret> {
    let fields = fields.iter();
    fields
        .map(|(key, value)| (key.clone(), Secret::from_text(value.clone())))
        .collect()
}
