//! Where a chart is: in the bundle, in a registry (`oci://`), or in a chart repository (`repo`).
//!
//! Called by [`super::charts`]. A chart that is fetched names one exact version, so that the same
//! commit means the same chart; whether it may be fetched is not decided here.

use super::ChartSource;
use super::fields::Errors;
use super::fields::Fields;
use super::fields::Spot;
use super::parse::path;
use crate::ports::ChartAddress;
use crate::ports::ChartDigest;
use crate::ports::ChartName;
use crate::ports::ChartRef;
use crate::ports::ChartVersion;

/// Reads `chart`, `repo`, `version` and `digest`.
pub(super) fn chart(fields: &Fields<'_>, errors: &mut Errors) -> Option<ChartSource> {
    let spot = fields.need("chart", errors)?;
    let text = spot.text(errors)?;
    let address = match (text.starts_with("oci://"), fields.take("repo")) {
        (true, None) => spot.parsed(errors, ChartAddress::oci),
        (true, Some(repo)) => {
            errors.at(&repo, "an oci:// chart has no 'repo'; leave it out");
            None
        }
        (false, Some(repo)) => listed(&spot, &repo, errors),
        (false, None) if text.contains("://") => {
            errors.at(
                &spot,
                "expected oci://host/path/name, or a path of the bundle; a chart of a repository \
                 is written as its name, with the repository's address as 'repo'",
            );
            None
        }
        (false, None) => return bundled(&spot, fields, errors),
    };
    let version = fields.need("version", errors);
    let version = version.and_then(|spot| spot.parsed(errors, ChartVersion::parse));
    let digest = match fields.take("digest") {
        Some(spot) => Some(spot.parsed(errors, ChartDigest::parse)?),
        None => None,
    };
    Some(ChartSource::Remote(ChartRef {
        address: address?,
        version: version?,
        digest,
    }))
}

/// Reads the path of a chart in the bundle, which says itself what version it is.
fn bundled(spot: &Spot<'_>, fields: &Fields<'_>, errors: &mut Errors) -> Option<ChartSource> {
    for word in ["version", "digest"] {
        if let Some(spot) = fields.take(word) {
            errors.at(
                &spot,
                format!("a chart of the bundle takes no '{word}'; it is for oci:// and 'repo'"),
            );
        }
    }
    path(spot, errors).map(ChartSource::Bundle)
}

fn listed(spot: &Spot<'_>, repo: &Spot<'_>, errors: &mut Errors) -> Option<ChartAddress> {
    let name = spot.parsed(errors, ChartName::parse);
    let text = repo.text(errors)?;
    // Where the name is wrong, the address is still worth a look.
    let checked = match name.clone() {
        Some(name) => ChartAddress::listed(text, name),
        None => ChartName::parse("x").and_then(|name| ChartAddress::listed(text, name)),
    };
    let address = checked.map_err(|problem| errors.at(repo, problem)).ok();
    name.and(address)
}
