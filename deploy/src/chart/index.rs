//! The `index.yaml` of a chart repository: which archive is a version of a chart.
//!
//! Pure; called by the adapter behind [`crate::ports::Renderer::fetch`]. Of an index, which anybody
//! with a server can write, one entry is read: others may be as wrong as they like. What is told of
//! it is cut and made of harmless letters.

use crate::ports::ChartDigest;
use crate::ports::ChartVersion;
use crate::yaml::legacy;
use crate::yaml::tree::Node;

/// Versions that are told where the one that is wanted is missing.
const TOLD: usize = 5;

/// One version of one chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The first URL: whole, or relative to the index.
    pub url: String,
    /// The archive's digest.
    pub digest: Option<ChartDigest>,
}

/// Why an index does not lead to an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It is no index.
    #[error("index.yaml cannot be read: {problem}")]
    Unreadable {
        /// What is wrong.
        problem: String,
    },
    /// It has no such chart.
    #[error("no chart of this name in index.yaml")]
    NoChart,
    /// It has the chart, in other versions.
    #[error("no such version in index.yaml")]
    NoVersion {
        /// Some that it has, in its order (Helm puts the newest first).
        known: Vec<String>,
    },
    /// The entry is broken.
    #[error("the entry in index.yaml is broken: {problem}")]
    Broken {
        /// What is wrong.
        problem: &'static str,
    },
}

/// Finds a version of a chart.
///
/// # Errors
/// The index is none, or does not have it.
pub fn pick(index: &[u8], chart: &str, version: &ChartVersion) -> Result<Listed, IndexError> {
    let documents = legacy::listing(index).map_err(|flaw| IndexError::Unreadable {
        problem: if flaw.line > 0 {
            format!("line {}: {}", flaw.line, flaw.message)
        } else {
            flaw.message
        },
    })?;
    let entries = documents.first().and_then(|root| root.get("entries"));
    let Some(entries) = entries.filter(|entries| entries.mapping().is_some()) else {
        return Err(IndexError::Unreadable {
            problem: "it has no 'entries'".to_owned(),
        });
    };
    let versions = entries.get(chart).ok_or(IndexError::NoChart)?;
    let versions = versions.sequence().unwrap_or_default();
    let text = |entry: &Node, field| entry.get(field).and_then(Node::scalar).map(str::to_owned);
    let found = versions
        .iter()
        .find(|entry| text(entry, "version").as_deref() == Some(version.as_str()));
    let Some(entry) = found else {
        let known = versions.iter().filter_map(|entry| text(entry, "version"));
        let known = known.filter(|text| ChartVersion::parse(text).is_ok());
        return Err(IndexError::NoVersion {
            known: known.take(TOLD).collect(),
        });
    };
    let urls = entry.get("urls").and_then(Node::sequence);
    let url = urls.and_then(<[Node]>::first).and_then(Node::scalar);
    let url = url
        .filter(|url| !url.is_empty())
        .ok_or(IndexError::Broken {
            problem: "it has no URL",
        })?;
    let digest = match text(entry, "digest").as_deref() {
        None | Some("") => None,
        Some(written) => Some(digest(written)?),
    };
    Ok(Listed {
        url: url.to_owned(),
        digest,
    })
}

/// Reads a digest; Helm writes the digits alone.
fn digest(text: &str) -> Result<ChartDigest, IndexError> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    ChartDigest::parse(&format!("sha256:{}", digits.to_ascii_lowercase())).map_err(|_shape| {
        IndexError::Broken {
            problem: "its digest is no SHA-256",
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn index() -> String {
        format!(
            "apiVersion: v1\ngenerated: 2026-01-01T00:00:00.499814565-06:00\nentries:\n  other: [7, {{version: {{}}}}]\n  web:\n  - version: 1.3.0\n    urls: [https://elsewhere.example.com/web-1.3.0.tgz]\n  - version: 1.2.0\n    created: 2026-01-01\n    appVersion: 1.10\n    digest: {HEX}\n    urls:\n    - charts/web-1.2.0.tgz\n    - second.tgz\n  - version: 1.1.0\n    urls: []\n  - version: 1.0.0\n    digest: abc\n    urls: [a.tgz]\n"
        )
    }

    fn pick_one(version: &str) -> Result<Listed, IndexError> {
        let version = ChartVersion::parse(version).expect("a good version");
        pick(index().as_bytes(), "web", &version)
    }

    #[test]
    fn exactly_the_version_that_is_named_is_picked() {
        assert_eq!(
            pick_one("1.2.0"),
            Ok(Listed {
                url: "charts/web-1.2.0.tgz".to_owned(),
                digest: ChartDigest::parse(&format!("sha256:{HEX}")).ok(),
            })
        );
        assert_eq!(
            pick_one("1.3.0").map(|listed| listed.digest),
            Ok(None),
            "a digest may be missing"
        );
        for near in ["1.2.1", "v1.2.0", "1.2.0+a", "1.2.0-a"] {
            let known = ["1.3.0", "1.2.0", "1.1.0", "1.0.0"]
                .map(str::to_owned)
                .to_vec();
            assert_eq!(
                pick_one(near),
                Err(IndexError::NoVersion { known }),
                "{near}"
            );
        }
    }

    #[test]
    fn what_is_no_index_or_no_entry_is_told() {
        let version = ChartVersion::parse("1.2.0").expect("a good version");
        let other = |chart| pick(index().as_bytes(), chart, &version);
        assert_eq!(other("none"), Err(IndexError::NoChart));
        assert_eq!(
            other("other"),
            Err(IndexError::NoVersion { known: Vec::new() })
        );
        for page in ["", "<html></html>", "a: [", "entries: 7\n", "[]"] {
            let found = pick(page.as_bytes(), "web", &version);
            assert!(
                matches!(found, Err(IndexError::Unreadable { .. })),
                "{page}"
            );
        }
        for broken in ["1.1.0", "1.0.0"] {
            assert!(
                matches!(pick_one(broken), Err(IndexError::Broken { .. })),
                "{broken}"
            );
        }
    }
}
