//! One scenario's world: an agent process of its own on the shared stand, with a namespace, a project, a
//! Vault role and paths, and a fault proxy before Vault and before the API server.
//!
//! A scenario says `World::new("name").await?`, deploys bundles and looks at what the servers say. Nothing
//! is shared between two worlds but the servers. Invariant: dropping a world kills its agent; everything
//! else ends with the stand.

pub mod fleet;
mod flux;
mod proxies;
mod servers;

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use tempfile::TempDir;
use tokio::process::Child;
use tokio::sync::OnceCell;

use crate::client::Answer;
use crate::client::Client;
use crate::faults::Faults;
use crate::stand::Stand;
use crate::stand::agent;
use crate::stand::agent::AgentSite;
use crate::submission::Finished;
use crate::submission::post;
use crate::wait::Look;
use crate::wait::until;

/// The agent's program, built once for all scenarios of this process.
static PROGRAMS: OnceCell<agent::Programs> = OnceCell::const_new();
/// Makes the names of worlds differ.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The programs under test.
///
/// # Errors
/// When they do not build.
pub async fn programs() -> Result<&'static agent::Programs> {
    PROGRAMS.get_or_try_init(agent::build).await
}

/// One scenario's world.
pub struct World {
    /// The servers.
    pub stand: &'static Stand,
    /// The namespace that the rule grants.
    pub namespace: String,
    /// The project that the rule is for.
    pub project: String,
    /// Name of the Vault role, and of the folders below `kv/` and `kv1/`.
    pub role: String,
    /// The proxy before Vault.
    pub vault: Faults,
    /// The proxy before the API server.
    pub api: Faults,
    dir: TempDir,
    agent: Option<Child>,
    programs: Option<agent::Programs>,
    /// The section of the configuration that says how the agent itself logs in to Vault.
    identity: String,
    /// The namespace of this world's agents; unset where they keep no Secrets fresh.
    home: Option<String>,
}

impl World {
    /// Makes a world and starts its agent.
    ///
    /// # Errors
    /// When a server refuses something or the agent does not become ready.
    pub async fn new(name: &str) -> Result<Self> {
        let mut world = Self::without_agent(name).await?;
        world.start_agent().await?;
        Ok(world)
    }

    /// Makes a world whose agents keep Secrets fresh, in a namespace of their own, and starts one.
    ///
    /// # Errors
    /// When a server refuses something or the agent does not become ready.
    pub async fn rotating(name: &str) -> Result<Self> {
        let mut world = Self::without_agent(name).await?;
        world.keep_fresh().await?;
        world.start_agent().await?;
        Ok(world)
    }

    /// Lets this world's agents, which are to be started, keep Secrets fresh.
    ///
    /// # Errors
    /// When the cluster refuses, or the configuration cannot be written.
    pub async fn keep_fresh(&mut self) -> Result<()> {
        let home = format!("{}-agents", self.namespace);
        self.stand.grant_agents(&home).await?;
        self.home = Some(home);
        self.write_config()
    }

    /// Makes a world whose agent is not started yet.
    ///
    /// # Errors
    /// When a server refuses something.
    pub async fn without_agent(name: &str) -> Result<Self> {
        Self::on(Stand::shared().await?, name).await
    }

    /// Makes a world on a stand of its own, whose servers it may end. Its agent is not started yet.
    ///
    /// # Errors
    /// When a server refuses something.
    pub async fn on(stand: &'static Stand, name: &str) -> Result<Self> {
        // Several test processes may share one stand: the process id keeps their worlds apart.
        let number = std::process::id() % 100_000 * 1000 + NEXT.fetch_add(1, Ordering::Relaxed);
        let project = (1000 + u64::from(number)).to_string();
        let role = format!("t{number}-{name}");
        let facts = stand.facts();
        let vault = Faults::to(facts.vault_addr.trim_start_matches("http://")).await?;
        let api = Faults::to(facts.api.trim_start_matches("https://")).await?;
        // Inside the stand's own folder, which its guard removes even when this process is killed.
        let dir = TempDir::with_prefix_in("qm-", &facts.site.dir)?;
        let namespace = role.clone();
        stand.grant_project(&namespace, &project).await?;
        let mut world = Self {
            stand,
            namespace,
            project,
            role,
            vault,
            api,
            dir,
            agent: None,
            programs: None,
            identity: String::new(),
            home: None,
        };
        world.furnish_vault().await?;
        fs::write(world.policy_path(), world.policy())?;
        world.identity = world.approle_identity().await?;
        world.write_config()?;
        Ok(world)
    }

