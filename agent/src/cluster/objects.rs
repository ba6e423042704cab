//! Bodies on their way to and from the API server.
//!
//! Called by [`super::Kube`] and its watches only; pure. This is the one place where Secret values
//! become base64 and come from it, and where they are taken out of what the server returns. Buffers with values are wiped when the
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
use deploy::object::text;
use deploy::ports::Payload;
use deploy::ports::SecretView;
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
    (AppliedObject::of(id.clone(), &object), object)
}

/// Removes bookkeeping, and from Secrets the annotation that holds values.
pub(super) fn strip(object: &mut Value, gvk: &Gvk) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if is_secret(gvk) {
        without_copy(object);
    }
}

/// Removes the annotation of a Secret that holds its values.
pub(super) fn without_copy(secret: &mut Value) {
    let annotations = secret.pointer_mut("/metadata/annotations");
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
}

/// What is read of a Secret: fingerprints are taken of the values, the rest is kept.
#[derive(Deserialize)]
struct Read {
    data: Option<BTreeMap<String, Wiped>>,
    #[serde(default, rename = "stringData")]
    _string_data: IgnoredAny,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Read {
    fn view(self, key: &FingerprintKey) -> Option<SecretView> {
        let mut rest = Value::Object(self.rest);
        without_copy(&mut rest);
        let values = self
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| {
                let bytes = Zeroizing::new(STANDARD.decode(value.0.as_bytes()).ok()?);
                let fingerprint = key.fingerprint(&name, &bytes);
                Some((name, fingerprint))
            });
        Some(SecretView {
            values: values.collect::<Option<_>>()?,
            rest,
        })
    }
}

/// A text that is wiped on drop.
struct Wiped(Zeroizing<String>);

impl<'de> Deserialize<'de> for Wiped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// Reads a Secret; `None` where the body is not a Secret's.
pub(super) fn secret(body: Vec<u8>, key: &FingerprintKey) -> Option<SecretView> {
    let body = Zeroizing::new(body);
    let read: Read = serde_json::from_slice(&body).ok()?;
    read.view(key)
}

/// What is read of a Secret for its values alone.
#[derive(Deserialize)]
struct Values {
    data: Option<BTreeMap<String, Wiped>>,
}

/// Reads the values of a Secret; `None` where the body is not a Secret's.
pub(super) fn values(body: Vec<u8>) -> Option<BTreeMap<String, Secret>> {
    let body = Zeroizing::new(body);
    let read: Values = serde_json::from_slice(&body).ok()?;
    let values = read.data.unwrap_or_default().into_iter();
    values
        .map(|(name, value)| {
            let bytes = Zeroizing::new(STANDARD.decode(value.0.as_bytes()).ok()?);
            // Of the exact size: shrinking the decoder's buffer would leave an unwiped copy.
            Some((name, Secret::new(bytes.as_slice().to_vec())))
        })
        .collect()
}

/// Which part of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// The first.
    First,
    /// The one that the server names so.
    After(String),
    /// There is no other.
    None,
}

/// A listing as the server sends it: its items have neither `apiVersion` nor `kind`.
#[derive(Deserialize)]
struct Listing<T> {
    items: Vec<T>,
    #[serde(default)]
    metadata: ListMeta,
}

#[derive(Deserialize, Default)]
struct ListMeta {
    #[serde(default, rename = "continue")]
    token: String,
}

impl ListMeta {
    fn next(self) -> Page {
        if self.token.is_empty() {
            Page::None
        } else {
            Page::After(self.token)
        }
    }
}

/// Reads a page of Secrets by name, and which comes next; `None` where the body is none.
pub(super) fn secrets(
    body: Vec<u8>,
    key: &FingerprintKey,
) -> Option<(BTreeMap<String, SecretView>, Page)> {
    let body = Zeroizing::new(body);
    let listing: Listing<Read> = serde_json::from_slice(&body).ok()?;
    let named = listing.items.into_iter().map(|item| {
        let mut view = item.view(key)?;
        name_kind(&mut view.rest, &Gvk::new("v1", "Secret"));
        let name = text(&view.rest, &["metadata", "name"]).to_owned();
        Some((name, view))
    });
    Some((named.collect::<Option<_>>()?, listing.metadata.next()))
}

/// Reads a page of objects, and which comes next; `None` where the body is none.
pub(super) fn listed(body: &[u8], gvk: &Gvk) -> Option<(Vec<Value>, Page)> {
    let listing: Listing<Value> = serde_json::from_slice(body).ok()?;
    let mut items = listing.items;
    items.iter_mut().for_each(|item| name_kind(item, gvk));
    Some((items, listing.metadata.next()))
}

fn name_kind(object: &mut Value, gvk: &Gvk) {
    if let Some(object) = object.as_object_mut() {
        object.insert("apiVersion".to_owned(), Value::from(gvk.api_version()));
        object.insert("kind".to_owned(), Value::from(gvk.kind.as_str()));
    }
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
        let view = secret(body, &key).expect("it is a Secret");
        assert_eq!(view.values, expected);
        assert_eq!(view.rest, json!({"kind": "Secret"}));
        let empty = secret(b"{}".to_vec(), &key).expect("a Secret can be empty");
        assert!(empty.values.is_empty());
        assert_eq!(secret(b"<html>".to_vec(), &key), None);
    }

    #[test]
    fn values_are_decoded_and_shown_by_no_formatter() {
        let body = br#"{"kind":"Secret","data":{"password":"aHVudGVyMg==","empty":""}}"#;
        let read = values(body.to_vec()).expect("it is a Secret");
        assert_eq!(read["password"].reveal(), b"hunter2");
        assert!(read["empty"].is_empty());
        assert!(!format!("{read:?}").contains("hunter2"));
        assert_eq!(values(b"{}".to_vec()).map(|read| read.len()), Some(0));
        assert!(values(b"<html>".to_vec()).is_none());
        let odd = br#"{"data":{"password":"hunter 2"}}"#.to_vec();
        assert!(values(odd).is_none());
    }

    #[test]
    fn listed_objects_know_their_kind_and_secrets_show_no_value() {
        let key = FingerprintKey::new([7; 32]);
        let body = json!({"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "db", "annotations": {LAST_APPLIED: "hunter2"}},
            "data": {"password": "aHVudGVyMg=="}}]});
        let bytes = body.to_string().into_bytes();
        let (objects, page) = listed(&bytes, &Gvk::new("v1", "ConfigMap")).expect("a listing");
        assert_eq!(text(&objects[0], &["kind"]), "ConfigMap");
        assert_eq!(page, Page::After("more".to_owned()));
        let (views, page) = secrets(bytes, &key).expect("a listing");
        assert_eq!(page, Page::After("more".to_owned()));
        let expected = key.fingerprint("password", b"hunter2");
        assert_eq!(views["db"].values["password"], expected);
        assert_eq!(views["db"].rest["kind"], "Secret");
        assert!(!format!("{views:?}").contains("hunter2"));
    }
}
