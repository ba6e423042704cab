//! The agent on the stand: its configuration, written from the stand's addresses, and the sample's policy.
//!
//! Called by `stand agent`, the demo and scenarios. The one place that knows how the agent's configuration
//! looks. Invariant: everything it writes is in the folder that the caller names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::git;
use super::layout::{AUDIENCE, Settings};
use super::openbao::AGENT_ROLE;
use super::{Stand, process};

/// Longest that building the agent may take, from nothing.
const BUILD: Duration = Duration::from_secs(1800);

/// The sockets of an agent that runs with its files in `dir`: for jobs, for operators.
#[must_use]
pub fn sockets(dir: &Path) -> (PathBuf, PathBuf) {
    (
        dir.join("jobs/quaymaster.sock"),
        dir.join("admin/quaymaster.sock"),
    )
}

/// What an agent's configuration is written from.
#[derive(Debug, Clone)]
pub struct AgentSite {
    /// Folder of the sockets and the state.
    pub dir: PathBuf,
    /// The policy's file.
    pub policy: PathBuf,
    /// The agent's own kubeconfig.
    pub kubeconfig: PathBuf,
    /// The issuer of id_tokens.
    pub issuer: String,
    /// Vault's address.
    pub vault: String,
    /// Helm and kubectl.
    pub programs: (PathBuf, PathBuf),
    /// The section `[vault.identity]`; empty for an agent without an identity of its own.
    pub identity: String,
    /// The agents' own namespace; unset for an agent that keeps no Secrets fresh.
    pub home: Option<String>,
}

/// The namespace of the agents that people start on a stand.
const HOME: &str = "quaymaster";

fn rotation(home: Option<&str>) -> String {
    home.map_or_else(String::new, |home| {
        format!("[rotation]\nnamespace = \"{home}\"\n")
    })
}

/// Writes a new secret id of an AppRole beside the configuration in `dir`; returns the section that
/// lets the agent log in with it.
///
/// # Errors
/// When OpenBao refuses, or the folder cannot be written to.
pub async fn approle_identity(dir: &Path, stand: &Stand, role: &str) -> Result<String> {
    let path = format!("auth/approle/role/{role}/secret-id");
    let body = serde_json::json!({});
    let (status, answer) = stand.vault(Method::POST, &path, Some(&body)).await?;
    let secret_id = answer["data"]["secret_id"].as_str();
    let secret_id = secret_id.with_context(|| format!("OpenBao answered {status} at {path}"))?;
    let file = dir.join("secret_id");
    fs::write(&file, secret_id)?;
    Ok(format!(
        "[vault.identity]\nmethod = \"approle\"\nrole_id = \"{role}\"\nsecret_id_file = \"{}\"\n",
        file.display()
    ))
}

/// Returns the text of an agent's configuration.
#[must_use]
pub fn config(site: &AgentSite) -> String {
    let (jobs, admin) = sockets(&site.dir);
    format!(
        r#"# Written by the stand.
state_dir = "{state}"
policy = "{policy}"

[socket]
jobs = "{jobs}"
admin = "{admin}"

[issuer]
url = "{issuer}"
audience = "{AUDIENCE}"

[vault]
address = "{vault}"
trusted_mounts = ["jwt"]

{identity}
{rotation}
[render]
helm = "{helm}"
kubectl = "{kubectl}"

[git]
program = "/usr/bin/git"
ssh_folder = "/usr/bin"

[cluster.stand]
kubeconfig = "{kubeconfig}"
"#,
        helm = site.programs.0.display(),
        kubectl = site.programs.1.display(),
        state = site.dir.join("state").display(),
        policy = site.policy.display(),
        jobs = jobs.display(),
        admin = admin.display(),
        issuer = site.issuer,
        vault = site.vault,
        kubeconfig = site.kubeconfig.display(),
        identity = site.identity,
        rotation = rotation(site.home.as_deref()),
    )
}

/// The sample's policy: jobs of project 42 on protected refs deploy into the three namespaces of
/// the examples, and change their Flux repository on `GIT_SERVER`.
const POLICY: &str = r#"# Written by the stand.
version = 1

[[rule]]
id = "flask-demo"
[rule.match]
project_id = 42
ref_protected = true
[rule.vault]
role = "flask-demo"
paths = ["kv/flask/*", "kv1/flask/*", "database/creds/flask"]
[rule.cluster.stand]
namespaces = ["flask", "flask-helm", "flask-kustomize", "flask-flux"]
kinds = ["apps/Deployment", "v1/Service", "v1/ConfigMap"]
secrets = ["flask-*"]
verbs = ["apply", "prune", "rollback", "rotate", "commit", "reconcile", "revert"]
require_digest = true
[[rule.cluster.stand.flux]]
repositories = ["GIT_SERVER/fleet.git"]
branches = ["main"]
files = ["apps/flask/production/*"]
objects = ["flux-system/fleet", "flux-system/flask-production"]
"#;

