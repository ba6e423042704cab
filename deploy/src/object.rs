//! Values about cluster objects: kind, identity, desired body, what was applied, what was seen.
//!
//! Bodies are JSON trees exactly as they were parsed; nothing here talks to a cluster. Made by
//! [`crate::manifest`] and [`crate::plan`], used by plan, apply and watch, and by the Kubernetes
//! adapter.

use std::fmt;

use serde_json::Value;

/// Group, version and kind of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version inside the group.
    pub version: String,
    /// The kind.
    pub kind: String,
}

impl Gvk {
    /// Makes a kind from `apiVersion` (`v1`, `apps/v1`) and `kind`.
    #[must_use]
    pub fn new(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
        }
    }

    /// Returns `v1` or `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Says whether this is `kind` of `group`, whatever the version.
    #[must_use]
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.kind)
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Its kind.
    pub gvk: Gvk,
    /// Its namespace; unset for cluster scoped kinds.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectId {
    /// `apps/v1/Deployment flask/web`, or `v1/Namespace flask`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.gvk, self.name),
            None => write!(f, "{} {}", self.gvk, self.name),
        }
    }
}

/// Where an object was read from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file inside the bundle.
    pub file: String,
    /// The line of the document's first content, counted from 1; 0 where it is not known.
    pub line: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// One desired object: identity, the JSON that will be sent, and where it came from.
///
/// `id.namespace` is unset until [`crate::authorize`] has put the target's namespace in for
/// namespaced kinds; from then on the body and the id agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Which object.
    pub id: ObjectId,
    /// The body: a JSON object with `apiVersion`, `kind` and `metadata`.
    pub body: Value,
    /// Where it was read from.
    pub origin: Origin,
}

/// An object that is in the cluster as we sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedObject {
    /// Which object.
    pub id: ObjectId,
    /// The server's uid.
    pub uid: String,
    /// The generation after our write; 0 for kinds that have none.
    pub generation: i64,
    /// The resource version after our write.
    pub resource_version: String,
}

impl AppliedObject {
    /// Reads it off an object as the cluster has it.
    #[must_use]
    pub fn of(id: ObjectId, live: &Value) -> Self {
        Self {
            id,
            uid: text(live, &["metadata", "uid"]).to_owned(),
            generation: number(live, &["metadata", "generation"]).unwrap_or(0),
            resource_version: text(live, &["metadata", "resourceVersion"]).to_owned(),
        }
    }
}

/// How a kind is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The kind.
    pub gvk: Gvk,
    /// The plural, as it stands in the URL.
    pub plural: String,
    /// Whether objects of it live in a namespace.
    pub namespaced: bool,
}

/// Reads a field by a path of keys; `None` where any of them is missing.
#[must_use]
pub fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// Reads a text field by a path of keys; empty where it is missing or not text.
#[must_use]
pub fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// Reads a whole number by a path of keys.
#[must_use]
pub fn number(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// Reads a list by a path of keys; empty where it is missing.
#[must_use]
pub fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}
