//! One run per app over all hosts: two agents, two jobs, lost rights, broken locks.
//!
//! The rules of the lock are tested beside it; here two real agents meet at one real API server.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;

use crate::samples::Deployment;
use crate::samples::config_map;
use crate::samples::spec;

/// A Deployment whose pod can run nowhere, so that its run lasts until its deadline.
fn endless(image: &str) -> String {
    Deployment {
        image,
        pod: "nodeSelector: { no: such-node }",
        ..Deployment::default()
    }
    .yaml()
}

async fn lock(world: &World) -> Result<Value> {
    let text = world
        .kubectl(&["get", "lease", "quaymaster-app", "-o", "json"])
        .await?;
    Ok(serde_json::from_str(&text)?)
}

/// Starts a run that goes on until its deadline, and waits until it has the lock.
async fn start_endless(world: &World, timeout: &str) -> Result<String> {
    let image = world.stand.busybox();
    let spec =
        format!("version: 1\nname: app\nmanifests: [k8s/]\nrollout: {{ timeout: {timeout} }}\n");
    let manifest = endless(&image);
    let answer = world
        .post(&[("quaymaster.yaml", &spec), ("k8s/web.yaml", &manifest)])
        .await?;
    ensure!(answer.status == 202, "{}", answer.text());
    let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
    until("the lock", Duration::from_secs(30), async || {
        match lock(world).await {
            Ok(lock) if lock["spec"]["holderIdentity"] == id.as_str() => Look::Ready(()),
            Ok(lock) => Look::NotYet(lock.to_string()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    })
    .await?;
    Ok(id)
}

#[tokio::test]
async fn a_run_holds_the_lock_as_the_job_and_gives_it_back() -> Result<()> {
    let world = World::new("lock").await?;
    let id = start_endless(&world, "5s").await?;
    let held = lock(&world).await?;
    let annotations = &held["metadata"]["annotations"];
    ensure!(
        annotations["state.quaymaster.dev/job"].is_string()
            && annotations["state.quaymaster.dev/job-url"]
                .as_str()
                .is_some_and(|url| url.contains("/-/jobs/")),
        "{held}"
    );
    world.finish(&world.job()?, &id).await?;
    let free = lock(&world).await?;
    ensure!(
        free["spec"]["holderIdentity"].is_null() && free["spec"]["leaseTransitions"] == 1,
        "{free}"
    );
    Ok(())
}

#[tokio::test]
async fn a_second_run_waits_or_fails_as_its_spec_says() -> Result<()> {
    let world = World::new("second-run").await?;
    let first = start_endless(&world, "12s").await?;
    let conf = config_map("conf", "v");
    let fail = "version: 1\nname: app\nmanifests: [k8s/]\nrollout: { when_locked: fail }\n";
    let done = world
        .deploy(&[("quaymaster.yaml", fail), ("k8s/c.yaml", &conf)])
        .await?;
    ensure!(
        done.status() == 409 && done.json()?["code"] == "locked",
        "{}",
        done.answer.text()
    );
    ensure!(
        done.answer.text().contains(&first),
        "{}",
        done.answer.text()
    );
    let wait = spec("");
    let done = world
        .deploy(&[("quaymaster.yaml", &wait), ("k8s/c.yaml", &conf)])
        .await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    ensure!(
        done.log.contains(&format!("app is locked by run {first}"))
            && done.log.contains("planning anew"),
        "{}",
        done.log
    );
    let before = world.finish(&world.job()?, &first).await?.json()?;
    let ended = |report: &Value| report["finished"].as_str().map(str::to_owned);
    ensure!(
        ended(&before) <= ended(&done.json()?),
        "the one that waited ended last"
    );
    Ok(())
}

#[tokio::test]
async fn runs_of_two_agents_never_overlap() -> Result<()> {
    let world = World::new("two").await?;
    let other = world.second_agent().await?;
    let image = world.stand.busybox();
    let mut ids = Vec::new();
    for round in 0..3 {
        for agent in [&world, &other] {
            let web = Deployment {
                image: &image,
                shell: &format!("echo {round} {}; exec sleep 3600", ids.len()),
                ..Deployment::default()
            }
            .yaml();
            let answer = agent
                .post(&[("quaymaster.yaml", &spec("")), ("k8s/web.yaml", &web)])
                .await?;
            ensure!(answer.status == 202, "{}", answer.text());
            let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
            ids.push((agent, id));
        }
    }
    let mut spans = Vec::new();
    for (agent, id) in &ids {
        let done = agent.finish(&agent.job()?, id).await?;
        ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
        spans.push(span(agent, id).await?);
    }
    spans.sort();
    for pair in spans.windows(2) {
        ensure!(pair[0].1 <= pair[1].0, "two runs overlap: {spans:?}");
    }
    let lock = lock(&world).await?;
    ensure!(
        lock["spec"]["leaseTransitions"] == 6 && lock["spec"]["holderIdentity"].is_null(),
        "{lock}"
    );
    Ok(())
}

/// From the first write of a run to the end of its watch.
async fn span(world: &World, id: &str) -> Result<(String, String)> {
    let events = world
        .job()?
        .get(&format!("/v1/deploys/{id}/events"))
        .await?
        .text();
    let mut span = (String::new(), String::new());
    for line in events.lines() {
        let event: Value = serde_json::from_str(line)?;
        let ts = event["ts"].as_str().unwrap_or_default().to_owned();
        match (event["type"].as_str(), event["stage"].as_str()) {
            (Some("stage_started"), Some("apply")) => span.0 = ts,
            (Some("stage_ended"), Some("watch")) => span.1 = ts,
            _ => {}
        }
    }
    ensure!(!span.0.is_empty() && !span.1.is_empty(), "{events}");
    Ok(span)
}

#[tokio::test]
async fn a_job_without_rights_to_the_lock_is_denied_and_writes_nothing() -> Result<()> {
    let world = World::new("lockless").await?;
    let role = world
        .kubectl(&["get", "role", "gitlab-deployer", "-o", "json"])
        .await?;
    let role: Value = serde_json::from_str(&role)?;
    let at = role["rules"]
        .as_array()
        .and_then(|rules| rules.iter().position(|one| one["resources"][0] == "leases"))
        .context("a rule grants leases")?;
    let patch = json!([{ "op": "remove", "path": format!("/rules/{at}") }]).to_string();
    world
        .kubectl(&[
            "patch",
            "role",
            "gitlab-deployer",
            "--type=json",
            "-p",
            &patch,
        ])
        .await?;
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", &conf)])
        .await?;
    ensure!(
        done.status() == 403 && done.json()?["code"] == "cluster_denied",
        "{}",
        done.answer.text()
    );
    ensure!(
        done.answer.text().contains("coordination.k8s.io"),
        "{}",
        done.answer.text()
    );
    ensure!(world.kubectl(&["get", "configmap", "conf"]).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_run_whose_lock_was_taken_away_says_so() -> Result<()> {
    let world = World::new("taken").await?;
    let id = start_endless(&world, "60s").await?;
    let patch = json!({ "spec": { "holderIdentity": "r-somebody" } }).to_string();
    world
        .kubectl(&[
            "patch",
            "lease",
            "quaymaster-app",
            "--type=merge",
            "-p",
            &patch,
        ])
        .await?;
    let done = world.finish(&world.job()?, &id).await?;
    ensure!(
        done.status() == 424 && done.json()?["status"] == "failed",
        "{}",
        done.answer.text()
    );
    ensure!(
        done.log.contains("the lock is lost") && done.log.contains("r-somebody"),
        "{}",
        done.log
    );
    ensure!(lock(&world).await?["spec"]["holderIdentity"] == "r-somebody");
    Ok(())
}

#[tokio::test]
async fn a_plan_takes_no_lock_and_waits_for_none() -> Result<()> {
    let world = World::new("planlock").await?;
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    let files = [("quaymaster.yaml", spec.as_str()), ("k8s/c.yaml", &conf)];
    ensure!(world.plan(&files).await?.status() == 200);
    ensure!(lock(&world).await.is_err(), "a plan makes no lock");
    let id = start_endless(&world, "20s").await?;
    let planned = world.plan(&files).await?;
    ensure!(planned.status() == 200, "{}", planned.answer.text());
    let held = lock(&world).await?;
    ensure!(held["spec"]["holderIdentity"] == id.as_str(), "{held}");
    Ok(())
}
