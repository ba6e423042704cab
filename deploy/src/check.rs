//! Is it sane? Asks the cluster before the first write: does RBAC let the job do it, and would the
//! server take every object?
//!
//! [`access`] runs before any credential is issued; [`dry_run`] refines the plan's actions with
//! server-side dry runs. Objects whose namespace or kind is made by the same run cannot be asked
//! about and are marked so. Called by [`crate::engine`].

pub mod fields;

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::StreamExt as _;
use proto::report::Action;
use serde_json::Value;

use self::fields::Contested;
use self::fields::contested;
use self::fields::differences;
use crate::backoff::Patience;
use crate::class::Class;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::Resource;
use crate::plan::Content;
use crate::plan::Live;
use crate::plan::Plan;
use crate::plan::Step;
use crate::plan::WIDTH;
use crate::plan::cluster_trouble;
use crate::ports::Access;
use crate::ports::ClusterError;
use crate::ports::Force;
use crate::ports::Payload;
use crate::ports::Ports;
use crate::ports::Write;
use crate::principal::Actor;
use crate::resolve::Draft;
use crate::secret::Secret;

/// Why the run cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// RBAC says no.
    #[error("{user} may not {verb} {object}")]
    Denied {
        /// As whom the agent asked.
        user: String,
        /// The verb.
        verb: &'static str,
        /// Kind, namespace and name.
        object: String,
        /// The server's reason; may be empty.
        reason: String,
    },
    /// The cluster does not serve a kind.
    #[error("the cluster does not serve the kind {kind} of {object}")]
    UnknownKind {
        /// The kind.
        kind: String,
        /// The object.
        object: String,
    },
    /// The namespace does not exist and the run does not make it.
    #[error("the namespace {namespace} of {object} does not exist")]
    NamespaceMissing {
        /// The namespace.
        namespace: String,
        /// The first object in it.
        object: String,
    },
    /// The server refuses objects.
    #[error("the cluster refuses {} objects", objects.len())]
    Refused {
        /// Each with why.
        objects: Vec<(String, ClusterError)>,
    },
    /// Fields belong to other managers.
    #[error("fields of {object} belong to other managers")]
    Conflict {
        /// The object.
        object: String,
        /// Each with both values.
        fields: Vec<Contested>,
    },
    /// The cluster could not be asked.
    #[error("asking the cluster about {object}")]
    Cluster {
        /// About what.
        object: String,
        /// Why not.
        source: ClusterError,
    },
}

impl CheckError {
    /// Returns the class.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Denied { .. } => Class::Denied,
            Self::UnknownKind { .. } | Self::NamespaceMissing { .. } => Class::Caller,
            Self::Refused { objects } => objects
                .first()
                .map_or(Class::Bug, |(_, error)| error.class()),
            Self::Conflict { .. } => Class::Conflict,
            Self::Cluster { source, .. } => source.class(),
        }
    }
}

/// A resource and the objects of it in one namespace.
type Placed<'a> = (Resource, Vec<&'a ObjectId>);

/// Asks for every right that the writes need.
///
/// # Errors
/// The first right that is missing.
pub async fn access(
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

/// Lets the server check every object, and learns from it what would change.
///
/// # Errors
/// Everything that the server refuses, at once.
pub async fn dry_run(
    plan: &mut Plan,
    observed: &BTreeMap<ObjectId, Live>,
    draft: Option<&Draft>,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(), CheckError> {
    let actor = plan.permit().actor().clone();
    let made_anew = made_anew(plan, observed);
    for index in &made_anew {
        plan.steps[*index].action = Action::Recreate;
        "a hook: Helm deletes it and makes it again".clone_into(&mut plan.steps[*index].reason);
    }
    let specs = &plan.permit().request().spec.secrets;
    let mut asks = Vec::with_capacity(plan.steps().len());
    for (index, step) in plan.steps().iter().enumerate() {
        if (step.action == Action::Same && step.checked.is_some()) || made_anew.contains(&index) {
            continue; // Proved by the plan, or made anew by Helm.
        }
        let data = match &step.content {
            Content::Secret { index, .. } => Some(stand_ins(&specs[*index].keys, draft)),
            Content::Object(_) => None,
        };
        // Helm's own manager has the fields of a chart's objects, and Helm will ask about others.
        let force = if plan.by_helm(step) {
            Force::Take
        } else {
            Force::No
        };
        asks.push(dry_run_one(index, step, &actor, data, force, ports, patience).boxed());
    }
    let answers: Vec<_> = futures::stream::iter(asks)
        .buffer_unordered(WIDTH)
        .collect()
        .await;
    let mut refused = Vec::new();
    for (index, answer) in answers {
        match answer {
            Ok((applied, value)) => settle(&mut plan.steps[index], observed, applied, &value),
            Err(error) => {
                if let Some(why) = deferred(plan, &plan.steps[index].id, &error) {
                    plan.steps[index].action = Action::Unknown;
                    plan.steps[index].reason = why;
                } else {
                    refused.push((index, error));
                }
            }
        }
    }
    refused.sort_by_key(|(index, _)| *index);
    verdict(plan, observed, refused)
}

/// Lists the hooks that are there from the last time: a Job among them could not be changed, which
/// nobody wants to.
fn made_anew(plan: &Plan, observed: &BTreeMap<ObjectId, Live>) -> Vec<usize> {
    let there = |id| !matches!(observed.get(id), None | Some(Live::Absent));
    let steps = plan.steps().iter().enumerate();
    steps
        .filter(|(_, step)| plan.is_hook(step) && there(&step.id))
        .map(|(index, _)| index)
        .collect()
}

/// The values of a Secret for a dry run: what is known, and a stand-in for what is issued later.
fn stand_ins(
    keys: &BTreeMap<String, crate::spec::Source>,
    draft: Option<&Draft>,
) -> BTreeMap<String, Secret> {
    keys.iter()
        .map(|(key, source)| {
            let known = draft
                .and_then(|draft| draft.known(source))
                .map(Secret::duplicate);
            // Valid for every Secret type, JSON ones too.
            (
                key.clone(),
                known.unwrap_or_else(|| Secret::from_text("{}".to_owned())),
            )
        })
        .collect()
}

pub(crate) const fn payload<'a>(
    content: &'a Content,
    data: Option<&'a BTreeMap<String, Secret>>,
) -> Payload<'a> {
    match (content, data) {
        (Content::Secret { body, .. }, Some(data)) => Payload::Secret { body, data },
        (Content::Object(body) | Content::Secret { body, .. }, _) => Payload::Object(body),
    }
}

