//! Secrets that are kept fresh: what of them is good already, and what is issued so that it lasts.
//!
//! Called by [`super::draft`] and [`super::issue`] for Secrets with `rotate`. A credential that the
//! record on the Secret names, that Vault extends and that nobody asked to replace, is kept with its
//! values, so that a deploy that changes nothing issues nothing. What has to last is issued under the
//! agent's own identity, after the session of the run was shown to reach the path itself. Invariant:
//! the token that a credential is issued under is in the journal before the credential is asked for.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use proto::ids::ClusterName;
use proto::ids::DeployName;

use super::Draft;
use super::HeldLease;
use super::ResolveError;
use super::Used;
use super::fields;
use super::in_vault;
use super::trouble;
use crate::backoff::Patience;
use crate::backoff::cluster_trouble;
use crate::managed::Credential;
use crate::managed::Owner;
use crate::managed::Record;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::ports::Allowance;
use crate::ports::Engine;
use crate::ports::Entry;
use crate::ports::Login;
use crate::ports::Mount;
use crate::ports::Parameters;
use crate::ports::Ports;
use crate::ports::SecretData;
use crate::ports::SecretsError;
use crate::ports::Session;
use crate::principal::Actor;
use crate::rotate::lease;
use crate::secret::Secret;
use crate::secret::VaultPath;
use crate::spec::SecretSpec;
use crate::spec::Source;

/// What a run knows about the Secrets that are kept fresh.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// As whom the Secrets are read.
    pub actor: Actor,
    /// Where they are.
    pub cluster: ClusterName,
    /// Where they are.
    pub namespace: String,
    /// The app.
    pub app: DeployName,
    /// Who answers for them from now on.
    pub owner: Owner,
    /// The rule that allows it.
    pub rule: String,
    /// The run, for the records.
    pub run: String,
    /// How much of what could be kept is.
    pub scope: Scope,
    /// The last records of Secrets that were deleted: what they name is ended in the end.
    pub lost: BTreeMap<String, Record>,
}

/// How much of what could be kept is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Nothing is asked of Vault that changes anything: what the record says is believed.
    Believe,
    /// Everything that is alive.
    Alive,
    /// Everything that is alive but the credentials from these paths, by Secret; and what a change
    /// replaces is put on trial, its values in a backup.
    Replace(BTreeMap<String, BTreeSet<String>>),
}

/// What is there of one Secret that is kept fresh.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Its record; unset for one that was not managed.
    pub(super) record: Option<Record>,
    /// The values of keys whose credential is kept.
    pub(super) values: BTreeMap<String, Secret>,
    /// The credentials that are kept, by path.
    pub(super) credentials: BTreeMap<String, Credential>,
    /// The versions that are kept though Vault has deleted them, by path.
    pub(super) versions: BTreeMap<String, u64>,
}

/// Returns the id of a Secret.
pub(crate) fn secret_id(namespace: &str, name: &str) -> ObjectId {
    ObjectId {
        gvk: Gvk::new("v1", "Secret"),
        namespace: Some(namespace.to_owned()),
        name: name.to_owned(),
    }
}

impl Draft {
    /// Opens the agent's own session where a Secret needs it, and finds out what can be kept.
    pub(super) async fn keep(
        &mut self,
        keeping: &Keeping,
        ports: &Ports,
        patience: &Patience<'_>,
    ) -> Result<(), ResolveError> {
        let specs: Vec<SecretSpec> = self
            .specs
            .iter()
            .filter(|spec| spec.rotate.is_some())
            .cloned()
            .collect();
        if specs.is_empty() {
            return Ok(());
        }
        let own = patience
            .retry(
                || ports.secrets.login(&Login::Own),
                trouble("the agent's own login"),
            )
            .await
            .map_err(in_vault("the agent's own login"))?;
        self.allowed(&specs, &own, ports, patience).await?;
        for spec in &specs {
            let kept = self.kept_of(spec, keeping, &own, ports, patience).await?;
            self.still_there(spec, &kept)?;
            self.kept.insert(spec.name.clone(), kept);
            if keeping.scope != Scope::Believe {
                self.render_known(spec, patience);
            }
        }
        self.own = Some(own);
        Ok(())
    }

    /// Renders the templates whose inputs are all known, so that it can be seen whether they change.
    /// One that cannot be rendered is told when the others are.
    fn render_known(&mut self, spec: &SecretSpec, patience: &Patience<'_>) {
        let inputs: BTreeMap<String, &Secret> = spec
            .keys
            .iter()
            .filter_map(|(key, source)| Some((key.clone(), self.known(&spec.name, key, source)?)))
            .collect();
        let mut rendered = BTreeMap::new();
        for (key, source) in &spec.keys {
            let Source::Template(template) = source else {
                continue;
            };
            let known = template.names.iter().all(|name| inputs.contains_key(name));
            if known && let Ok(value) = template.render(&inputs) {
                patience.log.learn(&value);
                rendered.insert(key.clone(), value);
            }
        }
        if let Some(kept) = self.kept.get_mut(&spec.name) {
            kept.values.extend(rendered);
        }
    }

