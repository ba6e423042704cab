//! The configuration: typed values from a TOML text and `QUAYMASTER_*` pairs that are passed in.
//!
//! Read once by `main`. The environment wins over the file. All problems are told at once, each with
//! its key and what is expected; a value is never repeated. `dist/quaymaster.toml` documents every
//! key, and a test keeps it so.

mod environment;
mod identity;
mod reader;
mod sections;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use deploy::bundle;
use proto::ids::ClusterName;
use proto::ids::Namespace;
use tracing_subscriber::filter::Targets;

pub use self::environment::Environment;
pub use self::identity::Identity;
pub use self::identity::Method;
pub use self::identity::RoleId;
pub use self::reader::Problem;
use self::reader::Reader;
pub use self::reader::digits;
pub use self::reader::duration;
pub use self::sections::Cluster;
pub use self::sections::GitLabApi;
pub use self::sections::GitPrograms;
pub use self::sections::HttpLimits;
pub use self::sections::Issuer;
pub use self::sections::RegistryAddresses;
pub use self::sections::Render;
pub use self::sections::Rotation;
pub use self::sections::RunLimits;
pub use self::sections::Sockets;
pub use self::sections::Vault;
use crate::telemetry::Format;
use crate::telemetry::Logging;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Everything that an operator can set.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The policy's file.
    pub policy: PathBuf,
    /// The folder of the journal.
    pub state_dir: PathBuf,
    /// How long running runs may go on after the first signal.
    pub drain_timeout: Duration,
    /// Logging.
    pub log: Logging,
    /// Where the sockets are.
    pub socket: Sockets,
    /// Sizes and times at the sockets.
    pub limits: HttpLimits,
    /// How many runs are on at a time, and how long nobody may follow one.
    pub runs: RunLimits,
    /// Who signs id_tokens.
    pub issuer: Issuer,
    /// GitLab's interface for commit statuses; unset: none are posted.
    pub gitlab: Option<GitLabApi>,
    /// Vault or OpenBao.
    pub vault: Vault,
    /// Programs that render.
    pub render: Render,
    /// Git, for deploys through Flux.
    pub git: GitPrograms,
    /// How image registries are reached.
    pub registries: RegistryAddresses,
    /// Secrets that are kept fresh; unset: none are.
    pub rotation: Option<Rotation>,
    /// Clusters by the name that specs and rules use.
    pub clusters: BTreeMap<ClusterName, Cluster>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Each with key and expectation.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} problems", self.problems.len())?;
        self.problems
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a configuration from the text of the file and the environment.
    ///
    /// # Errors
    /// All problems at once.
    pub fn read(text: &str, environment: Environment) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(text);
        environment.put_into(&mut reader);
        let config = read(&mut reader);
        let problems = reader.finish();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            Some(_) | None => Err(ConfigError { problems }),
        }
    }
}

/// Reads every section before giving up, so that every problem is found.
fn read(reader: &mut Reader) -> Option<Config> {
    let policy = reader.path("policy");
    let policy = reader.require("policy", "the absolute path of the policy file", policy);
    let state_dir = reader.path("state_dir");
    let state_dir = reader.require(
        "state_dir",
        "the absolute path of a private folder",
        state_dir,
    );
    let drain_timeout = reader.duration("drain_timeout", 5 * MINUTE, Duration::ZERO..=24 * HOUR);
    let log = logging(reader);
    let socket = sockets(reader);
    let limits = limits(reader);
    let runs = run_limits(reader);
    let issuer = issuer(reader);
    let gitlab = gitlab(reader, issuer.as_ref());
    let vault = vault(reader);
    let render = Render {
        helm: reader.path("render.helm"),
        kubectl: reader.path("render.kubectl"),
        charts_ca_file: reader.path("render.charts_ca_file"),
    };
    let git = GitPrograms {
        program: reader.path("git.program"),
        ssh_folder: reader.path("git.ssh_folder"),
        ca_file: reader.path("git.ca_file"),
    };
    let registries = RegistryAddresses {
        ca_file: reader.path("registries.ca_file"),
        addresses: addresses(reader),
    };
    let identified = vault.as_ref().is_some_and(|vault| vault.identity.is_some());
    let rotation = rotation(reader, identified);
    let clusters = clusters(reader);
    Some(Config {
        policy: policy?,
        state_dir: state_dir?,
        drain_timeout,
        log,
        socket: socket?,
        limits,
        runs,
        issuer: issuer?,
        gitlab: gitlab?,
        vault: vault?,
        render,
        git,
        registries,
        rotation,
        clusters: clusters?,
    })
}

fn run_limits(reader: &mut Reader) -> RunLimits {
    let default = RunLimits::default();
    RunLimits {
        runs: reader.count("limits.runs", default.runs, 1..=10_000),
        disconnect_grace: reader.duration(
            "disconnect_grace",
            default.disconnect_grace,
            SECOND..=HOUR,
        ),
    }
}

