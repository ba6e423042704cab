//! The `Cluster` port on a real Kubernetes API server.
//!
//! Made by `app`, one a cluster; called by the engine through the port. Invariants: everything that
//! concerns objects is done as the run's actor, by impersonation; only discovery and health are the
//! agent's own. One call is one request, bounded in time and never repeated here. Secret values
//! leave only inside the body of an apply and never come back.

mod access;
mod address;
mod causes;
mod discovery;
mod error;
mod objects;
mod observe;
mod setup;
mod tracker;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::Request;
use serde_json::Value;

use deploy::object::AppliedObject;
use deploy::object::Gvk;
use deploy::object::ObjectId;
use deploy::object::Resource;
use deploy::ports::Access;
use deploy::ports::Cluster;
use deploy::ports::ClusterError;
use deploy::ports::LogRequest;
use deploy::ports::Observation;
use deploy::ports::Payload;
use deploy::ports::Scope;
use deploy::ports::Write;
use deploy::principal::Actor;
use deploy::secret::Fingerprint;
use deploy::secret::FingerprintKey;

use self::discovery::Catalog;
use self::error::Doing;
use self::error::Effect;
use self::observe::Observer;
pub use self::setup::ClusterSettings;
pub use self::setup::ClusterSetupError;
use self::wire::Answer;
use self::wire::As;
use self::wire::Keep;
use self::wire::Wire;

/// The end of a log that is kept.
const LOG_LIMIT: usize = 64 << 10;

/// The field manager, and how the server shall treat the patch.
const APPLY: &str = "fieldManager=quaymaster&fieldValidation=Strict&force=false";

/// A Kubernetes cluster behind its API server.
pub struct Kube {
    name: String,
    wire: Wire,
    catalog: Arc<Catalog>,
    fingerprint_key: Arc<FingerprintKey>,
}

impl Kube {
    /// Makes the adapter; nothing is sent, so a server that is down is no error.
    ///
    /// # Errors
    /// Says what is wrong with the kubeconfig.
    pub async fn connect(settings: ClusterSettings) -> Result<Self, ClusterSetupError> {
        let wire = Wire::new(setup::client(&settings).await?, settings.timeout);
        Ok(Self {
            catalog: Arc::new(Catalog::new(wire.clone())),
            name: settings.name,
            wire,
            fingerprint_key: settings.fingerprint_key,
        })
    }

