//! What one watch has told, so that listings and denials can be judged by it.
//!
//! Held by each watch of [`super::observe`]; pure but for the time. kube's watcher lists again after
//! a cut: what was there before and is not listed any more is told as gone.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::time::Duration;

use kube::api::DynamicObject;
use kube::api::TypeMeta;
use kube::runtime::watcher::Event;
use tokio::time::Instant;

use deploy::class::Class;
use deploy::object::ObjectId;
use deploy::ports::Observation;
use deploy::ports::Scope;

use super::objects;

/// How long a watch that once worked may be denied before it is believed: an API server that has
/// just started denies everything until it knows its own RBAC rules.
const DOUBTED: Duration = Duration::from_secs(10);

/// What one watch has told, so that a new listing can be compared with it.
pub(super) struct Tracker {
    scope: Scope,
    known: BTreeSet<(Option<String>, String)>,
    listed: BTreeSet<(Option<String>, String)>,
    synced: bool,
    denied_since: Option<Instant>,
}

impl Tracker {
    /// Starts with nothing known.
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            scope,
            known: BTreeSet::new(),
            listed: BTreeSet::new(),
            synced: false,
            denied_since: None,
        }
    }

    /// Turns an event into observations.
    pub(super) fn take(&mut self, event: Event<DynamicObject>, out: &mut VecDeque<Observation>) {
        // `Init` comes before each attempt to list, also before those that are denied.
        if !matches!(event, Event::Init) {
            self.denied_since = None;
        }
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.insert(key(&object));
                out.extend(self.present(object));
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let known = std::mem::replace(&mut self.known, listed);
                out.extend(known.difference(&self.known).map(|key| self.gone(key)));
                if !self.synced {
                    self.synced = true;
                    out.push_back(Observation::Synced(self.scope.gvk.clone()));
                }
            }
            Event::Apply(object) => {
                self.known.insert(key(&object));
                out.extend(self.present(object));
            }
            Event::Delete(object) => {
                let key = key(&object);
                self.known.remove(&key);
                out.push_back(self.gone(&key));
            }
        }
    }

    /// Softens a denial that may be that of a server which has just started.
    pub(super) fn doubt(&mut self, told: Observation) -> Observation {
        match told {
            Observation::Trouble {
                gvk,
                class: Class::Denied,
                reason,
            } if self.synced => {
                let since = *self.denied_since.get_or_insert_with(Instant::now);
                let class = if since.elapsed() < DOUBTED {
                    Class::Upstream
                } else {
                    Class::Denied
                };
                Observation::Trouble { gvk, class, reason }
            }
            other @ (Observation::Trouble { .. }
            | Observation::Present(_)
            | Observation::Gone(_)
            | Observation::Synced(_)) => other,
        }
    }

    /// Writes an object as JSON; objects in a list come without their kind. Who owns the fields of a
    /// Secret is told, as there is no other news about its values.
    fn present(&self, mut object: DynamicObject) -> Option<Observation> {
        let is_secret = objects::is_secret(&self.scope.gvk);
        if !is_secret {
            object.metadata.managed_fields = None;
        }
        object.types = Some(TypeMeta {
            api_version: self.scope.gvk.api_version(),
            kind: self.scope.gvk.kind.clone(),
        });
        let mut body = serde_json::to_value(object).ok()?;
        if is_secret {
            objects::without_copy(&mut body);
        }
        Some(Observation::Present(body))
    }

    fn gone(&self, (namespace, name): &(Option<String>, String)) -> Observation {
        Observation::Gone(ObjectId {
            gvk: self.scope.gvk.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
        })
    }
}

fn key(object: &DynamicObject) -> (Option<String>, String) {
    let metadata = &object.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    (metadata.namespace.clone(), name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use deploy::object::Gvk;
    use deploy::object::text;
    use kube::api::ApiResource;

    fn scope() -> Scope {
        Scope {
            gvk: Gvk::new("apps/v1", "Deployment"),
            namespace: Some("flask".to_owned()),
            name: None,
        }
    }

    fn object(name: &str) -> DynamicObject {
        let kind = ApiResource {
            group: "apps".to_owned(),
            version: "v1".to_owned(),
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            plural: "deployments".to_owned(),
        };
        let mut object = DynamicObject::new(name, &kind).within("flask");
        object.types = None;
        object.metadata.managed_fields = Some(Vec::new());
        object
    }

    fn told(tracker: &mut Tracker, events: Vec<Event<DynamicObject>>) -> Vec<String> {
        let mut out = VecDeque::new();
        for event in events {
            tracker.take(event, &mut out);
        }
        let line = |observation| match observation {
            Observation::Present(value) => {
                assert_eq!(text(&value, &["kind"]), "Deployment");
                assert_eq!(value["metadata"].get("managedFields"), None);
                format!("present {}", text(&value, &["metadata", "name"]))
            }
            Observation::Gone(id) => format!("gone {}", id.name),
            Observation::Synced(_) => "synced".to_owned(),
            Observation::Trouble { .. } => "trouble".to_owned(),
        };
        out.into_iter().map(line).collect()
    }

    #[test]
    fn what_vanished_between_two_listings_is_gone() {
        let mut tracker = Tracker::new(scope());
        let first = vec![
            Event::Init,
            Event::InitApply(object("a")),
            Event::InitApply(object("b")),
            Event::InitDone,
            Event::Apply(object("c")),
            Event::Delete(object("a")),
        ];
        assert_eq!(
            told(&mut tracker, first),
            ["present a", "present b", "synced", "present c", "gone a"]
        );
        let second = vec![Event::Init, Event::InitApply(object("c")), Event::InitDone];
        assert_eq!(told(&mut tracker, second), ["present c", "gone b"]);
    }

    #[test]
    fn a_secret_is_told_by_its_metadata_with_owners_and_without_the_copy_of_its_values() {
        let gvk = Gvk::new("v1", "Secret");
        let mut tracker = Tracker::new(Scope { gvk, ..scope() });
        let mut secret = object("db");
        let copy = "kubectl.kubernetes.io/last-applied-configuration";
        let annotations = [(copy, "hunter2"), ("a", "b")];
        let texts = annotations.map(|(name, value)| (name.to_owned(), value.to_owned()));
        secret.metadata.annotations = Some(texts.into());
        let mut out = VecDeque::new();
        tracker.take(Event::Apply(secret), &mut out);
        let expected = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata":
            {"name": "db", "namespace": "flask", "managedFields": [], "annotations": {"a": "b"}}});
        assert_eq!(out, [Observation::Present(expected)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_of_a_watch_that_worked_is_believed_when_it_lasts() {
        let denied = |class| Observation::Trouble {
            gvk: scope().gvk,
            class,
            reason: "no".to_owned(),
        };
        let mut tracker = Tracker::new(scope());
        assert_eq!(tracker.doubt(denied(Class::Denied)), denied(Class::Denied));
        told(&mut tracker, vec![Event::Init, Event::InitDone]);
        let softened = denied(Class::Upstream);
        assert_eq!(tracker.doubt(denied(Class::Denied)), softened);
        tokio::time::advance(DOUBTED).await;
        assert_eq!(tracker.doubt(denied(Class::Denied)), denied(Class::Denied));
        told(&mut tracker, vec![Event::Init]);
        assert_eq!(tracker.doubt(denied(Class::Denied)), denied(Class::Denied));
        told(&mut tracker, vec![Event::InitDone]);
        assert_eq!(tracker.doubt(denied(Class::Denied)), softened);
    }
}
