//! One image in the examples of all four ways: it works, it does not exist, it crashes. The logs have one shape, and
//! what fails is told with the same cause, hint and exit code.
//!
//! A job of production runs the client on an example's files as they stand, with the variables that its pipeline gives
//! it. With `-- --nocapture` the ends of the logs are printed side by side.

use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use tests::stand::Stand;

use crate::charts::stages;
use crate::client::folder;
use crate::client::quaymaster;
use crate::client::told;
use crate::platform::Platform;
use crate::platform::small_image;
use crate::platform::small_server;

/// What the image that crashes says before it ends.
const LAST_WORDS: &str = "the schema is too old for this version";
/// Width of a column where logs are printed side by side.
const COLUMN: usize = 44;

/// The images that every way deploys, one after the other.
struct Images {
    good: String,
    missing: String,
    crash: String,
}

impl Images {
    async fn new(stand: &Stand) -> Result<Self> {
        let good = small_server(stand).await?;
        let (repository, _) = good.split_once('@').context("an image with its digest")?;
        let crash = format!("CMD [\"/bin/sh\", \"-c\", \"echo '{LAST_WORDS}'; exit 3\"]\n");
        Ok(Self {
            missing: format!("{repository}@sha256:{}", "0".repeat(64)),
            crash: small_image(stand, "flask-small:crash", &crash).await?,
            good,
        })
    }
}

/// How a deploy ended, without what differs between two projects.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    code: Option<i32>,
    stages: Vec<String>,
    /// The log from the causes on; of a good deploy the verdict.
    end: Vec<String>,
    /// Kind and hint of each cause.
    causes: Vec<[String; 2]>,
    /// What was done with which object.
    steps: Vec<String>,
}

/// What one way tells.
#[derive(Debug)]
struct Way {
    name: &'static str,
    good: Told,
    missing: Told,
    crash: Told,
    /// States of the revisions, the newest first.
    revisions: Vec<String>,
}

/// Takes out of a line what differs between projects and runs: namespace, app, pods, commits, counts.
fn common(line: &str, platform: &Platform, app: &str) -> String {
    let line = line
        .replace(&platform.world.namespace, "NAMESPACE")
        .replace(&format!("stand/NAMESPACE/{app}:"), "stand/NAMESPACE/APP:")
        .replace(&format!("the rollout of {app} "), "the rollout of APP ");
    let line = line.split(" (run r").next().unwrap_or_default();
    let mut words: Vec<&str> = line.split(' ').collect();
    for at in 0..words.len() {
        if words[at].starts_with("flask-") && words[at].matches('-').count() == 2 {
            words[at] = "POD";
        }
        let previous = at.checked_sub(1).map_or("", |before| words[before]);
        if previous == "commit" {
            words[at] = "COMMIT";
        }
        // How often a container was started again depends on when the kubelet is looked at.
        let restarts = words
            .get(at + 1)
            .is_some_and(|next| next.starts_with("restarts)"));
        if words[at].starts_with('(') && restarts {
            words[at] = "(N";
        }
        // Helm counts its ways back too.
        if at > 1 && words[at - 2..at] == ["Helm's", "revision"] {
            words[at] = "N";
        }
    }
    words.join(" ")
}

/// Runs the deploy job of production.
async fn deploy(platform: &Platform, dir: &Path, image: &str) -> Result<Told> {
    let mut variables = platform.job("production")?;
    variables.insert("IMAGE".to_owned(), image.to_owned());
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let words = ["deploy", "--report", "report.json"];
    let done = quaymaster(&platform.world, &words, dir, &variables).await?;
    let log = told(&done);
    for value in platform.secrets(&platform.world.namespace).await? {
        ensure!(!log.contains(&value), "the log holds a value of the Secret");
    }
    let report = std::fs::read(dir.join("report.json")).with_context(|| log.clone())?;
    let report: Value = serde_json::from_slice(&report)?;
    let app = report["name"].as_str().context("the app has a name")?;
    let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut steps: Vec<String> = list("steps")
        .iter()
        .map(|step| format!("{} {}", step["action"], step["object"]))
        .map(|step| common(&step, platform, app))
        .collect();
    steps.sort();
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.len().saturating_sub(1);
    let cause = lines.iter().rposition(|line| line.contains("cause: "));
    let end = lines[cause.unwrap_or(last)..].iter();
    Ok(Told {
        code: done.status.code(),
        stages: stages(&log),
        end: end.map(|line| common(line, platform, app)).collect(),
        causes: list("causes")
            .iter()
            .map(|cause| [text(&cause["kind"]), text(&cause["hint"])])
            .collect(),
        steps,
    })
}

