//! Jobs that go away: what becomes of their runs, how an `after_script` ends them, how a retried job goes on.
//!
//! Pods run on simulated nodes: they are ready at once, or cannot be scheduled and so keep a run on. The grace
//! is a few seconds by configuration. Invariant: a client is killed as the runner kills it at last, with a
//! signal that it cannot see.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use tempfile::TempDir;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tests::world::programs;
use tokio::process::Child;
use tokio::process::Command;

use crate::client::folder;
use crate::client::quaymaster;
use crate::client::told;

/// How long a run without followers goes on here.
const GRACE: &str = "4s";
/// How long anything else may take.
const LIMIT: Duration = Duration::from_secs(60);
const DEPLOY: [&str; 3] = ["deploy", "--report", "deploy.json"];

async fn world(name: &str, grace: &str) -> Result<World> {
    let mut world = World::without_agent(name).await?;
    let config = fs::read_to_string(world.config_path())?;
    let config = format!("disconnect_grace = \"{grace}\"\n{config}");
    fs::write(world.config_path(), config)?;
    world.start_agent().await?;
    Ok(world)
}

/// Where the objects of a job come from.
#[derive(Debug, Clone, Copy)]
enum Source {
    Manifests,
    Kustomization,
    Chart,
}

fn spec(source: Source, rollout: &str) -> String {
    let source = match source {
        Source::Manifests => "manifests: [k8s/]",
        Source::Kustomization => "kustomize: k8s/",
        Source::Chart => "helm: { chart: chart/ }",
    };
    format!("version: 1\nname: app\n{source}\nrollout: {{ {rollout} }}\n")
}

/// A Deployment whose pod runs on a simulated node that has a label.
fn web(tag: &str, label: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: web }}\nspec:\n  \
         selector: {{ matchLabels: {{ app: web }} }}\n  template:\n    metadata: {{ labels: {{ app: web }} }}\n    \
         spec:\n      nodeSelector: {{ type: kwok{label} }}\n      tolerations: [{{ operator: Exists }}]\n      \
         containers: [{{ name: main, image: 'registry.example.com/app:{tag}' }}]\n"
    )
}

/// On no node there is.
const NOWHERE: &str = ", no: such-node";

fn job(world: &World, source: Source, rollout: &str, web: &str) -> Result<TempDir> {
    let spec = spec(source, rollout);
    let spec = ("quaymaster.yaml", spec.as_str());
    match source {
        Source::Manifests => folder(world, &[spec, ("k8s/web.yaml", web)]),
        Source::Kustomization => {
            let kustomization = "resources: [web.yaml]\n";
            let files = [
                spec,
                ("k8s/kustomization.yaml", kustomization),
                ("k8s/web.yaml", web),
            ];
            folder(world, &files)
        }
        Source::Chart => {
            let chart = "apiVersion: v2\nname: demo\nversion: 1.2.3\n";
            let files = [
                spec,
                ("chart/Chart.yaml", chart),
                ("chart/templates/web.yaml", web),
            ];
            folder(world, &files)
        }
    }
}

/// Starts the client as a job would, with these words more in its environment.
async fn start(
    world: &World,
    words: &[&str],
    dir: &Path,
    environment: &[(&str, &str)],
) -> Result<Child> {
    Ok(Command::new(&programs().await?.client)
        .args(words)
        .current_dir(dir)
        .env_clear()
        .env("QUAYMASTER_SOCKET", world.socket())
        .env("QUAYMASTER_ID_TOKEN", world.stand.sign(world.token()?)?)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?)
}

async fn ended(child: Child) -> Result<Output> {
    tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .context("the client did not end")?
        .map_err(Into::into)
}

