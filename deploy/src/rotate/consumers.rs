//! Which workloads use a Secret, and which of their pods still run with older values. Pure.
//!
//! Called by [`crate::engine`] with the workloads and pods of one namespace. A reference is what
//! makes a kubelet put values into a container: variables and volumes. Pull secrets are read at each
//! pull and need no restart.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use crate::object::at;
use crate::object::list;
use crate::object::text;
use crate::spec::Restart;
use crate::spec::Workload;
use crate::spec::WorkloadKind;

/// Which keys of a Secret a pod uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uses {
    /// None.
    Nothing,
    /// These.
    Keys(BTreeSet<String>),
    /// All, whatever they are.
    Everything,
}

impl Uses {
    fn key(&mut self, key: &str) {
        match self {
            Self::Nothing => *self = Self::Keys(BTreeSet::from([key.to_owned()])),
            Self::Keys(keys) => {
                keys.insert(key.to_owned());
            }
            Self::Everything => {}
        }
    }

    /// Items name keys; without any a volume holds all of them.
    fn items(&mut self, source: &Value) {
        let items = list(source, &["items"]);
        if items.is_empty() {
            *self = Self::Everything;
        }
        for item in items {
            self.key(text(item, &["key"]));
        }
    }

    /// Says whether one of these keys is used.
    #[must_use]
    pub fn any_of(&self, changed: &BTreeSet<String>) -> bool {
        match self {
            Self::Nothing => false,
            Self::Keys(keys) => !keys.is_disjoint(changed),
            Self::Everything => true,
        }
    }
}

/// Says which keys of a Secret a pod's spec uses.
#[must_use]
pub fn uses(pod: &Value, secret: &str) -> Uses {
    let mut uses = Uses::Nothing;
    for group in ["containers", "initContainers"] {
        for container in list(pod, &[group]) {
            for source in list(container, &["envFrom"]) {
                if text(source, &["secretRef", "name"]) == secret {
                    uses = Uses::Everything;
                }
            }
            for variable in list(container, &["env"]) {
                let Some(reference) = at(variable, &["valueFrom", "secretKeyRef"]) else {
                    continue;
                };
                if text(reference, &["name"]) == secret {
                    uses.key(text(reference, &["key"]));
                }
            }
        }
    }
    for volume in list(pod, &["volumes"]) {
        if let Some(source) = at(volume, &["secret"])
            && text(source, &["secretName"]) == secret
        {
            uses.items(source);
        }
        for source in list(volume, &["projected", "sources"]) {
            if let Some(source) = at(source, &["secret"])
                && text(source, &["name"]) == secret
            {
                uses.items(source);
            }
        }
    }
    uses
}

/// A workload as the cluster has it.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    /// Its kind.
    pub kind: WorkloadKind,
    /// The object.
    pub body: &'a Value,
}

impl Running<'_> {
    fn name(&self) -> Workload {
        Workload {
            kind: self.kind,
            name: text(self.body, &["metadata", "name"]).to_owned(),
        }
    }

    fn template(&self) -> &Value {
        at(self.body, &["spec", "template", "spec"]).unwrap_or(&Value::Null)
    }
}

/// Which workloads have to get new pods, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Affected {
    /// The workloads, each with the Secrets whose change it has to see.
    pub workloads: BTreeMap<Workload, BTreeSet<String>>,
    /// Workloads that were named for a restart and are not there.
    pub absent: Vec<Workload>,
}

/// What changed in one Secret.
#[derive(Debug, Clone)]
pub struct Changed<'a> {
    /// The Secret.
    pub secret: &'a str,
    /// The keys whose values changed.
    pub keys: &'a BTreeSet<String>,
    /// Who is restarted for it.
    pub restart: &'a Restart,
}

/// Says which workloads have to get new pods after changes.
#[must_use]
pub fn affected(running: &[Running<'_>], changes: &[Changed<'_>]) -> Affected {
    let mut found = Affected::default();
    for change in changes {
        match change.restart {
            Restart::Never => {}
            Restart::Named(named) => {
                for workload in named {
                    if running.iter().any(|one| one.name() == *workload) {
                        found.add(workload.clone(), change.secret);
                    } else {
                        found.absent.push(workload.clone());
                    }
                }
            }
            Restart::Auto => {
                for one in running {
                    if uses(one.template(), change.secret).any_of(change.keys) {
                        found.add(one.name(), change.secret);
                    }
                }
            }
        }
    }
    found
}

impl Affected {
    fn add(&mut self, workload: Workload, secret: &str) {
        let secrets = self.workloads.entry(workload).or_default();
        secrets.insert(secret.to_owned());
    }
}

