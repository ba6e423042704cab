//! Secrets that are kept fresh, on real servers: new versions, credentials that end, changes that do not
//! work, hands that meddle, agents that die.
//!
//! What is counted is counted where it counts: live users in PostgreSQL, pods that run, values that a
//! pod sees.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::rotations::Rotations;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;

use crate::samples::Deployment;

/// How long a change may take to be in the Secret.
const SOON: Duration = Duration::from_secs(30);
/// How long a rollout and what follows it may take.
const ROLLOUT: Duration = Duration::from_secs(120);

/// A Secret `app-db` with a KV key and a credential of the scenario's own, kept fresh.
fn spec(world: &World, kv: &str, rotate: &str) -> String {
    let creds = world.creds();
    format!(
        "version: 1\nname: app\nmanifests: [k8s/]\nrollout: {{ timeout: 90s }}\nsecrets:\n  - name: app-db\n    keys:\n      \
         api: {{ vault: {kv}, field: api }}\n      username: {{ vault: {creds}, field: username }}\n      \
         password: {{ vault: {creds}, field: password }}\n      \
         url: {{ template: \"pg://{{{{ username }}}}:{{{{ password }}}}@db\" }}\n    rotate: {rotate}\n"
    )
}

/// A Deployment that sees the keys `api` and `username`; its shell line may fail on them.
fn web(world: &World, shell: &str) -> String {
    let image = world.stand.busybox();
    Deployment {
        image: &image,
        shell,
        container: "env:\n  - name: API\n    valueFrom: { secretKeyRef: { name: app-db, key: api } }\n  - name: WHO\n    valueFrom: { secretKeyRef: { name: app-db, key: username } }",
        ..Deployment::default()
    }
    .yaml()
}

/// What a world of this file deploys.
struct App {
    world: World,
    kv: String,
}

impl App {
    async fn deploy(name: &str, rotate: &str, shell: &str) -> Result<Self> {
        let world = World::rotating(name).await?;
        let kv = world.put("app", json!({ "api": "first-value" })).await?;
        let app = Self { world, kv };
        app.again(rotate, shell).await?;
        Ok(app)
    }

    async fn again(&self, rotate: &str, shell: &str) -> Result<()> {
        let files = [
            ("quaymaster.yaml", spec(&self.world, &self.kv, rotate)),
            ("k8s/web.yaml", web(&self.world, shell)),
        ];
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        let done = self.world.deploy(&files).await?;
        ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
        Ok(())
    }

    /// The record on the Secret.
    async fn record(&self) -> Result<Value> {
        let text = self
            .world
            .kubectl(&["get", "secret", "app-db", "-o", "json"])
            .await?;
        let body: Value = serde_json::from_str(&text)?;
        let record = &body["metadata"]["annotations"]["state.quaymaster.dev/managed"];
        Ok(serde_json::from_str(
            record.as_str().context("the Secret has a record")?,
        )?)
    }

