//! Which kinds live in a namespace.
//!
//! Asked by `grant` for every object. Kinds of Kubernetes itself are known here; others are told by a
//! CRD of the same bundle (it is applied first, so it is what the server will know) or by what the
//! cluster serves.

use crate::kinds::BUILT_IN;
use crate::object::Gvk;
use crate::object::Object;
use crate::object::Resource;
use crate::object::text;

/// Where objects of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster as a whole.
    Cluster,
    /// Nobody here knows.
    Unknown,
}

/// What is known about kinds during one decision.
pub(super) struct Scopes<'a> {
    served: &'a [Resource],
    defined: Vec<(String, String, Scope)>,
}

impl<'a> Scopes<'a> {
    /// Collects what the bundle itself defines.
    pub(super) fn of(objects: &[Object], served: &'a [Resource]) -> Self {
        let crd = |object: &&Object| {
            let gvk = &object.id.gvk;
            gvk.is("apiextensions.k8s.io", "CustomResourceDefinition")
        };
        let defined = objects.iter().filter(crd).map(|object| {
            let scope = match text(&object.body, &["spec", "scope"]) {
                "Namespaced" => Scope::Namespaced,
                "Cluster" => Scope::Cluster,
                _ => Scope::Unknown,
            };
            let group = text(&object.body, &["spec", "group"]).to_owned();
            let kind = text(&object.body, &["spec", "names", "kind"]).to_owned();
            (group, kind, scope)
        });
        Self {
            served,
            defined: defined.collect(),
        }
    }

    /// Returns where objects of a kind live.
    pub(super) fn scope(&self, gvk: &Gvk) -> Scope {
        if let Some((_, kinds)) = BUILT_IN.iter().find(|(group, _)| *group == gvk.group) {
            return if kinds.contains(&gvk.kind.as_str()) {
                Scope::Cluster
            } else {
                Scope::Namespaced
            };
        }
        let mut defined = self.defined.iter();
        if let Some((_, _, scope)) = defined.find(|(group, kind, _)| gvk.is(group, kind)) {
            return *scope;
        }
        // Another version of the same kind has the same scope.
        let mut served = self.served.iter();
        match served.find(|resource| resource.gvk.is(&gvk.group, &gvk.kind)) {
            Some(resource) if resource.namespaced => Scope::Namespaced,
            Some(_) => Scope::Cluster,
            None => Scope::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ObjectId;
    use crate::object::Origin;
    use serde_json::json;

    #[test]
    fn kinds_of_kubernetes_are_known() {
        let scopes = Scopes::of(&[], &[]);
        let rows = [
            ("v1", "Secret", Scope::Namespaced),
            ("v1", "Namespace", Scope::Cluster),
            ("v1", "PersistentVolume", Scope::Cluster),
            ("v1", "PersistentVolumeClaim", Scope::Namespaced),
            ("apps/v1", "Deployment", Scope::Namespaced),
            ("batch/v1", "CronJob", Scope::Namespaced),
            ("networking.k8s.io/v1", "Ingress", Scope::Namespaced),
            ("networking.k8s.io/v1", "IngressClass", Scope::Cluster),
            ("rbac.authorization.k8s.io/v1", "Role", Scope::Namespaced),
            (
                "rbac.authorization.k8s.io/v1",
                "ClusterRoleBinding",
                Scope::Cluster,
            ),
            ("example.com/v1", "Widget", Scope::Unknown),
        ];
        for (version, kind, expected) in rows {
            assert_eq!(scopes.scope(&Gvk::new(version, kind)), expected, "{kind}");
        }
    }

    #[test]
    fn the_bundles_own_definition_comes_before_what_is_served() {
        let widget = Gvk::new("example.com/v1", "Widget");
        let served = [Resource {
            gvk: Gvk::new("example.com/v1beta1", "Widget"),
            plural: "widgets".to_owned(),
            namespaced: true,
        }];
        assert_eq!(Scopes::of(&[], &served).scope(&widget), Scope::Namespaced);
        let crd = Object {
            id: ObjectId {
                gvk: Gvk::new("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
                namespace: None,
                name: "widgets.example.com".to_owned(),
            },
            body: json!({"spec": {"group": "example.com", "scope": "Cluster", "names": {"kind": "Widget"}}}),
            origin: Origin {
                file: "crd.yaml".to_owned(),
                line: 1,
            },
        };
        assert_eq!(Scopes::of(&[crd], &served).scope(&widget), Scope::Cluster);
    }
}
