//! One object of a manifest: identity, what is refused in it, and what is dropped from it.
//!
//! Called by [`super::read`] for every object. What comes out is what the server will be sent.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::error::Code;
use proto::error::Place;
use serde_json::Map;
use serde_json::Value;

use super::names;
use super::sane;
use crate::bundle::InputError;
use crate::kinds::is_cluster_scoped;
use crate::object::Gvk;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::Origin;
use crate::spec::FORBIDDEN_TYPES;
use crate::yaml::shown;

/// Bytes of one object as JSON; the server's own limit decides below that.
const MAX_BYTES: usize = 3 << 20;

/// An object, and what to tell about it.
#[derive(Debug, PartialEq)]
pub(super) struct Checked {
    /// The object.
    pub(super) object: Object,
    /// What was dropped from it.
    pub(super) notes: Vec<String>,
}

/// Errors of one object, with its origin.
pub(super) struct Findings<'a> {
    origin: &'a Origin,
    places: Vec<Place>,
}

impl Findings<'_> {
    /// Reports what is wrong at a path of the object.
    pub(super) fn at(&mut self, path: &str, message: impl Into<String>) {
        self.places.push(place(self.origin, Some(path), message));
    }
}

/// Makes a place in an object.
pub(super) fn place(origin: &Origin, path: Option<&str>, message: impl Into<String>) -> Place {
    Place {
        file: Some(origin.file.clone()),
        line: (origin.line > 0).then_some(origin.line),
        column: None,
        path: path.map(str::to_owned),
        message: message.into(),
    }
}

/// Checks one object.
pub(super) fn object(value: Value, origin: Origin) -> Result<Checked, InputError> {
    let invalid = |places| InputError {
        code: Code::ManifestInvalid,
        places,
    };
    let Value::Object(mut body) = value else {
        let message = "expected an object with apiVersion, kind and metadata";
        return Err(invalid(vec![place(&origin, None, message)]));
    };
    let mut findings = Findings {
        origin: &origin,
        places: Vec::new(),
    };
    let id = identity(&mut body, &mut findings);
    let dropped = drop_server_fields(&mut body);
    let nulls = id.as_ref().map_or_else(Vec::new, |id| {
        sane::check_lists(&id.gvk, &body, &mut findings);
        sane::drop_nulls(&id.gvk, &mut body, &mut findings)
    });
    names::check(&body, &mut findings);
    if id.as_ref().is_some_and(|id| id.gvk.is("", "Secret")) {
        secret(&mut body, &mut findings);
    }
    let places = findings.places;
    let id = match id {
        Some(id) if places.is_empty() => id,
        _ => return Err(invalid(places)),
    };
    let note = |fields: &[String], why: &str| {
        (!fields.is_empty())
            .then(|| format!("{id} at {origin}: {} dropped, {why}", fields.join(", ")))
    };
    let notes = [
        note(&dropped, "the server writes this"),
        note(&nulls, "null counts as not set"),
    ];
    let notes = notes.into_iter().flatten().collect();
    let object = Object {
        id,
        body: Value::Object(body),
        origin,
    };
    if !fits(&object.body) {
        let message = format!("the object is over {MAX_BYTES} bytes");
        let place = place(&object.origin, None, message);
        return Err(InputError::one(Code::TooLarge, place));
    }
    Ok(Checked { object, notes })
}

/// Takes the namespace off an object of a kind that has none, as the server does; says whether one was there.
pub(super) fn drop_namespace(value: &mut Value) -> bool {
    let gvk = Gvk::new(
        crate::object::text(value, &["apiVersion"]),
        crate::object::text(value, &["kind"]),
    );
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    is_cluster_scoped(&gvk) && metadata.is_some_and(|fields| fields.remove("namespace").is_some())
}

/// Reads apiVersion, kind, name and namespace; an empty namespace is taken out.
fn identity(body: &mut Map<String, Value>, findings: &mut Findings<'_>) -> Option<ObjectId> {
    let api_version = text(body.get("apiVersion"), "apiVersion", findings);
    let api_version = api_version.filter(|text| {
        let fits = names::is_api_version(text);
        if !fits {
            findings.at(
                "apiVersion",
                "expected a version (v1) or group and version (apps/v1)",
            );
        }
        fits
    });
    let kind = text(body.get("kind"), "kind", findings).filter(|text| {
        let fits = names::is_kind(text, api_version.as_deref().unwrap_or_default());
        if !fits {
            findings.at("kind", "expected a kind such as Deployment");
        }
        fits
    });
    let Some(Value::Object(metadata)) = body.get_mut("metadata") else {
        findings.at("metadata", "is missing, or has no fields");
        return None;
    };
    let name = name(metadata, findings);
    let namespace = match metadata.get("namespace") {
        None => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::Null) => None,
        Some(value) => Some(namespace(value, findings)?),
    };
    if namespace.is_none() {
        metadata.remove("namespace");
    }
    let gvk = Gvk::new(&api_version?, &kind?);
    if namespace.is_some() && is_cluster_scoped(&gvk) {
        findings.at(
            "metadata.namespace",
            "objects of this kind have no namespace; leave it out",
        );
    }
    Some(ObjectId {
        gvk,
        namespace,
        name: name?,
    })
}

