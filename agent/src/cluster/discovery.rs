//! How kinds are served: asked per API version, kept for a while, asked again on a miss.
//!
//! Called by [`super::Kube`] and by watches. One request an API version, which also tells the truth
//! about aggregated APIs that are down (503). Discovery is done as the agent itself, so what it
//! tells is the same for all actors.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::Value;
use tokio::time::Instant;

use deploy::object::Gvk;
use deploy::object::Resource;
use deploy::object::list;
use deploy::object::text;
use deploy::ports::ClusterError;

use super::address;
use super::error;
use super::error::Doing;
use super::wire::As;
use super::wire::Keep;
use super::wire::Wire;

/// How long an answer is believed; a CRD's scope and plural hardly ever change.
const BELIEVED: Duration = Duration::from_secs(300);

/// How long it is believed that a kind is not there: only so long that the many objects of a run do
/// not each ask.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long a call waits for another one's look at the same API version.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of the kinds.
pub(super) struct Catalog {
    wire: Wire,
    versions: Mutex<HashMap<String, Known>>,
    /// One look an API version at a time: who comes later finds what it found.
    looking: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The kinds of one API version.
struct Known {
    seen: Instant,
    kinds: HashMap<String, Resource>,
}

/// What the memory says about a kind.
enum Memory {
    Served(Resource),
    Absent,
    Unsure,
}

impl Catalog {
    /// Makes an empty catalog.
    pub(super) fn new(wire: Wire) -> Self {
        Self {
            wire,
            versions: Mutex::default(),
            looking: Mutex::default(),
        }
    }

    /// Finds out how a kind is served.
    pub(super) async fn resource(&self, gvk: &Gvk) -> Result<Resource, ClusterError> {
        let unknown = || ClusterError::UnknownKind {
            kind: gvk.to_string(),
        };
        if let Memory::Served(resource) = self.recall(gvk) {
            return Ok(resource);
        }
        let look = self.look_at(gvk);
        // Whoever looks may be a watch that nobody polls just now: then this call looks by itself.
        let _alone = tokio::time::timeout(PATIENCE, look.lock()).await.ok();
        match self.recall(gvk) {
            Memory::Served(resource) => return Ok(resource),
            Memory::Absent => return Err(unknown()),
            Memory::Unsure => {}
        }
        let kinds = self.look(gvk).await?;
        let found = kinds.get(&gvk.kind).cloned();
        let known = Known {
            seen: Instant::now(),
            kinds,
        };
        self.versions().insert(gvk.api_version(), known);
        found.ok_or_else(unknown)
    }

    /// Forgets an API version after the server denied to know one of its kinds.
    pub(super) fn forget(&self, gvk: &Gvk) {
        self.versions().remove(&gvk.api_version());
    }

    /// The right to look at an API version. Kept for good: a cluster has few of them.
    fn look_at(&self, gvk: &Gvk) -> Arc<tokio::sync::Mutex<()>> {
        let mut looking = self
            .looking
            .lock()
            .expect("no code that holds this lock can panic");
        Arc::clone(looking.entry(gvk.api_version()).or_default())
    }

    fn recall(&self, gvk: &Gvk) -> Memory {
        let versions = self.versions();
        let Some(known) = versions.get(&gvk.api_version()) else {
            return Memory::Unsure;
        };
        match known.kinds.get(&gvk.kind) {
            Some(resource) if known.seen.elapsed() < BELIEVED => Memory::Served(resource.clone()),
            None if known.seen.elapsed() < LOOK_AGAIN => Memory::Absent,
            Some(_) | None => Memory::Unsure,
        }
    }

    async fn look(&self, gvk: &Gvk) -> Result<HashMap<String, Resource>, ClusterError> {
        let doing = Doing::read("discover", gvk.to_string());
        let Some(path) = address::version(gvk) else {
            return Ok(HashMap::new());
        };
        let answer = self
            .wire
            .send(As::Agent, Request::get(path), Bytes::new(), Keep::All)
            .await
            .map_err(|fault| error::fault(fault, &doing))?;
        if answer.status == 404 {
            return Ok(HashMap::new());
        }
        if !answer.is_success() {
            return Err(error::refused(&answer, &doing));
        }
        let listing: Value =
            serde_json::from_slice(&answer.body).map_err(|_quotes| error::garbled(&doing))?;
        Ok(kinds(&listing, gvk))
    }

    fn versions(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.versions
            .lock()
            .expect("no code that holds this lock can panic")
    }
}

/// Reads an `APIResourceList`; subresources have a slash in their names.
fn kinds(listing: &Value, gvk: &Gvk) -> HashMap<String, Resource> {
    list(listing, &["resources"])
        .iter()
        .filter(|entry| !text(entry, &["name"]).contains('/'))
        .map(|entry| {
            let kind = text(entry, &["kind"]).to_owned();
            let resource = Resource {
                gvk: Gvk {
                    kind: kind.clone(),
                    ..gvk.clone()
                },
                plural: text(entry, &["name"]).to_owned(),
                namespaced: entry.get("namespaced").and_then(Value::as_bool) == Some(true),
            };
            (kind, resource)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn a_miss_is_believed_for_a_moment_and_a_kind_for_long() {
        let url = "http://127.0.0.1:9".parse().expect("a valid URL");
        let client = kube::Client::try_from(kube::Config::new(url)).expect("a plain client");
        let catalog = Catalog::new(Wire::new(client, Duration::from_secs(1)));
        let gvk = |kind| Gvk::new("apps/v1", kind);
        let listing = json!({"resources": [{"name": "things", "kind": "Thing"}]});
        let known = Known {
            seen: Instant::now(),
            kinds: kinds(&listing, &gvk("Thing")),
        };
        catalog.versions().insert("apps/v1".to_owned(), known);
        let (there, gone) = (gvk("Thing"), gvk("Other"));
        assert!(matches!(catalog.recall(&there), Memory::Served(_)));
        assert!(matches!(catalog.recall(&gone), Memory::Absent));
        tokio::time::advance(LOOK_AGAIN).await;
        assert!(matches!(catalog.recall(&there), Memory::Served(_)));
        assert!(matches!(catalog.recall(&gone), Memory::Unsure));
        tokio::time::advance(BELIEVED).await;
        assert!(matches!(catalog.recall(&there), Memory::Unsure));
        catalog.forget(&there);
        assert!(matches!(catalog.recall(&gone), Memory::Unsure));
    }

    #[test]
    fn subresources_are_no_kinds_of_their_own() {
        let listing = json!({"resources": [
            {"name": "deployments", "kind": "Deployment", "namespaced": true},
            {"name": "deployments/scale", "kind": "Scale", "namespaced": true},
            {"name": "things", "kind": "Thing", "namespaced": false},
        ]});
        let found = kinds(&listing, &Gvk::new("apps/v1", "Deployment"));
        assert_eq!(found.len(), 2);
        assert_eq!(found["Deployment"].plural, "deployments");
        assert_eq!(found["Thing"].gvk, Gvk::new("apps/v1", "Thing"));
        assert!(found["Deployment"].namespaced && !found["Thing"].namespaced);
    }
}
