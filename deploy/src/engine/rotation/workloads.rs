//! The workloads that a rotation restarts: finding them, restarting each once, proving that it was done.
//!
//! Called by [`super::settle`]. A restart is an annotation of the pod template, written with the version
//! that was seen, so that it neither meets a deploy nor is done twice for one change.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::json;

use super::super::Tools;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::backoff::cluster_trouble;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::at;
use crate::object::text;
use crate::ports::ClusterError;
use crate::ports::Write;
use crate::rotate::consumers::Running;
use crate::spec::Workload;
use crate::spec::WorkloadKind;

/// The annotation of a pod template that a restart sets: the change it is for.
const RESTARTED: &str = "state.quaymaster.dev/restarted";
/// How often a restart that met another write is tried anew.
const TRIES: usize = 8;

/// What runs in the namespace.
pub(super) struct Scene {
    workloads: Vec<(WorkloadKind, Value)>,
    /// All pods.
    pub(super) pods: Vec<Value>,
}

impl Scene {
    /// Reads all of it.
    pub(super) async fn read(
        permit: &Permit,
        tools: &Tools<'_>,
        patience: &Patience<'_>,
    ) -> Result<Self, ClusterError> {
        let namespace = permit.namespace().as_str();
        let list = async |gvk: Gvk| {
            let cluster = &tools.ports.cluster;
            let look = || cluster.list(permit.actor(), &gvk, Some(namespace));
            patience.retry(look, cluster_trouble).await
        };
        let mut workloads = Vec::new();
        for kind in WorkloadKind::ALL {
            let found = list(Gvk::new("apps/v1", kind.word())).await?;
            workloads.extend(found.into_iter().map(|body| (kind, body)));
        }
        let pods = list(Gvk::new("v1", "Pod")).await?;
        Ok(Self { workloads, pods })
    }

    /// Returns the workloads.
    pub(super) fn running(&self) -> Vec<Running<'_>> {
        let all = self.workloads.iter();
        all.map(|(kind, body)| Running { kind: *kind, body })
            .collect()
    }

    fn find(&self, workload: &Workload) -> Option<&Value> {
        let mut all = self.workloads.iter();
        all.find(|(kind, body)| {
            *kind == workload.kind && text(body, &["metadata", "name"]) == workload.name
        })
        .map(|(_, body)| body)
    }

    /// Says whether a workload has the restart for the change of a run.
    pub(super) fn was_restarted(&self, workload: &Workload, run: &str) -> bool {
        self.find(workload).is_some_and(|body| {
            let annotations = at(body, &["spec", "template", "metadata", "annotations"]);
            let change = annotations.map_or("", |annotations| text(annotations, &[RESTARTED]));
            change.split(',').any(|one| one == run)
        })
    }

    /// Says whether one of these pods belongs to a workload.
    pub(super) fn has_any(&self, workload: &Workload, pods: &BTreeSet<String>) -> bool {
        let Some(body) = self.find(workload) else {
            return false;
        };
        let wanted = at(body, &["spec", "selector", "matchLabels"]).and_then(Value::as_object);
        let named = |pod: &&Value| pods.contains(text(pod, &["metadata", "name"]));
        self.pods.iter().filter(named).any(|pod| {
            let labels = at(pod, &["metadata", "labels"]);
            let mut wanted = wanted.into_iter().flatten();
            wanted.all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
        })
    }

    /// Restarts a workload for a change, unless that was done already. `None`: it is gone.
    pub(super) async fn restart(
        &self,
        workload: &Workload,
        change: &str,
        permit: &Permit,
        tools: &Tools<'_>,
        patience: &Patience<'_>,
    ) -> Result<Option<Restarted>, ClusterError> {
        let id = id_of(workload, permit.namespace().as_str());
        let (cluster, actor) = (&tools.ports.cluster, permit.actor());
        let mut last = ClusterError::Raced {
            object: id.to_string(),
        };
        for _ in 0..TRIES {
            let read = patience.retry(|| cluster.get(actor, &id), cluster_trouble);
            let Some(live) = read.await? else {
                return Ok(None);
            };
            let annotations = ["spec", "template", "metadata", "annotations"];
            let there = at(&live, &annotations);
            if there.is_some_and(|there| text(there, &[RESTARTED]) == change) {
                return Ok(Some(Restarted::Before(AppliedObject::of(id, &live))));
            }
            let patch = patch(&live, there.is_some_and(Value::is_object), change);
            let sent = patience.retry(
                || cluster.patch(actor, &id, &patch, Write::Commit),
                cluster_trouble,
            );
            match sent.await {
                Ok(after) => return Ok(Some(Restarted::Now(AppliedObject::of(id, &after)))),
                // The next look says whether it arrived.
                Err(error @ (ClusterError::Raced { .. } | ClusterError::Unanswered { .. })) => {
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

/// A workload that has the restart for a change.
pub(super) enum Restarted {
    /// This run did it.
    Now(AppliedObject),
    /// A former run did it.
    Before(AppliedObject),
}

fn id_of(workload: &Workload, namespace: &str) -> ObjectId {
    ObjectId {
        gvk: Gvk::new("apps/v1", workload.kind.word()),
        namespace: Some(namespace.to_owned()),
        name: workload.name.clone(),
    }
}

fn patch(live: &Value, has_annotations: bool, change: &str) -> Value {
    let mut patch = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": at(live, &["metadata", "uid"])}),
        json!({
            "op": "test",
            "path": "/metadata/resourceVersion",
            "value": at(live, &["metadata", "resourceVersion"]),
        }),
    ];
    let place = "/spec/template/metadata/annotations";
    if at(live, &["spec", "template", "metadata"]).is_none() {
        patch.push(json!({"op": "add", "path": "/spec/template/metadata", "value": {}}));
    }
    if !has_annotations {
        patch.push(json!({"op": "add", "path": place, "value": {}}));
    }
    let name = RESTARTED.replace('/', "~1");
    patch.push(json!({"op": "add", "path": format!("{place}/{name}"), "value": change}));
    Value::Array(patch)
}

/// Names workloads for people.
pub(super) fn named(workloads: &BTreeMap<Workload, BTreeSet<String>>) -> String {
    let names: Vec<String> = workloads.keys().map(Workload::to_string).collect();
    names.join(", ")
}
