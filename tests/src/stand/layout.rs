//! Where things are: versions, settings from the environment, folders, ports, and the description file.
//!
//! Used by every other file of the stand. [`Settings`] is read once, from the environment; [`Site`] is what
//! servers are started from; [`Facts`] is what others find in `stand.json`. Invariant: nothing here starts,
//! stops or changes anything but folders.

use std::collections::BTreeMap;
use std::fs;
use std::fs::DirBuilder;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use serde::Deserialize;
use serde::Serialize;

use super::git::Accounts;

/// Audience of the tokens that jobs get for the agent.
pub const AUDIENCE: &str = "https://quaymaster.example";
/// Network of the pods; the node has its first address. Only seen inside the stand's network namespace.
pub const POD_NETWORK: &str = "10.88.0.0/16";
/// Address of the node, and of PostgreSQL as pods see it.
pub const NODE_ADDRESS: &str = "10.88.0.1";
/// Name of the real node.
pub const NODE_NAME: &str = "node-1";

/// What can be set from outside.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Built binaries and images, shared by all stands of this user.
    pub cache: PathBuf,
    /// Folder of ready binaries that are taken instead of built ones.
    pub assets: Option<PathBuf>,
    /// Cluster to use instead of an own one: a kubeconfig with all rights.
    pub kubeconfig: Option<PathBuf>,
    /// OpenBao or Vault to use instead of an own one: address and a token with all rights.
    pub vault: Option<(String, String)>,
    /// Parent of the state folders.
    pub base: PathBuf,
    /// Name of the stand that tests attach to instead of starting one.
    pub attach: Option<String>,
    /// Whether namespaces, and so a real node, can be had.
    pub root: bool,
}

impl Settings {
    /// Reads the settings from this process's environment.
    ///
    /// # Errors
    /// When neither a cache folder nor a home is known.
    pub fn read() -> Result<Self> {
        let path = |name: &str| env(name).map(PathBuf::from);
        let cache = path("QUAYMASTER_STAND_CACHE")
            .or_else(|| path("XDG_CACHE_HOME").map(|dir| dir.join("quaymaster/stand")))
            .or_else(|| path("HOME").map(|dir| dir.join(".cache/quaymaster/stand")))
            .context("neither QUAYMASTER_STAND_CACHE nor HOME is set; set one, it is where built binaries go")?;
        let root = rustix::process::geteuid().is_root();
        // Root's stand hides /run from its servers, so its state is never there.
        let runtime = if root { None } else { path("XDG_RUNTIME_DIR") };
        let user = rustix::process::geteuid().as_raw();
        let base = runtime
            .unwrap_or_else(|| PathBuf::from("/tmp"))
            .join(format!("quaymaster-stand-{user}"));
        let vault = env("QUAYMASTER_STAND_VAULT_ADDR").zip(env("QUAYMASTER_STAND_VAULT_TOKEN"));
        Ok(Self {
            cache,
            assets: path("QUAYMASTER_STAND_ASSETS"),
            kubeconfig: path("QUAYMASTER_STAND_KUBECONFIG"),
            vault,
            base,
            attach: env("QUAYMASTER_STAND"),
            root,
        })
    }

    /// State folder of the stand called `name`.
    #[must_use]
    pub fn state(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// Makes the parent of the state folders, or refuses one that another user could write to.
    ///
    /// # Errors
    /// When it cannot be made, or is not ours alone.
    pub fn make_base(&self) -> Result<()> {
        if let Err(error) = DirBuilder::new().mode(0o700).create(&self.base)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(error).with_context(|| format!("making {}", self.base.display()));
        }
        let meta = fs::symlink_metadata(&self.base)?;
        ensure!(
            meta.is_dir()
                && meta.uid() == rustix::process::geteuid().as_raw()
                && meta.mode() & 0o077 == 0,
            "{} is not a folder of yours alone; remove it and start again",
            self.base.display()
        );
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the stand reads its environment"
)]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Checks the name of a stand: it becomes part of paths and of a cgroup's name.
///
/// # Errors
/// When it has other characters than small letters, digits and `-`, or is longer than 24.
pub fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !name.is_empty() && name.len() <= 24 && name.chars().all(fine),
        "a stand's name has 1 to 24 small letters, digits and '-'"
    );
    Ok(())
}

/// Ports of the servers. Inside a network namespace they are the same in every stand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ports {
    /// Kubernetes API.
    pub api: u16,
    /// etcd, clients.
    pub etcd: u16,
    /// etcd, its own kind.
    pub etcd_peer: u16,
    /// Health of the controller manager.
    pub controllers: u16,
    /// Health of the scheduler.
    pub scheduler: u16,
    /// OpenBao.
    pub vault: u16,
    /// OpenBao, its own kind.
    pub vault_cluster: u16,
    /// PostgreSQL.
    pub postgres: u16,
    /// Registry.
    pub registry: u16,
    /// kwok.
    pub kwok: u16,
    /// Git over HTTP; the same outside.
    pub git: u16,
    /// Git over SSH; the same outside.
    pub git_ssh: u16,
    /// Artifacts of the stand-in for Flux's source controller.
    pub source: u16,
    /// Health of Flux's kustomize controller.
    pub kustomize: u16,
    /// Health of Flux's helm controller.
    pub helm: u16,
}

