//! What objects of Flux say of themselves.
//!
//! Pure; used by [`super::scene`] and [`super::wait`]. The fields are those of the APIs `source.toolkit.fluxcd.io/v1`,
//! `kustomize.toolkit.fluxcd.io/v1` and `helm.toolkit.fluxcd.io/v2`. `lastAppliedRevision` alone misleads: it
//! stays at the old revision when a new one fails, so the attempted one is looked at first.

use serde_json::Value;

use crate::object::at;
use crate::object::list;
use crate::object::number;
use crate::object::text;
use crate::ports::CommitId;

/// The annotation that asks for a reconciliation now; every other value asks again.
pub(super) const REQUESTED: &str = "reconcile.fluxcd.io/requestedAt";

/// A condition's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    True,
    False,
    Unknown,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) status: Is,
    pub(super) reason: String,
    pub(super) message: String,
}

/// Reads a condition, if it is about the present generation.
pub(super) fn condition(object: &Value, kind: &str) -> Option<Condition> {
    let found = list(object, &["status", "conditions"])
        .iter()
        .find(|condition| text(condition, &["type"]) == kind)?;
    let about = number(found, &["observedGeneration"]);
    let now = number(object, &["metadata", "generation"]);
    if about.is_some() && about != now {
        return None;
    }
    Some(Condition {
        status: match text(found, &["status"]) {
            "True" => Is::True,
            "False" => Is::False,
            _ => Is::Unknown,
        },
        reason: text(found, &["reason"]).to_owned(),
        message: text(found, &["message"]).to_owned(),
    })
}

/// Says whether a condition is false for now only.
pub(super) fn is_on_the_way(ready: &Condition) -> bool {
    // `DependencyNotReady` heals when the other is ready; the deadline bounds it.
    ["Progressing", "ProgressingWithRetry", "DependencyNotReady"].contains(&ready.reason.as_str())
}

pub(super) fn is_suspended(object: &Value) -> bool {
    at(object, &["spec", "suspend"]) == Some(&Value::Bool(true))
}

/// Says whether the controller has seen the present spec.
pub(super) fn is_observed(object: &Value) -> bool {
    number(object, &["status", "observedGeneration"]) == number(object, &["metadata", "generation"])
}

/// Says whether a request was taken up.
pub(super) fn has_handled(object: &Value, token: &str) -> bool {
    text(object, &["status", "lastHandledReconcileAt"]) == token
}

/// Cuts the commit out of a revision: `main@sha1:<id>`, `sha1:<id>`, and `main/<id>` of old.
pub(super) fn commit(revision: &str) -> Option<CommitId> {
    let id = revision.rsplit([':', '/']).next()?;
    CommitId::parse(id)
}

/// The commit that a source serves.
pub(super) fn served(source: &Value) -> Option<CommitId> {
    commit(text(source, &["status", "artifact", "revision"]))
}

/// The commit that was applied or attempted last.
pub(super) fn attempted(object: &Value) -> Option<CommitId> {
    commit(text(object, &["status", "lastAttemptedRevision"]))
}

/// Says whether a Kustomization has written the objects of the revision that it attempts: all that may
/// follow are health checks.
pub(super) fn has_applied(object: &Value) -> bool {
    let attempted = text(object, &["status", "lastAttemptedRevision"]);
    if attempted.is_empty() {
        return false;
    }
    let applied = text(object, &["status", "lastAppliedRevision"]) == attempted;
    let ready = condition(object, "Ready");
    let done = ready
        .as_ref()
        .is_some_and(|ready| ready.status == Is::True && applied);
    let healthy = condition(object, "Healthy");
    let checked = healthy.is_some_and(|healthy| {
        // The message names the revision since kustomize-controller 1.0.
        healthy.status == Is::Unknown && healthy.message.contains(attempted)
    });
    let unhealthy =
        ready.is_some_and(|ready| ready.status == Is::False && ready.reason == "HealthCheckFailed");
    done || checked || unhealthy
}

/// The beginning of the commit whose chart a release was attempted with last, where its chart follows the
/// revisions of a repository.
pub(super) fn chart_commit(object: &Value) -> Option<&str> {
    let chart = at(object, &["spec", "chart", "spec"])?;
    let follows = text(chart, &["reconcileStrategy"]) == "Revision"
        && text(chart, &["sourceRef", "kind"]) == "GitRepository";
    let version = text(object, &["status", "lastAttemptedRevision"]);
    let (_, id) = version.split_once('+').filter(|_| follows)?;
    // Values files of the source add a number.
    let id = id.split('.').next()?;
    (id.len() >= 7).then_some(id)
}

