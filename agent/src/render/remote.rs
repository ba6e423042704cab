//! Fetches the archive of a chart from an OCI registry or a chart repository.
//!
//! Called by [`super::Rendering`]. Invariants: nothing is sent but reads without anybody's
//! credentials; every answer has a limit of size and the whole fetch one of time; what comes is
//! compared with every digest that is known. [`registry`] and [`repository`] are the two protocols; one
//! request is that of [`crate::registries`].

mod registry;
mod repository;

use std::time::Duration;

use deploy::ports::ChartDigest;
use deploy::ports::ChartError;
use deploy::ports::ChartRef;
use deploy::ports::Fetched;
use deploy::ports::Home;
use reqwest::Certificate;

use crate::registries::digest;
use crate::registries::wire::Wire;

/// The longest that one fetch may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of an archive that are taken.
const ARCHIVE: usize = 5 << 20;

/// Fetches a chart once; the caller tries again.
pub(super) async fn fetch(chart: &ChartRef, roots: &[Certificate]) -> Result<Fetched, ChartError> {
    let wire = Wire::to(chart.address.origin(), roots)?;
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

/// Compares what came with a digest, and returns its own.
fn verified(
    what: &'static str,
    bytes: &[u8],
    expected: Option<&ChartDigest>,
) -> Result<ChartDigest, ChartError> {
    let came = ChartDigest::parse(&digest(bytes)).map_err(|problem| ChartError::Broken {
        reason: problem.to_owned(),
    })?;
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
