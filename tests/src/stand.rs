//! The stand: real servers for scenarios, benchmarks and the demo.
//!
//! A scenario calls [`Stand::shared`], people call the program `stand`. Both start a *keeper*, a process that owns
//! the servers; as root it puts them into namespaces of their own, where every stand has the same ports. What
//! programs outside need is forwarded to loopback and described by [`Facts`]. GitLab is the one stand-in. To add a
//! server: a file here, a line in `servers`, a port in `layout`. Invariant: when the owner ends, by whatever cause,
//! nothing of the stand is left.

pub mod access;
pub mod agent;
mod certs;
pub mod docker;
mod etcd;
mod flux;
mod forward;
pub mod git;
pub mod gitlab;
mod http;
pub mod image;
pub(crate) mod install;
pub mod isolate;
pub mod keeper;
pub mod kubernetes;
mod kwok;
pub mod layout;
mod node;
mod on_demand;
pub mod openbao;
pub mod postgres;
pub mod process;
mod reach;
mod registry;
pub mod servers;
pub mod source;
pub mod token;

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ChildStdin;
use std::process::Command as StdCommand;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use reqwest::Method;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OnceCell;

use self::docker::Docker;
use self::install::executor::Executor;
use self::kubernetes::Cluster;
use self::layout::Facts;
use self::layout::Settings;
use self::token::IdToken;
use self::token::IssuerKey;
use crate::progress::Event;
use crate::wait::Look;
use crate::wait::until;

/// The stand of this process's scenarios. Never dropped: the end of the process ends the stand.
static SHARED: OnceCell<Stand> = OnceCell::const_new();

/// Who ends a stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The process that starts it: the stand ends with it.
    Starter,
    /// Whoever says `stand down`; but a start that is broken off leaves nothing.
    Anyone,
}

/// A running stand, as its users see it.
pub struct Stand {
    facts: Facts,
    key: IssuerKey,
    cluster: Cluster,
    /// Whether Flux was asked for, and came.
    flux: OnceCell<()>,
    /// Held only by the owner: when it closes, the keeper ends the stand.
    _life: Option<ChildStdin>,
}

