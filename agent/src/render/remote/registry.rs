//! Charts of OCI registries: manifest by tag, one layer by digest, an anonymous token where it needs one.
//!
//! Used by [`super::fetch`]. Trust runs from the digest that the spec names (if it does) over the
//! manifest to the layer: nothing is used whose digest was not compared.

use deploy::ports::ChartDigest;
use deploy::ports::ChartError;
use deploy::ports::ChartRef;
use deploy::ports::Fetched;
use serde::Deserialize;

use super::ARCHIVE;
use super::verified;
use crate::registries::token;
use crate::registries::wire::Depth;
use crate::registries::wire::Follow;
use crate::registries::wire::Reply;
use crate::registries::wire::Wanted;
use crate::registries::wire::Wire;

const MANIFEST: Wanted = Wanted {
    what: "chart of this name and version",
    depth: Depth::Whole,
    follow: Follow::Anywhere,
    accept: "application/vnd.oci.image.manifest.v1+json",
    limit: 1 << 20,
};
const LAYER: Wanted = Wanted {
    what: "archive of the chart",
    depth: Depth::Whole,
    follow: Follow::Anywhere,
    accept: "application/octet-stream",
    limit: ARCHIVE,
};
/// The layer of a chart: as Helm writes it now, and as it did at first.
const CHART_LAYERS: [&str; 2] = [
    "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
    "application/tar+gzip",
];

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
}

/// Fetches a chart from a registry.
pub(super) async fn fetch(
    mut wire: Wire,
    repository: &str,
    chart: &ChartRef,
) -> Result<Fetched, ChartError> {
    let tag = chart.version.tag();
    let url = wire.at(&format!("/v2/{repository}/manifests/{tag}"))?;
    let manifest = match wire.get(url.clone(), MANIFEST).await? {
        Reply::Came(came) => came.body,
        Reply::Challenge(challenge) => {
            token::answer(&mut wire, &challenge, repository, None).await?;
            wire.body(url, MANIFEST, None).await?
        }
    };
    let digest = verified("the manifest", &manifest, chart.digest.as_ref())?;
    let layer = layer(&manifest)?;
    let url = wire.at(&format!("/v2/{repository}/blobs/{}", layer.as_str()))?;
    let archive = wire.body(url, LAYER, None).await?;
    verified("the archive", &archive, Some(&layer))?;
    Ok(Fetched { archive, digest })
}

/// Finds the digest of the one layer that is the chart.
fn layer(manifest: &[u8]) -> Result<ChartDigest, ChartError> {
    let none = |reason: &str| ChartError::NotAChart {
        reason: reason.to_owned(),
    };
    let manifest: Manifest = serde_json::from_slice(manifest)
        .map_err(|_no_detail| none("the manifest of this tag is none of the OCI"))?;
    let is_chart = |layer: &&Layer| CHART_LAYERS.contains(&layer.media_type.as_str());
    let mut layers = manifest.layers.iter().filter(is_chart);
    let (layer, None) = (
        layers
            .next()
            .ok_or_else(|| none("what has this tag is something else, perhaps an image"))?,
        layers.next(),
    ) else {
        return Err(none("the manifest names two archives"));
    };
    if layer.size > ARCHIVE as u64 {
        return Err(ChartError::TooLarge {
            what: LAYER.what,
            limit: ARCHIVE,
        });
    }
    ChartDigest::parse(&layer.digest)
        .map_err(|_shape| none("the manifest names the archive by no SHA-256"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_one_chart_that_is_not_too_large() {
        let hex = "0a".repeat(32);
        let one = |kind: &str, size: u64| {
            format!(r#"{{"mediaType":"{kind}","digest":"sha256:{hex}","size":{size}}}"#)
        };
        let manifest = |layers: &[String]| {
            layer(format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(",")).as_bytes())
        };
        let chart = one(CHART_LAYERS[0], 100);
        let signed = one("application/vnd.cncf.helm.chart.provenance.v1.prov", 10);
        let found = manifest(&[signed, chart.clone()]).expect("it names one chart");
        assert_eq!(found.as_str(), format!("sha256:{hex}"));
        let image = one("application/vnd.oci.image.layer.v1.tar+gzip", 100);
        for layers in [vec![], vec![image], vec![chart.clone(), chart]] {
            let found = manifest(&layers);
            assert!(
                matches!(found, Err(ChartError::NotAChart { .. })),
                "{layers:?}"
            );
        }
        let large = manifest(&[one(CHART_LAYERS[0], (5 << 20) + 1)]);
        assert!(
            matches!(large, Err(ChartError::TooLarge { .. })),
            "{large:?}"
        );
        assert!(layer(b"<html>").is_err());
    }
}