    /// Starts another agent for the same project and namespace, as on a second host: with folders,
    /// sockets and proxies of its own.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn second_agent(&self) -> Result<Self> {
        let facts = self.stand.facts();
        let mut other = Self {
            stand: self.stand,
            namespace: self.namespace.clone(),
            project: self.project.clone(),
            role: self.role.clone(),
            vault: Faults::to(facts.vault_addr.trim_start_matches("http://")).await?,
            api: Faults::to(facts.api.trim_start_matches("https://")).await?,
            dir: TempDir::with_prefix_in("qm-", &facts.site.dir)?,
            agent: None,
            programs: self.programs.clone(),
            identity: String::new(),
            home: self.home.clone(),
        };
        fs::copy(self.policy_path(), other.policy_path())?;
        other.identity = other.approle_identity().await?;
        other.write_config()?;
        other.start_agent().await?;
        Ok(other)
    }

    /// Lets the world's jobs do everything in the cluster, for kinds and objects of the whole cluster.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn grant_all(&self) -> Result<()> {
        let api = "rbac.authorization.k8s.io";
        let group = format!("gitlab:project:{}", self.project);
        let binding = serde_json::json!({ "apiVersion": format!("{api}/v1"), "kind": "ClusterRoleBinding",
            "metadata": { "name": self.namespace },
            "roleRef": { "apiGroup": api, "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "apiGroup": api, "kind": "Group", "name": group }] });
        self.stand.cluster().apply(&binding).await
    }

    /// Returns the text of the policy that a world starts with.
    #[must_use]
    pub fn policy(&self) -> String {
        let Self {
            project,
            role,
            namespace,
            ..
        } = self;
        format!(
            r#"version = 1

[[rule]]
id = "{role}"
[rule.match]
project_id = {project}
ref_protected = true
[rule.vault]
role = "{role}"
paths = ["kv/{role}/*", "kv1/{role}/*", "database/creds/flask", "database/creds/{role}"]
[rule.cluster.stand]
namespaces = ["{namespace}"]
kinds = ["apps/Deployment", "apps/StatefulSet", "apps/DaemonSet", "batch/Job", "v1/Pod", "v1/Service",
  "v1/ConfigMap", "v1/PersistentVolumeClaim"]
secrets = ["app-*"]
verbs = ["apply", "prune", "rollback", "rotate"]
require_digest = false
"#
        )
    }

    /// Where the policy is, to be changed before the agent starts.
    #[must_use]
    pub fn policy_path(&self) -> PathBuf {
        self.dir.path().join("policy.toml")
    }

    fn write_config(&self) -> Result<()> {
        let kubeconfig = fs::read_to_string(&self.stand.facts().kubeconfig_agent)?;
        let proxied = kubeconfig.replace(&self.stand.facts().api, &self.api.url());
        let path = self.dir.path().join("kubeconfig");
        fs::write(&path, proxied)?;
        let site = AgentSite {
            dir: self.dir.path().to_owned(),
            policy: self.policy_path(),
            kubeconfig: path,
            issuer: self.stand.facts().issuer.clone(),
            vault: format!("http://{}", self.vault.address()),
            programs: agent::render_programs()?,
            identity: self.identity.clone(),
            home: self.home.clone(),
        };
        fs::write(self.config_path(), agent::config(&site))?;
        Ok(())
    }

    /// Gives the agent, which is to be started again, another identity in Vault: the text of the
    /// section `[vault.identity]`, or nothing.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn use_identity(&mut self, section: &str) -> Result<()> {
        section.clone_into(&mut self.identity);
        self.write_config()
    }

    /// Where the agent's configuration is.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("quaymaster.toml")
    }

    /// The folder of this world: state, sockets, the agent's own log.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the agent wrote to its standard error.
    ///
    /// # Errors
    /// When there is no such file yet.
    pub fn agent_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.path().join("agent.log"))?)
    }

    /// Runs these programs instead of the debug builds.
    pub fn use_programs(&mut self, programs: agent::Programs) {
        self.programs = Some(programs);
    }

    /// Starts the agent and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or does not become ready; with the end of its log.
    pub async fn start_agent(&mut self) -> Result<()> {
        self.spawn_agent().await?;
        let admin = self.admin();
        let ready = until(
            "the agent to be ready",
            Duration::from_secs(20),
            async || {
                if let Some(status) = self
                    .agent
                    .as_mut()
                    .and_then(|agent| agent.try_wait().ok().flatten())
                {
                    return Look::Hopeless(anyhow::anyhow!("the agent ended: {status}"));
                }
                match admin.get("/readyz").await {
                    Ok(answer) if answer.status == 200 => Look::Ready(()),
                    Ok(answer) => Look::NotYet(answer.text()),
                    Err(error) => Look::NotYet(format!("{error:#}")),
                }
            },
        )
        .await;
        ready.with_context(|| self.agent_log().unwrap_or_default())
    }

    /// Starts the agent without waiting for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn spawn_agent(&mut self) -> Result<()> {
        let program = match &self.programs {
            Some(chosen) => &chosen.agent,
            None => &programs().await?.agent,
        };
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("agent.log"))?;
        self.agent = Some(agent::start(program, &self.config_path(), log)?);
        Ok(())
    }

    /// Returns the agent's process id.
    #[must_use]
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().and_then(Child::id)
    }

    /// Sends the agent a signal.
    ///
    /// # Errors
    /// When there is no agent.
    pub fn signal_agent(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = self
            .agent_pid()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(rustix::process::Pid::from_raw);
        Ok(rustix::process::kill_process(
            pid.context("the agent does not run")?,
            signal,
        )?)
    }

    /// Waits until the agent has ended; returns its exit code, unset after a signal.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn agent_ended(&mut self, within: Duration) -> Result<Option<i32>> {
        let agent = self.agent.as_mut().context("the agent does not run")?;
        let status = tokio::time::timeout(within, agent.wait())
            .await
            .context("the agent did not end")??;
        self.agent = None;
        Ok(status.code())
    }

    /// Kills the agent as nobody can prepare for.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill_agent(&mut self) -> Result<()> {
        self.signal_agent(rustix::process::Signal::KILL)?;
        self.agent_ended(Duration::from_secs(10)).await.map(drop)
    }

    /// Returns the jobs socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        agent::sockets(self.dir.path()).0
    }

    /// A caller of the jobs socket without a token.
    #[must_use]
    pub fn nobody(&self) -> Client {
        Client::new(&self.socket())
    }

    /// A caller of the admin socket.
    #[must_use]
    pub fn admin(&self) -> Client {
        Client::new(&agent::sockets(self.dir.path()).1)
    }

    /// A good token of a job of this world's project, to be changed and signed.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn token(&self) -> Result<crate::stand::token::IdToken> {
        Ok(self
            .stand
            .token()?
            .project(&self.project, &format!("team/{}", self.role))
            // All jobs of a scenario are of one pipeline, unless it says otherwise.
            .claim("pipeline_id", "5001"))
    }

    /// A caller of the jobs socket with a good token.
    ///
    /// # Errors
    /// When signing fails.
    pub fn job(&self) -> Result<Client> {
        Ok(self.nobody().bearer(&self.stand.sign(self.token()?)?))
    }

    /// Posts a bundle as a good job; returns the answer.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn post(&self, files: &[(&str, &str)]) -> Result<Answer> {
        post(&self.job()?, "/v1/deploys", files).await
    }

    /// Deploys a bundle as a good job and waits for the end.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn deploy(&self, files: &[(&str, &str)]) -> Result<Finished> {
        self.deploy_as(&self.job()?, "/v1/deploys", files).await
    }

    /// Asks for the plan of a bundle and waits for the end.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn plan(&self, files: &[(&str, &str)]) -> Result<Finished> {
        self.deploy_as(&self.job()?, "/v1/deploys?dry_run=true", files)
            .await
    }

    /// Deploys as any caller and waits for the end.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn deploy_as(
        &self,
        client: &Client,
        path: &str,
        files: &[(&str, &str)],
    ) -> Result<Finished> {
        let answer = post(client, path, files).await?;
        if answer.status != 202 {
            return Ok(Finished {
                id: String::new(),
                answer,
                log: String::new(),
            });
        }
        let id = answer.json()?["id"]
            .as_str()
            .context("the answer names the run")?
            .to_owned();
        self.finish(client, &id).await
    }

    /// Waits for the end of a run.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn finish(&self, client: &Client, id: &str) -> Result<Finished> {
        let answer = client
            .get(&format!("/v1/deploys/{id}/result?wait=170s"))
            .await?;
        let log = client
            .clone()
            .with("accept", "text/plain")
            .get(&format!("/v1/deploys/{id}/events"))
            .await?
            .text();
        Ok(Finished {
            id: id.to_owned(),
            answer,
            log,
        })
    }
}
