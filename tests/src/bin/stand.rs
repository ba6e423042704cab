//! The program `stand`: real servers at hand, and what one wants to do with them.
//!
//! A thin layer over the library: it parses, calls and prints. The hidden verbs are the processes that a stand
//! consists of (keeper, init of the namespaces, servers, guard); the keeper and init start them.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program talks to people"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ::agent::child::confine;
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use tests::demo;
use tests::demo::Ways;
use tests::progress::{Event, Progress};
use tests::pushes;
use tests::pushes::Orders;
use tests::stand::keeper;
use tests::stand::layout::{Settings, Site, check_name};
use tests::stand::token::IdToken;
use tests::stand::{Owner, Stand, agent, git, isolate, servers, show, source};

/// Real servers for tests, benchmarks and the demo.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Starts a stand, getting what is missing; it runs until `down`.
    Up(Name),
    /// Ends a stand; nothing of it is left.
    Down(Name),
    /// Shows what runs, and where.
    Status(Name),
    /// Prints `export` lines for a shell: eval "$(stand env)".
    Env(Name),
    /// Prints an id_token of a job.
    Token(Box<Token>),
    /// Builds and runs an agent on the stand, until it is interrupted.
    Agent(Name),
    /// Shows the main job on a stand: build, deploy, the page, a failure; starts the stand if need be.
    Demo {
        #[command(flatten)]
        name: Name,
        /// Also through Flux, whose controllers are built for it.
        #[arg(long)]
        flux: bool,
    },
    /// Runs a command inside the stand's network, where ports are the well-known ones.
    Exec {
        #[command(flatten)]
        name: Name,
        /// Program and arguments.
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    #[command(hide = true)]
    Keep { name: String },
    #[command(hide = true)]
    Inner { state: PathBuf },
    #[command(hide = true)]
    Servers { state: PathBuf },
    #[command(hide = true)]
    Git { state: PathBuf },
    #[command(hide = true)]
    Source { state: PathBuf },
    #[command(hide = true)]
    Pushes(Orders),
    #[command(hide = true)]
    Guard { name: String, base: PathBuf },
}

#[derive(Args)]
struct Name {
    /// Which stand; several can run at once.
    #[arg(long, default_value = "default")]
    name: String,
}

#[derive(Args)]
struct Token {
    #[command(flatten)]
    name: Name,
    /// Numeric id of the project.
    #[arg(long, default_value = "42")]
    project: String,
    /// Path of the project.
    #[arg(long, default_value = "shop/flask")]
    project_path: String,
    /// Branch, or tag with --tag.
    #[arg(long = "ref", default_value = "main")]
    reference: String,
    /// The ref is a tag.
    #[arg(long)]
    tag: bool,
    /// Environment of the job.
    #[arg(long)]
    environment: Option<String>,
    /// Audience; several make an array.
    #[arg(long)]
    audience: Vec<String>,
    /// Seconds until it expires; negative: it has expired.
    #[arg(long, allow_hyphen_values = true)]
    expires_in: Option<i64>,
    /// Sets a claim to text: KEY=VALUE.
    #[arg(long, value_name = "KEY=VALUE")]
    claim: Vec<String>,
    /// Sets a claim to any JSON: KEY=JSON.
    #[arg(long, value_name = "KEY=JSON")]
    claim_json: Vec<String>,
    /// Leaves a claim out.
    #[arg(long, value_name = "KEY")]
    drop: Vec<String>,
    /// Shows the claims as well, on standard error.
    #[arg(long)]
    show: bool,
}

