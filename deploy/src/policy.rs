//! The operator's rules as data, read from TOML. No decision is made here.
//!
//! Loaded by `agent::config` at start and on reload; used by [`crate::authorize`]. An unknown key,
//! a duplicate id or a pattern that cannot mean anything is a load error, and all of them are
//! reported at once. What every key means stands in `agent/dist/policy.toml`.
//!
//! Invariant: a rule that loads hangs on a numeric id (or on Vault metadata) and every pattern in it
//! starts with a literal, so that no rule grants to everybody or everything by accident.

mod claims;
mod load;
mod pattern;
mod table;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write;

use proto::ids::ClusterName;
use sha2::Digest;
use sha2::Sha256;

pub use self::pattern::KindPattern;
pub use self::pattern::PathPattern;
pub use self::pattern::Pattern;

/// All rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    hash: String,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// All of them must hold, in the order of their names.
    pub conditions: Vec<Condition>,
    /// Whether jobs of fork merge requests may use it. Default no.
    pub allow_forks: bool,
    /// What may be read from Vault; unset: nothing.
    pub vault: Option<VaultGrant>,
    /// What may be written, by cluster; empty in a rule that gives values to jobs and nothing else.
    pub clusters: BTreeMap<ClusterName, ClusterGrant>,
}

/// One key of `[rule.match]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What is looked at.
    pub subject: Subject,
    /// One of these must match.
    pub accepted: Vec<Pattern>,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The project in which the job runs: `job_project_id`, or `project_id` of older GitLab.
    Project,
    /// A claim of GitLab, or Vault metadata of the same name.
    Claim(String),
    /// Metadata of a Vault token under a name of the operator's own; never a claim.
    VaultMetadata(String),
}

/// `[rule.vault]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultGrant {
    /// The role for the JWT login; unset only in rules that hang on Vault metadata.
    pub role: Option<String>,
    /// What may be read, to be written into Secrets.
    pub paths: Vec<PathPattern>,
    /// What may be read and given to the job itself. Default nothing; `paths` grants none of it.
    pub expose: Vec<PathPattern>,
}

/// `[rule.cluster.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterGrant {
    /// Where objects may be.
    pub namespaces: Vec<Pattern>,
    /// Which kinds may be in manifests.
    pub kinds: Vec<KindPattern>,
    /// Which Secrets may be written from Vault.
    pub secrets: Vec<Pattern>,
    /// Whether every image has to be named by digest. Default yes.
    pub require_digest: bool,
    /// Whether every image of a spec has to be in its registry, asked or not. Default no.
    pub check_images: bool,
    /// Which images may be used; unset: any.
    pub images: Option<Vec<Pattern>>,
    /// Which charts may be fetched, by their addresses. Default none.
    pub charts: Vec<Pattern>,
    /// Which branches may be changed for Flux, and what of Flux may be asked. Default none.
    pub flux: Vec<FluxGrant>,
    /// Which verbs are granted. Default `apply`.
    pub verbs: BTreeSet<Verb>,
    /// Which sensitive metadata manifests may set. Default none.
    pub metadata: BTreeSet<SensitiveMetadata>,
}

/// `[[rule.cluster.NAME.flux]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FluxGrant {
    /// Addresses of repositories.
    pub repositories: Vec<Pattern>,
    /// Their branches.
    pub branches: Vec<Pattern>,
    /// Files of them that may be changed.
    pub files: Vec<Pattern>,
    /// Sources, Kustomizations and HelmReleases, as `namespace/name`, that may be told to reconcile.
    pub objects: Vec<Pattern>,
}

/// What may be done with an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Create and change objects.
    Apply,
    /// Delete objects that are no longer in the bundle.
    Prune,
    /// Go back to a recorded revision.
    Rollback,
    /// Have Secrets kept fresh after the deploy.
    Rotate,
    /// Push commits to a branch that Flux reads.
    Commit,
    /// Tell Flux to reconcile now.
    Reconcile,
    /// Take such a commit back when its rollout failed.
    Revert,
}

/// Metadata through which an object reaches beyond itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SensitiveMetadata {
    /// `metadata.finalizers`: can keep an object from ever being deleted.
    Finalizers,
    /// `metadata.ownerReferences`: lets another object's end delete this one.
    OwnerReferences,
}

impl SensitiveMetadata {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Finalizers, Self::OwnerReferences];

    /// Returns the key below `metadata`.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Finalizers => "finalizers",
            Self::OwnerReferences => "ownerReferences",
        }
    }
}

/// Everything that is wrong with a policy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy has {} errors", problems.len())]
pub struct PolicyError {
    /// Each with the rule or key, and what is expected.
    pub problems: Vec<String>,
}

impl Policy {
    /// Reads a policy from the text of a TOML file.
    ///
    /// # Errors
    /// All problems at once.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let rules = load::rules(text).map_err(|problems| PolicyError { problems })?;
        let mut hash = String::with_capacity(64);
        for byte in Sha256::digest(text.as_bytes()) {
            write!(hash, "{byte:02x}").expect("writing to a text cannot fail");
        }
        Ok(Self { rules, hash })
    }

    /// Returns the rules.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Returns the SHA-256 of the text, in hexadecimal.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

impl Subject {
    /// Returns the key as it stands in the policy.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Project => "project_id".to_owned(),
            Self::Claim(name) => name.clone(),
            Self::VaultMetadata(name) => format!("{}{name}", claims::VAULT_PREFIX),
        }
    }

    /// Says whether a condition on this can carry a rule: numeric ids of projects and groups, and
    /// metadata that the Vault operator gives out. Never paths, which can be registered anew.
    #[must_use]
    pub fn carries_rights(&self) -> bool {
        match self {
            Self::Project | Self::VaultMetadata(_) => true,
            Self::Claim(name) => claims::carries_rights(name),
        }
    }
}

#[cfg(test)]
mod tests;
