//! More cells of the fault matrix: leases and tokens that really end, and a disk that is really full.
//!
//! What ends is ended in OpenBao itself. The state folder of the disk's agent is a small file system of its
//! own, which is filled while a Secret is changed.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::faults::Fault;
use tests::matrix::Promise;
use tests::matrix::Row;
use tests::matrix::Seen;
use tests::matrix::Site;
use tests::stand::Owner;
use tests::stand::Stand;
use tests::stand::agent::Programs;
use tests::stand::layout::Settings;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tests::world::programs;
use tokio::time::Instant;

use crate::identity::kept_accessor;
use crate::identity::revoke;
use crate::matrix::LONG;
use crate::matrix::SHORT;
use crate::matrix::judge;

/// How long a token may live in the cell of one that nears its end.
const TOKEN_LIFE: &str = "75s";

/// The lease of the credential in the Secret.
async fn lease(world: &World) -> Result<Value> {
    let path = "jsonpath={.metadata.annotations.state\\.quaymaster\\.dev/managed}";
    let text = world
        .kubectl(&["get", "secret", "app-db", "-o", path])
        .await?;
    let record: Value = serde_json::from_str(&text)?;
    Ok(record["state"]["credentials"][&world.creds()]["lease"].clone())
}

/// Waits until the values have changed; who is in the Secret can log in all the time.
async fn changed(site: &Site, before: &Seen, within: Duration) -> Result<()> {
    until("the values to be changed", within, async || {
        match site.logged_in().await {
            Ok(seen) if seen.generation > before.generation => Look::Ready(()),
            Ok(seen) => Look::NotYet(format!("{seen:?}")),
            Err(error) => Look::Hopeless(error),
        }
    })
    .await
}

/// Plays a cell by hand.
async fn by_hand(
    site: &mut Site,
    (name, phase): (&str, &str),
    promise: Promise,
    play: impl AsyncFnOnce(&mut Site, &Seen) -> Result<String>,
) -> Row {
    let began = Instant::now();
    let happened = match site.fresh().await {
        Ok(before) => play(site, &before).await,
        Err(error) => Err(error),
    };
    site.row(name, phase, promise, happened, began)
}

#[tokio::test]
async fn cells_in_which_a_lease_ends() -> Result<()> {
    let mut site = Site::new("m-lease", SHORT).await?;
    let mut rows = Vec::new();
    let one = Promise::ONE;
    let cell = ("lease revoked", "renewal");
    let row = by_hand(&mut site, cell, one, async |site, before| {
        let body = json!({ "lease_id": lease(&site.world).await?, "sync": true });
        site.world.vault_write("sys/leases/revoke", body).await?;
        site.kept(one, before, None).await
    });
    rows.push(row.await);
    let cell = ("lease revoked", "start");
    let row = by_hand(&mut site, cell, one, async |site, before| {
        site.world.kill_agent().await?;
        let body = json!({ "lease_id": lease(&site.world).await?, "sync": true });
        site.world.vault_write("sys/leases/revoke", body).await?;
        site.world.start_agent().await?;
        site.kept(one, before, None).await
    });
    rows.push(row.await);
    let cell = ("lease shortened", "renewal");
    let row = by_hand(&mut site, cell, one, async |site, before| {
        site.world.countable_credentials(SHORT.life, "30s").await?;
        changed(site, before, Duration::from_secs(40)).await?;
        site.world
            .countable_credentials(SHORT.life, SHORT.longest)
            .await?;
        let alive = site.world.users_in_database().await?;
        site.kept(one, before, Some(alive)).await
    });
    rows.push(row.await);
    judge(&rows)
}

