//! The kill sweep of rotations: a credential is replaced, the agent killed at a random moment and started
//! again.
//!
//! Used by a scenario (few kills) and by `cargo measure rotation-kills` (many). After each round one
//! credential of each Secret is alive, it is the one in the Secret, PostgreSQL knows its user, and nothing
//! is open.
//! Invariant: the seed decides every moment.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;

use crate::wait::Look;
use crate::wait::pause;
use crate::wait::until;
use crate::world::World;

/// A killed run's lock holds the app for 30 s, so each round has another app of at most so many.
const APPS: usize = 45;
/// A rotation that restarts nothing is over in about this time.
const BUSY_MILLIS: u64 = 400;
/// How long an agent that was started again may take to put everything right.
const RIGHT: Duration = Duration::from_secs(60);

/// One sweep over a world whose agents keep Secrets fresh.
pub struct Rotations<'a> {
    world: &'a mut World,
    random: u64,
    /// How often the values of each app had changed before its round.
    generations: Vec<u64>,
    /// Rounds by what the kill left of the change.
    pub ends: BTreeMap<&'static str, usize>,
}

impl<'a> Rotations<'a> {
    /// Deploys the Secrets that `rounds` rounds need, each by an app of its own.
    ///
    /// # Errors
    /// When that fails.
    pub async fn new(world: &'a mut World, seed: u64, rounds: usize) -> Result<Self> {
        let apps = rounds.clamp(1, APPS);
        let creds = world.creds();
        for app in 0..apps {
            let spec = format!(
                "version: 1\nname: app-{app}\nsecrets:\n  - name: app-db-{app}\n    keys:\n      username: {{ vault: {creds}, field: username }}\n      \
                 password: {{ vault: {creds}, field: password }}\n      \
                 url: {{ template: \"pg://{{{{ username }}}}:{{{{ password }}}}@db\" }}\n    rotate: {{}}\n"
            );
            let done = world.deploy(&[("quaymaster.yaml", &spec)]).await?;
            ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
        }
        let mut sweep = Self {
            world,
            random: seed | 1,
            generations: vec![1; apps],
            ends: BTreeMap::new(),
        };
        for app in 0..apps {
            sweep.generations[app] = sweep.right(app).await?;
        }
        Ok(sweep)
    }

    /// Kills the agent in `rounds` rotations.
    ///
    /// # Errors
    /// At the first thing that is not as it should be, naming round and moment.
    pub async fn run(&mut self, rounds: usize) -> Result<()> {
        for round in 0..rounds {
            let moment = Duration::from_millis(self.next() % BUSY_MILLIS);
            let told = || format!("round {round}, killed after {moment:?}");
            let app = round % self.generations.len();
            self.round(app, moment).await.with_context(told)?;
        }
        Ok(())
    }

    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }

    async fn round(&mut self, app: usize, moment: Duration) -> Result<()> {
        let place = format!("/v1/managed/stand/{}/app-db-{app}", self.world.namespace);
        let admin = self.world.admin();
        let before = self.generations[app];
        // An agent that has just started has to find the Secret first.
        until(
            "the agent to keep the Secret",
            RIGHT,
            async || match admin.get(&place).await {
                Ok(answer) => match answer.json() {
                    Ok(seen) if seen["generation"] == before && seen["freshness"] == "fresh" => {
                        Look::Ready(())
                    }
                    Ok(seen) => Look::NotYet(seen.to_string()),
                    Err(error) => Look::NotYet(format!("{error:#}")),
                },
                Err(error) => Look::NotYet(format!("{error:#}")),
            },
        )
        .await?;
        let asked = admin.send("POST", &format!("{place}/rotate"), "").await?;
        ensure!(asked.status == 202, "{}", asked.text());
        pause(moment).await;
        self.world.kill_agent().await?;
        self.world.start_agent().await?;
        let generation = self.right(app).await?;
        let end = match generation - before {
            0 => "the old credential stays",
            1 => "the new one is in place",
            _ => "more than one change",
        };
        *self.ends.entry(end).or_default() += 1;
        ensure!(generation - before <= 1, "{end}");
        self.generations[app] = generation;
        Ok(())
    }

    /// Waits until everything is right; returns how often the values have changed.
    async fn right(&self, app: usize) -> Result<u64> {
        let found = until(
            "one whole Secret and one credential",
            RIGHT,
            async || match self.look(app).await {
                Ok(generation) => Look::Ready(generation),
                Err(error) => Look::NotYet(format!("{error:#}")),
            },
        )
        .await;
        found.with_context(|| self.world.agent_log().unwrap_or_default())
    }

    async fn look(&self, app: usize) -> Result<u64> {
        let values = self.world.secret(&format!("app-db-{app}")).await?;
        let (user, password) = (&values["username"], &values["password"]);
        ensure!(
            values["url"] == format!("pg://{user}:{password}@db"),
            "the Secret is torn"
        );
        let record = self.record(app).await?;
        let state = &record["state"];
        let open = state["retiring"].as_array().map_or(0, Vec::len);
        ensure!(
            state["trial"].is_null() && open == 0,
            "a change is open: {state}"
        );
        let alive = self.world.live_credentials().await?;
        let apps = self.generations.len();
        ensure!(
            alive == apps,
            "{alive} credentials are alive of {apps} Secrets"
        );
        ensure!(
            self.world.has_database_user(user).await?,
            "the user in the Secret is not in PostgreSQL"
        );
        state["generation"].as_u64().context("a generation")
    }

    async fn record(&self, app: usize) -> Result<Value> {
        let path = "jsonpath={.metadata.annotations.state\\.quaymaster\\.dev/managed}";
        let text = self
            .world
            .kubectl(&["get", "secret", &format!("app-db-{app}"), "-o", path])
            .await?;
        serde_json::from_str(&text).with_context(|| json!(text).to_string())
    }
}
