//! Charts of OCI registries: manifest by tag, one layer by digest, an anonymous token where it needs one.
//!
//! Used by [`super::fetch`]. Trust runs from the digest that the spec names (if it does) over the
//! manifest to the layer: nothing is used whose digest was not compared.

use deploy::ports::ChartDigest;
use deploy::ports::ChartError;
use deploy::ports::ChartRef;
use deploy::ports::Fetched;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::ARCHIVE;
use super::verified;
use super::wire::Reply;
use super::wire::Wanted;
use super::wire::Wire;

const MANIFEST: Wanted = Wanted {
    what: "chart of this name and version",
    accept: "application/vnd.oci.image.manifest.v1+json",
    limit: 1 << 20,
};
const LAYER: Wanted = Wanted {
    what: "archive of the chart",
    accept: "application/octet-stream",
    limit: ARCHIVE,
};
const TOKEN: Wanted = Wanted {
    what: "token for everybody",
    accept: "application/json",
    limit: 64 << 10,
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

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
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
        Reply::Body(body) => body,
        Reply::Challenge(challenge) => {
            let token = anonymous(&wire, &challenge, repository).await?;
            wire.use_token(token);
            wire.body(url, MANIFEST).await?
        }
    };
    let digest = verified("the manifest", &manifest, chart.digest.as_ref())?;
    let layer = layer(&manifest)?;
    let url = wire.at(&format!("/v2/{repository}/blobs/{}", layer.as_str()))?;
    let archive = wire.body(url, LAYER).await?;
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

/// Gets the token that everybody gets. It is no secret: it says that nobody in particular asks.
async fn anonymous(
    wire: &Wire,
    challenge: &str,
    repository: &str,
) -> Result<HeaderValue, ChartError> {
    let denied = || ChartError::Denied {
        server: wire.server(),
        status: 401,
    };
    let url = token_url(challenge, repository).ok_or_else(denied)?;
    wire.may_go(&url)?;
    let body = wire.body(url, TOKEN).await?;
    let unfit = || ChartError::Unfit {
        server: wire.server(),
        reason: "its token server answers no token".to_owned(),
    };
    let answer: Token = serde_json::from_slice(&body).map_err(|_no_detail| unfit())?;
    let token = answer.token.or(answer.access_token).ok_or_else(unfit)?;
    HeaderValue::try_from(format!("Bearer {token}")).map_err(|_no_detail| unfit())
}

/// Makes the address to ask for a token of a challenge, which has to be for bearers.
fn token_url(challenge: &str, repository: &str) -> Option<Url> {
    let (word, rest) = challenge.split_once(' ')?;
    if !word.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut url = Url::parse(&parameter(rest, "realm")?).ok()?;
    let mut pairs = url.query_pairs_mut();
    if let Some(service) = parameter(rest, "service") {
        pairs.append_pair("service", &service);
    }
    // Ours, whatever the server proposes: never more than reading this one.
    pairs.append_pair("scope", &format!("repository:{repository}:pull"));
    drop(pairs);
    Some(url)
}

/// Reads a parameter of a challenge: `name="value"` or `name=value`, with commas between.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text.trim_start_matches([' ', ',']);
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = next.trim_start_matches([' ', ',']);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_leads_to_a_token_for_reading_this_chart_alone() {
        let rows = [
            r#"Bearer realm="https://auth.example.com/token",service="r.example.com",scope="repository:x:push""#,
            r#"bearer service="r.example.com", realm="https://auth.example.com/token""#,
            "Bearer realm=https://auth.example.com/token,service=r.example.com",
        ];
        let expected = "https://auth.example.com/token?service=r.example.com&scope=repository%3Ateam%2Fweb%3Apull";
        for challenge in rows {
            let url = token_url(challenge, "team/web").map(String::from);
            assert_eq!(url.as_deref(), Some(expected), "{challenge}");
        }
        for challenge in [
            "",
            "Basic realm=\"x\"",
            "Bearer",
            "Bearer realm=\"x",
            "Bearer service=\"x\"",
        ] {
            assert_eq!(token_url(challenge, "team/web"), None, "{challenge}");
        }
    }

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