    /// Waits until the record is as wanted.
    async fn until_record(
        &self,
        what: &str,
        within: Duration,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let found = until(what, within, async || match self.record().await {
            Ok(record) if is_so(&record) => Look::Ready(record),
            Ok(record) => Look::NotYet(record.to_string()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        })
        .await;
        found.with_context(|| self.world.agent_log().unwrap_or_default())
    }

    /// Waits until one credential is alive and no other: OpenBao ends those of a token a little after
    /// the token.
    async fn only_one_lives(&self) -> Result<()> {
        until("one credential to be alive", SOON, async || {
            match self.world.live_credentials().await {
                Ok(1) => Look::Ready(()),
                Ok(count) => Look::NotYet(format!("{count} are alive")),
                Err(error) => Look::NotYet(format!("{error:#}")),
            }
        })
        .await
        .with_context(|| self.world.agent_log().unwrap_or_default())
    }

    /// What a variable is in the pod that runs.
    async fn sees(&self, variable: &str) -> Result<String> {
        let line = format!("echo ${variable}");
        // A pod that is on its way out may be the one that is asked.
        until("a pod to answer", SOON, async || {
            let asked = ["exec", "deploy/web", "--", "/bin/sh", "-c", &line];
            match self.world.kubectl(&asked).await {
                Ok(seen) => Look::Ready(seen.trim().to_owned()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            }
        })
        .await
    }
}

/// Says whether a record is at a generation and nothing of it is open.
fn settled(generation: u64) -> impl Fn(&Value) -> bool {
    move |record| {
        let state = &record["state"];
        state["generation"] == generation
            && state["trial"].is_null()
            && state["retiring"].as_array().is_none_or(Vec::is_empty)
    }
}

#[tokio::test]
async fn a_new_version_reaches_the_secret_and_the_pods_that_use_it() -> Result<()> {
    let app = App::deploy("version", "{}", "exec sleep 3600").await?;
    let world = &app.world;
    let before = world.secret("app-db").await?;
    world.put("app", json!({ "api": "second-value" })).await?;
    let record = app
        .until_record("the new version to be settled", ROLLOUT, settled(2))
        .await?;
    let after = world.secret("app-db").await?;
    ensure!(after["api"] == "second-value", "{record}");
    ensure!(
        after["username"] == before["username"],
        "the credential is alive and stays"
    );
    ensure!(record["state"]["restarts"] == 1, "{record}");
    if world.stand.facts().has_node {
        ensure!(app.sees("API").await? == "second-value");
    }
    let backup = world.kubectl(&["get", "secret", "app-db.previous"]).await;
    ensure!(backup.is_err(), "the backup is gone");
    let log = world.agent_log()?;
    for value in ["second-value", before["password"].as_str()] {
        ensure!(!log.contains(value), "a value is in the agent's log");
    }
    Ok(())
}

#[tokio::test]
async fn a_credential_that_is_gone_is_replaced_and_only_one_stays_alive() -> Result<()> {
    let app = App::deploy("gone", "{}", "exec sleep 3600").await?;
    let world = &app.world;
    let before = world.secret("app-db").await?;
    let record = app.record().await?;
    let creds = world.creds();
    let lease = record["state"]["credentials"][&creds]["lease"].clone();
    world
        .vault_write(
            "sys/leases/revoke",
            json!({ "lease_id": lease, "sync": true }),
        )
        .await?;
    // The daemon asks about it when it is due; a restarted one asks at once.
    let mut app = app;
    app.world.kill_agent().await?;
    app.world.start_agent().await?;
    app.until_record("the credential to be replaced", ROLLOUT, settled(2))
        .await?;
    let after = app.world.secret("app-db").await?;
    ensure!(
        after["username"] != before["username"],
        "it is another user"
    );
    let url = format!("pg://{}:{}@db", after["username"], after["password"]);
    ensure!(after["url"] == url, "the template follows");
    app.only_one_lives().await?;
    if app.world.stand.facts().has_node {
        ensure!(app.sees("WHO").await? == after["username"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_change_that_does_not_work_is_taken_back() -> Result<()> {
    let shell =
        "[ \"$API\" != bad-value ] || { echo cannot start with this; exit 3; }; exec sleep 3600";
    let app = App::deploy("bad", "{}", shell).await?;
    let world = &app.world;
    if !world.stand.facts().has_node {
        return Ok(());
    }
    world.put("app", json!({ "api": "bad-value" })).await?;
    let record = app
        .until_record("the change to be taken back", ROLLOUT, |record| {
            !record["state"]["setback"].is_null() && settled(3)(record)
        })
        .await?;
    ensure!(
        world.secret("app-db").await?["api"] == "first-value",
        "{record}"
    );
    ensure!(app.sees("API").await? == "first-value");
    let why = record["state"]["setback"]["why"]
        .as_str()
        .unwrap_or_default();
    ensure!(!why.is_empty(), "{record}");
    app.only_one_lives().await?;
    let events = world
        .kubectl(&[
            "get",
            "events",
            "--field-selector",
            "reason=RotationFailed",
            "-o",
            "json",
        ])
        .await?;
    ensure!(events.contains("app-db"), "{events}");
    // The next version is taken, once the wait after the setback is over or it is asked for.
    Ok(())
}

#[tokio::test]
async fn what_somebody_edits_or_deletes_is_put_right() -> Result<()> {
    let app = App::deploy("meddled", "{}", "exec sleep 3600").await?;
    let world = &app.world;
    let patch = json!({ "stringData": { "api": "meddled-value" } }).to_string();
    world
        .kubectl(&["patch", "secret", "app-db", "-p", &patch])
        .await?;
    until(
        "the edited key to be put right",
        SOON,
        async || match world.secret("app-db").await {
            Ok(values) if values["api"] == "first-value" => Look::Ready(()),
            Ok(_) => Look::NotYet("it has the meddled value".to_owned()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await
    .with_context(|| world.agent_log().unwrap_or_default())?;
    world.kubectl(&["delete", "secret", "app-db"]).await?;
    until("the Secret to be back", ROLLOUT, async || {
        match world.secret("app-db").await {
            Ok(values) if values.len() == 4 => Look::Ready(()),
            Ok(values) => Look::NotYet(format!("{} keys", values.len())),
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    })
    .await
    .with_context(|| world.agent_log().unwrap_or_default())?;
    app.until_record("everything to be settled", ROLLOUT, |record| {
        let generation = record["state"]["generation"].as_u64().unwrap_or(0);
        settled(generation)(record)
    })
    .await?;
    app.only_one_lives().await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_agent_keeps_credentials_and_restarts_nothing() -> Result<()> {
    let mut app = App::deploy("killed", "{}", "exec sleep 3600").await?;
    let before = app.world.secret("app-db").await?;
    app.world.kill_agent().await?;
    app.world.start_agent().await?;
    app.world
        .put("app", json!({ "api": "second-value" }))
        .await?;
    let record = app
        .until_record("the restarted agent to go on", ROLLOUT, settled(2))
        .await?;
    let after = app.world.secret("app-db").await?;
    ensure!(after["username"] == before["username"], "{record}");
    ensure!(after["api"] == "second-value", "{record}");
    ensure!(record["state"]["restarts"] == 1, "{record}");
    app.only_one_lives().await?;
    Ok(())
}

#[tokio::test]
async fn another_agent_takes_over_and_two_never_issue_for_one_secret() -> Result<()> {
    let mut app = App::deploy("shared", "{}", "exec sleep 3600").await?;
    let other = app.world.second_agent().await?;
    app.world.kill_agent().await?;
    app.world
        .put("app", json!({ "api": "second-value" }))
        .await?;
    let found = until("the other agent to take over", ROLLOUT, async || match app
        .world
        .secret("app-db")
        .await
    {
        Ok(values) if values["api"] == "second-value" => Look::Ready(()),
        Ok(_) => Look::NotYet("it has the first value".to_owned()),
        Err(error) => Look::NotYet(format!("{error:#}")),
    })
    .await;
    found.with_context(|| other.agent_log().unwrap_or_default())?;
    let settle = app
        .until_record("everything to be settled", ROLLOUT, |record| {
            let state = &record["state"];
            state["trial"].is_null() && state["retiring"].as_array().is_none_or(Vec::is_empty)
        })
        .await;
    settle.with_context(|| other.agent_log().unwrap_or_default())?;
    app.only_one_lives().await?;
    Ok(())
}

#[tokio::test]
async fn no_kill_leaks_a_credential_or_tears_a_secret() -> Result<()> {
    let mut world = World::rotating("rotkills").await?;
    let seed = u64::from(std::process::id()) * 7919;
    println!("kills in rotations: seed {seed}");
    let mut sweep = Rotations::new(&mut world, seed, 8).await?;
    sweep.run(8).await?;
    println!("kills in rotations: {:?}", sweep.ends);
    Ok(())
}
