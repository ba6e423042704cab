//! `cargo measure agents`: three agents share many Secrets, and one of them is killed.
//!
//! Called by `main`. Told are how soon the others have taken its share over, which credentials were issued
//! anew, and how often OpenBao was asked before and after, by its own count: nobody else should use the
//! stand meanwhile. Every app has Secrets from KV and one with a database credential; a third of those were
//! issued by the agent that dies, and have to be replaced, once. Nothing is asserted.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use tests::stand::agent::Programs;
use tests::wait::Look;
use tests::wait::pause;
use tests::wait::until;
use tests::world::World;
use tokio::time::Instant;

use crate::fresh::KEY;
use crate::fresh::arrivals::Arrivals;
use crate::fresh::managed;

/// Apps that are shared.
const APPS: usize = 60;
/// Credentials that the agent that dies has issued.
const HELD: u64 = APPS as u64 / 3;
/// Secrets from KV in one app; one with a credential comes on top.
const IN_APP: usize = 4;
/// Longest that taking over may take.
const OVER: Duration = Duration::from_secs(120);
/// OpenBao counts requests in intervals of ten seconds: one whole one is inside this time.
const COUNTED: Duration = Duration::from_secs(21);

/// Runs it and prints what was seen.
pub(super) async fn agents(programs: &Programs) -> Result<()> {
    let mut world = managed::world("agents", programs).await?;
    world.start_agent().await?;
    let second = world.second_agent().await?;
    let before = leases(&world).await?;
    let mut third = world.second_agent().await?;
    let after = leases(&world).await?;
    let dies = after.difference(&before).next();
    let dies = dies.context("the third agent has a Lease")?.clone();
    let names = managed::names(APPS * IN_APP);
    managed::fill(&world, &names).await?;
    for (app, part) in names.chunks(IN_APP).enumerate() {
        let agent = [&world, &second, &third][app % 3];
        deploy(agent, app, part).await?;
    }
    let all = names.len() + APPS;
    managed::all_fresh(&world, all).await?;
    let arrivals = Arrivals::of(&world)?;
    pause(COUNTED).await;
    let asked_before = managed::requests(&world).await?;
    let generations = generations(&world).await?;
    let share = share(&world, &dies).await?;
    println!(
        "{all} Secrets in {APPS} apps, 3 agents; the one that is killed keeps {} of them from KV",
        share.len()
    );
    third.kill_agent().await?;
    taken_over(&world, &share, &arrivals).await?;
    settled(&world, all, &generations).await?;
    tell_credentials(&world, &generations).await?;
    pause(COUNTED).await;
    let asked_after = managed::requests(&world).await?;
    println!("requests at OpenBao: {asked_before:.1} a second before, {asked_after:.1} after");
    Ok(())
}

/// Names the agents that have a Lease.
async fn leases(world: &World) -> Result<BTreeSet<String>> {
    let home = format!("{}-agents", world.namespace);
    let path = "jsonpath={.items[*].metadata.labels.state\\.quaymaster\\.dev/agent}";
    let stand = world.stand;
    let asked = ["-n", &home, "get", "leases", "-o", path];
    let told = stand.kubectl(&asked).await?;
    Ok(told.split_whitespace().map(str::to_owned).collect())
}

/// Deploys one app through one agent, whose token then holds the credential.
async fn deploy(agent: &World, app: usize, names: &[String]) -> Result<()> {
    let (creds, role) = (agent.creds(), &agent.role);
    let mut spec = format!(
        "version: 1\nname: app-{app}\nsecrets:\n  - name: app-db-{app}\n    keys:\n      username: {{ vault: {creds}, field: username }}\n    rotate: {{}}\n"
    );
    for name in names {
        spec.push_str(&format!(
            "  - name: app-{name}\n    keys:\n      {KEY}: {{ vault: kv/{role}/{name}, field: {KEY} }}\n    rotate: {{}}\n"
        ));
    }
    let files = [("quaymaster.yaml", spec.as_str())];
    let done = agent
        .deploy_as(&agent.job()?, "/v1/secrets", &files)
        .await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    Ok(())
}

