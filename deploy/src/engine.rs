//! The story of one run: strings the stages together, turns every error into a verdict.
//!
//! The only async orchestration here. Called by `agent::runs` in a tracked task that is never
//! dropped: cancelling is by token, between writes.

use proto::ids::RunId;
use proto::report::Report;
use tokio_util::sync::CancellationToken;

use crate::authorize::Permit;
use crate::log::RunLog;
use crate::ports::Login;
use crate::ports::Ports;
use crate::secret::FingerprintKey;

/// What one run gets besides its permit.
pub struct Tools<'a> {
    /// The run's id.
    pub id: RunId,
    /// Vault, the cluster, the clock, the run's journal.
    pub ports: &'a Ports,
    /// Where events go.
    pub log: &'a RunLog,
    /// The agent's key for fingerprints.
    pub key: &'a FingerprintKey,
    /// Cancels the run.
    pub stop: CancellationToken,
}

/// Carries out a permit. `login` is how the run gets its Vault token; unset when the caller brought
/// nothing that Vault takes, which only fails a run that needs secrets. Always ends the log.
pub async fn run(_permit: Permit, _login: Option<Login>, _tools: Tools<'_>) -> Report {
    panic!("not written yet")
}
