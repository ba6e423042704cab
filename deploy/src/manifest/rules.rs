//! What an object of a manifest may hold, and what is taken out of it.
//!
//! Called by [`super::read`] for each object. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::object::ObjectId;
use crate::object::at;
use crate::object::text;

/// Fields of metadata that the server keeps.
const SERVER_METADATA: [&str; 6] = [
    "managedFields",
    "resourceVersion",
    "uid",
    "creationTimestamp",
    "generation",
    "selfLink",
];
/// Secret types that are the cluster's or Helm's own.
const FORBIDDEN_TYPES: [&str; 3] = [
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    "helm.sh/release.v1",
];
/// Built-in kinds that live in no namespace, by group.
const CLUSTER_SCOPED: [(&str, &str); 18] = [
    ("", "Namespace"),
    ("", "Node"),
    ("", "PersistentVolume"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "APIService"),
    (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
    ),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    (
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding",
    ),
    ("storage.k8s.io", "StorageClass"),
    ("storage.k8s.io", "CSIDriver"),
    ("storage.k8s.io", "VolumeAttachment"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("networking.k8s.io", "IngressClass"),
    ("node.k8s.io", "RuntimeClass"),
    ("certificates.k8s.io", "CertificateSigningRequest"),
];

/// Checks one object.
pub(super) fn check(id: &ObjectId, body: &Value) -> Result<(), String> {
    let gvk = (id.gvk.group.as_str(), id.gvk.kind.as_str());
    if CLUSTER_SCOPED.contains(&gvk) && id.namespace.is_some() {
        return Err(format!(
            "a {} lives in no namespace; leave metadata.namespace out",
            id.gvk.kind
        ));
    }
    for field in ["ownerReferences", "finalizers"] {
        if at(body, &["metadata", field]).is_some() {
            return Err(format!(
                "metadata.{field} is not granted by any rule of this version"
            ));
        }
    }
    if id.gvk.is("", "Secret") && FORBIDDEN_TYPES.contains(&text(body, &["type"])) {
        return Err("Secrets of this type are never written".to_owned());
    }
    for map in ["labels", "annotations"] {
        let entries = at(body, &["metadata", map]).and_then(Value::as_object);
        for key in entries.into_iter().flat_map(serde_json::Map::keys) {
            reserved(map, key)?;
        }
    }
    Ok(())
}

fn reserved(map: &str, key: &str) -> Result<(), String> {
    if key.starts_with("state.quaymaster.dev/") || key.starts_with("applyset.kubernetes.io/") {
        return Err(format!(
            "metadata.{map} has a name that belongs to the agent ({key})"
        ));
    }
    if key.starts_with("quaymaster.dev/") {
        return Err(format!(
            "metadata.{map} has an option that does not exist ({key})"
        ));
    }
    Ok(())
}

/// Takes out what belongs to the server; returns the names of what was there.
pub(super) fn drop_server_fields(body: &mut Value) -> Vec<&'static str> {
    let mut dropped = Vec::new();
    if let Some(object) = body.as_object_mut()
        && object.remove("status").is_some()
    {
        dropped.push("status");
    }
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        for name in SERVER_METADATA {
            if metadata.remove(name).is_some() {
                dropped.push(name);
            }
        }
        if metadata.get("namespace").and_then(Value::as_str) == Some("") {
            metadata.remove("namespace");
        }
    }
    dropped
}

/// Turns `stringData` of a Secret into `data`: under server-side apply `stringData` leaves deleted
/// keys behind (kubernetes/kubernetes#108008).
pub(super) fn encode_string_data(id: &ObjectId, body: &mut Value) -> Result<(), String> {
    if !id.gvk.is("", "Secret") {
        return Ok(());
    }
    let Some(strings) = body
        .as_object_mut()
        .and_then(|object| object.remove("stringData"))
    else {
        return Ok(());
    };
    let Value::Object(strings) = strings else {
        return Err("stringData: expected a mapping of texts".to_owned());
    };
    if !body.get("data").is_some_and(Value::is_object) {
        body["data"] = Value::Object(serde_json::Map::new());
    }
    for (key, value) in strings {
        let Value::String(value) = value else {
            return Err(
                "stringData: every value has to be text; put numbers and booleans in quotes"
                    .to_owned(),
            );
        };
        body["data"][key] = Value::from(STANDARD.encode(value));
    }
    Ok(())
}
