//! Namespaces and cgroups: what keeps a stand apart from the machine and makes it vanish whole.
//!
//! The keeper calls [`enclose`]; the process that becomes init of the new namespaces calls [`init`], its child
//! [`furnish`]. When the keeper ends, however it ends, the kernel kills init and with it every process, mount,
//! bridge and address of the stand. Only cgroups and the state folder remain, which the guard removes.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command as StdCommand;
use std::process::Stdio;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use rustix::process::Pid;
use rustix::process::WaitOptions;
use tokio::process::Child;
use tokio::process::Command;

use super::layout::Site;
use super::process;
use super::process::PATH;

/// Kernel settings that the kubelet insists on. They are the whole machine's, so the kubelet gets to see files
/// of the stand in their place and has nothing to change.
const TUNABLES: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1\n"),
    ("vm/panic_on_oom", "0\n"),
    ("kernel/panic", "10\n"),
    ("kernel/panic_on_oops", "1\n"),
    ("kernel/keys/root_maxkeys", "1000000\n"),
    ("kernel/keys/root_maxbytes", "25000000\n"),
];

/// Starts `PROGRAM inner STATE` as init of new namespaces. Its standard input is its life line: when that
/// closes, or this process ends, everything inside is killed.
///
/// # Errors
/// When namespaces cannot be made.
pub fn enclose(program: &Path, site: &Site) -> Result<Child> {
    Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "--",
            "unshare",
            "--pid",
            "--mount",
            "--net",
            "--fork",
        ])
        .args(["--kill-child=KILL", "--mount-proc", "--"])
        .arg(program)
        .arg("inner")
        .arg(&site.dir)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(
            fs::File::options()
                .create(true)
                .append(true)
                .open(site.folder("logs")?.join("inner.log"))?,
        )
        .kill_on_drop(true)
        .spawn()
        .context("making namespaces for the stand (unshare of util-linux)")
}

/// The process that `unshare` started, as seen from outside.
///
/// # Errors
/// When there is none (any more).
pub fn init_of(unshare: u32) -> Result<u32> {
    for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // After the name, which may hold anything, in parentheses: state, parent.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent.and_then(|text| text.parse().ok()) == Some(unshare) {
            return Ok(pid);
        }
    }
    bail!("the stand's first process ended before it was seen")
}

/// Is init: starts `PROGRAM servers STATE` and reaps what dies, until that one ends.
///
/// # Errors
/// When the process cannot be started.
pub fn init(program: &Path, state: &Path) -> Result<()> {
    let child = StdCommand::new(program)
        .arg("servers")
        .arg(state)
        .spawn()
        .context("starting the servers")?;
    let child = Pid::from_child(&child);
    while let Some((ended, _)) = rustix::process::wait(WaitOptions::empty())? {
        if ended == child {
            break;
        }
    }
    Ok(())
}

/// Makes the inside fit to live in: loopback up, `/run` and `/var` private, kernel settings out of reach.
///
/// # Errors
/// When a mount is refused.
pub async fn furnish(site: &Site) -> Result<()> {
    run(site, "ip", &["link", "set", "lo", "up"]).await?;
    let scratch = site.folder("scratch")?.display().to_string();
    run(
        site,
        "mount",
        &["-t", "tmpfs", "-o", "mode=0755", "tmpfs", &scratch],
    )
    .await?;
    let (upper, work) = (format!("{scratch}/var"), format!("{scratch}/work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    // The stand reads the machine's /var and keeps what it writes to itself.
    let options = format!("lowerdir=/var,upperdir={upper},workdir={work}");
    run(
        site,
        "mount",
        &["-t", "overlay", "-o", &options, "overlay", "/var"],
    )
    .await?;
    run(
        site,
        "mount",
        &["-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"],
    )
    .await?;
    for (name, value) in TUNABLES {
        let real = Path::new("/proc/sys").join(name);
        if !real.exists() {
            continue;
        }
        let shown = PathBuf::from(&scratch).join(name.replace('/', "."));
        fs::write(&shown, value)?;
        run(
            site,
            "mount",
            &[
                "--bind",
                &shown.display().to_string(),
                &real.display().to_string(),
            ],
        )
        .await?;
    }
    Ok(())
}

async fn run(site: &Site, program: &str, words: &[&str]) -> Result<()> {
    process::run(process::command(site, program).args(words))
        .await
        .map(drop)
}

/// A command that runs inside the stand whose init is `pid`, and ends with it.
#[must_use]
pub fn inside<S: AsRef<OsStr>>(pid: u32, site: &Site, program: S) -> Command {
    let mut command = process::command(site, "nsenter");
    command
        .args([
            "--target",
            &pid.to_string(),
            "--mount",
            "--pid",
            "--net",
            "--",
        ])
        .arg(program);
    command
}

/// Mount points of cgroup controllers: one with version 2, several with version 1.
fn controllers() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of_kind = |kind: &str| {
        let points = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        points
            .filter(|words| words.get(2) == Some(&kind))
            .map(|words| PathBuf::from(words[1]))
            .collect::<Vec<_>>()
    };
    let mut found = of_kind("cgroup");
    found.extend(of_kind("cgroup2"));
    found
}

/// Makes the stand's cgroup below every controller.
///
/// # Errors
/// When the kernel refuses.
pub fn make_cgroups(cgroup: &str) -> Result<()> {
    for controller in controllers() {
        let dir = controller.join(cgroup.trim_start_matches('/'));
        fs::create_dir_all(&dir).with_context(|| format!("making the cgroup {}", dir.display()))?;
        // Version 1: a new cpuset has no processor and no memory, and so takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (controller.join(file), dir.join(file));
            if let (Ok(value), true) = (fs::read(&from), to.exists()) {
                drop(fs::write(to, value));
            }
        }
    }
    Ok(())
}

/// Removes the stand's cgroups; fails while processes are in them.
///
/// # Errors
/// When one is still used.
pub fn remove_cgroups(cgroup: &str) -> Result<()> {
    for controller in controllers() {
        remove_tree(&controller.join(cgroup.trim_start_matches('/')))?;
    }
    Ok(())
}

/// A cgroup goes by `rmdir` alone, the innermost first; its files cannot be unlinked.
fn remove_tree(dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(dir).with_context(|| format!("removing the cgroup {}", dir.display()))
}
