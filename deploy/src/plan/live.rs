//! Reading what is there: one listing where many objects of a kind are wanted, else one by one.
//!
//! Called by [`super::observe`]. A kind that is not served and a namespace that does not exist are no
//! errors here: the check says later whether they are made by the run. Invariant: every wanted object
//! is in the result.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::StreamExt as _;

use super::Content;
use super::Live;
use super::WIDTH;
use super::cluster_trouble;
use crate::backoff::Patience;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::text;
use crate::ports::ClusterError;
use crate::ports::Ports;
use crate::principal::Actor;

/// From this many objects on a listing costs less than reading each.
const MANY: usize = 4;

/// What the reads need.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) actor: &'a Actor,
    pub(super) ports: &'a Ports,
    pub(super) patience: &'a Patience<'a>,
}

/// The wanted objects of one kind in one namespace.
type Group<'a> = (&'a Gvk, Option<&'a str>, Vec<&'a ObjectId>);

impl Reader<'_> {
    /// Reads all wanted objects.
    pub(super) async fn all(
        self,
        wanted: &[(ObjectId, Content)],
    ) -> Result<BTreeMap<ObjectId, Live>, ClusterError> {
        let groups = grouped(wanted);
        // Boxed one by one: a closure that returns futures over borrowed items is not general enough
        // to be sent between threads.
        let mut reads = Vec::with_capacity(groups.len());
        for group in &groups {
            reads.push(self.group(group).boxed());
        }
        let mut reads = futures::stream::iter(reads).buffer_unordered(WIDTH);
        let mut observed = BTreeMap::new();
        while let Some(found) = reads.next().await {
            observed.extend(found?);
        }
        Ok(observed)
    }

    async fn group(self, group: &Group<'_>) -> Result<Vec<(ObjectId, Live)>, ClusterError> {
        let (gvk, namespace, ids) = group;
        if ids.len() >= MANY {
            match self.listed(gvk, *namespace).await {
                Ok(mut found) => {
                    let live = |id: &&ObjectId| {
                        let live = found.remove(&id.name).unwrap_or(Live::Absent);
                        ((*id).clone(), live)
                    };
                    return Ok(ids.iter().map(live).collect());
                }
                // Rights may be for single names, and other people's objects too many to read.
                Err(ClusterError::Forbidden { .. } | ClusterError::Unexpected { .. }) => {}
                Err(error) => {
                    absent(error)?;
                    return Ok(ids.iter().map(|id| ((*id).clone(), Live::Absent)).collect());
                }
            }
        }
        let mut reads = Vec::with_capacity(ids.len());
        for id in ids {
            reads.push(self.one(id).boxed());
        }
        let mut reads = futures::stream::iter(reads).buffer_unordered(WIDTH);
        let mut found = Vec::with_capacity(ids.len());
        while let Some(read) = reads.next().await {
            found.push(read?);
        }
        Ok(found)
    }

    /// Reads all objects of a kind in a namespace, by name.
    async fn listed(
        self,
        gvk: &Gvk,
        namespace: Option<&str>,
    ) -> Result<BTreeMap<String, Live>, ClusterError> {
        let Self {
            actor,
            ports,
            patience,
        } = self;
        if let (true, Some(namespace)) = (gvk.is("", "Secret"), namespace) {
            let found = patience
                .retry(|| ports.cluster.secrets(actor, namespace), cluster_trouble)
                .await?;
            let found = found.into_iter();
            return Ok(found
                .map(|(name, view)| (name, Live::Secret(view)))
                .collect());
        }
        let found = patience
            .retry(
                || ports.cluster.list(actor, gvk, namespace),
                cluster_trouble,
            )
            .await?;
        let named = found.into_iter().map(|object| {
            let name = text(&object, &["metadata", "name"]).to_owned();
            (name, Live::Object(object))
        });
        Ok(named.collect())
    }

    async fn one(self, id: &ObjectId) -> Result<(ObjectId, Live), ClusterError> {
        let Self {
            actor,
            ports,
            patience,
        } = self;
        let live = if id.gvk.is("", "Secret") {
            let read = patience
                .retry(|| ports.cluster.secret(actor, id), cluster_trouble)
                .await;
            read.map(|found| found.map_or(Live::Absent, Live::Secret))
        } else {
            let read = patience
                .retry(|| ports.cluster.get(actor, id), cluster_trouble)
                .await;
            read.map(|found| found.map_or(Live::Absent, Live::Object))
        };
        let live = live.or_else(absent)?;
        Ok((id.clone(), live))
    }
}

/// Takes the errors that only say that nothing is there.
fn absent(error: ClusterError) -> Result<Live, ClusterError> {
    match error {
        ClusterError::UnknownKind { .. } | ClusterError::Missing { .. } => Ok(Live::Absent),
        other => Err(other),
    }
}

fn grouped(wanted: &[(ObjectId, Content)]) -> Vec<Group<'_>> {
    let mut groups: BTreeMap<(&Gvk, Option<&str>), Vec<&ObjectId>> = BTreeMap::new();
    for (id, _) in wanted {
        let place = (&id.gvk, id.namespace.as_deref());
        groups.entry(place).or_default().push(id);
    }
    let groups = groups.into_iter();
    groups
        .map(|((gvk, namespace), ids)| (gvk, namespace, ids))
        .collect()
}
