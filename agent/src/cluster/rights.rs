//! What actors may do, as the API server lists it: one request for the many questions of one run.
//!
//! Called by [`super::Kube`] before it asks about a single right. Invariants: a list only proves that
//! something is allowed, everything else is asked about by itself; a list that the server calls
//! incomplete proves nothing; a list serves questions that are asked at the same time, not later ones.
//! It is an early word only: the server decides again on each request.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use deploy::object::list;
use deploy::ports::Access;
use deploy::principal::Actor;

/// How long questions count as asked at the same time.
const TOGETHER: Duration = Duration::from_millis(500);

/// One actor's rights in one namespace, once the server has told them.
pub(super) type Told = Arc<OnceCell<Rules>>;

/// The lists that are asked for now.
#[derive(Default)]
pub(super) struct Rights {
    asked: Mutex<Vec<Asked>>,
}

struct Asked {
    actor: Actor,
    namespace: String,
    at: Instant,
    told: Told,
}

impl Rights {
    /// Returns where the list of an actor's rights is told, the same place for questions that come
    /// together.
    pub(super) fn of(&self, actor: &Actor, namespace: &str) -> Told {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|asked| asked.at.elapsed() < TOGETHER);
        let same = |asked: &&Asked| asked.actor == *actor && asked.namespace == namespace;
        if let Some(found) = asked.iter().find(same) {
            return Arc::clone(&found.told);
        }
        let told = Told::default();
        asked.push(Asked {
            actor: actor.clone(),
            namespace: namespace.to_owned(),
            at: Instant::now(),
            told: Arc::clone(&told),
        });
        told
    }
}

/// Writes the review that lists the asker's rights in a namespace.
pub(super) fn question(namespace: &str) -> Value {
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": { "namespace": namespace },
    })
}

/// Rights as rules of RBAC.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rules(Vec<Value>);

impl Rules {
    /// Reads the answer of a review.
    pub(super) fn read(review: &Value) -> Self {
        let status = review.get("status");
        let is_whole = status
            .and_then(|status| status.get("incomplete"))
            .and_then(Value::as_bool)
            == Some(false);
        let rules = list(review, &["status", "resourceRules"]);
        Self(if is_whole { rules.to_vec() } else { Vec::new() })
    }

    /// Says whether they surely grant a right in their namespace.
    pub(super) fn grant(&self, access: &Access) -> bool {
        let holds = |rule: &Value, field: &str, wanted: &str| {
            let mut words = list(rule, &[field]).iter().filter_map(Value::as_str);
            words.any(|word| word == wanted || word == "*")
        };
        let plain = access.subresource.is_empty() && access.namespace.is_some();
        let names = |rule: &Value| {
            let names = list(rule, &["resourceNames"]);
            let own = access.name.as_deref();
            names.is_empty() || own.is_some_and(|own| names.iter().any(|name| name == own))
        };
        plain
            && self.0.iter().any(|rule| {
                holds(rule, "verbs", access.verb)
                    && holds(rule, "apiGroups", &access.group)
                    && holds(rule, "resources", &access.resource)
                    && names(rule)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(verb: &'static str, group: &str, resource: &str, name: Option<&str>) -> Access {
        Access {
            verb,
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: "",
            namespace: Some("flask".to_owned()),
            name: name.map(str::to_owned),
        }
    }

    fn rules(incomplete: Value) -> Rules {
        Rules::read(
            &json!({ "status": { "incomplete": incomplete, "resourceRules": [
            { "verbs": ["get", "patch"], "apiGroups": ["", "apps"], "resources": ["configmaps", "deployments"] },
            { "verbs": ["*"], "apiGroups": ["batch"], "resources": ["*"] },
            { "verbs": ["patch"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["db"] },
            { "verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"] },
        ] } }),
        )
    }

    #[test]
    fn a_rule_grants_what_it_names() {
        let rules = rules(json!(false));
        assert!(rules.grant(&access("patch", "apps", "deployments", None)));
        assert!(rules.grant(&access("get", "", "configmaps", Some("a"))));
        assert!(rules.grant(&access("create", "batch", "jobs", None)));
        assert!(rules.grant(&access("patch", "", "secrets", Some("db"))));
    }

    #[test]
    fn nothing_is_granted_by_guess() {
        let whole = rules(json!(false));
        for denied in [
            access("create", "apps", "deployments", None),
            access("patch", "extensions", "deployments", None),
            access("patch", "", "secrets", None),
            access("patch", "", "secrets", Some("other")),
            access("get", "", "pods", None),
            Access {
                subresource: "scale",
                ..access("get", "batch", "jobs", None)
            },
            Access {
                namespace: None,
                ..access("get", "batch", "jobs", None)
            },
        ] {
            assert!(!whole.grant(&denied), "{denied:?}");
        }
        let right = access("patch", "apps", "deployments", None);
        for unsure in [json!(true), Value::Null] {
            assert!(!rules(unsure).grant(&right));
        }
        assert!(!Rules::read(&json!({ "kind": "Status" })).grant(&right));
    }

    #[tokio::test(start_paused = true)]
    async fn questions_that_come_together_share_a_list_and_later_ones_do_not() {
        let rights = Rights::default();
        let actor = |user: &str| Actor {
            user: user.to_owned(),
            groups: Vec::new(),
        };
        let first = rights.of(&actor("a"), "flask");
        assert!(Arc::ptr_eq(&first, &rights.of(&actor("a"), "flask")));
        assert!(!Arc::ptr_eq(&first, &rights.of(&actor("b"), "flask")));
        assert!(!Arc::ptr_eq(&first, &rights.of(&actor("a"), "other")));
        tokio::time::advance(TOGETHER).await;
        assert!(!Arc::ptr_eq(&first, &rights.of(&actor("a"), "flask")));
    }
}
