//! Watches a rollout until every applied object is ready, one has failed for good, or the deadline.
//!
//! The loop only: it feeds observations into a world, and asks [`crate::rollout`] and
//! [`crate::cause`] again after each change. Called by [`crate::engine`].

use proto::report::Cause;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::log::RunLog;
use crate::object::AppliedObject;
use crate::ports::Ports;
use crate::principal::Actor;

/// How a rollout ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is ready.
    Ready {
        /// Things that were seen and did not fail the run.
        warnings: Vec<String>,
    },
    /// Something failed for good.
    Failed {
        /// The likeliest first.
        causes: Vec<Cause>,
    },
    /// The deadline came.
    TimedOut {
        /// What was seen of each object that is not ready.
        causes: Vec<Cause>,
    },
    /// The caller or the agent stopped the watch.
    Stopped,
}

/// Watches. `applied` are all objects of the run; `namespace` is where their pods and events are.
pub async fn watch(
    _applied: &[AppliedObject],
    _namespace: &str,
    _actor: &Actor,
    _ports: &Ports,
    _log: &RunLog,
    _deadline: Instant,
    _stop: &CancellationToken,
) -> Outcome {
    panic!("not written yet")
}
