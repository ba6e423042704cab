//! Git over SSH: a real sshd with a configuration, keys and a user of its own.
//!
//! The user `git` and sshd's own `sshd` are in a copy of the machine's list of users, which is mounted over it
//! inside the stand only. Without namespaces sshd runs as, and lets in, the caller alone. Invariant: a key can fetch and
//! push by `git-shell`, and nothing else.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use tokio::net::TcpStream;

use super::Right;
use super::folder;
use super::known_hosts;
use super::repositories;
use crate::stand::layout::Site;
use crate::stand::process;
use crate::stand::process::Server;
use crate::wait::until;

const SHELL: &str = include_str!("../../../stand/git/shell.sh");

/// Name that clients log in with.
pub(super) fn user(site: &Site) -> String {
    if site.isolated {
        return "git".to_owned();
    }
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let own = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&uid.as_str()));
    own.map_or_else(|| "git".to_owned(), |fields| fields[0].to_owned())
}

/// Starts sshd.
///
/// # Errors
/// When it is not installed, a key cannot be made, or it does not answer.
pub(super) async fn start(site: &Site) -> Result<Server> {
    let dir = folder(&site.dir);
    if site.isolated {
        users(site).await?;
    }
    let shell = dir.join("shell");
    fs::write(&shell, SHELL)?;
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o755))?;
    let host = make_key(site, &dir.join("host.key")).await?;
    let known = format!("[127.0.0.1]:{} {host}", site.ports.git_ssh);
    fs::write(known_hosts(site), known)?;
    let mut allowed = String::new();
    for account in site.git.all() {
        let right = match account.right {
            Right::Write => "write",
            Right::Read => "read",
        };
        let key = make_key(site, &account.key).await?;
        let root = repositories(site).display().to_string();
        let command = format!("{} {right} {root}", shell.display());
        allowed.push_str(&format!("restrict,command=\"{command}\" {key}"));
    }
    fs::write(dir.join("authorized_keys"), allowed)?;
    fs::write(dir.join("sshd_config"), config(site, &dir))?;
    let program = process::find("sshd").context("sshd is not installed")?;
    let arguments = ["-D", "-e", "-f"].map(str::to_owned);
    let arguments = [
        &arguments[..],
        &[dir.join("sshd_config").display().to_string()],
    ]
    .concat();
    let mut server = Server::start(site, "git-ssh", program, &arguments)?;
    let address = (Ipv4Addr::LOCALHOST, site.ports.git_ssh);
    until("sshd", Duration::from_secs(30), async || {
        let probe = TcpStream::connect(address).await;
        server.look(probe.map(drop).context("connecting to sshd"))
    })
    .await?;
    Ok(server)
}

fn config(site: &Site, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "ListenAddress 127.0.0.1:{}\nHostKey {dir}/host.key\nAuthorizedKeysFile {dir}/authorized_keys\nPidFile none\n\
         PermitRootLogin forced-commands-only\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         UsePAM no\nStrictModes no\nAcceptEnv GIT_PROTOCOL\nMaxStartups 100\nUseDNS no\nPrintMotd no\n",
        site.ports.git_ssh
    )
}

/// Makes a key unless it is there; returns its public part.
async fn make_key(site: &Site, path: &Path) -> Result<String> {
    if !path.exists() {
        let mut command = process::command(site, "ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", "stand", "-f"]);
        process::run(command.arg(path)).await?;
    }
    let public = path.with_extension("key.pub");
    fs::read_to_string(&public).with_context(|| format!("reading {}", public.display()))
}

/// Gives the inside a user `git`, and `sshd` where the package did not make one; and the folder that sshd wants.
async fn users(site: &Site) -> Result<()> {
    fs::create_dir_all("/run/sshd")?;
    let scratch = site.folder("scratch")?;
    let home = folder(&site.dir).display().to_string();
    let mut list = without(&fs::read_to_string("/etc/passwd")?, "git");
    // Root by another name: the repositories are root's, and only forced commands are let in.
    list.push_str(&format!("git:x:0:0::{home}:/bin/sh\n"));
    if !list.lines().any(|line| line.starts_with("sshd:")) {
        list.push_str("sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n");
    }
    let mut shadow = without(&fs::read_to_string("/etc/shadow")?, "git");
    shadow.push_str("git:*:19000:0:99999:7:::\n");
    for (name, text, mode) in [("passwd", list, 0o644), ("shadow", shadow, 0o600)] {
        let copy = scratch.join(name);
        fs::write(&copy, text)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(mode))?;
        let mut mount = process::command(site, "mount");
        process::run(mount.arg("--bind").arg(&copy).arg(format!("/etc/{name}"))).await?;
    }
    Ok(())
}

/// A list of users without one of this name.
fn without(list: &str, name: &str) -> String {
    let others = list
        .lines()
        .filter(|line| line.split(':').next() != Some(name));
    others.map(|line| format!("{line}\n")).collect()
}
