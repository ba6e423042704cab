//! Changes that the server never takes: which they are, and whether the object may be made anew.
//!
//! Pure; called by [`super::examine`]. Only wording that the API machinery itself uses counts: a
//! webhook's refusal or any other invalid field never leads to a deletion.

use proto::report::FieldChange;
use serde_json::Value;

use super::fields;
use crate::field::FieldPath;
use crate::object::Gvk;
use crate::options::Keep;
use crate::options::Options;
use crate::options::Recreate;

/// Why an object is not made anew although a fixed field differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The manifest does not say that it may be.
    NotAllowed,
    /// It is a Secret, and nothing says that what uses it may be without it for a moment.
    Secret,
    /// It holds data, or other objects live by it.
    HoldsData,
    /// It is kept by its own annotation.
    Kept,
}

/// Says whether every cause of a refusal is that something cannot change.
pub(super) fn all_fixed(causes: &[String]) -> bool {
    !causes.is_empty() && causes.iter().all(|cause| is_fixed(cause))
}

fn is_fixed(cause: &str) -> bool {
    const INSIDE: [&str; 7] = [
        "field is immutable",
        "is immutable after creation",
        "may not change once set",
        "may not be changed in an update",
        "cannot change roleRef",
        ": Forbidden: updates to ",
        ": Forbidden: pod updates may not change fields other than",
    ];
    cause.ends_with(" is immutable") || INSIDE.iter().any(|words| cause.contains(words))
}

/// Lists the fields that cannot change and would, for causes that [`all_fixed`] knows.
pub(super) fn fixed(gvk: &Gvk, causes: &[String], live: &Value, body: &Value) -> Vec<FieldChange> {
    let places: Vec<String> = causes.iter().filter_map(|cause| place(cause)).collect();
    let mut wanted = fields::wanted(gvk, live, body);
    wanted.retain(|change| {
        let field: FieldPath = change.field.parse().unwrap_or_default();
        let inside = places.iter().any(|place| {
            let place: FieldPath = place.parse().unwrap_or_default();
            place.touches(&field)
        });
        inside && !may_change(gvk, &change.field)
    });
    if wanted.is_empty() {
        // Something goes, or the server compares what it made of the manifest: its own words then.
        let named = places.into_iter().map(|field| FieldChange {
            field,
            before: None,
            after: None,
        });
        wanted.extend(named);
    }
    wanted
}

/// Reads the field of a cause: `spec.selector: Invalid value: ...`. The index of a cluster address
/// list stands for the plain field beside it.
fn place(cause: &str) -> Option<String> {
    let (field, _) = cause.split_once(": ")?;
    let field = match field.strip_prefix("spec.clusterIPs") {
        Some(_) => "spec.clusterIP",
        None => field,
    };
    Some(format!(".{}", field.trim_start_matches('.')))
}

/// Fields that kinds with a closed list of exceptions take.
fn may_change(gvk: &Gvk, field: &str) -> bool {
    let open: &[&str] = match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("apps", "StatefulSet") => &[
            ".spec.replicas",
            ".spec.ordinals",
            ".spec.template",
            ".spec.updateStrategy",
            ".spec.persistentVolumeClaimRetentionPolicy",
            ".spec.minReadySeconds",
            ".spec.revisionHistoryLimit",
        ],
        ("", "PersistentVolumeClaim") => &[
            ".spec.resources.requests",
            ".spec.volumeAttributesClassName",
        ],
        _ => &[],
    };
    open.iter().any(|open| field.starts_with(open))
        || (gvk.is("", "Pod") && field.ends_with(".image"))
}

