//! A cluster in memory: objects with generations, rights, conflicts, queued faults; no controllers.
//!
//! Keeps the contract of [`crate::ports::Cluster`].

use super::fields;
use super::lock;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::Resource;
use crate::object::text;
use crate::ports::Access;
use crate::ports::Cluster;
use crate::ports::ClusterError;
use crate::ports::Deletion;
use crate::ports::FieldConflict;
use crate::ports::Force;
use crate::ports::LogRequest;
use crate::ports::Observation;
use crate::ports::Payload;
use crate::ports::Scope;
use crate::ports::SecretView;
use crate::ports::Write;
use crate::principal::Actor;
use crate::secret::FingerprintKey;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use tokio::sync::broadcast;

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
    lock_faults: VecDeque<LockFault>,
    refusal: Option<ClusterError>,
    logs: BTreeMap<String, String>,
    writes: Vec<String>,
    booked: Vec<String>,
    dry_runs: usize,
    version: u64,
    stall: Option<usize>,
}

/// What happens to a write of a lock object.
enum LockFault {
    Refused(ClusterError),
    /// It arrives, and nobody says so.
    Silent,
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

    /// Makes the next real apply fail; dry runs and bookkeeping pass.
    pub fn refuse_next_write(&self, error: ClusterError) {
        lock(&self.inner).faults.push_back(error);
    }

    /// Makes every real write fail; dry runs pass.
    pub fn refuse_writes(&self, error: ClusterError) {
        lock(&self.inner).refusal = Some(error);
    }

    /// Makes the next write of a lock object fail.
    pub fn refuse_next_lock(&self, error: ClusterError) {
        let fault = LockFault::Refused(error);
        lock(&self.inner).lock_faults.push_back(fault);
    }

    /// Lets the next write of a lock object arrive without an answer.
    pub fn silence_next_lock(&self) {
        lock(&self.inner).lock_faults.push_back(LockFault::Silent);
    }

    /// Makes writes hang forever from the given moment on; each write has two, before it arrives and
    /// after. A test drops what waits, as a kill does, and goes on with `None`.
    pub fn stall_at(&self, moment: Option<usize>) {
        lock(&self.inner).stall = moment;
    }

    /// Passes a moment of a write, or hangs.
    async fn moment(&self) {
        let hangs = match &mut lock(&self.inner).stall {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        };
        if hangs {
            std::future::pending::<()>().await;
        }
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

    /// Returns which objects of the agent's own bookkeeping were written, in order.
    #[must_use]
    pub fn booked(&self) -> Vec<String> {
        lock(&self.inner).booked.clone()
    }

    /// Returns what was really applied and deleted, in order.
    #[must_use]
    pub fn writes(&self) -> Vec<String> {
        lock(&self.inner).writes.clone()
    }

    /// Returns how many dry runs were asked for.
    #[must_use]
    pub fn dry_runs(&self) -> usize {
        lock(&self.inner).dry_runs
    }

    /// Refuses to list what [`FakeCluster::deny`] was told.
    fn listable(&self, plural: &str) -> Result<MutexGuard<'_, ClusterState>, ClusterError> {
        let inner = lock(&self.inner);
        if inner.denied.contains(&("list", plural.to_owned())) {
            return Err(ClusterError::Forbidden {
                what: format!("list {plural}"),
                reason: String::new(),
            });
        }
        Ok(inner)
    }

    fn view(&self, inner: &ClusterState, id: &ObjectId) -> Option<SecretView> {
        let data = inner.secrets.get(id)?;
        let values = data.iter().map(|(key, value)| {
            let fingerprint = self.key.fingerprint(key, value);
            (key.clone(), fingerprint)
        });
        Some(SecretView {
            values: values.collect(),
            rest: inner.objects.get(id).cloned().unwrap_or_default(),
        })
    }

    /// Stores a whole object under the next resource version.
    fn put(&self, id: &ObjectId, mut body: Value, uid: String) -> Result<Value, ClusterError> {
        let mut inner = lock(&self.inner);
        let is_lock = id.gvk.kind == "Lease";
        let mut silent = false;
        if is_lock {
            match inner.lock_faults.pop_front() {
                Some(LockFault::Refused(error)) => return Err(error),
                Some(LockFault::Silent) => silent = true,
                None => {}
            }
        } else if let Some(error) = inner.refusal.clone() {
            return Err(error);
        }
        inner.version += 1;
        body["metadata"]["uid"] = Value::from(uid);
        body["metadata"]["resourceVersion"] = Value::from(inner.version.to_string());
        inner.booked.push(id.to_string());
        inner.objects.insert(id.clone(), body.clone());
        drop(inner);
        let seen = Observation::Present(body.clone());
        let _unheard = self.changes.send((id.gvk.clone(), seen));
        if silent {
            return Err(ClusterError::Unanswered {
                object: id.to_string(),
            });
        }
        Ok(body)
    }

