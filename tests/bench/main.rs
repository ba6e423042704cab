//! Measurements of the agent on the stand, one command each; see `--help`.
//!
//! `cargo measure start`: start to ready. `cargo measure rest`: memory and processor time at rest, sizes of the
//! programs. `cargo measure secret`: POST to Secret written. `cargo measure deploy`: memory during a deploy of
//! 100 objects. `cargo measure mixes`, `far`, `kinds`, `crowd`: deploys of many objects beside raw requests,
//! kubectl and Helm. `cargo measure public`: sets of public projects. `cargo measure event`, `log`: how soon a verdict comes, how much it says. `cargo measure flux`: deploys through Flux; `cargo measure pushes`: two writers
//! at once. `cargo measure kills`: deploys with the agent killed at random
//! moments, every verdict compared with the cluster; `cargo measure rotation-kills`: the same for credentials that are replaced.
//! `cargo measure fresh`: Secrets that are kept fresh, beside `bao agent`, about ten minutes; `cargo measure agents`: three agents
//! that share Secrets, one is killed; `cargo measure soak --minutes 10`: a change every second. Everything is measured on release builds; numbers are printed, never asserted.
#![expect(clippy::print_stdout, reason = "this program prints measurements")]

mod commits;
mod deploys;
mod fresh;
mod judge;
mod mix;
mod peers;
mod public;
mod shares;
mod soak;
mod verdicts;

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use clap::Parser;
use clap::Subcommand;
use serde_json::json;
use tests::kills::Sweep;
use tests::rotations::Rotations;
use tests::stand::agent;
use tests::submission::post;
use tests::wait::Look;
use tests::wait::pause;
use tests::wait::until;
use tests::world::World;
use tokio::time::Instant;