    /// Checks that the run could issue for itself what the agent is to issue for it, and that the
    /// agent can go on reading what the run reads now.
    async fn allowed(
        &self,
        specs: &[SecretSpec],
        own: &Session,
        ports: &Ports,
        patience: &Patience<'_>,
    ) -> Result<(), ResolveError> {
        let mut places: Vec<(Mount, VaultPath, Parameters)> = Vec::new();
        for used in fields(specs) {
            let Some(mount) = self.mounts.get(used.path.as_str()) else {
                continue;
            };
            let place = (mount.clone(), used.path.clone(), used.parameters.clone());
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let issuing: Vec<_> = places
            .iter()
            .filter(|(mount, _, _)| mount.engine == Engine::Dynamic)
            .cloned()
            .collect();
        let what = "what a session may use";
        let may = |session, places| {
            patience.retry(
                move || ports.secrets.may_use(session, places),
                trouble(what),
            )
        };
        let run = may(&self.session, &issuing).await.map_err(in_vault(what))?;
        if let Some((_, path, _)) = denied(&issuing, &run) {
            return Err(in_vault(path.as_str())(SecretsError::Forbidden {
                path: path.to_string(),
            }));
        }
        let agent = may(own, &places).await.map_err(in_vault(what))?;
        match denied(&places, &agent) {
            None => Ok(()),
            Some((_, path, _)) => Err(ResolveError::NotForRotation {
                path: path.to_string(),
            }),
        }
    }

    async fn kept_of(
        &self,
        spec: &SecretSpec,
        keeping: &Keeping,
        own: &Session,
        ports: &Ports,
        patience: &Patience<'_>,
    ) -> Result<Kept, ResolveError> {
        let id = secret_id(&keeping.namespace, &spec.name);
        let (cluster, actor) = (&ports.cluster, &keeping.actor);
        let failed = |source| ResolveError::Cluster {
            secret: spec.name.clone(),
            source,
        };
        let look = patience.retry(|| cluster.secret(actor, &id), cluster_trouble);
        let view = look.await.map_err(failed)?;
        let Some(view) = view else {
            return Ok(Kept {
                record: keeping.lost.get(&spec.name).cloned(),
                ..Kept::default()
            });
        };
        let record = match Record::of(&view.rest) {
            Ok(record) => record,
            Err(error) => {
                patience.log.warn(format!(
                    "Secret {}: {error}; credentials that it names are not known and end by themselves",
                    spec.name
                ));
                None
            }
        };
        let Some(record) = record.filter(|record| record.declaration.app == keeping.app) else {
            return Ok(Kept::default());
        };
        let mut kept = Kept::default();
        for (path, credential) in &record.state.credentials {
            let same =
                parameters_for(spec, path) == parameters_for(&record.declaration.secret, path);
            let replaced = match &keeping.scope {
                Scope::Believe | Scope::Alive => false,
                Scope::Replace(paths) => paths
                    .get(&spec.name)
                    .is_some_and(|paths| paths.contains(path)),
            };
            if !same || replaced {
                continue;
            }
            if self
                .is_alive(credential, spec, keeping, own, ports, patience)
                .await?
            {
                kept.credentials.insert(path.clone(), credential.clone());
            }
        }
        let lost = fields(std::slice::from_ref(spec)).map(|used| used.path.as_str());
        for path in lost.filter(|path| self.lost.contains_key(*path)) {
            if let Some(version) = record.state.versions.get(path) {
                kept.versions.insert(path.to_owned(), *version);
            }
        }
        if !kept.credentials.is_empty() || !kept.versions.is_empty() {
            let read = patience.retry(|| cluster.values(actor, &id), cluster_trouble);
            let mut values = read.await.map_err(failed)?.unwrap_or_default();
            values.values().for_each(|value| patience.log.learn(value));
            kept.keep_values(spec, &record.declaration.secret, &mut values);
        }
        kept.record = Some(record);
        Ok(kept)
    }

    /// Asks Vault whether a credential lives on, by extending it.
    async fn is_alive(
        &self,
        credential: &Credential,
        spec: &SecretSpec,
        keeping: &Keeping,
        own: &Session,
        ports: &Ports,
        patience: &Patience<'_>,
    ) -> Result<bool, ResolveError> {
        let budget = spec
            .rotate
            .as_ref()
            .map_or(Duration::ZERO, |rotate| rotate.outage_budget);
        let now = ports.clock.now();
        let Some(lease) = &credential.lease else {
            return Ok(left(credential, now) > budget);
        };
        match keeping.scope {
            // The daemon extends it, so its first life says nothing.
            Scope::Believe => return Ok(true),
            Scope::Alive | Scope::Replace(_) => {}
        }
        let path = credential.path.as_str();
        let renewed = patience
            .retry(
                || ports.secrets.renew(own, lease, credential.seconds),
                trouble(path),
            )
            .await;
        match renewed {
            Ok(lease) => Ok(Duration::from_secs(lease.seconds) > budget),
            Err(SecretsError::Missing { .. }) => Ok(false),
            // It may live and cannot be extended: it is good for what is left of its first life.
            Err(SecretsError::Forbidden { .. }) => Ok(left(credential, now) > budget),
            Err(error) => Err(in_vault(path)(error)),
        }
    }

    /// Issues a credential that lasts: under a token of its own, which is noted first.
    pub(super) async fn issue_lasting(
        &self,
        used: &Used<'_>,
        leases: &mut Vec<HeldLease>,
        ports: &Ports,
        patience: &Patience<'_>,
    ) -> Result<(SecretData, Option<Credential>), ResolveError> {
        let path = used.path.as_str();
        let own = self.own.as_ref().ok_or(ResolveError::NoLogin)?;
        let child = patience
            .retry(
                || ports.secrets.child(own),
                trouble("a token for one credential"),
            )
            .await
            .map_err(in_vault("a token for one credential"))?;
        let accessor = child.accessor.clone();
        let secret = used.secret.to_owned();
        let noted = Entry::TokenMade {
            accessor: accessor.clone(),
            secret: secret.clone(),
        };
        if let Err(error) = ports.journal.append(noted).await {
            // Not noted, so not used: nothing can be lost with it.
            drop(ports.secrets.end(own, &accessor).await);
            return Err(error.into());
        }
        leases.push(HeldLease {
            id: None,
            accessor: Some(accessor.clone()),
            secret: secret.clone(),
            path: path.to_owned(),
            seconds: child.seconds,
        });
        let parameters = used.parameters;
        let fresh = patience
            .retry(
                || ports.secrets.issue(&child.session, used.path, parameters),
                trouble(path),
            )
            .await
            .map_err(in_vault(path))?;
        fresh
            .fields
            .values()
            .for_each(|value| patience.log.learn(value));
        let lasts = fresh
            .lease
            .as_ref()
            .map(|lease| (lease.seconds, lease.renewable))
            .or_else(|| fresh.ends_in.map(|seconds| (seconds, false)));
        let credential = lasts.map(|(seconds, renewable)| Credential {
            path: path.to_owned(),
            lease: fresh.lease.as_ref().map(|lease| lease.id.clone()),
            accessor: Some(accessor),
            parent: ports.secrets.own().map(|own| own.id).unwrap_or_default(),
            issued: ports.clock.now(),
            seconds,
            renewable,
        });
        if let (Some(held), Some(credential)) = (leases.last_mut(), &credential) {
            held.id.clone_from(&credential.lease);
            held.seconds = credential.seconds;
        }
        Ok((fresh, credential))
    }
}

impl Kept {
    /// Keeps the values of keys that come from a kept credential now and did so before.
    fn keep_values(
        &mut self,
        spec: &SecretSpec,
        before: &SecretSpec,
        values: &mut BTreeMap<String, Secret>,
    ) {
        for (key, source) in &spec.keys {
            let Source::Field { path, .. } = source else {
                continue;
            };
            let kept = self.credentials.contains_key(path.as_str())
                || self.versions.contains_key(path.as_str());
            if !kept {
                continue;
            }
            match values.remove(key) {
                Some(value) if before.keys.get(key) == Some(source) => {
                    self.values.insert(key.clone(), value);
                }
                // A key that is new, or was taken out: its path has to issue anew.
                Some(_) | None => {
                    let path = path.as_str().to_owned();
                    self.credentials.remove(&path);
                }
            }
        }
        // A path that lost a key is issued anew for all of its keys.
        let (credentials, versions) = (&self.credentials, &self.versions);
        self.values.retain(|key, _| {
            matches!(spec.keys.get(key), Some(Source::Field { path, .. })
                if credentials.contains_key(path.as_str()) || versions.contains_key(path.as_str()))
        });
    }
}

/// Says whether a credential lives long enough for the budget of its Secret.
pub(super) fn carries(spec: &SecretSpec, credential: &Credential) -> Result<(), ResolveError> {
    let Some(rotate) = &spec.rotate else {
        return Ok(());
    };
    let needed = lease::least_life(rotate.outage_budget);
    if Duration::from_secs(credential.seconds) >= needed {
        return Ok(());
    }
    Err(ResolveError::ShortLife {
        secret: spec.name.clone(),
        path: credential.path.clone(),
        seconds: credential.seconds,
        budget: rotate.outage_budget.as_secs(),
        needed: needed.as_secs(),
    })
}

fn left(credential: &Credential, now: Timestamp) -> Duration {
    let age = now.duration_since(credential.issued);
    let age = Duration::try_from(age).unwrap_or(Duration::ZERO);
    Duration::from_secs(credential.seconds).saturating_sub(age)
}

fn denied<'a, T>(places: &'a [T], answers: &[Allowance]) -> Option<&'a T> {
    let mut pairs = places.iter().zip(answers);
    let found = pairs.find(|(_, allowance)| **allowance == Allowance::Denied);
    found.map(|(place, _)| place)
}

fn parameters_for<'s>(spec: &'s SecretSpec, path: &str) -> Option<&'s Parameters> {
    fields(std::slice::from_ref(spec))
        .find(|used| used.path.as_str() == path)
        .map(|used| used.parameters)
}
