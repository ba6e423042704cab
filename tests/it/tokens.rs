//! Vault tokens that a job passes: as identity, as the one that reads, and when they are no good.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use reqwest::Method;
use serde_json::json;
use tests::world::World;

use crate::samples::spec_with_secret;

/// Logs in as a job would and returns the Vault token.
async fn vault_token(world: &World) -> Result<String> {
    let jwt = world.stand.sign(world.token()?)?;
    let body = json!({ "role": world.role, "jwt": jwt });
    let (status, answer) = world
        .stand
        .vault_as("", Method::POST, "auth/jwt/login", Some(&body))
        .await?;
    ensure!(status == 200, "{answer}");
    Ok(answer["auth"]["client_token"]
        .as_str()
        .context("a token")?
        .to_owned())
}

#[tokio::test]
async fn the_metadata_of_a_passed_vault_token_is_an_identity() -> Result<()> {
    let world = World::new("vtoken").await?;
    let path = world
        .put("app", json!({ "password": "read-by-token" }))
        .await?;
    let token = vault_token(&world).await?;
    let job = world.nobody().with("x-vault-token", &token);
    let who = job.get("/v1/whoami").await?;
    ensure!(
        who.status == 200 && who.json()?["kind"] == "vault_token",
        "{}",
        who.text()
    );
    ensure!(
        who.json()?["rules"][0] == world.role.as_str(),
        "{}",
        who.text()
    );
    let spec = spec_with_secret(&path, "password");
    let done = world
        .deploy_as(&job, "/v1/deploys", &[("quaymaster.yaml", &spec)])
        .await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    ensure!(world.secret("app-secret").await?["value"] == "read-by-token");
    let (status, _) = world
        .stand
        .vault_as(&token, Method::GET, "auth/token/lookup-self", None)
        .await?;
    ensure!(status == 200, "a passed token is not ours to revoke");
    ensure!(!done.log.contains(&token) && !world.agent_log()?.contains(&token));
    Ok(())
}

#[tokio::test]
async fn of_two_tokens_the_id_token_is_the_identity_and_both_must_be_good() -> Result<()> {
    let world = World::new("twotokens").await?;
    let path = world
        .put("app", json!({ "password": "read-by-token" }))
        .await?;
    let spec = spec_with_secret(&path, "password");
    let token = vault_token(&world).await?;
    let both = world.job()?.with("x-vault-token", &token);
    let done = world
        .deploy_as(&both, "/v1/deploys", &[("quaymaster.yaml", &spec)])
        .await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let one_bad = world.job()?.with("x-vault-token", "s.nothing");
    let answer = one_bad.get("/v1/whoami").await?;
    ensure!(
        answer.status == 401 && answer.code() == "vault_token_refused",
        "{}",
        answer.text()
    );
    let bad_job = world.nobody().bearer("abc").with("x-vault-token", &token);
    let answer = bad_job.get("/v1/whoami").await?;
    ensure!(
        answer.status == 401 && answer.code() == "token_malformed",
        "{}",
        answer.text()
    );
    Ok(())
}

#[tokio::test]
async fn a_root_token_is_never_taken() -> Result<()> {
    let world = World::new("root").await?;
    let root = world.stand.facts().vault_root_token.clone();
    let answer = world
        .nobody()
        .with("x-vault-token", &root)
        .get("/v1/whoami")
        .await?;
    ensure!(
        answer.status == 401 && answer.code() == "vault_token_refused",
        "{}",
        answer.text()
    );
    Ok(())
}