/// Says whether Helm is at work on a release for a commit: by the chart's version, which ends with the
/// beginning of the commit where the chart follows revisions.
pub(super) fn is_installing(object: &Value, commit: &CommitId) -> bool {
    let busy = condition(object, "Reconciling")
        .is_some_and(|busy| busy.status == Is::True && busy.message.starts_with("Running '"));
    let version = text(object, &["status", "lastAttemptedRevision"]);
    let of_commit = version
        .split_once('+')
        .is_some_and(|(_, id)| id.len() >= 7 && commit.as_str().starts_with(id));
    busy && is_observed(object) && of_commit
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OLD: &str = "1111111111111111111111111111111111111111";
    const NEW: &str = "2222222222222222222222222222222222222222";

    fn kustomization(attempted: &str, applied: &str, conditions: Value) -> Value {
        json!({ "metadata": { "generation": 2 },
            "status": { "observedGeneration": 2,
                "lastAttemptedRevision": format!("main@sha1:{attempted}"),
                "lastAppliedRevision": format!("main@sha1:{applied}"),
                "conditions": conditions } })
    }

    #[test]
    fn a_commit_is_read_out_of_every_form_of_revision() {
        for form in ["main@sha1:", "sha1:", "main/", "release/1@sha1:", ""] {
            let id = commit(&format!("{form}{NEW}"));
            assert_eq!(id, CommitId::parse(NEW), "{form}");
        }
        assert_eq!(commit("0.1.0+3"), None);
    }

    #[test]
    fn what_is_attempted_is_applied_once_health_is_looked_at() {
        let ready = |status: &str, reason: &str| json!({ "type": "Ready", "status": status, "reason": reason, "message": "m" });
        let healthy = |revision: &str| {
            json!({ "type": "Healthy", "status": "Unknown", "reason": "Progressing",
                "message": format!("Running health checks for revision main@sha1:{revision} with a timeout of 1m0s") })
        };
        let progress = ready("Unknown", "Progressing");
        assert!(!has_applied(&kustomization(NEW, OLD, json!([progress]))));
        assert!(has_applied(&kustomization(
            NEW,
            OLD,
            json!([progress, healthy(NEW)])
        )));
        assert!(!has_applied(&kustomization(
            NEW,
            OLD,
            json!([progress, healthy(OLD)])
        )));
        assert!(has_applied(&kustomization(
            NEW,
            NEW,
            json!([ready("True", "Succeeded")])
        )));
        // Ready from before: the new revision was attempted and is not applied yet.
        assert!(!has_applied(&kustomization(
            NEW,
            OLD,
            json!([ready("True", "Succeeded")])
        )));
        assert!(!has_applied(&kustomization(
            NEW,
            OLD,
            json!([ready("False", "BuildFailed")])
        )));
        assert!(has_applied(&kustomization(
            NEW,
            OLD,
            json!([ready("False", "HealthCheckFailed")])
        )));
    }

    #[test]
    fn a_release_is_at_work_for_the_commit_in_its_charts_version() {
        let object = |version: &str, message: &str| {
            json!({ "metadata": { "generation": 1 }, "status": { "observedGeneration": 1,
                "lastAttemptedRevision": version,
                "conditions": [{ "type": "Reconciling", "status": "True", "reason": "Progressing", "message": message }] } })
        };
        let ours = CommitId::parse(NEW).expect("an id");
        let running = "Running 'upgrade' action with timeout of 2m0s";
        assert!(is_installing(&object("0.1.0+222222222222", running), &ours));
        assert!(!is_installing(
            &object("0.1.0+111111111111", running),
            &ours
        ));
        assert!(!is_installing(&object("0.1.0", running), &ours));
        assert!(!is_installing(
            &object("0.1.0+222222222222", "Fulfilling prerequisites"),
            &ours
        ));
    }

    #[test]
    fn commit_of_a_chart_is_told_only_where_the_chart_follows_a_repository() {
        let object = |strategy: &str, kind: &str, version: &str| {
            json!({ "spec": { "chart": { "spec": { "reconcileStrategy": strategy, "sourceRef": { "kind": kind } } } },
                "status": { "lastAttemptedRevision": version } })
        };
        let (version, id) = ("0.1.0+222222222222", Some("222222222222"));
        let follows = object("Revision", "GitRepository", version);
        assert_eq!(chart_commit(&follows), id);
        let numbered = object("Revision", "GitRepository", &format!("{version}.2"));
        assert_eq!(chart_commit(&numbered), id);
        for (strategy, kind, version) in [
            ("ChartVersion", "GitRepository", version),
            ("Revision", "HelmRepository", version),
            ("Revision", "GitRepository", "0.1.0"),
        ] {
            assert_eq!(chart_commit(&object(strategy, kind, version)), None);
        }
    }

    #[test]
    fn a_condition_of_an_older_generation_says_nothing() {
        let object = |about: i64| {
            json!({ "metadata": { "generation": 3 }, "status": { "conditions": [
                { "type": "Ready", "status": "True", "reason": "r", "message": "", "observedGeneration": about }] } })
        };
        assert_eq!(condition(&object(2), "Ready"), None);
        assert!(condition(&object(3), "Ready").is_some());
    }
}
