//! What a killed agent leaves behind is put right at its next start: locks, and credentials of runs that
//! wrote nothing.

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
use serde_json::json;
use tests::faults::Fault;
use tests::matrix::Setup;
use tests::matrix::Site;
use tests::matrix::Used;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(30);
/// A lock that nobody gives back runs out after 30 s.
const QUICK: Duration = Duration::from_secs(10);
/// Longer than any scenario.
const HELD: Fault = Fault::Delay(Duration::from_secs(600));

/// Waits until a fault was met.
async fn met(world: &World, before: usize) -> Result<()> {
    until("the request to be held", SOON, async || {
        match world.vault.met() > before {
            true => Look::Ready(()),
            false => Look::NotYet("it has not come".to_owned()),
        }
    })
    .await
}

/// Makes a site whose agent is in the middle of a rotation: it waits for the credential.
async fn held_in_a_rotation(name: &str) -> Result<Site> {
    let setup = Setup {
        life: "1h",
        longest: "24h",
        rotate: "{}",
        used: Used::ByNobody,
    };
    let site = Site::new(name, setup).await?;
    let before = site.world.vault.met();
    site.world.vault.set_for("/v1/database/creds/", HELD);
    site.ask().await?;
    met(&site.world, before).await?;
    Ok(site)
}

/// Who holds the lock of the app.
async fn holder(site: &Site) -> Result<String> {
    let path = "jsonpath={.spec.holderIdentity}";
    let words = ["get", "lease", "quaymaster-app", "-o", path];
    site.world.kubectl(&words).await
}

#[tokio::test]
async fn an_app_can_be_deployed_soon_after_a_kill_in_its_rotation() -> Result<()> {
    let mut site = held_in_a_rotation("lockleft").await?;
    ensure!(!holder(&site).await?.is_empty(), "it is locked");
    site.world.kill_agent().await?;
    site.world.vault.set(Fault::None);
    site.world.start_agent().await?;
    let began = Instant::now();
    let conf = crate::samples::config_map("conf", "v");
    let spec = "version: 1\nname: app\nmanifests: [k8s/]\n";
    let files = [("quaymaster.yaml", spec), ("k8s/conf.yaml", conf.as_str())];
    let done = site.world.deploy(&files).await?;
    let took = began.elapsed();
    println!("a deploy after a kill in a rotation took {took:?}");
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    ensure!(
        took < QUICK,
        "it waited {took:?} for the lock\n{}",
        done.log
    );
    Ok(())
}

#[tokio::test]
async fn a_lock_of_another_agent_or_run_is_left_alone() -> Result<()> {
    let mut site = held_in_a_rotation("lockkept").await?;
    site.world.kill_agent().await?;
    let taken = json!({ "spec": { "holderIdentity": "r-of-somebody-else" } }).to_string();
    let words = [
        "patch",
        "lease",
        "quaymaster-app",
        "--type=merge",
        "-p",
        &taken,
    ];
    site.world.kubectl(&words).await?;
    site.world.vault.set(Fault::None);
    site.world.start_agent().await?;
    // The rotation that was asked for is gone with the agent; a new one waits for the lock. It can be asked
    // for as soon as the agent has listed what it keeps fresh.
    until("the rotation to be taken", SOON, async || {
        match site.ask().await {
            Ok(()) => Look::Ready(()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    })
    .await?;
    until(
        "the rotation to wait for the lock",
        SOON,
        async || match site.world.admin().get("/v1/status").await {
            Ok(answer) => match answer.json() {
                Ok(status) if status["runs"][0].is_string() => Look::Ready(()),
                Ok(status) => Look::NotYet(status.to_string()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            },
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await?;
    let holder = holder(&site).await?;
    ensure!(holder == "r-of-somebody-else", "the lock is of {holder}");
    Ok(())
}

/// Kills the agent in a deploy without `rotate` that has one credential and waits for a second one.
async fn killed_with_a_credential(name: &str) -> Result<World> {
    let mut world = World::new(name).await?;
    world.countable_credentials("1h", "24h").await?;
    let creds = world.creds();
    let spec = format!(
        "version: 1\nname: app\nsecrets:\n  - name: app-a\n    keys: {{ password: {{ vault: {creds}, field: password }} }}\n  \
         - name: app-b\n    keys: {{ password: {{ vault: database/creds/flask, field: password }} }}\n"
    );
    let before = world.vault.met();
    world.vault.set_for("/v1/database/creds/flask", HELD);
    let answer = world.post(&[("quaymaster.yaml", &spec)]).await?;
    ensure!(answer.status == 202, "{}", answer.text());
    met(&world, before).await?;
    ensure!(world.users_in_database().await? == 1, "one is issued");
    world.kill_agent().await?;
    Ok(world)
}

/// Waits until PostgreSQL has so many users of the world.
async fn users(world: &World, wanted: usize) -> Result<()> {
    let counted = until("the users in PostgreSQL", SOON, async || {
        match world.users_in_database().await {
            Ok(count) if count == wanted => Look::Ready(()),
            Ok(count) => Look::NotYet(format!("{count} users")),
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    });
    counted
        .await
        .map_err(|error| error.context(world.agent_log().unwrap_or_default()))
}

#[tokio::test]
async fn a_credential_of_a_killed_deploy_is_revoked_once_vault_is_back() -> Result<()> {
    let mut world = killed_with_a_credential("leaseleft").await?;
    world.vault.set(Fault::Refuse);
    world.spawn_agent().await?;
    let before = world.vault.met();
    met(&world, before + 3).await?;
    ensure!(world.users_in_database().await? == 1, "Vault is away");
    // Also the next process knows of it.
    world.kill_agent().await?;
    world.spawn_agent().await?;
    world.vault.set(Fault::None);
    users(&world, 0).await
}

#[tokio::test]
async fn a_credential_of_a_killed_deploy_waits_for_the_right_to_revoke() -> Result<()> {
    let mut world = killed_with_a_credential("leaseright").await?;
    world.vault.set(Fault::None);
    let narrow = world
        .agent_policy()
        .replace("sys/leases/revoke", "sys/leases/none");
    world.let_agent(&narrow).await?;
    world.start_agent().await?;
    until("the refusal to be told", SOON, async || {
        match world.agent_log() {
            Ok(log) if log.contains("could not be revoked yet") => Look::Ready(()),
            Ok(_) => Look::NotYet("nothing is told".to_owned()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    })
    .await?;
    ensure!(world.users_in_database().await? == 1, "it may not revoke");
    world.let_agent(&world.agent_policy()).await?;
    users(&world, 0).await
}