#[tokio::test]
async fn cells_in_which_the_agents_token_ends() -> Result<()> {
    let mut site = Site::new("m-token", LONG).await?;
    let mut rows = Vec::new();
    let one = Promise::ONE;
    let cell = ("token revoked", "idle, versions checked");
    let row = by_hand(&mut site, cell, one, async |site, before| {
        let state = site.world.dir().join("state");
        let accessor = kept_accessor(&site.world, &state).await?;
        revoke(&site.world, &accessor).await?;
        site.kept(one, before, None).await
    });
    rows.push(row.await);
    let cell = ("token ended", "start");
    let row = by_hand(&mut site, cell, one, async |site, before| {
        let state = site.world.dir().join("state");
        let accessor = kept_accessor(&site.world, &state).await?;
        site.world.kill_agent().await?;
        revoke(&site.world, &accessor).await?;
        site.world.start_agent().await?;
        site.kept(one, before, None).await
    });
    rows.push(row.await);
    judge(&rows)
}

#[tokio::test]
async fn cells_in_which_the_agents_token_nears_its_longest_life() -> Result<()> {
    let world = World::without_agent("m-oldtoken").await?;
    let role = format!("auth/approle/role/{}", world.agent_role());
    let short =
        json!({ "token_period": "0s", "token_ttl": TOKEN_LIFE, "token_max_ttl": TOKEN_LIFE });
    world.vault_write(&role, short).await?;
    let mut site = Site::of(world, SHORT).await?;
    let one = Promise::ONE;
    let cell = ("token at max_ttl", "idle, versions checked");
    let row = by_hand(&mut site, cell, one, async |site, before| {
        changed(site, before, Duration::from_secs(80)).await?;
        let alive = site.world.users_in_database().await?;
        site.kept(one, before, Some(alive)).await
    });
    judge(&[row.await])
}

/// The agent on a small file system, and a helper on the same that fills and frees it.
fn on_a_small_disk(world: &World, agent: &Programs) -> Result<Programs> {
    let dir = world.dir().display();
    let program = world.dir().join("small-disk");
    let script = format!(
        r#"#!/bin/sh
exec unshare --user --map-root-user --mount sh -c '
mkdir -p {dir}/state && mount -t tmpfs -o size=8m,mode=0700 tmpfs {dir}/state || exit 9
setpriv --pdeathsig KILL sh -c "while read -r what < {dir}/disk; do
  if [ \$what = fill ]; then cat /dev/zero > {dir}/state/fill; else rm {dir}/state/fill; fi
  echo \$what > {dir}/disk-is; done" 2>/dev/null &
exec "$@"' small-disk '{agent}' "$@"
"#,
        agent = agent.agent.display()
    );
    fs::write(&program, script)?;
    fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )?;
    let made = std::process::Command::new("mkfifo")
        .arg(world.dir().join("disk"))
        .status()?;
    ensure!(made.success(), "mkfifo");
    Ok(Programs {
        agent: program,
        client: agent.client.clone(),
    })
}

async fn let_disk(world: &World, what: &str) -> Result<()> {
    let (fifo, word) = (world.dir().join("disk"), format!("{what}\n"));
    tokio::task::spawn_blocking(move || fs::write(fifo, word)).await??;
    let is = world.dir().join("disk-is");
    until(
        "the disk",
        Duration::from_secs(20),
        async || match fs::read_to_string(&is) {
            Ok(text) if text.trim() == what => Look::Ready(()),
            Ok(text) => Look::NotYet(text),
            Err(error) => Look::NotYet(error.to_string()),
        },
    )
    .await
}

