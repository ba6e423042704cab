//! Why the journal cannot be opened, read or written.
//!
//! Made by [`super`]; an [`OpenError`] ends the start, a [`Fault`] refuses the request or is logged.

use std::io;
use std::path::PathBuf;

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made or looked at.
    #[error("cannot use the state folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may enter the folder.
    #[error(
        "the state folder {} has mode {mode:03o}; expected 700: run `chmod 700` on it",
        path.display()
    )]
    Mode {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another process has it.
    #[error(
        "another agent uses the state folder {}; give each agent its own state_dir",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The file is broken or from another version.
    #[error("cannot open the journal in {}", path.display())]
    Database {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: FaultCause,
    },
}

/// The journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} in the journal")]
pub struct Fault {
    /// What was being done.
    pub doing: &'static str,
    /// Why.
    pub source: FaultCause,
}

/// What is behind a [`Fault`].
#[derive(Debug, thiserror::Error)]
pub enum FaultCause {
    /// The disk or the file.
    #[error(transparent)]
    Database(Box<redb::Error>),
    /// A record that this version cannot read.
    #[error("a record has an unknown shape")]
    Shape(#[source] serde_json::Error),
    /// The worker was lost.
    #[error("the writing task ended")]
    Worker,
}

impl<E: Into<redb::Error>> From<E> for FaultCause {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}
