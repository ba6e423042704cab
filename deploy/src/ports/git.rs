//! The port to Git: one branch of one repository, read and moved forward.
//!
//! Used by the applier for Flux. Invariants: an address has exactly one spelling (no credential, no escapes, no
//! `..`), so a pattern of the policy cannot be walked around; nothing of a repository is ever run or
//! checked out: files are read from its objects, links and submodules are passed over.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;

use super::Files;
use super::charts::is_loopback;
use super::charts::is_server;
use crate::class::Class;
use crate::secret::Secret;

/// Longest address, branch or user name.
const LONGEST: usize = 255;

/// The one spelling of where a repository is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitAddress(String);

impl GitAddress {
    /// Reads `https://host[:port]/path` or `ssh://user@host[:port]/path`; plain `http` for loopback.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "expected the address of a repository, such as \
                             https://git.example.com/team/fleet.git or ssh://git@git.example.com/team/fleet.git";
        let (scheme, rest) = text.split_once("://").ok_or(SHAPE)?;
        let (place, path) = rest.split_once('/').ok_or(SHAPE)?;
        let server = match (scheme, place.rsplit_once('@')) {
            ("ssh", Some((user, server))) if is_user(user) => server,
            ("ssh", _) => return Err("expected ssh://user@host/path, usually with the user git"),
            (_, Some(_)) => {
                return Err("names a user; the credential comes from Vault, by 'credential'");
            }
            (_, None) => place,
        };
        let inner = |c: u8| c.is_ascii_alphanumeric() || b"._~-+".contains(&c);
        let segment = |part: &str| {
            !part.is_empty() && part.bytes().all(inner) && part.bytes().any(|c| c != b'.')
        };
        if text.len() > LONGEST || !is_server(server) || !path.split('/').all(segment) {
            return Err(SHAPE);
        }
        match scheme {
            "https" | "ssh" => {}
            "http" if is_loopback(server) => {}
            "http" => return Err("plain http is taken for loopback only; use https or ssh"),
            _ => return Err(SHAPE),
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns it as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Says whether it is reached by SSH.
    #[must_use]
    pub fn is_ssh(&self) -> bool {
        self.0.starts_with("ssh://")
    }
}

impl fmt::Display for GitAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_user(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(inner)
}

/// The name of a branch, by the rules of `git check-ref-format`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BranchName(String);

impl BranchName {
    /// Reads a name.
    ///
    /// # Errors
    /// Says what a name looks like.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-+#@".contains(&byte);
        let part = |part: &str| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && !part.ends_with('.')
                && !part.ends_with(".lock")
        };
        let good = text.len() <= LONGEST
            && text.bytes().all(inner)
            && text.split('/').all(part)
            && !text.contains("..")
            && text != "@"
            && text != "HEAD"
            && !text.starts_with("refs/");
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected the name of a branch, such as main")
        }
    }

    /// Returns it as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A branch of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Branch {
    /// The repository.
    pub repository: GitAddress,
    /// The branch.
    pub name: BranchName,
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "branch {} of {}", self.name, self.repository)
    }
}

/// The id of a commit: SHA-1 or SHA-256 in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitId(String);

impl CommitId {
    /// Reads an id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let good = matches!(text.len(), 40 | 64) && text.bytes().all(hex);
        good.then(|| Self(text.to_owned()))
    }

    /// Returns it as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns as much of it as people write.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..10).unwrap_or(&self.0)
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who one is to the Git server.
#[derive(Debug)]
pub enum GitLogin {
    /// Nobody.
    Nobody,
    /// A user name with a password or token, for `https`.
    Password {
        /// The user.
        user: String,
        /// The password or token.
        password: Secret,
    },
    /// A private key, for `ssh`.
    Key {
        /// The key as OpenSSH writes it.
        key: Secret,
        /// Keys of the server, as in `known_hosts`.
        known_hosts: String,
    },
}

/// The newest commit of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    /// The commit.
    pub commit: CommitId,
    /// Plain files below the paths that were asked for, by their path in the repository.
    pub files: Files,
}

/// A commit to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it comes after.
    pub parent: CommitId,
    /// New contents of files that are there.
    pub files: Files,
    /// Its message, with trailers.
    pub message: String,
    /// Name of its author and committer.
    pub author: String,
    /// Address of both.
    pub email: String,
    /// When it is made.
    pub time: jiff::Timestamp,
}