/// Waits until the report names the run that is on.
async fn begun(dir: &Path) -> Result<String> {
    until("the report to name the run", LIMIT, async || {
        let read = fs::read(dir.join("deploy.json"));
        let report: Value = match read.map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(report)) => report,
            other => return Look::NotYet(format!("{other:?}")),
        };
        match (report["id"].as_str(), report["status"].as_str()) {
            (Some(id), Some("running")) => Look::Ready(id.to_owned()),
            _ => Look::NotYet(report.to_string()),
        }
    })
    .await
}

async fn image(world: &World) -> Result<String> {
    let path = "jsonpath={.spec.template.spec.containers[0].image}";
    world
        .kubectl(&["get", "deployment", "web", "-o", path])
        .await
}

/// Waits until a run has written its image.
async fn written(world: &World, tag: &str) -> Result<()> {
    let expected = format!("registry.example.com/app:{tag}");
    until("the image to be written", LIMIT, async || {
        match image(world).await {
            Ok(image) if image == expected => Look::Ready(()),
            Ok(image) => Look::NotYet(image),
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    })
    .await
}

/// Waits for the end of a run without following it.
async fn end_of(world: &World, id: &str) -> Result<Value> {
    let job = world.job()?;
    until("the run to be over", LIMIT, async || {
        let report = match job.get(&format!("/v1/deploys/{id}")).await {
            Ok(answer) => answer.json().unwrap_or_default(),
            Err(error) => return Look::NotYet(format!("{error:#}")),
        };
        match report["status"].as_str() {
            None | Some("running") => Look::NotYet(report.to_string()),
            Some(_) => Look::Ready(report),
        }
    })
    .await
}

/// Deploys what is ready, then what never is, and kills the client once that is written; returns the verdict.
async fn killed(name: &str, source: Source, on_disconnect: &str) -> Result<(World, Value)> {
    let world = world(name, GRACE).await?;
    let good = job(&world, source, "timeout: 60s", &web("1", ""))?;
    let done = quaymaster(&world, &DEPLOY, good.path(), &[]).await?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    let rollout = format!("timeout: 20s{on_disconnect}");
    let stuck = job(&world, source, &rollout, &web("2", NOWHERE))?;
    let mut client = start(&world, &DEPLOY, stuck.path(), &[]).await?;
    let run = begun(stuck.path()).await?;
    written(&world, "2").await?;
    client.kill().await?;
    let report = end_of(&world, &run).await?;
    println!(
        "{on_disconnect:?} | {} | {}",
        report["status"], report["message"]
    );
    Ok((world, report))
}

#[tokio::test]
async fn by_default_the_run_of_a_killed_job_goes_on_to_its_verdict() -> Result<()> {
    let (world, report) = killed("gone-finish", Source::Manifests, "").await?;
    ensure!(report["code"] == "rollout_timeout", "{report}");
    ensure!(
        image(&world).await?.ends_with(":2"),
        "what was written is kept"
    );
    Ok(())
}

#[tokio::test]
async fn the_run_of_a_killed_job_is_cancelled_where_its_spec_says_so() -> Result<()> {
    let (world, report) =
        killed("gone-cancel", Source::Manifests, ", on_disconnect: cancel").await?;
    ensure!(report["status"] == "cancelled", "{report}");
    let message = report["message"].as_str().unwrap_or_default();
    ensure!(
        message.starts_with("the job was gone for 4 s; cancelled, as rollout.on_disconnect asks: "),
        "{message}"
    );
    ensure!(
        image(&world).await?.ends_with(":2"),
        "what was written is kept"
    );
    Ok(())
}

#[tokio::test]
async fn the_run_of_a_killed_job_is_taken_back_where_its_spec_says_so() -> Result<()> {
    for (name, source) in [
        ("gone-back", Source::Manifests),
        ("gone-back-built", Source::Kustomization),
        ("gone-back-helm", Source::Chart),
    ] {
        let (world, report) = killed(name, source, ", on_disconnect: rollback").await?;
        ensure!(
            report["status"] == "rolled_back" && report["code"] == "cancelled",
            "{source:?}: {report}"
        );
        let message = report["message"].as_str().unwrap_or_default();
        let whose = match source {
            Source::Chart => "Helm's ",
            Source::Manifests | Source::Kustomization => "",
        };
        let expected = format!(
            "the job was gone for 4 s; cancelled, as rollout.on_disconnect asks; {whose}revision 1 is back and ready"
        );
        ensure!(message == expected, "{source:?}: {message}");
        ensure!(image(&world).await?.ends_with(":1"), "{source:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_run_that_was_only_posted_is_left_too() -> Result<()> {
    let world = world("gone-posted", "2s").await?;
    let spec = spec(Source::Manifests, "timeout: 40s, on_disconnect: cancel");
    let web = web("1", NOWHERE);
    let files = [("quaymaster.yaml", &*spec), ("k8s/web.yaml", &web)];
    let answer = world.post(&files).await?;
    ensure!(answer.status == 202, "{}", answer.text());
    let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
    let report = end_of(&world, &id).await?;
    ensure!(report["status"] == "cancelled", "{report}");
    Ok(())
}

#[tokio::test]
async fn who_is_back_within_the_grace_keeps_the_run() -> Result<()> {
    let mut world = world("gone-back-again", "10s").await?;
    let stuck = job(
        &world,
        Source::Manifests,
        "timeout: 35s, on_disconnect: cancel",
        &web("1", NOWHERE),
    )?;
    let mut client = start(&world, &DEPLOY, stuck.path(), &[]).await?;
    let run = begun(stuck.path()).await?;
    written(&world, "1").await?;
    client.kill().await?;
    // Another connection of the project follows it, and comes back by itself after a restart of the agent.
    let words = ["log", "--follow", run.as_str()];
    let follower = start(&world, &words, stuck.path(), &[]).await?;
    world.kill_agent().await?;
    world.start_agent().await?;
    let log = ended(follower).await?;
    let report = end_of(&world, &run).await?;
    ensure!(
        report["code"] == "rollout_timeout",
        "{report}\n{}",
        told(&log)
    );
    Ok(())
}

#[tokio::test]
async fn an_after_script_ends_what_the_killed_script_began() -> Result<()> {
    let world = world("gone-after", "60s").await?;
    let stuck = job(
        &world,
        Source::Manifests,
        "timeout: 90s",
        &web("1", NOWHERE),
    )?;
    let cancel = ["cancel", "--report", "deploy.json"];
    let early = quaymaster(&world, &cancel, stuck.path(), &[]).await?;
    ensure!(
        early.status.code() == Some(0) && told(&early).contains("nothing to cancel"),
        "{}",
        told(&early)
    );
    let mut client = start(&world, &DEPLOY, stuck.path(), &[]).await?;
    let run = begun(stuck.path()).await?;
    written(&world, "1").await?;
    client.kill().await?;
    let cancelled = quaymaster(&world, &cancel, stuck.path(), &[]).await?;
    println!("{}", told(&cancelled).trim_end());
    ensure!(
        cancelled.status.code() == Some(0)
            && told(&cancelled).contains(&format!("cancelling {run}")),
        "{}",
        told(&cancelled)
    );
    let words = ["result", "--wait", run.as_str()];
    let result = quaymaster(&world, &words, stuck.path(), &[]).await?;
    ensure!(result.status.code() == Some(40), "{}", told(&result));
    let again = quaymaster(&world, &cancel, stuck.path(), &[]).await?;
    println!("{}", told(&again).trim_end());
    ensure!(
        again.status.code() == Some(0)
            && told(&again).contains("nothing to cancel, the run is over"),
        "{}",
        told(&again)
    );
    Ok(())
}

/// Lets the pods of a world be scheduled that wait for its label.
async fn let_go(world: &World) -> Result<()> {
    let label = format!("{}=goes-on", world.namespace);
    let words = ["label", "node", "-l", "type=kwok", "--overwrite", &label];
    world.stand.kubectl(&words).await.map(drop)
}

/// The token of another job of the same pipeline: what GitLab's `retry` makes.
fn retried(world: &World) -> Result<String> {
    world.stand.sign(world.token()?.claim("job_id", "990017"))
}

async fn generation(world: &World) -> Result<String> {
    let words = [
        "get",
        "deployment",
        "web",
        "-o",
        "jsonpath={.metadata.generation}",
    ];
    world.kubectl(&words).await
}

#[tokio::test]
async fn a_retried_job_waits_for_the_run_and_writes_nothing_twice() -> Result<()> {
    let world = world("gone-retried", GRACE).await?;
    let waits = format!(", {}: goes-on", world.namespace);
    let dir = job(&world, Source::Manifests, "timeout: 90s", &web("1", &waits))?;
    let mut client = start(&world, &DEPLOY, dir.path(), &[]).await?;
    let first = begun(dir.path()).await?;
    written(&world, "1").await?;
    client.kill().await?;
    let token = retried(&world)?;
    let environment = [("QUAYMASTER_ID_TOKEN", token.as_str())];
    fs::remove_file(dir.path().join("deploy.json"))?;
    let client = start(&world, &DEPLOY, dir.path(), &environment).await?;
    let second = begun(dir.path()).await?;
    ensure!(first != second, "without a key it is another run");
    let words = ["log", second.as_str()];
    let locked = format!("is locked by run {first}");
    until("the second run to wait", LIMIT, async || match quaymaster(
        &world,
        &words,
        dir.path(),
        &environment,
    )
    .await
    {
        Ok(log) if told(&log).contains(&locked) => Look::Ready(()),
        Ok(log) => Look::NotYet(told(&log)),
        Err(error) => Look::NotYet(format!("{error:#}")),
    })
    .await?;
    let_go(&world).await?;
    let done = ended(client).await?;
    println!("{}", told(&done));
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    let report = end_of(&world, &first).await?;
    ensure!(report["status"] == "succeeded", "{report}");
    ensure!(generation(&world).await? == "1", "it was written once");
    Ok(())
}

#[tokio::test]
async fn with_a_key_a_retried_job_goes_on_with_the_same_run() -> Result<()> {
    let world = world("gone-keyed", "60s").await?;
    let waits = format!(", {}: goes-on", world.namespace);
    let rollout = "timeout: 90s, on_disconnect: cancel";
    let dir = job(&world, Source::Manifests, rollout, &web("1", &waits))?;
    let words = [
        "deploy",
        "--report",
        "deploy.json",
        "--key",
        "5001-production",
    ];
    let mut client = start(&world, &words, dir.path(), &[]).await?;
    let first = begun(dir.path()).await?;
    written(&world, "1").await?;
    client.kill().await?;
    let token = retried(&world)?;
    let environment = [("QUAYMASTER_ID_TOKEN", token.as_str())];
    fs::remove_file(dir.path().join("deploy.json"))?;
    let client = start(&world, &words, dir.path(), &environment).await?;
    let second = begun(dir.path()).await?;
    ensure!(first == second, "{first} is not {second}");
    let other = job(&world, Source::Manifests, rollout, &web("2", &waits))?;
    let refused = quaymaster(&world, &words, other.path(), &environment).await?;
    ensure!(refused.status.code() == Some(21), "{}", told(&refused));
    let_go(&world).await?;
    let done = ended(client).await?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    ensure!(generation(&world).await? == "1", "it was written once");
    // Once it is over, the same job begins another one, which finds nothing to write.
    let again = quaymaster(&world, &words, dir.path(), &environment).await?;
    ensure!(again.status.code() == Some(0), "{}", told(&again));
    let report: Value = serde_json::from_slice(&fs::read(dir.path().join("deploy.json"))?)?;
    ensure!(report["id"] != *first, "{report}");
    ensure!(generation(&world).await? == "1", "nothing was written");
    Ok(())
}
