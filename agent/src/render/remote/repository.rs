//! Charts of chart repositories: the index, then the archive that it names for the version.
//!
//! Used by [`super::fetch`]. Which entry is meant is decided by [`deploy::chart::index`]. The rule
//! granted this repository, so an index can only name archives on its own server.

use deploy::chart::index;
use deploy::chart::index::IndexError;
use deploy::chart::index::Listed;
use deploy::ports::ChartError;
use deploy::ports::ChartRef;
use deploy::ports::Fetched;
use reqwest::Url;

use super::ARCHIVE;
use super::verified;
use crate::registries::wire::Depth;
use crate::registries::wire::Follow;
use crate::registries::wire::Wanted;
use crate::registries::wire::Wire;

const INDEX: Wanted = Wanted {
    what: "index.yaml of a chart repository there",
    depth: Depth::Whole,
    follow: Follow::Anywhere,
    accept: "*/*",
    limit: 10 << 20,
};
const PACKED: Wanted = Wanted {
    what: "archive of the chart",
    depth: Depth::Whole,
    follow: Follow::Anywhere,
    accept: "*/*",
    limit: ARCHIVE,
};

/// Fetches a chart from a repository.
pub(super) async fn fetch(
    wire: &Wire,
    path: &str,
    name: &str,
    chart: &ChartRef,
) -> Result<Fetched, ChartError> {
    let base = wire.at(&format!("{path}/index.yaml"))?;
    let body = wire.body(base.clone(), INDEX, None).await?;
    let (own, version) = (name.to_owned(), chart.version.clone());
    // Ten megabytes of YAML take their time.
    let picked = tokio::task::spawn_blocking(move || index::pick(&body, &own, &version)).await;
    let picked = picked.map_err(|error| ChartError::Broken {
        reason: error.to_string(),
    })?;
    let listed = picked.map_err(|error| unlisted(&wire.server(), &error))?;
    let url = archive_url(&base, &listed).map_err(|reason| ChartError::Unfit {
        server: wire.server(),
        reason: reason.to_owned(),
    })?;
    let archive = wire.body(url, PACKED, None).await?;
    verified("the archive", &archive, listed.digest.as_ref())?;
    let digest = verified("the archive", &archive, chart.digest.as_ref())?;
    Ok(Fetched { archive, digest })
}

/// Finds the archive; an address elsewhere was not granted.
fn archive_url(base: &Url, listed: &Listed) -> Result<Url, &'static str> {
    let url = base
        .join(&listed.url)
        .map_err(|_no_detail| "its index names an archive by no address")?;
    let own = url.username().is_empty() && url.password().is_none();
    if url.origin() == base.origin() && own {
        Ok(url)
    } else {
        Err("its index names an archive on another server")
    }
}

fn unlisted(server: &str, error: &IndexError) -> ChartError {
    let what = match error {
        IndexError::NoVersion { known } if known.is_empty() => error.to_string(),
        IndexError::NoVersion { known } => format!("{error}; there are {}", known.join(", ")),
        IndexError::NoChart => error.to_string(),
        IndexError::Unreadable { .. } | IndexError::Broken { .. } => {
            return ChartError::Unfit {
                server: server.to_owned(),
                reason: error.to_string(),
            };
        }
    };
    ChartError::Missing {
        server: server.to_owned(),
        what: what.trim_start_matches("no ").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_taken_from_the_server_of_its_index_alone() {
        let base = Url::parse("https://charts.example.com/stable/index.yaml").expect("good");
        let at = |url: &str| {
            let listed = Listed {
                url: url.to_owned(),
                digest: None,
            };
            archive_url(&base, &listed).map(String::from).ok()
        };
        let rows = [
            ("web-1.tgz", "https://charts.example.com/stable/web-1.tgz"),
            ("/web-1.tgz", "https://charts.example.com/web-1.tgz"),
            (
                "https://charts.example.com/a/web-1.tgz",
                "https://charts.example.com/a/web-1.tgz",
            ),
            (
                "https://charts.example.com:443/a.tgz",
                "https://charts.example.com/a.tgz",
            ),
        ];
        for (url, expected) in rows {
            assert_eq!(at(url).as_deref(), Some(expected), "{url}");
        }
        for url in [
            "https://example.com/a.tgz",
            "http://charts.example.com/a.tgz",
            "https://charts.example.com:8443/a.tgz",
            "//example.com/a.tgz",
            "https://u@charts.example.com/a.tgz",
            "oci://charts.example.com/a",
            "file:///etc/passwd",
        ] {
            assert_eq!(at(url), None, "{url}");
        }
    }
}
