//! Writing: server-side apply, the agent's own bookkeeping, ownership patches, deletion.
//!
//! Called by [`super::Kube`] only. Each call is one request as the actor. What a write may meet is
//! told apart here: an object that is there already, one that changed meanwhile, one that is gone.

use bytes::Bytes;
use http::Request;
use http::header;
use serde_json::Value;
use serde_json::json;

use deploy::object::AppliedObject;
use deploy::object::ObjectId;
use deploy::ports::ClusterError;
use deploy::ports::Deletion;
use deploy::ports::Dependents;
use deploy::ports::Force;
use deploy::ports::Payload;
use deploy::ports::Write;
use deploy::principal::Actor;

use super::Kube;
use super::error;
use super::error::Doing;
use super::error::Effect;
use super::objects;
use super::wire::Answer;
use super::wire::As;

/// The field manager, and how strictly the server reads.
const OURS: &str = "fieldManager=quaymaster&fieldValidation=Strict";

const JSON: &str = "application/json";

impl Kube {
    /// Applies server-side.
    pub(super) async fn write_applied(
        &self,
        actor: &Actor,
        id: &ObjectId,
        payload: Payload<'_>,
        write: Write,
        force: Force,
    ) -> Result<(AppliedObject, Value), ClusterError> {
        let doing = Doing::to("patch", id, Effect::Write);
        let path = self.address(id).await?;
        let force = match force {
            Force::No => "false",
            Force::Take => "true",
        };
        let uri = format!("{path}?{OURS}&force={force}{}", dry(write));
        let request = Request::patch(uri)
            .header(header::CONTENT_TYPE, "application/apply-patch+yaml")
            .header(header::ACCEPT, JSON);
        let body = objects::body(&payload).map_err(|_no_detail| ClusterError::Unexpected {
            reason: format!("{id} cannot be written as JSON"),
        })?;
        let answer = self.send(As::Actor(actor), request, body, &doing).await?;
        if !answer.is_success() {
            let refused = self.refused(&answer, &doing, &id.gvk);
            let bound = match payload {
                Payload::Object(body) | Payload::Secret { body, .. } => version(body),
            };
            // Bound to a version that is no longer there: it must not be sent again as it is.
            return Err(match refused {
                ClusterError::Unavailable { .. } if answer.status == 409 && !bound.is_empty() => {
                    ClusterError::Raced {
                        object: doing.object,
                    }
                }
                other => other,
            });
        }
        let object = objects::parsed(answer.body, &id.gvk);
        Ok(objects::applied(
            id,
            object.ok_or_else(|| error::garbled(&doing))?,
        ))
    }

    /// Creates an object.
    pub(super) async fn write_new(
        &self,
        actor: &Actor,
        id: &ObjectId,
        body: &Value,
    ) -> Result<Value, ClusterError> {
        let doing = Doing::to("create", id, Effect::Write);
        let path = self.address(id).await?;
        // The path of an object ends with its name; that of its kind does not.
        let kind = path
            .rsplit_once('/')
            .map_or(path.as_str(), |(kind, _)| kind);
        let request = Request::post(format!("{kind}?{OURS}")).header(header::CONTENT_TYPE, JSON);
        let answer = self
            .send(As::Actor(actor), request, text(body), &doing)
            .await?;
        if answer.status == 409 && error::reason(&answer) == "AlreadyExists" {
            return Err(ClusterError::Exists {
                object: doing.object,
            });
        }
        self.written(answer, &doing, id)
    }

    /// Replaces an object in the version that the body names.
    pub(super) async fn write_over(
        &self,
        actor: &Actor,
        id: &ObjectId,
        body: &Value,
    ) -> Result<Value, ClusterError> {
        let doing = Doing::to("update", id, Effect::Write);
        let path = self.address(id).await?;
        let request = Request::put(format!("{path}?{OURS}")).header(header::CONTENT_TYPE, JSON);
        let answer = self
            .send(As::Actor(actor), request, text(body), &doing)
            .await?;
        if answer.status == 409 {
            return Err(ClusterError::Raced {
                object: doing.object,
            });
        }
        self.written(answer, &doing, id)
    }

    /// Changes single fields.
    pub(super) async fn write_patch(
        &self,
        actor: &Actor,
        id: &ObjectId,
        patch: &Value,
        write: Write,
    ) -> Result<Value, ClusterError> {
        let doing = Doing::to("patch", id, Effect::Write);
        let path = self.address(id).await?;
        let request = Request::patch(format!("{path}?{OURS}{}", dry(write)))
            .header(header::CONTENT_TYPE, "application/json-patch+json")
            .header(header::ACCEPT, JSON);
        let answer = self
            .send(As::Actor(actor), request, text(patch), &doing)
            .await?;
        if answer.status == 409 || error::is_failed_test(&answer) {
            return Err(ClusterError::Raced {
                object: doing.object,
            });
        }
        self.written(answer, &doing, id)
    }

    /// Begins to delete an object.
    pub(super) async fn remove(
        &self,
        actor: &Actor,
        id: &ObjectId,
        deletion: &Deletion,
    ) -> Result<(), ClusterError> {
        let doing = Doing::to("delete", id, Effect::Write);
        let request = Request::delete(self.address(id).await?).header(header::CONTENT_TYPE, JSON);
        let mut options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": { "uid": deletion.uid },
            "propagationPolicy": match deletion.dependents {
                Dependents::Background => "Background",
                Dependents::Orphan => "Orphan",
            },
        });
        if deletion.write == Write::DryRun {
            options["dryRun"] = json!(["All"]);
        }
        let answer = self
            .send(As::Actor(actor), request, text(&options), &doing)
            .await?;
        if answer.is_success() || error::is_plainly_absent(&answer) {
            return Ok(());
        }
        if answer.status == 409 {
            return Err(ClusterError::Raced {
                object: doing.object,
            });
        }
        Err(self.refused(&answer, &doing, &id.gvk))
    }

    fn written(&self, answer: Answer, doing: &Doing, id: &ObjectId) -> Result<Value, ClusterError> {
        if !answer.is_success() {
            return Err(self.refused(&answer, doing, &id.gvk));
        }
        objects::parsed(answer.body, &id.gvk).ok_or_else(|| error::garbled(doing))
    }
}

fn version(body: &Value) -> &str {
    deploy::object::text(body, &["metadata", "resourceVersion"])
}

fn dry(write: Write) -> &'static str {
    match write {
        Write::DryRun => "&dryRun=All",
        Write::Commit => "",
    }
}

fn text(body: &Value) -> Bytes {
    Bytes::from(body.to_string())
}
