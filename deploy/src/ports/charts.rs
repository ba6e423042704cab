//! Charts that are not in the bundle: how they are named, and why one cannot be had.
//!
//! Read by [`crate::spec`], decided on by [`crate::authorize`], fetched behind
//! [`super::Renderer::fetch`]. Invariant: an address has exactly one spelling (lower case server, no
//! user name, no escapes, no `..`), so a pattern of the policy cannot be walked around.

use std::fmt;

use super::registry::is_digest;
use crate::class::Class;

/// Longest address or version; also the longest tag of a registry.
const LONGEST: usize = 128;

/// Where a chart is fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// An OCI registry.
    Registry {
        /// The repository in it, such as `team/web`.
        repository: String,
    },
    /// A chart repository: `index.yaml` and archives over HTTP.
    Repository {
        /// Its path on the server; empty, or with a slash before and none behind.
        path: String,
        /// The chart's name in the index.
        chart: String,
    },
}

/// The one spelling of where a chart is, without its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChartAddress {
    /// `https://host[:port]`; `http` only for loopback.
    origin: String,
    /// `host[:port]`
    server: String,
    home: Home,
}

impl ChartAddress {
    /// Reads `oci://host/path/name`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn oci(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "expected oci://registry.example.com/path/name in lower case";
        let rest = text.strip_prefix("oci://").ok_or(SHAPE)?;
        let (server, repository) = rest.split_once('/').ok_or(SHAPE)?;
        if repository.contains([':', '@']) {
            return Err("has a tag or digest; write them as 'version' and 'digest'");
        }
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
        let segment = |part: &str| {
            part.bytes().all(inner)
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.ends_with(|c: char| c.is_ascii_alphanumeric())
                && !part.contains("..")
        };
        if !is_server(server) || rest.len() > LONGEST || !repository.split('/').all(segment) {
            return Err(SHAPE);
        }
        let scheme = if is_loopback(server) { "http" } else { "https" };
        Ok(Self {
            origin: format!("{scheme}://{server}"),
            server: server.to_owned(),
            home: Home::Registry {
                repository: repository.to_owned(),
            },
        })
    }

    /// Reads the address of a repository and the name of a chart in it.
    ///
    /// # Errors
    /// Says what is wrong with the address.
    pub fn listed(repository: &str, chart: ChartName) -> Result<Self, &'static str> {
        const SHAPE: &str = "expected the address of a chart repository, such as \
                             https://charts.example.com/stable";
        let (scheme, rest) = repository.split_once("://").ok_or(SHAPE)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (server, path) = rest.split_once('/').unwrap_or((rest, ""));
        let inner = |c: u8| c.is_ascii_alphanumeric() || b"._~-".contains(&c);
        let segment = |part: &str| {
            !part.is_empty() && part.bytes().all(inner) && part.bytes().any(|c| c != b'.')
        };
        let good_path = path.is_empty() || path.split('/').all(segment);
        if !is_server(server) || !good_path || rest.len() > LONGEST {
            return Err(SHAPE);
        }
        match scheme {
            "https" => {}
            "http" if is_loopback(server) => {}
            "http" => return Err("plain http is taken for loopback only; use https"),
            _ => return Err(SHAPE),
        }
        let path = if path.is_empty() {
            String::new()
        } else {
            format!("/{path}")
        };
        Ok(Self {
            origin: format!("{scheme}://{server}"),
            server: server.to_owned(),
            home: Home::Repository {
                path,
                chart: chart.0,
            },
        })
    }

    /// Returns scheme and server, without a slash behind.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns what kind of server it is, and the place on it.
    #[must_use]
    pub const fn home(&self) -> &Home {
        &self.home
    }

    /// Says whether the server is this machine, where plain http is taken.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.server)
    }
}

impl fmt::Display for ChartAddress {
    /// Writes it as the key `charts` of a policy names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.home {
            Home::Registry { repository } => write!(f, "oci://{}/{repository}", self.server),
            Home::Repository { path, chart } => write!(f, "{}{path}/{chart}", self.origin),
        }
    }
}

/// Says whether a text is `host` or `host:port`, in the one way that it is written.
pub(super) fn is_server(text: &str) -> bool {
    let (host, port) = match text.strip_prefix("[::1]") {
        Some(rest) => (
            "localhost",
            rest.strip_prefix(':').or(rest.is_empty().then_some("1")),
        ),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("1")),
        },
    };
    let good_port = port.is_some_and(|port| {
        !port.starts_with('0')
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok()
    });
    let label = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-')
    };
    good_port && host.split('.').all(label)
}

