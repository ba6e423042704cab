//! Deploys of a mix of objects, ours beside the raw limit, kubectl and Helm: one table a case.
//!
//! Called by `main`. A deploy asks the server about every object before it writes the first, so that one bad
//! object means that nothing is written; what that costs the raw client is a line of its own. Every tool gets a namespace of its own on the same API server, in the same run. Ours is
//! told twice: from the POST until everything is written, and until the verdict. Writes are counted by the
//! API server, so nobody else should use the stand meanwhile: `QUAYMASTER_STAND=<name of your own>`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::faults::Fault;
use tests::stand::agent::Programs;
use tests::submission::post;
use tests::world::World;
use tokio::time::Instant;

use crate::mix;
use crate::mix::Document;
use crate::peak;
use crate::peers;
use crate::peers::Raw;

/// Distance of the server that is far away.
const FAR: Duration = Duration::from_millis(80);
/// Definitions in the case with many kinds.
const KINDS: usize = 1000;

/// How long one of our deploys took.
pub(crate) struct Ours {
    written: Duration,
    verdict: Duration,
}

async fn world(name: &str, programs: &Programs) -> Result<World> {
    let mut world = World::without_agent(name).await?;
    world.use_programs(programs.clone());
    let policy = world
        .policy()
        .replace("kinds = [", "kinds = [\"v1/Secret:app-*\", ");
    fs::write(world.policy_path(), policy)?;
    world.start_agent().await?;
    Ok(world)
}

/// Deploys as the world's job.
async fn deploy(world: &World, documents: &[Document]) -> Result<Ours> {
    let job = world.job()?;
    let text = mix::file(documents);
    let spec = "version: 1\nname: mix\nmanifests: [all.yaml]\nrollout: { timeout: 5m }\n";
    let began = Instant::now();
    let files = [("quaymaster.yaml", spec), ("all.yaml", &text)];
    let answer = post(&job, "/v1/deploys", &files).await?;
    ensure!(answer.status == 202, "{}", answer.text());
    let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
    let done = job
        .get(&format!("/v1/deploys/{id}/result?wait=300s"))
        .await?;
    let verdict = began.elapsed();
    ensure!(done.status == 200, "{}", done.text());
    let events = job.get(&format!("/v1/deploys/{id}/events")).await?.text();
    let watched = after_writing(&events).context("the log says when writing ended")?;
    Ok(Ours {
        written: verdict.saturating_sub(watched),
        verdict,
    })
}

/// The time between the end of writing and the end of the log.
fn after_writing(events: &str) -> Option<Duration> {
    let events: Vec<Value> = events
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let written = events
        .iter()
        .find(|event| event["type"] == "stage_ended" && event["stage"] == "apply")?;
    let (from, to) = (seconds(written)?, seconds(events.last()?)?);
    // Midnight may have passed.
    Some(Duration::from_secs_f64((to - from).rem_euclid(86_400.0)))
}

/// The second of the day of an event, `2026-01-01T12:34:56.789Z`.
fn seconds(event: &Value) -> Option<f64> {
    let time = event["ts"]
        .as_str()?
        .split('T')
        .nth(1)?
        .trim_end_matches('Z');
    time.split(':').try_fold(0.0, |sum, part| {
        Some(sum * 60.0 + part.parse::<f64>().ok()?)
    })
}

fn line(what: &str, time: Duration, raw: Duration) {
    let (time, raw) = (time.as_secs_f64(), raw.as_secs_f64());
    println!("  {what:<32} {time:>8.2} s  {:>6.2} x raw", time / raw);
}

fn tell_ours(ours: &Ours, raw: Duration) {
    line("quaymaster, all written", ours.written, raw);
    line("quaymaster, verdict", ours.verdict, raw);
}

/// Each of the peers with the namespace it writes to.
struct Peers {
    raw: World,
    ssa: World,
    client: World,
    helm: World,
}

impl Peers {
    async fn new() -> Result<Self> {
        Ok(Self {
            raw: World::without_agent("raw").await?,
            ssa: World::without_agent("ssa").await?,
            client: World::without_agent("csa").await?,
            helm: World::without_agent("helm").await?,
        })
    }

