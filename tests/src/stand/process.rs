//! Running programs: servers that live as long as the stand, and commands that are waited for.
//!
//! Used by every file that starts something. Invariant: no server outlives its stand. In namespaces the
//! kernel sees to that; without, each server asks to be killed with the process that started it.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::process::Command;

use super::layout::Site;
use crate::wait::Look;

/// Folders that servers and tools are found in, whatever the caller's `PATH` is.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest that a command may take which is not known to take longer.
const COMMAND: Duration = Duration::from_secs(120);

/// A server of the stand.
pub struct Server {
    name: String,
    log: PathBuf,
    arguments: Vec<String>,
    child: Child,
}

impl Server {
    /// Starts `program` with `arguments`; what it says goes to its log.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start<S: AsRef<OsStr>>(
        site: &Site,
        name: &str,
        program: S,
        arguments: &[String],
    ) -> Result<Self> {
        let mut words = vec![program.as_ref().to_string_lossy().into_owned()];
        words.extend_from_slice(arguments);
        let log = site.folder("logs")?.join(format!("{name}.log"));
        let child = spawn(site, name, &log, &words)?;
        Ok(Self {
            name: name.to_owned(),
            log,
            arguments: words,
            child,
        })
    }

    /// Starts the server again after it ended.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn again(&mut self, site: &Site) -> Result<()> {
        self.child = spawn(site, &self.name, &self.log, &self.arguments)?;
        Ok(())
    }

    /// Name of the server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the server ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until the server ends.
    pub async fn end(&mut self) {
        drop(self.child.wait().await);
    }

    /// What waiting for this server sees: hopeless when it ended, otherwise what `probe` says.
    pub fn look<T>(&mut self, probe: Result<T>) -> Look<T> {
        match self.ended() {
            Some(status) => Look::Hopeless(anyhow!(
                "{} ended with {status}; its last words:\n{}",
                self.name,
                tail(&self.log, 15)
            )),
            None => probe.into(),
        }
    }
}

fn spawn(site: &Site, name: &str, log: &Path, words: &[String]) -> Result<Child> {
    let out = File::options().create(true).append(true).open(log)?;
    let mut command = if site.isolated {
        Command::new(&words[0])
    } else {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&words[0]);
        command
    };
    let child = dress(&mut command, site)
        .args(&words[1..])
        .current_dir(&site.dir)
        .stdin(Stdio::null())
        .stderr(out.try_clone()?)
        .stdout(out)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {name} ({})", words[0]))?;
    if let Some(pid) = child.id() {
        fs::write(site.folder("pids")?.join(name), pid.to_string())?;
    }
    Ok(child)
}

/// Gives a command the environment of the stand's programs, and nothing of the caller's.
fn dress<'c>(command: &'c mut Command, site: &Site) -> &'c mut Command {
    command
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", &site.dir)
        .env("TMPDIR", site.dir.join("tmp"))
        .env("LANG", "C.UTF-8")
}

/// A command in the stand's environment, still to be given arguments.
#[must_use]
pub fn command<S: AsRef<OsStr>>(site: &Site, program: S) -> Command {
    let mut command = Command::new(program);
    dress(&mut command, site);
    command
}

/// Runs a command and returns what it printed.
///
/// # Errors
/// When it cannot be started, takes too long or fails; with the end of what it said.
pub async fn run(command: &mut Command) -> Result<String> {
    run_with(command, None, COMMAND).await
}

/// Runs a command with `input`, at most `within`, and returns what it printed.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    command: &mut Command,
    input: Option<&[u8]>,
    within: Duration,
) -> Result<String> {
    let program = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let pipe = child.stdin.take();
    let feed = async {
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            // A program that ends early says why itself.
            drop(pipe.write_all(input).await);
        }
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(within, both)
        .await
        .with_context(|| format!("{program} took longer than {within:?}"))??;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = if said.trim().is_empty() {
        String::from_utf8_lossy(&output.stdout)
    } else {
        said
    };
    let how = match output.status.signal() {
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("failed with {}", output.status.code().unwrap_or(-1)),
    };
    bail!("{program} {how}: {}", last_lines(said.trim(), 12))
}

/// Last lines of a log.
#[must_use]
pub fn tail(log: &Path, lines: usize) -> String {
    last_lines(&fs::read_to_string(log).unwrap_or_default(), lines).to_owned()
}

fn last_lines(text: &str, lines: usize) -> &str {
    let start = text
        .rmatch_indices('\n')
        .nth(lines)
        .map_or(0, |(i, _)| i + 1);
    &text[start..]
}

/// Path of a program in [`PATH`], if it is installed.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    PATH.split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}
