//! The `Cluster` port on a real Kubernetes API server.
//!
//! Made by `app`, one a cluster; called by the engine through the port. Invariants: everything that
//! concerns objects is done as the run's actor, by impersonation; only discovery and health are the
//! agent's own. One call is one request, bounded in time and never repeated here. Secret values
//! leave only inside the body of an apply, and come back only as fingerprints or, where a caller has
//! to put the same ones back, in the redacted type; watches of Secrets see metadata only.

mod access;
mod address;
mod causes;
mod discovery;
mod error;
mod objects;
mod observe;
mod read;
mod rights;
mod setup;
mod tracker;
mod wire;
mod write;

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
use deploy::ports::Deletion;
use deploy::ports::Force;
use deploy::ports::LogRequest;
use deploy::ports::Observation;
use deploy::ports::Payload;
use deploy::ports::Scope;
use deploy::ports::SecretView;
use deploy::ports::Write;
use deploy::principal::Actor;
use deploy::secret::FingerprintKey;
use deploy::secret::Secret;

use self::discovery::Catalog;
use self::error::Doing;
use self::observe::Observer;
use self::rights::Rights;
use self::rights::Rules;
pub use self::setup::ClusterSettings;
pub use self::setup::ClusterSetupError;
use self::wire::Answer;
use self::wire::As;
use self::wire::Fault;
use self::wire::Keep;
use self::wire::Wire;

/// The end of a log that is kept.
const LOG_LIMIT: usize = 64 << 10;

/// A Kubernetes cluster behind its API server.
pub struct Kube {
    name: String,
    wire: Wire,
    catalog: Arc<Catalog>,
    rights: Rights,
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
            rights: Rights::default(),
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

    fn refused(&self, answer: &Answer, doing: &Doing, gvk: &Gvk) -> ClusterError {
        let error = error::refused(answer, doing);
        if let ClusterError::UnknownKind { .. } = error {
            self.catalog.forget(gvk);
        }
        error
    }

    async fn review(
        &self,
        actor: &Actor,
        access: &Access,
    ) -> Result<Result<(), String>, ClusterError> {
        if let Some(namespace) = &access.namespace {
            let told = self.rights.of(actor, namespace);
            let rules = told.get_or_try_init(|| self.rules(actor, namespace));
            if rules.await?.grant(access) {
                return Ok(Ok(()));
            }
        }
        let doing = Doing::read("review", format!("the right to {}", access::right(access)));
        let question = access::question(access);
        let answer = self.ask(actor, "access", &question, &doing).await?;
        if !answer.is_success() {
            return Err(error::refused(&answer, &doing));
        }
        let review: Value =
            serde_json::from_slice(&answer.body).map_err(|_quotes| error::garbled(&doing))?;
        let verdict = access::verdict(&review, actor, access);
        if verdict.is_err() && self.wire.doubts_denials().await {
            return Err(error::fault(Fault::young(), &doing));
        }
        Ok(verdict)
    }

    /// Lists an actor's rights; none where the server does not tell them.
    async fn rules(&self, actor: &Actor, namespace: &str) -> Result<Rules, ClusterError> {
        let doing = Doing::read("review", format!("the rights in {namespace}"));
        let question = rights::question(namespace);
        let answer = self.ask(actor, "rules", &question, &doing).await?;
        let review = answer
            .is_success()
            .then(|| serde_json::from_slice(&answer.body).ok());
        Ok(review
            .flatten()
            .map_or_else(Rules::default, |review| Rules::read(&review)))
    }

    /// Asks for a review of the actor's own rights.
    async fn ask(
        &self,
        actor: &Actor,
        kind: &str,
        question: &Value,
        doing: &Doing,
    ) -> Result<Answer, ClusterError> {
        let path = format!("/apis/authorization.k8s.io/v1/selfsubject{kind}reviews");
        let request = Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
        let body = Bytes::from(question.to_string());
        self.send(As::Actor(actor), request, body, doing).await
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
        self.read(actor, id).boxed()
    }

    fn list<'a>(
        &'a self,
        actor: &'a Actor,
        gvk: &'a Gvk,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Value>, ClusterError>> {
        self.read_all(actor, gvk, namespace).boxed()
    }

    fn secret<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<SecretView>, ClusterError>> {
        self.read_secret(actor, id).boxed()
    }

    fn values<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, Secret>>, ClusterError>> {
        self.read_values(actor, id).boxed()
    }

    fn secrets<'a>(
        &'a self,
        actor: &'a Actor,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<BTreeMap<String, SecretView>, ClusterError>> {
        self.read_secrets(actor, namespace).boxed()
    }

    fn apply<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        payload: Payload<'a>,
        write: Write,
        force: Force,
    ) -> BoxFuture<'a, Result<(AppliedObject, Value), ClusterError>> {
        self.write_applied(actor, id, payload, write, force).boxed()
    }

    fn create<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        self.write_new(actor, id, body).boxed()
    }

    fn replace<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        self.write_over(actor, id, body).boxed()
    }

    fn patch<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        patch: &'a Value,
        write: Write,
    ) -> BoxFuture<'a, Result<Value, ClusterError>> {
        self.write_patch(actor, id, patch, write).boxed()
    }

    fn delete<'a>(
        &'a self,
        actor: &'a Actor,
        id: &'a ObjectId,
        deletion: &'a Deletion,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        self.remove(actor, id, deletion).boxed()
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
