//! What an app has: revisions, pruning and its brake, going back, no older pipeline over a newer one.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use tests::client::Client;
use tests::submission::Finished;
use tests::world::World;

use crate::samples::Deployment;
use crate::samples::config_map;

/// A spec whose rollout has these words.
fn spec(rollout: &str) -> String {
    format!("version: 1\nname: app\nmanifests: [k8s/]\nrollout: {{ timeout: 60s{rollout} }}\n")
}

/// Deploys ConfigMaps of these names, each with a value.
async fn deploy(world: &World, rollout: &str, maps: &[(&str, &str)]) -> Result<Finished> {
    let files: Vec<(String, String)> = maps
        .iter()
        .map(|(name, value)| (format!("k8s/{name}.yaml"), config_map(name, value)))
        .collect();
    let spec = spec(rollout);
    let mut all = vec![("quaymaster.yaml", spec.as_str())];
    all.extend(
        files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str())),
    );
    world.deploy(&all).await
}

/// Names the ConfigMaps of the namespace that are no bookkeeping.
async fn maps(world: &World) -> Result<Vec<String>> {
    let text = world
        .kubectl(&[
            "get",
            "configmaps",
            "-o",
            "jsonpath={.items[*].metadata.name}",
        ])
        .await?;
    let own = |name: &&str| !name.starts_with("quaymaster-") && *name != "kube-root-ca.crt";
    Ok(text
        .split_whitespace()
        .filter(own)
        .map(str::to_owned)
        .collect())
}

/// Reads the revisions that the parent lists.
async fn revisions(world: &World) -> Result<Vec<Value>> {
    let parent = [
        "get",
        "configmap",
        "quaymaster-app",
        "-o",
        "jsonpath={.data.revisions}",
    ];
    Ok(serde_json::from_str(&world.kubectl(&parent).await?)?)
}

fn steps(done: &Finished, action: &str) -> Result<Vec<String>> {
    let report = done.json()?;
    let steps = report["steps"].as_array().context("there are steps")?;
    let with = steps.iter().filter(|step| step["action"] == action);
    Ok(with
        .filter_map(|step| step["object"].as_str().map(str::to_owned))
        .collect())
}

#[tokio::test]
async fn what_left_the_bundle_is_planned_and_deleted() -> Result<()> {
    let world = World::new("prune").await?;
    let all = [("a", "1"), ("b", "1"), ("c", "1")];
    let first = deploy(&world, ", prune: true", &all).await?;
    ensure!(first.status() == 200, "{}", first.answer.text());
    ensure!(first.json()?["revision"] == 1, "{}", first.answer.text());
    let kept = deploy(&world, "", &all[..1]).await?;
    ensure!(kept.status() == 200, "{}", kept.answer.text());
    ensure!(
        maps(&world).await? == ["a", "b", "c"],
        "without prune all stay"
    );
    ensure!(
        kept.log.contains("rollout.prune: true deletes"),
        "{}",
        kept.log
    );
    let spec = spec(", prune: true");
    let a = config_map("a", "1");
    let files = [
        ("quaymaster.yaml", spec.as_str()),
        ("k8s/a.yaml", a.as_str()),
    ];
    let plan = world.plan(&files).await?;
    let deletions = steps(&plan, "delete")?;
    ensure!(deletions.len() == 2, "{deletions:?}");
    ensure!(maps(&world).await?.len() == 3, "a plan deletes nothing");
    let pruned = world.deploy(&files).await?;
    ensure!(
        pruned.status() == 200,
        "{}\n{}",
        pruned.answer.text(),
        pruned.log
    );
    ensure!(maps(&world).await? == ["a"], "{}", pruned.log);
    Ok(())
}

