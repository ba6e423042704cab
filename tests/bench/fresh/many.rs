//! Memory, processor time and how soon a change arrives, with few and with many secrets.
//!
//! Both agents keep the same secrets of the same OpenBao at the same freshness, one after the other, so that
//! neither takes the other's processor time. Ours writes Kubernetes Secrets, the other one files.

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
use serde_json::json;
use tests::stand::agent::Programs;
use tests::wait::pause;
use tests::world::World;
use tokio::time::Instant;

use super::arrivals::Arrivals;
use super::beside;
use super::beside::Beside;
use super::managed;
use super::table;

/// How long processor time is counted.
const COUNTED: Duration = Duration::from_secs(30);
/// Longest that a change may take.
const ARRIVES: Duration = Duration::from_secs(60);
/// Time from one change to the next: in step with no freshness.
const GAP: Duration = Duration::from_millis(970);
/// Secrets in one app.
const APP: usize = 100;

/// What one kind of agent showed.
#[derive(Default)]
struct Seen {
    memory: String,
    load: f64,
    requests: f64,
    changes: String,
}

/// Prints the rows of so many secrets.
pub(super) async fn rows(programs: &Programs, count: usize, whole: Whole) -> Result<()> {
    let names = managed::names(count);
    let mut world = managed::world("fresh-many", programs).await?;
    managed::fill(&world, &names).await?;
    managed::ask_every(&world, "10s")?;
    world.start_agent().await?;
    managed::deploy(&world, &names, APP).await?;
    let arrivals = Arrivals::of(&world)?;
    // The deploys were work of another kind: what counts is an agent that goes on keeping them.
    world.kill_agent().await?;
    world.start_agent().await?;
    managed::all_fresh(&world, count).await?;
    let at_ten = ours(&world, &names, &arrivals, whole, "ten").await?;
    let mut at_one = None;
    if let Whole::Changes { times } = whole {
        world.kill_agent().await?;
        managed::ask_every(&world, "1s")?;
        world.start_agent().await?;
        managed::all_fresh(&world, count).await?;
        let seen = ours(&world, &names, &arrivals, whole, "one").await?;
        let noticed = noticed(&world, &names, &arrivals, times).await?;
        at_one = Some((seen, noticed));
    }
    world.kill_agent().await?;
    let theirs = theirs(&world, &names, whole).await?;
    print(count, &theirs, &at_ten, at_one.as_ref());
    Ok(())
}

/// How much of it is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// Memory alone.
    Memory,
    /// Also processor time, requests, and so many changes.
    Changes {
        /// How many.
        times: u32,
    },
}

fn print(count: usize, theirs: &Seen, ours: &Seen, at_one: Option<&(Seen, String)>) {
    let goal = match count {
        0..10 => "12 MiB",
        10..500 => "14 MiB",
        _ => "20 MiB",
    };
    table::row(
        &format!("resident memory, {count} KV secrets, 10 s freshness"),
        &theirs.memory,
        &ours.memory,
        goal,
    );
    let Some((quick, noticed)) = at_one else {
        return;
    };
    let row = |figure: &str, theirs: &str, ours: &str, goal: &str| {
        table::row(&format!("{figure}, {count} secrets"), theirs, ours, goal);
    };
    let share = |seen: &Seen| format!("{:.1} % of a core", seen.load);
    let asked = |seen: &Seen| format!("{:.1} a second", seen.requests);
    row(
        "processor time, 10 s freshness",
        &share(theirs),
        &share(ours),
        "< 2 %",
    );
    row("processor time, 1 s freshness", "-", &share(quick), "< 2 %");
    row(
        "requests at OpenBao, 10 s freshness",
        &asked(theirs),
        &asked(ours),
        "",
    );
    row("requests at OpenBao, 1 s freshness", "-", &asked(quick), "");
    row(
        "change, 10 s freshness: median/p95/max",
        &theirs.changes,
        &ours.changes,
        "",
    );
    row(
        "change, 1 s freshness: median/p95/max",
        "-",
        &quick.changes,
        "p95 <= 1 s",
    );
    row("change, after a notice", "none", noticed, "p95 <= 100 ms");
    row("resident memory, 1 s freshness", "-", &quick.memory, goal);
}