fn logging(reader: &mut Reader) -> Logging {
    let format = reader.take("log.format", "`json` or `text`", |value| {
        match value.as_str()? {
            "json" => Some(Format::Json),
            "text" => Some(Format::Text),
            _ => None,
        }
    });
    let expected = "a level (`info`), or levels by target (`info,agent=debug`)";
    let level = reader.take("log.level", expected, |value| {
        value.as_str()?.parse::<Targets>().ok()
    });
    let default = Logging::default();
    Logging {
        format: format.unwrap_or(default.format),
        level: level.unwrap_or(default.level),
    }
}

fn sockets(reader: &mut Reader) -> Option<Sockets> {
    let folder = reader.path("socket.jobs_dir");
    let file = reader.path("socket.jobs");
    if folder.is_some() && file.is_some() {
        reader.problem(
            "socket.jobs_dir",
            "expected either this or socket.jobs, not both",
        );
    }
    let jobs = file.or_else(|| folder.map(|folder| folder.join("quaymaster.sock")));
    let jobs = reader.require("socket.jobs", "the absolute path of the jobs socket", jobs);
    let admin = reader.path("socket.admin");
    let admin = reader.require(
        "socket.admin",
        "the absolute path of the admin socket",
        admin,
    );
    let mode = reader.take(
        "socket.jobs_mode",
        "an octal mode such as \"0666\"",
        |value| {
            let mode = u32::from_str_radix(value.as_str()?, 8).ok()?;
            (mode <= 0o777 && mode & 0o600 == 0o600).then_some(mode)
        },
    );
    if jobs.is_some() && jobs == admin {
        reader.problem(
            "socket.admin",
            "expected another path than that of the jobs socket",
        );
    }
    Some(Sockets {
        jobs: jobs?,
        jobs_mode: mode.unwrap_or(0o666),
        admin: admin?,
    })
}

fn limits(reader: &mut Reader) -> HttpLimits {
    let default = HttpLimits::default();
    let bundle = default.bundle;
    let time = SECOND..=HOUR;
    HttpLimits {
        connections: reader.count("limits.connections", default.connections, 1..=65_536),
        connections_per_process: reader.count(
            "limits.connections_per_process",
            default.connections_per_process,
            1..=65_536,
        ),
        headers: reader.count("limits.headers", default.headers, 10..=1_000),
        header_bytes: reader.count("limits.header_bytes", default.header_bytes, 8_192..=1 << 20),
        header_time: reader.duration("limits.header_time", default.header_time, time.clone()),
        body_time: reader.duration("limits.body_time", default.body_time, time.clone()),
        idle_time: reader.duration("limits.idle_time", default.idle_time, time),
        bundle: bundle::Limits {
            total: reader.number("limits.bundle_bytes", bundle.total, 10_240..=1 << 30),
            entries: reader.count("limits.bundle_entries", bundle.entries, 1..=100_000),
            file: reader.number("limits.bundle_file_bytes", bundle.file, 1_024..=1 << 30),
            ..bundle
        },
    }
}

const URL: &str = "a URL such as https://vault.example.com, without user and query";

/// Checks that a text is the URL of a server; `http` is for servers beside the agent and tests.
fn url(reader: &mut Reader, key: &str) -> Option<String> {
    let got = optional_url(reader, key);
    reader.require(key, URL, got)
}

fn optional_url(reader: &mut Reader, key: &str) -> Option<String> {
    reader.take(key, URL, |value| {
        let text = value.as_str()?;
        let uri: http::Uri = text.parse().ok()?;
        let scheme = matches!(uri.scheme_str(), Some("https" | "http"));
        let host = uri.host().is_some_and(|host| !host.is_empty());
        let plain = !text.contains(['@', '?', '#']) && !text.contains(char::is_whitespace);
        (scheme && host && plain).then(|| text.to_owned())
    })
}

/// Reads `[gitlab]`: `Some(None)` where it has no key, `None` where it is not usable.
fn gitlab(reader: &mut Reader, issuer: Option<&Issuer>) -> Option<Option<GitLabApi>> {
    let url = optional_url(reader, "gitlab.url");
    let token_file = reader.path("gitlab.token_file");
    let ca_file = reader.path("gitlab.ca_file");
    if url.is_none() && token_file.is_none() && ca_file.is_none() {
        return Some(None);
    }
    let expected = "the absolute path of a file with an access token of GitLab";
    let token_file = reader.require("gitlab.token_file", expected, token_file);
    Some(Some(GitLabApi {
        // Without an issuer nothing is configured at all.
        ca_file: ca_file.or_else(|| issuer.filter(|_| url.is_none())?.ca_file.clone()),
        url: url.or_else(|| issuer.map(|issuer| issuer.url.clone()))?,
        token_file: token_file?,
    }))
}

