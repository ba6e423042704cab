//! Liveness and readiness as the admin socket shows them.

use serde::Deserialize;
use serde::Serialize;

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