#[tokio::test]
async fn the_brake_holds_a_large_deletion_before_anything_is_written() -> Result<()> {
    let world = World::new("brake").await?;
    let all = [
        ("a", "1"),
        ("b", "1"),
        ("c", "1"),
        ("d", "1"),
        ("e", "1"),
        ("f", "1"),
    ];
    ensure!(deploy(&world, "", &all).await?.status() == 200);
    let held = deploy(&world, ", prune: true", &[("a", "2")]).await?;
    ensure!(held.status() == 422, "{}", held.answer.text());
    ensure!(
        held.answer.text().contains("5 of the 6"),
        "{}",
        held.answer.text()
    );
    let value = world
        .kubectl(&["get", "configmap", "a", "-o", "jsonpath={.data.key}"])
        .await?;
    ensure!(
        value == "1" && maps(&world).await?.len() == 6,
        "nothing was written"
    );
    let meant = deploy(&world, ", prune: true, prune_share: 100", &[("a", "2")]).await?;
    ensure!(meant.status() == 200, "{}", meant.answer.text());
    ensure!(maps(&world).await? == ["a"]);
    Ok(())
}

#[tokio::test]
async fn what_somebody_annotated_or_took_over_is_kept() -> Result<()> {
    let world = World::new("keep").await?;
    ensure!(
        deploy(&world, "", &[("a", "1"), ("b", "1"), ("c", "1")])
            .await?
            .status()
            == 200
    );
    world
        .kubectl(&["annotate", "configmap", "b", "quaymaster.dev/keep=true"])
        .await?;
    world
        .kubectl(&["label", "configmap", "c", "applyset.kubernetes.io/part-of-"])
        .await?;
    let done = deploy(&world, ", prune: true", &[("a", "1")]).await?;
    ensure!(done.status() == 200, "{}", done.answer.text());
    ensure!(maps(&world).await? == ["a", "b", "c"], "{}", done.log);
    ensure!(
        done.log.contains("quaymaster.dev/keep says so"),
        "{}",
        done.log
    );
    ensure!(done.log.contains("somebody else took it"), "{}", done.log);
    Ok(())
}

#[tokio::test]
async fn another_apps_object_is_refused() -> Result<()> {
    let world = World::new("foreign").await?;
    ensure!(deploy(&world, "", &[("a", "1")]).await?.status() == 200);
    let spec = spec("").replace("name: app", "name: other");
    let a = config_map("a", "2");
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/a.yaml", &a)])
        .await?;
    ensure!(done.status() == 424, "{}", done.answer.text());
    ensure!(
        done.answer.text().contains("belongs to another app"),
        "{}",
        done.answer.text()
    );
    Ok(())
}

#[tokio::test]
async fn nothing_changed_notes_nothing() -> Result<()> {
    let world = World::new("still").await?;
    ensure!(deploy(&world, "", &[("a", "1")]).await?.status() == 200);
    let version = [
        "get",
        "configmap",
        "quaymaster-app",
        "-o",
        "jsonpath={.metadata.resourceVersion}",
    ];
    let before = world.kubectl(&version).await?;
    let again = deploy(&world, "", &[("a", "1")]).await?;
    ensure!(again.json()?["revision"] == 1, "{}", again.answer.text());
    ensure!(before == world.kubectl(&version).await?, "{}", again.log);
    let changed = deploy(&world, "", &[("a", "2")]).await?;
    ensure!(
        changed.json()?["revision"] == 2,
        "{}",
        changed.answer.text()
    );
    Ok(())
}

fn job_of(world: &World, pipeline: &str) -> Result<Client> {
    let token = world.token()?.claim("pipeline_id", pipeline);
    Ok(world.nobody().bearer(&world.stand.sign(token)?))
}

#[tokio::test]
async fn an_older_pipeline_does_not_overwrite_a_newer_one() -> Result<()> {
    let world = World::new("older").await?;
    let a = config_map("a", "new");
    let old = config_map("a", "old");
    let strict = spec("");
    let newer = job_of(&world, "500")?;
    let older = job_of(&world, "499")?;
    let post = async |job: &Client, spec: &str, map: &str| {
        world
            .deploy_as(
                job,
                "/v1/deploys",
                &[("quaymaster.yaml", spec), ("k8s/a.yaml", map)],
            )
            .await
    };
    ensure!(post(&newer, &strict, &a).await?.status() == 200);
    let refused = post(&older, &strict, &old).await?;
    ensure!(
        refused.status() == 409 && refused.code() == "superseded",
        "{}",
        refused.answer.text()
    );
    ensure!(
        refused.answer.text().contains("pipeline 500"),
        "{}",
        refused.answer.text()
    );
    let allowed = post(&older, &spec(", allow_older: true"), &old).await?;
    ensure!(allowed.status() == 200, "{}", allowed.answer.text());
    Ok(())
}

