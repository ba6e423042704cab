//! Is it sane? Asks the cluster before the first write: does RBAC let the job do it, and would the
//! server take every object?
//!
//! [`access`] runs before any credential is issued; [`dry_run`] refines the plan's actions with
//! server-side dry runs. Objects whose namespace or kind is made by the same run cannot be asked
//! about and are marked so. [`examine`] finds out about one object on what terms it can be written.
//! Called by [`crate::engine`].

pub mod fields;
pub mod fixed;
pub(crate) mod examine;
mod rights;
mod scale;

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::StreamExt as _;
use proto::report::Action;
use proto::report::FieldChange;
use proto::report::KeyChange;
use serde_json::Value;

use self::examine::Case;
use self::examine::Finding;
use self::examine::Outcome;
use self::examine::Refusal;
use self::examine::Scaling;
use self::examine::Writer;
use self::fields::Contested;
use self::fixed::Obstacle;
use crate::backoff::Patience;
use crate::class::Class;
use crate::object::ObjectId;
use crate::object::Origin;
use crate::plan::Content;
use crate::plan::Live;
use crate::plan::Plan;
use crate::plan::Step;
use crate::plan::WIDTH;
use crate::ports::ClusterError;
use crate::ports::Ports;
use crate::ports::SecretView;
use crate::principal::Actor;
use crate::resolve::Draft;
use crate::secret::Secret;
use crate::spec::SecretSpec;
use crate::terms::Terms;

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
    #[error("fields of {} objects belong to other managers", objects.len())]
    Conflict {
        /// Each with its fields.
        objects: Vec<(Subject, Vec<Contested>)>,
    },
    /// Fields that cannot change would have to.
    #[error("fields of {} objects cannot change", objects.len())]
    Fixed {
        /// Each with its fields, and why it is not made anew.
        objects: Vec<(Subject, Vec<FieldChange>, Obstacle)>,
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
            Self::Conflict { .. } | Self::Fixed { .. } => Class::Conflict,
            Self::Cluster { source, .. } => source.class(),
        }
    }
}

/// Which object, and where it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Kind, namespace and name.
    pub object: String,
    /// File and line; unset for Secrets from Vault.
    pub origin: Option<Origin>,
}

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
    rights::all(wanted, actor, ports, patience).await
}

/// Lets the server check every object that the plan has not proved the same, and learns from it what
/// would change and on what terms.
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
    let scaled = scale::scaled(plan, observed, ports, patience).await;
    let spec = &plan.permit().request().spec;
    let mut asks = Vec::with_capacity(plan.steps().len());
    for (index, step) in plan.steps().iter().enumerate() {
        let proved = step.action == Action::Same && step.checked.is_some();
        if step.action == Action::Delete || proved || made_anew.contains(&index) {
            continue; // Proved by the plan, or made anew by Helm.
        }
        let data = match &step.content {
            Content::Secret { index, .. } => Some(stand_ins(&spec.secrets[*index], draft)),
            Content::Object(_) => None,
        };
        let case = Case {
            step,
            writer: if plan.by_helm(step) {
                Writer::Helm
            } else {
                Writer::Agent
            },
            live: observed.get(&step.id).and_then(examine::body_of),
            spec,
            scaled: if scaled.has(&step.id) {
                Scaling::Auto
            } else {
                Scaling::Manifest
            },
            data,
            actor: &actor,
            ports,
            patience,
        };
        asks.push(async move { (index, case.examine().await) }.boxed());
    }
    let answers: Vec<_> = futures::stream::iter(asks)
        .buffer_unordered(WIDTH)
        .collect()
        .await;
    let mut refused = Vec::new();
    for (index, answer) in answers {
        match answer {
            Ok(finding) => settle(plan, index, observed, finding),
            Err(refusal) => {
                if let Some(why) = deferred(plan, &plan.steps[index].id, &refusal) {
                    plan.steps[index].action = Action::Unknown;
                    plan.steps[index].reason = why;
                } else {
                    refused.push((index, refusal));
                }
            }
        }
    }
    refused.sort_by_key(|(index, _)| *index);
    verdict(plan, refused)
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
fn stand_ins(spec: &SecretSpec, draft: Option<&Draft>) -> BTreeMap<String, Secret> {
    spec.keys
        .iter()
        .map(|(key, source)| {
            let known = draft
                .and_then(|draft| draft.known(&spec.name, key, source))
                .map(Secret::duplicate);
            // Valid for every Secret type, JSON ones too.
            (
                key.clone(),
                known.unwrap_or_else(|| Secret::from_text("{}".to_owned())),
            )
        })
        .collect()
}