    async fn raw(&self, count: usize, changed: &[usize]) -> Result<Duration> {
        let raw = Raw::new(&self.raw, &self.raw.stand.facts().api)?;
        raw.apply(&mix::mix(&self.raw.namespace, count, changed))
            .await
    }

    /// Measures the raw limit of creating, and that of asking the server about each object before
    /// the first write, as a deploy does; prints both.
    async fn creating(&self, count: usize) -> Result<Duration> {
        let raw = Raw::new(&self.raw, &self.raw.stand.facts().api)?;
        let documents = mix::mix(&self.raw.namespace, count, &[]);
        let asking = raw.dry_run(&documents).await?;
        // With fresh connections, as a single program would have them.
        let writing = self.raw(count, &[]).await?;
        line("raw, 16 at a time", writing, writing);
        line("raw, dry run of all before", asking + writing, writing);
        Ok(writing)
    }

    /// Measures kubectl and Helm, and prints.
    async fn others(&self, count: usize, changed: &[usize], raw: Duration) -> Result<()> {
        let file = |world: &World| {
            let path = world.dir().join("all.yaml");
            let text = mix::file(&mix::mix(&world.namespace, count, changed));
            fs::write(&path, &text).map(|()| (path, text))
        };
        let (path, _) = file(&self.ssa)?;
        let words = ["--server-side"];
        line(
            "kubectl apply --server-side",
            peers::kubectl(&self.ssa, &path, &words).await?,
            raw,
        );
        let (path, _) = file(&self.client)?;
        line(
            "kubectl apply",
            peers::kubectl(&self.client, &path, &[]).await?,
            raw,
        );
        let Some(helm) = peers::helm(self.helm.stand) else {
            println!("  helm is not among the stand's programs");
            return Ok(());
        };
        let (_, text) = file(&self.helm)?;
        match peers::helm_upgrade(&self.helm, &helm, self.helm.dir(), &text).await {
            Ok(time) => line("helm upgrade --install", time, raw),
            Err(error) => println!("  helm upgrade --install: {error:#}"),
        }
        Ok(())
    }
}

/// Creating 10, 100 and 1,000 objects; then 1,000 unchanged, then 1 of 1,000 changed.
pub(crate) async fn mixes(programs: &Programs) -> Result<()> {
    for count in [10, 100, 1000] {
        let (world, peers) = (world("mix", programs).await?, Peers::new().await?);
        // The first connection and the kinds are known before, as in an agent that has run for a while.
        let warm = mix::mix(&world.namespace, 5, &[]);
        deploy(&world, &warm[..1]).await?;
        println!("create {count} objects");
        let raw = peers.creating(count).await?;
        tell_ours(
            &deploy(&world, &mix::mix(&world.namespace, count, &[])).await?,
            raw,
        );
        peers.others(count, &[], raw).await?;
        if count == 1000 {
            again(&world, &peers, count, &[], "nothing changed").await?;
            again(&world, &peers, count, &[503], "one changed").await?;
            let pid = world.agent_pid().context("the agent runs")?;
            println!("peak memory of the agent: {:.1} MiB", peak(pid)?);
        }
    }
    Ok(())
}

async fn again(
    world: &World,
    peers: &Peers,
    count: usize,
    changed: &[usize],
    what: &str,
) -> Result<()> {
    println!("{count} objects, {what}");
    let raw = peers.raw(count, changed).await?;
    line("raw, 16 at a time", raw, raw);
    let before = Raw::applies(world.stand).await?;
    let ours = deploy(world, &mix::mix(&world.namespace, count, changed)).await?;
    let after = Raw::applies(world.stand).await?;
    tell_ours(&ours, raw);
    println!(
        "  the server saw {} applies and {} dry runs of ours",
        after.1 - before.1,
        after.0 - before.0
    );
    peers.others(count, changed, raw).await
}

