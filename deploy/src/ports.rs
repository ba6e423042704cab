//! The only traits that tests substitute: Vault, Kubernetes, rendering programs, Git, image registries,
//! clock and journal.
//!
//! Each states what a second implementation must keep; `tests/it/contract.rs` runs one suite against
//! the in-memory doubles and the real adapters. All calls have their own timeouts inside the
//! adapter. A timed-out read is [`crate::class::Class::Upstream`]; a timed-out write is
//! [`crate::class::Class::OutcomeUnknown`]. Adapters do not retry: [`crate::backoff`] does.

mod charts;
mod cluster;
mod git;
mod registry;
mod renderer;
mod secrets;

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::object::AppliedObject;
use crate::secret::Accessor;
use crate::secret::LeaseId;

pub use self::charts::ChartAddress;
pub use self::charts::ChartDigest;
pub use self::charts::ChartError;
pub use self::charts::ChartName;
pub use self::charts::ChartRef;
pub use self::charts::ChartVersion;
pub use self::charts::Fetched;
pub use self::charts::Home;
pub use self::cluster::Access;
pub use self::cluster::Cluster;
pub use self::cluster::ClusterError;
pub use self::cluster::Deletion;
pub use self::cluster::Dependents;
pub use self::cluster::FieldConflict;
pub use self::cluster::Force;
pub use self::cluster::LogRequest;
pub use self::cluster::Observation;
pub use self::cluster::Payload;
pub use self::cluster::Scope;
pub use self::cluster::SecretView;
pub use self::cluster::Write;
pub use self::git::Branch;
pub use self::git::BranchName;
pub use self::git::Change;
pub use self::git::CommitId;
pub use self::git::Git;
pub use self::git::GitAddress;
pub use self::git::GitError;
pub use self::git::GitLogin;
pub use self::git::Tip;
pub use self::registry::ImagePlace;
pub use self::registry::Registry;
pub use self::registry::RegistryError;
pub use self::registry::RegistryLogin;
pub use self::registry::is_digest;
pub use self::renderer::Chart;
pub use self::renderer::Crds;
pub use self::renderer::Files;
pub use self::renderer::Hooks;
pub use self::renderer::Lookup;
pub use self::renderer::Marks;
pub use self::renderer::Presence;
pub use self::renderer::Release;
pub use self::renderer::ReleaseName;
pub use self::renderer::RenderError;
pub use self::renderer::Renderer;
pub use self::secrets::Allowance;
pub use self::secrets::Child;
pub use self::secrets::Engine;
pub use self::secrets::Login;
pub use self::secrets::Mount;
pub use self::secrets::Newest;
pub use self::secrets::OwnToken;
pub use self::secrets::Parameters;
pub use self::secrets::SecretData;
pub use self::secrets::Secrets;
pub use self::secrets::SecretsError;
pub use self::secrets::Session;
pub use self::secrets::Standing;

/// Wall time. Waiting is tokio's timer, which tests pause.
pub trait Clock: Send + Sync {
    /// Returns the time.
    fn now(&self) -> jiff::Timestamp;
}

/// What one run leaves on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A lease was issued for this run and is not in a written Secret yet.
    LeaseIssued {
        /// The lease.
        lease: LeaseId,
    },
    /// A token is there that a credential of this run is about to be issued under. Until it is in a
    /// written Secret, it has to be ended.
    TokenMade {
        /// Ends it.
        accessor: Accessor,
        /// The Secret that the credential is for.
        secret: String,
    },
    /// Such a token was ended.
    TokenEnded {
        /// The token.
        accessor: Accessor,
    },
    /// The Secret that such a token is for is written and names it: it lives on.
    TokenKept {
        /// The token.
        accessor: Accessor,
    },
    /// The run has a plan and is about to take its lock: what [`crate::resume`] needs, without any
    /// secret value. A later one replaces it.
    Planned {
        /// A [`crate::resume::Brief`] as JSON.
        brief: Value,
    },
    /// A cut run goes on after a restart, with this lock.
    Resumed {
        /// As in [`Entry::Applying`].
        fence: u64,
    },
    /// A commit is about to be pushed, or is there already and waited for; a later one takes its place.
    Pushing {
        /// The branch, in words.
        branch: String,
        /// The commit.
        commit: String,
        /// What it is for.
        way: Way,
    },
    /// All writes of this run begin now.
    Applying {
        /// The number of the lock that it holds; 0 where it needs none.
        fence: u64,
    },
    /// Every Secret of the run is written.
    Supplied,
    /// All objects are written.
    Applied {
        /// As the cluster has them.
        objects: Vec<AppliedObject>,
    },
    /// The run goes back now: what worked before is about to be put back. Through Flux [`Entry::Pushing`] says it.
    Returning,
    /// A lease of this run was revoked.
    LeaseRevoked {
        /// The lease.
        lease: LeaseId,
    },
}

/// What a commit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It puts the run's images in.
    There,
    /// It takes them out again.
    Back,
}

/// The journal of one run. When a call returns, the entry is on disk.
pub trait Journal: Send + Sync {
    /// Adds an entry.
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<(), JournalError>>;
}

/// The journal cannot be written: nothing may be written elsewhere either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot write the journal: {reason}")]
pub struct JournalError {
    /// Why.
    pub reason: String,
}

/// All ports that one run needs, with its cluster already chosen.
#[derive(Clone)]
pub struct Ports {
    /// Vault.
    pub secrets: Arc<dyn Secrets>,
    /// The run's cluster.
    pub cluster: Arc<dyn Cluster>,
    /// kustomize and Helm for the run's cluster.
    pub renderer: Arc<dyn Renderer>,
    /// Git, for deploys through Flux.
    pub git: Arc<dyn Git>,
    /// Image registries.
    pub registry: Arc<dyn Registry>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// The run's own journal.
    pub journal: Arc<dyn Journal>,
}
