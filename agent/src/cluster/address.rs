//! Where things are in the API server's URL space.
//!
//! Called by the rest of [`super`]; pure. Names come from jobs, so each segment is checked and
//! encoded: nothing in a name can reach another object, a subresource or the query. The server
//! splits the path after decoding it, so an encoded slash would still be one: it is refused, as
//! Kubernetes refuses it in every name.

use deploy::object::Gvk;
use deploy::object::Resource;

/// Returns the path of an API version; `None` where it has no valid segments.
pub(super) fn version(gvk: &Gvk) -> Option<String> {
    let version = segment(&gvk.version)?;
    if gvk.group.is_empty() {
        return Some(format!("/api/{version}"));
    }
    Some(format!("/apis/{}/{version}", segment(&gvk.group)?))
}

/// Returns the path of an object; `None` where a segment is not valid or the namespace does not
/// fit the kind's scope.
pub(super) fn object(resource: &Resource, namespace: Option<&str>, name: &str) -> Option<String> {
    let version = version(&resource.gvk)?;
    let plural = segment(&resource.plural)?;
    let name = segment(name)?;
    match (resource.namespaced, namespace) {
        (true, Some(namespace)) => {
            let namespace = segment(namespace)?;
            Some(format!("{version}/namespaces/{namespace}/{plural}/{name}"))
        }
        (false, None) => Some(format!("{version}/{plural}/{name}")),
        (true, None) | (false, Some(_)) => None,
    }
}

/// Returns the path of all objects of a kind in a namespace, or of a cluster scoped kind.
pub(super) fn collection(resource: &Resource, namespace: Option<&str>) -> Option<String> {
    let version = version(&resource.gvk)?;
    let plural = segment(&resource.plural)?;
    match (resource.namespaced, namespace) {
        (true, Some(namespace)) => {
            let namespace = segment(namespace)?;
            Some(format!("{version}/namespaces/{namespace}/{plural}"))
        }
        (false, None) => Some(format!("{version}/{plural}")),
        (true, None) | (false, Some(_)) => None,
    }
}

/// Encodes one segment; `None` for those that mean something else in a path.
pub(super) fn segment(text: &str) -> Option<String> {
    if matches!(text, "" | "." | "..") || text.contains(['/', '%']) {
        return None;
    }
    Some(query(text))
}

/// Encodes a value of the query.
pub(super) fn query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(api_version: &str, kind: &str, plural: &str, namespaced: bool) -> Resource {
        Resource {
            gvk: Gvk::new(api_version, kind),
            plural: plural.to_owned(),
            namespaced,
        }
    }

    #[test]
    fn objects_have_addresses_by_group_and_scope() {
        let deployment = resource("apps/v1", "Deployment", "deployments", true);
        let namespace = resource("v1", "Namespace", "namespaces", false);
        assert_eq!(
            object(&deployment, Some("flask"), "web").as_deref(),
            Some("/apis/apps/v1/namespaces/flask/deployments/web")
        );
        assert_eq!(
            object(&namespace, None, "flask").as_deref(),
            Some("/api/v1/namespaces/flask")
        );
        assert_eq!(
            collection(&deployment, Some("flask")).as_deref(),
            Some("/apis/apps/v1/namespaces/flask/deployments")
        );
        assert_eq!(
            collection(&namespace, None).as_deref(),
            Some("/api/v1/namespaces")
        );
        assert_eq!(object(&deployment, None, "web"), None);
        assert_eq!(object(&namespace, Some("x"), "flask"), None);
    }

    #[test]
    fn a_name_cannot_leave_its_segment() {
        let role = resource("v1", "ConfigMap", "configmaps", true);
        let of = |name| object(&role, Some("a"), name);
        assert_eq!(
            of("x?dryRun=# ").as_deref(),
            Some("/api/v1/namespaces/a/configmaps/x%3FdryRun%3D%23%20")
        );
        assert_eq!(
            of("system:x").as_deref(),
            Some("/api/v1/namespaces/a/configmaps/system:x")
        );
        for bad in ["", ".", "..", "x/../y", "x%2Fy", "x/status"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
