//! The agent is killed in the middle of runs, and every run still ends once, with the truth.
//!
//! The sweep itself is in the harness; `cargo measure kills` runs a longer one.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use tests::kills::Sweep;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tests::world::programs;

use crate::samples::Deployment;

#[tokio::test]
async fn runs_end_with_the_truth_whenever_the_agent_is_killed() -> Result<()> {
    let mut world = World::new("kills").await?;
    let seed = u64::from(std::process::id()) * 7919;
    println!("kill sweep: seed {seed}");
    let sweep = Sweep::new(&mut world, programs().await?.clone(), seed).await?;
    let tally = sweep.run(10).await?;
    println!("kill sweep: {:?}, killed in {:?}", tally.ends, tally.phases);
    ensure!(tally.ends.values().sum::<usize>() == 10);
    Ok(())
}

#[tokio::test]
async fn a_reader_goes_on_with_the_log_after_a_kill() -> Result<()> {
    let mut world = World::new("reader").await?;
    let image = world.stand.busybox();
    // Ready only after the restart.
    let shell = "sleep 8; touch /tmp/ready; exec sleep 3600";
    let probe = "readinessProbe: { exec: { command: [\"test\", \"-e\", \"/tmp/ready\"] }, periodSeconds: 1 }";
    let web = Deployment {
        image: &image,
        shell,
        container: probe,
        ..Deployment::default()
    }
    .yaml();
    let spec = crate::samples::spec("");
    let files = [("quaymaster.yaml", spec.as_str()), ("k8s/web.yaml", &web)];
    let job = world.job()?.with("idempotency-key", "one-run");
    let answer = tests::submission::post(&job, "/v1/deploys", &files).await?;
    let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
    until("the watch", Duration::from_secs(30), async || {
        match world.kubectl(&["get", "pods", "-o", "name"]).await {
            Ok(pods) if !pods.is_empty() => Look::Ready(()),
            Ok(_) => Look::NotYet("no pod".to_owned()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    })
    .await?;
    world.kill_agent().await?;
    world.start_agent().await?;
    let again = tests::submission::post(&job, "/v1/deploys", &files).await?;
    ensure!(
        again.json()?["id"] == id.as_str(),
        "the same key is the same run: {}",
        again.text()
    );
    let done = world.finish(&world.job()?, &id).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let events = world
        .job()?
        .get(&format!("/v1/deploys/{id}/events?since=12"))
        .await?
        .text();
    let mut last = 12;
    for line in events.lines() {
        let event: serde_json::Value = serde_json::from_str(line)?;
        let seq = event["seq"].as_u64().context("a seq")?;
        ensure!(seq > last, "numbers go on: {events}");
        last = seq;
    }
    ensure!(
        events.contains("earlier lines of its log may be gone")
            && events.contains("\"status\":\"succeeded\""),
        "{events}"
    );
    Ok(())
}
