//! Saved plans: what a plan would do and has seen, and in what a later plan differs from it.
//!
//! [`of`] is called by [`crate::engine`] once the check is through; [`differences`] holds a deploy to
//! the plan that its caller reviewed. Pure. Hashes are over JSON without Secret data; a status that
//! moved, or a field that is left to others and that they moved, is no difference: what would be done
//! is still what was reviewed.

use std::collections::BTreeMap;

use proto::error::Place;
use proto::ids::RunId;
use proto::report::Action;
use proto::report::saved::FORMAT;
use proto::report::saved::SavedPlan;
use proto::report::saved::SavedStep;
use proto::report::saved::Seen;
use serde_json::Value;
use sha2::Digest;
use sha2::Sha256;

use crate::binding;
use crate::object::ObjectId;
use crate::object::at;
use crate::object::text;
use crate::plan::Live;
use crate::plan::Plan;
use crate::plan::Step;
use crate::prune::Leftover;

/// What the server writes into an object by itself.
const SERVER: [&str; 6] = [
    "creationTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What the controller of Deployments counts rollouts by.
const ROLLOUT_COUNT: &str = "deployment.kubernetes.io/revision";

/// Makes the saved form of a plan that deletes the leftovers `going` and changes `files` of a branch.
#[must_use]
pub fn of<'a>(
    plan: &Plan,
    observed: &BTreeMap<ObjectId, Live>,
    going: impl Iterator<Item = &'a Leftover>,
    files: Vec<SavedStep>,
    run: &RunId,
    made: String,
) -> SavedPlan {
    let permit = plan.permit();
    let steps = plan.steps().iter();
    SavedPlan {
        format: FORMAT,
        run: run.clone(),
        made,
        name: permit.request().spec.name.clone(),
        cluster: permit.cluster().clone(),
        namespace: permit.namespace().clone(),
        bundle: permit.request().binding.bundle.clone(),
        steps: steps
            .map(|step| saved(step, observed))
            .chain(going.map(deleted))
            .chain(files)
            .collect(),
    }
}

/// A deletion is of the very object that was seen, whatever it holds by then.
fn deleted(leftover: &Leftover) -> SavedStep {
    SavedStep {
        object: leftover.id.to_string(),
        action: Action::Delete,
        sends: hash(&Value::Null),
        seen: Some(Seen {
            uid: leftover.uid.clone(),
            resource_version: String::new(),
            content: None,
        }),
        keys: BTreeMap::new(),
    }
}

/// Makes the saved form of a file of a branch: as it is, and as it would be pushed. One that names its images
/// already may be changed by others as long as it does so.
pub fn file(object: String, change: Option<(&[u8], &[u8])>) -> SavedStep {
    let hash = |bytes: &[u8]| binding::shown(&Sha256::digest(bytes));
    let old = change.map(|(old, _)| hash(old));
    SavedStep {
        object,
        action: change.map_or(Action::Same, |_| Action::Change),
        sends: change.map_or_else(String::new, |(_, new)| hash(new)),
        seen: Some(Seen {
            uid: String::new(),
            resource_version: old.clone().unwrap_or_default(),
            content: old,
        }),
        keys: BTreeMap::new(),
    }
}

fn saved(step: &Step, observed: &BTreeMap<ObjectId, Live>) -> SavedStep {
    let body = step.content.body();
    let keys = step.keys.iter();
    SavedStep {
        object: step.id.to_string(),
        action: step.action,
        sends: hash(&public(body)),
        seen: seen(body, observed.get(&step.id)),
        keys: keys
            .map(|key| (key.key.clone(), key.source.clone()))
            .collect(),
    }
}

fn seen(body: &Value, live: Option<&Live>) -> Option<Seen> {
    let (there, content) = match live? {
        Live::Absent => return None,
        Live::Object(there) => (there, Some(hash(&stable(there, body)))),
        Live::Secret(view) => (&view.rest, None),
    };
    Some(Seen {
        uid: text(there, &["metadata", "uid"]).to_owned(),
        resource_version: text(there, &["metadata", "resourceVersion"]).to_owned(),
        content,
    })
}

