//! How deploys through Flux end when others interfere, when the rollout fails, and when the way back fails too.
//!
//! Used by nobody; the shop is that of [`super`]. Where somebody else has to be there at a certain moment, a hook
//! of the Git server puts their commit there, so no case depends on who is faster.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::json;
use tests::stand::git::repository::Moment;
use tests::submission::Finished;
use tests::wait::Look;
use tests::wait::until;

use super::FILE;
use super::Shop;
use super::missing;
use super::shown;
use super::status;
use super::web;

/// How long things may take that nobody measures.
const LONG: Duration = Duration::from_secs(60);

/// Requires a status, a first cause, and words that are told.
fn ended(done: &Finished, want: &str, cause: &str, words: &[&str]) -> Result<()> {
    ensure!(status(done)? == want, "{}", shown(done));
    let first = done.causes().first().cloned().unwrap_or_default();
    ensure!(first == cause, "{first}: {}", shown(done));
    for words in words {
        ensure!(shown(done).contains(words), "{words}: {}", shown(done));
    }
    Ok(())
}

#[tokio::test]
async fn somebody_elses_later_images_supersede_a_run_and_their_fate_is_told() -> Result<()> {
    let shop = Shop::new("flux-overtaken", |world| world.stand.busybox()).await?;
    let other = shop.missing().replace("not-there", "not-there-either");
    for (ours, theirs, fate) in [
        (shop.missing(), shop.good(), "which is ready"),
        (other, shop.missing(), "which did not become ready"),
    ] {
        let before = shop.commits().await?;
        let files = [(FILE, &*web(&theirs))];
        let repository = &shop.repository;
        repository
            .race(Moment::AfterPush, 1, "main", &files)
            .await?;
        let done = shop
            .deploy(&shop.spec(&ours, ", on_failure: revert"))
            .await?;
        let head = repository.head("main").await?;
        ensure!(status(&done)? == "superseded", "{}", shown(&done));
        ensure!(done.status() == 409, "{}", shown(&done));
        let words = format!("was superseded by {}, {fate}", &head[..10]);
        ensure!(shown(&done).contains(&words), "{words}: {}", shown(&done));
        // What others wrote after us is not ours to take back.
        ensure!(shop.commits().await? == before + 2, "{}", done.log);
        ensure!(shop.file().await? == web(&theirs), "{}", done.log);
    }
    Ok(())
}

#[tokio::test]
async fn somebody_elses_later_commit_that_leaves_the_images_is_no_trouble() -> Result<()> {
    let shop = Shop::new("flux-followed", missing).await?;
    let files = [("other/README.md", "theirs")];
    shop.repository
        .race(Moment::AfterPush, 1, "main", &files)
        .await?;
    let done = shop.deploy(&shop.spec(&shop.good(), "")).await?;
    ensure!(done.status() == 200, "{}", shown(&done));
    ensure!(
        done.log
            .contains("comes after ours and names the same images"),
        "{}",
        done.log
    );
    ensure!(shop.commits().await? == 3, "{}", done.log);
    Ok(())
}

#[tokio::test]
async fn branch_that_is_forced_past_our_commit_is_told_as_such() -> Result<()> {
    let shop = Shop::new("flux-forced", |world| world.stand.busybox()).await?;
    let files = [("other/README.md", "forced")];
    for (rollout, want) in [("", "failed"), (", on_failure: revert", "rolled_back")] {
        shop.repository
            .race(Moment::OverPush, 1, "main", &files)
            .await?;
        let done = shop.deploy(&shop.spec(&shop.missing(), rollout)).await?;
        ensure!(status(&done)? == want, "{}", shown(&done));
        ensure!(
            shown(&done).contains("no longer holds our commit"),
            "{}",
            shown(&done)
        );
        ensure!(shop.file().await? == web(&shop.good()), "{}", done.log);
        let last = shop.repository.log("main").await?;
        ensure!(last[0] == "Somebody was faster", "{last:?}");
    }
    Ok(())
}

#[tokio::test]
async fn crash_behind_flux_is_told_with_its_last_words() -> Result<()> {
    let crash = |image: &str| {
        web(image).replace(
            "[sleep, \"1000\"]",
            "[sh, -c, \"echo no database; exit 3\"]",
        )
    };
    let shop = Shop::holding("flux-crash", |world| crash(&missing(world))).await?;
    let done = shop
        .deploy(&shop.spec(&shop.good(), ", on_failure: keep"))
        .await?;
    ended(&done, "failed", "crash", &["no database", "3"])?;
    ensure!(shop.file().await? == crash(&shop.good()), "{}", done.log);
    Ok(())
}

