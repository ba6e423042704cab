//! `quaymasterd doctor` against a real OpenBao: what works, what the policy lacks, a login that fails.

use std::fs;
use std::process::Output;

use anyhow::Result;
use anyhow::ensure;
use serde_json::json;
use tests::world::World;
use tests::world::programs;
use tokio::process::Command;

async fn doctor(world: &World) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(&programs().await?.agent);
    command
        .arg("doctor")
        .arg("--config")
        .arg(world.config_path());
    let Output { status, stdout, .. } = command.env_clear().output().await?;
    Ok((status.code(), String::from_utf8(stdout)?))
}

#[tokio::test]
async fn the_doctor_says_what_the_own_identity_may_do() -> Result<()> {
    let mut world = World::without_agent("doctor").await?;
    world.keep_fresh().await?;
    world.put("app", json!({ "api": "a-value" })).await?;
    let (code, text) = doctor(&world).await?;
    println!("{text}");
    let role = world.role.clone();
    let whole =
        format!("ok      kv/{role}: asked as a whole, a new version is noticed within 1 s\n");
    ensure!(code == Some(0) && text.contains(&whole), "{code:?}\n{text}");
    ensure!(text.contains("can be renewed for ever"), "{text}");
    ensure!(
        !world.dir().join("state/identity.token").exists(),
        "no token stays"
    );

    let single = world
        .agent_policy()
        .replace("detailed-metadata", "other-metadata");
    world.let_agent(&single).await?;
    let (code, text) = doctor(&world).await?;
    let by_itself = format!("ok      kv/{role}: each secret is asked by itself, 50 a second");
    ensure!(
        code == Some(0) && text.contains(&by_itself),
        "{code:?}\n{text}"
    );

    let narrow = single.replace("sys/leases/revoke", "sys/leases/none");
    let narrow = narrow.replace("kv/metadata/", "kv/none/");
    world.let_agent(&narrow).await?;
    let (code, text) = doctor(&world).await?;
    println!("{text}");
    for failed in [
        "FAILED  sys/leases/revoke is not allowed (update)".to_owned(),
        format!("FAILED  kv/{role}: new versions are not noticed"),
    ] {
        ensure!(
            code == Some(1) && text.contains(&failed),
            "{code:?}\n{text}"
        );
    }

    fs::write(world.dir().join("secret_id"), "not-the-secret-id")?;
    let (code, text) = doctor(&world).await?;
    ensure!(
        code == Some(1) && text.contains("FAILED  the login does not work"),
        "{code:?}\n{text}"
    );
    Ok(())
}
