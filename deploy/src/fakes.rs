//! In-memory ports for tests: doubles that keep state and the contracts of [`crate::ports`].
//!
//! They behave instead of replaying: Vault has secrets, leases and tokens; the cluster has objects
//! with generations and field managers; the clock is set by hand; the journal is a list. Faults are
//! queued and taken one a call. `tests/it/contract.rs` runs the same suite against these and against
//! the real servers, so they cannot lie.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::Value;
use tokio::sync::broadcast;

use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::Resource;
use crate::object::text;
use crate::ports::Access;
use crate::ports::Clock;
use crate::ports::Cluster;
use crate::ports::ClusterError;
use crate::ports::Engine;
use crate::ports::Entry;
use crate::ports::FieldConflict;
use crate::ports::Journal;
use crate::ports::JournalError;
use crate::ports::LogRequest;
use crate::ports::Login;
use crate::ports::Mount;
use crate::ports::Observation;
use crate::ports::Payload;
use crate::ports::Ports;
use crate::ports::Scope;
use crate::ports::SecretData;
use crate::ports::Secrets;
use crate::ports::SecretsError;
use crate::ports::Session;
use crate::ports::Write;
use crate::principal::Actor;
use crate::secret::Fingerprint;
use crate::secret::FingerprintKey;
use crate::secret::Lease;
use crate::secret::LeaseId;
use crate::secret::Secret;
use crate::secret::VaultPath;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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

/// A cluster in memory: built-in kinds, any namespace, no controllers. A test plays controller with
/// [`FakeCluster::set`].
pub struct FakeCluster {
    key: Arc<FingerprintKey>,
    inner: Mutex<ClusterState>,
    changes: broadcast::Sender<(Gvk, Observation)>,
}

#[derive(Default)]
struct ClusterState {
    objects: BTreeMap<ObjectId, Value>,
    secrets: BTreeMap<ObjectId, BTreeMap<String, Vec<u8>>>,
    denied: BTreeSet<(&'static str, String)>,
    conflicts: BTreeMap<String, Vec<FieldConflict>>,
    faults: VecDeque<ClusterError>,
    refusal: Option<ClusterError>,
    logs: BTreeMap<String, String>,
    writes: Vec<String>,
    version: u64,
}

impl FakeCluster {
    /// Makes an empty cluster.
    #[must_use]
    pub fn new(key: Arc<FingerprintKey>) -> Self {
        Self {
            key,
            inner: Mutex::default(),
            changes: broadcast::Sender::new(1024),
        }
    }

    /// Forbids a verb on a plural.
    pub fn deny(&self, verb: &'static str, plural: &str) {
        lock(&self.inner).denied.insert((verb, plural.to_owned()));
    }

    /// Makes every apply of this object (by name) meet a conflict.
    pub fn conflict(&self, name: &str, field: &str, manager: &str) {
        let conflict = FieldConflict {
            field: field.to_owned(),
            manager: manager.to_owned(),
        };
        lock(&self.inner)
            .conflicts
            .entry(name.to_owned())
            .or_default()
            .push(conflict);
    }

    /// Makes the next real write fail; dry runs pass.
    pub fn refuse_next_write(&self, error: ClusterError) {
        lock(&self.inner).faults.push_back(error);
    }

    /// Makes every real write fail; dry runs pass.
    pub fn refuse_writes(&self, error: ClusterError) {
        lock(&self.inner).refusal = Some(error);
    }

    /// Puts an object there as a controller would, and tells the watchers.
    pub fn set(&self, id: &ObjectId, body: Value) {
        lock(&self.inner).objects.insert(id.clone(), body.clone());
        // Nobody may be watching; that is no error.
        let _unheard = self
            .changes
            .send((id.gvk.clone(), Observation::Present(body)));
    }

    /// Sets what a container logged.
    pub fn set_log(&self, container: &str, text: &str) {
        lock(&self.inner)
            .logs
            .insert(container.to_owned(), text.to_owned());
    }

    /// Returns an object.
    #[must_use]
    pub fn object(&self, id: &ObjectId) -> Option<Value> {
        lock(&self.inner).objects.get(id).cloned()
    }

