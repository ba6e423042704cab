//! Flux's part of a deploy: images are replaced in the repository that Flux reads, and Flux is waited for.
//!
//! Called by [`crate::engine`]. [`scene`] looks before anything is written (is Flux able to carry it out, what
//! would change), [`land`] makes the commit and pushes it, or takes it back, [`wait`] asks Flux and waits until
//! it has our commit or a later one, [`objects`] finds the workloads behind, for the watch of any deploy. What
//! Flux says of itself is read by [`state`].
//!
//! Invariants: a push is never forced, and one that was overtaken is edited anew on what is there, not
//! merged; "it has our commit" is decided by Git's history, never by comparing texts; only files that the
//! permit grants are changed.

pub mod land;
pub mod objects;
pub mod scene;
mod state;
pub mod wait;

use std::time::Duration;

use crate::authorize::Denial;
use crate::backoff::Trouble;
use crate::fleet::EditError;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::ports::ClusterError;
use crate::ports::GitError;
use crate::ports::JournalError;
use crate::spec::FluxName;

/// The longest that one call of Git may take.
const CALL: Duration = Duration::from_secs(60);

/// A kind of Flux that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `GitRepository`: reads the branch.
    Source,
    /// `Kustomization`: applies manifests.
    Kustomization,
    /// `HelmRelease`: installs a chart.
    HelmRelease,
}

impl Kind {
    /// Returns the kind in the cluster.
    #[must_use]
    pub fn gvk(self) -> Gvk {
        match self {
            Self::Source => Gvk::new("source.toolkit.fluxcd.io/v1", "GitRepository"),
            Self::Kustomization => Gvk::new("kustomize.toolkit.fluxcd.io/v1", "Kustomization"),
            Self::HelmRelease => Gvk::new("helm.toolkit.fluxcd.io/v2", "HelmRelease"),
        }
    }

    /// Makes the id of an object of it.
    #[must_use]
    pub fn id(self, name: &FluxName) -> ObjectId {
        ObjectId {
            gvk: self.gvk(),
            namespace: Some(name.namespace.clone()),
            name: name.name.clone(),
        }
    }
}

/// Why Flux's part cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FluxError {
    /// Flux could not carry it out as things are.
    #[error("{object} {problem}")]
    NotReady {
        /// Which object.
        object: String,
        /// What is the matter, as the rest of a sentence.
        problem: String,
        /// What to do.
        hint: &'static str,
    },
    /// The repository.
    #[error("{what}")]
    Git {
        /// What was done, with the branch.
        what: String,
        /// Why not.
        source: GitError,
    },
    /// Something else pushed each time.
    #[error("{branch} moved {times} times while our commit was on its way")]
    Busy {
        /// The branch.
        branch: String,
        /// How often.
        times: usize,
    },
    /// The branch lost our commit.
    #[error("{branch} no longer holds our commit {commit}: somebody has moved it back or away")]
    Lost {
        /// The branch.
        branch: String,
        /// Ours.
        commit: String,
    },
    /// The branch never got our commit.
    #[error("{branch} does not hold commit {commit}, which was made before the agent was stopped")]
    Absent {
        /// The branch.
        branch: String,
        /// Ours.
        commit: String,
    },
    /// The images have no place in the files.
    #[error("{0}")]
    Edit(EditError),
    /// A file that the rule does not grant.
    #[error("{}", .0.message)]
    Denied(Box<Denial>),
    /// The cluster.
    #[error("{what}")]
    Cluster {
        /// What was done.
        what: String,
        /// Why not.
        source: ClusterError,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file that is to be taken back was changed by somebody else since.
    #[error("{file} was changed by somebody else since")]
    Changed {
        /// The file.
        file: String,
    },
    /// A file was changed by somebody else after the plan that the caller has reviewed.
    #[error(
        "{file} was changed by somebody after the plan, while our commit was on its way; nothing was pushed"
    )]
    Moved {
        /// The file.
        file: String,
    },
    /// The run was stopped.
    #[error("the run was stopped")]
    Stopped,
    /// The deadline came.
    #[error("{what} was not done in time")]
    Late {
        /// What was waited for.
        what: String,
    },
}

fn git_error(what: String) -> impl FnOnce(GitError) -> FluxError {
    |source| FluxError::Git { what, source }
}

fn cluster_error(what: String) -> impl FnOnce(ClusterError) -> FluxError {
    |source| FluxError::Cluster { what, source }
}

fn git_trouble(error: &GitError) -> Trouble {
    Trouble {
        class: error.class(),
        retry_after_seconds: None,
        reason: error.to_string(),
    }
}