/// Changes secrets one after the other; tells how long each took until `arrives` had its value.
async fn changes(
    world: &World,
    names: &[String],
    (times, pass): (u32, &str),
    arrives: impl AsyncFn(&str, &str) -> Result<Instant>,
) -> Result<String> {
    let arrives = &arrives;
    let changes = spread(names, times).map(async |(number, name)| {
        pause(GAP * number).await;
        let began = Instant::now();
        let value = format!("{pass}-{number}");
        managed::put(world, name, &value).await?;
        let at = arrives(name, &value).await?;
        anyhow::Ok(at.saturating_duration_since(began))
    });
    let mut took = futures::future::try_join_all(changes).await?;
    Ok(managed::words(&mut took))
}

async fn ours(
    world: &World,
    names: &[String],
    arrivals: &Arrivals,
    whole: Whole,
    pass: &str,
) -> Result<Seen> {
    let pid = managed::pid(world)?;
    let mut seen = Seen {
        memory: managed::memory(pid).await?,
        ..Seen::default()
    };
    if let Whole::Changes { times } = whole {
        seen.load = managed::load(pid, COUNTED).await?;
        seen.requests = managed::requests(world).await?;
        seen.changes = changes(world, names, (times, pass), async |name, value| {
            let secret = format!("app-{name}");
            arrivals.until(&secret, value, ARRIVES).await
        })
        .await?;
    }
    Ok(seen)
}

/// How soon a change arrives when the one who made it says so; counted from the notice.
async fn noticed(
    world: &World,
    names: &[String],
    arrivals: &Arrivals,
    times: u32,
) -> Result<String> {
    let mut took = Vec::new();
    for (number, name) in spread(names, times) {
        let value = format!("noticed-{number}");
        let job = world.job()?.with("content-type", "application/json");
        let path = managed::put(world, name, &value).await?;
        let body = json!({ "paths": [path] }).to_string();
        let began = Instant::now();
        let taken = job.send("POST", "/v1/secrets/changed", body).await?;
        ensure!(taken.status == 202, "{}", taken.text());
        let secret = format!("app-{name}");
        let at = arrivals.until(&secret, &value, ARRIVES).await?;
        took.push(at.saturating_duration_since(began));
        pause(GAP).await;
    }
    Ok(managed::words(&mut took))
}

async fn theirs(world: &World, names: &[String], whole: Whole) -> Result<Seen> {
    let pages: Vec<beside::Page> = names
        .iter()
        .map(|name| beside::of_kv(world, name))
        .collect();
    let mut agent = Beside::new(world, "10s", &pages).await?;
    agent.start()?;
    for name in names {
        let value = value_of(world, name).await?;
        agent.until(name, &value, ARRIVES).await?;
    }
    let pid = agent.pid()?;
    let mut seen = Seen {
        memory: managed::memory(pid).await?,
        ..Seen::default()
    };
    if let Whole::Changes { times } = whole {
        seen.load = managed::load(pid, COUNTED).await?;
        seen.requests = managed::requests(world).await?;
        let beside = &agent;
        seen.changes = changes(world, names, (times, "theirs"), async |name, value| {
            beside.until(name, value, ARRIVES).await
        })
        .await?;
    }
    agent.kill().await?;
    Ok(seen)
}

/// The value that a secret has in OpenBao.
async fn value_of(world: &World, name: &str) -> Result<String> {
    let path = format!("kv/data/{}/{name}", world.role);
    let (_, told) = world.stand.vault(reqwest::Method::GET, &path, None).await?;
    Ok(told["data"]["data"][super::KEY]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// So many of the names, each once, from all over.
fn spread(names: &[String], times: u32) -> impl Iterator<Item = (u32, &String)> {
    let step = (names.len() / times as usize).max(1);
    (0..times).zip(names.iter().step_by(step))
}