    /// Returns the keys of a Secret.
    #[must_use]
    pub fn secret_keys(&self, name: &str) -> Option<Vec<String>> {
        lock(&self.inner)
            .secrets
            .iter()
            .find(|(id, _)| id.name == name)
            .map(|(_, data)| data.keys().cloned().collect())
    }

    /// Returns what was really written, in order.
    #[must_use]
    pub fn writes(&self) -> Vec<String> {
        lock(&self.inner).writes.clone()
    }

    fn apply_now(
        &self,
        id: &ObjectId,
        payload: &Payload<'_>,
        write: Write,
    ) -> Result<(AppliedObject, Value), ClusterError> {
        let mut inner = lock(&self.inner);
        if write == Write::Commit {
            let refusal = inner.faults.pop_front().or_else(|| inner.refusal.clone());
            if let Some(error) = refusal {
                return Err(error);
            }
        }
        if let Some(fields) = inner.conflicts.get(&id.name) {
            return Err(ClusterError::Conflict {
                object: id.to_string(),
                fields: fields.clone(),
            });
        }
        let (body, data) = match payload {
            Payload::Object(body) => ((*body).clone(), None),
            Payload::Secret { body, data } => ((*body).clone(), Some(data)),
        };
        let before = inner.objects.get(id).cloned();
        let generation = before
            .as_ref()
            .and_then(|before| before["metadata"]["generation"].as_i64())
            .unwrap_or(0);
        let same = before
            .as_ref()
            .is_some_and(|before| before["spec"] == body["spec"]);
        let mut after = body;
        let uid = before.as_ref().map_or_else(
            || format!("uid-{}", id.name),
            |b| text(b, &["metadata", "uid"]).to_owned(),
        );
        after["metadata"]["uid"] = Value::from(uid.clone());
        after["metadata"]["generation"] =
            Value::from(if same { generation } else { generation + 1 });
        if let Some(status) = before.as_ref().and_then(|before| before.get("status")) {
            after["status"] = status.clone();
        }
        let version = inner.version + 1;
        after["metadata"]["resourceVersion"] = Value::from(version.to_string());
        let applied = AppliedObject {
            id: id.clone(),
            uid,
            generation: after["metadata"]["generation"].as_i64().unwrap_or(0),
            resource_version: version.to_string(),
        };
        if write == Write::Commit {
            inner.version = version;
            inner.writes.push(id.to_string());
            inner.objects.insert(id.clone(), after.clone());
            if let Some(data) = data {
                let data = data
                    .iter()
                    .map(|(key, value)| (key.clone(), value.bytes().to_vec()))
                    .collect();
                inner.secrets.insert(id.clone(), data);
            }
            drop(inner);
            let _unheard = self
                .changes
                .send((id.gvk.clone(), Observation::Present(after.clone())));
        }
        Ok((applied, after))
    }
}

impl Cluster for FakeCluster {
    fn resource<'a>(&'a self, gvk: &'a Gvk) -> BoxFuture<'a, Result<Resource, ClusterError>> {
        async {
            let namespaced = !matches!(
                gvk.kind.as_str(),
                "Namespace" | "CustomResourceDefinition" | "ClusterRole"
            );
            if gvk.kind.starts_with("Unknown") {
                return Err(ClusterError::UnknownKind {
                    kind: gvk.to_string(),
                });
            }
            Ok(Resource {
                gvk: gvk.clone(),
                plural: format!("{}s", gvk.kind.to_lowercase()),
                namespaced,
            })
        }
        .boxed()
    }

    fn may<'a>(
        &'a self,
        _: &'a Actor,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<Result<(), String>, ClusterError>> {
        let denied = lock(&self.inner)
            .denied
            .contains(&(access.verb, access.resource.clone()));
        async move { Ok(if denied { Err(String::new()) } else { Ok(()) }) }.boxed()
    }

    fn get<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<Value>, ClusterError>> {
        async { Ok(self.object(id)) }.boxed()
    }

    fn fingerprints<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, Fingerprint>>, ClusterError>> {
        async {
            let inner = lock(&self.inner);
            Ok(inner.secrets.get(id).map(|data| {
                data.iter()
                    .map(|(key, value)| (key.clone(), self.key.fingerprint(key, value)))
                    .collect()
            }))
        }
        .boxed()
    }