/// The KV secrets that an agent keeps.
async fn share(world: &World, agent: &str) -> Result<Vec<String>> {
    let told = managed::managed(world).await?;
    let theirs = told.iter().filter(|secret| secret["agent"] == agent);
    Ok(theirs
        .filter_map(|secret| secret["name"].as_str()?.strip_prefix("app-s"))
        .map(|number| format!("s{number}"))
        .collect())
}

/// Changes everything that the dead agent kept, and tells when it arrives.
async fn taken_over(world: &World, share: &[String], arrivals: &Arrivals) -> Result<()> {
    let died = Instant::now();
    futures::stream::iter(share)
        .map(async |name| managed::put(world, name, "after").await.map(drop))
        .buffer_unordered(8)
        .try_collect::<()>()
        .await?;
    let each = share.iter().map(async |name| {
        let at = arrivals.until(&format!("app-{name}"), "after", OVER).await;
        at.ok().map(|at| at.saturating_duration_since(died))
    });
    let ended = futures::future::join_all(each).await;
    let took: Vec<Duration> = ended.into_iter().flatten().collect();
    let (first, last) = (took.iter().min(), took.iter().max());
    let seconds = |time: Option<&Duration>| time.copied().unwrap_or_default().as_secs_f64();
    println!(
        "killed -> changes of its share arrive: first {:.1} s, last {:.1} s, {} of {} (our goal: < 30 s)",
        seconds(first),
        seconds(last),
        took.len(),
        share.len()
    );
    Ok(())
}

/// Waits until everything is fresh, the dead agent's credentials are replaced and their predecessors ended;
/// what is not so in the end is told by the counts.
async fn settled(world: &World, all: usize, before: &BTreeMap<String, u64>) -> Result<()> {
    let waited = until("its credentials to be replaced", OVER, async || {
        let look = async {
            anyhow::Ok((
                issued(world, before).await?,
                world.live_credentials().await?,
            ))
        };
        match look.await {
            Ok((issued, APPS)) if issued >= HELD => Look::Ready(()),
            Ok((issued, alive)) => Look::NotYet(format!("{issued} were issued, {alive} are alive")),
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    });
    if let Err(error) = waited.await {
        println!("{error:#}");
    }
    managed::all_fresh(world, all).await
}

/// Counts the changes of Secrets with a credential.
async fn issued(world: &World, before: &BTreeMap<String, u64>) -> Result<u64> {
    let now = generations(world).await?;
    let grown = |(name, before): (&String, &u64)| now.get(name).copied().unwrap_or(0) - before;
    Ok(before.iter().map(grown).sum())
}

/// How often the values of each Secret with a credential have changed.
async fn generations(world: &World) -> Result<BTreeMap<String, u64>> {
    let told = managed::managed(world).await?;
    let with = told.iter().filter_map(|secret| {
        let name = secret["name"].as_str()?;
        let generation = secret["generation"].as_u64()?;
        name.starts_with("app-db-")
            .then(|| (name.to_owned(), generation))
    });
    Ok(with.collect())
}

async fn tell_credentials(world: &World, before: &BTreeMap<String, u64>) -> Result<()> {
    let now = generations(world).await?;
    let grown = |name: &String| now.get(name).copied().unwrap_or(0) - before[name];
    let issued = issued(world, before).await?;
    let double: u64 = before
        .keys()
        .map(|name| grown(name).saturating_sub(1))
        .sum();
    println!(
        "credentials issued anew: {issued} ({} were held by the dead agent's token), of them twice for one Secret: {double} (our goal: 0); alive: {} for {APPS} Secrets",
        HELD,
        world.live_credentials().await?
    );
    Ok(())
}
