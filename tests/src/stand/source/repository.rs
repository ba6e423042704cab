//! GitRepository: a branch becomes a tar.gz.
//!
//! Called by [`super::desk`]. A revision that is stored already is not fetched again. Invariant: no password
//! gets into a message.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::json;
use tokio::process::Command;

use super::api::Api;
use super::api::Key;
use super::artifacts;
use super::status;
use super::status::Outcome;
use super::status::text;
use crate::stand::layout::Site;
use crate::stand::process;

/// Looks at the branch and stores what is new.
pub(super) async fn look(site: &Site, api: &Api, key: &Key, object: &Value) -> Outcome {
    let spec = &object["spec"];
    let login = match login(api, key, spec).await {
        Ok(login) => login,
        Err(error) => {
            return Outcome::Failed {
                reason: "AuthenticationFailed",
                message: format!("failed to get secret: {error:#}"),
            };
        }
    };
    match fetch(site, key, object, &login).await {
        Ok(artifact) => Outcome::Stored {
            artifact,
            more: json!({}),
        },
        Err(error) => Outcome::Failed {
            reason: "GitOperationFailed",
            message: login.hide(&format!(
                "failed to checkout and determine revision: {error:#}"
            )),
        },
    }
}

/// How Git logs in; empty where nothing is given.
#[derive(Default)]
struct Login {
    name: String,
    password: String,
    identity: String,
    known_hosts: String,
}

impl Login {
    /// The address with the account in it.
    fn address(&self, url: &str) -> String {
        match url.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) if !self.password.is_empty() => {
                format!("{scheme}://{}:{}@{rest}", self.name, self.password)
            }
            _ => url.to_owned(),
        }
    }

    fn hide(&self, words: &str) -> String {
        if self.password.is_empty() {
            words.to_owned()
        } else {
            words.replace(&self.password, "*****")
        }
    }

    /// Git, which logs in by key where there is one; files go to `dir`.
    fn git(&self, site: &Site, dir: &Path) -> Result<Command> {
        let mut command = process::command(site, "git");
        command.env("GIT_TERMINAL_PROMPT", "0");
        if !self.identity.is_empty() {
            let (key, hosts) = (dir.join("identity"), dir.join("known_hosts"));
            fs::write(&key, &self.identity)?;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
            fs::write(&hosts, &self.known_hosts)?;
            let ssh = format!(
                "ssh -F none -i {} -o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile={}",
                key.display(),
                hosts.display()
            );
            command.env("GIT_SSH_COMMAND", ssh);
        }
        Ok(command)
    }
}

async fn login(api: &Api, key: &Key, spec: &Value) -> Result<Login> {
    let Some(name) = spec["secretRef"]["name"].as_str() else {
        return Ok(Login::default());
    };
    let data = api.secret(&key.namespace, name).await?;
    let field = |name: &str| -> Result<String> {
        let bytes = STANDARD.decode(text(&data[name]))?;
        Ok(String::from_utf8(bytes)?)
    };
    Ok(Login {
        name: field("username")?,
        password: field("password")?,
        identity: field("identity")?,
        known_hosts: field("known_hosts")?,
    })
}

fn branch(spec: &Value) -> Result<&str> {
    let reference = &spec["ref"];
    for other in ["tag", "semver", "name", "commit"] {
        if reference.get(other).is_some() {
            bail!("the stand-in for source controller does not know `spec.ref.{other}`");
        }
    }
    Ok(reference["branch"].as_str().unwrap_or("master"))
}

async fn fetch(site: &Site, key: &Key, object: &Value, login: &Login) -> Result<Value> {
    let spec = &object["spec"];
    let branch = branch(spec)?;
    let address = login.address(text(&spec["url"]));
    let dir = tempfile::tempdir_in(site.folder("tmp")?)?;
    let reference = format!("refs/heads/{branch}");
    let mut ask = login.git(site, dir.path())?;
    let said = process::run(ask.args(["ls-remote", &address, &reference])).await?;
    let commit = said.split_whitespace().next();
    let commit = commit.with_context(|| format!("couldn't find remote ref \"{reference}\""))?;
    let revision = format!("{branch}@sha1:{commit}");
    if let Some(artifact) = status::kept(site, object, &revision) {
        return Ok(artifact.clone());
    }
    let copy = dir.path().join("copy");
    let mut clone = login.git(site, dir.path())?;
    clone.args([
        "clone",
        "--quiet",
        "--bare",
        "--depth=1",
        "--branch",
        branch,
        &address,
    ]);
    process::run(clone.arg(&copy)).await?;
    // The branch may have moved since it was asked for.
    let mut ask = process::command(site, "git");
    let head = process::run(ask.arg("--git-dir").arg(&copy).args(["rev-parse", "HEAD"])).await?;
    let head = head.trim();
    let path = format!("gitrepository/{}/{}/{head}.tar.gz", key.namespace, key.name);
    let file = artifacts(site).join(&path);
    fs::create_dir_all(file.parent().context("an artifact has a folder")?)?;
    let beside = dir.path().join("artifact");
    let mut archive = process::command(site, "git");
    archive
        .arg("--git-dir")
        .arg(&copy)
        .args(["archive", "--format=tar.gz", "--output"]);
    process::run(archive.arg(&beside).arg("HEAD^{tree}")).await?;
    fs::rename(&beside, &file)?;
    status::artifact(site, &path, &format!("{branch}@sha1:{head}"))
}
