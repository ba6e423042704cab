//! Secrets that somebody made immutable, and Secrets of another type: refused by name, by a deploy and by
//! a rotation, before anything is issued; never deleted to be made again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::submission::Finished;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;

const SOON: Duration = Duration::from_secs(60);

/// One Secret with a KV key and a credential, kept fresh; `more` are fields of it.
async fn deploy(world: &World, kv: &str, more: &str) -> Result<Finished> {
    let creds = world.creds();
    let spec = format!(
        "version: 1\nname: app\nsecrets:\n  - name: app-db\n{more}    keys:\n      api: {{ vault: {kv}, field: api }}\n      \
         username: {{ vault: {creds}, field: username }}\n      password: {{ vault: {creds}, field: password }}\n    \
         rotate: {{ restart: none }}\n"
    );
    world.deploy(&[("quaymaster.yaml", &spec)]).await
}

/// A world in which it is deployed, and the path of its KV secret.
async fn deployed(name: &str) -> Result<(World, String)> {
    let world = World::rotating(name).await?;
    let kv = world.put("app", json!({ "api": "first-value" })).await?;
    let first = deploy(&world, &kv, "").await?;
    ensure!(
        first.status() == 200,
        "{}\n{}",
        first.answer.text(),
        first.log
    );
    Ok((world, kv))
}

/// The Secret's UID, which a new one would not have, and its values.
async fn seen(world: &World) -> Result<(String, BTreeMap<String, String>)> {
    let words = ["get", "secret", "app-db", "-o", "jsonpath={.metadata.uid}"];
    Ok((world.kubectl(&words).await?, world.secret("app-db").await?))
}

/// The Secret as the operator sees it, once a note says this.
async fn until_noted(world: &World, words: &str) -> Result<Value> {
    until("the reason to be told", SOON, async || {
        let list = match world.admin().get("/v1/managed").await {
            Ok(answer) => answer.json().unwrap_or_default(),
            Err(error) => return Look::NotYet(format!("{error:#}")),
        };
        let secret = list["secrets"][0].clone();
        if secret["notes"].to_string().contains(words) {
            Look::Ready(secret)
        } else {
            Look::NotYet(secret.to_string())
        }
    })
    .await
}

#[tokio::test]
async fn an_immutable_secret_is_refused_by_name_and_stays() -> Result<()> {
    let (world, kv) = deployed("fixed").await?;
    let before = seen(&world).await?;
    let patch = ["patch", "secret", "app-db", "-p", r#"{"immutable":true}"#];
    world.kubectl(&patch).await?;

    world.put("app", json!({ "api": "second-value" })).await?;
    let noted = until_noted(&world, ".data cannot change").await?;
    ensure!(
        noted["freshness"] == "failing" && noted["generation"] == 1,
        "{noted}"
    );
    let again = deploy(&world, &kv, "").await?;
    ensure!(
        again.status() == 422
            && again.log.contains("app-db .data cannot change")
            && again.log.contains("the Secret is immutable"),
        "{}\n{}",
        again.answer.text(),
        again.log
    );
    ensure!(seen(&world).await? == before, "the Secret is as it was");
    let alive = world.live_credentials().await?;
    ensure!(
        alive == 1,
        "nothing was issued for it: {alive}\n{}",
        world.agent_log()?
    );
    Ok(())
}

#[tokio::test]
async fn another_type_is_refused_by_name_and_the_secret_stays() -> Result<()> {
    let (world, kv) = deployed("types").await?;
    let before = seen(&world).await?;
    let typed = deploy(&world, &kv, "    type: example.com/database\n").await?;
    ensure!(
        typed.status() == 422 && typed.log.contains("app-db .type cannot change"),
        "{}\n{}",
        typed.answer.text(),
        typed.log
    );
    ensure!(seen(&world).await? == before, "the Secret is as it was");
    ensure!(
        world.live_credentials().await? == 1,
        "nothing was issued for it"
    );
    Ok(())
}
