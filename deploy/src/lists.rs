//! Lists of built-in kinds whose items are told apart by keys, as the API server merges them.
//!
//! Used by [`crate::manifest`], which refuses the same item twice, and by [`crate::check`], which
//! names items by their keys. Lists that the server takes or leaves as a whole are not here.

use crate::object::Gvk;

/// Lists of a pod's spec, by their path without items.
const POD: &[(&[&str], &[&str])] = &[
    (&["containers"], &["name"]),
    (&["initContainers"], &["name"]),
    (&["ephemeralContainers"], &["name"]),
    (&["volumes"], &["name"]),
    (&["imagePullSecrets"], &["name"]),
    (&["hostAliases"], &["ip"]),
    (
        &["topologySpreadConstraints"],
        &["topologyKey", "whenUnsatisfiable"],
    ),
    (&["resourceClaims"], &["name"]),
    (&["schedulingGates"], &["name"]),
];

/// Lists of a container.
const CONTAINER: &[(&str, &[&str])] = &[
    ("env", &["name"]),
    ("ports", &["containerPort", "protocol"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
];

/// Lists of other kinds: group, kind, path, keys.
const OTHERS: &[(&str, &str, &[&str], &[&str])] = &[
    ("", "Service", &["spec", "ports"], &["port", "protocol"]),
    ("", "ServiceAccount", &["secrets"], &["name"]),
    (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        &["webhooks"],
        &["name"],
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        &["webhooks"],
        &["name"],
    ),
    (
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        &["spec", "versions"],
        &["name"],
    ),
];

/// Returns where the spec of the pods is in objects of a kind.
#[must_use]
pub(crate) fn pod_spec(gvk: &Gvk) -> Option<&'static [&'static str]> {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => Some(&["spec"]),
        ("", "PodTemplate") => Some(&["template", "spec"]),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => Some(&["spec", "template", "spec"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => None,
    }
}

/// Returns the fields that tell the items of a list apart; `path` leaves items out.
#[must_use]
pub(crate) fn keys(gvk: &Gvk, path: &[&str]) -> Option<&'static [&'static str]> {
    if let Some(inside) = pod_spec(gvk).and_then(|spec| path.strip_prefix(spec)) {
        if let [list, field] = inside
            && list.to_lowercase().ends_with("containers")
        {
            let found = CONTAINER.iter().find(|(name, _)| name == field);
            return found.map(|(_, keys)| *keys);
        }
        let found = POD.iter().find(|(list, _)| *list == inside);
        return found.map(|(_, keys)| *keys);
    }
    OTHERS
        .iter()
        .find(|(group, kind, list, _)| gvk.is(group, kind) && *list == path)
        .map(|(_, _, _, keys)| *keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_the_place_of_the_list() {
        let of = |api: &str, kind: &str, path: &str| {
            let path: Vec<&str> = path.split('.').collect();
            keys(&Gvk::new(api, kind), &path)
        };
        let container = "spec.template.spec.initContainers.ports";
        assert_eq!(
            of("apps/v1", "Deployment", container),
            Some(&["containerPort", "protocol"][..])
        );
        assert_eq!(
            of("v1", "Service", "spec.ports"),
            Some(&["port", "protocol"][..])
        );
        assert_eq!(
            of("networking.k8s.io/v1", "NetworkPolicy", "spec.ports"),
            None
        );
        assert_eq!(
            of(
                "batch/v1",
                "CronJob",
                "spec.jobTemplate.spec.template.spec.volumes"
            ),
            Some(&["name"][..])
        );
        assert_eq!(of("example.com/v1", "Widget", "spec.containers"), None);
    }
}