/// What is sent, without the values of a Secret and without the server's bookkeeping.
fn public(body: &Value) -> Value {
    let mut body = body.clone();
    let secret = text(&body, &["kind"]) == "Secret";
    if let Some(fields) = body.as_object_mut() {
        for field in ["data", "stringData"].iter().filter(|_| secret) {
            let names = fields.remove(*field).unwrap_or_default();
            let names = names.as_object().into_iter().flatten();
            let names = names.map(|(name, _)| Value::from(name.as_str())).collect();
            fields.insert((*field).to_owned(), Value::Array(names));
        }
    }
    without_bookkeeping(&mut body);
    body
}

/// What is there, without what moves by itself: status, bookkeeping, and replicas that are not ours.
fn stable(there: &Value, ours: &Value) -> Value {
    let mut there = public(there);
    if let Some(fields) = there.as_object_mut() {
        fields.remove("status");
    }
    if let Some(marks) = there.pointer_mut("/metadata/annotations")
        && let Some(marks) = marks.as_object_mut()
    {
        marks.remove(ROLLOUT_COUNT);
        if marks.is_empty()
            && let Some(metadata) = there.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.remove("annotations");
        }
    }
    if at(ours, &["spec", "replicas"]).is_none()
        && let Some(spec) = there.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.remove("replicas");
    }
    there
}

fn without_bookkeeping(body: &mut Value) {
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        SERVER
            .iter()
            .for_each(|field| drop(metadata.remove(*field)));
    }
}

/// Hashes JSON; members of objects are in the order of their names.
fn hash(value: &Value) -> String {
    binding::shown(&Sha256::digest(value.to_string().as_bytes()))
}

/// Says in what a plan differs from the saved one; nothing where it is the same.
#[must_use]
pub fn differences(saved: &SavedPlan, now: &SavedPlan) -> Vec<Place> {
    let mut told = Vec::new();
    let app = |plan: &SavedPlan| format!("{}/{}/{}", plan.cluster, plan.namespace, plan.name);
    if app(saved) != app(now) {
        told.push(format!(
            "the plan is of {}, this deploy is of {}",
            app(saved),
            app(now)
        ));
    }
    if saved.bundle != now.bundle {
        told.push(
            "the bundle is not the one of the plan: files were added, removed or changed"
                .to_owned(),
        );
    }
    let by_object = |plan: &SavedPlan| -> BTreeMap<String, SavedStep> {
        let steps = plan.steps.iter();
        steps
            .map(|step| (step.object.clone(), step.clone()))
            .collect()
    };
    let (before, after) = (by_object(saved), by_object(now));
    for (object, was) in &before {
        match after.get(object) {
            Some(is) => told.extend(moved(was, is).map(|what| format!("{object}: {what}"))),
            None => told.push(format!(
                "{object}: is in the plan and no longer in this deploy"
            )),
        }
    }
    for object in after.keys().filter(|object| !before.contains_key(*object)) {
        told.push(format!("{object}: is not in the plan"));
    }
    told.into_iter().map(Place::message).collect()
}

/// Says in what one step differs; the deepest reason only.
fn moved(was: &SavedStep, is: &SavedStep) -> Option<String> {
    match (&was.seen, &is.seen) {
        (None, Some(_)) => {
            return Some("did not exist when the plan was made, and does now".to_owned());
        }
        (Some(_), None) => return Some("existed when the plan was made, and is gone".to_owned()),
        (Some(was), Some(is)) if was.uid != is.uid => {
            return Some("was deleted and made anew after the plan".to_owned());
        }
        (Some(was), Some(is)) if was.resource_version != is.resource_version => {
            // Without content (a Secret) every write counts.
            if was.content.is_none() || was.content != is.content {
                return Some("was changed by somebody after the plan".to_owned());
            }
        }
        (None, None) | (Some(_), Some(_)) => {}
    }
    for (key, source) in &was.keys {
        match is.keys.get(key) {
            Some(now) if now != source => {
                return Some(format!("key {key} came from {source}, and now from {now}"));
            }
            Some(_) => {}
            None => return Some(format!("has no key {key} any more")),
        }
    }
    if let Some(key) = is.keys.keys().find(|key| !was.keys.contains_key(*key)) {
        return Some(format!("has a new key {key}"));
    }
    if was.sends != is.sends {
        return Some("what is sent is not what the plan showed".to_owned());
    }
    (was.action != is.action).then(|| "something else would be done to it now".to_owned())
}

#[cfg(test)]
mod tests;