#[tokio::test]
async fn a_bad_image_is_rolled_back_and_the_old_revision_is_ready_again() -> Result<()> {
    let world = World::new("back").await?;
    let good = world.stand.busybox();
    let spec = spec(", on_failure: rollback");
    let manifest = |image: &str| {
        Deployment {
            image,
            ..Deployment::default()
        }
        .yaml()
    };
    let first = manifest(&good);
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/web.yaml", &first)])
        .await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let bad = manifest(&format!("{}/no-such-image:1", world.stand.facts().registry));
    let extra = config_map("extra", "only the failed run has it");
    let failed = world
        .deploy(&[
            ("quaymaster.yaml", &spec),
            ("k8s/web.yaml", &bad),
            ("k8s/extra.yaml", &extra),
        ])
        .await?;
    ensure!(failed.status() == 424, "{}", failed.answer.text());
    let report = failed.json()?;
    ensure!(
        report["status"] == "rolled_back",
        "{}\n{}",
        failed.answer.text(),
        failed.log
    );
    ensure!(
        failed.causes()[0] == "image_missing",
        "{:?}",
        failed.causes()
    );
    let image = [
        "get",
        "deployment",
        "web",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image}",
    ];
    ensure!(world.kubectl(&image).await? == good, "{}", failed.log);
    ensure!(
        maps(&world).await?.is_empty(),
        "what only the failed run made is gone"
    );
    let states: Vec<Value> = revisions(&world)
        .await?
        .iter()
        .map(|one| one["state"].clone())
        .collect();
    ensure!(states == ["deployed", "rolled_back"], "{states:?}");
    Ok(())
}

#[tokio::test]
async fn a_first_deploy_that_fails_has_nothing_to_go_back_to() -> Result<()> {
    let world = World::new("noback").await?;
    let image = format!("{}/no-such-image:1", world.stand.facts().registry);
    let manifest = Deployment {
        image: &image,
        ..Deployment::default()
    }
    .yaml();
    let spec = spec(", on_failure: rollback");
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/web.yaml", &manifest)])
        .await?;
    ensure!(done.json()?["status"] == "failed", "{}", done.answer.text());
    ensure!(
        done.answer.text().contains("no earlier revision"),
        "{}",
        done.answer.text()
    );
    Ok(())
}

async fn roll_back(world: &World, body: &str) -> Result<Finished> {
    let job = world.job()?;
    let json = job.clone().with("content-type", "application/json");
    let answer = json.send("POST", "/v1/rollbacks", body.to_owned()).await?;
    ensure!(answer.status == 202, "{}", answer.text());
    let id = answer.json()?["id"].as_str().map(str::to_owned);
    world
        .finish(&job, &id.context("the answer names the run")?)
        .await
}

async fn value(world: &World, name: &str) -> Result<String> {
    let data = ["get", "configmap", name, "-o", "jsonpath={.data.key}"];
    world.kubectl(&data).await
}