fn issuer(reader: &mut Reader) -> Option<Issuer> {
    let url = url(reader, "issuer.url");
    let audience = reader.text(
        "issuer.audience",
        "the audience that jobs put into id_tokens",
    );
    let expected = "the audience that jobs put into id_tokens";
    let audience = reader.require("issuer.audience", expected, audience);
    let extra_audiences = reader.list("issuer.extra_audiences");
    let max_age = reader.duration("issuer.max_age", HOUR, SECOND..=24 * HOUR);
    let leeway = reader.duration("issuer.leeway", 30 * SECOND, Duration::ZERO..=5 * MINUTE);
    let pinned_jwks = reader.path("issuer.pinned_jwks");
    let ca_file = reader.path("issuer.ca_file");
    Some(Issuer {
        url: url?,
        audience: audience?,
        extra_audiences,
        max_age,
        leeway,
        pinned_jwks,
        ca_file,
    })
}

fn vault(reader: &mut Reader) -> Option<Vault> {
    let address = url(reader, "vault.address");
    let ca_file = reader.path("vault.ca_file");
    let jwt_mount = reader.text("vault.jwt_mount", "the mount of the JWT auth method");
    let namespace = reader.text("vault.namespace", "the name of a namespace");
    let timeout = reader.duration("vault.timeout", 10 * SECOND, SECOND..=5 * MINUTE);
    let trusted_mounts = reader.list("vault.trusted_mounts");
    let identity = identity::identity(reader);
    Some(Vault {
        address: address?,
        ca_file,
        jwt_mount: jwt_mount.unwrap_or_else(|| "jwt".to_owned()),
        namespace,
        timeout,
        trusted_mounts,
        identity: identity?,
    })
}

/// Reads where registries are that are not at https and their own name.
fn addresses(reader: &mut Reader) -> BTreeMap<String, String> {
    let key = "registries.addresses";
    let mut addresses = BTreeMap::new();
    for (name, value) in reader.take_values_below(key) {
        let address = value.as_str().filter(|text| {
            let uri = text.parse::<http::Uri>().ok();
            uri.is_some_and(|uri| {
                let scheme = matches!(uri.scheme_str(), Some("https" | "http"));
                let plain = !text.contains(['@', '?', '#']) && !text.ends_with('/');
                scheme
                    && plain
                    && uri.path() == "/"
                    && uri.host().is_some_and(|host| !host.is_empty())
            })
        });
        match address {
            Some(address) => drop(addresses.insert(name, address.to_owned())),
            None => reader.problem(
                format!("{key}.{name}"),
                "expected where the registry is, such as http://registry.internal:5000, without a path",
            ),
        }
    }
    addresses
}

fn rotation(reader: &mut Reader, identified: bool) -> Option<Rotation> {
    let expected = "the namespace that the agents share in every cluster";
    let namespace = reader.take("rotation.namespace", expected, |value| {
        value.as_str()?.parse::<Namespace>().ok()
    });
    let freshness = reader.duration("rotation.freshness", SECOND, SECOND / 10..=HOUR);
    let requests = reader.count("rotation.requests_per_second", 50, 1..=10_000);
    if namespace.is_some() && !identified {
        reader.problem(
            "rotation.namespace",
            "needs the agent's own identity in Vault: set [vault.identity] too",
        );
    }
    Some(Rotation {
        namespace: namespace?,
        freshness,
        requests_per_second: requests,
    })
}

fn clusters(reader: &mut Reader) -> Option<BTreeMap<ClusterName, Cluster>> {
    let mut clusters = BTreeMap::new();
    let names = reader.tables("cluster");
    if names.is_empty() {
        reader.problem(
            "cluster",
            "is missing; expected at least one [cluster.NAME]",
        );
    }
    let mut all = true;
    for name in names {
        let key = format!("cluster.{name}");
        let kubeconfig = reader.path(&format!("{key}.kubeconfig"));
        let expected = "the absolute path of the agent's kubeconfig";
        let kubeconfig = reader.require(&format!("{key}.kubeconfig"), expected, kubeconfig);
        let context = reader.text(&format!("{key}.context"), "the name of a context");
        let timeout = reader.duration(&format!("{key}.timeout"), 15 * SECOND, SECOND..=5 * MINUTE);
        let id = name.parse::<ClusterName>();
        if let Err(error) = &id {
            reader.problem(&key, format!("is not a name of a cluster: {error}"));
        }
        match (id, kubeconfig) {
            (Ok(id), Some(kubeconfig)) => {
                drop(clusters.insert(
                    id,
                    Cluster {
                        kubeconfig,
                        context,
                        timeout,
                    },
                ));
            }
            (Ok(_) | Err(_), _) => all = false,
        }
    }
    all.then_some(clusters)
}

#[cfg(test)]
mod tests;
