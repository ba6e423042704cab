//! What has to be watched for a set of applied objects.
//!
//! Used by [`super::watch`]. As little as possible, since the job needs the right for each kind: what
//! has no state to wait for is not watched, one object of a kind is watched by its name.

use std::collections::BTreeMap;

use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::ports::Scope;

/// Says whether a kind has a state to wait for. Secrets never come through a watch.
pub(super) fn has_state(gvk: &Gvk) -> bool {
    !crate::rollout::is_builtin(&gvk.group)
        || matches!(
            (gvk.group.as_str(), gvk.kind.as_str()),
            (
                "apps",
                "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet"
            ) | ("batch", "Job")
                | ("autoscaling", "HorizontalPodAutoscaler")
                | (
                    "",
                    "Pod"
                        | "PersistentVolumeClaim"
                        | "Service"
                        | "Namespace"
                        | "ReplicationController"
                )
        )
}

/// Says whether a kind has pods.
pub(super) fn has_pods(gvk: &Gvk) -> bool {
    matches!(
        (gvk.group.as_str(), gvk.kind.as_str()),
        (
            "apps",
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet"
        ) | ("batch", "Job")
            | ("", "Pod" | "ReplicationController")
    )
}

/// Lists the scopes to watch; each kind and namespace once.
pub(super) fn of(applied: &[AppliedObject], namespace: &str) -> Vec<Scope> {
    let mut names: BTreeMap<(Gvk, Option<String>), Vec<String>> = BTreeMap::new();
    for object in applied.iter().filter(|object| has_state(&object.id.gvk)) {
        names
            .entry((object.id.gvk.clone(), object.id.namespace.clone()))
            .or_default()
            .push(object.id.name.clone());
    }
    let by_name = |names: Vec<String>| match <[String; 1]>::try_from(names) {
        Ok([name]) => Some(name),
        Err(_many) => None,
    };
    let mut scopes: BTreeMap<(Gvk, Option<String>), Option<String>> = names
        .into_iter()
        .map(|(key, names)| (key, by_name(names)))
        .collect();
    for gvk in evidence(applied) {
        scopes.insert((gvk, Some(namespace.to_owned())), None);
    }
    scopes
        .into_iter()
        .map(|((gvk, namespace), name)| Scope {
            gvk,
            namespace,
            name,
        })
        .collect()
}

/// The kinds that tell why something does not become ready.
fn evidence(applied: &[AppliedObject]) -> Vec<Gvk> {
    let any = |test: fn(&Gvk) -> bool| applied.iter().any(|object| test(&object.id.gvk));
    let pods = any(has_pods);
    let claims = any(|gvk| gvk.is("", "PersistentVolumeClaim"));
    let mut kinds = Vec::new();
    if pods {
        kinds.push(Gvk::new("v1", "Pod"));
    }
    if pods || claims {
        kinds.push(Gvk::new("v1", "Event"));
        kinds.push(Gvk::new("v1", "PersistentVolumeClaim"));
    }
    if any(|gvk| gvk.is("apps", "Deployment")) {
        kinds.push(Gvk::new("apps/v1", "ReplicaSet"));
    }
    kinds
}
