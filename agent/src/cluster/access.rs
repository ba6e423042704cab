//! Rights in words and as access reviews.
//!
//! Called by [`super::Kube`]; pure. The API server answers a review for whoever asks it, so it is
//! asked by impersonation and needs no right of its own.

use serde_json::Value;
use serde_json::json;

use deploy::object::at;
use deploy::object::text;
use deploy::ports::Access;
use deploy::principal::Actor;

use super::causes;

/// Writes the review that asks for a right of the asker.
pub(super) fn question(access: &Access) -> Value {
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "verb": access.verb,
            "group": access.group,
            "resource": access.resource,
            "subresource": access.subresource,
            "namespace": access.namespace.as_deref().unwrap_or_default(),
            "name": access.name.as_deref().unwrap_or_default(),
        }},
    })
}

/// Reads the answer of an access review.
pub(super) fn verdict(review: &Value, actor: &Actor, access: &Access) -> Result<(), String> {
    if at(review, &["status", "allowed"]).and_then(Value::as_bool) == Some(true) {
        return Ok(());
    }
    let reason = causes::capped(text(review, &["status", "reason"]));
    let head = format!("{} may not {}", actor.user, right(access));
    Err(if reason.is_empty() {
        head
    } else {
        format!("{head}: {reason}")
    })
}

/// Spells a right, such as `patch deployments.apps/scale "web" in flask`.
pub(super) fn right(access: &Access) -> String {
    let mut out = format!("{} {}", access.verb, access.resource);
    for (mark, part) in [(".", access.group.as_str()), ("/", access.subresource)] {
        if !part.is_empty() {
            out.push_str(mark);
            out.push_str(part);
        }
    }
    if let Some(name) = &access.name {
        out.push_str(&format!(" {name:?}"));
    }
    if let Some(namespace) = &access.namespace {
        out.push_str(&format!(" in {namespace}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_without_a_reason_still_says_what_is_missing() {
        let actor = Actor {
            user: "gitlab:ci_job:7".to_owned(),
            groups: Vec::new(),
        };
        let access = Access {
            verb: "patch",
            group: "apps".to_owned(),
            resource: "deployments".to_owned(),
            subresource: "scale",
            namespace: Some("flask".to_owned()),
            name: Some("web".to_owned()),
        };
        let denied = json!({"status": {"allowed": false}});
        assert_eq!(
            verdict(&denied, &actor, &access),
            Err("gitlab:ci_job:7 may not patch deployments.apps/scale \"web\" in flask".to_owned())
        );
        let allowed = json!({"status": {"allowed": true}});
        assert_eq!(verdict(&allowed, &actor, &access), Ok(()));
    }
}
