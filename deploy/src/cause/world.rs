//! What was observed of the cluster, by identity, with events found by what they are about.
//!
//! Filled by [`crate::watch`] from observations; read by the rules of [`crate::cause`]. Holds the
//! last state only.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::at;
use crate::object::list;
use crate::object::number;
use crate::object::text;

/// Marks an event that was written while we watched, not found when we began.
const FRESH: &str = "quaymaster.fresh";

/// What was observed.
#[derive(Debug, Default, Clone)]
pub struct World {
    objects: BTreeMap<ObjectId, Value>,
    events: BTreeMap<String, BTreeMap<ObjectId, Value>>,
}

/// Says whether an event was written while we watched.
#[must_use]
pub(super) fn is_fresh(event: &Value) -> bool {
    at(event, &[FRESH]).is_some()
}

/// When an event was seen: found in the first listing, or written while we watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// In the first listing.
    Listed,
    /// After it.
    Live,
}

impl World {
    /// Makes an identity from an object's own fields.
    #[must_use]
    pub fn id(object: &Value) -> ObjectId {
        let namespace = text(object, &["metadata", "namespace"]);
        ObjectId {
            gvk: Gvk::new(text(object, &["apiVersion"]), text(object, &["kind"])),
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            name: text(object, &["metadata", "name"]).to_owned(),
        }
    }

    /// Takes in an object's new state.
    pub fn put(&mut self, mut object: Value, arrival: Arrival) {
        let id = Self::id(&object);
        if id.gvk.kind != "Event" {
            self.objects.insert(id, object);
            return;
        }
        let about = text(&object, &["involvedObject", "uid"]).to_owned();
        let events = self.events.entry(about).or_default();
        // A watch that was cut lists everything again: what did not change is not news.
        let version = |event: &Value| text(event, &["metadata", "resourceVersion"]).to_owned();
        if let Some(known) = events.get(&id)
            && !version(known).is_empty()
            && version(known) == version(&object)
        {
            return;
        }
        if arrival == Arrival::Live
            && let Some(fields) = object.as_object_mut()
        {
            fields.insert(FRESH.to_owned(), Value::Bool(true));
        }
        events.insert(id, object);
    }

    /// Forgets an object. Events are kept: they end by age, which says nothing about their object.
    pub fn remove(&mut self, id: &ObjectId) {
        self.objects.remove(id);
    }

    /// Returns an object.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<&Value> {
        self.objects.get(id)
    }

    /// Returns all objects of a kind in a namespace, whatever the version.
    pub fn of_kind<'a>(
        &'a self,
        group: &'a str,
        kind: &'a str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Value> {
        self.objects
            .iter()
            .filter(move |(id, _)| {
                id.gvk.is(group, kind)
                    && (namespace.is_none() || id.namespace.as_deref() == namespace)
            })
            .map(|(_, object)| object)
    }

    /// Returns the events about an object, the newest first.
    #[must_use]
    pub fn events(&self, about: &Value) -> Vec<&Value> {
        let uid = text(about, &["metadata", "uid"]);
        let mut events: Vec<&Value> = self
            .events
            .get(uid)
            .into_iter()
            .flat_map(BTreeMap::values)
            .collect();
        events.sort_by(|a, b| event_time(b).cmp(event_time(a)));
        events
    }

    /// Returns the events with one of these reasons about an object, the newest first.
    #[must_use]
    pub fn events_of(&self, about: &Value, reasons: &[&str]) -> Vec<&Value> {
        let mut events = self.events(about);
        events.retain(|event| reasons.contains(&text(event, &["reason"])));
        events
    }
}

/// When an event happened last, as sortable text (RFC 3339 in UTC, as the API server writes).
pub(super) fn event_time(event: &Value) -> &str {
    [
        &["series", "lastObservedTime"][..],
        &["lastTimestamp"],
        &["eventTime"],
        &["firstTimestamp"],
        &["metadata", "creationTimestamp"],
    ]
    .into_iter()
    .map(|path| text(event, path))
    .find(|time| !time.is_empty())
    .unwrap_or_default()
}

/// How often an event happened.
pub(super) fn event_count(event: &Value) -> u64 {
    let single = number(event, &["count"]);
    let series = number(event, &["series", "count"]);
    u64::try_from(single.max(series).unwrap_or(1))
        .unwrap_or(1)
        .max(1)
}

/// Renders an event for evidence.
pub(super) fn event_line(event: &Value) -> String {
    let reason = text(event, &["reason"]);
    let message = text(event, &["message"]).trim();
    match event_count(event) {
        1 => format!("event {reason}: {message}"),
        count => format!("event {reason} ({count} times): {message}"),
    }
}

/// Says whether an object names `owner` as its controller.
pub(super) fn is_owned_by(object: &Value, owner: &Value) -> bool {
    let uid = text(owner, &["metadata", "uid"]);
    !uid.is_empty()
        && list(object, &["metadata", "ownerReferences"])
            .iter()
            .any(|reference| text(reference, &["uid"]) == uid)
}

/// Says whether an object is being deleted.
pub(super) fn is_leaving(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some_and(|time| !time.is_null())
}

/// Says whether a name stands anywhere in an object's spec or metadata.name: an object that names a
/// Secret may be what makes it.
pub(super) fn mentions(object: &Value, name: &str) -> bool {
    text(object, &["metadata", "name"]) == name
        || at(object, &["spec"]).is_some_and(|spec| holds(spec, name))
}

fn holds(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => text == name,
        Value::Array(items) => items.iter().any(|item| holds(item, name)),
        Value::Object(fields) => fields.values().any(|field| holds(field, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

impl World {
    /// Says whether any object of a kind that Kubernetes does not know itself names `name`: such
    /// objects (certificates, external secrets) make Secrets and ConfigMaps some time later.
    #[must_use]
    pub(crate) fn may_be_made(&self, name: &str) -> bool {
        self.objects.iter().any(|(id, object)| {
            !crate::rollout::is_builtin(&id.gvk.group) && mentions(object, name)
        })
    }
}