impl Ports {
    /// The well-known ones, for a network namespace; but those of `git` (HTTP, SSH), which are the same outside.
    #[must_use]
    pub const fn fixed(git: [u16; 2]) -> Self {
        Self {
            api: 6443,
            etcd: 2379,
            etcd_peer: 2380,
            controllers: 10257,
            scheduler: 10259,
            vault: 8200,
            vault_cluster: 8201,
            postgres: 5432,
            registry: 5000,
            kwok: 10247,
            git: git[0],
            git_ssh: git[1],
            source: 9790,
            kustomize: 9440,
            helm: 9441,
        }
    }

    /// Free ones on loopback, for a stand without a network of its own.
    ///
    /// # Errors
    /// When loopback has none left.
    pub fn free() -> Result<Self> {
        // All are held until the last is known, so that no two are the same.
        let held = (0..15)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<std::io::Result<Vec<_>>>()
            .context("finding free ports on loopback")?;
        let port = |i: usize| Ok::<_, anyhow::Error>(held[i].local_addr()?.port());
        Ok(Self {
            api: port(0)?,
            etcd: port(1)?,
            etcd_peer: port(2)?,
            controllers: port(3)?,
            scheduler: port(4)?,
            vault: port(5)?,
            vault_cluster: port(6)?,
            postgres: port(7)?,
            registry: port(8)?,
            kwok: port(9)?,
            git: port(10)?,
            git_ssh: port(11)?,
            source: port(12)?,
            kustomize: port(13)?,
            helm: port(14)?,
        })
    }
}

/// Everything that the servers of one stand are started from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Site {
    /// Name of the stand.
    pub name: String,
    /// State folder.
    pub dir: PathBuf,
    /// Cache of binaries and images.
    pub cache: PathBuf,
    /// Programs that were built or fetched, by name.
    pub programs: BTreeMap<String, PathBuf>,
    /// Where servers listen.
    pub ports: Ports,
    /// Namespaces, and a real node in them.
    pub isolated: bool,
    /// Address of the issuer, as tokens name it.
    pub issuer: String,
    /// Public key of the issuer, PEM.
    pub issuer_key: String,
    /// Whether to start an own cluster.
    pub own_cluster: bool,
    /// Whether to start an own OpenBao.
    pub own_vault: bool,
    /// Accounts of the Git server.
    pub git: Accounts,
}

impl Site {
    /// Path of a program that was built or fetched, or its bare name, to be found in `PATH`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs
            .get(name)
            .cloned()
            .unwrap_or_else(|| PathBuf::from(name))
    }

    /// A folder inside the state folder, made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    /// Root of the stand's cgroups, below each controller.
    #[must_use]
    pub fn cgroup(&self) -> String {
        cgroup(&self.name)
    }

    /// Address that PostgreSQL has for pods, or for anyone when there is no node.
    #[must_use]
    pub const fn pod_side_address(&self) -> &'static str {
        if self.isolated {
            NODE_ADDRESS
        } else {
            "127.0.0.1"
        }
    }
}

/// Root of the cgroups of the stand called `name`.
#[must_use]
pub fn cgroup(name: &str) -> String {
    format!("/quaymaster-stand-{name}")
}

/// What `stand.json` says about a running stand. Addresses are those for programs outside of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// What the servers were started from.
    pub site: Site,
    /// Process that owns the stand.
    pub keeper: u32,
    /// First process of the namespaces, as seen from outside.
    pub inner: Option<u32>,
    /// Kubeconfig with all rights.
    pub kubeconfig_admin: PathBuf,
    /// Kubeconfig of the agent's own identity.
    pub kubeconfig_agent: PathBuf,
    /// The same, with the address inside the stand.
    pub kubeconfig_inside: PathBuf,
    /// Kubernetes API.
    pub api: String,
    /// OpenBao.
    pub vault_addr: String,
    /// Token with all rights.
    pub vault_root_token: String,
    /// Key that unseals OpenBao; empty for one that is not ours.
    pub vault_unseal_key: String,
    /// GitLab stand-in.
    pub issuer: String,
    /// Registry, as names of images have it.
    pub registry: String,
    /// Registry, as programs outside reach it.
    pub registry_addr: String,
    /// PostgreSQL as programs outside reach it, `host:port`.
    pub postgres: String,
    /// PostgreSQL as pods reach it, `host:port`.
    pub postgres_for_pods: String,
    /// Git server over HTTP, for programs inside and outside.
    pub git: String,
    /// Git server over SSH, for programs inside and outside.
    pub git_ssh: String,
    /// The host key of the Git server, a file for `UserKnownHostsFile`.
    pub git_known_hosts: PathBuf,
    /// Accounts of the Git server.
    pub git_accounts: Accounts,
    /// Whether containers really run.
    pub has_node: bool,
    /// Seconds that the start took.
    pub started_in: f64,
}

impl Facts {
    /// Reads the description of a stand.
    ///
    /// # Errors
    /// When there is none, or it is of another version of this program.
    pub fn read(state: &Path) -> Result<Self> {
        let path = state.join("stand.json");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is of another version; `stand down` and start again",
                path.display()
            )
        })
    }

    /// Writes the description, whole or not at all.
    ///
    /// # Errors
    /// When the state folder cannot be written to.
    pub fn write(&self, state: &Path) -> Result<()> {
        write_whole(
            &state.join("stand.json"),
            serde_json::to_string_pretty(self)?.as_bytes(),
        )
    }
}

/// Writes a file so that a reader sees all of it or nothing.
///
/// # Errors
/// When it cannot be written.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, content).with_context(|| format!("writing {}", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("writing {}", path.display()))
}
