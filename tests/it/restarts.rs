//! Servers that end and come back during a run: it waits, goes on, and its verdict is right.
//!
//! On a stand of its own, so that nobody else's servers go away.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use tests::stand::Owner;
use tests::stand::Stand;
use tests::stand::layout::Settings;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;

use crate::samples::config_map;
use crate::samples::spec;

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      nodeSelector: { awaited: 'yes' }
      tolerations: [{ operator: Exists }]
      containers: [{ name: main, image: 'registry.example.com/app:1' }]
";

#[tokio::test]
async fn servers_that_restart_during_a_run_change_no_verdict() -> Result<()> {
    let settings = Settings::read()?;
    let name = format!("restarts-{}", std::process::id());
    let stand = Stand::start(&settings, &name, Owner::Starter, |_| {}).await?;
    // A world keeps its stand for as long as the process, which the stand ends with.
    let mut world = World::on(Box::leak(Box::new(stand)), "restarts").await?;
    world.start_agent().await?;
    for server in ["kube-apiserver", "etcd"] {
        while_it_writes(&world, server).await?;
        while_it_watches(&world, server).await?;
    }
    drop(world);
    Stand::stop(&settings, &name).await
}

async fn while_it_writes(world: &World, server: &str) -> Result<()> {
    world.stand.signal(server, "KILL").await?;
    let (spec, conf) = (spec(""), config_map("conf", server));
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/conf.yaml", &conf)])
        .await?;
    ensure!(
        done.status() == 200,
        "{server}: {}\n{}",
        done.answer.text(),
        done.log
    );
    let path = ["get", "configmap", "conf", "-o", "jsonpath={.data.key}"];
    let value = world.kubectl(&path).await?;
    ensure!(value == server, "{server}: the ConfigMap has {value}");
    Ok(())
}

async fn while_it_watches(world: &World, server: &str) -> Result<()> {
    let (spec, conf) = (spec(""), config_map("conf", server));
    let answer = world
        .post(&[
            ("quaymaster.yaml", &spec),
            ("k8s/conf.yaml", &conf),
            ("k8s/web.yaml", WEB),
        ])
        .await?;
    ensure!(answer.status == 202, "{}", answer.text());
    let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
    let job = world.job()?;
    let (log, limit) = (format!("/v1/deploys/{id}/events"), Duration::from_secs(40));
    until("the watch", limit, async || {
        match world.kubectl(&["get", "deployment", "web"]).await {
            Ok(_) => Look::Ready(()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    })
    .await?;
    world.stand.signal(server, "KILL").await?;
    let label = |value| ["label", "node", "-l", "type=kwok", "--overwrite", value];
    until("the API server and the label", limit, async || {
        world
            .stand
            .kubectl(&label("awaited=yes"))
            .await
            .map(drop)
            .into()
    })
    .await?;
    let done = world.finish(&job, &id).await?;
    ensure!(
        done.status() == 200,
        "{server}: {}\n{}",
        done.answer.text(),
        job.get(&log).await?.text()
    );
    world.kubectl(&["delete", "deployment", "web"]).await?;
    world.stand.kubectl(&label("awaited=no")).await.map(drop)
}
