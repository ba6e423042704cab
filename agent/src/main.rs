//! `quaymasterd`: arguments, configuration, logging, run, exit code. Everything else is the library.

use std::process::ExitCode;

use agent::app;
use agent::args::Args;
use agent::args::Verb;
use agent::child::confine;
use agent::config::Config;
use agent::config::Environment;
use agent::lifecycle;
use agent::telemetry;
use anyhow::Context;
use clap::Parser;
use deploy::policy::Policy;
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    if let Some(failed) = confine::become_child(std::env::args_os()) {
        return failed;
    }
    match start() {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Tells why the agent ends: each cause once, without a stack trace, which helps no operator.
#[expect(clippy::print_stderr, reason = "the log may not be up yet")]
fn report(error: &anyhow::Error) {
    eprintln!("quaymasterd: {error:#}");
}

fn start() -> anyhow::Result<ExitCode> {
    // Before anything else: no core, no reading by others, and one crypto library.
    let unhardened = lifecycle::harden();
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let args = Args::parse();
    let environment = Environment::collect(std::env::vars_os());
    let (config, policy) = app::load(&args.config, environment)?;
    if args.check {
        return Ok(ExitCode::SUCCESS);
    }
    if args.verb == Some(Verb::Doctor) {
        return doctor(&config, &policy);
    }
    telemetry::start(&config.log);
    for problem in unhardened {
        tracing::warn!(problem, "the process is less protected than it could be");
    }
    let runtime = runtime()?;
    let ending = runtime.block_on(app::run(config, policy))?;
    // A task that hangs must not keep a process alive whose run is told.
    runtime.shutdown_background();
    Ok(ending.exit_code())
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Tells what the checks found, each on a line.
#[expect(clippy::print_stdout, reason = "it is the answer to who typed it")]
fn doctor(config: &Config, policy: &Policy) -> anyhow::Result<ExitCode> {
    let findings = runtime()?.block_on(app::doctor(config, policy))?;
    for finding in &findings {
        println!("{finding}");
    }
    Ok(app::verdict(&findings))
}