/// Names the pods that use a Secret and were made before its values were written, both by the API
/// server's clock. Pods that are ending, or have ended, hold nothing up.
#[must_use]
pub fn older_pods(pods: &[Value], secret: &str, written: Timestamp) -> Vec<String> {
    let is_older = |pod: &&Value| {
        let made = text(pod, &["metadata", "creationTimestamp"]).parse::<Timestamp>();
        let ends = !text(pod, &["metadata", "deletionTimestamp"]).is_empty();
        let ended = matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed");
        let spec = at(pod, &["spec"]).unwrap_or(&Value::Null);
        !ends
            && !ended
            && made.is_ok_and(|made| made < written)
            && uses(spec, secret) != Uses::Nothing
    };
    let pods = pods.iter().filter(is_older);
    pods.map(|pod| text(pod, &["metadata", "name"]).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_way_to_refer_to_a_secret_is_seen() {
        let variable = json!({"containers": [{"env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
            {"name": "B", "value": "db"},
        ]}]});
        assert_eq!(uses(&variable, "db"), Uses::Keys(keys(&["password"])));
        assert_eq!(uses(&variable, "other"), Uses::Nothing);
        let whole = [
            json!({"initContainers": [{"envFrom": [{"secretRef": {"name": "db"}}]}]}),
            json!({"volumes": [{"secret": {"secretName": "db"}}]}),
            json!({"volumes": [{"projected": {"sources": [{"secret": {"name": "db"}}]}}]}),
        ];
        for pod in whole {
            assert_eq!(uses(&pod, "db"), Uses::Everything, "{pod}");
        }
        let some = [
            json!({"volumes": [{"secret": {"secretName": "db", "items": [{"key": "a", "path": "x"}]}}]}),
            json!({"volumes": [{"projected": {"sources": [
                {"secret": {"name": "db", "items": [{"key": "a", "path": "x"}]}}]}}]}),
        ];
        for pod in some {
            assert_eq!(uses(&pod, "db"), Uses::Keys(keys(&["a"])), "{pod}");
        }
        let pull = json!({"imagePullSecrets": [{"name": "db"}]});
        assert_eq!(uses(&pull, "db"), Uses::Nothing);
    }

    fn deployment(name: &str, pod: &Value) -> Value {
        json!({"metadata": {"name": name}, "spec": {"template": {"spec": pod}}})
    }

    fn workload(name: &str) -> Workload {
        Workload {
            kind: WorkloadKind::Deployment,
            name: name.to_owned(),
        }
    }

    #[test]
    fn only_users_of_a_changed_key_are_restarted_and_each_once() {
        let of_key = |key: &str| {
            json!({"containers": [{"env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": key}}}]}]})
        };
        let web = deployment("web", &of_key("password"));
        let cron = deployment("cron", &of_key("host"));
        let running = [&web, &cron].map(|body| Running {
            kind: WorkloadKind::Deployment,
            body,
        });
        let changed = keys(&["password"]);
        let change = |secret, restart| Changed {
            secret,
            keys: &changed,
            restart,
        };
        let named = Restart::Named(vec![workload("web"), workload("gone")]);
        let found = affected(
            &running,
            &[
                change("db", &Restart::Auto),
                change("other", &named),
                change("third", &Restart::Never),
            ],
        );
        let expected = BTreeMap::from([(workload("web"), keys(&["db", "other"]))]);
        assert_eq!(found.workloads, expected);
        assert_eq!(found.absent, [workload("gone")]);
    }

    #[test]
    fn pods_of_before_the_write_are_named_unless_they_end() {
        let pod = |name: &str, made: &str, more: Value| {
            let mut pod = json!({
                "metadata": {"name": name, "creationTimestamp": made},
                "spec": {"volumes": [{"secret": {"secretName": "db"}}]},
            });
            for (key, value) in more.as_object().into_iter().flatten() {
                for (inner, value) in value.as_object().into_iter().flatten() {
                    pod[key][inner] = value.clone();
                }
            }
            pod
        };
        let before = "2026-01-01T00:00:00Z";
        let ending = json!({"metadata": {"deletionTimestamp": before}});
        let pods = [
            pod("old", before, json!({})),
            pod("new", "2026-01-01T00:00:05Z", json!({})),
            pod("ending", before, ending),
            pod("done", before, json!({"status": {"phase": "Succeeded"}})),
        ];
        let written = "2026-01-01T00:00:05Z".parse().expect("a timestamp");
        assert_eq!(older_pods(&pods, "db", written), ["old"]);
        assert_eq!(older_pods(&pods, "other", written), Vec::<String>::new());
    }
}