/// 100 objects on a server that is 80 ms away.
pub(crate) async fn far(programs: &Programs) -> Result<()> {
    let world = world("far", programs).await?;
    // From the start: an agent knows its server as one that is far away.
    world.api.set(Fault::Delay(FAR));
    deploy(&world, &mix::mix(&world.namespace, 1, &[])).await?;
    let peer = World::without_agent("raw").await?;
    let address = format!("https://{}", peer.api.address());
    peer.api.set(Fault::Delay(FAR));
    println!(
        "create 100 objects, the API server {} ms away",
        FAR.as_millis()
    );
    let documents = mix::mix(&peer.namespace, 100, &[]);
    let asking = Raw::new(&peer, &address)?.dry_run(&documents).await?;
    let raw = Raw::new(&peer, &address)?.apply(&documents).await?;
    line("raw, 16 at a time", raw, raw);
    line("raw, dry run of all before", asking + raw, raw);
    tell_ours(
        &deploy(&world, &mix::mix(&world.namespace, 100, &[])).await?,
        raw,
    );
    println!("the same again");
    tell_ours(
        &deploy(&world, &mix::mix(&world.namespace, 100, &[])).await?,
        raw,
    );
    Ok(())
}

/// One object with many kinds installed: what finding out about kinds costs.
pub(crate) async fn kinds(programs: &Programs) -> Result<()> {
    let world = world("kinds", programs).await?;
    println!("one ConfigMap, before and with {KINDS} more kinds");
    let one = |changed: &[usize]| mix::mix(&world.namespace, 1, changed);
    deploy(&world, &one(&[])).await?;
    let raw = Duration::from_millis(10);
    line(
        "before (x 10 ms)",
        deploy(&world, &one(&[0])).await?.written,
        raw,
    );
    let definitions: Vec<Value> = (0..KINDS).map(definition).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": definitions });
    for chunk in list["items"].as_array().context("a list")?.chunks(100) {
        let part = json!({ "apiVersion": "v1", "kind": "List", "items": chunk });
        world.stand.cluster().apply(&part).await?;
    }
    line(
        "with them (x 10 ms)",
        deploy(&world, &one(&[])).await?.written,
        raw,
    );
    line(
        "once more (x 10 ms)",
        deploy(&world, &one(&[0])).await?.written,
        raw,
    );
    let names: Vec<String> = (0..KINDS)
        .map(|number| format!("things{number}.bench.example.com"))
        .collect();
    for chunk in names.chunks(200) {
        let mut words = vec!["delete", "crd", "--wait=false"];
        words.extend(chunk.iter().map(String::as_str));
        world.stand.kubectl(&words).await?;
    }
    Ok(())
}

fn definition(number: usize) -> Value {
    json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("things{number}.bench.example.com") },
        "spec": { "group": "bench.example.com", "scope": "Namespaced",
            "names": { "kind": format!("Thing{number}"), "plural": format!("things{number}") },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object" } } }] } })
}

/// 16 deploys of 60 objects at once by one agent.
pub(crate) async fn crowd(programs: &Programs) -> Result<()> {
    const RUNS: usize = 16;
    let world = world("crowd", programs).await?;
    let pid = world.agent_pid().context("the agent runs")?;
    let job = world.job()?;
    let mut runs = Vec::new();
    for run in 0..RUNS {
        let mut text = mix::file(&mix::mix(&world.namespace, 60, &[]));
        for kind in ["c", "app-s", "s", "d"] {
            text = text.replace(
                &format!("\n  name: {kind}"),
                &format!("\n  name: {kind}{run}-"),
            );
        }
        let (job, spec) = (
            job.clone(),
            format!("version: 1\nname: mix{run}\nmanifests: [all.yaml]\n"),
        );
        runs.push(async move { timed(&job, &spec, &text).await });
    }
    let mut times = futures::future::try_join_all(runs).await?;
    times.sort_unstable();
    println!("{RUNS} deploys of 60 objects at once");
    crate::tell("from POST to verdict", &mut times);
    println!("peak memory of the agent: {:.1} MiB", peak(pid)?);
    Ok(())
}

async fn timed(job: &tests::client::Client, spec: &str, text: &str) -> Result<Duration> {
    let began = Instant::now();
    let answer = post(
        job,
        "/v1/deploys",
        &[("quaymaster.yaml", spec), ("all.yaml", text)],
    )
    .await?;
    ensure!(answer.status == 202, "{}", answer.text());
    let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
    let done = job
        .get(&format!("/v1/deploys/{id}/result?wait=300s"))
        .await?;
    ensure!(done.status == 200, "{}", done.text());
    Ok(began.elapsed())
}

/// Takes a given program as the agent, instead of building one.
pub(crate) fn given(agent: &Path) -> Programs {
    Programs {
        agent: agent.to_owned(),
        client: agent.to_owned(),
    }
}
