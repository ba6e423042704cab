//! The same image that crashes, deployed by the pipelines of all four ways: one cause, told in one shape.

use std::fs;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use tests::pipeline::Pipeline;
use tests::pipeline::Trigger;
use tests::stand::Stand;

use super::platform;
use super::platform::Platform;
use crate::charts::stages;
use crate::examples::common;

/// What the image says before it ends.
const LAST_WORDS: &str = "the schema is too old for this version";

/// What a failed job tells.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    code: i32,
    stages: Vec<String>,
    /// The log from the cause on, without names that are made up.
    digest: Vec<String>,
}

/// An image that says something and crashes.
async fn broken(stand: &Stand) -> Result<String> {
    let dir = stand.facts().site.folder("broken")?;
    let text = format!(
        "ARG BASE\nFROM ${{BASE}}\nCMD [\"/bin/sh\", \"-c\", \"echo '{LAST_WORDS}'; exit 3\"]\n"
    );
    fs::write(dir.join("Dockerfile"), text)?;
    let base = stand.busybox();
    let arguments = [("BASE", base.as_str())];
    stand
        .build_and_push(&dir, &dir.join("Dockerfile"), "flask-broken:1", &arguments)
        .await
}

/// How often a container was started again depends on when the kubelet is looked at.
fn counted(line: &str) -> String {
    let Some((before, rest)) = line.split_once(" restarts)") else {
        return line.to_owned();
    };
    let cut = before.rfind('(').map_or(before.len(), |open| open + 1);
    format!("{}N restarts){rest}", &before[..cut])
}

/// Lets the pipeline of a way deploy an image that works, and then one that does not.
async fn told(way: &'static str, app: &str, good: &str, bad: &str) -> Result<Told> {
    let platform = Platform::new(way).await?;
    let pipeline = Pipeline::new(&platform.world, &platform.files()?).await?;
    let mut jobs = Vec::new();
    for reference in [good, bad] {
        let mut variables = platform.variables(Trigger::Push)?;
        variables.push(platform::image(reference));
        let ran = pipeline
            .run(Trigger::Push, &["production"], &variables)
            .await?;
        jobs.push(ran.job("production")?.clone());
    }
    let [first, second] = &jobs[..] else {
        anyhow::bail!("two jobs ran");
    };
    ensure!(first.code == 0, "{way}: {}", first.log);
    println!("=== {way}\n{}", second.log);
    let lines: Vec<&str> = second
        .log
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let cause = lines.iter().position(|line| line.contains("cause: "));
    let digest = lines[cause.context("the log names a cause")?..].iter();
    Ok(Told {
        code: second.code,
        stages: stages(&second.log),
        digest: digest
            .map(|line| counted(&common(line, &platform.world, app)))
            .collect(),
    })
}

#[tokio::test]
async fn an_image_that_crashes_is_told_alike_in_all_four_ways() -> Result<()> {
    let stand = Stand::shared().await?;
    if !stand.facts().has_node {
        return Ok(());
    }
    let good = crate::examples::image(stand).await?;
    let bad = broken(stand).await?;
    let (plain, kustomize) = tokio::try_join!(
        told("flask", "flask-demo", &good, &bad),
        told("flask-kustomize", "flask", &good, &bad),
    )?;
    let (helm, flux) = tokio::try_join!(
        told("flask-helm", "flask-helm", &good, &bad),
        told("flask-flux", "flask-flux", &good, &bad),
    )?;
    for (way, told) in [
        ("manifests", &plain),
        ("kustomize", &kustomize),
        ("helm", &helm),
        ("flux", &flux),
    ] {
        println!("{way}: {told:#?}");
    }
    let cause = "container flask of pod POD exits with code 3 right after start (N restarts)";
    let failed =
        format!("FAILED, ROLLED BACK stand/NAMESPACE/APP: the rollout of APP failed: {cause}");
    let digest = [
        "cause: apps/v1/Deployment NAMESPACE/flask: crash".to_owned(),
        format!("  {cause}"),
        "  | last lines of container flask:".to_owned(),
        format!("  | | {LAST_WORDS}"),
        "  what to do: read the last lines above; run the image with the same configuration to see it fail".to_owned(),
    ];
    for told in [&plain, &kustomize, &helm, &flux] {
        ensure!(told.code == 11, "{told:#?}");
        ensure!(told.digest[..5] == digest, "{told:#?}");
        let last = told.digest[5..].join("\n");
        ensure!(last.starts_with(&failed), "{told:#?}");
    }
    let back = format!("{failed}; revision 1 is back and ready");
    for told in [&plain, &kustomize, &helm] {
        ensure!(told.digest[5..] == [back.as_str()], "{told:#?}");
    }
    let forward = ["resolve", "plan", "check", "apply", "watch", "apply"];
    let again = ["plan", "check", "apply", "watch"];
    let plain_stages = [&["authorize"], &forward[..], &again].concat();
    let kustomize_stages = [&["authorize", "render"], &forward[..], &again].concat();
    // Helm itself goes back, so nothing is planned and checked on that way.
    let helm_stages = [&["authorize", "render"], &forward[..], &["apply", "watch"]].concat();
    ensure!(plain.stages == plain_stages, "{plain:#?}");
    ensure!(kustomize.stages == kustomize_stages, "{kustomize:#?}");
    ensure!(helm.stages == helm_stages, "{helm:#?}");
    Ok(())
}
