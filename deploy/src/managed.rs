//! A managed Secret's own record: what it is made of, who answers for it, how it stands.
//!
//! Written into one annotation of the Secret together with its values, so that any agent can take
//! over and values and record never disagree. [`crate::resolve`] makes it, [`crate::rotate`] decides
//! by it. Invariants: no value and no token is in it; what it declares is in the words of the spec and
//! read by the same reader; a record that cannot be read is told and never guessed. Whoever may edit
//! the Secret may edit the record, so nothing is allowed because of it: the policy is asked again each
//! time, and the digest of the declaration has to be the one that the agents noted elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde_json::Value;
use serde_json::json;
use sha2::Digest;
use sha2::Sha256;

use crate::object::at;
use crate::object::list;
use crate::object::text;
use crate::owned;
use crate::principal::Principal;
use crate::principal::PrincipalKind;
use crate::secret::Accessor;
use crate::secret::LeaseId;
use crate::spec;
use crate::spec::SecretSpec;

/// The annotation that holds the record.
pub const ANNOTATION: &str = "state.quaymaster.dev/managed";

/// Claims that belong to one job and say nothing about its project.
const OF_ONE_JOB: [&str; 9] = [
    "jti",
    "iat",
    "exp",
    "nbf",
    "job_id",
    "pipeline_id",
    "runner_id",
    "sha",
    "aud",
];

/// What a managed Secret is made of and who answers for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Declaration {
    /// The app whose deploy brought it.
    pub app: DeployName,
    /// The cluster, as the agents call it.
    pub cluster: ClusterName,
    /// The Secret, as the spec had it.
    pub secret: SecretSpec,
    /// Who asked, without what belongs to one job.
    pub owner: Owner,
    /// The rule that allowed it then.
    pub rule: String,
}

/// Who answers for a managed Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    kind: OwnerKind,
    /// Shared by clones: a daemon holds records by the thousand, and most have the same owner.
    #[serde(serialize_with = "plain", deserialize_with = "shared")]
    attributes: Arc<Attributes>,
}

/// What is known of an owner, by name.
type Attributes = BTreeMap<String, String>;

fn plain<S: Serializer>(attributes: &Attributes, to: S) -> Result<S::Ok, S::Error> {
    attributes.serialize(to)
}

fn shared<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Attributes>, D::Error> {
    Attributes::deserialize(from).map(Arc::new)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OwnerKind {
    GitlabJob,
    VaultToken,
}

impl Owner {
    /// Keeps what a principal has beyond its job.
    #[must_use]
    pub fn of(principal: &Principal) -> Self {
        let attributes = principal.attributes().iter();
        let lasting = attributes
            .filter(|(name, _)| !OF_ONE_JOB.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()));
        Self {
            kind: match principal.kind() {
                PrincipalKind::GitlabJob => OwnerKind::GitlabJob,
                PrincipalKind::VaultToken => OwnerKind::VaultToken,
            },
            attributes: Arc::new(lasting.collect()),
        }
    }

    /// Holds the same memory as another owner from now on, where both are the same.
    pub fn share(&mut self, other: &Self) {
        if self == other {
            self.clone_from(other);
        }
    }

    /// Returns the principal under which the policy is asked about a rotation.
    #[must_use]
    pub fn principal(&self) -> Principal {
        let kind = match self.kind {
            OwnerKind::GitlabJob => PrincipalKind::GitlabJob,
            OwnerKind::VaultToken => PrincipalKind::VaultToken,
        };
        Principal::unchecked(kind, Attributes::clone(&self.attributes))
    }

    /// Returns the project; empty where there is none.
    #[must_use]
    pub fn project(&self) -> &str {
        let named = |name| self.attributes.get(name).map(String::as_str);
        named("job_project_id")
            .or_else(|| named("project_id"))
            .unwrap_or_default()
    }
}

/// How a managed Secret stands, as it was when its values were last written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Counts the changes of the values; never goes down.
    pub generation: u64,
    /// When the values were written.
    pub written: Timestamp,
    /// The run that wrote them.
    pub run: String,
    /// The KV v2 versions that are in it, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, u64>,
    /// The credentials that are in it, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, Credential>,
    /// Credentials that were in it, and may still be used by pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<Credential>,
    /// Whether pods may still have values of before, though no credential was replaced.
    #[serde(default, skip_serializing_if = "is_no")]
    pub stale: bool,
    /// The values of before, while it is not known whether the new ones work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// The last change that was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setback: Option<Setback>,
    /// How many restarts of workloads it has caused.
    #[serde(default)]
    pub restarts: u64,
}

impl State {
    /// Says when the credentials that are to be ended end by themselves at the latest: nobody has
    /// extended them since the values were written. Unset where there are none.
    #[must_use]
    pub fn old_end(&self) -> Option<Timestamp> {
        let lives = self.retiring.iter().map(|old| old.seconds);
        let life = std::time::Duration::from_secs(lives.max()?);
        self.written.checked_add(life).ok()
    }

    /// Says whether the last change is not over.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.trial.is_some() || self.stale || !self.retiring.is_empty()
    }
}

/// For fields that are left out where they say nothing.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
const fn is_no(flag: &bool) -> bool {
    !*flag
}

