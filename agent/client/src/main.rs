//! `quaymaster`, the client that jobs carry: packs a bundle, hands it to the agent, tells the verdict.
//!
//! Static and small, without TLS: it only speaks HTTP over the agent's unix socket. The way of a
//! deploy: `args` -> `pack` (`images`, `expand`, `walk`, `archive`), `saved` -> `follow` (`wire`, `patience`) ->
//! `output` (`log`, `render`), `feedback` -> `exit`; `commands` strings them together. That of a command which
//! needs values: `args` -> `pack` -> `variables` -> `exec` (`mask`), or `print`. This file collects the
//! environment once and passes it on; nothing else reads it.

#![expect(
    clippy::result_large_err,
    reason = "a problem is made once and ends the program; its size is of no account"
)]

mod exit;
mod log;
mod yaml;
mod quote;
mod expand;
mod images;
mod args;
mod archive;
mod walk;
mod kustomization;
mod pack;
mod disk;
mod saved;
mod tokens;
mod progress;
mod wire;
mod lines;
mod patience;
mod follow;
mod render;
mod apps;
mod kept;
mod output;
mod feedback;
mod session;
mod cancel;
mod secrets;
mod mask;
mod variables;
mod exec;
mod print;
mod commands;

use std::process::ExitCode;

use clap::Parser;
use proto::error::Code;
use proto::error::Problem;

use crate::args::Arguments;
use crate::args::Command;
use crate::args::Global;
use crate::exit::Exit;
use crate::expand::Environment;
use crate::log::Sections;
use crate::output::Detail;
use crate::output::Output;
use crate::session::Session;
use crate::wire::Agent;

/// Where the agent's jobs socket is mounted unless said otherwise.
const SOCKET: &str = "/run/quaymaster/jobs/quaymaster.sock";
/// Where the operator finds the agent.
const ADMIN_SOCKET: &str = "/run/quaymaster/admin/quaymaster.sock";

fn main() -> ExitCode {
    let Arguments { global, command } = Arguments::parse();
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    // A variable that is not UTF-8 counts as unset: YAML could not hold it.
    let environment: Environment = std::env::vars_os().filter_map(text).collect();
    let sections = match environment.get("GITLAB_CI") {
        Some(value) if !value.is_empty() => Sections::GitLab,
        Some(_) | None => Sections::Plain,
    };
    let detail = if global.verbose {
        Detail::Verbose
    } else {
        Detail::Normal
    };
    let mut output = Output::new(global.output, detail, sections);
    let agent = match &command {
        Command::Managed(_) => Ok(operators(&global)),
        Command::Deploy(_)
        | Command::Plan(_)
        | Command::Promote(_)
        | Command::Status(_)
        | Command::List(_)
        | Command::Log(_)
        | Command::Result(_)
        | Command::Cancel(_)
        | Command::Rollback(_)
        | Command::History(_)
        | Command::Secrets(_)
        | Command::Exec(_)
        | Command::Env(_)
        | Command::Whoami
        | Command::Version => agent(&global, &environment),
    };
    let done = agent.and_then(|agent| {
        let mut session = Session {
            agent: &agent,
            environment: &environment,
            output: &mut output,
        };
        let run = commands::run(&mut session, command);
        Ok(runtime()?.block_on(run))
    });
    let exit = done.unwrap_or_else(|problem| {
        output.problem(&problem);
        Exit::of_code(problem.code)
    });
    ExitCode::from(exit.number())
}

fn agent(global: &Global, environment: &Environment) -> Result<Agent, Problem> {
    let named = environment
        .get("QUAYMASTER_SOCKET")
        .filter(|path| !path.is_empty());
    let socket = global.socket.clone();
    Ok(Agent {
        socket: socket.unwrap_or_else(|| named.map_or(SOCKET, String::as_str).into()),
        id_token: tokens::id_token(global.id_token_file.as_deref(), environment)?,
        vault_token: tokens::vault_token(global.vault_token_file.as_deref(), environment)?,
    })
}

/// The agent by its admin socket, where who may connect may ask: no token goes there.
fn operators(global: &Global) -> Agent {
    let socket = global.socket.clone();
    Agent {
        socket: socket.unwrap_or_else(|| ADMIN_SOCKET.into()),
        id_token: None,
        vault_token: None,
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Problem> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::new(Code::Internal, format!("starting the client: {error}")))
}
