//! Fetches the archive of a chart from an OCI registry or a chart repository.
//!
//! Called by [`super::Rendering`]. Invariants: nothing is sent but reads without anybody's
//! credentials; every answer has a limit of size and the whole fetch one of time; what comes is
//! compared with every digest that is known. [`wire`] is one request with its redirects,
//! [`registry`] and [`repository`] are the two protocols.

mod registry;
mod repository;
mod wire;

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use deploy::ports::ChartDigest;
use deploy::ports::ChartError;
use deploy::ports::ChartRef;
use deploy::ports::Fetched;
use deploy::ports::Home;
use reqwest::Certificate;
use sha2::Digest as _;
use sha2::Sha256;

use self::wire::Wire;

/// The longest that one fetch may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of an archive that are taken.
const ARCHIVE: usize = 5 << 20;

/// Reads roots that servers of charts may have beside the machine's.
pub(super) fn roots(path: &Path) -> io::Result<Vec<Certificate>> {
    let unusable = |problem: String| io::Error::other(format!("{}: {problem}", path.display()));
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(roots) if !roots.is_empty() => Ok(roots),
        _ => Err(unusable("has no usable PEM certificate".to_owned())),
    }
}

/// Fetches a chart once; the caller tries again.
pub(super) async fn fetch(chart: &ChartRef, roots: &[Certificate]) -> Result<Fetched, ChartError> {
    let wire = Wire::to(&chart.address, roots)?;
    let fetching = async {
        match chart.address.home() {
            Home::Registry { repository } => registry::fetch(wire, repository, chart).await,
            Home::Repository { path, chart: name } => {
                repository::fetch(&wire, path, name, chart).await
            }
        }
    };
    let fetched = tokio::time::timeout(LIMIT, fetching).await;
    fetched.unwrap_or_else(|_elapsed| {
        Err(ChartError::Unavailable {
            server: chart.address.origin().to_owned(),
            reason: format!("it did not answer all of it in {} s", LIMIT.as_secs()),
            retry_after_seconds: None,
        })
    })
}

fn digest(bytes: &[u8]) -> Result<ChartDigest, ChartError> {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        // Writing to a text cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    ChartDigest::parse(&text).map_err(|problem| ChartError::Broken {
        reason: problem.to_owned(),
    })
}

/// Compares what came with a digest, and returns its own.
fn verified(
    what: &'static str,
    bytes: &[u8],
    expected: Option<&ChartDigest>,
) -> Result<ChartDigest, ChartError> {
    let came = digest(bytes)?;
    match expected {
        Some(expected) if *expected != came => Err(ChartError::Mismatch {
            what,
            expected: expected.as_str().to_owned(),
            came: came.as_str().to_owned(),
        }),
        Some(_) | None => Ok(came),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_no_file_of_roots() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "no certificate\n").expect("it can be written");
        for path in [file.path(), Path::new("/nonexistent/ca.pem")] {
            let error = roots(path).expect_err("there are none").to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn one_other_byte_is_another_chart() {
        let known = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let expected = ChartDigest::parse(known).expect("a good digest");
        assert_eq!(verified("x", b"abc", Some(&expected)), Ok(expected.clone()));
        assert_eq!(verified("x", b"abc", None), Ok(expected.clone()));
        let found = verified("x", b"abd", Some(&expected));
        assert!(
            matches!(found, Err(ChartError::Mismatch { .. })),
            "{found:?}"
        );
    }
}