/// Why the repository does not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitError {
    /// The agent does not know where the program is.
    #[error("this agent has no {program}")]
    Missing {
        /// The program.
        program: &'static str,
    },
    /// The server does not take the credential, or wants one.
    #[error("the Git server does not let us in")]
    Denied,
    /// The repository or the branch is not there.
    #[error("the Git server has no such repository or branch")]
    NotFound,
    /// The server cannot be reached.
    #[error("the Git server cannot be reached: {said}")]
    Unreachable {
        /// Git's words, cut; not to be trusted.
        said: String,
    },
    /// The branch has moved since it was read: nothing was pushed.
    #[error("somebody else has pushed meanwhile")]
    Moved,
    /// The server refuses the push.
    #[error("the Git server refuses the push: {said}")]
    Refused {
        /// Its words, cut; not to be trusted.
        said: String,
    },
    /// Git was ended; a push may have arrived.
    #[error("git was ended after {seconds} s")]
    Late {
        /// The limit.
        seconds: u64,
    },
    /// Git could not be run, or says something unexpected.
    #[error("git: {reason}")]
    Broken {
        /// Why.
        reason: String,
    },
}

impl GitError {
    /// Returns the class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Denied | Self::NotFound | Self::Refused { .. } => Class::Caller,
            Self::Unreachable { .. } | Self::Moved => Class::Upstream,
            Self::Late { .. } => Class::OutcomeUnknown,
            Self::Missing { .. } | Self::Broken { .. } => Class::Bug,
        }
    }
}

/// Git. `time` is the longest that one call may take.
pub trait Git: Send + Sync {
    /// Fetches a branch and reads the plain files below `paths` (files or folders) of its newest
    /// commit.
    fn tip<'a>(
        &'a self,
        branch: &'a Branch,
        login: &'a GitLogin,
        paths: &'a [String],
        time: Duration,
    ) -> BoxFuture<'a, Result<Tip, GitError>>;

    /// Makes a commit of ours; nobody else sees it yet. The same change makes the same commit.
    fn commit<'a>(
        &'a self,
        branch: &'a Branch,
        change: &'a Change,
        time: Duration,
    ) -> BoxFuture<'a, Result<CommitId, GitError>>;

    /// Moves the branch forward to a commit of ours. [`GitError::Moved`] and [`GitError::Refused`]
    /// mean that it was not; [`GitError::Late`] and [`GitError::Unreachable`] that it may have been.
    fn push<'a>(
        &'a self,
        branch: &'a Branch,
        login: &'a GitLogin,
        commit: &'a CommitId,
        time: Duration,
    ) -> BoxFuture<'a, Result<(), GitError>>;

    /// Says whether `commit` is `ancestor` or comes after it; both have been read or made before, or
    /// are on the branch as it was last fetched. A commit that is not known comes after nothing.
    fn follows<'a>(
        &'a self,
        branch: &'a Branch,
        commit: &'a CommitId,
        ancestor: &'a CommitId,
        time: Duration,
    ) -> BoxFuture<'a, Result<bool, GitError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_spelling() {
        for good in [
            "https://git.example.com/team/fleet.git",
            "https://git.example.com:8443/fleet",
            "http://127.0.0.1:3000/fleet.git",
            "ssh://git@git.example.com:2222/team/fleet.git",
        ] {
            assert_eq!(GitAddress::parse(good).map(|it| it.0), Ok(good.to_owned()));
        }
        for bad in [
            "git.example.com/fleet",
            "git@git.example.com:fleet.git",
            "http://git.example.com/fleet.git",
            "https://user@git.example.com/fleet.git",
            "https://user:pass@git.example.com/fleet.git",
            "https://git.example.com/../fleet.git",
            "https://git.example.com//fleet.git",
            "https://git.example.com/fleet.git?x=1",
            "https://git.example.com/fl%65et.git",
            "https://GIT.example.com/fleet.git",
            "ssh://git.example.com/fleet.git",
            "ssh://-oProxyCommand=x@git.example.com/fleet.git",
            "ssh://git@-oProxyCommand=x/fleet.git",
            "file:///srv/fleet.git",
            "ext::sh -c x",
        ] {
            assert!(GitAddress::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_branch_is_a_plain_name() {
        for good in ["main", "release/1.2", "feature/a-b_c"] {
            assert!(BranchName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-x",
            "a..b",
            "a b",
            "a:b",
            "a~1",
            "x.lock",
            "a//b",
            "/a",
            "a/",
            "HEAD",
            "refs/heads/main",
            "a/.b",
            "a\nb",
        ] {
            assert!(BranchName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_commit_is_a_whole_id() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(
            CommitId::parse(id).map(|id| id.short().to_owned()),
            Some("0123456789".to_owned())
        );
        for bad in [
            "",
            "0123456",
            "0123456789ABCDEF0123456789abcdef01234567",
            "-123456789abcdef0123456789abcdef01234567",
        ] {
            assert_eq!(CommitId::parse(bad), None, "{bad}");
        }
    }
}
