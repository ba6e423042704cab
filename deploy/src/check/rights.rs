//! Does RBAC let the job do what the run needs? Asked before any credential is issued.
//!
//! Called by [`super::access`]: one question for each kind, namespace and verb, and for each name only
//! where the whole is not granted.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::StreamExt as _;

use super::CheckError;
use crate::backoff::Patience;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::Resource;
use crate::plan::Content;
use crate::plan::WIDTH;
use crate::plan::cluster_trouble;
use crate::ports::Access;
use crate::ports::ClusterError;
use crate::ports::Ports;
use crate::principal::Actor;

/// A resource and the objects of it in one namespace.
type Placed<'a> = (Resource, Vec<&'a ObjectId>);

/// Asks for every right that the writes need.
///
/// # Errors
/// The first right that is missing.
pub(super) async fn all(
    wanted: &[(ObjectId, Content)],
    actor: &Actor,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(), CheckError> {
    let places = places(wanted, ports, patience).await?;
    let mut asks = Vec::new();
    for (resource, ids) in &places {
        for verb in ["get", "create", "patch"] {
            asks.push(ask(resource, ids, verb, actor, ports, patience).boxed());
        }
    }
    // In order, so that the first right that is missing is the same one every time.
    let mut asks = futures::stream::iter(asks).buffered(WIDTH);
    while let Some(answer) = asks.next().await {
        answer?;
    }
    Ok(())
}

/// Finds out where the objects are: each resource with those of them in one namespace.
async fn places<'a>(
    wanted: &'a [(ObjectId, Content)],
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Vec<Placed<'a>>, CheckError> {
    let mut by_place: BTreeMap<(&Gvk, Option<&str>), Vec<&ObjectId>> = BTreeMap::new();
    for (id, _) in wanted {
        let place = (&id.gvk, id.namespace.as_deref());
        by_place.entry(place).or_default().push(id);
    }
    let mut looks = Vec::with_capacity(by_place.len());
    for ((gvk, _), ids) in by_place {
        looks.push(served(gvk, ids, ports, patience).boxed());
    }
    let mut looks = futures::stream::iter(looks).buffered(WIDTH);
    let mut places = Vec::new();
    while let Some(place) = looks.next().await {
        places.extend(place?);
    }
    Ok(places)
}

async fn served<'a>(
    gvk: &Gvk,
    ids: Vec<&'a ObjectId>,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Option<Placed<'a>>, CheckError> {
    let resource = patience
        .retry(|| ports.cluster.resource(gvk), cluster_trouble)
        .await;
    match resource {
        Ok(resource) => Ok(Some((resource, ids))),
        // A kind that this run defines is asked about when it exists; others are found by the dry run,
        // with the object's name.
        Err(ClusterError::UnknownKind { .. }) => Ok(None),
        Err(source) => Err(CheckError::Cluster {
            object: ids
                .first()
                .map_or_else(|| gvk.to_string(), ToString::to_string),
            source,
        }),
    }
}

async fn ask(
    resource: &Resource,
    ids: &[&ObjectId],
    verb: &'static str,
    actor: &Actor,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(), CheckError> {
    let Some(first) = ids.first() else {
        return Ok(());
    };
    let whole = may(resource, first, None, verb, actor, ports, patience).await?;
    let Err(reason) = whole else { return Ok(()) };
    for id in ids {
        // RBAC can grant single names, but never the creation of one.
        let named = match verb {
            "create" => Err(reason.clone()),
            _ => may(resource, id, Some(&id.name), verb, actor, ports, patience).await?,
        };
        if let Err(reason) = named {
            return Err(CheckError::Denied {
                user: actor.user.clone(),
                verb,
                object: id.to_string(),
                reason,
            });
        }
    }
    Ok(())
}

async fn may(
    resource: &Resource,
    id: &ObjectId,
    name: Option<&str>,
    verb: &'static str,
    actor: &Actor,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Result<(), String>, CheckError> {
    let access = Access {
        verb,
        group: resource.gvk.group.clone(),
        resource: resource.plural.clone(),
        subresource: "",
        namespace: id.namespace.clone(),
        name: name.map(str::to_owned),
    };
    patience
        .retry(|| ports.cluster.may(actor, &access), cluster_trouble)
        .await
        .map_err(|source| CheckError::Cluster {
            object: id.to_string(),
            source,
        })
}
