//! A cluster in memory: objects with generations, rights, conflicts, queued faults; no controllers.
//!
//! Keeps the contract of [`crate::ports::Cluster`].

mod port;

use super::fields;
use super::lock;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::text;
use crate::ports::ClusterError;
use crate::ports::FieldConflict;
use crate::ports::Force;
use crate::ports::Observation;
use crate::ports::Payload;
use crate::ports::SecretView;
use crate::ports::Write;
use crate::secret::FingerprintKey;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
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
    distance: Duration,
    unreadable: BTreeMap<String, ClusterError>,
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

    /// Makes every call take so long, as a server far away does.
    pub fn place_at(&self, distance: Duration) {
        lock(&self.inner).distance = distance;
    }

    /// Makes every read of single objects of this name fail.
    pub fn refuse_reads(&self, name: &str, error: ClusterError) {
        lock(&self.inner).unreadable.insert(name.to_owned(), error);
    }

    /// The way of a call to the server and back.
    async fn travel(&self) {
        let distance = lock(&self.inner).distance;
        if !distance.is_zero() {
            tokio::time::sleep(distance).await;
        }
    }

    /// The way of a read, which may be refused.
    async fn reach(&self, id: &ObjectId) -> Result<(), ClusterError> {
        self.travel().await;
        let inner = lock(&self.inner);
        inner.unreadable.get(&id.name).cloned().map_or(Ok(()), Err)
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