fn text(value: Option<&Value>, path: &str, findings: &mut Findings<'_>) -> Option<String> {
    match value {
        Some(Value::String(text)) if !text.is_empty() => return Some(text.clone()),
        None | Some(Value::Null | Value::String(_)) => findings.at(path, "is missing"),
        Some(Value::Bool(_) | Value::Number(_)) => {
            findings.at(path, "is not text; put it in quotes");
        }
        Some(Value::Array(_) | Value::Object(_)) => findings.at(path, "is not text"),
    }
    None
}

fn name(metadata: &Map<String, Value>, findings: &mut Findings<'_>) -> Option<String> {
    let generated = metadata.contains_key("generateName");
    if generated && !metadata.contains_key("name") {
        findings.at(
            "metadata.generateName",
            "every deploy would make another object; give it a name",
        );
        return None;
    }
    let name = text(metadata.get("name"), "metadata.name", findings)?;
    if !names::is_name(&name) {
        findings.at(
            "metadata.name",
            "is not a name: up to 253 visible characters, without '/' and '%'",
        );
        return None;
    }
    Some(name)
}

fn namespace(value: &Value, findings: &mut Findings<'_>) -> Option<String> {
    let text = text(Some(value), "metadata.namespace", findings)?;
    match text.parse::<proto::ids::Namespace>() {
        Ok(_) => Some(text),
        Err(error) => {
            findings.at("metadata.namespace", error.to_string());
            None
        }
    }
}

/// Takes out what only the server writes; returns the paths of what was there.
fn drop_server_fields(body: &mut Map<String, Value>) -> Vec<String> {
    let mut dropped = Vec::new();
    if let Some(Value::Object(metadata)) = body.get_mut("metadata") {
        for (field, path) in [
            ("managedFields", "metadata.managedFields"),
            ("resourceVersion", "metadata.resourceVersion"),
            ("uid", "metadata.uid"),
            ("creationTimestamp", "metadata.creationTimestamp"),
            ("generation", "metadata.generation"),
            ("selfLink", "metadata.selfLink"),
        ] {
            if metadata.remove(field).is_some() {
                dropped.push(path.to_owned());
            }
        }
    }
    if body.remove("status").is_some() {
        dropped.push("status".to_owned());
    }
    dropped
}

/// Checks a Secret, and writes its `stringData` as `data`, as the server would.
fn secret(body: &mut Map<String, Value>, findings: &mut Findings<'_>) {
    match body.get("type") {
        None | Some(Value::Null) => {}
        Some(Value::String(kind)) if FORBIDDEN_TYPES.contains(&kind.as_str()) => {
            findings.at("type", "Secrets of this type are never written");
        }
        Some(Value::String(_)) => {}
        Some(_) => findings.at("type", "is not text"),
    }
    let mut data = fields(body.remove("data"), "data", findings);
    for (key, value) in &data {
        let good = value.as_str().is_some_and(|text| {
            let joined: String = text.split(['\r', '\n']).collect();
            STANDARD.decode(joined).is_ok()
        });
        if !good {
            let message = format!(
                "{} is not base64; use stringData for plain text",
                shown(key)
            );
            findings.at("data", message);
        }
    }
    // A key in both has the value of stringData, as the server would decide.
    for (key, value) in fields(body.remove("stringData"), "stringData", findings) {
        match value {
            Value::String(text) => {
                data.insert(key, Value::String(STANDARD.encode(text)));
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => {
                findings.at(
                    "stringData",
                    format!("{} is not text; put it in quotes", shown(&key)),
                );
            }
        }
    }
    if !data.is_empty() {
        body.insert("data".to_owned(), Value::Object(data));
    }
}

fn fields(value: Option<Value>, path: &str, findings: &mut Findings<'_>) -> Map<String, Value> {
    match value {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(fields)) => fields,
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            findings.at(path, "expected keys with values (a mapping)");
            Map::new()
        }
    }
}

/// Counts bytes and stops at the limit, so that nothing is built to be measured.
struct Measure(usize);

impl io::Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn fits(body: &Value) -> bool {
    serde_json::to_writer(Measure(MAX_BYTES), body).is_ok()
}
