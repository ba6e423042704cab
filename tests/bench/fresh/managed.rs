//! Worlds with many Secrets that our agent keeps fresh, and what a process of ours or theirs costs.
//!
//! Used by every measurement of freshness. A Secret `app-<name>` has the one key [`super::KEY`], from the KV
//! secret `kv/<role>/<name>`. Invariant: a world is handed out when its agent says that all are fresh.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use serde_json::Value;
use serde_json::json;
use tests::stand::agent::Programs;
use tests::wait::Look;
use tests::wait::pause;
use tests::wait::until;
use tests::world::World;
use tokio::time::Instant;

use super::KEY;
use crate::processor_ticks;
use crate::status_line;

/// How long an agent may take until all Secrets are fresh.
const ALL: Duration = Duration::from_secs(120);
/// How long a process is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(5);

/// Names of `count` secrets.
pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("s{number}")).collect()
}

/// Makes a world whose agents keep Secrets fresh; none is started.
pub(crate) async fn world(name: &str, programs: &Programs) -> Result<World> {
    let mut world = World::without_agent(name).await?;
    world.use_programs(programs.clone());
    world.keep_fresh().await?;
    Ok(world)
}

/// Lets the agent, which is to be started again, ask this often.
pub(crate) fn ask_every(world: &World, freshness: &str) -> Result<()> {
    const SECTION: &str = "[rotation]\n";
    let path = world.config_path();
    let text = fs::read_to_string(&path)?;
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("freshness = "));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    ensure!(text.contains(SECTION), "the agent keeps Secrets fresh");
    let with = format!("{SECTION}freshness = \"{freshness}\"\n");
    fs::write(&path, text.replace(SECTION, &with))?;
    Ok(())
}

/// Writes a first value of each secret.
pub(crate) async fn fill(world: &World, names: &[String]) -> Result<()> {
    futures::stream::iter(names)
        .map(async |name| put(world, name, "first").await.map(drop))
        .buffer_unordered(8)
        .try_collect()
        .await
}

/// Writes a value; returns the path.
pub(crate) async fn put(world: &World, name: &str, value: &str) -> Result<String> {
    world.put(name, json!({ KEY: value })).await
}

/// Deploys the Secrets of all names, `size` to an app, and waits until all are fresh.
pub(crate) async fn deploy(world: &World, names: &[String], size: usize) -> Result<()> {
    for (number, part) in names.chunks(size).enumerate() {
        let mut spec = format!("version: 1\nname: app-{number}\nsecrets:\n");
        for name in part {
            let role = &world.role;
            spec.push_str(&format!(
                "  - name: app-{name}\n    keys:\n      {KEY}: {{ vault: kv/{role}/{name}, field: {KEY} }}\n    rotate: {{}}\n"
            ));
        }
        let job = world.job()?;
        let files = [("quaymaster.yaml", spec.as_str())];
        let done = world.deploy_as(&job, "/v1/secrets", &files).await?;
        ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    }
    all_fresh(world, names.len()).await
}

/// Waits until the agent says that so many Secrets are fresh.
pub(crate) async fn all_fresh(world: &World, count: usize) -> Result<()> {
    let found = until("all Secrets to be fresh", ALL, async || {
        match managed(world).await {
            Ok(all) => {
                let fresh = all.iter().filter(|one| one["freshness"] == "fresh").count();
                if fresh >= count {
                    return Look::Ready(());
                }
                Look::NotYet(format!("{fresh} of {} are fresh", all.len()))
            }
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    });
    found
        .await
        .with_context(|| world.agent_log().unwrap_or_default())
}

/// What the agent says about its Secrets.
pub(crate) async fn managed(world: &World) -> Result<Vec<Value>> {
    let told = world.admin().get("/v1/managed").await?.json()?;
    Ok(told["secrets"].as_array().cloned().unwrap_or_default())
}

/// The agent's process.
pub(crate) fn pid(world: &World) -> Result<u32> {
    world.agent_pid().context("the agent runs")
}

/// Resident memory of a process after a rest, and how much of it is not its program's file.
pub(crate) async fn memory(pid: u32) -> Result<String> {
    pause(REST).await;
    let (all, own) = (status_line(pid, "VmRSS")?, status_line(pid, "RssAnon")?);
    Ok(format!("{all:.1} MiB ({own:.1} own)"))
}

/// Share of a core that a process takes, in percent.
pub(crate) async fn load(pid: u32, time: Duration) -> Result<f64> {
    let (before, began) = (processor_ticks(pid)?, Instant::now());
    pause(time).await;
    let ticks = processor_ticks(pid)? - before;
    Ok(ticks as f64 / began.elapsed().as_secs_f64())
}

/// Requests a second that OpenBao handled in its last whole interval of ten seconds, by its own count.
pub(crate) async fn requests(world: &World) -> Result<f64> {
    let (_, told) = world
        .stand
        .vault(reqwest::Method::GET, "sys/metrics", None)
        .await?;
    let samples = told["Samples"].as_array().cloned().unwrap_or_default();
    let handled = samples.iter().filter(|sample| {
        let name = sample["Name"].as_str().unwrap_or_default();
        name.ends_with("core.handle_request")
    });
    let count: f64 = handled.filter_map(|sample| sample["Count"].as_f64()).sum();
    Ok(count / 10.0)
}

/// Times in words: the median, the 95th of a hundred, and the longest.
pub(crate) fn words(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        let place = (times.len() as f64 * share).ceil() as usize;
        times
            .get(place.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    };
    let (middle, late, last) = (at(0.5), at(0.95), at(1.0));
    if last < Duration::from_secs(2) {
        let [middle, late, last] = [middle, late, last].map(|time| time.as_millis());
        format!("{middle}/{late}/{last} ms")
    } else {
        let [middle, late, last] = [middle, late, last].map(|time| time.as_secs_f64());
        format!("{middle:.2}/{late:.2}/{last:.2} s")
    }
}
