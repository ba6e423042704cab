//! Charts that are fetched: granted first, then fetched, then treated as those of the bundle.

use flate2::Compression;
use flate2::write::GzEncoder;
use proto::error::Code;

use super::*;
use crate::ports::ChartDigest;
use crate::ports::ChartError;
use crate::ports::Fetched;

const SPEC: &str = "version: 1\nname: app\nhelm:\n  chart: oci://registry.example.com/team/web\n  version: 1.2.3\n  digest: sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\n";
const NAME: &str = "oci://registry.example.com/team/web 1.2.3";
const MAP: &str = "---\n# Source: web/templates/conf.yaml\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: conf }\ndata: { a: b }\n";

/// An archive with one file.
fn packed(name: &str, content: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let added = archive.append_data(&mut header, name, content.as_bytes());
    added.expect("the name is short");
    let packer = archive.into_inner().expect("it is in memory");
    packer.finish().expect("it is in memory")
}

fn stage(archive: Vec<u8>) -> Stage {
    let stage = Stage::new();
    let digest = format!("sha256:{}", "0a".repeat(32));
    let digest = ChartDigest::parse(&digest).expect("a good digest");
    stage
        .fakes
        .renderer
        .publish(NAME, Fetched { archive, digest });
    stage.fakes.renderer.render(MAP);
    stage
}

fn web() -> Vec<u8> {
    packed(
        "web/Chart.yaml",
        "apiVersion: v2\nname: web\nversion: 1.2.3\n",
    )
}

#[tokio::test(start_paused = true)]
async fn a_chart_is_fetched_once_and_told_with_version_and_digest() {
    let stage = stage(web());
    let away = ChartError::Unavailable {
        server: "https://registry.example.com".to_owned(),
        reason: "503".to_owned(),
        retry_after_seconds: Some(2),
    };
    stage.fakes.renderer.fail_fetch(away);
    let report = stage.run(SPEC, "", Mode::Deploy).await;
    assert_eq!(report.status, Status::Succeeded, "{report:?}");
    let calls = stage.fakes.renderer.calls();
    let fetch = format!("fetch {NAME}");
    assert_eq!(calls[..2], [fetch.clone(), fetch], "away at first");
    assert_eq!(
        calls
            .iter()
            .filter(|call| call.starts_with("fetch"))
            .count(),
        2
    );
    assert_eq!(calls.last().map(String::as_str), Some("upgrade app"));
    let told = format!("chart {NAME} sha256:{} fetched", "0a".repeat(32));
    assert!(stage.text().contains(&told), "{}", stage.text());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_fetched_is_told_at_its_place_and_nothing_is_run() {
    let server = || "https://registry.example.com".to_owned();
    let rows = [
        (
            ChartError::Missing {
                server: server(),
                what: "chart of this name and version".to_owned(),
            },
            Code::ChartMissing,
            5,
        ),
        (
            ChartError::Denied {
                server: server(),
                status: 401,
            },
            Code::ChartMissing,
            4,
        ),
        (
            ChartError::Mismatch {
                what: "the manifest",
                expected: "sha256:a".to_owned(),
                came: "sha256:b".to_owned(),
            },
            Code::ChartInvalid,
            6,
        ),
        (
            ChartError::TooLarge {
                what: "archive of the chart",
                limit: 5,
            },
            Code::ChartInvalid,
            4,
        ),
        (
            ChartError::Unfit {
                server: server(),
                reason: "it redirects more than 5 times".to_owned(),
            },
            Code::ChartInvalid,
            4,
        ),
    ];
    for (error, code, line) in rows {
        let stage = stage(web());
        stage.fakes.renderer.fail_fetch(error.clone());
        let report = stage.run(SPEC, "", Mode::Deploy).await;
        let problem = report.problem.expect("it failed");
        assert_eq!(
            (report.status, problem.code),
            (Status::Failed, code),
            "{error}"
        );
        assert!(!problem.retryable, "{error}");
        let lines: Vec<_> = problem.errors.iter().map(|place| place.line).collect();
        assert_eq!(lines, [Some(line)], "{error}");
        assert_eq!(stage.fakes.renderer.calls().len(), 1, "only the fetch");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_archive_of_a_chart_is_not_given_to_helm() {
    for archive in [
        Vec::new(),
        b"<html>".to_vec(),
        packed("Chart.yaml", "name: web\n"),
        packed("web/values.yaml", "a: b\n"),
    ] {
        let stage = stage(archive);
        let report = stage.run(SPEC, "", Mode::DryRun).await;
        let code = report.problem.map(|problem| problem.code);
        assert_eq!(code, Some(Code::ChartInvalid));
        assert_eq!(stage.fakes.renderer.calls().len(), 1, "only the fetch");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_away_is_told_as_such_at_the_deadline() {
    let stage = stage(web());
    for _ in 0..200 {
        stage.fakes.renderer.fail_fetch(ChartError::Unavailable {
            server: "https://registry.example.com".to_owned(),
            reason: "connection refused".to_owned(),
            retry_after_seconds: None,
        });
    }
    let report = stage.run(SPEC, "", Mode::Deploy).await;
    let problem = report.problem.expect("it failed");
    assert_eq!(
        (problem.code, problem.retryable),
        (Code::ChartUnavailable, true)
    );
}
