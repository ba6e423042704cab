//! The sections of the configuration as values.
//!
//! Filled by [`super`]; what unset means is said at each field. Safe to print: no field is a secret.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use deploy::bundle;
use proto::ids::Namespace;

use super::Identity;
use super::MINUTE;
use super::SECOND;

/// Where the sockets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    /// For jobs.
    pub jobs: PathBuf,
    /// The mode of the jobs socket; its folder decides which jobs see it.
    pub jobs_mode: u32,
    /// For the operator, always 0600.
    pub admin: PathBuf,
}

/// Sizes and times at the sockets; the defaults are the contract's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections per socket.
    pub connections: usize,
    /// Connections per peer process.
    pub connections_per_process: usize,
    /// Headers in a request.
    pub headers: usize,
    /// Bytes of all headers of a request.
    pub header_bytes: usize,
    /// Time for a head.
    pub header_time: Duration,
    /// Time for a body.
    pub body_time: Duration,
    /// Time without a request.
    pub idle_time: Duration,
    /// Sizes of a bundle.
    pub bundle: bundle::Limits,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_per_process: 64,
            headers: 100,
            header_bytes: 32 << 10,
            header_time: 5 * SECOND,
            body_time: MINUTE,
            idle_time: MINUTE,
            bundle: bundle::Limits::default(),
        }
    }
}

/// Bounds of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLimits {
    /// So many are on at a time at most.
    pub runs: usize,
    /// How long nobody may follow a run whose spec says what it then becomes.
    pub disconnect_grace: Duration,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            runs: 64,
            disconnect_grace: 15 * SECOND,
        }
    }
}

/// Who signs id_tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The `iss` claim, byte by byte; discovery starts here.
    pub url: String,
    /// The `aud` claim.
    pub audience: String,
    /// Audiences that a token may name beside ours.
    pub extra_audiences: Vec<String>,
    /// The oldest token that is taken, by its `iat`.
    pub max_age: Duration,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// A JWKS file that is used instead of asking the issuer.
    pub pinned_jwks: Option<PathBuf>,
    /// The issuer's CA; unset is the system's.
    pub ca_file: Option<PathBuf>,
}

/// GitLab's interface, for commit statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitLabApi {
    /// Where GitLab is.
    pub url: String,
    /// Holds the token.
    pub token_file: PathBuf,
    /// Its CA; unset is the system's.
    pub ca_file: Option<PathBuf>,
}

/// Vault or OpenBao.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vault {
    /// Its URL.
    pub address: String,
    /// Its CA; unset is the system's.
    pub ca_file: Option<PathBuf>,
    /// The mount of the JWT auth method.
    pub jwt_mount: String,
    /// The namespace; unset is the root.
    pub namespace: Option<String>,
    /// The time of one call.
    pub timeout: Duration,
    /// Auth mounts whose metadata says who holds a passed token; none: passed tokens are no identity.
    pub trusted_mounts: Vec<String>,
    /// The agent's own login; unset: credentials that outlive a run are refused.
    pub identity: Option<Identity>,
}

/// Programs that render; unset: runs that need one are refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Render {
    /// Helm 4.
    pub helm: Option<PathBuf>,
    /// kubectl, for kustomize.
    pub kubectl: Option<PathBuf>,
    /// PEM roots that servers of charts may have beside the machine's; unset: none.
    pub charts_ca_file: Option<PathBuf>,
}

/// Git and what it needs; unset: runs with `flux` are refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitPrograms {
    /// git.
    pub program: Option<PathBuf>,
    /// The folder with `ssh`, `ssh-agent` and `ssh-add`, for addresses that begin with `ssh://`.
    pub ssh_folder: Option<PathBuf>,
    /// PEM roots that Git servers may have beside the machine's; unset: none.
    pub ca_file: Option<PathBuf>,
}

/// How image registries are reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryAddresses {
    /// PEM roots that they may have beside the machine's; unset: none.
    pub ca_file: Option<PathBuf>,
    /// Where those are that are not at https and their own name, by this name.
    pub addresses: BTreeMap<String, String>,
}

/// How Secrets are kept fresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The agents' own namespace in every cluster.
    pub namespace: Namespace,
    /// How soon a new version in Vault is to be in its Secret.
    pub freshness: Duration,
    /// At most so many requests a second for versions, where each secret is asked by itself.
    pub requests_per_second: usize,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The agent's own kubeconfig.
    pub kubeconfig: PathBuf,
    /// The context; unset is the file's current one.
    pub context: Option<String>,
    /// The time of one call.
    pub timeout: Duration,
}