fn main() -> ExitCode {
    // Children of the agent's adapters are this program first, see `pushes`.
    if let Some(failed) = confine::become_child(std::env::args_os()) {
        return failed;
    }
    let cli = Cli::parse();
    // Init of a namespace does nothing but start and reap: no runtime.
    let outcome = if let Verb::Inner { state } = &cli.verb {
        own_path().and_then(|program| isolate::init(&program, state))
    } else {
        run(cli.verb)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stand: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One thread: servers ask the kernel to be killed with the thread that started them.
fn run(verb: Verb) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(carry_out(verb));
    // A blocked read of standard input must not hold the end up.
    runtime.shutdown_background();
    outcome
}

async fn carry_out(verb: Verb) -> Result<()> {
    // The servers have an environment of their own.
    if let Verb::Servers { state } = &verb {
        return serve(state).await;
    }
    if let Verb::Git { state } = &verb {
        return git::http::serve(site(state)?).await;
    }
    if let Verb::Source { state } = &verb {
        return source::serve(site(state)?).await;
    }
    if let Verb::Pushes(orders) = &verb {
        return pushes::write(orders, |line| println!("{line}")).await;
    }
    let settings = Settings::read()?;
    match verb {
        Verb::Up(Name { name }) => {
            let stand = Stand::start(&settings, &name, Owner::Anyone, show).await?;
            eprintln!(
                "the stand `{name}` is up after {:.1} s; eval \"$(cargo stand env)\" to use it",
                stand.facts().started_in
            );
            eprintln!("{}", Stand::flux_note(&settings));
            Ok(())
        }
        Verb::Down(Name { name }) => {
            check_name(&name)?;
            Stand::stop(&settings, &name).await
        }
        Verb::Status(Name { name }) => {
            let stand = Stand::attach(&settings, &name)?;
            status(&stand).await
        }
        Verb::Env(Name { name }) => {
            print!("{}", Stand::attach(&settings, &name)?.exports());
            Ok(())
        }
        Verb::Token(options) => token(&settings, &options),
        Verb::Demo {
            name: Name { name },
            flux,
        } => {
            let stand = if let Ok(stand) = Stand::attach(&settings, &name) {
                stand
            } else {
                Stand::start(&settings, &name, Owner::Anyone, show).await?
            };
            let ways = if flux {
                Ways::PipelineAndFlux
            } else {
                Ways::Pipeline
            };
            demo::run(&stand, ways, &|line| println!("{line}")).await
        }
        Verb::Agent(Name { name }) => run_agent(&Stand::attach(&settings, &name)?).await,
        Verb::Exec { name, words } => {
            let stand = Stand::attach(&settings, &name.name)?;
            let status = stand.inside(&words[0]).args(&words[1..]).status().await?;
            if status.success() {
                Ok(())
            } else {
                bail!("{} ended with {status}", words[0])
            }
        }
        Verb::Keep { name } => {
            let progress = Progress::to(std::io::stdout());
            tell_failure(
                &progress,
                keeper::keep(&own_path()?, &settings, &name, &progress).await,
            )
        }
        Verb::Guard { name, base } => {
            keeper::watch_over(&Settings { base, ..settings }, &name).await
        }
        Verb::Inner { .. }
        | Verb::Servers { .. }
        | Verb::Git { .. }
        | Verb::Source { .. }
        | Verb::Pushes(_) => bail!("this verb needs no settings"),
    }
}

/// The servers, inside; ends when the keeper's line closes.
async fn serve(state: &Path) -> Result<()> {
    let progress = Progress::to(std::io::stdout());
    let site = site(state)?;
    let owner = keeper::end_of_input()?;
    let work = async {
        let servers = servers::start(&site, &progress).await?;
        progress.tell(&Event::Ready);
        servers::supervise(&site, servers).await;
        anyhow::Ok(())
    };
    tokio::select! {
        done = work => tell_failure(&progress, done),
        // Everything in the namespaces is killed when this process ends.
        _ = owner => Ok(()),
    }
}

fn site(state: &Path) -> Result<Site> {
    let text = std::fs::read_to_string(state.join("site.json")).context("reading site.json")?;
    Ok(serde_json::from_str(&text)?)
}

/// A failure is told as an event, to whoever follows; it was heard, so it is not printed again.
fn tell_failure(progress: &Progress, outcome: Result<()>) -> Result<()> {
    if let Err(error) = &outcome {
        progress.tell(&Event::Failed(format!("{error:#}")));
        return Ok(());
    }
    outcome
}

async fn status(stand: &Stand) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(stand.facts())?);
    println!("{}", stand.kubectl(&["get", "nodes", "-o", "wide"]).await?);
    Ok(())
}

fn token(settings: &Settings, options: &Token) -> Result<()> {
    let stand = Stand::attach(settings, &options.name.name)?;
    let token = dress(stand.token()?, options)?;
    if options.show {
        eprintln!("{}", serde_json::to_string_pretty(token.claims())?);
    }
    println!("{}", stand.sign(token)?);
    Ok(())
}

fn dress(token: IdToken, options: &Token) -> Result<IdToken> {
    let kind = if options.tag { "tag" } else { "branch" };
    let mut token = token
        .project(&options.project, &options.project_path)
        .reference(&options.reference, kind);
    if let Some(name) = &options.environment {
        token = token.environment(name);
    }
    match options.audience.as_slice() {
        [] => {}
        [one] => token = token.claim("aud", one.as_str()),
        more => token = token.claim("aud", more.to_vec()),
    }
    if let Some(seconds) = options.expires_in {
        token = token.expires_in(seconds);
    }
    for pair in &options.claim {
        let (key, value) = pair.split_once('=').context("--claim wants KEY=VALUE")?;
        token = token.claim(key, value);
    }
    for pair in &options.claim_json {
        let (key, value) = pair
            .split_once('=')
            .context("--claim-json wants KEY=JSON")?;
        token = token.claim(
            key,
            serde_json::from_str::<Value>(value).with_context(|| format!("JSON of {key}"))?,
        );
    }
    Ok(options
        .drop
        .iter()
        .fold(token, |token, key| token.without(key)))
}

async fn run_agent(stand: &Stand) -> Result<()> {
    let dir = stand.facts().site.folder("agent")?;
    let config = agent::write_agent_config(&dir, stand).await?;
    let program = agent::build().await?.agent;
    let (jobs, admin) = agent::sockets(&dir);
    println!(
        "jobs socket:  {}\nadmin socket: {}\nconfig:       {}",
        jobs.display(),
        admin.display(),
        config.display()
    );
    // Variables for the client, as `stand env` sets them, are none of the agent's.
    let status = tokio::process::Command::new(program)
        .env_clear()
        .arg("--config")
        .arg(config)
        .kill_on_drop(true)
        .status()
        .await?;
    if status.success() {
        Ok(())
    } else {
        bail!("the agent ended with {status}")
    }
}

fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("finding this program")
}
