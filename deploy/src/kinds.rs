//! Which kinds of Kubernetes itself live in no namespace.
//!
//! Known before any cluster is asked, so that a request can be judged at once. Used by
//! [`crate::manifest`], which refuses a namespace on them, and by [`crate::authorize`].

use crate::object::Gvk;

/// Groups of Kubernetes with their cluster scoped kinds; every other kind of these groups lives in a
/// namespace. As served by Kubernetes 1.37.
pub(crate) const BUILT_IN: &[(&str, &[&str])] = &[
    (
        "",
        &["Namespace", "Node", "PersistentVolume", "ComponentStatus"],
    ),
    ("apps", &[]),
    ("batch", &[]),
    ("autoscaling", &[]),
    ("policy", &["PodSecurityPolicy"]),
    ("discovery.k8s.io", &[]),
    ("coordination.k8s.io", &[]),
    ("events.k8s.io", &[]),
    (
        "networking.k8s.io",
        &["IngressClass", "IPAddress", "ServiceCIDR"],
    ),
    (
        "rbac.authorization.k8s.io",
        &["ClusterRole", "ClusterRoleBinding"],
    ),
    (
        "storage.k8s.io",
        &[
            "StorageClass",
            "CSIDriver",
            "CSINode",
            "VolumeAttachment",
            "VolumeAttributesClass",
        ],
    ),
    ("scheduling.k8s.io", &["PriorityClass"]),
    ("node.k8s.io", &["RuntimeClass"]),
    (
        "admissionregistration.k8s.io",
        &[
            "MutatingWebhookConfiguration",
            "ValidatingWebhookConfiguration",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
        ],
    ),
    ("apiextensions.k8s.io", &["CustomResourceDefinition"]),
    ("apiregistration.k8s.io", &["APIService"]),
    (
        "certificates.k8s.io",
        &["CertificateSigningRequest", "ClusterTrustBundle"],
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        &["FlowSchema", "PriorityLevelConfiguration"],
    ),
    (
        "resource.k8s.io",
        &["DeviceClass", "ResourceSlice", "DeviceTaintRule"],
    ),
];

/// Says whether a built-in kind lives in no namespace.
pub(crate) fn is_cluster_scoped(gvk: &Gvk) -> bool {
    BUILT_IN
        .iter()
        .any(|(group, kinds)| *group == gvk.group && kinds.contains(&gvk.kind.as_str()))
}
