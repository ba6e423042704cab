//! `cargo measure soak`: a change every second, for minutes, over many Secrets that are kept fresh.
//!
//! Called by `main`. Told are the agent's memory from minute to minute, how soon changes arrived, and how
//! many Secrets do not have their last value in the end. Each change is counted from before it is written to
//! OpenBao until a watch of the cluster shows it. Nothing is asserted.

use std::time::Duration;

use anyhow::Result;
use futures::FutureExt as _;
use tests::stand::agent::Programs;
use tests::wait::pause;
use tests::world::World;
use tokio::time::Instant;

use crate::fresh::arrivals::Arrivals;
use crate::fresh::managed;
use crate::status_line;

/// Secrets in one app.
const APP: usize = 50;
/// Time from one change to the next.
const GAP: Duration = Duration::from_secs(1);
/// A change that is not there after this time is told as late.
const LATE: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);

/// Runs it and prints what was seen.
pub(super) async fn soak(programs: &Programs, minutes: u32, secrets: usize) -> Result<()> {
    let names = managed::names(secrets);
    let mut world = managed::world("soak", programs).await?;
    managed::fill(&world, &names).await?;
    world.start_agent().await?;
    managed::deploy(&world, &names, APP).await?;
    let arrivals = Arrivals::of(&world)?;
    let changes = minutes * 60;
    println!("{changes} changes over {secrets} Secrets, one a second");
    let (told, mut took) = tokio::join!(
        memory(&world, minutes),
        changed(&world, &names, &arrivals, changes).boxed_local()
    );
    told?;
    let arrived: usize = took.len();
    println!(
        "change -> in the Secret: median/p95/max {}; {} of {changes} took over {} s",
        managed::words(&mut took),
        changes as usize - arrived,
        LATE.as_secs()
    );
    println!("lost updates: {}", lost(&names, &arrivals, changes));
    Ok(())
}

/// The value of a change.
fn value(number: u32) -> String {
    format!("change-{number}")
}

/// Makes all changes; returns the times of those that arrived.
async fn changed(
    world: &World,
    names: &[String],
    arrivals: &Arrivals,
    changes: u32,
) -> Vec<Duration> {
    let each = (0..changes).zip(names.iter().cycle());
    let all = each.map(async |(number, name)| {
        pause(GAP * number).await;
        let began = Instant::now();
        if let Err(error) = managed::put(world, name, &value(number)).await {
            println!("a change could not be written: {error:#}");
            return None;
        }
        let secret = format!("app-{name}");
        let at = arrivals.until(&secret, &value(number), LATE).await.ok()?;
        Some(at.saturating_duration_since(began))
    });
    let took = futures::future::join_all(all).await;
    took.into_iter().flatten().collect()
}

/// Prints the agent's memory from minute to minute.
async fn memory(world: &World, minutes: u32) -> Result<()> {
    let pid = managed::pid(world)?;
    for minute in 0..=minutes {
        println!(
            "minute {minute}: {:.1} MiB resident, {:.1} MiB of it its own",
            status_line(pid, "VmRSS")?,
            status_line(pid, "RssAnon")?
        );
        if minute < minutes {
            pause(MINUTE).await;
        }
    }
    Ok(())
}

/// Counts the Secrets that do not have the last value that was written for them.
fn lost(names: &[String], arrivals: &Arrivals, changes: u32) -> usize {
    let each = (0..changes).zip(names.iter().cycle());
    // Later ones take the place of earlier ones.
    let last: std::collections::BTreeMap<&String, u32> =
        each.map(|(number, name)| (name, number)).collect();
    let has = |name: &str| arrivals.value(&format!("app-{name}")).map(|(has, _)| has);
    last.into_iter()
        .filter(|(name, number)| has(name) != Some(value(*number)))
        .count()
}
