//! Which fields a body makes its applier own, written down as a server does.
//!
//! Used by [`super::FakeCluster`]. Lists of objects that all have a name are kept by name, other
//! lists belong to one owner as a whole. Values of Secrets are kept apart from their bodies.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::object::ObjectId;
use crate::ports::Payload;

/// The values of a Secret.
pub(super) type Data = BTreeMap<String, Vec<u8>>;

/// Takes the values out of what is sent.
pub(super) fn split(id: &ObjectId, payload: &Payload<'_>) -> (Value, Option<Data>) {
    match payload {
        Payload::Secret { body, data } => {
            let data = data.iter();
            let data = data.map(|(key, value)| (key.clone(), value.bytes().to_vec()));
            ((*body).clone(), Some(data.collect()))
        }
        Payload::Object(body) if id.gvk.is("", "Secret") => {
            let mut body = (*body).clone();
            let data = body.as_object_mut().and_then(|body| body.remove("data"));
            let data = data.as_ref().and_then(Value::as_object);
            let data = data.into_iter().flatten().map(|(key, value)| {
                let text = value.as_str().unwrap_or_default();
                (key.clone(), STANDARD.decode(text).unwrap_or_default())
            });
            (body, Some(data.collect()))
        }
        Payload::Object(body) => ((*body).clone(), None),
    }
}

/// Writes down the fields of a body as `FieldsV1`.
pub(super) fn owned(body: &Value, data: Option<&Data>) -> Value {
    let mut owned = node(body);
    let Some(fields) = owned.as_object_mut() else {
        return owned;
    };
    fields.remove("f:apiVersion");
    fields.remove("f:kind");
    if let Some(metadata) = fields.get_mut("f:metadata").and_then(Value::as_object_mut) {
        metadata.remove("f:name");
        metadata.remove("f:namespace");
        if metadata.is_empty() {
            fields.remove("f:metadata");
        }
    }
    let keys: Map<String, Value> = data
        .into_iter()
        .flat_map(BTreeMap::keys)
        .map(|key| (format!("f:{key}"), json!({})))
        .collect();
    if !keys.is_empty() {
        fields.insert("f:data".to_owned(), Value::Object(keys));
    }
    owned
}

fn node(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let named = fields
                .iter()
                .filter(|(_, value)| !value.as_array().is_some_and(Vec::is_empty));
            let named = named.map(|(field, value)| (format!("f:{field}"), node(value)));
            Value::Object(named.collect())
        }
        Value::Array(items) if items.iter().all(|item| item["name"].is_string()) => {
            let keyed = items.iter().map(|item| {
                let mut fields = node(item);
                fields["."] = json!({});
                (format!("k:{}", json!({ "name": item["name"] })), fields)
            });
            Value::Object(keyed.collect())
        }
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            json!({})
        }
    }
}
