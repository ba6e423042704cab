//! How the cluster in memory answers the calls of the port.
//!
//! Called through [`crate::ports::Cluster`]; the state and what a test does to it are in [`super`].

use super::super::lock;
use super::FakeCluster;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::Resource;
use crate::object::text;
use crate::ports::Access;
use crate::ports::Cluster;
use crate::ports::ClusterError;
use crate::ports::Deletion;
use crate::ports::Force;
use crate::ports::LogRequest;
use crate::ports::Observation;
use crate::ports::Payload;
use crate::ports::Scope;
use crate::ports::SecretView;
use crate::ports::Write;
use crate::principal::Actor;
use crate::secret::Secret;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::Value;
use std::collections::BTreeMap;

impl Cluster for FakeCluster {
    fn resource<'a>(&'a self, gvk: &'a Gvk) -> BoxFuture<'a, Result<Resource, ClusterError>> {
        async {
            let namespaced = !matches!(
                gvk.kind.as_str(),
                "Namespace" | "CustomResourceDefinition" | "ClusterRole"
            );
            if gvk.kind.starts_with("Unknown") {
                return Err(ClusterError::UnknownKind {
                    kind: gvk.to_string(),
                });
            }
            Ok(Resource {
                gvk: gvk.clone(),
                plural: format!("{}s", gvk.kind.to_lowercase()),
                namespaced,
            })
        }
        .boxed()
    }

