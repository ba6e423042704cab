//! The lock of a run that is dead for sure, given back before its time is over.
//!
//! Called by an agent at its start, for runs of its own journal that its former process was carrying out.
//! Invariant: only a lock whose holder is that run and that agent is touched, in the version that was seen;
//! the number of takings stays, so whoever takes it next is fenced from the dead one.

use super::record;
use super::record::Subject;
use crate::ports::Cluster;
use crate::ports::ClusterError;
use crate::principal::Actor;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The run's lock; nobody holds it any more.
    GivenBack,
    /// Nothing of the run's: no lock, a free one, or another holder's.
    NothingLeft,
}

/// Gives back the lock of an app if the run `run` of the agent `agent` holds it.
///
/// # Errors
/// When it cannot be read or written, or somebody wrote it meanwhile: look again.
pub async fn give_back(
    (namespace, app): (&str, &str),
    (run, agent): (&str, &str),
    actor: &Actor,
    cluster: &dyn Cluster,
) -> Result<Found, ClusterError> {
    let app = Subject::App(app.to_owned());
    let id = record::id(namespace, &app);
    let Some(body) = cluster.get(actor, &id).await? else {
        return Ok(Found::NothingLeft);
    };
    let seen = record::read(&body);
    let is_its = |holder: &record::Holder| holder.run == run && holder.agent == agent;
    if !seen.holder.as_ref().is_some_and(is_its) {
        return Ok(Found::NothingLeft);
    }
    let free = record::free(&id, &app, seen.fence, &seen.version);
    cluster.replace(actor, &id, &free).await?;
    Ok(Found::GivenBack)
}