    fn apply_now(
        &self,
        id: &ObjectId,
        payload: &Payload<'_>,
        write: Write,
        force: Force,
    ) -> Result<(AppliedObject, Value), ClusterError> {
        let mut inner = lock(&self.inner);
        inner.dry_runs += usize::from(write == Write::DryRun);
        if write == Write::Commit {
            let refusal = inner.faults.pop_front().or_else(|| inner.refusal.clone());
            if let Some(error) = refusal {
                return Err(error);
            }
        }
        if let Some(fields) = inner.conflicts.get(&id.name)
            && force == Force::No
        {
            return Err(ClusterError::Conflict {
                object: id.to_string(),
                fields: fields.clone(),
            });
        }
        let (body, data) = fields::split(id, payload);
        let before = inner.objects.get(id).cloned();
        let generation = before
            .as_ref()
            .and_then(|before| before["metadata"]["generation"].as_i64())
            .unwrap_or(0);
        let same = before
            .as_ref()
            .is_some_and(|before| before["spec"] == body["spec"]);
        let owned = fields::owned(&body, data.as_ref());
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
        after["metadata"]["managedFields"] = json!([{
            "manager": "quaymaster",
            "operation": "Apply",
            "apiVersion": id.gvk.api_version(),
            "fieldsType": "FieldsV1",
            "fieldsV1": owned,
        }]);
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

    fn list<'a>(
        &'a self,
        _: &'a Actor,
        gvk: &'a Gvk,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Value>, ClusterError>> {
        async move {
            let inner = self.listable(&format!("{}s", gvk.kind.to_lowercase()))?;
            let objects = inner.objects.iter();
            Ok(objects
                .filter(|(id, _)| id.gvk == *gvk && id.namespace.as_deref() == namespace)
                .map(|(_, body)| body.clone())
                .collect())
        }
        .boxed()
    }

    fn secret<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<SecretView>, ClusterError>> {
        async { Ok(self.view(&lock(&self.inner), id)) }.boxed()
    }

    fn secrets<'a>(
        &'a self,
        _: &'a Actor,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<BTreeMap<String, SecretView>, ClusterError>> {
        async move {
            let inner = self.listable("secrets")?;
            let ids = inner.secrets.keys();
            Ok(ids
                .filter(|id| id.namespace.as_deref() == Some(namespace))
                .filter_map(|id| Some((id.name.clone(), self.view(&inner, id)?)))
                .collect())
        }
        .boxed()
    }

    fn apply<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
        payload: Payload<'a>,
        write: Write,
        force: Force,
    ) -> BoxFuture<'a, Result<(AppliedObject, Value), ClusterError>> {
        async move {
            if write == Write::DryRun {
                return self.apply_now(id, &payload, write, force);
            }
            self.moment().await;
            let written = self.apply_now(id, &payload, write, force);
            self.moment().await;
            written
        }
        .boxed()
    }

    fn create<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        async move {
            if self.object(id).is_some() {
                return Err(ClusterError::Exists {
                    object: id.to_string(),
                });
            }
            self.moment().await;
            let written = self.put(id, body.clone(), format!("uid-{}", id.name));
            self.moment().await;
            written
        }
        .boxed()
    }

    fn replace<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        async move {
            let Some(before) = self.object(id) else {
                return Err(ClusterError::Missing {
                    object: id.to_string(),
                });
            };
            let version = |body: &Value| text(body, &["metadata", "resourceVersion"]).to_owned();
            if version(&before) != version(body) {
                return Err(ClusterError::Raced {
                    object: id.to_string(),
                });
            }
            let uid = text(&before, &["metadata", "uid"]).to_owned();
            self.moment().await;
            let written = self.put(id, body.clone(), uid);
            self.moment().await;
            written
        }
        .boxed()
    }

    fn patch<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
        patch: &'a Value,
        write: Write,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        async move {
            let Some(mut body) = self.object(id) else {
                return Err(ClusterError::Missing {
                    object: id.to_string(),
                });
            };
            for operation in patch.as_array().into_iter().flatten() {
                let value = operation["value"].clone();
                let place = body.pointer_mut(text(operation, &["path"]));
                match (text(operation, &["op"]), place) {
                    ("test", Some(place)) if *place == value => {}
                    ("replace", Some(place)) => *place = value,
                    _ => {
                        return Err(ClusterError::Raced {
                            object: id.to_string(),
                        });
                    }
                }
            }
            match write {
                Write::DryRun => Ok(body),
                Write::Commit => {
                    let uid = text(&body, &["metadata", "uid"]).to_owned();
                    self.put(id, body, uid)
                }
            }
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
        deletion: &'a Deletion,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        async move {
            let mut inner = lock(&self.inner);
            let Some(before) = inner.objects.get(id) else {
                return Ok(());
            };
            if text(before, &["metadata", "uid"]) != deletion.uid {
                return Err(ClusterError::Raced {
                    object: id.to_string(),
                });
            }
            if deletion.write == Write::Commit {
                inner.objects.remove(id);
                inner.secrets.remove(id);
                inner.writes.push(format!("delete {id}"));
                drop(inner);
                let gone = Observation::Gone(id.clone());
                let _unheard = self.changes.send((id.gvk.clone(), gone));
            }
            Ok(())
        }
        .boxed()
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
