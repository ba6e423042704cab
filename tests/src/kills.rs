//! The kill sweep: deploys during which the agent is killed at a random moment and started again.
//!
//! Used by a scenario (few kills) and by `cargo measure kills` (many). Each round deploys new values of
//! everything with the real client, kills the agent, starts it, waits for the client's exit code, and
//! compares what it was told with what the cluster has. Invariant: the seed decides every moment, so a
//! round that fails can be told apart from the others by its number and moment.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

use crate::stand::agent::Programs;
use crate::wait::Look;
use crate::wait::pause;
use crate::wait::until;
use crate::world::World;

/// So many ConfigMaps are beside the Secret and the Deployment.
const MAPS: usize = 4;
/// The time from the start of the client in which the agent reads, plans and writes.
const BUSY: Duration = Duration::from_millis(300);
/// Longest that one round may take.
const ROUND: Duration = Duration::from_secs(120);

/// How the rounds of a sweep ended.
#[derive(Debug, Default)]
pub struct Tally {
    /// Rounds by status and exit code.
    pub ends: BTreeMap<String, usize>,
    /// Kills by how far the run had come, as the agent says at its next start.
    pub phases: BTreeMap<String, usize>,
}

/// One sweep over a world.
pub struct Sweep<'a> {
    world: &'a mut World,
    programs: Programs,
    job: TempDir,
    random: u64,
    calm: Duration,
    generation: i64,
    tally: Tally,
}

impl<'a> Sweep<'a> {
    /// Prepares a sweep and deploys once without a kill, to learn how long that takes.
    ///
    /// # Errors
    /// When that deploy fails.
    pub async fn new(world: &'a mut World, programs: Programs, seed: u64) -> Result<Self> {
        let job = TempDir::with_prefix_in("job-", world.dir())?;
        let mut sweep = Self {
            world,
            programs,
            job,
            random: seed | 1,
            calm: Duration::ZERO,
            generation: 0,
            tally: Tally::default(),
        };
        for round in 1..=2 {
            let began = Instant::now();
            sweep.write(&format!("calm-{round}")).await?;
            let (code, report) = sweep.client()?.await?;
            ensure!(code == 0, "a calm deploy ends with {code}: {report}");
            sweep.calm = began.elapsed();
        }
        sweep.generation = sweep.deployment().await?.0;
        Ok(sweep)
    }

