//! Is it sane? Asks the cluster before the first write: does RBAC let the job do it, and would the
//! server take every object?
//!
//! [`access`] runs before any credential is issued; [`dry_run`] refines the plan's actions with
//! server-side dry runs. Objects whose namespace or kind is made by the same run cannot be asked
//! about and are marked so. Called by [`crate::engine`].

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use futures::StreamExt as _;
use proto::report::Action;
use serde_json::Value;

use crate::backoff::Patience;
use crate::class::Class;
use crate::object::AppliedObject;
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
use crate::ports::FieldConflict;
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

/// A field that another manager owns, with both values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contested {
    /// The field.
    pub field: String,
    /// Its manager.
    pub manager: String,
    /// What is there, as JSON; masked in Secrets.
    pub theirs: String,
    /// What the manifest has, as JSON; masked in Secrets.
    pub ours: String,
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
    let mut by_place: BTreeMap<(String, Option<String>), Placed<'_>> = BTreeMap::new();
    for (id, _) in wanted {
        let resource = patience
            .retry(
                async || ports.cluster.resource(&id.gvk).await,
                cluster_trouble,
            )
            .await;
        let resource = match resource {
            Ok(resource) => resource,
            // A kind that this run defines is asked about when it exists; others are found by the
            // dry run, with the object's name.
            Err(ClusterError::UnknownKind { .. }) => continue,
            Err(source) => {
                return Err(CheckError::Cluster {
                    object: id.to_string(),
                    source,
                });
            }
        };
        let place = (
            format!("{}/{}", resource.gvk.group, resource.plural),
            id.namespace.clone(),
        );
        by_place
            .entry(place)
            .or_insert_with(|| (resource, Vec::new()))
            .1
            .push(id);
    }
    for (resource, ids) in by_place.values() {
        for verb in ["get", "create", "patch"] {
            ask(resource, ids, verb, actor, ports, patience).await?;
        }
    }
    Ok(())
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
        .retry(
            async || ports.cluster.may(actor, &access).await,
            cluster_trouble,
        )
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
    let specs = &plan.permit().request().spec.secrets;
    let answers: Vec<_> = futures::stream::iter(plan.steps().iter().enumerate())
        .map(async |(index, step)| {
            let data = match &step.content {
                Content::Secret { index, .. } => Some(stand_ins(&specs[*index].keys, draft)),
                Content::Object(_) => None,
            };
            let payload = payload(&step.content, data.as_ref());
            (
                index,
                dry_run_one(step, &actor, payload, ports, patience).await,
            )
        })
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
    step: &Step,
    actor: &Actor,
    payload: Payload<'_>,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<(AppliedObject, Value), ClusterError> {
    patience
        .retry(
            async || {
                let again = match &payload {
                    Payload::Object(body) => Payload::Object(body),
                    Payload::Secret { body, data } => Payload::Secret { body, data },
                };
                ports
                    .cluster
                    .apply(actor, &step.id, again, Write::DryRun)
                    .await
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
        .await
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

/// Lists the fields that differ, by path, without what the server keeps for itself.
fn differences(before: &Value, after: &Value) -> Vec<String> {
    const SERVER: [&str; 5] = [
        ".metadata.managedFields",
        ".metadata.resourceVersion",
        ".metadata.generation",
        ".metadata.uid",
        ".status",
    ];
    let mut fields = Vec::new();
    differ("", before, after, &mut fields);
    fields.retain(|field| !SERVER.iter().any(|own| field.starts_with(own)));
    fields
}

fn differ(path: &str, before: &Value, after: &Value, fields: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let null = Value::Null;
                differ(
                    &format!("{path}.{key}"),
                    before.get(key).unwrap_or(&null),
                    after.get(key).unwrap_or(&null),
                    fields,
                );
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                differ(&format!("{path}[{index}]"), before, after, fields);
            }
        }
        (before, after) if before == after => {}
        _ => fields.push(path.to_owned()),
    }
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
        ClusterError::Unavailable { .. }
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

/// Puts both values beside each contested field; values of Secrets stay masked.
pub(crate) fn contested(
    step: &Step,
    live: Option<&Live>,
    fields: &[FieldConflict],
) -> Vec<Contested> {
    let secret = step.id.gvk.is("", "Secret");
    let shown = |value: Option<&Value>| match value {
        _ if secret => "(masked)".to_owned(),
        Some(value) => short(&value.to_string()),
        None => "(not set)".to_owned(),
    };
    fields
        .iter()
        .map(|conflict| {
            let theirs = match live {
                Some(Live::Object(body)) => value_at(body, &conflict.field),
                Some(Live::Secret(_) | Live::Absent) | None => None,
            };
            Contested {
                field: conflict.field.clone(),
                manager: conflict.manager.clone(),
                theirs: shown(theirs),
                ours: shown(value_at(step.content.body(), &conflict.field)),
            }
        })
        .collect()
}

fn short(text: &str) -> String {
    const MOST: usize = 120;
    match text.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

/// Follows a managed field's path, such as `.spec.template.spec.containers[name="app"].image`.
fn value_at<'a>(body: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = body;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let close = tail.find(']')?;
            value = item(value, &tail[..close])?;
            rest = &tail[close + 1..];
        } else {
            let tail = rest.strip_prefix('.')?;
            // Keys of labels and annotations hold dots: the longest key that exists wins.
            let object = value.as_object()?;
            let key = object
                .keys()
                .filter(|key| {
                    tail.strip_prefix(key.as_str())
                        .is_some_and(|after| after.is_empty() || after.starts_with(['.', '[']))
                })
                .max_by_key(|key| key.len())?;
            value = &object[key];
            rest = &tail[key.len()..];
        }
    }
    Some(value)
}

/// Finds the list item of a selector such as `name="app"`, `containerPort=80,protocol="TCP"` or `0`.
fn item<'a>(list: &'a Value, selector: &str) -> Option<&'a Value> {
    let items = list.as_array()?;
    if let Ok(index) = selector.parse::<usize>() {
        return items.get(index);
    }
    items.iter().find(|item| {
        selector.split(',').all(|pair| {
            let Some((key, wanted)) = pair.split_once('=') else {
                return false;
            };
            let wanted: Value = serde_json::from_str(wanted).unwrap_or(Value::Null);
            item.get(key) == Some(&wanted)
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn managed_field_paths_are_followed() {
        let body = json!({"metadata": {"labels": {"app.kubernetes.io/name": "x"}},
            "spec": {"containers": [{"name": "a"}, {"name": "app", "image": "i"}]}});
        assert_eq!(
            value_at(&body, ".metadata.labels.app.kubernetes.io/name"),
            Some(&json!("x"))
        );
        assert_eq!(
            value_at(&body, ".spec.containers[name=\"app\"].image"),
            Some(&json!("i"))
        );
        assert_eq!(value_at(&body, ".spec.nothing"), None);
    }

    #[test]
    fn what_the_server_keeps_for_itself_is_no_difference() {
        let before = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"replicas": 1}, "status": {}});
        let after =
            json!({"metadata": {"name": "a", "resourceVersion": "2"}, "spec": {"replicas": 2}});
        assert_eq!(differences(&before, &after), [".spec.replicas"]);
        assert_eq!(differences(&before, &before), Vec::<String>::new());
    }
}
