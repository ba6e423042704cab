//! The desk: what jobs and the operator ask about Secrets that are kept fresh, with the real client
//! against a real agent.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::faults::Fault;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tests::world::programs;
use tokio::process::Command;

use crate::client::folder;
use crate::client::quaymaster;
use crate::client::told;

const SOON: Duration = Duration::from_secs(60);

/// Secrets alone: one KV key, restarts nothing.
fn spec(kv: &str) -> String {
    format!(
        "version: 1\nname: app-secrets\nsecrets:\n  - name: app-api\n    \
         keys: {{ api: {{ vault: {kv}, field: api }} }}\n    rotate: {{ restart: none }}\n"
    )
}

/// Runs the client as the operator would.
async fn operator(world: &World, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(&programs().await?.client);
    let socket = world.dir().join("admin/quaymaster.sock");
    command.args(words).arg("--socket").arg(socket).env_clear();
    Ok(command.output().await?)
}

/// The only Secret of a list, once it is as wanted.
async fn until_listed(
    what: &str,
    world: &World,
    dir: &Path,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    until(what, SOON, async || {
        let words = ["secrets", "list", "-o", "json"];
        let output = match quaymaster(world, &words, dir, &[]).await {
            Ok(output) => output,
            Err(error) => return Look::NotYet(format!("{error:#}")),
        };
        let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let secret = list["secrets"][0].clone();
        if is_so(&secret) {
            Look::Ready(secret)
        } else {
            Look::NotYet(told(&output))
        }
    })
    .await
}

#[tokio::test]
async fn a_project_applies_lists_rotates_and_forgets_its_secrets() -> Result<()> {
    let world = World::rotating("desk").await?;
    let kv = world.put("app", json!({ "api": "first-value" })).await?;
    let dir = folder(&world, &[("quaymaster.yaml", &spec(&kv))])?;
    let run = async |words: &[&str]| quaymaster(&world, words, dir.path(), &[]).await;

    let applied = run(&["secrets", "apply"]).await?;
    ensure!(applied.status.code() == Some(0), "{}", told(&applied));
    let secret = until_listed("the Secret to be fresh", &world, dir.path(), |secret| {
        secret["freshness"] == "fresh"
    })
    .await?;
    ensure!(
        secret["versions"][&kv] == 1 && secret["generation"] == 1,
        "{secret}"
    );
    let table = run(&["secrets", "list"]).await?;
    ensure!(told(&table).contains("app-api"), "{}", told(&table));

    world.put("app", json!({ "api": "second-value" })).await?;
    let changed = run(&["secrets", "changed", &kv]).await?;
    ensure!(
        changed.status.code() == Some(0) && told(&changed).contains("/app-api"),
        "{}",
        told(&changed)
    );
    until_listed(
        "the new version to be taken",
        &world,
        dir.path(),
        |secret| secret["versions"][&kv] == 2 && secret["freshness"] == "fresh",
    )
    .await?;
    let values = world.secret("app-api").await?;
    ensure!(values["api"] == "second-value");

    let rotated = run(&["secrets", "rotate", "app-api"]).await?;
    ensure!(rotated.status.code() == Some(0), "{}", told(&rotated));
    let missing = run(&["secrets", "rotate", "no-such"]).await?;
    ensure!(missing.status.code() == Some(21), "{}", told(&missing));
    let bad = run(&["secrets", "changed", "kv/../x"]).await?;
    ensure!(
        bad.status.code() == Some(21) && told(&bad).contains("paths[0]"),
        "{}",
        told(&bad)
    );

    let forgotten = run(&["secrets", "forget", "app-api"]).await?;
    ensure!(forgotten.status.code() == Some(0), "{}", told(&forgotten));
    until_listed(
        "nothing to be kept fresh",
        &world,
        dir.path(),
        Value::is_null,
    )
    .await?;
    let values = world.secret("app-api").await?;
    ensure!(values["api"] == "second-value", "the values stay");
    Ok(())
}

#[tokio::test]
async fn the_operator_sees_all_of_them_and_others_see_none() -> Result<()> {
    let world = World::rotating("desk-admin").await?;
    let kv = world.put("app", json!({ "api": "a-value" })).await?;
    let dir = folder(&world, &[("quaymaster.yaml", &spec(&kv))])?;
    let applied = quaymaster(&world, &["secrets", "apply"], dir.path(), &[]).await?;
    ensure!(applied.status.code() == Some(0), "{}", told(&applied));
    let fresh = |secret: &Value| secret["freshness"] == "fresh";
    let secret = until_listed("the Secret to be fresh", &world, dir.path(), fresh).await?;
    let text = |name: &str| secret[name].as_str().map(str::to_owned);
    let cluster = text("cluster").context("a cluster")?;
    let namespace = text("namespace").context("a namespace")?;
    let name = format!("{cluster}/{namespace}/app-api");

    until("the folder to be told", SOON, async || {
        let words = ["managed", "list", "-o", "json"];
        let output = match operator(&world, &words).await {
            Ok(output) => output,
            Err(error) => return Look::NotYet(format!("{error:#}")),
        };
        let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let is_so =
            all["secrets"][0]["name"] == "app-api" && all["folders"][0]["within_millis"] == 1_000;
        if is_so {
            Look::Ready(())
        } else {
            Look::NotYet(told(&output))
        }
    })
    .await?;
    let show = operator(&world, &["managed", "show", &name]).await?;
    ensure!(
        show.status.code() == Some(0) && told(&show).contains(&format!("1 of {kv}")),
        "{}",
        told(&show)
    );
    let rotate = operator(&world, &["managed", "rotate", &name]).await?;
    ensure!(
        rotate.status.code() == Some(0) && told(&rotate).contains("managed show"),
        "{}",
        told(&rotate)
    );
    let metrics = world.admin().get("/metrics").await?.text();
    for line in [
        "quaymaster_managed_secrets{state=\"failing\"} 0\n".to_owned(),
        format!(
            "quaymaster_managed_secret_restarts_total{{cluster=\"{cluster}\",namespace=\"{namespace}\",name=\"app-api\"}} 0\n"
        ),
    ] {
        ensure!(metrics.contains(&line), "no {line} in {metrics}");
    }

    let other = world
        .stand
        .sign(world.stand.token()?.project("31337", "x/y"))?;
    let stranger = [("QUAYMASTER_ID_TOKEN", other.as_str())];
    let words = ["secrets", "list", "-o", "json"];
    let seen = quaymaster(&world, &words, dir.path(), &stranger).await?;
    let seen: Value = serde_json::from_slice(&seen.stdout)?;
    ensure!(seen["secrets"] == json!([]), "{seen}");
    let words = ["secrets", "forget", "app-api"];
    let denied = quaymaster(&world, &words, dir.path(), &stranger).await?;
    ensure!(denied.status.code() == Some(20), "{}", told(&denied));
    Ok(())
}

