//! Bodies on their way to and from the API server.
//!
//! Called by [`super::Kube`] only; pure. This is the one place where Secret values become base64,
//! and where they are taken out of what the server returns. Buffers with values are wiped when the
//! last holder drops them (best effort: the HTTP stack copies what it sends).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::IgnoredAny;
use serde::ser::SerializeMap;
use serde_json::Map;
use serde_json::Value;
use zeroize::Zeroizing;

use deploy::object::AppliedObject;
use deploy::object::Gvk;
use deploy::object::ObjectId;
use deploy::object::number;
use deploy::object::text;
use deploy::ports::Payload;
use deploy::secret::Fingerprint;
use deploy::secret::FingerprintKey;
use deploy::secret::Secret;

/// Where `kubectl apply` keeps a copy of all it sent, Secret values included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Says whether a kind is the core Secret.
pub(super) fn is_secret(gvk: &Gvk) -> bool {
    gvk.is("", "Secret")
}

/// Writes a payload as JSON, which is YAML too.
pub(super) fn body(payload: &Payload<'_>) -> Result<Bytes, serde_json::Error> {
    match payload {
        Payload::Object(object) => Ok(Bytes::from(serde_json::to_vec(object)?)),
        Payload::Secret { body, data } => {
            let values: usize = data
                .iter()
                .map(|(key, value)| key.len() + 2 * value.len())
                .sum();
            // Large enough at once: a buffer that grows leaves unwiped copies behind.
            let size = body.to_string().len() + values + 16 * data.len() + 64;
            let mut text = Zeroizing::new(Vec::with_capacity(size));
            serde_json::to_writer(&mut *text, &Whole { body, data })?;
            Ok(Bytes::from_owner(text))
        }
    }
}

/// A Secret with its values.
struct Whole<'a> {
    body: &'a Value,
    data: &'a BTreeMap<String, Secret>,
}

impl Serialize for Whole<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.body.as_object().into_iter().flatten() {
            if !matches!(key.as_str(), "data" | "stringData") {
                map.serialize_entry(key, value)?;
            }
        }
        map.serialize_entry("data", &Encoded(self.data))?;
        map.end()
    }
}

struct Encoded<'a>(&'a BTreeMap<String, Secret>);

impl Serialize for Encoded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            let text = Zeroizing::new(STANDARD.encode(value.reveal()));
            map.serialize_entry(key, text.as_str())?;
        }
        map.end()
    }
}

/// What the server returns for a Secret, with the values skipped while reading.
#[derive(Deserialize)]
struct WithoutValues {
    #[serde(default, rename = "data")]
    _data: IgnoredAny,
    #[serde(default, rename = "stringData")]
    _string_data: IgnoredAny,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Parses an object that the server returned; `None` where it is none.
pub(super) fn parsed(body: Vec<u8>, gvk: &Gvk) -> Option<Value> {
    let body = Zeroizing::new(body);
    if is_secret(gvk) {
        let object: WithoutValues = serde_json::from_slice(&body).ok()?;
        return Some(Value::Object(object.rest));
    }
    let object: Value = serde_json::from_slice(&body).ok()?;
    object.is_object().then_some(object)
}

/// Reads an object as the server has it after a write.
pub(super) fn applied(id: &ObjectId, mut object: Value) -> (AppliedObject, Value) {
    strip(&mut object, &id.gvk);
    let applied = AppliedObject {
        id: id.clone(),
        uid: text(&object, &["metadata", "uid"]).to_owned(),
        generation: number(&object, &["metadata", "generation"]).unwrap_or(0),
        resource_version: text(&object, &["metadata", "resourceVersion"]).to_owned(),
    };
    (applied, object)
}

/// Removes bookkeeping, and from Secrets the annotation that holds values.
pub(super) fn strip(object: &mut Value, gvk: &Gvk) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        let annotations = metadata.get_mut("annotations");
        if let (true, Some(annotations)) =
            (is_secret(gvk), annotations.and_then(Value::as_object_mut))
        {
            annotations.remove(LAST_APPLIED);
        }
    }
}

/// What is read of a Secret.
#[derive(Deserialize)]
struct Values {
    data: Option<BTreeMap<String, Wiped>>,
}

/// A text that is wiped on drop.
struct Wiped(Zeroizing<String>);

impl<'de> Deserialize<'de> for Wiped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// Reads the fingerprints of a Secret's values; `None` where the body is not a Secret's.
pub(super) fn fingerprints(
    body: Vec<u8>,
    key: &FingerprintKey,
) -> Option<BTreeMap<String, Fingerprint>> {
    let body = Zeroizing::new(body);
    let values: Values = serde_json::from_slice(&body).ok()?;
    values
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| {
            let bytes = Zeroizing::new(STANDARD.decode(value.0.as_bytes()).ok()?);
            let fingerprint = key.fingerprint(&name, &bytes);
            Some((name, fingerprint))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret_id() -> ObjectId {
        ObjectId {
            gvk: Gvk::new("v1", "Secret"),
            namespace: Some("flask".to_owned()),
            name: "db".to_owned(),
        }
    }

    #[test]
    fn values_go_into_data_as_base64() {
        let data = BTreeMap::from([("password".to_owned(), Secret::new(b"a\xff\n".to_vec()))]);
        let body_of = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {}});
        let payload = Payload::Secret {
            body: &body_of,
            data: &data,
        };
        let bytes = body(&payload).expect("maps of texts are JSON");
        let sent: Value = serde_json::from_slice(&bytes).expect("it was written as JSON");
        let expected = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "data": {"password": "Yf8K"}});
        assert_eq!(sent, expected);
    }

    #[test]
    fn nothing_of_a_secrets_values_comes_back() {
        let object = json!({"metadata": {"uid": "u", "resourceVersion": "7", "managedFields": [],
            "annotations": {LAST_APPLIED: "hunter2", "a": "b"}}, "data": {"a": "aHVudGVyMg=="}});
        let id = secret_id();
        let body = object.to_string().into_bytes();
        let object = parsed(body, &id.gvk).expect("it was written as JSON");
        let (applied, rest) = applied(&id, object);
        let expected = json!({"metadata": {"uid": "u", "resourceVersion": "7",
            "annotations": {"a": "b"}}});
        assert_eq!(rest, expected);
        assert_eq!((applied.uid.as_str(), applied.generation), ("u", 0));
    }

    #[test]
    fn config_maps_keep_their_data() {
        let mut object = json!({"metadata": {"managedFields": []}, "data": {"a": "b"}});
        strip(&mut object, &Gvk::new("v1", "ConfigMap"));
        assert_eq!(object, json!({"metadata": {}, "data": {"a": "b"}}));
    }

    #[test]
    fn fingerprints_are_of_the_decoded_values() {
        let key = FingerprintKey::new([7; 32]);
        let body = br#"{"kind":"Secret","data":{"password":"aHVudGVyMg=="}}"#.to_vec();
        let expected = BTreeMap::from([(
            "password".to_owned(),
            key.fingerprint("password", b"hunter2"),
        )]);
        assert_eq!(fingerprints(body, &key), Some(expected));
        assert_eq!(fingerprints(b"{}".to_vec(), &key), Some(BTreeMap::new()));
        assert_eq!(fingerprints(b"<html>".to_vec(), &key), None);
    }
}