#[tokio::test]
async fn a_rollback_puts_the_revision_before_back_and_is_one_itself() -> Result<()> {
    let world = World::new("rollback").await?;
    ensure!(deploy(&world, "", &[("a", "one")]).await?.status() == 200);
    ensure!(deploy(&world, "", &[("a", "two")]).await?.status() == 200);
    let done = roll_back(&world, r#"{"name":"app"}"#).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let report = done.json()?;
    ensure!(
        report["mode"] == "rollback" && report["revision"] == 3,
        "{report}"
    );
    ensure!(value(&world, "a").await? == "one", "{}", done.log);
    let forward = roll_back(&world, r#"{"name":"app","revision":2,"timeout":"60s"}"#).await?;
    ensure!(forward.status() == 200, "{}", forward.answer.text());
    ensure!(value(&world, "a").await? == "two", "{}", forward.log);
    Ok(())
}

#[tokio::test]
async fn a_revision_that_is_not_recorded_cannot_come_back() -> Result<()> {
    let world = World::new("norevision").await?;
    ensure!(deploy(&world, "", &[("a", "one")]).await?.status() == 200);
    for body in [
        r#"{"name":"app"}"#,
        r#"{"name":"app","revision":7}"#,
        r#"{"name":"none"}"#,
    ] {
        let done = roll_back(&world, body).await?;
        ensure!(done.code() == "not_found", "{body}: {}", done.answer.text());
    }
    ensure!(value(&world, "a").await? == "one", "nothing was written");
    Ok(())
}

#[tokio::test]
async fn a_rollback_needs_its_own_verb() -> Result<()> {
    let mut world = World::without_agent("verb").await?;
    let policy = world
        .policy()
        .replace("\"prune\", \"rollback\"", "\"prune\"");
    std::fs::write(world.policy_path(), policy)?;
    world.start_agent().await?;
    let job = world.job()?.with("content-type", "application/json");
    let answer = job
        .send("POST", "/v1/rollbacks", r#"{"name":"app"}"#)
        .await?;
    ensure!(
        answer.status == 403 && answer.code() == "denied",
        "{}",
        answer.text()
    );
    ensure!(answer.text().contains("verb rollback"), "{}", answer.text());
    Ok(())
}

#[tokio::test]
async fn an_app_tells_its_revisions_to_callers_of_its_namespace_only() -> Result<()> {
    let world = World::new("app").await?;
    let job = world.job()?;
    let path = format!("/v1/apps/stand/{}/app", world.namespace);
    let nothing = job.get(&path).await?;
    ensure!(
        nothing.status == 404 && nothing.code() == "not_found",
        "{}",
        nothing.text()
    );
    ensure!(deploy(&world, "", &[("a", "one")]).await?.status() == 200);
    ensure!(deploy(&world, "", &[("a", "two")]).await?.status() == 200);
    let app = job.get(&path).await?.json()?;
    ensure!(app["current"] == 2, "{app}");
    let numbers: Vec<&Value> = app["revisions"]
        .as_array()
        .context("revisions")?
        .iter()
        .map(|one| &one["number"])
        .collect();
    ensure!(numbers == [2, 1], "{app}");
    ensure!(
        app["revisions"][0]["status"] == "deployed" && app["revisions"][0]["can_come_back"] == true,
        "{app}"
    );
    let object = format!("v1/ConfigMap {}/a", world.namespace);
    ensure!(app["objects"] == serde_json::json!([object]), "{app}");
    for elsewhere in [
        "/v1/apps/stand/kube-system/app",
        "/v1/apps/other/default/app",
    ] {
        let denied = job.get(elsewhere).await?;
        ensure!(
            denied.status == 403 && denied.code() == "denied",
            "{}",
            denied.text()
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_client_shows_the_history_and_goes_back() -> Result<()> {
    let world = World::new("clienthistory").await?;
    ensure!(deploy(&world, "", &[("a", "one")]).await?.status() == 200);
    ensure!(deploy(&world, "", &[("a", "two")]).await?.status() == 200);
    let token = world.stand.sign(world.token()?)?;
    let client = async |words: &[&str]| -> Result<(Option<i32>, String)> {
        let output = tokio::process::Command::new(&tests::world::programs().await?.client)
            .args(words)
            .env_clear()
            .env("QUAYMASTER_SOCKET", world.socket())
            .env("QUAYMASTER_ID_TOKEN", &token)
            .output()
            .await?;
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    };
    let (code, table) = client(&["history"]).await?;
    ensure!(
        code == Some(0) && table.contains("2*") && table.contains("deployed"),
        "{table}"
    );
    println!("{table}");
    let (code, told) = client(&["rollback", "--to", "1"]).await?;
    ensure!(code == Some(0), "{told}");
    ensure!(value(&world, "a").await? == "one", "{told}");
    let (code, told) = client(&["rollback", "--to", "99", "app"]).await?;
    ensure!(code != Some(0), "{told}");
    Ok(())
}
