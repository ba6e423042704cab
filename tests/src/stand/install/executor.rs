//! The executor of `.gitlab-ci.yml` files: gitlab-ci-local, from npm, with what it calls.
//!
//! Called by `Stand::executor` on first use, because only the scenarios with whole pipelines need it. The lock file
//! beside the stand's other ones names every package with its digest. Invariant: what is in the cache is whole; it is
//! made beside and renamed.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use tokio::process::Command;

use super::BUILD;
use super::callers;
use super::folder;
use super::packages;
use super::turn;
use crate::progress::Event;
use crate::stand::layout::Settings;
use crate::stand::process;

const TOOL: &str = "gitlab-ci-local";
/// As `package.json` of the stand's folder has it, and the last one that Node 20 runs.
const VERSION: &str = "4.61.1";
/// The oldest Node that runs it.
const NODE: u32 = 20;

/// How pipelines are executed: this script, by this Node.
#[derive(Clone, Debug)]
pub(crate) struct Executor {
    /// Node's program.
    pub(crate) node: PathBuf,
    /// What it runs.
    pub(crate) script: PathBuf,
}

fn script(settings: &Settings) -> PathBuf {
    folder(settings, TOOL, VERSION).join("node_modules/gitlab-ci-local/src/index.js")
}

/// Gets what is missing of the executor; `tell` hears what happens meanwhile.
///
/// # Errors
/// When Node, npm or rsync is missing, or a package cannot be had.
pub(in crate::stand) async fn ensure(settings: &Settings, tell: fn(&Event)) -> Result<Executor> {
    let node = node().await?;
    let found = Executor {
        node,
        script: script(settings),
    };
    if found.script.is_file() && process::find("rsync").is_some() {
        return Ok(found);
    }
    let _turn = turn(settings, || {}).await?;
    tell(&Event::Step {
        index: 1,
        of: 1,
        what: format!("fetching {TOOL} {VERSION}"),
        seconds_left: 20,
    });
    if process::find("rsync").is_none() {
        ensure!(
            settings.root,
            "rsync is missing, it copies what jobs check out: ask an administrator for `apt-get install rsync`"
        );
        packages(&["rsync"]).await?;
    }
    if !found.script.is_file() {
        fetch(settings).await?;
    }
    Ok(found)
}

/// Finds a Node that is new enough.
async fn node() -> Result<PathBuf> {
    let node = callers("node").with_context(|| {
        format!("node is missing, it runs pipelines: install Node {NODE} or newer with npm")
    })?;
    let said = process::run(Command::new(&node).arg("--version")).await?;
    let major = said.trim().trim_start_matches('v').split('.').next();
    let major = major.and_then(|text| text.parse::<u32>().ok());
    ensure!(
        major.is_some_and(|major| major >= NODE),
        "{} is Node {}, which cannot run pipelines: install Node {NODE} or newer with npm",
        node.display(),
        said.trim()
    );
    Ok(node)
}

async fn fetch(settings: &Settings) -> Result<()> {
    let npm = callers("npm").context("npm is missing, it fetches gitlab-ci-local: install it")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("stand")
        .join(TOOL);
    let dir = folder(settings, TOOL, VERSION);
    let parent = dir.parent().context("the cache has folders")?;
    fs::create_dir_all(parent)?;
    let beside = tempfile::tempdir_in(parent)?;
    for name in ["package.json", "package-lock.json"] {
        fs::copy(source.join(name), beside.path().join(name))?;
    }
    let mut install = Command::new(npm);
    install
        .current_dir(beside.path())
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    process::run_with(&mut install, None, BUILD)
        .await
        .with_context(|| format!("fetching {TOOL} {VERSION} with npm"))?;
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::rename(beside.keep(), &dir).with_context(|| format!("making {}", dir.display()))
}
