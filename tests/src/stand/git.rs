//! The Git server: bare repositories behind Git's own programs, over HTTP and over SSH.
//!
//! Started by `servers`. HTTP is `git http-backend` behind a small server of ours ([`http`]), SSH a real sshd
//! that lets a key do nothing but fetch and push. What GitLab adds (accounts, protected branches, its words) is
//! in there and in the hooks of [`repository`]. Both ports are the same inside and outside of the stand, so a
//! URL is good for controllers and for agents. Invariant: nothing is served without an account, and no file of the
//! machine is changed.

pub mod http;
pub mod repository;
mod ssh;

use std::net::Ipv4Addr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use serde::Deserialize;
use serde::Serialize;
use tokio::net::TcpStream;

use super::layout::Site;
use super::process::Server;
use super::token::random_hex;
use crate::wait::until;

/// Longest that one call of Git may take.
const CALL: Duration = Duration::from_secs(60);

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Right {
    /// Fetch and push.
    Write,
    /// Fetch.
    Read,
}

/// An account of the Git server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Account {
    /// Name, for HTTP.
    pub name: String,
    /// Password, for HTTP.
    pub password: String,
    /// File of the private key, for SSH.
    pub key: PathBuf,
    /// What it may do in every repository.
    pub right: Right,
}

impl Account {
    fn new(state: &Path, name: &str, right: Right) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            password: format!("glpat-{}", random_hex(10)?),
            key: folder(state).join(format!("{name}.key")),
            right,
        })
    }
}

/// The accounts of a stand's Git server; made anew for each stand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accounts {
    /// One that may push.
    pub writer: Account,
    /// One that may only fetch.
    pub reader: Account,
}

impl Accounts {
    /// Makes accounts with passwords that nobody knows; their keys are made when the server starts.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn new(state: &Path) -> Result<Self> {
        Ok(Self {
            writer: Account::new(state, "deployer", Right::Write)?,
            reader: Account::new(state, "reader", Right::Read)?,
        })
    }

    const fn all(&self) -> [&Account; 2] {
        [&self.writer, &self.reader]
    }
}

/// Everything of the Git server, in a stand's state folder.
fn folder(state: &Path) -> PathBuf {
    state.join("git")
}

/// Where the bare repositories are.
fn repositories(site: &Site) -> PathBuf {
    folder(&site.dir).join("repositories")
}

/// Address of the server over HTTP, inside and outside.
#[must_use]
pub fn http_address(site: &Site) -> String {
    format!("http://127.0.0.1:{}", site.ports.git)
}

/// Address of the server over SSH, inside and outside.
#[must_use]
pub fn ssh_address(site: &Site) -> String {
    let user = ssh::user(site);
    format!("ssh://{user}@127.0.0.1:{}", site.ports.git_ssh)
}

/// The host key, as a client keeps it.
#[must_use]
pub fn known_hosts(site: &Site) -> PathBuf {
    folder(&site.dir).join("known_hosts")
}

/// Value of `GIT_SSH_COMMAND` by which Git logs in as `account`, and as nobody else.
#[must_use]
pub fn ssh_command(site: &Site, account: &Account) -> String {
    format!(
        "ssh -F none -i {} -o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile={}",
        account.key.display(),
        known_hosts(site).display()
    )
}

/// Starts the server.
///
/// # Errors
/// When a program is missing or does not answer.
pub(super) async fn start(site: &Site) -> Result<Vec<Server>> {
    std::fs::create_dir_all(repositories(site))?;
    if site.isolated {
        // The ports were picked outside: nothing inside may take them for a connection before.
        let ports = format!("{},{}", site.ports.git, site.ports.git_ssh);
        std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", ports)
            .context("keeping the Git server's ports free")?;
    }
    let program = std::env::current_exe().context("finding this program")?;
    let arguments = ["git".to_owned(), site.dir.display().to_string()];
    let mut http = Server::start(site, "git-http", program, &arguments)?;
    let ssh = ssh::start(site).await?;
    let address = (Ipv4Addr::LOCALHOST, site.ports.git);
    until("the Git server", Duration::from_secs(30), async || {
        let probe = TcpStream::connect(address).await;
        http.look(probe.map(drop).context("connecting to the Git server"))
    })
    .await?;
    Ok(vec![http, ssh])
}