    fn may<'a>(
        &'a self,
        _: &'a Actor,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<Result<(), String>, ClusterError>> {
        let denied = lock(&self.inner)
            .denied
            .contains(&(access.verb, access.resource.clone()));
        async move {
            self.travel().await;
            Ok(if denied { Err(String::new()) } else { Ok(()) })
        }
        .boxed()
    }

    fn get<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<Value>, ClusterError>> {
        async {
            self.reach(id).await?;
            Ok(self.object(id))
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        _: &'a Actor,
        gvk: &'a Gvk,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Value>, ClusterError>> {
        async move {
            self.travel().await;
            let inner = self.listable(&format!("{}s", gvk.kind.to_lowercase()))?;
            let objects = inner.objects.iter();
            Ok(objects
                .filter(|(id, _)| id.gvk == *gvk && id.namespace.as_deref() == namespace)
                .map(|(_, body)| body.clone())
                .collect())
        }
        .boxed()
    }

    fn secret<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<SecretView>, ClusterError>> {
        async {
            self.reach(id).await?;
            Ok(self.view(&lock(&self.inner), id))
        }
        .boxed()
    }

    fn values<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, Secret>>, ClusterError>> {
        async move {
            let inner = lock(&self.inner);
            let data = inner.secrets.get(id);
            Ok(data.map(|data| {
                let values = data.iter();
                values
                    .map(|(key, value)| (key.clone(), Secret::new(value.clone())))
                    .collect()
            }))
        }
        .boxed()
    }

    fn secrets<'a>(
        &'a self,
        _: &'a Actor,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<BTreeMap<String, SecretView>, ClusterError>> {
        async move {
            self.travel().await;
            let inner = self.listable("secrets")?;
            let ids = inner.secrets.keys();
            Ok(ids
                .filter(|id| id.namespace.as_deref() == Some(namespace))
                .filter_map(|id| Some((id.name.clone(), self.view(&inner, id)?)))
                .collect())
        }
        .boxed()
    }

    fn apply<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
        payload: Payload<'a>,
        write: Write,
        force: Force,
    ) -> BoxFuture<'a, Result<(AppliedObject, Value), ClusterError>> {
        async move {
            self.travel().await;
            if write == Write::DryRun {
                return self.apply_now(id, &payload, write, force);
            }
            self.moment().await;
            let written = self.apply_now(id, &payload, write, force);
            self.moment().await;
            written
        }
        .boxed()
    }

    fn create<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        async move {
            self.travel().await;
            if self.object(id).is_some() {
                return Err(ClusterError::Exists {
                    object: id.to_string(),
                });
            }
            self.moment().await;
            let written = self.put(id, body.clone(), format!("uid-{}", id.name));
            self.moment().await;
            written
        }
        .boxed()
    }

    fn replace<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        async move {
            self.travel().await;
            let Some(before) = self.object(id) else {
                return Err(ClusterError::Missing {
                    object: id.to_string(),
                });
            };
            let version = |body: &Value| text(body, &["metadata", "resourceVersion"]).to_owned();
            if version(&before) != version(body) {
                return Err(ClusterError::Raced {
                    object: id.to_string(),
                });
            }
            let uid = text(&before, &["metadata", "uid"]).to_owned();
            self.moment().await;
            let written = self.put(id, body.clone(), uid);
            self.moment().await;
            written
        }
        .boxed()
    }

    fn patch<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
        patch: &'a Value,
        write: Write,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        async move {
            self.travel().await;
            let Some(mut body) = self.object(id) else {
                return Err(ClusterError::Missing {
                    object: id.to_string(),
                });
            };
            for operation in patch.as_array().into_iter().flatten() {
                let value = operation["value"].clone();
                let path = text(operation, &["path"]);
                if text(operation, &["op"]) == "add" && add(&mut body, path, &value) {
                    continue;
                }
                let place = body.pointer_mut(path);
                match (text(operation, &["op"]), place) {
                    ("test", Some(place)) if *place == value => {}
                    ("replace", Some(place)) => *place = value,
                    _ => {
                        return Err(ClusterError::Raced {
                            object: id.to_string(),
                        });
                    }
                }
            }
            match write {
                Write::DryRun => Ok(body),
                Write::Commit => {
                    let uid = text(&body, &["metadata", "uid"]).to_owned();
                    self.put(id, body, uid)
                }
            }
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        _: &'a Actor,
        id: &'a ObjectId,
        deletion: &'a Deletion,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        async move {
            self.travel().await;
            let mut inner = lock(&self.inner);
            let Some(before) = inner.objects.get(id) else {
                return Ok(());
            };
            if text(before, &["metadata", "uid"]) != deletion.uid {
                return Err(ClusterError::Raced {
                    object: id.to_string(),
                });
            }
            if deletion.write == Write::Commit {
                inner.objects.remove(id);
                inner.secrets.remove(id);
                inner.writes.push(format!("delete {id}"));
                drop(inner);
                let gone = Observation::Gone(id.clone());
                let _unheard = self.changes.send((id.gvk.clone(), gone));
            }
            Ok(())
        }
        .boxed()
    }

    fn observe(&self, _: &Actor, scopes: Vec<Scope>) -> BoxStream<'static, Observation> {
        let changes = self.changes.subscribe();
        let inner = lock(&self.inner);
        let distance = inner.distance;
        let matches = |scope: &Scope, id: &ObjectId| {
            scope.gvk == id.gvk
                && scope.namespace == id.namespace
                && scope.name.as_ref().is_none_or(|name| *name == id.name)
        };
        let mut first = Vec::new();
        for scope in &scopes {
            first.extend(
                inner
                    .objects
                    .iter()
                    .filter(|(id, _)| matches(scope, id))
                    .map(|(_, body)| Observation::Present(body.clone())),
            );
            first.push(Observation::Synced(scope.gvk.clone()));
        }
        drop(inner);
        let later = futures::stream::unfold((changes, scopes), async |(mut changes, scopes)| {
            loop {
                let (gvk, observation) = changes.recv().await.ok()?;
                if scopes.iter().any(|scope| scope.gvk == gvk) {
                    return Some((observation, (changes, scopes)));
                }
            }
        });
        let listed = async move {
            if !distance.is_zero() {
                tokio::time::sleep(distance).await;
            }
            futures::stream::iter(first)
        };
        futures::stream::once(listed).flatten().chain(later).boxed()
    }

    fn log<'a>(
        &'a self,
        _: &'a Actor,
        request: &'a LogRequest,
    ) -> BoxFuture<'a, Result<String, ClusterError>> {
        async {
            Ok(lock(&self.inner)
                .logs
                .get(&request.container)
                .cloned()
                .unwrap_or_default())
        }
        .boxed()
    }
}

/// Puts a member into a mapping; says whether the mapping is there.
fn add(body: &mut Value, path: &str, value: &Value) -> bool {
    let Some((parent, name)) = path.rsplit_once('/') else {
        return false;
    };
    let name = name.replace("~1", "/").replace("~0", "~");
    let mapping = body.pointer_mut(parent).and_then(Value::as_object_mut);
    mapping.is_some_and(|mapping| {
        mapping.insert(name, value.clone());
        true
    })
}