#[tokio::test]
async fn an_agent_without_rotation_says_so() -> Result<()> {
    let world = World::new("desk-none").await?;
    let kv = world.put("app", json!({ "api": "a-value" })).await?;
    let dir = folder(&world, &[("quaymaster.yaml", &spec(&kv))])?;
    let list = quaymaster(&world, &["secrets", "list"], dir.path(), &[]).await?;
    ensure!(
        list.status.code() == Some(21) && told(&list).contains("[rotation]"),
        "{}",
        told(&list)
    );
    let apply = quaymaster(&world, &["secrets", "apply"], dir.path(), &[]).await?;
    ensure!(
        apply.status.code() == Some(10) && told(&apply).contains("cannot be kept fresh"),
        "{}",
        told(&apply)
    );
    let with_objects = format!("{}manifests: [k8s/]\n", spec(&kv));
    let dir = folder(
        &world,
        &[
            ("quaymaster.yaml", &with_objects),
            ("k8s/c.yaml", &crate::samples::config_map("conf", "v")),
        ],
    )?;
    let apply = quaymaster(&world, &["secrets", "apply"], dir.path(), &[]).await?;
    ensure!(
        apply.status.code() == Some(21) && told(&apply).contains("/v1/deploys"),
        "{}",
        told(&apply)
    );
    Ok(())
}

#[tokio::test]
async fn an_outage_is_told_with_since_when_and_why() -> Result<()> {
    let world = World::rotating("desk-outage").await?;
    let kv = world.put("app", json!({ "api": "a-value" })).await?;
    let dir = folder(&world, &[("quaymaster.yaml", &spec(&kv))])?;
    let applied = quaymaster(&world, &["secrets", "apply"], dir.path(), &[]).await?;
    ensure!(applied.status.code() == Some(0), "{}", told(&applied));
    let fresh = |secret: &Value| secret["freshness"] == "fresh" && secret["stale"].is_null();
    let secret = until_listed("the Secret to be fresh", &world, dir.path(), fresh).await?;
    let sealed = r#"{"errors":["Vault is sealed"]}"#.to_owned();
    world.vault.set(Fault::Answer(503, String::new(), sealed));
    let stale = |secret: &Value| secret["stale"]["why"] == "Vault is away: sealed";
    let during = until_listed("the outage to be told", &world, dir.path(), stale).await?;
    ensure!(
        during["stale"]["since"] == during["last_contact"],
        "it was right at the last good contact: {during}"
    );
    ensure!(during["generation"] == secret["generation"], "{during}");
    let list = operator(&world, &["managed", "list"]).await?;
    println!("{}", String::from_utf8_lossy(&list.stdout));
    ensure!(
        told(&list).contains(": stale since ") && told(&list).contains("Vault is away: sealed"),
        "{}",
        told(&list)
    );
    let metrics = world.admin().get("/metrics").await?.text();
    let lines: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("quaymaster_managed_secret"))
        .collect();
    println!("{}\n", lines.join("\n"));
    let seconds = |name: &str| {
        let line = lines.iter().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value.and_then(|value| value.parse::<f64>().ok())
    };
    let stale_for = seconds("quaymaster_managed_secret_stale_seconds{");
    ensure!(stale_for.is_some_and(|time| time > 0.0), "{lines:?}");
    let status = world.admin().get("/v1/status").await?.json()?;
    println!("{status:#}");
    ensure!(
        status["identity"]["method"] == "approle"
            && status["identity"]["expires_in_seconds"].as_u64() > Some(0),
        "{status}"
    );
    ensure!(
        status["keeping"]["secrets"] == 1
            && status["keeping"]["stale"][0]["why"] == "Vault is away: sealed"
            && status["keeping"]["folders"][0]["whole"] == true,
        "{status}"
    );
    world.vault.set(Fault::None);
    until_listed("the outage to be over", &world, dir.path(), fresh).await?;
    let status = world.admin().get("/v1/status").await?.json()?;
    ensure!(status["keeping"]["stale"] == json!([]), "{status}");
    let within = &status["keeping"]["folders"][0]["within_millis"];
    ensure!(*within == 1_000, "{status}");
    Ok(())
}