/// A credential that the agents issued, or a value that ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The path that issued it.
    pub path: String,
    /// Its lease; unset for values that end without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// The token that holds it; ending it ends the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accessor: Option<Accessor>,
    /// The agent's own token above it: the credential ends with that one too.
    pub parent: String,
    /// When it was issued.
    pub issued: Timestamp,
    /// How long it was granted for, in seconds.
    pub seconds: u64,
    /// Whether that can be extended.
    pub renewable: bool,
}

/// A change that is not judged yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The Secret that keeps the values of before.
    pub backup: String,
    /// The versions that are in the backup.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, u64>,
    /// The credentials that are in the backup.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, Credential>,
}

/// A change that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setback {
    /// When.
    pub at: Timestamp,
    /// Why, in words.
    pub why: String,
    /// How often in a row.
    pub times: u32,
    /// The versions that did not work, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, u64>,
}

/// A managed Secret's record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What it is made of.
    pub declaration: Declaration,
    /// How it stands.
    pub state: State,
}

/// Why a record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the annotation {ANNOTATION} {problem}")]
pub struct RecordError {
    /// What is wrong with it.
    pub problem: String,
}

/// The record as it stands in the annotation.
#[derive(Serialize, Deserialize)]
struct Written {
    v: u32,
    app: DeployName,
    cluster: ClusterName,
    secret: Value,
    owner: Owner,
    rule: String,
    state: State,
}

/// The version of the form; another one is of an agent that this one does not know.
const VERSION: u32 = 1;

impl Record {
    /// Writes it as one line.
    #[must_use]
    pub fn to_text(&self) -> String {
        let declaration = &self.declaration;
        let written = Written {
            v: VERSION,
            app: declaration.app.clone(),
            cluster: declaration.cluster.clone(),
            secret: declaration.secret.to_value(),
            owner: declaration.owner.clone(),
            rule: declaration.rule.clone(),
            state: self.state.clone(),
        };
        serde_json::to_string(&written).expect("keys are texts and numbers are whole")
    }

    /// Reads it out of a Secret's metadata; `None` for a Secret that is not managed.
    ///
    /// # Errors
    /// Says what cannot be read.
    pub fn of(secret: &Value) -> Result<Option<Self>, RecordError> {
        match at(secret, &["metadata", "annotations", ANNOTATION]) {
            None => Ok(None),
            Some(Value::String(text)) => Self::read(text).map(Some),
            Some(_) => Err(RecordError {
                problem: "is no text".to_owned(),
            }),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// Says what cannot be read.
    pub fn read(text: &str) -> Result<Self, RecordError> {
        let broken = |problem: String| RecordError { problem };
        let written: Written = serde_json::from_str(text).map_err(|error| {
            broken(format!(
                "cannot be read: line {}, column {} is not as the agent writes it",
                error.line(),
                error.column()
            ))
        })?;
        if written.v != VERSION {
            return Err(broken(format!(
                "is of version {}, this agent knows version {VERSION}",
                written.v
            )));
        }
        let secret = spec::secret(&written.secret)
            .ok_or_else(|| broken("declares a Secret that the spec does not take".to_owned()))?;
        Ok(Self {
            declaration: Declaration {
                app: written.app,
                cluster: written.cluster,
                secret,
                owner: written.owner,
                rule: written.rule,
            },
            state: written.state,
        })
    }
}

impl Declaration {
    /// Returns what tells this declaration from every other one; `namespace` and name count too, so
    /// that a record copied to another Secret is not taken for its own.
    #[must_use]
    pub fn digest(&self, namespace: &str) -> String {
        // The rule's name is left out: an operator may rename it.
        let text = json!([
            namespace,
            self.app,
            self.cluster,
            self.secret.to_value(),
            self.owner,
        ])
        .to_string();
        let digest = Sha256::digest(text.as_bytes());
        digest
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                text.push_str(&format!("{byte:02x}"));
                text
            })
    }

    /// Returns the text of a spec that asks for this Secret alone: what a rotation submits.
    #[must_use]
    pub fn request(&self, namespace: &Namespace) -> Value {
        json!({
            "version": 1,
            "name": self.app,
            "target": { "cluster": self.cluster, "namespace": namespace },
            "secrets": [self.secret.to_value()],
        })
    }
}

/// Puts a record onto the JSON of a Secret.
pub(crate) fn write_on(body: &mut Value, text: String) {
    body["metadata"]["annotations"][ANNOTATION] = Value::String(text);
}

/// Returns the name of the Secret that keeps the values of before.
#[must_use]
pub fn backup_name(secret: &str) -> String {
    const LONGEST: usize = 253;
    const ENDING: &str = ".previous";
    let room = LONGEST - ENDING.len();
    format!("{}{ENDING}", &secret[..secret.len().min(room)])
}

/// Says when the agents last wrote a Secret, by the clock of the API server.
#[must_use]
pub fn written_by_server(secret: &Value) -> Option<Timestamp> {
    let entries = list(secret, &["metadata", "managedFields"]).iter();
    let ours = entries.filter(|entry| owned::is_ours(entry));
    let times = ours.filter_map(|entry| text(entry, &["time"]).parse().ok());
    times.max()
}

#[cfg(test)]
pub(crate) mod tests;