async fn dry_run_one(
    index: usize,
    step: &Step,
    actor: &Actor,
    data: Option<BTreeMap<String, Secret>>,
    force: Force,
    ports: &Ports,
    patience: &Patience<'_>,
) -> (usize, Result<(AppliedObject, Value), ClusterError>) {
    let data = data.as_ref();
    let answer = patience
        .retry(
            || {
                ports.cluster.apply(
                    actor,
                    &step.id,
                    payload(&step.content, data),
                    Write::DryRun,
                    force,
                )
            },
            |error| {
                let mut trouble = cluster_trouble(error);
                if trouble.class == Class::OutcomeUnknown {
                    // A dry run changes nothing, so an unanswered one is simply asked again.
                    trouble.class = Class::Upstream;
                }
                trouble
            },
        )
        .await;
    (index, answer)
}

/// Takes the server's view into the step.
fn settle(
    step: &mut Step,
    observed: &BTreeMap<ObjectId, Live>,
    applied: AppliedObject,
    after: &Value,
) {
    if let (Content::Object(_), Some(Live::Object(before))) =
        (&step.content, observed.get(&step.id))
    {
        let changed = differences(before, after);
        if changed.is_empty() {
            step.action = Action::Same;
            step.reason = "the cluster has it already".to_owned();
        } else {
            step.action = Action::Change;
            step.reason = changed.into_iter().take(6).collect::<Vec<_>>().join(", ");
        }
    }
    step.checked = Some(applied);
}

/// Says why an error of the dry run is no error: the thing it needs is made by this very run.
fn deferred(plan: &Plan, id: &ObjectId, error: &ClusterError) -> Option<String> {
    match error {
        ClusterError::UnknownKind { .. } if plan.defines(&id.gvk) => {
            Some("its kind is defined by this run; the server could not check it before".to_owned())
        }
        ClusterError::Missing { .. }
            if id
                .namespace
                .as_deref()
                .is_some_and(|name| plan.makes_namespace(name)) =>
        {
            Some(
                "its namespace is made by this run; the server could not check it before"
                    .to_owned(),
            )
        }
        ClusterError::UnknownKind { .. }
        | ClusterError::Missing { .. }
        | ClusterError::Forbidden { .. }
        | ClusterError::Invalid { .. }
        | ClusterError::Conflict { .. }
        | ClusterError::Exists { .. }
        | ClusterError::Raced { .. }
        | ClusterError::Unavailable { .. }
        | ClusterError::Unanswered { .. }
        | ClusterError::Unexpected { .. } => None,
    }
}

/// Turns what was refused into the one error that says most.
fn verdict(
    plan: &Plan,
    observed: &BTreeMap<ObjectId, Live>,
    refused: Vec<(usize, ClusterError)>,
) -> Result<(), CheckError> {
    let Some((first, error)) = refused.first() else {
        return Ok(());
    };
    let step = &plan.steps[*first];
    let object = step.id.to_string();
    match error {
        ClusterError::Conflict { fields, .. } => Err(CheckError::Conflict {
            object,
            fields: contested(step, observed.get(&step.id), fields),
        }),
        ClusterError::UnknownKind { kind } => Err(CheckError::UnknownKind {
            kind: kind.clone(),
            object,
        }),
        ClusterError::Missing { .. } => Err(CheckError::NamespaceMissing {
            namespace: step.id.namespace.clone().unwrap_or_default(),
            object,
        }),
        ClusterError::Exists { .. }
        | ClusterError::Raced { .. }
        | ClusterError::Unavailable { .. }
        | ClusterError::Unanswered { .. }
        | ClusterError::Unexpected { .. } => Err(CheckError::Cluster {
            object,
            source: error.clone(),
        }),
        ClusterError::Forbidden { .. } | ClusterError::Invalid { .. } => {
            let objects = refused
                .into_iter()
                .map(|(index, error)| (plan.steps[index].id.to_string(), error))
                .collect();
            Err(CheckError::Refused { objects })
        }
    }
}
