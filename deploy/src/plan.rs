//! What changes? The ordered steps of a run, from what is wanted and what is there.
//!
//! [`observe`] reads the live objects, [`plan`] is pure and proves of most objects that they are right
//! already, so that neither a dry run nor a write is sent for them. A [`Plan`] owns the permit that allowed it
//! and holds references, versions and key names instead of secret values, so it can be logged and
//! answered to a dry run. [`crate::check`] refines it with the server's own view, [`crate::apply`]
//! carries it out. Called by [`crate::engine`].

mod live;
pub(crate) mod secrets;

use std::collections::BTreeMap;
use std::fmt;

use proto::report::Action;
use proto::report::FieldChange;
use proto::report::KeyChange;
use serde_json::Value;
use serde_json::json;

use crate::authorize::Permit;
use crate::backoff::Patience;
pub(crate) use crate::backoff::cluster_trouble;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::at;
use crate::object::text;
use crate::owned;
use crate::owned::Sameness;
use crate::ports::ClusterError;
use crate::ports::Ports;
use crate::ports::SecretView;
use crate::resolve::Draft;
use crate::secret::FingerprintKey;
use crate::spec::SecretSpec;
use crate::terms::Terms;

/// Requests of one run that may wait for their turn at once. How many are in flight is decided for all
/// runs of a cluster together, by the pace that the server can take.
pub(crate) const WIDTH: usize = 64;

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

impl fmt::Debug for Content {
    /// Leaves the body out: a Secret of a manifest holds its values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(_) => f.write_str("Object"),
            Self::Secret { index, .. } => write!(f, "Secret({index})"),
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
    /// How the release of a chart stands.
    pub(crate) released: Released,
}

/// How the release of a plan's chart stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Released {
    /// There is no chart.
    Never,
    /// Helm has to write it.
    Stale,
    /// Helm has nothing to do.
    Current,
}

impl Plan {
    /// Returns the permit.
    #[must_use]
    pub const fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Gives the permit back, so that a new plan can be made with it.
    #[must_use]
    pub fn into_permit(self) -> Permit {
        self.permit
    }

    /// Says whether anything would be written.
    #[must_use]
    pub fn writes(&self) -> bool {
        let step_writes = |step: &Step| step.action != Action::Same || step.checked.is_none();
        // Hooks run with the release, or not at all.
        let steps = self.steps.iter().filter(|step| !self.is_hook(step));
        self.released == Released::Stale || steps.into_iter().any(step_writes)
    }

    /// Returns the steps in the order of waves.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Says whether Helm writes a step: it is an object of a chart.
    #[must_use]
    pub fn by_helm(&self, step: &Step) -> bool {
        self.permit.request().spec.helm.is_some() && matches!(step.content, Content::Object(_))
    }

    /// Says whether a step is a hook of the chart: it comes and goes with Helm.
    #[must_use]
    pub fn is_hook(&self, step: &Step) -> bool {
        self.by_helm(step) && is_hook(step.content.body())
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

impl Live {
    const fn secret(&self) -> Option<&SecretView> {
        match self {
            Self::Secret(view) => Some(view),
            Self::Absent | Self::Object(_) => None,
        }
    }
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
        .filter(|object| is_written(&object.body))
        .map(|object| (object.id.clone(), Content::Object(object.body.clone())));
    secrets.chain(objects).collect()
}

/// The annotation that makes an object of a chart a hook.
const HOOK: &str = "helm.sh/hook";

/// Says whether Helm treats an object of a chart as a hook.
pub(crate) fn is_hook(body: &Value) -> bool {
    at(body, &["metadata", "annotations", HOOK]).is_some()
}

/// Says whether a deploy writes an object: hooks for tests and deletions only lie in the release.
fn is_written(body: &Value) -> bool {
    let events = text(body, &["metadata", "annotations", HOOK]);
    let written = |event: &str| {
        matches!(
            event.trim(),
            "pre-install" | "post-install" | "pre-upgrade" | "post-upgrade"
        )
    };
    !is_hook(body) || events.split(',').any(written)
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
    let reader = live::Reader {
        actor: permit.actor(),
        ports,
        patience,
    };
    reader.all(wanted).await
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
            let judged = match &content {
                Content::Secret { body, index } => {
                    let there = live.secret();
                    secrets::from_vault(&id, body, &specs[*index], there, draft, key)
                }
                Content::Object(body) if id.gvk.is("", "Secret") => {
                    secrets::from_manifest(&id, body, live.secret(), key)
                }
                Content::Object(body) => judge(&id, body, live),
            };
            Step {
                wave: Wave::of(&id.gvk),
                id,
                action: judged.action,
                reason: judged.reason,
                keys: judged.keys,
                fields: Vec::new(),
                notes: Vec::new(),
                content,
                checked: judged.checked,
            }
        })
        .collect();
    steps.sort_by_key(|step| step.wave);
    let released = if permit.request().spec.helm.is_some() {
        Released::Stale
    } else {
        Released::Never
    };
    Plan {
        released,
        permit,
        steps,
        terms: BTreeMap::new(),
    }
}

/// What happens to an object, before the server is asked.
struct Judged {
    action: Action,
    reason: String,
    keys: Vec<KeyChange>,
    checked: Option<AppliedObject>,
}

impl Judged {
    fn create() -> Self {
        Self {
            action: Action::Create,
            ..Self::change("does not exist yet")
        }
    }

    fn same(reason: &str) -> Self {
        Self {
            action: Action::Same,
            ..Self::change(reason)
        }
    }

    fn change(reason: impl Into<String>) -> Self {
        Self {
            action: Action::Change,
            reason: reason.into(),
            keys: Vec::new(),
            checked: None,
        }
    }

    /// A change of fields; the first ones are named.
    fn differs(paths: &[String]) -> Self {
        const NAMED: usize = 6;
        let named = paths[..paths.len().min(NAMED)].join(", ");
        Self::change(match paths.len().saturating_sub(NAMED) {
            0 => named,
            more => format!("{named} and {more} more"),
        })
    }
}

/// Decides on an object that is not a Secret.
fn judge(id: &ObjectId, body: &Value, live: &Live) -> Judged {
    let there = match live {
        Live::Object(there) => there,
        Live::Absent | Live::Secret(_) => return Judged::create(),
    };
    match owned::compare(body, there) {
        Sameness::Same => Judged {
            // What an apply without effect would return.
            checked: Some(AppliedObject::of(id.clone(), there)),
            ..Judged::same("the cluster has it already")
        },
        Sameness::Differs(paths) => Judged::differs(&paths),
        Sameness::Unsure => Judged::change("exists, compared by the server in the check"),
    }
}
