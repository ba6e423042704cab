//! What changes? The ordered steps of a run, from what is wanted and what is there.
//!
//! [`observe`] reads the live objects, [`plan`] is pure. A [`Plan`] owns the permit that allowed it
//! and holds references, versions and key names instead of secret values, so it can be logged and
//! answered to a dry run. [`crate::check`] refines it with the server's own view, [`crate::apply`]
//! carries it out. Called by [`crate::engine`].

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::StreamExt as _;
use proto::report::Action;
use proto::report::FieldChange;
use proto::report::KeyChange;
use serde_json::Value;
use serde_json::json;

use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::backoff::Trouble;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::text;
use crate::ports::ClusterError;
use crate::ports::Ports;
use crate::ports::SecretView;
use crate::resolve::Draft;
use crate::secret::FingerprintKey;
use crate::spec::SecretSpec;
use crate::terms::Terms;

/// Reads and dry-runs in flight at once. Enough to hide latency, few enough for priority and
/// fairness of the API server to leave others alone.
pub(crate) const WIDTH: usize = 16;

/// When an object is written; all objects of a wave are written concurrently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wave {
    /// Namespaces and custom resource definitions.
    Foundation,
    /// What pods need when they start: Secrets, ConfigMaps, ServiceAccounts, claims, RBAC.
    Supplies,
    /// Everything else.
    Workloads,
    /// Webhooks and aggregated APIs, which may stand in the way of everything before them.
    Gates,
}

impl Wave {
    /// All waves in order.
    pub const ALL: [Self; 4] = [
        Self::Foundation,
        Self::Supplies,
        Self::Workloads,
        Self::Gates,
    ];

    /// Returns the wave of a kind.
    #[must_use]
    pub fn of(gvk: &Gvk) -> Self {
        match (gvk.group.as_str(), gvk.kind.as_str()) {
            ("", "Namespace") | ("apiextensions.k8s.io", "CustomResourceDefinition") => {
                Self::Foundation
            }
            (
                "",
                "Secret"
                | "ConfigMap"
                | "ServiceAccount"
                | "PersistentVolumeClaim"
                | "LimitRange"
                | "ResourceQuota",
            )
            | ("rbac.authorization.k8s.io" | "storage.k8s.io" | "scheduling.k8s.io", _) => {
                Self::Supplies
            }
            ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _) => Self::Gates,
            _ => Self::Workloads,
        }
    }
}

/// What a step sends.
#[derive(Debug)]
pub enum Content {
    /// The very object of the manifest.
    Object(Value),
    /// A Secret from Vault: everything but the data, and which of the spec's secrets it is.
    Secret {
        /// `apiVersion`, `kind`, `metadata`, `type`.
        body: Value,
        /// Index in the spec.
        index: usize,
    },
}

impl Content {
    /// Returns the JSON without secret data.
    #[must_use]
    pub const fn body(&self) -> &Value {
        match self {
            Self::Object(body) | Self::Secret { body, .. } => body,
        }
    }
}

/// One object of the run.
#[derive(Debug)]
pub struct Step {
    /// Which object.
    pub id: ObjectId,
    /// When.
    pub wave: Wave,
    /// What happens to it.
    pub action: Action,
    /// Why, in words.
    pub reason: String,
    /// For a Secret: what happens to each key.
    pub keys: Vec<KeyChange>,
    /// For an object that changes: every field that differs.
    pub fields: Vec<FieldChange>,
    /// Things to know about it.
    pub notes: Vec<String>,
    /// What is sent.
    pub content: Content,
    /// The server's view from the check, where it could be asked.
    pub checked: Option<AppliedObject>,
}

/// What will be done, and the permit for it.
#[derive(Debug)]
pub struct Plan {
    permit: Permit,
    pub(crate) steps: Vec<Step>,
    /// On what terms objects are written; none is a plain apply.
    pub(crate) terms: BTreeMap<ObjectId, Terms>,
}

