//! Which values? Reads and issues what the permit's spec names, in two steps.
//!
//! [`draft`] opens a session, finds the engine behind each path and reads every KV secret: after it
//! all fields, sizes and template names are known to be there, and no credential was issued. A dry
//! run stops here. [`Draft::issue`] then issues dynamic credentials (one per Secret and path, so
//! that user and password belong together), notes each lease in the journal before anything else
//! happens, and renders templates; [`clean_up`] revokes what no written Secret holds. Called by
//! [`crate::engine`].

pub mod clean_up;
mod deleted;
mod error;
mod issue;
mod keep;
mod records;

use std::collections::BTreeMap;

use crate::backoff::Patience;
use crate::backoff::Trouble;
use crate::managed::Record;
use crate::ports::Engine;
use crate::ports::Login;
use crate::ports::Mount;
use crate::ports::Parameters;
use crate::ports::Ports;
use crate::ports::SecretData;
use crate::ports::SecretsError;
use crate::ports::Session;
use crate::secret::Accessor;
use crate::secret::LeaseId;
use crate::secret::Secret;
use crate::secret::VaultPath;
use crate::spec::SecretSpec;
use crate::spec::Source;

pub use self::error::ResolveError;
pub use self::keep::Keeping;
use self::keep::Kept;
pub use self::keep::Scope;
pub(crate) use self::keep::secret_id;

/// The API server's limit for the data of one Secret.
const MAX_SECRET: usize = 1 << 20;

/// One path that the spec names, with what is behind it.
#[derive(Debug)]
struct Place {
    path: VaultPath,
    version: Option<u64>,
}

impl Place {
    fn key(&self) -> (String, Option<u64>) {
        (self.path.as_str().to_owned(), self.version)
    }
}

/// Everything that can be known without issuing a credential.
#[derive(Debug)]
pub struct Draft {
    session: Session,
    specs: Vec<SecretSpec>,
    mounts: BTreeMap<String, Mount>,
    read: BTreeMap<(String, Option<u64>), SecretData>,
    /// The agent's own session, for Secrets that are kept fresh.
    own: Option<Session>,
    keeping: Option<Keeping>,
    /// What is there of Secrets that are kept fresh, by name.
    kept: BTreeMap<String, Kept>,
    /// Paths whose newest version is deleted, where a rotation keeps the values that are there.
    lost: BTreeMap<String, SecretsError>,
}

/// The values of one Secret.
#[derive(Debug)]
pub struct ResolvedSecret {
    /// The Secret's name.
    pub name: String,
    /// Its values by key.
    pub data: BTreeMap<String, Secret>,
    /// The record that goes with them; unset for a Secret that is not kept fresh.
    pub record: Option<Record>,
}

/// All values of a run, its leases, and the session that holds them.
#[derive(Debug)]
pub struct ResolvedSecrets {
    /// In the order of the spec.
    pub secrets: Vec<ResolvedSecret>,
    /// Every lease, with the Secret that it is for and the path that issued it.
    pub leases: Vec<HeldLease>,
    /// The session; unset for a run without secrets.
    pub session: Option<Session>,
    /// The agent's own session, which holds what lasts; unset where nothing does.
    pub own: Option<Session>,
}

/// A lease that this run issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// Its id; unset for values without a lease, and where the answer to the issue was lost.
    pub id: Option<LeaseId>,
    /// The token that was made to hold it; unset for one that the run's own token holds.
    pub accessor: Option<Accessor>,
    /// The Secret that its values go into.
    pub secret: String,
    /// The path that issued it.
    pub path: String,
    /// How long it was granted for, in seconds.
    pub seconds: u64,
}

impl ResolvedSecrets {
    /// A run without secrets.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            secrets: Vec::new(),
            leases: Vec::new(),
            session: None,
            own: None,
        }
    }
}

/// Tells the retry policy about a Vault error at `what`.
pub(crate) fn trouble(what: &str) -> impl Fn(&SecretsError) -> Trouble {
    move |error| Trouble {
        class: error.class(),
        retry_after_seconds: match error {
            SecretsError::Unavailable {
                retry_after_seconds,
                ..
            } => *retry_after_seconds,
            SecretsError::LoginRefused { .. }
            | SecretsError::Forbidden { .. }
            | SecretsError::Missing { .. }
            | SecretsError::VersionGone { .. }
            | SecretsError::DataPrefix { .. }
            | SecretsError::Unanswered { .. }
            | SecretsError::Unexpected { .. } => None,
        },
        reason: format!("{what}: {error}"),
    }
}