#[tokio::test]
async fn cells_in_which_the_disk_is_full() -> Result<()> {
    let mut world = World::without_agent("m-disk").await?;
    let small = on_a_small_disk(&world, programs().await?)?;
    world.use_programs(small);
    let mut site = Site::of(world, LONG).await?;
    let one = Promise::ONE_OF_TWO;
    let cell = ("disk full", "the whole change");
    let row = by_hand(&mut site, cell, one, async |site, before| {
        let_disk(&site.world, "fill").await?;
        site.ask().await?;
        let told = [
            "No space left on device",
            "Previous I/O error",
            "opened again after an error of the disk",
        ];
        until(
            "the disk to be told",
            Duration::from_secs(20),
            async || match site.world.agent_log() {
                Ok(log) if told.iter().any(|told| log.contains(told)) => Look::Ready(()),
                Ok(_) => Look::NotYet("it is not told".to_owned()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            },
        )
        .await?;
        site.logged_in().await?;
        let alive = site.world.users_in_database().await?;
        let_disk(&site.world, "free").await?;
        site.kept(one, before, Some(alive))
            .await
            .context("after the disk was full")
    });
    judge(&[row.await])
}

/// Seals OpenBao, or unseals it.
async fn seal(site: &Site, path: &str, body: Value) -> Result<()> {
    let put = reqwest::Method::PUT;
    let (status, answer) = site.world.stand.vault(put, path, Some(&body)).await?;
    ensure!((200..300).contains(&status), "{status} at {path}: {answer}");
    Ok(())
}

/// What goes on while OpenBao is sealed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nothing,
    Change,
}

async fn sealed(site: &Site, before: &Seen, wish: Wish) -> Result<String> {
    seal(site, "sys/seal", json!({})).await?;
    if wish == Wish::Change {
        site.ask().await?;
    }
    until(
        "the outage to be told",
        Duration::from_secs(20),
        async || {
            let status = match site.world.admin().get("/v1/status").await {
                Ok(answer) => answer.json().unwrap_or_default(),
                Err(error) => return Look::NotYet(format!("{error:#}")),
            };
            let why = &status["keeping"]["stale"][0]["why"];
            if why == "Vault is away: sealed" {
                Look::Ready(())
            } else {
                Look::NotYet(status.to_string())
            }
        },
    )
    .await?;
    site.logged_in().await?;
    let alive = site.world.users_in_database().await?;
    let key = &site.world.stand.facts().vault_unseal_key;
    seal(site, "sys/unseal", json!({ "key": key })).await?;
    let promise = match wish {
        Wish::Nothing => Promise::STAYS,
        Wish::Change => Promise::ONE,
    };
    site.kept(promise, before, Some(alive)).await
}

/// Kills a server of the cluster while a Secret is about to be written.
async fn killed(site: &Site, before: &Seen, server: &str) -> Result<String> {
    let met = site.world.api.met();
    let late = Fault::Delay(Duration::from_secs(600));
    site.world.api.set_for("/secrets/app-db?", late);
    site.ask().await?;
    until("the write", Duration::from_secs(20), async || {
        match site.world.api.met() > met {
            true => Look::Ready(()),
            false => Look::NotYet("it has not come".to_owned()),
        }
    })
    .await?;
    site.world.stand.signal(server, "KILL").await?;
    site.world.api.set(Fault::None);
    let alive = site.world.users_in_database().await?;
    site.kept(Promise::ONE, before, Some(alive)).await
}

#[tokio::test]
async fn cells_in_which_servers_really_seal_and_end() -> Result<()> {
    let settings = Settings::read()?;
    let name = format!("ends-{}", std::process::id());
    let stand = Stand::start(&settings, &name, Owner::Starter, |_| {}).await?;
    // A world keeps its stand for as long as the process, which the stand ends with.
    let world = World::on(Box::leak(Box::new(stand)), "m-ends").await?;
    let mut site = Site::of(world, LONG).await?;
    let mut rows = Vec::new();
    for (phase, wish, promise) in [
        ("idle, versions checked", Wish::Nothing, Promise::STAYS),
        ("issue of a new credential", Wish::Change, Promise::ONE),
    ] {
        let cell = ("really sealed", phase);
        let row = by_hand(&mut site, cell, promise, async |site, before| {
            sealed(site, before, wish).await
        });
        rows.push(row.await);
    }
    for (name, server) in [
        ("API server killed", "kube-apiserver"),
        ("etcd killed", "etcd"),
    ] {
        let cell = (name, "write to Kubernetes");
        let row = by_hand(&mut site, cell, Promise::ONE, async |site, before| {
            killed(site, before, server).await
        });
        rows.push(row.await);
    }
    drop(site);
    Stand::stop(&settings, &name).await?;
    judge(&rows)
}