impl Plan {
    /// Returns the permit.
    #[must_use]
    pub const fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Returns the steps in the order of waves.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the steps as the report tells them.
    #[must_use]
    pub fn told(&self) -> Vec<proto::report::Step> {
        self.steps
            .iter()
            .map(|step| proto::report::Step {
                object: step.id.to_string(),
                action: step.action,
                reason: step.reason.clone(),
                keys: step.keys.clone(),
                fields: step.fields.clone(),
                notes: step.notes.clone(),
            })
            .collect()
    }

    /// Says whether this run itself creates the namespace.
    #[must_use]
    pub fn makes_namespace(&self, name: &str) -> bool {
        self.steps
            .iter()
            .any(|step| step.id.gvk.is("", "Namespace") && step.id.name == name)
    }

    /// Says whether this run itself defines the kind.
    #[must_use]
    pub fn defines(&self, gvk: &Gvk) -> bool {
        self.steps
            .iter()
            .filter(|step| {
                step.id
                    .gvk
                    .is("apiextensions.k8s.io", "CustomResourceDefinition")
            })
            .any(|step| {
                let body = step.content.body();
                text(body, &["spec", "group"]) == gvk.group
                    && text(body, &["spec", "names", "kind"]) == gvk.kind
            })
    }
}

/// What is there now.
#[derive(Debug)]
pub enum Live {
    /// Nothing, or its kind or namespace does not exist either.
    Absent,
    /// An object.
    Object(Value),
    /// A Secret: keyed fingerprints of its values, and everything but them.
    Secret(SecretView),
}

/// Lists the objects of a permit: Secrets from Vault first, then manifests.
#[must_use]
pub fn wanted(permit: &Permit) -> Vec<(ObjectId, Content)> {
    let namespace = permit.namespace().as_str();
    let secrets = permit
        .request()
        .spec
        .secrets
        .iter()
        .enumerate()
        .map(|(index, spec)| {
            let id = ObjectId {
                gvk: Gvk::new("v1", "Secret"),
                namespace: Some(namespace.to_owned()),
                name: spec.name.clone(),
            };
            let body = secret_body(spec, namespace, permit.request().spec.name.as_str());
            (id, Content::Secret { body, index })
        });
    let objects = permit
        .request()
        .objects
        .iter()
        .map(|object| (object.id.clone(), Content::Object(object.body.clone())));
    secrets.chain(objects).collect()
}

fn secret_body(spec: &SecretSpec, namespace: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": spec.name,
            "namespace": namespace,
            "labels": { "app.kubernetes.io/managed-by": "quaymaster" },
            "annotations": { "state.quaymaster.dev/app": app },
        },
        "type": spec.kind,
    })
}