    fn apply<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
        payload: Payload<'a>,
        write: Write,
    ) -> BoxFuture<'a, Result<(AppliedObject, Value), ClusterError>> {
        async move { self.apply_now(id, &payload, write) }.boxed()
    }

    fn observe(&self, _: &Actor, scopes: Vec<Scope>) -> BoxStream<'static, Observation> {
        let changes = self.changes.subscribe();
        let inner = lock(&self.inner);
        let matches = |scope: &Scope, id: &ObjectId| {
            scope.gvk == id.gvk
                && scope.namespace == id.namespace
                && scope.name.as_ref().is_none_or(|name| *name == id.name)
        };
        let mut first = Vec::new();
        for scope in &scopes {
            first.extend(
                inner
                    .objects
                    .iter()
                    .filter(|(id, _)| matches(scope, id))
                    .map(|(_, body)| Observation::Present(body.clone())),
            );
            first.push(Observation::Synced(scope.gvk.clone()));
        }
        drop(inner);
        let later = futures::stream::unfold((changes, scopes), async |(mut changes, scopes)| {
            loop {
                let (gvk, observation) = changes.recv().await.ok()?;
                if scopes.iter().any(|scope| scope.gvk == gvk) {
                    return Some((observation, (changes, scopes)));
                }
            }
        });
        futures::stream::iter(first).chain(later).boxed()
    }

    fn log<'a>(
        &'a self,
        _: &'a Actor,
        request: &'a LogRequest,
    ) -> BoxFuture<'a, Result<String, ClusterError>> {
        async {
            Ok(lock(&self.inner)
                .logs
                .get(&request.container)
                .cloned()
                .unwrap_or_default())
        }
        .boxed()
    }
}

/// A clock that is set by hand.
pub struct ManualClock(Mutex<jiff::Timestamp>);

impl ManualClock {
    /// Starts at a second of the Unix time.
    #[must_use]
    pub fn at_unix(second: i64) -> Self {
        Self(Mutex::new(
            jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        ))
    }

    /// Moves the clock, forwards or back.
    pub fn shift(&self, seconds: i64) {
        let mut now = lock(&self.0);
        let moved = now.as_second() + seconds;
        *now = jiff::Timestamp::from_second(moved).unwrap_or(*now);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> jiff::Timestamp {
        *lock(&self.0)
    }
}

/// A journal in memory.
#[derive(Default)]
pub struct FakeJournal {
    entries: Mutex<Vec<Entry>>,
    full: Mutex<bool>,
}

impl FakeJournal {
    /// Makes every further append fail, as on a full disk.
    pub fn fill(&self) {
        *lock(&self.full) = true;
    }

    /// Returns the entries.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.entries).clone()
    }
}

impl Journal for FakeJournal {
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<(), JournalError>> {
        async move {
            if *lock(&self.full) {
                return Err(JournalError {
                    reason: "no space left on device".to_owned(),
                });
            }
            lock(&self.entries).push(entry);
            Ok(())
        }
        .boxed()
    }
}

/// All doubles of one run, for tests that look at them afterwards.
pub struct Fakes {
    /// Vault.
    pub vault: Arc<FakeVault>,
    /// The cluster.
    pub cluster: Arc<FakeCluster>,
    /// The clock.
    pub clock: Arc<ManualClock>,
    /// The journal.
    pub journal: Arc<FakeJournal>,
    /// The key of fingerprints.
    pub key: Arc<FingerprintKey>,
}

impl Default for Fakes {
    fn default() -> Self {
        let key = Arc::new(FingerprintKey::new([7; 32]));
        Self {
            vault: Arc::default(),
            cluster: Arc::new(FakeCluster::new(Arc::clone(&key))),
            clock: Arc::new(ManualClock::at_unix(1_800_000_000)),
            journal: Arc::default(),
            key,
        }
    }
}

impl Fakes {
    /// Returns them as ports.
    #[must_use]
    pub fn ports(&self) -> Ports {
        Ports {
            secrets: Arc::clone(&self.vault) as _,
            cluster: Arc::clone(&self.cluster) as _,
            clock: Arc::clone(&self.clock) as _,
            journal: Arc::clone(&self.journal) as _,
        }
    }
}
