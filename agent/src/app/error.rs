//! Why the agent cannot start: each with the file or place, and everything that is wrong there.
//!
//! Made by [`super`], printed once by `main`.

use std::io;
use std::path::PathBuf;

use deploy::policy::PolicyError;

use crate::config::ConfigError;
use crate::http::listener::BindError;
use crate::journal::Fault;
use crate::journal::OpenError;

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file cannot be read.
    #[error("cannot read the {what} {}", path.display())]
    Read {
        /// What the file is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration is wrong.
    #[error("{}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// All problems.
        source: ConfigError,
    },
    /// The policy is wrong.
    #[error("{}:\n  {}", path.display(), source.problems.join("\n  "))]
    Policy {
        /// The file.
        path: PathBuf,
        /// All problems.
        source: PolicyError,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The journal cannot be recovered.
    #[error("cannot recover the runs of the last process")]
    Recover(#[source] Fault),
    /// A socket cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The kernel has no signals or no randomness for us.
    #[error("cannot get {what} from the kernel")]
    Kernel {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// An adapter cannot be made from its settings.
    #[error("cannot set up {part}")]
    Adapter {
        /// Which.
        part: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