    /// Returns the name under which rules and specs know the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says whether the API server can serve.
    ///
    /// # Errors
    /// Says in words what is wrong.
    pub async fn health(&self) -> Result<(), String> {
        let doing = Doing::read("reach", "the API server".to_owned());
        let request = Request::get("/readyz");
        let answer = self.send(As::Agent, request, Bytes::new(), &doing).await;
        match answer {
            Ok(answer) if answer.is_success() => Ok(()),
            Ok(answer) => Err(format!("status {}", answer.status)),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn send(
        &self,
        who: As<'_>,
        request: http::request::Builder,
        body: Bytes,
        doing: &Doing,
    ) -> Result<Answer, ClusterError> {
        let sent = self.wire.send(who, request, body, Keep::All).await;
        sent.map_err(|fault| error::fault(fault, doing))
    }

    async fn address(&self, id: &ObjectId) -> Result<String, ClusterError> {
        let resource = self.catalog.resource(&id.gvk).await?;
        address::object(&resource, id.namespace.as_deref(), &id.name).ok_or_else(|| {
            let scope = if resource.namespaced { "a" } else { "no" };
            ClusterError::Invalid {
                object: id.to_string(),
                causes: vec![format!(
                    "metadata: needs a valid name and {scope} namespace for this kind"
                )],
            }
        })
    }

    /// Reads an object's body; `None` where it is plainly absent.
    async fn fetch(&self, actor: &Actor, id: &ObjectId) -> Result<Option<Vec<u8>>, ClusterError> {
        let doing = Doing::to("get", id, Effect::Read);
        let request = Request::get(self.address(id).await?);
        let answer = self
            .send(As::Actor(actor), request, Bytes::new(), &doing)
            .await?;
        if answer.is_success() {
            return Ok(Some(answer.body));
        }
        if error::is_plainly_absent(&answer) {
            return Ok(None);
        }
        Err(self.refused(&answer, &doing, &id.gvk))
    }

    fn refused(&self, answer: &Answer, doing: &Doing, gvk: &Gvk) -> ClusterError {
        let error = error::refused(answer, doing);
        if let ClusterError::UnknownKind { .. } = error {
            self.catalog.forget(gvk);
        }
        error
    }

    async fn write(
        &self,
        actor: &Actor,
        id: &ObjectId,
        payload: Payload<'_>,
        write: Write,
    ) -> Result<(AppliedObject, Value), ClusterError> {
        let doing = Doing::to("patch", id, Effect::Write);
        let path = self.address(id).await?;
        let uri = match write {
            Write::DryRun => format!("{path}?{APPLY}&dryRun=All"),
            Write::Commit => format!("{path}?{APPLY}"),
        };
        let request = Request::patch(uri)
            .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
            .header(http::header::ACCEPT, "application/json");
        let body = objects::body(&payload).map_err(|_no_detail| ClusterError::Unexpected {
            reason: format!("{id} cannot be written as JSON"),
        })?;
        let answer = self.send(As::Actor(actor), request, body, &doing).await?;
        if !answer.is_success() {
            return Err(self.refused(&answer, &doing, &id.gvk));
        }
        let object = objects::parsed(answer.body, &id.gvk);
        Ok(objects::applied(
            id,
            object.ok_or_else(|| error::garbled(&doing))?,
        ))
    }

    async fn review(
        &self,
        actor: &Actor,
        access: &Access,
    ) -> Result<Result<(), String>, ClusterError> {
        let doing = Doing::read("review", format!("the right to {}", access::right(access)));
        let request = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
            .header(http::header::CONTENT_TYPE, "application/json");
        let body = Bytes::from(access::question(access).to_string());
        let answer = self.send(As::Actor(actor), request, body, &doing).await?;
        if !answer.is_success() {
            return Err(error::refused(&answer, &doing));
        }
        let review: Value =
            serde_json::from_slice(&answer.body).map_err(|_quotes| error::garbled(&doing))?;
        Ok(access::verdict(&review, actor, access))
    }

    async fn tail(&self, actor: &Actor, request: &LogRequest) -> Result<String, ClusterError> {
        let LogRequest {
            namespace,
            pod,
            container,
            previous,
            lines,
        } = request;
        let what = format!("the log of {namespace}/{pod} container {container}");
        let doing = Doing::read("get", what);
        let segments = (
            address::segment(namespace),
            address::segment(pod),
            address::segment(container),
        );
        let (Some(namespace), Some(pod), Some(container)) = segments else {
            return Err(ClusterError::Missing {
                object: doing.object,
            });
        };
        let uri = format!(
            "/api/v1/namespaces/{namespace}/pods/{pod}/log\
             ?container={container}&previous={previous}&tailLines={lines}"
        );
        let request = Request::get(uri);
        let keep = Keep::Tail(LOG_LIMIT);
        let sent = self
            .wire
            .send(As::Actor(actor), request, Bytes::new(), keep);
        let answer = sent.await.map_err(|fault| error::fault(fault, &doing))?;
        match answer.status {
            200..=299 => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
            // The container has not started, or has no previous instance.
            400 | 404 => Err(ClusterError::Missing {
                object: doing.object,
            }),
            _ => Err(error::refused(&answer, &doing)),
        }
    }
}

impl Cluster for Kube {
    fn resource<'a>(&'a self, gvk: &'a Gvk) -> BoxFuture<'a, Result<Resource, ClusterError>> {
        self.catalog.resource(gvk).boxed()
    }

    fn may<'a>(
        &'a self,
        actor: &'a Actor,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<Result<(), String>, ClusterError>> {
        self.review(actor, access).boxed()
    }

    fn get<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<Value>, ClusterError>> {
        async move {
            if objects::is_secret(&id.gvk) {
                return Err(ClusterError::Unexpected {
                    reason: "a Secret is read by its fingerprints only".to_owned(),
                });
            }
            let Some(body) = self.fetch(actor, id).await? else {
                return Ok(None);
            };
            let doing = Doing::to("get", id, Effect::Read);
            let object = objects::parsed(body, &id.gvk);
            let mut object = object.ok_or_else(|| error::garbled(&doing))?;
            objects::strip(&mut object, &id.gvk);
            Ok(Some(object))
        }
        .boxed()
    }

    fn fingerprints<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, Fingerprint>>, ClusterError>> {
        async move {
            let Some(body) = self.fetch(actor, id).await? else {
                return Ok(None);
            };
            let doing = Doing::to("get", id, Effect::Read);
            objects::fingerprints(body, &self.fingerprint_key)
                .map(Some)
                .ok_or_else(|| error::garbled(&doing))
        }
        .boxed()
    }

    fn apply<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        payload: Payload<'a>,
        write: Write,
    ) -> BoxFuture<'a, Result<(AppliedObject, Value), ClusterError>> {
        self.write(actor, id, payload, write).boxed()
    }

    fn observe(&self, actor: &Actor, scopes: Vec<Scope>) -> BoxStream<'static, Observation> {
        let observer = Observer {
            wire: self.wire.clone(),
            catalog: Arc::clone(&self.catalog),
            actor: actor.clone(),
        };
        observe::observe(observer, scopes)
    }

    fn log<'a>(
        &'a self,
        actor: &'a Actor,
        request: &'a LogRequest,
    ) -> BoxFuture<'a, Result<String, ClusterError>> {
        self.tail(actor, request).boxed()
    }
}
