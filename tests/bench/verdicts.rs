//! How soon a run knows what the API server has, and how much it says about 50 workloads.
//!
//! Called by `main`. The time is from before the request that makes an object ready until the caller has the
//! verdict, so it has the request itself in it.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::json;
use tests::stand::agent::Programs;
use tests::submission::post;
use tests::wait::pause;
use tests::wait::until;
use tests::world::World;
use tokio::time::Instant;

use crate::peers::Raw;

/// How often an object becomes ready.
const ROUNDS: usize = 100;
/// Workloads of the rollout whose log is counted.
const WORKLOADS: usize = 50;
/// Where the gauges are.
const GROUP: &str = "gauges.bench.example.com";

/// From an object being made ready to the verdict.
pub(crate) async fn event(programs: &Programs) -> Result<()> {
    let world = world(programs).await?;
    let namespace = &world.namespace;
    let raw = Raw::new(&world, &world.stand.facts().api)?;
    let path = format!("apis/{GROUP}/v1/namespaces/{namespace}/gauges/g");
    let job = world.job()?;
    let spec = "version: 1\nname: gauge\nmanifests: [all.yaml]\nrollout: { timeout: 60s }\n";
    let head = format!("apiVersion: {GROUP}/v1\nkind: Gauge\nmetadata: {{ name: g }}\n");
    // It is there and not ready before the first run, so that the run has to wait.
    raw.send(&path, "apply-patch+yaml", head.clone()).await?;
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let manifest = format!("{head}spec: {{ round: {round} }}\n");
        let ready = |status| {
            json!({ "status": { "conditions": [{ "type": "Ready", "status": status }] } })
                .to_string()
        };
        let place = format!("{path}/status");
        raw.send(&place, "merge-patch+json", ready("False")).await?;
        let files = [("quaymaster.yaml", spec), ("all.yaml", &manifest)];
        let answer = post(&job, "/v1/deploys", &files).await?;
        ensure!(answer.status == 202, "{}", answer.text());
        let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
        let result = format!("/v1/deploys/{id}/result?wait=60s");
        // Long enough for the run to be watching; until the object is ready it cannot end.
        pause(Duration::from_secs(1)).await;
        let caller = tokio::spawn({
            let job = job.clone();
            async move { job.get(&result).await }
        });
        let began = Instant::now();
        raw.send(&place, "merge-patch+json", ready("True")).await?;
        let done = caller.await??;
        times.push(began.elapsed());
        ensure!(done.status == 200, "{}", done.text());
    }
    times.sort_unstable();
    let high = times[times.len() * 99 / 100 - 1];
    println!("99 of 100 are under {:.0} ms", high.as_secs_f64() * 1000.0);
    crate::tell("from the change of a condition to the verdict", &mut times);
    Ok(())
}

async fn world(programs: &Programs) -> Result<World> {
    let mut world = World::without_agent("event").await?;
    world.use_programs(programs.clone());
    let policy = world
        .policy()
        .replace("kinds = [", &format!("kinds = [\"{GROUP}/Gauge\", "));
    fs::write(world.policy_path(), policy)?;
    world.grant_all().await?;
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let definition = json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("gauges.{GROUP}") },
        "spec": { "group": GROUP, "scope": "Namespaced",
            "names": { "kind": "Gauge", "plural": "gauges" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": any } }] } });
    world.stand.cluster().apply(&definition).await?;
    until("the kind", Duration::from_secs(20), async || {
        world.kubectl(&["get", "gauges"]).await.map(drop).into()
    })
    .await?;
    world.start_agent().await?;
    Ok(world)
}

/// What the log of a rollout of many workloads weighs.
pub(crate) async fn log(programs: &Programs) -> Result<()> {
    let mut world = World::without_agent("log").await?;
    world.use_programs(programs.clone());
    world.start_agent().await?;
    let manifests: String = (0..WORKLOADS)
        .map(|number| {
            format!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: web-{number} }}\nspec:\n  replicas: 3\n  selector: {{ matchLabels: {{ app: web-{number} }} }}\n  template:\n    metadata: {{ labels: {{ app: web-{number} }} }}\n    spec:\n      nodeSelector: {{ type: kwok }}\n      tolerations: [{{ operator: Exists }}]\n      containers: [{{ name: main, image: \"registry.example.com/app:1\" }}]\n---\n"
            )
        })
        .collect();
    let spec = "version: 1\nname: many\nmanifests: [all.yaml]\nrollout: { timeout: 5m }\n";
    let began = Instant::now();
    let done = world
        .deploy(&[("quaymaster.yaml", spec), ("all.yaml", &manifests)])
        .await?;
    ensure!(done.status() == 200, "{}", done.answer.text());
    println!(
        "{WORKLOADS} Deployments of 3 pods: {:.1} s, log of {} lines, {:.1} KiB",
        began.elapsed().as_secs_f64(),
        done.log.lines().count(),
        done.log.len() as f64 / 1024.0
    );
    Ok(())
}
