//! The port to the programs that render and that write releases: kustomize and Helm.
//!
//! Their work is neither the API server's nor ours: templates are run by a program that we do not
//! trust with more than a run's own files and the job's rights, and Helm keeps its own records. A
//! second implementation must keep: nothing of one call is left for another, what a program says is
//! cut to a limit, and no secret value is in arguments or environment.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;

use super::charts::ChartError;
use super::charts::ChartRef;
use super::charts::Fetched;
use crate::class::Class;
use crate::principal::Actor;

/// Longest name of a release, as Helm has it.
const LONGEST_RELEASE: usize = 53;

/// Files by their path in the bundle.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The name of a release.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReleaseName(String);

impl ReleaseName {
    /// Reads a name.
    ///
    /// # Errors
    /// Says what a name looks like.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let label = |part: &str| {
            part.bytes().next().is_some_and(edge)
                && part.bytes().next_back().is_some_and(edge)
                && part.bytes().all(|byte| edge(byte) || byte == b'-')
        };
        if text.len() <= LONGEST_RELEASE && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(
                "expected a release's name: up to 53 lower case letters, digits, '-' and '.', with \
                 a letter or digit at both ends",
            )
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its name.
    pub name: ReleaseName,
    /// Its namespace.
    pub namespace: String,
}

/// What happens to a chart's hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hooks {
    /// Helm runs them.
    Run,
    /// They are left out.
    Skip,
}

/// What happens to the definitions in a chart's `crds/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crds {
    /// Helm installs those that are not there.
    Install,
    /// They are left out.
    Skip,
}

/// Whether templates may look at the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// Yes, as the actor: `lookup` and `.Capabilities` tell the truth.
    Cluster,
    /// No: `lookup` finds nothing, `.Capabilities` are the program's own.
    Nothing,
}

/// Whether the release is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It will be installed.
    New,
    /// It will be upgraded.
    Installed,
}

/// A chart with everything that it gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// The release.
    pub release: Release,
    /// The files; `chart` and `values` are paths among them.
    pub files: Files,
    /// The chart's folder or archive.
    pub chart: String,
    /// Values files; a later one wins.
    pub values: Vec<String>,
    /// Values that win over the files.
    pub set: Value,
    /// What happens to hooks.
    pub hooks: Hooks,
    /// What happens to definitions.
    pub crds: Crds,
    /// Whether the release is there.
    pub presence: Presence,
}

/// What a release's record tells later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// One line for people, shown by `helm history`.
    pub description: String,
    /// Labels of the record.
    pub labels: BTreeMap<String, String>,
}

/// Why a program did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The agent does not know where the program is.
    #[error("this agent has no {program}")]
    Missing {
        /// The program.
        program: &'static str,
    },
    /// The program says no.
    #[error("{program} says: {said}")]
    Refused {
        /// The program.
        program: &'static str,
        /// Its words, cut to a limit; not to be trusted.
        said: String,
    },
    /// The program was ended: it took too long. A write may have begun.
    #[error("{program} was ended after {seconds} s")]
    Late {
        /// The program.
        program: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// The program was ended: it wrote too much.
    #[error("{program} was ended: it wrote more than {limit} bytes")]
    TooMuch {
        /// The program.
        program: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The program could not reach the API server; nothing was written.
    #[error("{program} cannot reach the API server: {said}")]
    Unavailable {
        /// The program.
        program: &'static str,
        /// Its words.
        said: String,
    },
    /// The program could not be run.
    #[error("{program} cannot be run: {reason}")]
    Broken {
        /// The program.
        program: &'static str,
        /// Why.
        reason: String,
    },
}

impl RenderError {
    /// Returns the class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Refused { .. } | Self::TooMuch { .. } => Class::Caller,
            Self::Late { .. } => Class::OutcomeUnknown,
            Self::Unavailable { .. } => Class::Upstream,
            Self::Missing { .. } | Self::Broken { .. } => Class::Bug,
        }
    }
}

/// kustomize and Helm, for one cluster. `time` is the longest that the program may run.
pub trait Renderer: Send + Sync {
    /// Fetches the archive of a chart. Reads only; its own time and size are bounded. Nobody's
    /// credentials are used. What comes back has the digest that the reference names, if it names
    /// one; whether it is a chart is not looked at.
    fn fetch<'a>(&'a self, chart: &'a ChartRef) -> BoxFuture<'a, Result<Fetched, ChartError>>;

    /// Builds the kustomization in `folder`. Reads nothing but `files`.
    fn kustomize<'a>(
        &'a self,
        files: &'a Files,
        folder: &'a str,
        time: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, RenderError>>;

    /// Renders a chart with its hooks and definitions; writes nothing. Each document has a comment
    /// `# Source: <file>` before it.
    fn template<'a>(
        &'a self,
        actor: &'a Actor,
        chart: &'a Chart,
        lookup: Lookup,
        time: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, RenderError>>;

    /// Installs or upgrades; waits for hooks, not for the rollout. An error other than
    /// [`RenderError::Unavailable`], [`RenderError::Missing`] and [`RenderError::Broken`] may come
    /// after something was written; the record says how far it came.
    fn upgrade<'a>(
        &'a self,
        actor: &'a Actor,
        chart: &'a Chart,
        marks: &'a Marks,
        time: Duration,
    ) -> BoxFuture<'a, Result<(), RenderError>>;

    /// Goes back to a recorded revision; errors as for [`Self::upgrade`].
    fn roll_back<'a>(
        &'a self,
        actor: &'a Actor,
        release: &'a Release,
        revision: u64,
        time: Duration,
    ) -> BoxFuture<'a, Result<(), RenderError>>;

    /// Returns the manifest of a recorded revision, without hooks.
    fn manifest<'a>(
        &'a self,
        actor: &'a Actor,
        release: &'a Release,
        revision: u64,
        time: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, RenderError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_releases_are_helms() {
        for good in ["flask", "a", "a-1", "a.b", "1a"] {
            assert!(ReleaseName::parse(good).is_ok(), "{good}");
        }
        let long = "x".repeat(54);
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", "--namespace", &long] {
            assert!(ReleaseName::parse(bad).is_err(), "{bad}");
        }
    }
}