/// Measurements of the agent on real servers.
#[derive(Parser)]
struct Cli {
    /// Measure this program instead of building the agent.
    #[arg(long)]
    agent: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// From exec to ready, with everything up.
    Start,
    /// Memory and processor time at rest; sizes of the programs.
    Rest,
    /// From the POST to the Secret in the cluster, for one KV secret.
    Secret,
    /// Memory during a deploy of 100 objects.
    Deploy,
    /// Sets of public projects, beside kubectl and Helm; see its file.
    Public(public::Public),
    /// Whether one folder of manifests becomes ready; measures nothing, see its file.
    Judge(judge::Judge),
    /// Create 10, 100, 1,000 objects; deploy 1,000 unchanged, then with one changed; beside peers.
    Mixes,
    /// Create 100 objects on an API server that is 80 ms away.
    Far,
    /// One object with 1,000 more kinds installed.
    Kinds,
    /// 16 deploys at once.
    Crowd,
    /// From an object becoming ready to the verdict.
    Event,
    /// Lines and bytes of the log of a rollout of 50 workloads.
    Log,
    /// Deploys through Flux: from the push to the verdict, what of it is ours, requests.
    Flux,
    /// 200 pushes of two writers at once, into two files and into one.
    Pushes,
    /// Deploys during which the agent is killed at random moments.
    Kills {
        /// How many.
        #[arg(long, default_value_t = 100)]
        rounds: usize,
        /// Where the moments come from; a fresh one unless given.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Rotations during which the agent is killed at random moments; credentials are counted.
    RotationKills {
        /// How many.
        #[arg(long, default_value_t = 100)]
        rounds: usize,
        /// Where the moments come from; a fresh one unless given.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Secrets that are kept fresh, beside `bao agent`: memory, processor time, how soon, and trouble.
    Fresh {
        /// How many secrets at most.
        #[arg(long, default_value_t = 1000)]
        secrets: usize,
        /// What of it.
        #[arg(long, value_enum, default_value = "all")]
        part: fresh::Part,
    },
    /// Three agents that share 300 Secrets, one of which is killed.
    Agents,
    /// A change every second over many Secrets that are kept fresh.
    Soak {
        /// For how long.
        #[arg(long, default_value_t = 10)]
        minutes: u32,
        /// How many Secrets.
        #[arg(long, default_value_t = 300)]
        secrets: usize,
    },
    /// All of them but the kills, the public sets and those of Secrets that are kept fresh.
    All,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if let What::Judge(options) = cli.what {
        return judge::judge(options).await;
    }
    agent::build_stand().await?;
    let programs = match &cli.agent {
        Some(agent) => deploys::given(agent),
        None => agent::build_release().await?,
    };
    match cli.what {
        What::Judge(_) => {}
        What::Public(options) => public::public(&options, &programs).await?,
        What::Start => start(&programs).await?,
        What::Rest => rest(&programs).await?,
        What::Secret => secret(&programs).await?,
        What::Deploy => deploy(&programs).await?,
        What::Mixes => deploys::mixes(&programs).await?,
        What::Far => deploys::far(&programs).await?,
        What::Kinds => deploys::kinds(&programs).await?,
        What::Crowd => deploys::crowd(&programs).await?,
        What::Event => verdicts::event(&programs).await?,
        What::Log => verdicts::log(&programs).await?,
        What::Flux => commits::flux(&programs).await?,
        What::Pushes => commits::pushes().await?,
        What::Kills { rounds, seed } => kills(&programs, rounds, seed).await?,
        What::RotationKills { rounds, seed } => rotation_kills(&programs, rounds, seed).await?,
        What::Fresh { secrets, part } => fresh::fresh(&programs, secrets, part).await?,
        What::Agents => shares::agents(&programs).await?,
        What::Soak { minutes, secrets } => soak::soak(&programs, minutes, secrets).await?,
        What::All => {
            start(&programs).await?;
            rest(&programs).await?;
            secret(&programs).await?;
            deploy(&programs).await?;
            deploys::mixes(&programs).await?;
            deploys::far(&programs).await?;
            deploys::kinds(&programs).await?;
            deploys::crowd(&programs).await?;
            verdicts::event(&programs).await?;
            verdicts::log(&programs).await?;
            commits::flux(&programs).await?;
            commits::pushes().await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn world(name: &str, programs: &agent::Programs) -> Result<World> {
    let mut world = World::without_agent(name).await?;
    world.use_programs(programs.clone());
    world.start_agent().await?;
    Ok(world)
}

async fn start(programs: &agent::Programs) -> Result<()> {
    let mut world = World::without_agent("bench-start").await?;
    world.use_programs(programs.clone());
    let mut times = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        world.spawn_agent().await?;
        let admin = world.admin();
        until(
            "the agent to be ready",
            Duration::from_secs(10),
            async || match admin.get("/readyz").await {
                Ok(answer) if answer.status == 200 => Look::Ready(()),
                Ok(answer) => Look::NotYet(answer.text()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            },
        )
        .await?;
        times.push(began.elapsed());
        world.kill_agent().await?;
    }
    tell("start to ready (looked at every 50 ms)", &mut times);
    Ok(())
}

async fn rest(programs: &agent::Programs) -> Result<()> {
    let world = world("bench-rest", programs).await?;
    let pid = world.agent_pid().context("the agent runs")?;
    let before = processor_ticks(pid)?;
    let seconds = 20;
    pause(Duration::from_secs(seconds)).await;
    let ticks = processor_ticks(pid)? - before;
    println!(
        "at rest: {:.1} MiB resident ({:.1} MiB of it its own, the rest is the program's file), {ticks} ticks of 10 ms processor time in {seconds} s",
        status_line(pid, "VmRSS")?,
        status_line(pid, "RssAnon")?
    );
    for (name, path) in [
        ("quaymasterd", &programs.agent),
        ("quaymaster", &programs.client),
    ] {
        println!("{name}: {:.2} MB", size(path)?);
    }
    Ok(())
}

async fn secret(programs: &agent::Programs) -> Result<()> {
    let world = world("bench-secret", programs).await?;
    let job = world.job()?;
    let mut times = Vec::new();
    for round in 0..30 {
        let path = world
            .put("app", json!({ "value": format!("value-{round}") }))
            .await?;
        let spec = format!(
            "version: 1\nname: app\nsecrets:\n  - name: app-secret\n    keys:\n      value: {{ vault: {path}, field: value }}\n"
        );
        let began = Instant::now();
        let answer = post(&job, "/v1/deploys", &[("quaymaster.yaml", &spec)]).await?;
        let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
        let done = job
            .get(&format!("/v1/deploys/{id}/result?wait=60s"))
            .await?;
        times.push(began.elapsed());
        ensure!(done.status == 200, "{}", done.text());
    }
    tell(
        "POST to verdict, the Secret being written (one KV v2 secret)",
        &mut times,
    );
    Ok(())
}

async fn deploy(programs: &agent::Programs) -> Result<()> {
    let world = world("bench-deploy", programs).await?;
    let pid = world.agent_pid().context("the agent runs")?;
    let objects: String = (0..100)
        .map(|number| {
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: c{number} }}\ndata: {{ key: \"{number}\" }}\n---\n")
        })
        .collect();
    let spec = "version: 1\nname: app\nmanifests: [all.yaml]\n";
    let began = Instant::now();
    let done = world
        .deploy(&[("quaymaster.yaml", spec), ("all.yaml", &objects)])
        .await?;
    ensure!(done.status() == 200, "{}", done.answer.text());
    println!(
        "100 ConfigMaps: {:.2} s, peak {:.1} MiB resident",
        began.elapsed().as_secs_f64(),
        peak(pid)?
    );
    Ok(())
}

async fn kills(programs: &agent::Programs, rounds: usize, seed: Option<u64>) -> Result<()> {
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7919);
    println!("kills: seed {seed}");
    let mut world = world("bench-kills", programs).await?;
    let began = Instant::now();
    let sweep = Sweep::new(&mut world, programs.clone(), seed).await?;
    let tally = sweep.run(rounds).await?;
    println!(
        "{rounds} kills in {:.0} s: every verdict was true, nothing was written twice, no lock, credential or run was left",
        began.elapsed().as_secs_f64()
    );
    println!("verdicts: {:?}", tally.ends);
    println!("killed in: {:?}", tally.phases);
    Ok(())
}

async fn rotation_kills(
    programs: &agent::Programs,
    rounds: usize,
    seed: Option<u64>,
) -> Result<()> {
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7919);
    println!("kills in rotations: seed {seed}");
    let mut world = World::without_agent("bench-rotation").await?;
    world.use_programs(programs.clone());
    world.keep_fresh().await?;
    world.start_agent().await?;
    let began = Instant::now();
    let mut sweep = Rotations::new(&mut world, seed, rounds).await?;
    sweep.run(rounds).await?;
    println!(
        "{rounds} kills in {:.0} s: each time one credential was alive and in the Secret, none leaked, nothing was torn or left open",
        began.elapsed().as_secs_f64()
    );
    println!("after the kill: {:?}", sweep.ends);
    Ok(())
}

fn tell(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{what}: median {:.0} ms, fastest {:.0} ms, slowest {:.0} ms, {} times",
        ms(times[times.len() / 2]),
        ms(times[0]),
        ms(times[times.len() - 1]),
        times.len()
    );
}

fn status_line(pid: u32, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .context("the kernel tells it")?;
    let kilobytes: f64 = line
        .trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(kilobytes / 1024.0)
}

fn peak(pid: u32) -> Result<f64> {
    status_line(pid, "VmHWM")
}

/// User and system time of a process in ticks of 10 ms.
fn processor_ticks(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit(')').next().context("stat has a name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn size(path: &Path) -> Result<f64> {
    Ok(std::fs::metadata(path)?.len() as f64 / 1e6)
}