    /// Kills the agent in `rounds` deploys.
    ///
    /// # Errors
    /// At the first thing that is not as it should be, naming round and moment.
    pub async fn run(mut self, rounds: usize) -> Result<Tally> {
        for round in 0..rounds {
            let share = u32::try_from(self.next() % 1100)?;
            // Most of a deploy is waiting, so every other kill comes while it plans and writes.
            let span = match round % 2 {
                0 => self.calm,
                _ => self.calm.min(BUSY),
            };
            let moment = span * share / 1000;
            let killed = self.round(round, moment).await;
            killed.with_context(|| format!("round {round}, killed after {moment:?}"))?;
        }
        self.settled().await?;
        Ok(self.tally)
    }

    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }

    async fn round(&mut self, round: usize, moment: Duration) -> Result<()> {
        let value = format!("round-{round}");
        let version = self.write(&value).await?;
        let before = self.cut_lines()?;
        let client = self.client()?;
        pause(moment).await;
        self.world.kill_agent().await?;
        self.world.spawn_agent().await?;
        let (code, report) = client.await?;
        let cut = self.cut_lines()?;
        let phase = cut.get(before.len()).map_or("no run", |line| phase(line));
        *self.tally.phases.entry(phase.to_owned()).or_default() += 1;
        let status = report["status"].as_str().unwrap_or("none").to_owned();
        let end = format!("{status} (exit code {code})");
        *self.tally.ends.entry(end).or_default() += 1;
        self.is_true(&report, code, &value, &version)
            .await
            .with_context(|| format!("{report}\n{}", self.world.agent_log().unwrap_or_default()))?;
        self.is_tidy().await
    }

    /// Writes the bundle and the Vault secret of a round; returns the secret's value.
    async fn write(&self, value: &str) -> Result<String> {
        let secret = format!("secret-of-{value}");
        let path = self.world.put("app", json!({ "password": secret })).await?;
        let spec = format!(
            "version: 1\nname: app\nsecrets:\n  - name: app-secret\n    keys: {{ value: {{ vault: {path}, field: password }} }}\nmanifests: [all.yaml]\nrollout: {{ timeout: 90s }}\n"
        );
        let maps = (0..MAPS).map(|number| {
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: c{number} }}\ndata: {{ key: {value:?} }}\n---\n")
        });
        let web = format!(
            r#"apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web }}
spec:
  replicas: 1
  selector: {{ matchLabels: {{ app: web }} }}
  template:
    metadata: {{ labels: {{ app: web }}, annotations: {{ round: {value:?} }} }}
    spec:
      nodeSelector: {{ type: kwok }}
      tolerations: [{{ operator: Exists }}]
      containers: [{{ name: main, image: "registry.example.com/app:1" }}]
"#
        );
        std::fs::write(self.job.path().join("quaymaster.yaml"), spec)?;
        std::fs::write(
            self.job.path().join("all.yaml"),
            maps.collect::<String>() + &web,
        )?;
        Ok(secret)
    }

    /// Starts the client; the future is its exit code and the report that it printed.
    fn client(&self) -> Result<impl Future<Output = Result<(i32, Value)>> + use<>> {
        let child = Command::new(&self.programs.client)
            .args(["deploy", "-o", "json", "--timeout", "100s"])
            .current_dir(self.job.path())
            .env_clear()
            .env("QUAYMASTER_SOCKET", self.world.socket())
            .env(
                "QUAYMASTER_ID_TOKEN",
                self.world.stand.sign(self.world.token()?)?,
            )
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok(async move {
            let output = tokio::time::timeout(ROUND, child.wait_with_output())
                .await
                .context("the client did not end")??;
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            let report = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|_| Value::from(format!("no report: {told}")));
            Ok((output.status.code().unwrap_or(-1), report))
        })
    }

    /// Compares a verdict with the cluster.
    async fn is_true(
        &mut self,
        report: &Value,
        code: i32,
        value: &str,
        secret: &str,
    ) -> Result<()> {
        let maps = self.maps_with(value).await?;
        let (generation, round, ready) = self.deployment().await?;
        let written = self.world.secret("app-secret").await?["value"] == secret;
        let status = report["status"].as_str().unwrap_or_default();
        let message = report["message"].as_str().unwrap_or_default();
        ensure!(
            generation == self.generation + i64::from(round == value),
            "the Deployment was written once or not at all: generation {} became {generation}",
            self.generation
        );
        self.generation = generation;
        match (status, code) {
            ("succeeded", 0) => ensure!(
                maps == MAPS && round == value && ready && written,
                "told as done: {maps} ConfigMaps, Deployment of {round}, ready: {ready}, Secret written: {written}"
            ),
            ("failed", 10) => {
                let others = maps + usize::from(round == value);
                ensure!(message.contains("whose values ended with it"), "{message}");
                let told = format!("{others} of {} other objects", MAPS + 1);
                ensure!(message.contains(&told), "the cluster has {told}: {message}");
            }
            ("interrupted", 10) => {
                ensure!(message.contains("nothing was written"), "{message}");
                ensure!(
                    maps == 0 && round != value && !written,
                    "told as not written: {maps} ConfigMaps, Deployment of {round}, Secret written: {written}"
                );
            }
            _ => anyhow::bail!("an end that no kill explains: {status}, exit code {code}"),
        }
        Ok(())
    }

    async fn maps_with(&self, value: &str) -> Result<usize> {
        let path = "jsonpath={.items[*].data.key}";
        let text = self
            .world
            .kubectl(&["get", "configmap", "-o", path])
            .await?;
        Ok(text.split_whitespace().filter(|one| *one == value).count())
    }

    /// The Deployment's generation, its round, and whether it is ready in it.
    async fn deployment(&self) -> Result<(i64, String, bool)> {
        let text = self
            .world
            .kubectl(&["get", "deployment", "web", "-o", "json"])
            .await?;
        let body: Value = serde_json::from_str(&text)?;
        let generation = body["metadata"]["generation"].as_i64().unwrap_or(0);
        let round = &body["spec"]["template"]["metadata"]["annotations"]["round"];
        let status = &body["status"];
        let ready = status["observedGeneration"] == generation
            && status["updatedReplicas"] == 1
            && status["availableReplicas"] == 1;
        Ok((
            generation,
            round.as_str().unwrap_or_default().to_owned(),
            ready,
        ))
    }

    /// No lock, no credential and no run is left.
    async fn is_tidy(&self) -> Result<()> {
        let holder = "jsonpath={.spec.holderIdentity}";
        let words = ["get", "lease", "quaymaster-app", "-o", holder];
        until(
            "the lock to be given back",
            Duration::from_secs(10),
            async || match self.world.kubectl(&words).await {
                Ok(text) if text.is_empty() => Look::Ready(()),
                Ok(text) => Look::NotYet(text),
                Err(error) => Look::NotYet(format!("{error:#}")),
            },
        )
        .await?;
        ensure!(self.world.live_credentials().await? == 0, "credentials");
        Ok(())
    }

    /// What the agent said about cut runs, over all of its starts.
    fn cut_lines(&self) -> Result<Vec<String>> {
        let log = self.world.agent_log()?;
        let lines = log.lines().filter(|line| line.contains("was cut off"));
        Ok(lines.map(str::to_owned).collect())
    }

    /// A restart finds nothing to do.
    async fn settled(&mut self) -> Result<()> {
        let before = self.cut_lines()?.len();
        self.world.kill_agent().await?;
        self.world.start_agent().await?;
        let after = self.cut_lines()?;
        ensure!(after.len() == before, "the journal is settled: {after:?}");
        Ok(())
    }
}

fn phase(line: &str) -> &'static str {
    let phases = ["NothingWritten", "Writing", "Supplied", "Written"];
    let found = phases.into_iter().rev().find(|phase| line.contains(phase));
    match found {
        Some("Written") if line.contains("NothingWritten") => "NothingWritten",
        Some(phase) => phase,
        None => "unknown",
    }
}