pub(super) fn is_loopback(server: &str) -> bool {
    let bare = server.rsplit_once(':').filter(|_| !server.ends_with(']'));
    let host = bare.map_or(server, |(host, _)| host);
    ["localhost", "127.0.0.1", "[::1]"].contains(&host)
}

/// The name of a chart in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChartName(String);

impl ChartName {
    /// Reads a name.
    ///
    /// # Errors
    /// Says what a name looks like.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let first = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if first && text.len() <= LONGEST && text.bytes().all(inner) {
            Ok(Self(text.to_owned()))
        } else {
            Err("with 'repo', expected the chart's name there: letters, digits, '-', '_' and '.'")
        }
    }
}

/// One exact version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChartVersion(String);

impl ChartVersion {
    /// Reads a version.
    ///
    /// # Errors
    /// Says what a version looks like.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (rest, build) = text.split_once('+').unwrap_or((text, "0"));
        let (numbers, before) = rest.split_once('-').unwrap_or((rest, "0"));
        let numbers: Vec<&str> = numbers.trim_start_matches('v').split('.').collect();
        let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let words = |text: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
            !text.is_empty() && text.bytes().all(inner)
        };
        let good = numbers.len() == 3 && numbers.iter().all(number);
        if good && words(before) && words(build) && text.len() <= LONGEST && !text.starts_with("vv")
        {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected one exact version, such as 1.4.2; no ranges, and no latest")
        }
    }

    /// Returns it as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the tag that Helm gives to it in a registry, where `+` is no letter of tags.
    #[must_use]
    pub fn tag(&self) -> String {
        self.0.replace('+', "_")
    }
}

/// A SHA-256 digest, `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChartDigest(String);

impl ChartDigest {
    /// Reads a digest.
    ///
    /// # Errors
    /// Says what a digest looks like.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if is_digest(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected a digest: sha256: and 64 hexadecimal digits in lower case")
        }
    }

    /// Returns it with its algorithm.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A chart to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChartRef {
    /// Where it is.
    pub address: ChartAddress,
    /// Which version.
    pub version: ChartVersion,
    /// What it has to be: in a registry the digest of the manifest, as `helm push` prints it; in a
    /// repository that of the archive, as in its index. Unset: whatever the server has.
    pub digest: Option<ChartDigest>,
}

impl fmt::Display for ChartRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.address, self.version.0)
    }
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The archive.
    pub archive: Vec<u8>,
    /// Its digest in the sense of [`ChartRef::digest`], computed from what came.
    pub digest: ChartDigest,
}

/// Why a chart cannot be had. Words of servers are cut to a limit and not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChartError {
    /// The server has no such chart or version.
    #[error("{server} has no {what}")]
    Missing {
        /// The server.
        server: String,
        /// What is missing, and what there is instead.
        what: String,
    },
    /// The server wants to know who asks.
    #[error("{server} does not give it out without credentials: it answers {status}")]
    Denied {
        /// The server.
        server: String,
        /// Its status.
        status: u16,
    },
    /// The server is away, busy or slow.
    #[error("{server} is not available: {reason}")]
    Unavailable {
        /// The server.
        server: String,
        /// Such as `connection refused`, `503`.
        reason: String,
        /// What the server asked to wait.
        retry_after_seconds: Option<u64>,
    },
    /// More came, or was announced, than is taken.
    #[error("{what} is over {limit} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// It is another one than was named.
    #[error("{what} has another digest: expected {expected}, came {came}")]
    Mismatch {
        /// What.
        what: &'static str,
        /// As it was named.
        expected: String,
        /// As it is.
        came: String,
    },
    /// What came is no chart.
    #[error("no chart: {reason}")]
    NotAChart {
        /// What is there instead.
        reason: String,
    },
    /// The server answers what no registry or repository should, or leads where we do not go.
    #[error("{server} is not followed: {reason}")]
    Unfit {
        /// The server.
        server: String,
        /// Why.
        reason: String,
    },
    /// The agent cannot ask.
    #[error("the agent cannot fetch: {reason}")]
    Broken {
        /// Why.
        reason: String,
    },
}

impl ChartError {
    /// Returns the class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Missing { .. } => Class::NotFound,
            Self::Denied { .. } => Class::Denied,
            Self::Unavailable { .. } => Class::Upstream,
            Self::TooLarge { .. }
            | Self::Mismatch { .. }
            | Self::NotAChart { .. }
            | Self::Unfit { .. } => Class::Caller,
            Self::Broken { .. } => Class::Bug,
        }
    }
}

#[cfg(test)]
#[path = "charts/tests.rs"]
mod tests;
