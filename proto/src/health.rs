//! Liveness, readiness and standing as the admin socket shows them.

use serde::Deserialize;
use serde::Serialize;

use crate::ids::RunId;
use crate::managed::FolderFreshness;
use crate::managed::Stale;

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether requests are taken.
    pub ready: bool,
    /// What is still missing, by name, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<Blocker>,
}

/// One thing that keeps the agent from being ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// The part, such as `vault` or `cluster:demo`.
    pub name: String,
    /// Why it is not ready.
    pub reason: String,
}

/// The answer of `/v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The agent's version.
    pub version: String,
    /// Whether requests are taken.
    pub ready: bool,
    /// Whether new runs are refused.
    pub draining: bool,
    /// The hash of the policy.
    pub policy: String,
    /// The runs that are on.
    pub runs: Vec<RunId>,
    /// The agent's own identity in Vault; unset without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<OwnIdentity>,
    /// The Secrets that are kept fresh; unset where this agent keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeping: Option<Keeping>,
}

/// How the agent's own login to Vault stands. Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnIdentity {
    /// Such as `approle`.
    pub method: String,
    /// Since when there is the present token; unset without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When it is renewed next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_renewal: Option<String>,
    /// Seconds until it ends unless it is renewed; unset where it does not end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
    /// When it ends however often it is renewed; unset where it need not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// Why the last login or renewal failed; unset once one succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// How the Secrets stand that are kept fresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeping {
    /// How many there are.
    pub secrets: usize,
    /// How soon a new version in Vault is noticed, by KV mount and folder.
    pub folders: Vec<FolderFreshness>,
    /// Those that may not be what Vault has.
    pub stale: Vec<StaleSecret>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleSecret {
    /// Cluster, namespace and name, with slashes.
    pub secret: String,
    /// Since when, and why.
    #[serde(flatten)]
    pub stale: Stale,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_status_is_read_and_written_the_same() {
        let golden = include_str!("../golden/agent_status.json");
        let recorded: serde_json::Value = serde_json::from_str(golden).expect("JSON");
        let read: AgentStatus = serde_json::from_str(golden).expect("it is of the type");
        assert_eq!(serde_json::to_value(&read).expect("it is JSON"), recorded);
        assert_eq!(read.keeping.map(|keeping| keeping.stale.len()), Some(1));
    }
}