/// Requires that all pods of the app are ready with an image.
async fn ready(platform: &Platform, image: &str) -> Result<()> {
    let all = platform
        .world
        .kubectl(&["get", "deploy", "flask", "-o", "json"]);
    let all: Value = serde_json::from_str(&all.await?)?;
    let (status, wanted) = (&all["status"], &all["spec"]["replicas"]);
    let has = &all["spec"]["template"]["spec"]["containers"][0]["image"];
    ensure!(
        *has == image && status["readyReplicas"] == *wanted && status["updatedReplicas"] == *wanted,
        "{has} {status}"
    );
    Ok(())
}

/// Deploys the images with the example of a way: what works, and twice what does not.
async fn way(name: &'static str, example: &'static str, images: &Images) -> Result<Way> {
    let platform = Platform::new(example).await?;
    let files = platform.files()?;
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let dir = folder(&platform.world, &files)?;
    let good = deploy(&platform, dir.path(), &images.good).await?;
    ensure!(good.code == Some(0), "{name}: {good:#?}");
    ready(&platform, &images.good).await?;
    let mut bad = Vec::new();
    for image in [&images.missing, &images.crash] {
        bad.push(deploy(&platform, dir.path(), image).await?);
        ready(&platform, &images.good)
            .await
            .with_context(|| format!("{name}: {bad:#?}"))?;
    }
    let crash = bad.pop().context("two deploys failed")?;
    let missing = bad.pop().context("two deploys failed")?;
    let history = history(&platform, dir.path()).await?;
    platform.leave().await?;
    Ok(Way {
        name,
        good,
        missing,
        crash,
        revisions: history,
    })
}

/// States of the app's revisions.
async fn history(platform: &Platform, dir: &Path) -> Result<Vec<String>> {
    let variables = platform.job("production")?;
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let table = quaymaster(&platform.world, &["history"], dir, &variables).await?;
    let table = told(&table);
    println!("{table}");
    let states = ["deployed", "rolled_back", "failed"];
    let revisions = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let number = words.next()?;
        let state = words.find(|word| states.contains(word))?;
        Some(format!("{number} {state}"))
    });
    Ok(revisions.collect())
}

/// Puts logs side by side, one column each; lines that belong together stay beside each other.
fn beside(columns: &[(&str, &[String])]) -> String {
    let longest = columns.iter().map(|(_, lines)| lines.len()).max();
    let mut text = String::new();
    let mut row = |cells: Vec<&str>| {
        let cells: Vec<Vec<char>> = cells.iter().map(|cell| cell.chars().collect()).collect();
        let cells: Vec<Vec<&[char]>> = cells
            .iter()
            .map(|cell| cell.chunks(COLUMN).collect())
            .collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or_default();
        for line in 0..height {
            for cell in &cells {
                let part: String = cell.get(line).copied().unwrap_or_default().iter().collect();
                text.push_str(&format!("{part:COLUMN$} | "));
            }
            text.push('\n');
        }
    };
    row(columns.iter().map(|(name, _)| *name).collect());
    for line in 0..longest.unwrap_or_default() {
        row(columns
            .iter()
            .map(|(_, lines)| lines.get(line).map_or("", String::as_str))
            .collect());
    }
    text
}

#[test]
fn logs_stand_side_by_side() {
    let long = "x".repeat(COLUMN + 1);
    let (left, right) = ([long, "c".to_owned()], ["b".to_owned()]);
    let text = beside(&[("one", &left), ("two", &right)]);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let first = format!("{} | b |", "x".repeat(COLUMN));
    assert_eq!(lines, ["one | two |", &first, "x | |", "c | |"]);
}