impl Stand {
    /// The stand that all scenarios of this process share: the one that `QUAYMASTER_STAND` names, or one that is
    /// started now and ends with this process.
    ///
    /// # Errors
    /// When it cannot be started; the error says what to do.
    pub async fn shared() -> Result<&'static Self> {
        SHARED
            .get_or_try_init(|| async {
                let settings = Settings::read()?;
                if let Some(name) = &settings.attach {
                    return Self::attach(&settings, name);
                }
                let name = format!("test-{}", std::process::id());
                Self::start(&settings, &name, Owner::Starter, show).await
            })
            .await
    }

    /// Starts a stand and waits until everything in it answers; `tell` gets what happens meanwhile.
    ///
    /// # Errors
    /// When a server does not come up or something is missing.
    pub async fn start(
        settings: &Settings,
        name: &str,
        owner: Owner,
        tell: fn(&Event),
    ) -> Result<Self> {
        let (settings, name) = (settings.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || {
            let life = launch(&name, owner, tell)?;
            Ok(Self {
                _life: life,
                ..Self::attach(&settings, &name)?
            })
        })
        .await?
    }

    /// Uses a stand that is running already.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn attach(settings: &Settings, name: &str) -> Result<Self> {
        let state = settings.state(name);
        let facts = Facts::read(&state)
            .with_context(|| format!("no stand `{name}` is running; `stand up` starts one"))?;
        let key = IssuerKey::load(&state.join("issuer.json"))?;
        let cluster = Cluster::at(facts.site.clone(), facts.kubeconfig_admin.clone());
        Ok(Self {
            facts,
            key,
            cluster,
            flux: OnceCell::new(),
            _life: None,
        })
    }

    /// Ends a stand and waits until nothing of it is left.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(settings: &Settings, name: &str) -> Result<()> {
        let state = settings.state(name);
        if let Ok(facts) = Facts::read(&state)
            && let Some(pid) = i32::try_from(facts.keeper)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
        {
            // A keeper that is gone already is swept below.
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        until("the stand to end", Duration::from_secs(60), async || {
            keeper::sweep(settings);
            if state.exists() {
                Look::NotYet(format!("{} is still there", state.display()))
            } else {
                Look::Ready(())
            }
        })
        .await
    }

    /// Addresses, files and keys.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The cluster, with all rights.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Runs kubectl with all rights and returns what it printed.
    ///
    /// # Errors
    /// When kubectl fails; with what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(arguments).await
    }

    /// Lets Flux run on this stand, which it does from the first call on; builds it if no stand had it yet.
    ///
    /// # Errors
    /// When it cannot be built or does not start.
    pub async fn flux(&self) -> Result<()> {
        let start = async || {
            let flux = install::flux::ensure(&Settings::read()?, show).await?;
            flux::ask(&self.facts.site, &flux).await
        };
        self.flux.get_or_try_init(start).await.map(drop)
    }

    /// Says how pipelines are executed; fetches what that needs if no stand had it yet.
    ///
    /// # Errors
    /// When it cannot be had; the error says what to install.
    pub(crate) async fn executor(&self) -> Result<Executor> {
        install::executor::ensure(&Settings::read()?, show).await
    }

    /// The Docker engine of this stand, which runs from the first call on; its package is installed if it is missing.
    ///
    /// # Errors
    /// When it cannot be had or does not start; without root there are no containers.
    pub async fn docker(&self) -> Result<Docker> {
        install::docker::ensure(&Settings::read()?, show).await?;
        Docker::ask(&self.facts.site).await
    }

    /// What there is to say about Flux after a start, in one sentence.
    #[must_use]
    pub fn flux_note(settings: &Settings) -> &'static str {
        if install::flux::find(settings).is_some() {
            "Flux is built; it starts when the first scenario asks for it"
        } else {
            "Flux is not built yet; the first scenario that asks for it builds it, which takes minutes"
        }
    }

    /// Makes `namespace` and lets jobs of project `project_id` deploy into it.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn grant_project(&self, namespace: &str, project_id: &str) -> Result<()> {
        access::grant_project(&self.cluster, namespace, project_id).await
    }

    /// Makes a namespace of the agents' own, with the rights that they need in it.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn grant_agents(&self, namespace: &str) -> Result<()> {
        access::grant_agents(&self.cluster, namespace).await
    }

    /// Calls OpenBao with all rights; returns status and body.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn vault(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        http::vault(
            &self.facts.vault_addr,
            &self.facts.vault_root_token,
            method,
            path,
            body,
        )
        .await
    }

    /// Calls OpenBao with another token, or none when it is empty.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn vault_as(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        http::vault(&self.facts.vault_addr, token, method, path, body).await
    }

    /// A token of an ordinary job of project 42, to be changed and signed.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn token(&self) -> Result<IdToken> {
        IdToken::new(&self.facts.issuer)
    }

    /// Signs a token with the issuer's key.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, token: IdToken) -> Result<String> {
        token.sign(&self.key)
    }

    /// Lets the job of `token` run, as `GET /api/v4/job` sees it; returns its job token.
    ///
    /// # Errors
    /// When the stand-in does not answer.
    pub async fn start_job(&self, token: &IdToken) -> Result<String> {
        let job_token = format!("glcbt-64_{}", token::random_hex(10)?);
        let request = http::client(None)?
            .put(self.job_address(&job_token))
            .json(&token.job());
        request.send().await?.error_for_status()?;
        Ok(job_token)
    }

    /// Ends the job of a job token, which is good for nothing from now on.
    ///
    /// # Errors
    /// When the stand-in does not answer.
    pub async fn end_job(&self, job_token: &str) -> Result<()> {
        let request = http::client(None)?.delete(self.job_address(job_token));
        request.send().await?.error_for_status()?;
        Ok(())
    }

    fn job_address(&self, job_token: &str) -> String {
        format!("{}/-/stand/jobs/{job_token}", self.facts.issuer)
    }

    /// The issuer's key, for tokens that are signed in another way.
    #[must_use]
    pub const fn issuer_key(&self) -> &IssuerKey {
        &self.key
    }

    /// Lines for a shell that make its programs use this stand.
    #[must_use]
    pub fn exports(&self) -> String {
        let facts = &self.facts;
        let (jobs, admin) = agent::sockets(&facts.site.dir.join("agent"));
        let pairs = [
            ("KUBECONFIG", facts.kubeconfig_admin.display().to_string()),
            (
                "QUAYMASTER_AGENT_KUBECONFIG",
                facts.kubeconfig_agent.display().to_string(),
            ),
            ("VAULT_ADDR", facts.vault_addr.clone()),
            ("VAULT_TOKEN", facts.vault_root_token.clone()),
            ("BAO_ADDR", facts.vault_addr.clone()),
            ("BAO_TOKEN", facts.vault_root_token.clone()),
            ("REGISTRY", facts.registry.clone()),
            ("REGISTRY_ADDR", facts.registry_addr.clone()),
            ("CI_SERVER_URL", facts.issuer.clone()),
            ("QUAYMASTER_ISSUER", facts.issuer.clone()),
            ("QUAYMASTER_SOCKET", jobs.display().to_string()),
            ("QUAYMASTER_ADMIN_SOCKET", admin.display().to_string()),
            ("QUAYMASTER_STAND", facts.site.name.clone()),
            (
                "KUBECTL",
                facts.site.program("kubectl").display().to_string(),
            ),
        ];
        pairs
            .iter()
            .map(|(name, value)| format!("export {name}='{value}'\n"))
            .collect()
    }

    /// A command that runs inside the stand, where ports are the well-known ones; without namespaces, here.
    pub fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match self.facts.inner {
            Some(pid) => isolate::inside(pid, &self.facts.site, program),
            None => process::command(&self.facts.site, program),
        }
    }

    /// Sends a signal (`KILL`, `STOP`, `CONT`, ...) to a server. One that ends is started again.
    ///
    /// # Errors
    /// When there is no such server.
    pub async fn signal(&self, server: &str, signal: &str) -> Result<()> {
        let file = self.facts.site.dir.join("pids").join(server);
        let pid =
            std::fs::read_to_string(&file).with_context(|| format!("no server `{server}`"))?;
        process::run(self.inside("kill").args(["-s", signal, pid.trim()]))
            .await
            .map(drop)
    }

    /// Builds an image from a Dockerfile and pushes it as `name` (with a tag, without the registry); returns the
    /// reference by digest, as a deploy uses it.
    ///
    /// # Errors
    /// When buildah fails, or there is no node that could run it.
    pub async fn build_and_push(
        &self,
        context: &Path,
        dockerfile: &Path,
        name: &str,
        arguments: &[(&str, &str)],
    ) -> Result<String> {
        image::build_and_push(self, context, dockerfile, name, arguments).await
    }

    /// Pushes the demo's base image, which is made first if no stand had it yet; returns its name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn base_image(&self) -> Result<String> {
        image::push_python(&self.facts.site, &self.facts.registry_addr).await?;
        Ok(format!("{}/{}", self.facts.registry, image::PYTHON))
    }

    /// Name of the tiny image that every stand has: busybox, with all its applets.
    #[must_use]
    pub fn busybox(&self) -> String {
        format!("{}/{}", self.facts.registry, image::BUSYBOX)
    }
}

