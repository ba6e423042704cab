//! The agent on the stand: its configuration, written from the stand's addresses, and the sample's policy.
//!
//! Called by `stand agent`, the demo and scenarios. The one place that knows how the agent's configuration
//! looks. Invariant: everything it writes is in the folder that the caller names.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::Command;

use super::layout::AUDIENCE;
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

/// Writes configuration and policy of an agent on this stand to `dir`; returns the configuration's path.
///
/// # Errors
/// When the folder cannot be written to.
pub fn write_agent_config(dir: &Path, stand: &Stand) -> Result<PathBuf> {
    let facts = stand.facts();
    let (jobs, admin) = sockets(dir);
    let policy = dir.join("policy.toml");
    let config = format!(
        r#"# Written by the stand.
state = "{state}"
policy = "{policy}"

[sockets]
jobs = "{jobs}"
admin = "{admin}"

[gitlab]
issuer = "{issuer}"
audience = "{AUDIENCE}"

[vault]
address = "{vault}"

[clusters.stand]
kubeconfig = "{kubeconfig}"
"#,
        state = dir.join("state").display(),
        policy = policy.display(),
        jobs = jobs.display(),
        admin = admin.display(),
        issuer = facts.issuer,
        vault = facts.vault_addr,
        kubeconfig = facts.kubeconfig_agent.display(),
    );
    let rule = r#"# Written by the stand: jobs of project 42 on protected refs deploy into the namespace `flask`.
[[rule]]
name = "flask-demo"
match = { project_id = "42", ref_protected = "true" }
vault = { role = "flask-demo", paths = ["kv/flask/*", "kv1/flask/*", "database/creds/flask"] }
clusters = ["stand"]
namespaces = ["flask"]
kinds = ["Deployment", "Service", "ConfigMap", "Secret"]
secrets = ["*"]
"#;
    for socket in [&jobs, &admin] {
        if let Some(parent) = socket.parent() {
            fs::create_dir_all(parent)?;
        }
    }
    fs::write(&policy, rule)?;
    let path = dir.join("quaymaster.toml");
    fs::write(&path, config).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Builds the agent and returns its program: the debug build of this checkout.
///
/// # Errors
/// When it does not build.
pub async fn build() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("cargo");
    command.current_dir(manifest).args([
        "build",
        "--quiet",
        "-p",
        "agent",
        "--bin",
        "quaymasterd",
        "--message-format=json",
    ]);
    let text = process::run_with(&mut command, None, BUILD)
        .await
        .context("building the agent")?;
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut executables =
        messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executables
        .next_back()
        .context("cargo named no program of the agent")
}
