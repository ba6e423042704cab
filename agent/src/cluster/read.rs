//! Reading objects and Secrets, one by one or all of a kind.
//!
//! Called by [`super::Kube`] only. Each call is one GET as the actor. Values of Secrets become
//! fingerprints while the answer is parsed and go no further, but for [`Kube::read_values`], which
//! hands them on in the redacted type.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use deploy::object::Gvk;
use deploy::object::ObjectId;
use deploy::ports::ClusterError;
use deploy::ports::SecretView;
use deploy::principal::Actor;
use deploy::secret::Secret;

use super::Kube;
use super::address;
use super::error;
use super::error::Doing;
use super::error::Effect;
use super::objects;
use super::objects::Page;
use super::wire::As;

/// Objects of one page: bounds the memory of an answer, and is a round trip a thousand small objects
/// can afford.
const PAGE: usize = 500;

impl Kube {
    /// Finds the path of an object.
    pub(super) async fn address(&self, id: &ObjectId) -> Result<String, ClusterError> {
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

    /// Reads an object.
    pub(super) async fn read(
        &self,
        actor: &Actor,
        id: &ObjectId,
    ) -> Result<Option<Value>, ClusterError> {
        not_secret(&id.gvk)?;
        let Some(body) = self.fetch(actor, id).await? else {
            return Ok(None);
        };
        let doing = Doing::to("get", id, Effect::Read);
        let object = objects::parsed(body, &id.gvk);
        object.map(Some).ok_or_else(|| error::garbled(&doing))
    }

    /// Reads a Secret.
    pub(super) async fn read_secret(
        &self,
        actor: &Actor,
        id: &ObjectId,
    ) -> Result<Option<SecretView>, ClusterError> {
        let Some(body) = self.fetch(actor, id).await? else {
            return Ok(None);
        };
        let doing = Doing::to("get", id, Effect::Read);
        objects::secret(body, &self.fingerprint_key)
            .map(Some)
            .ok_or_else(|| error::garbled(&doing))
    }

    /// Reads the values of a Secret.
    pub(super) async fn read_values(
        &self,
        actor: &Actor,
        id: &ObjectId,
    ) -> Result<Option<BTreeMap<String, Secret>>, ClusterError> {
        let doing = Doing::to("get", id, Effect::Read);
        if !objects::is_secret(&id.gvk) {
            return Err(ClusterError::Unexpected {
                reason: format!("{id} is not a Secret"),
            });
        }
        let Some(body) = self.fetch(actor, id).await? else {
            return Ok(None);
        };
        objects::values(body)
            .map(Some)
            .ok_or_else(|| error::garbled(&doing))
    }

    /// Reads all objects of a kind.
    pub(super) async fn read_all(
        &self,
        actor: &Actor,
        gvk: &Gvk,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, ClusterError> {
        not_secret(gvk)?;
        let mut all = Vec::new();
        let mut page = Page::First;
        while let Some((body, doing)) = self.fetch_page(actor, gvk, namespace, &page).await? {
            let (items, next) =
                objects::listed(&body, gvk).ok_or_else(|| error::garbled(&doing))?;
            all.extend(items);
            page = next;
        }
        Ok(all)
    }

    /// Reads all Secrets of a namespace.
    pub(super) async fn read_secrets(
        &self,
        actor: &Actor,
        namespace: &str,
    ) -> Result<BTreeMap<String, SecretView>, ClusterError> {
        let gvk = Gvk::new("v1", "Secret");
        let mut all = BTreeMap::new();
        let mut page = Page::First;
        while let Some((body, doing)) = self.fetch_page(actor, &gvk, Some(namespace), &page).await?
        {
            let (views, next) = objects::secrets(body, &self.fingerprint_key)
                .ok_or_else(|| error::garbled(&doing))?;
            all.extend(views);
            page = next;
        }
        Ok(all)
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

    /// Reads a page of a listing; `None` behind the last.
    async fn fetch_page(
        &self,
        actor: &Actor,
        gvk: &Gvk,
        namespace: Option<&str>,
        page: &Page,
    ) -> Result<Option<(Vec<u8>, Doing)>, ClusterError> {
        let next = match page {
            Page::First => String::new(),
            Page::After(token) => format!("&continue={}", address::query(token)),
            Page::None => return Ok(None),
        };
        let place = namespace.map_or_else(String::new, |name| format!(" in {name}"));
        let doing = Doing::read("list", format!("{gvk}{place}"));
        let resource = self.catalog.resource(gvk).await?;
        let path = address::collection(&resource, namespace);
        let path = path.ok_or_else(|| ClusterError::Invalid {
            object: doing.object.clone(),
            causes: vec!["the namespace does not fit the kind's scope".to_owned()],
        })?;
        let request = Request::get(format!("{path}?limit={PAGE}{next}"));
        let answer = self
            .send(As::Actor(actor), request, Bytes::new(), &doing)
            .await?;
        if answer.is_success() {
            return Ok(Some((answer.body, doing)));
        }
        if answer.status == 410 {
            // The page is of a state that the server no longer has: from the start again.
            return Err(ClusterError::Unavailable {
                reason: "410, the listing took too long".to_owned(),
                retry_after_seconds: None,
            });
        }
        Err(self.refused(&answer, &doing, gvk))
    }
}

fn not_secret(gvk: &Gvk) -> Result<(), ClusterError> {
    if objects::is_secret(gvk) {
        return Err(ClusterError::Unexpected {
            reason: "a Secret is read by its fingerprints only".to_owned(),
        });
    }
    Ok(())
}
