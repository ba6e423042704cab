//! The workloads behind Flux: what an applier wrote, as objects that the watch of any deploy can judge.
//!
//! Called by [`crate::engine`] once Flux has written our commit. The inventory of the applier says what there
//! is; while Helm still waits for a release there is none of the new one yet, and the labels that
//! helm-controller puts on everything it installs tell.

use std::collections::BTreeSet;

use futures::FutureExt as _;
use serde_json::Value;

use super::FluxError;
use super::Kind;
use super::cluster_error;
use crate::backoff::Patience;
use crate::backoff::cluster_trouble;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::list;
use crate::object::text;
use crate::ports::ClusterError;
use crate::ports::Ports;
use crate::principal::Actor;

/// Kinds whose pods can tell why something is not ready.
const WORKLOADS: [(&str, &str); 4] = [
    ("apps", "Deployment"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
    ("batch", "Job"),
];

/// Finds the workloads of an applier in one namespace, as they are now. Others are Flux's own to judge.
///
/// # Errors
/// The cluster.
pub async fn workloads(
    applier: &ObjectId,
    object: &Value,
    namespace: &str,
    actor: &Actor,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Vec<AppliedObject>, FluxError> {
    let mut ids = inventory(object);
    ids.retain(|id| id.namespace.as_deref() == Some(namespace));
    if applier.gvk == Kind::HelmRelease.gvk() {
        ids.extend(labelled(applier, namespace, actor, ports, patience).await?);
    }
    let mut found = Vec::new();
    for id in ids {
        let read = || ports.cluster.get(actor, &id).boxed();
        let live = patience.retry(read, cluster_trouble).await;
        let live = match live {
            // What the job may not read it cannot judge; Flux's own word stands.
            Err(ClusterError::Forbidden { .. }) => continue,
            live => live.map_err(cluster_error(format!("reading {id}")))?,
        };
        found.extend(live.map(|live| AppliedObject::of(id, &live)));
    }
    Ok(found)
}

/// Reads the workloads of `status.inventory`: entries with an id `namespace_name_group_kind` and a version.
fn inventory(object: &Value) -> BTreeSet<ObjectId> {
    let entries = list(object, &["status", "inventory", "entries"]).iter();
    entries
        .filter_map(|entry| {
            let mut words = text(entry, &["id"]).split('_');
            let (namespace, name) = (words.next()?, words.next()?);
            let (group, kind) = (words.next()?, words.next()?);
            let known = WORKLOADS.contains(&(group, kind));
            known.then(|| ObjectId {
                gvk: Gvk {
                    group: group.to_owned(),
                    version: text(entry, &["v"]).to_owned(),
                    kind: kind.to_owned(),
                },
                namespace: Some(namespace.to_owned()),
                name: name.to_owned(),
            })
        })
        .collect()
}

/// Finds the workloads that helm-controller has labelled as a release's.
async fn labelled(
    release: &ObjectId,
    namespace: &str,
    actor: &Actor,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Vec<ObjectId>, FluxError> {
    let label = |object: &Value, key: &str| {
        let path = ["metadata", "labels", key];
        text(object, &path).to_owned()
    };
    let mut ids = Vec::new();
    for (group, kind) in WORKLOADS {
        let gvk = Gvk::new(&format!("{group}/v1"), kind);
        let read = || ports.cluster.list(actor, &gvk, Some(namespace)).boxed();
        let all = match patience.retry(read, cluster_trouble).await {
            Err(ClusterError::Forbidden { .. }) => continue,
            all => all.map_err(cluster_error(format!("reading {gvk} objects")))?,
        };
        let ours = all.into_iter().filter(|object| {
            label(object, "helm.toolkit.fluxcd.io/name") == release.name
                && Some(label(object, "helm.toolkit.fluxcd.io/namespace"))
                    == release.namespace.clone()
        });
        ids.extend(ours.map(|object| ObjectId {
            gvk: gvk.clone(),
            namespace: Some(namespace.to_owned()),
            name: text(&object, &["metadata", "name"]).to_owned(),
        }));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn workloads_are_read_out_of_an_inventory() {
        let object = json!({ "status": { "inventory": { "entries": [
            { "id": "shop_web_apps_Deployment", "v": "v1" },
            { "id": "shop_web__Service", "v": "v1" },
            { "id": "_shop__Namespace", "v": "v1" },
            { "id": "broken", "v": "v1" },
        ] } } });
        let ids: Vec<String> = inventory(&object).iter().map(ToString::to_string).collect();
        assert_eq!(ids, ["apps/v1/Deployment shop/web"]);
    }
}