/// Requires that a deploy failed alike in all ways; `cause` is how its first cause is told.
fn alike(ways: &[&Way; 4], which: impl Fn(&Way) -> &Told, kind: &str, cause: &str) -> Result<()> {
    let columns = ways.map(|way| (way.name, which(way).end.as_slice()));
    println!("{}", beside(&columns));
    let of = |way: &Way| -> Result<(Vec<String>, String)> {
        let told = which(way);
        ensure!(told.code == Some(11), "{}: {told:#?}", way.name);
        let (last, before) = told.end.split_last().context("a log has a verdict")?;
        Ok((before.to_vec(), last.clone()))
    };
    let (digest, _) = of(ways[0])?;
    ensure!(
        digest[0] == format!("cause: apps/v1/Deployment NAMESPACE/flask: {kind}")
            && digest[1] == format!("  {cause}")
            && digest.iter().any(|line| line.starts_with("  what to do: ")),
        "{digest:#?}"
    );
    for way in ways {
        let told = which(way);
        ensure!(
            told.causes == which(ways[0]).causes,
            "{}: {told:#?}",
            way.name
        );
        ensure!(told.causes[0][0] == kind, "{}: {told:#?}", way.name);
        let (same, last) = of(way)?;
        ensure!(same == digest, "{}: {same:#?} and {digest:#?}", way.name);
        // Where it was, and who puts it back, differ and nothing else.
        let (place, back) = match way.name {
            "flux" => (
                " at commit COMMIT",
                "commit COMMIT takes it back and is ready",
            ),
            "helm" => ("", "Helm's revision N is back and ready"),
            _ => ("", "revision 1 is back and ready"),
        };
        let verdict = format!(
            "FAILED, ROLLED BACK stand/NAMESPACE/APP: the rollout of APP{place} failed: {cause}; {back}"
        );
        ensure!(last == verdict, "{}: {last} and {verdict}", way.name);
    }
    Ok(())
}

/// The stages of a log in their order, but for the one that makes manifests. Through Flux some are in two parts.
fn stages_of(told: &Told) -> Vec<&str> {
    let stages = told.stages.iter().map(String::as_str);
    let mut stages: Vec<&str> = stages.filter(|stage| *stage != "render").collect();
    stages.dedup();
    stages
}

/// The verdict of a good deploy, but for the name of the app, which is another in each example.
fn rest_of(told: &Told) -> Option<&str> {
    let (_, rest) = told.end.first()?.split_once(" is deployed: ")?;
    Some(rest)
}

/// Requires that a deploy that works is told alike, and that all ways go through the same stages.
fn goes_alike([plain, kustomize, helm, flux]: [&Way; 4]) -> Result<()> {
    let forward = ["authorize", "resolve", "plan", "check", "apply", "watch"];
    ensure!(plain.good.stages == forward, "{:#?}", plain.good);
    for way in [plain, kustomize, helm, flux] {
        let verdict = "OK stand/NAMESPACE/APP: ";
        ensure!(way.good.end[0].starts_with(verdict), "{:#?}", way.good);
        ensure!(stages_of(&way.good) == forward, "{:#?}", way.good);
        ensure!(way.good.causes.is_empty(), "{:#?}", way.good);
    }
    ensure!(
        rest_of(&plain.good) == Some("4 objects are ready"),
        "{:#?}",
        plain.good
    );
    ensure!(plain.good.steps.len() == 4, "{:#?}", plain.good);
    for way in [kustomize, helm] {
        ensure!(way.good.steps == plain.good.steps, "{:#?}", way.good);
        ensure!(
            rest_of(&way.good) == rest_of(&plain.good),
            "{:#?}",
            way.good
        );
    }
    // Helm and Flux go back themselves, so nothing is planned and checked on that way.
    let planned = ["apply", "plan", "check", "apply", "watch"];
    for (way, back) in [
        (plain, &planned[..]),
        (kustomize, &planned),
        (helm, &planned[3..]),
        (flux, &planned[3..]),
    ] {
        for told in [&way.missing, &way.crash] {
            let stages = [&forward[..], back].concat();
            ensure!(stages_of(told) == stages, "{}: {told:#?}", way.name);
        }
        let states = ["3 rolled_back", "2 rolled_back", "1* deployed"];
        ensure!(way.revisions == states, "{}: {:?}", way.name, way.revisions);
    }
    Ok(())
}

#[tokio::test]
async fn an_image_is_told_alike_in_all_four_ways_when_it_works_is_missing_or_crashes() -> Result<()>
{
    let stand = Stand::shared().await?;
    if !stand.facts().has_node {
        return Ok(());
    }
    let images = Images::new(stand).await?;
    let (plain, kustomize, helm, flux) = tokio::try_join!(
        way("manifests", "flask", &images),
        way("kustomize", "flask-kustomize", &images),
        way("helm", "flask-helm", &images),
        way("flux", "flask-flux", &images),
    )?;
    let ways = [&plain, &kustomize, &helm, &flux];
    for way in ways {
        println!("{way:#?}");
    }
    let missing = format!(
        "the image of container flask of pod POD does not exist: {}",
        images.missing
    );
    alike(&ways, |way| &way.missing, "image_missing", &missing)?;
    let crash = "container flask of pod POD exits with code 3 right after start (N restarts)";
    alike(&ways, |way| &way.crash, "crash", crash)?;
    goes_alike(ways)
}
