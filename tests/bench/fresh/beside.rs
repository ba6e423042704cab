//! `bao agent`, the one that ours is measured beside: the same program as the stand's OpenBao, with the
//! world's AppRole, rendering one file for each secret.
//!
//! It asks the same address as our agent does. Invariant: it ends with its owner.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use tests::stand::agent;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tokio::process::Child;
use tokio::process::Command;
use tokio::time::Instant;

/// A file to render: its name, and the template.
pub(crate) type Page = (String, String);

/// `bao agent` with a folder of its own.
pub(crate) struct Beside {
    program: PathBuf,
    dir: PathBuf,
    child: Option<Child>,
}

/// The page of a KV secret `kv/<role>/<name>`.
pub(crate) fn of_kv(world: &World, name: &str) -> Page {
    let path = format!("kv/data/{}/{name}", world.role);
    let key = super::KEY;
    let text = format!("{{{{ with secret \"{path}\" }}}}{{{{ .Data.data.{key} }}}}{{{{ end }}}}");
    (name.to_owned(), text)
}

/// The page of a database credential: the name of its user.
pub(crate) fn of_credential(path: &str) -> Page {
    let text = format!("{{{{ with secret \"{path}\" }}}}{{{{ .Data.username }}}}{{{{ end }}}}");
    ("user".to_owned(), text)
}

impl Beside {
    /// Writes its configuration; it is not started yet.
    pub(crate) async fn new(world: &World, freshness: &str, pages: &[Page]) -> Result<Self> {
        let dir = world.dir().join("bao-agent");
        fs::create_dir_all(dir.join("out"))?;
        let role = world.agent_role();
        agent::approle_identity(&dir, world.stand, &role).await?;
        fs::write(dir.join("role_id"), &role)?;
        let mut text = format!(
            r#"vault {{ address = "http://{address}" }}
auto_auth {{
  method "approle" {{
    config = {{
      role_id_file_path = "{dir}/role_id"
      secret_id_file_path = "{dir}/secret_id"
      remove_secret_id_file_after_reading = false
    }}
  }}
}}
template_config {{
  static_secret_render_interval = "{freshness}"
  exit_on_retry_failure = false
}}
"#,
            address = world.vault.address(),
            dir = dir.display(),
        );
        for (name, template) in pages {
            let file = dir.join("out").join(name);
            text.push_str(&format!(
                "template {{\n  contents = {template:?}\n  destination = {file:?}\n}}\n"
            ));
        }
        fs::write(dir.join("agent.hcl"), text)?;
        Ok(Self {
            program: world.stand.facts().site.program("bao"),
            dir,
            child: None,
        })
    }

    /// Starts it.
    pub(crate) fn start(&mut self) -> Result<()> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("agent.log"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .arg("agent")
            .arg(format!("-config={}", self.dir.join("agent.hcl").display()))
            .env_clear()
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.context("starting `bao agent`")?);
        Ok(())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Result<u32> {
        let pid = self.child.as_ref().and_then(Child::id);
        pid.context("`bao agent` runs")
    }

    /// What a page says; unset before it is rendered.
    pub(crate) fn page(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.dir.join("out").join(name)).ok()
    }

    /// Waits until a page says something; returns when it was seen.
    pub(crate) async fn until(&self, name: &str, text: &str, within: Duration) -> Result<Instant> {
        let what = format!("`bao agent` to render {name}");
        until(&what, within, async || match self.page(name) {
            Some(page) if page == text => Look::Ready(Instant::now()),
            _ => Look::NotYet("not yet".to_owned()),
        })
        .await
    }

    /// Kills it as nobody can prepare for, and forgets what it rendered.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        fs::remove_dir_all(self.dir.join("out"))?;
        fs::create_dir_all(self.dir.join("out"))?;
        Ok(())
    }
}
