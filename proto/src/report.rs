//! The report: what a caller learns about a run, while it is on and when it is over.
//!
//! Made by `deploy::report`, served under `/v1/deploys/{id}` and `/result`. It never holds a secret
//! value: Secrets appear with key names and "created", "changed" or "same". [`saved`] is the plan in a
//! form that a later deploy can be held to, [`text`] what people read.

pub mod saved;
pub mod text;

use serde::Deserialize;
use serde::Serialize;

use self::saved::SavedPlan;
use crate::error::Code;
use crate::error::Problem;
use crate::ids::ClusterName;
use crate::ids::DeployName;
use crate::ids::Namespace;
use crate::ids::RunId;

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not over yet.
    Running,
    /// Done and verified; a dry run: the plan is there.
    Succeeded,
    /// Failed; what was written stays.
    Failed,
    /// Failed, and the previous revision was put back and verified.
    RolledBack,
    /// Failed, and putting the previous revision back failed too.
    RollbackFailed,
    /// Not allowed by policy, Vault or the cluster; nothing was written.
    Denied,
    /// The input is not valid; nothing was written.
    Invalid,
    /// Not done: a newer pipeline came first, another run holds the app, or the saved plan is out
    /// of date; nothing was written.
    Superseded,
    /// Cancelled by the caller.
    Cancelled,
    /// The agent ended while the run was on.
    Interrupted,
}

impl Status {
    /// Says whether the run is over.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Running)
    }

    /// Returns the word as it stands on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::RollbackFailed => "rollback_failed",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Whether a run writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The real thing.
    Deploy,
    /// Only the plan.
    DryRun,
    /// Back to a recorded revision.
    Rollback,
    /// Secrets are kept fresh; the agent itself began it.
    Rotation,
}

/// What one step of the plan does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The object does not exist yet.
    Create,
    /// The object exists and would differ.
    Change,
    /// Nothing would differ.
    Same,
    /// It cannot be known before the run (a namespace or kind of the same bundle does not exist yet,
    /// or a credential that is issued anew).
    Unknown,
    /// The object is no longer wanted and would be deleted.
    Delete,
    /// A field that cannot change would differ, so the object is deleted and made anew.
    Recreate,
}

/// One step of a plan or of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The object as `group/version Kind namespace/name`.
    pub object: String,
    /// What would be or was done.
    pub action: Action,
    /// Why, in words.
    pub reason: String,
    /// For a Secret: every key with what happens to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyChange>,
    /// For an object that changes: every field that differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// Things to know: ownership that moves, fields that are left to others, what could not be
    /// checked before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One field of an object in a plan. Values of Secrets never come here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The path, such as `.spec.template.spec.containers[name="app"].image`.
    pub field: String,
    /// What is there, as JSON, cut where it is long; unset where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What would be there, as JSON, cut where it is long; unset where the field goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// One key of a Secret in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// What happens to it.
    pub action: Action,
    /// Where the value comes from: a Vault path with field and version, or "template".
    pub source: String,
}

/// One cause of a failure, or of a wait that ended at the deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// A stable word, such as `image_missing`.
    pub kind: String,
    /// The workload or object that failed.
    pub object: String,
    /// One sentence.
    pub message: String,
    /// What was seen: events, exit codes, last lines of the previous container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// One container image of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageChange {
    /// The name under `images` of the spec; else the repository of the image.
    pub name: String,
    /// The reference that the cluster had; unset where there was none, or none that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The reference that the run writes.
    pub after: String,
}

/// What a caller learns about one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The run.
    pub id: RunId,
    /// Whether it writes.
    pub mode: Mode,
    /// The app's name.
    pub name: DeployName,
    /// The app's cluster.
    pub cluster: ClusterName,
    /// The app's namespace.
    pub namespace: Namespace,
    /// How it stands.
    pub status: Status,
    /// When it was accepted, RFC 3339.
    pub started: String,
    /// When it was over, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// One sentence: the verdict.
    pub message: String,
    /// Set when the run did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The revision of the app that this run made (or went back to), once it is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The problem behind the verdict, when the run ended before or outside a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The plan, once it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Every container image of the plan, by name; a run that did not succeed may have put the one
    /// of before back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageChange>,
    /// The address that the plan's Ingress serves, where there is exactly one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A dry run that succeeded: its plan in the form that a deploy can be held to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<SavedPlan>,
    /// Why it failed, the likeliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Things to know that did not fail the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The answer to an accepted request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The run.
    pub id: RunId,
    /// How it stands: `running`, or more when the same key was seen before.
    pub status: Status,
    /// Where the run is, the same as the `Location` header.
    pub location: String,
}

/// One page of runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunList {
    /// Newest first.
    pub runs: Vec<Report>,
    /// Pass as `after` for the next page; unset on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<RunId>,
}

/// Who the caller is to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// `gitlab_job` or `vault_token`.
    pub kind: String,
    /// The verified attributes, by name.
    pub attributes: std::collections::BTreeMap<String, String>,
    /// Ids of the rules that match.
    pub rules: Vec<String>,
    /// For rules of the caller's own project that do not match: which condition fails first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<NearMiss>,
}

/// A rule that almost matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearMiss {
    /// The rule.
    pub rule: String,
    /// The attribute whose condition fails.
    pub attribute: String,
    /// What the rule wants and what the token has.
    pub message: String,
}

/// The answer of `/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The agent's version.
    pub version: String,
    /// The interface versions that it speaks.
    pub api: Vec<String>,
    /// How the calling process is attested: `none` in this version.
    pub attestation: String,
}