/// Says where Helm and kubectl are.
///
/// # Errors
/// When one is not built.
pub fn render_programs() -> Result<(PathBuf, PathBuf)> {
    super::install::render_programs(&Settings::read()?)
}

/// Writes configuration and policy of an agent on this stand to `dir`; returns the configuration's path.
///
/// # Errors
/// When the folder cannot be written to, or OpenBao refuses.
pub async fn write_agent_config(dir: &Path, stand: &Stand) -> Result<PathBuf> {
    let facts = stand.facts();
    fs::create_dir_all(dir)?;
    let site = AgentSite {
        dir: dir.to_owned(),
        policy: dir.join("policy.toml"),
        kubeconfig: facts.kubeconfig_agent.clone(),
        issuer: facts.issuer.clone(),
        vault: facts.vault_addr.clone(),
        programs: render_programs()?,
        identity: approle_identity(dir, stand, AGENT_ROLE).await?,
        home: Some(HOME.to_owned()),
    };
    stand.grant_agents(HOME).await?;
    let repositories = git::http_address(&facts.site);
    fs::write(&site.policy, POLICY.replace("GIT_SERVER", &repositories))?;
    let path = dir.join("quaymaster.toml");
    fs::write(&path, config(&site)).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// The programs of this checkout, as debug builds.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `quaymasterd`.
    pub agent: PathBuf,
    /// `quaymaster`.
    pub client: PathBuf,
}

/// Starts an agent that tells its log to a file. It ends with us, also when we are killed.
///
/// # Errors
/// When it cannot be started.
pub fn start(program: &Path, config: &Path, log: fs::File) -> Result<Child> {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .arg("--config")
        .arg(config)
        .env_clear()
        // As the unit file and the image do.
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .kill_on_drop(true)
        .spawn()
        .context("starting the agent")
}

/// Builds agent and client of this checkout.
///
/// # Errors
/// When they do not build.
pub async fn build() -> Result<Programs> {
    let words = ["-p", "agent", "-p", "client", "--bins"];
    let built = cargo_build(&words).await?;
    Ok(Programs {
        agent: program(&built, "quaymasterd")?,
        client: program(&built, "quaymaster")?,
    })
}

/// Builds agent and client of this checkout as they are released.
///
/// # Errors
/// When they do not build.
pub async fn build_release() -> Result<Programs> {
    let agent = cargo_build(&["-p", "agent", "--bins", "--release"]).await?;
    let client = cargo_build(&["-p", "client", "--bins", "--profile", "client"]).await?;
    Ok(Programs {
        agent: program(&agent, "quaymasterd")?,
        client: program(&client, "quaymaster")?,
    })
}

/// Builds the client as it is released and mounted into jobs: static, as the Dockerfile does it.
///
/// # Errors
/// When it does not build.
pub async fn build_static_client() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let flags = format!(r#"target.{target}.rustflags=["-C", "target-feature=+crt-static"]"#);
    let words = [
        "-p",
        "client",
        "--profile",
        "client",
        "--target",
        &target,
        "--config",
        &flags,
    ];
    program(&cargo_build(&words).await?, "quaymaster")
}

/// Builds the program `stand` beside a measurement, which is built with a profile of its own.
///
/// # Errors
/// When it does not build.
pub async fn build_stand() -> Result<()> {
    let words = ["-p", "tests", "--bin", "stand", "--profile", "measure"];
    let built = cargo_build(&words).await?;
    program(&built, "stand").map(drop)
}

fn program(built: &[PathBuf], name: &str) -> Result<PathBuf> {
    let found = built
        .iter()
        .find(|path| path.file_name().is_some_and(|file| file == name));
    found
        .cloned()
        .with_context(|| format!("cargo named no program {name}"))
}

/// Runs `cargo build` and returns the programs that it names.
async fn cargo_build(words: &[&str]) -> Result<Vec<PathBuf>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("cargo");
    command
        .current_dir(manifest)
        .args(["build", "--quiet", "--message-format=json"])
        .args(words);
    let text = process::run_with(&mut command, None, BUILD)
        .await
        .context("building agent and client")?;
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(messages
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect())
}