/// Says at what a Vault error happened.
fn in_vault(what: &str) -> impl Fn(SecretsError) -> ResolveError {
    move |source| ResolveError::Vault {
        what: what.to_owned(),
        source,
    }
}

/// Opens a session and reads everything that can be read without issuing.
///
/// # Errors
/// The first thing that is missing or refused. The session is ended before an error is returned.
pub async fn draft(
    specs: &[SecretSpec],
    login: Option<&Login>,
    keeping: Keeping,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Draft, ResolveError> {
    let login = login.ok_or(ResolveError::NoLogin)?;
    let session = patience
        .retry(|| ports.secrets.login(login), trouble("the login"))
        .await
        .map_err(in_vault("the login"))?;
    let mut draft = Draft {
        session,
        specs: specs.to_vec(),
        mounts: BTreeMap::new(),
        read: BTreeMap::new(),
        own: None,
        keeping: None,
        kept: BTreeMap::new(),
        lost: BTreeMap::new(),
    };
    let filled = match draft.fill(&keeping, ports, patience).await {
        Ok(()) => draft.keep(&keeping, ports, patience).await,
        Err(error) => Err(error),
    };
    draft.keeping = Some(keeping);
    match filled {
        Ok(()) => Ok(draft),
        Err(error) => {
            draft.close(ports, patience).await;
            Err(error)
        }
    }
}

impl Draft {
    async fn fill(
        &mut self,
        keeping: &Keeping,
        ports: &Ports,
        patience: &Patience<'_>,
    ) -> Result<(), ResolveError> {
        for place in places(&self.specs) {
            let mount = self.mount(&place.path, ports, patience).await?;
            let secrets = match mount.engine {
                Engine::Dynamic => continue,
                Engine::KvV1 | Engine::KvV2 => &ports.secrets,
            };
            if place.version.is_some() && mount.engine == Engine::KvV1 {
                return Err(self.no_versions(&place));
            }
            let data = patience
                .retry(
                    || secrets.read(&self.session, &mount, &place.path, place.version),
                    trouble(place.path.as_str()),
                )
                .await;
            let data = match data {
                Err(error @ SecretsError::VersionGone { .. }) if keeping.outlives(&place) => {
                    match self.before(&place, &mount, ports, patience).await? {
                        Some(data) => data,
                        None => {
                            self.lost.insert(place.path.as_str().to_owned(), error);
                            continue;
                        }
                    }
                }
                data => data.map_err(in_vault(place.path.as_str()))?,
            };
            data.fields
                .values()
                .for_each(|value| patience.log.learn(value));
            self.read.insert(place.key(), data);
        }
        self.check()
    }

    async fn mount(
        &mut self,
        path: &VaultPath,
        ports: &Ports,
        patience: &Patience<'_>,
    ) -> Result<Mount, ResolveError> {
        if let Some(mount) = self.mounts.get(path.as_str()) {
            return Ok(mount.clone());
        }
        let mount = patience
            .retry(
                || ports.secrets.engine(&self.session, path),
                trouble(path.as_str()),
            )
            .await
            .map_err(in_vault(path.as_str()))?;
        self.mounts.insert(path.as_str().to_owned(), mount.clone());
        Ok(mount)
    }

    fn no_versions(&self, place: &Place) -> ResolveError {
        let (secret, key) = self.user_of(place);
        ResolveError::NoVersions {
            path: place.path.to_string(),
            secret,
            key,
        }
    }

    fn user_of(&self, place: &Place) -> (String, String) {
        fields(&self.specs)
            .find(|used| used.path == &place.path && used.version == place.version)
            .map(|used| (used.secret.to_owned(), used.key.to_owned()))
            .unwrap_or_default()
    }

    /// Checks fields and sizes of all that was read.
    fn check(&self) -> Result<(), ResolveError> {
        for used in fields(&self.specs) {
            if self.is_dynamic(used.path) {
                if used.version.is_some() {
                    return Err(ResolveError::NoVersions {
                        path: used.path.to_string(),
                        secret: used.secret.to_owned(),
                        key: used.key.to_owned(),
                    });
                }
                continue;
            }
            if self.lost.contains_key(used.path.as_str()) {
                // Looked for among the values that are there.
                continue;
            }
            let data = self
                .read
                .get(&(used.path.as_str().to_owned(), used.version));
            if !data.is_some_and(|data| data.fields.contains_key(used.field)) {
                return Err(field_missing(&used));
            }
        }
        for spec in &self.specs {
            let known = spec
                .keys
                .iter()
                .filter_map(|(key, source)| self.known(&spec.name, key, source))
                .map(Secret::len);
            check_size(&spec.name, known.sum())?;
        }
        Ok(())
    }

    fn is_dynamic(&self, path: &VaultPath) -> bool {
        self.mounts
            .get(path.as_str())
            .is_some_and(|mount| mount.engine == Engine::Dynamic)
    }

    /// Returns the value of a key of a Secret where it is known without issuing: it was read, or its
    /// credential is kept. Templates are not known.
    #[must_use]
    pub fn known(&self, secret: &str, key: &str, source: &Source) -> Option<&Secret> {
        if let Some(value) = self.kept.get(secret).and_then(|kept| kept.values.get(key)) {
            return Some(value);
        }
        match source {
            Source::Field {
                path,
                field,
                version,
                ..
            } => self
                .read
                .get(&(path.as_str().to_owned(), *version))
                .and_then(|data| data.fields.get(field)),
            Source::Template(_) => None,
        }
    }

    /// Says in words where the value of a key comes from, with the version that was read.
    #[must_use]
    pub fn describe(&self, secret: &str, source: &Source) -> String {
        match source {
            Source::Template(_) => "template".to_owned(),
            Source::Field {
                path,
                field,
                version,
                ..
            } => {
                let read = self
                    .read
                    .get(&(path.as_str().to_owned(), *version))
                    .and_then(|data| data.version);
                match read {
                    Some(version) => format!("{path} field {field} version {version}"),
                    None if self.keeps(secret, path) => {
                        format!("{path} field {field} (kept, it is alive)")
                    }
                    None if self.kept.contains_key(secret) => {
                        format!("{path} field {field} (issued, then kept fresh)")
                    }
                    None if self.is_dynamic(path) => {
                        format!("{path} field {field} (issued for each run)")
                    }
                    None => format!("{path} field {field}"),
                }
            }
        }
    }

    fn keeps(&self, secret: &str, path: &VaultPath) -> bool {
        let kept = self.kept.get(secret);
        kept.is_some_and(|kept| kept.credentials.contains_key(path.as_str()))
    }

    /// Ends the session without having issued anything.
    pub async fn close(self, ports: &Ports, patience: &Patience<'_>) {
        clean_up::end_session(self.session, ports, patience).await;
    }
}

fn check_size(secret: &str, bytes: usize) -> Result<(), ResolveError> {
    if bytes > MAX_SECRET {
        return Err(ResolveError::TooLarge {
            secret: secret.to_owned(),
            bytes,
        });
    }
    Ok(())
}

/// One use of a field by a key.
struct Used<'a> {
    secret: &'a str,
    key: &'a str,
    path: &'a VaultPath,
    field: &'a str,
    version: Option<u64>,
    parameters: &'a Parameters,
}

fn fields(specs: &[SecretSpec]) -> impl Iterator<Item = Used<'_>> {
    specs.iter().flat_map(|spec| {
        spec.keys.iter().filter_map(|(key, source)| match source {
            Source::Field {
                path,
                field,
                version,
                parameters,
            } => Some(Used {
                secret: &spec.name,
                key,
                path,
                field,
                version: *version,
                parameters,
            }),
            Source::Template(_) => None,
        })
    })
}

fn field_missing(used: &Used<'_>) -> ResolveError {
    ResolveError::FieldMissing {
        path: used.path.to_string(),
        field: used.field.to_owned(),
        secret: used.secret.to_owned(),
        key: used.key.to_owned(),
    }
}

/// Lists each path and version once, in the order of the spec.
fn places(specs: &[SecretSpec]) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for used in fields(specs) {
        if !places
            .iter()
            .any(|place| &place.path == used.path && place.version == used.version)
        {
            places.push(Place {
                path: used.path.clone(),
                version: used.version,
            });
        }
    }
    places
}