/// Says what stands against making the object anew.
pub(super) fn obstacle(gvk: &Gvk, live: &Value, body: &Value) -> Option<Obstacle> {
    let holds_data = matches!(
        (gvk.group.as_str(), gvk.kind.as_str()),
        (
            "",
            "PersistentVolumeClaim" | "PersistentVolume" | "Namespace"
        ) | ("apiextensions.k8s.io", "CustomResourceDefinition")
    );
    let (options, known) = (Options::of(body), Options::of(live));
    if holds_data {
        Some(Obstacle::HoldsData)
    } else if options.keep == Keep::Always || known.keep == Keep::Always {
        Some(Obstacle::Kept)
    } else if options.recreate == Recreate::Refuse {
        Some(if gvk.is("", "Secret") {
            Obstacle::Secret
        } else {
            Obstacle::NotAllowed
        })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_api_machinerys_own_words_mean_fixed() {
        for cause in [
            "spec.selector: Invalid value: field is immutable",
            "spec: Forbidden: updates to statefulset spec for fields other than (...), (...) are forbidden",
            "spec.template: Invalid value: field is immutable",
            "spec.clusterIPs[0]: Invalid value: may not change once set",
            "spec: Forbidden: spec is immutable after creation except resources.requests for bound claims",
            "data: Forbidden: field is immutable when (...) is set",
            "provisioner: Forbidden: updates to provisioner are forbidden.",
            "roleRef: Invalid value: cannot change roleRef",
            "spec: Forbidden: pod updates may not change fields other than (...)",
            "spec.size: Invalid value: Value is immutable",
        ] {
            assert!(all_fixed(&[cause.to_owned()]), "{cause}");
        }
        for cause in [
            "spec.replicas: Invalid value: must be greater than or equal to 0",
            "the field is not allowed to change, says the webhook",
            "spec.template.spec.containers[0].image: Required value",
        ] {
            assert!(!all_fixed(&[cause.to_owned()]), "{cause}");
        }
        assert!(!all_fixed(&[]));
        let mixed = [
            "spec.selector: Invalid value: field is immutable".to_owned(),
            "spec.replicas: Invalid value".to_owned(),
        ];
        assert!(!all_fixed(&mixed));
    }

    #[test]
    fn the_fields_that_cannot_change_are_named() {
        let set = Gvk::new("apps/v1", "StatefulSet");
        let cause = "spec: Forbidden: updates to statefulset spec for fields other than (...) are forbidden".to_owned();
        let live = json!({"spec": {"serviceName": "a", "replicas": 1, "template": {"x": 1}}});
        let body = json!({"spec": {"serviceName": "b", "replicas": 2, "template": {"x": 2}}});
        let found = fixed(&set, &[cause], &live, &body);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].field, ".spec.serviceName");
        assert_eq!(found[0].before.as_deref(), Some("\"a\""));
        let service = Gvk::new("v1", "Service");
        let cause = "spec.clusterIPs[0]: Invalid value: may not change once set".to_owned();
        let live = json!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}});
        let found = fixed(
            &service,
            &[cause],
            &live,
            &json!({"spec": {"clusterIP": "None"}}),
        );
        assert_eq!(found[0].field, ".spec.clusterIP");
    }

    #[test]
    fn objects_with_data_and_kept_ones_are_never_made_anew() {
        let of = |api: &str, kind: &str, annotations: Value| {
            let body = json!({"metadata": {"annotations": annotations}});
            obstacle(&Gvk::new(api, kind), &json!({}), &body)
        };
        let allow = json!({"quaymaster.dev/recreate": "allow"});
        let kept = json!({"quaymaster.dev/recreate": "allow", "quaymaster.dev/keep": "true"});
        assert_eq!(of("batch/v1", "Job", json!({})), Some(Obstacle::NotAllowed));
        assert_eq!(of("batch/v1", "Job", allow.clone()), None);
        assert_eq!(of("batch/v1", "Job", kept), Some(Obstacle::Kept));
        for kind in ["PersistentVolumeClaim", "PersistentVolume", "Namespace"] {
            assert_eq!(of("v1", kind, allow.clone()), Some(Obstacle::HoldsData));
        }
    }
}