/// Takes the server's view into the step.
fn settle(plan: &mut Plan, index: usize, observed: &BTreeMap<ObjectId, Live>, finding: Finding) {
    let by_helm = plan.by_helm(&plan.steps[index]);
    let step = &mut plan.steps[index];
    let Finding {
        terms,
        body,
        notes,
        outcome,
    } = finding;
    let moves = !terms.moves.is_empty();
    match outcome {
        Outcome::Recreates(fields) => {
            step.action = Action::Recreate;
            step.reason = format!("{} cannot change", names(&fields));
            step.fields = fields;
        }
        Outcome::Applies(applied, after) => {
            if let (Content::Object(_), Some(Live::Object(before))) =
                (&step.content, observed.get(&step.id))
            {
                step.fields = fields::changes(&step.id.gvk, before, &after);
                if step.fields.is_empty() && !moves {
                    step.action = Action::Same;
                    step.reason = "the cluster has it already".to_owned();
                } else {
                    step.action = Action::Change;
                    step.reason = names(&step.fields);
                }
            }
            if let Some(Live::Secret(view)) = observed.get(&step.id)
                && by_helm
            {
                settle_secret(step, view, &after);
            }
            step.checked = Some(applied);
        }
    }
    if moves {
        step.action = Action::Change;
        if step.fields.is_empty() {
            step.reason = format!("ownership moves from {}", terms.moves.join(" and "));
        }
    }
    step.notes.extend(notes);
    match &mut step.content {
        Content::Object(sent) | Content::Secret { body: sent, .. } => *sent = body,
    }
    if terms != Terms::default() {
        plan.terms.insert(step.id.clone(), terms);
    }
}

/// A Secret of a chart whose values are all right: what else it has is Helm's, so only the server's view says
/// whether it changes.
fn settle_secret(step: &mut Step, view: &SecretView, after: &Value) {
    let right = |key: &KeyChange| key.action == Action::Same && view.values.contains_key(&key.key);
    if step.keys.len() != view.values.len() || !step.keys.iter().all(right) {
        return;
    }
    let bare = |secret: &Value| {
        let mut secret = secret.clone();
        if let Some(fields) = secret.as_object_mut() {
            fields.retain(|field, _| !matches!(field.as_str(), "data" | "stringData"));
        }
        secret
    };
    step.fields = fields::changes(&step.id.gvk, &bare(&view.rest), &bare(after));
    if step.fields.is_empty() {
        step.action = Action::Same;
        "every key has the value that is wanted".clone_into(&mut step.reason);
    } else {
        step.action = Action::Change;
        step.reason = names(&step.fields);
    }
}

/// Names the first fields.
fn names(fields: &[FieldChange]) -> String {
    const MOST: usize = 6;
    let named = fields.iter().take(MOST).map(|change| change.field.as_str());
    let mut text = named.collect::<Vec<_>>().join(", ");
    if fields.len() > MOST {
        text.push_str(&format!(" and {} more", fields.len() - MOST));
    }
    text
}

/// Says why an error of the dry run is no error: the thing it needs is made by this very run.
fn deferred(plan: &Plan, id: &ObjectId, refusal: &Refusal) -> Option<String> {
    let Refusal::Cluster(error) = refusal else {
        return None;
    };
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
fn verdict(plan: &Plan, refused: Vec<(usize, Refusal)>) -> Result<(), CheckError> {
    let subject = |index: usize| {
        let id = &plan.steps[index].id;
        let objects = &plan.permit().request().objects;
        let object = objects.iter().find(|object| object.id == *id);
        Subject {
            object: id.to_string(),
            origin: object.map(|object| object.origin.clone()),
        }
    };
    let (mut contested, mut fixed, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (index, refusal) in refused {
        match refusal {
            Refusal::Contested(fields) => contested.push((subject(index), fields)),
            Refusal::Fixed(fields, why) => fixed.push((subject(index), fields, why)),
            Refusal::Cluster(error) => errors.push((index, error)),
        }
    }
    if let Some((first, error)) = errors.first() {
        let error = error.clone();
        return Err(refused_by(plan, *first, &error, errors));
    }
    if !fixed.is_empty() {
        return Err(CheckError::Fixed { objects: fixed });
    }
    if !contested.is_empty() {
        return Err(CheckError::Conflict { objects: contested });
    }
    Ok(())
}

/// Tells the server's own refusals.
fn refused_by(
    plan: &Plan,
    first: usize,
    error: &ClusterError,
    refused: Vec<(usize, ClusterError)>,
) -> CheckError {
    let id = &plan.steps[first].id;
    let object = id.to_string();
    match error {
        ClusterError::UnknownKind { kind } => CheckError::UnknownKind {
            kind: kind.clone(),
            object,
        },
        ClusterError::Missing { .. } => CheckError::NamespaceMissing {
            namespace: id.namespace.clone().unwrap_or_default(),
            object,
        },
        ClusterError::Conflict { .. }
        | ClusterError::Exists { .. }
        | ClusterError::Raced { .. }
        | ClusterError::Unavailable { .. }
        | ClusterError::Unanswered { .. }
        | ClusterError::Unexpected { .. } => CheckError::Cluster {
            object,
            source: error.clone(),
        },
        ClusterError::Forbidden { .. } | ClusterError::Invalid { .. } => {
            let objects = refused
                .into_iter()
                .map(|(index, error)| (plan.steps[index].id.to_string(), error))
                .collect();
            CheckError::Refused { objects }
        }
    }
}
