//! What an app has: its recorded revisions and the objects that it may have in the cluster.
//!
//! Served under `/v1/apps/{cluster}/{namespace}/{name}`, asked for by `/v1/rollbacks`. Secret values
//! are in none of it.

use serde::Deserialize;
use serde::Serialize;

use crate::ids::ClusterName;
use crate::ids::DeployName;
use crate::ids::Namespace;

/// What became of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevisionStatus {
    /// Its run is on, or was cut off.
    Pending,
    /// Written and verified.
    Deployed,
    /// Failed; what was written stayed.
    Failed,
    /// Failed, and the revision before was put back.
    RolledBack,
}

impl RevisionStatus {
    /// Returns the word as it stands on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Deployed => "deployed",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// One revision of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number, counted from 1.
    pub number: u64,
    /// What became of it.
    pub status: RevisionStatus,
    /// Whether `/v1/rollbacks` can put it back.
    pub can_come_back: bool,
    /// The run that made it.
    pub run: String,
    /// When it was recorded, RFC 3339.
    pub time: String,
    /// The pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<u64>,
    /// The job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The branch or tag.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Who started the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The revision that it put back, where it is a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub puts_back: Option<u64>,
}

/// An app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its name.
    pub name: DeployName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its namespace.
    pub namespace: Namespace,
    /// The newest revision that was deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    /// Newest first.
    pub revisions: Vec<Revision>,
    /// Every object that it may have in the cluster, as `group/version Kind namespace/name`.
    pub objects: Vec<String>,
}

/// A request to go back to a recorded revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The app.
    pub name: DeployName,
    /// Its cluster; may be left out where the rule grants exactly one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterName>,
    /// Its namespace; may be left out where the rule grants exactly one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// The revision; unset is the deployed one before the current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The deadline of the run, such as `10m`; unset is 10 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_takes_no_unknown_field() {
        assert!(serde_json::from_str::<Rollback>(r#"{"name":"app","revison":3}"#).is_err());
        let asked = serde_json::from_str::<Rollback>(r#"{"name":"app"}"#).expect("valid");
        assert_eq!((asked.revision, asked.timeout), (None, None));
    }

    #[test]
    fn words_and_serde_agree() {
        for status in [
            RevisionStatus::Pending,
            RevisionStatus::Deployed,
            RevisionStatus::Failed,
            RevisionStatus::RolledBack,
        ] {
            let json = serde_json::to_string(&status).expect("a status is serializable");
            assert_eq!(json, format!("\"{}\"", status.word()));
        }
    }
}