/// Starts the keeper and follows it until the stand is ready. Blocks.
fn launch(name: &str, owner: Owner, tell: fn(&Event)) -> Result<Option<ChildStdin>> {
    let mut command = StdCommand::new(program()?);
    // A file, because the keeper outlives us: a pipe of ours would never close.
    let mut words = tempfile::tempfile().context("making a temporary file")?;
    command
        .args(["keep", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(words.try_clone()?)
        .process_group(0);
    if owner == Owner::Anyone {
        // It outlives us: a pipe behind our standard error would never see its end.
        command.stderr(Stdio::null());
    }
    let mut keeper = command
        .spawn()
        .context("starting the keeper of the stand")?;
    let life = keeper.stdin.take();
    let output = keeper.stdout.take().context("the keeper has an output")?;
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line?)
            .context("the keeper said something else than an event")?
        {
            Event::Ready => return let_go(life, owner),
            Event::Failed(why) => bail!("{why}"),
            event @ (Event::Step { .. } | Event::Note(_) | Event::Up(..)) => tell(&event),
        }
    }
    let mut last = String::new();
    words.rewind()?;
    words.read_to_string(&mut last)?;
    bail!("the keeper of the stand ended: {}", last.trim())
}

fn let_go(life: Option<ChildStdin>, owner: Owner) -> Result<Option<ChildStdin>> {
    match (owner, life) {
        (Owner::Starter, life) => Ok(life),
        (Owner::Anyone, Some(mut line)) => {
            line.write_all(keeper::LET_GO)?;
            Ok(None)
        }
        (Owner::Anyone, None) => Ok(None),
    }
}

/// Shows an event on standard error, also from within a test, whose prints are kept back.
pub fn show(event: &Event) {
    if let Some(line) = event.line() {
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}

/// The program `stand`: this one, or the one beside the test that runs.
pub(crate) fn program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    if own.file_name().is_some_and(|name| name == "stand") {
        return Ok(own);
    }
    let places = own.ancestors().skip(1).take(2).map(|dir| dir.join("stand"));
    places
        .into_iter()
        .find(|path| path.is_file())
        .context("the program `stand` is not built; cargo build -p tests --bin stand")
}