/// Reads what is there of every wanted object.
///
/// # Errors
/// The first error that waiting does not mend.
pub async fn observe(
    permit: &Permit,
    wanted: &[(ObjectId, Content)],
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<BTreeMap<ObjectId, Live>, ClusterError> {
    // Boxed one by one: a closure that returns futures over borrowed items is not general enough to
    // be sent between threads.
    let mut reads = Vec::with_capacity(wanted.len());
    for (id, content) in wanted {
        reads.push(observe_one(permit, id, content, ports, patience).boxed());
    }
    let mut reads = futures::stream::iter(reads).buffer_unordered(WIDTH);
    let mut observed = BTreeMap::new();
    while let Some((id, live)) = reads.next().await {
        observed.insert(id, live?);
    }
    Ok(observed)
}

async fn observe_one(
    permit: &Permit,
    id: &ObjectId,
    content: &Content,
    ports: &Ports,
    patience: &Patience<'_>,
) -> (ObjectId, Result<Live, ClusterError>) {
    let actor = permit.actor();
    let is_secret = matches!(content, Content::Secret { .. }) || id.gvk.is("", "Secret");
    let live = if is_secret {
        let read = patience
            .retry(|| ports.cluster.secret(actor, id), cluster_trouble)
            .await;
        read.map(|found| found.map_or(Live::Absent, Live::Secret))
    } else {
        let read = patience
            .retry(|| ports.cluster.get(actor, id), cluster_trouble)
            .await;
        read.map(|found| found.map_or(Live::Absent, Live::Object))
    };
    let live = match live {
        // The check says later whether a missing kind or namespace is an error or part of the run.
        Err(ClusterError::UnknownKind { .. } | ClusterError::Missing { .. }) => Ok(Live::Absent),
        other => other,
    };
    (id.clone(), live)
}

/// Tells the retry policy about a cluster error.
pub(crate) fn cluster_trouble(error: &ClusterError) -> Trouble {
    let retry_after_seconds = match error {
        ClusterError::Unavailable {
            retry_after_seconds,
            ..
        } => *retry_after_seconds,
        ClusterError::Forbidden { .. }
        | ClusterError::Invalid { .. }
        | ClusterError::UnknownKind { .. }
        | ClusterError::Missing { .. }
        | ClusterError::Conflict { .. }
        | ClusterError::Exists { .. }
        | ClusterError::Raced { .. }
        | ClusterError::Unanswered { .. }
        | ClusterError::Unexpected { .. } => None,
    };
    Trouble {
        class: error.class(),
        retry_after_seconds,
        reason: error.to_string(),
    }
}

/// Makes the plan. Pure.
#[must_use]
pub fn plan(
    permit: Permit,
    wanted: Vec<(ObjectId, Content)>,
    observed: &BTreeMap<ObjectId, Live>,
    draft: Option<&Draft>,
    key: &FingerprintKey,
) -> Plan {
    let specs = &permit.request().spec.secrets;
    let mut steps: Vec<Step> = wanted
        .into_iter()
        .map(|(id, content)| {
            let live = observed.get(&id).unwrap_or(&Live::Absent);
            let (action, reason, keys) = match (&content, live) {
                (Content::Secret { index, .. }, live) => {
                    secret_step(&specs[*index], live, draft, key)
                }
                (Content::Object(_), Live::Absent) => {
                    (Action::Create, "does not exist yet".to_owned(), Vec::new())
                }
                (Content::Object(_), Live::Object(_) | Live::Secret(_)) => (
                    Action::Change,
                    "exists, compared by the server in the check".to_owned(),
                    Vec::new(),
                ),
            };
            Step {
                wave: Wave::of(&id.gvk),
                id,
                action,
                reason,
                keys,
                fields: Vec::new(),
                notes: Vec::new(),
                content,
                checked: None,
            }
        })
        .collect();
    steps.sort_by_key(|step| step.wave);
    Plan {
        permit,
        steps,
        terms: BTreeMap::new(),
    }
}

fn secret_step(
    spec: &SecretSpec,
    live: &Live,
    draft: Option<&Draft>,
    key: &FingerprintKey,
) -> (Action, String, Vec<KeyChange>) {
    let there = match live {
        Live::Secret(there) => Some(&there.values),
        Live::Absent | Live::Object(_) => None,
    };
    let keys: Vec<KeyChange> = spec
        .keys
        .iter()
        .map(|(name, source)| {
            let known = draft.and_then(|draft| draft.known(source));
            let before = there.and_then(|there| there.get(name));
            let action = match (known, before) {
                (_, None) => Action::Create,
                (None, Some(_)) => Action::Unknown,
                (Some(value), Some(before)) if key.fingerprint(name, value.bytes()) == *before => {
                    Action::Same
                }
                (Some(_), Some(_)) => Action::Change,
            };
            let source = draft.map_or_else(|| "vault".to_owned(), |draft| draft.describe(source));
            KeyChange {
                key: name.clone(),
                action,
                source,
            }
        })
        .collect();
    let (action, reason) = match there {
        None => (Action::Create, "does not exist yet".to_owned()),
        Some(_) if keys.iter().all(|key| key.action == Action::Same) => (
            Action::Same,
            "every key has the value that Vault has".to_owned(),
        ),
        Some(_) => {
            let names: Vec<&str> = keys
                .iter()
                .filter(|key| key.action != Action::Same)
                .map(|key| key.key.as_str())
                .collect();
            (
                Action::Change,
                format!("new or other values for {}", names.join(", ")),
            )
        }
    };
    (action, reason, keys)
}