#[tokio::test]
async fn health_check_that_fails_is_told_with_the_probe_behind_it() -> Result<()> {
    let probed = |image: &str| {
        let probe = "readinessProbe: { exec: { command: [\"false\"] }, periodSeconds: 1 }";
        format!("{}          {probe}\r\n", web(image))
    };
    let shop = Shop::holding("flux-health", |world| probed(&missing(world))).await?;
    let health = json!({ "wait": true, "timeout": "6s" });
    shop.patch("kustomization/shop", health).await?;
    let done = shop.deploy(&shop.spec(&shop.good(), "")).await?;
    ended(&done, "failed", "probe_failing", &["HealthCheckFailed"])?;
    ensure!(
        done.causes().contains(&"flux_failed".to_owned()),
        "{}",
        shown(&done)
    );
    // What is not among the workloads is Flux's alone to judge.
    let absent = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "absent", "namespace": shop.world.namespace });
    let health = json!({ "wait": null, "healthChecks": [absent] });
    shop.patch("kustomization/shop", health).await?;
    shop.repository
        .commit("main", &[(FILE, &web(&shop.missing()))], "No probe")
        .await?;
    let done = shop.deploy(&shop.spec(&shop.good(), "")).await?;
    ended(
        &done,
        "failed",
        "flux_failed",
        &["HealthCheckFailed", "absent"],
    )
}

#[tokio::test]
async fn source_that_cannot_fetch_is_told_with_its_own_words() -> Result<()> {
    let shop = Shop::new("flux-away", |world| world.stand.busybox()).await?;
    let away = json!({ "url": "http://127.0.0.1:9/away.git" });
    shop.patch("gitrepository/shop", away).await?;
    let spec = shop.spec(&shop.missing(), "").replace("90s", "15s");
    let done = shop.deploy(&spec).await?;
    ended(&done, "failed", "flux_late", &["reads another address"])?;
    ensure!(done.code() == "rollout_timeout", "{}", shown(&done));
    let evidence = done.json()?["causes"][0]["evidence"].to_string();
    ensure!(
        evidence.contains("GitRepository") && evidence.contains("127.0.0.1"),
        "{evidence}"
    );
    Ok(())
}

#[tokio::test]
async fn way_back_that_fails_is_told_beside_what_failed_first() -> Result<()> {
    // What was there before is no better.
    let shop = Shop::new("flux-noway", missing).await?;
    let other = shop.missing().replace("not-there", "not-there-either");
    let spec = shop.spec(&other, ", on_failure: revert");
    let done = shop.deploy(&spec).await?;
    ended(
        &done,
        "rollback_failed",
        "image_missing",
        &["takes it back, but"],
    )?;
    ensure!(shop.file().await? == web(&shop.missing()), "{}", done.log);
    // Somebody has changed the file since, and left the image.
    let theirs = format!("{}# theirs\r\n", web(&other));
    shop.repository
        .race(Moment::AfterPush, 1, "main", &[(FILE, &theirs)])
        .await?;
    let done = shop.deploy(&spec).await?;
    ended(
        &done,
        "rollback_failed",
        "image_missing",
        &["was changed by somebody else since"],
    )?;
    ensure!(shop.file().await? == theirs, "{}", done.log);
    Ok(())
}

#[tokio::test]
async fn two_apps_on_the_same_files_go_one_after_the_other() -> Result<()> {
    let shop = Shop::new("flux-line", missing).await?;
    let spec = shop.spec(&shop.good(), "");
    let other = spec.replace("name: shop\n", "name: other\n");
    let (one, two) = futures::join!(shop.deploy(&spec), shop.deploy(&other));
    let (one, two) = (one?, two?);
    for done in [&one, &two] {
        ensure!(done.status() == 200, "{}", shown(done));
    }
    let (holder, waiter) = if one.log.contains("waiting in line") {
        (&two, &one)
    } else {
        (&one, &two)
    };
    let words = format!("is locked by run {}", holder.id);
    ensure!(waiter.log.contains(&words), "{words}: {}", waiter.log);
    ensure!(waiter.log.contains("apps on branch main"), "{}", waiter.log);
    // What the first has pushed is what the second wants.
    ensure!(waiter.log.contains("no commit"), "{}", waiter.log);
    ensure!(shop.commits().await? == 2, "{}", waiter.log);
    Ok(())
}

#[tokio::test]
async fn run_goes_on_after_its_agent_was_killed_behind_the_push() -> Result<()> {
    let mut shop = Shop::new("flux-killed", missing).await?;
    let away = json!({ "url": "http://127.0.0.1:9/away.git" });
    shop.patch("gitrepository/shop", away).await?;
    let spec = shop.spec(&shop.good(), "");
    let answer = shop.world.post(&[("quaymaster.yaml", &spec)]).await?;
    let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
    until("the push", LONG, async || match shop.commits().await {
        Ok(2) => Look::Ready(()),
        Ok(count) => Look::NotYet(format!("{count} commits")),
        Err(error) => Look::NotYet(format!("{error:#}")),
    })
    .await?;
    shop.world.kill_agent().await?;
    let back = json!({ "url": shop.repository.url() });
    shop.patch("gitrepository/shop", back).await?;
    shop.world.start_agent().await?;
    let done = shop.world.finish(&shop.world.job()?, &id).await?;
    ensure!(done.status() == 200, "{}", shown(&done));
    ensure!(shown(&done).contains("through Flux"), "{}", shown(&done));
    ensure!(shop.commits().await? == 2, "{}", done.log);
    let object = shop.world.object("deployment/web").await?;
    let image = &object["spec"]["template"]["spec"]["containers"][0]["image"];
    ensure!(*image == shop.good(), "{image}");
    Ok(())
}
