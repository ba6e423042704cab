//! What the pages of `docs/` say is what the program takes: their samples are read by its own
//! readers, and the words of their tables are compared with the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use proto::error::Code;

pub(crate) fn read(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The blocks of a page in one language.
pub(crate) fn blocks(page: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    let parts = page.split(&start).skip(1);
    let ended = parts.filter_map(|part| part.split_once("```"));
    ended.map(|(block, _)| block.to_owned()).collect()
}

/// The rows of all tables whose first cell is code, cell by cell.
fn rows(page: &str) -> Vec<Vec<&str>> {
    page.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// Makes a whole spec of a piece: what every spec has, and something to apply.
fn whole(piece: &str) -> String {
    let mut spec = String::new();
    if !piece.contains("version: 1\n") {
        spec.push_str("version: 1\nname: shop\n");
    }
    let sources = [
        "secrets:",
        "manifests:",
        "kustomize:",
        "helm:",
        "flux:",
        "expose:",
    ];
    let has_source = |line: &str| sources.iter().any(|word| line.starts_with(word));
    if !piece.lines().any(has_source) {
        spec.push_str("manifests: [k8s/]\n");
    }
    spec.push_str(&piece.replace("${IMAGE}", "registry.example.com/shop:1"));
    spec.replace("${CI_ENVIRONMENT_NAME}", "production")
        .replace("${NAMESPACE}", "shop")
        .replace("${CI_COMMIT_SHA}", "9f2c41d7")
        .replace("${APP}", "shop")
        .replace("${OVERLAY}", "production")
        .replace("${FLEET_REPOSITORY}", "https://git.example.com/fleet.git")
}

fn taken(page: &str, piece: &str) -> Result<()> {
    match deploy::spec::parse(whole(piece).as_bytes()) {
        Ok(_) => Ok(()),
        Err(error) => anyhow::bail!("{page}: {:?}\n{piece}", error.places),
    }
}

#[test]
fn every_sample_of_a_spec_is_one() -> Result<()> {
    let pages = [
        ("docs/expose.md", 1),
        ("docs/spec.md", 10),
        ("docs/flux.md", 1),
        ("docs/moving.md", 4),
        ("docs/rotation.md", 1),
        ("README.md", 1),
    ];
    for (page, least) in pages {
        let text = read(page)?;
        let samples: Vec<String> = blocks(&text, "yaml")
            .into_iter()
            // Some pages show pipelines too.
            .filter(|block| !block.contains("script:"))
            .collect();
        ensure!(samples.len() >= least, "{page} has {}", samples.len());
        for sample in samples {
            taken(page, &sample)?;
        }
    }
    let ways = [
        "flask",
        "flask-helm",
        "flask-kustomize",
        "flask-kustomize/stop",
        "flask-flux",
    ];
    for way in ways {
        let page = format!("examples/{way}/quaymaster.yaml");
        taken(&page, &read(&page)?)?;
    }
    ensure!(
        taken("none", "rollout: { timeout: 10 }").is_err(),
        "a sample with a mistake is found"
    );
    Ok(())
}

#[test]
fn every_field_of_the_tables_is_one() -> Result<()> {
    let text = read("docs/spec.md")?;
    let sources: String = [
        "parse",
        "secrets",
        "rotate",
        "charts",
        "flux",
        "registries",
        "healths",
        "conflicts",
        "expose",
    ]
    .iter()
    .map(|file| read(&format!("deploy/src/spec/{file}.rs")))
    .collect::<Result<_>>()?;
    let rows = rows(&text);
    ensure!(rows.len() > 35, "{}", rows.len());
    for row in rows {
        let field = row[0].trim_matches('`').rsplit('.').next().unwrap_or("");
        ensure!(sources.contains(&format!("\"{field}\"")), "{field}");
    }
    Ok(())
}

#[test]
fn every_annotation_is_taken_and_told() -> Result<()> {
    let text = read("docs/annotations.md")?;
    let samples = blocks(&text, "yaml");
    ensure!(samples.len() > 1, "{samples:?}");
    for sample in samples {
        if let Err(error) = deploy::manifest::rendered("sample", sample.as_bytes()) {
            anyhow::bail!("{:?}\n{sample}", error.places);
        }
        let wrong = sample.replace("quaymaster.dev/", "quaymaster.dev/x");
        ensure!(
            deploy::manifest::rendered("sample", wrong.as_bytes()).is_err(),
            "{wrong}"
        );
    }
    let told: BTreeSet<&str> = rows(&text)
        .iter()
        .filter_map(|row| row[0].trim_matches('`').strip_prefix("quaymaster.dev/"))
        .collect();
    let known = ["ignore-fields", "keep", "recreate", "timeout", "wait"];
    ensure!(told == BTreeSet::from(known), "{told:?}");
    let source = read("deploy/src/options.rs")?;
    for word in known {
        ensure!(source.contains(&format!("\"{word}\" =>")), "{word}");
    }
    Ok(())
}

#[test]
fn every_code_is_told_with_its_status_and_retry() -> Result<()> {
    let text = read("docs/verdicts.md")?;
    let mut told = BTreeSet::new();
    for row in rows(&text).into_iter().filter(|row| {
        row.get(2)
            .is_some_and(|retry| ["yes", "no"].contains(retry))
    }) {
        let word = row[0].trim_matches('`');
        let code: Code = serde_json::from_value(word.into()).with_context(|| word.to_owned())?;
        let retry = if code.retryable() { "yes" } else { "no" };
        ensure!(
            row[1] == code.status().to_string() && row[2] == retry,
            "{row:?}"
        );
        told.insert(word.to_owned());
    }
    let source = read("proto/src/error.rs")?;
    let words = source.split("pub const fn word").nth(1).unwrap_or_default();
    let words = words.split("pub const fn title").next().unwrap_or_default();
    let words: BTreeSet<String> = words
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    ensure!(words.len() > 30 && told == words, "{told:?} and {words:?}");
    Ok(())
}

#[test]
fn every_cause_that_is_told_is_one_of_the_code() -> Result<()> {
    let text = read("docs/verdicts.md")?;
    let part = text.split("## Causes").nth(1).context("the causes")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/src");
    let mut sources = read("deploy/src/watch/verdict.rs")?;
    sources.push_str(&read("deploy/src/engine/flux/delivery.rs")?);
    sources.push_str(&read("deploy/src/flux/wait.rs")?);
    for entry in fs::read_dir(root.join("cause"))? {
        sources.push_str(&fs::read_to_string(entry?.path())?);
    }
    let rows = rows(part);
    ensure!(rows.len() > 40, "{}", rows.len());
    for row in rows {
        let word = row[0].trim_matches('`');
        ensure!(sources.contains(&format!("\"{word}\"")), "{word}");
    }
    Ok(())
}
