//! Plans that people can trust: what they say, what they never say, and deploys that keep to them.

use std::path::Path;
use std::process::Output;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use tests::submission::post;
use tests::world::World;

use crate::client::folder;
use crate::client::quaymaster;
use crate::client::told;
use crate::samples::config_map;
use crate::samples::spec;

/// A secret value that must never be seen.
const CANARY: &str = "canary-value-5d41402a";

/// A world with an app of one ConfigMap and one Secret from Vault, in a folder.
struct App {
    world: World,
    dir: TempDir,
}

impl App {
    async fn new(name: &str) -> Result<Self> {
        let world = World::new(name).await?;
        let path = world.put("app", json!({ "password": CANARY })).await?;
        let secrets = format!(
            "secrets:\n  - name: app-db\n    keys:\n      password: {{ vault: {path}, field: password }}\n"
        );
        let dir = folder(
            &world,
            &[
                ("quaymaster.yaml", &spec(&secrets)),
                ("k8s/conf.yaml", &config_map("conf", "one")),
            ],
        )?;
        Ok(Self { world, dir })
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.dir.path().join(file), text)?)
    }

    async fn run(&self, words: &[&str]) -> Result<Output> {
        quaymaster(&self.world, words, self.dir.path(), &[]).await
    }

    /// Saves a plan, changes the world, and deploys with the plan; returns what the client says.
    async fn refused(&self, change: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<String> {
        let saved = self.run(&["plan", "--save", "plan.json"]).await?;
        ensure!(saved.status.code() == Some(0), "{}", told(&saved));
        change(self).await?;
        let before = self.versions().await?;
        let output = self.run(&["deploy", "--plan", "plan.json"]).await?;
        ensure!(output.status.code() == Some(22), "{}", told(&output));
        ensure!(before == self.versions().await?, "something was written");
        Ok(told(&output))
    }

    /// The resource versions of everything in the namespace that these scenarios write.
    async fn versions(&self) -> Result<String> {
        let path =
            "jsonpath={range .items[*]}{.kind}/{.metadata.name}={.metadata.resourceVersion} {end}";
        self.world
            .kubectl(&["get", "configmap,secret", "-o", path])
            .await
    }
}

fn saved(dir: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(
        dir.join("plan.json"),
    )?)?)
}

#[tokio::test]
async fn a_saved_plan_is_deployed_as_it_was_reviewed() -> Result<()> {
    let app = App::new("keeps").await?;
    let plan = app.run(&["plan", "--save", "plan.json"]).await?;
    ensure!(plan.status.code() == Some(0), "{}", told(&plan));
    let text = std::fs::read_to_string(app.dir.path().join("plan.json"))?;
    ensure!(
        !told(&plan).contains(CANARY) && !text.contains(CANARY),
        "{text}"
    );
    let steps = saved(app.dir.path())?["steps"].clone();
    ensure!(
        steps.as_array().is_some_and(|steps| steps.len() == 2),
        "{steps}"
    );
    let done = app.run(&["deploy", "--plan", "plan.json"]).await?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    app.world.kubectl(&["get", "configmap", "conf"]).await?;
    // What was done is not what would be done again.
    let again = app.run(&["deploy", "--plan", "plan.json"]).await?;
    ensure!(
        again.status.code() == Some(22) && told(&again).contains("did not exist"),
        "{}",
        told(&again)
    );
    Ok(())
}

#[tokio::test]
async fn a_saved_plan_holds_for_what_is_deleted_too() -> Result<()> {
    let app = App::new("deletes").await?;
    let pruning = spec("").replace("timeout: 90s", "timeout: 90s, prune: true, prune_share: 70");
    app.write("quaymaster.yaml", &pruning)?;
    app.write("k8s/more.yaml", &config_map("more", "x"))?;
    app.write("k8s/other.yaml", &config_map("other", "x"))?;
    let done = app.run(&["deploy"]).await?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    std::fs::remove_file(app.dir.path().join("k8s/more.yaml"))?;
    std::fs::remove_file(app.dir.path().join("k8s/other.yaml"))?;
    let text = app
        .refused(async |app| {
            let body = app
                .world
                .kubectl(&["get", "configmap", "more", "-o", "json"])
                .await?;
            let mut body: Value = serde_json::from_str(&body)?;
            let labels = body["metadata"]["labels"].take();
            body["metadata"] = json!({
                "name": "more", "namespace": app.world.namespace, "labels": labels,
            });
            app.world.kubectl(&["delete", "configmap", "more"]).await?;
            app.world.stand.cluster().apply(&body).await
        })
        .await?;
    ensure!(
        text.contains("/more: is in the plan and no longer in this deploy"),
        "another object of that name: {text}"
    );
    let plan = app.run(&["plan", "--save", "plan.json"]).await?;
    ensure!(plan.status.code() == Some(0), "{}", told(&plan));
    let steps = saved(app.dir.path())?["steps"].clone();
    ensure!(
        steps[1]["action"] == "delete" && steps[2].is_null(),
        "{steps}"
    );
    let done = app.run(&["deploy", "--plan", "plan.json"]).await?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    let gone = app.world.kubectl(&["get", "configmap", "other"]).await;
    ensure!(gone.is_err(), "{}", told(&done));
    // The one that somebody made anew is theirs.
    app.world.kubectl(&["get", "configmap", "more"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_deploy_that_is_not_the_saved_plan_writes_nothing_and_says_why() -> Result<()> {
    let app = App::new("moved").await?;
    let text = app
        .refused(async |app| app.write("k8s/conf.yaml", &config_map("conf", "two")))
        .await?;
    ensure!(
        text.contains("the bundle is not the one") && text.contains("what is sent"),
        "{text}"
    );
    let text = app
        .refused(async |app| app.write("k8s/more.yaml", &config_map("more", "x")))
        .await?;
    ensure!(
        text.contains("/more: is not in the plan"),
        "a new object: {text}"
    );
    let done = app.run(&["deploy"]).await?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    let text = app
        .refused(async |app| {
            let patch = r#"{"data":{"other":"x"}}"#;
            let patched = ["patch", "configmap", "conf", "--type=merge", "-p", patch];
            app.world.kubectl(&patched).await.map(drop)
        })
        .await?;
    ensure!(
        text.contains("/conf: was changed by somebody"),
        "an object changed: {text}"
    );
    let text = app
        .refused(async |app| {
            app.world
                .put("app", json!({ "password": "another-value" }))
                .await
                .map(drop)
        })
        .await?;
    ensure!(
        text.contains("version 1, and now from") && text.contains("version 2"),
        "a secret moved: {text}"
    );
    let text = app
        .refused(async |app| {
            app.world
                .kubectl(&["delete", "configmap", "conf"])
                .await
                .map(drop)
        })
        .await?;
    ensure!(
        text.contains("/conf: existed when the plan was made"),
        "an object is gone: {text}"
    );
    Ok(())
}

#[tokio::test]
async fn a_plan_prints_what_changes_and_its_exit_code_says_whether() -> Result<()> {
    let app = App::new("prints").await?;
    for number in 0..6 {
        let name = format!("same{number}");
        app.write(&format!("k8s/{name}.yaml"), &config_map(&name, "x"))?;
    }
    let plan = app.run(&["plan", "--detailed-exitcode"]).await?;
    ensure!(plan.status.code() == Some(2), "{}", told(&plan));
    ensure!(told(&plan).contains("8 to create"), "{}", told(&plan));
    let done = app.run(&["deploy"]).await?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    let same = app.run(&["plan", "--detailed-exitcode"]).await?;
    ensure!(
        same.status.code() == Some(0) && told(&same).contains("8 objects stay the same"),
        "{}",
        told(&same)
    );
    app.write("k8s/conf.yaml", &config_map("conf", "two"))?;
    let path = &app.world.role;
    app.world
        .vault_write(
            &format!("kv/data/{path}/app"),
            json!({ "data": { "password": format!("{CANARY}2") } }),
        )
        .await?;
    let plan = app.run(&["plan", "--detailed-exitcode"]).await?;
    let text = told(&plan);
    println!("{text}");
    ensure!(plan.status.code() == Some(2), "{text}");
    for part in [
        "~ change v1/Secret",
        "~ password: changes, from",
        "~ change v1/ConfigMap",
        ".data.key",
        "6 objects stay the same: 6 v1/ConfigMap",
        "2 to change, 6 the same",
    ] {
        ensure!(text.contains(part), "{part}: {text}");
    }
    ensure!(!text.contains(CANARY), "{text}");
    let json = app.run(&["plan", "-o", "json"]).await?;
    let report: Value = serde_json::from_slice(&json.stdout)?;
    ensure!(report["steps"].as_array().map(Vec::len) == Some(8));
    ensure!(!String::from_utf8_lossy(&json.stdout).contains(CANARY));
    Ok(())
}

#[tokio::test]
async fn curl_keeps_to_a_plan_as_well_and_a_plan_that_is_missing_or_broken_deploys_nothing()
-> Result<()> {
    let world = World::new("curlplan").await?;
    let (spec, conf) = (spec(""), config_map("conf", "one"));
    let files = [
        ("quaymaster.yaml", spec.as_str()),
        ("k8s/conf.yaml", conf.as_str()),
    ];
    let plan = world.plan(&files).await?.json()?["plan"].to_string();
    let job = world.job()?;
    let bound = "/v1/deploys?plan=p.json";
    for broken in ["", "{}", &plan.replace("\"format\":1", "\"format\":9")] {
        let files = [files[0], files[1], ("p.json", broken)];
        let answer = post(&job, bound, &files).await?;
        ensure!(
            answer.status == 422 && answer.code() == "bundle_invalid",
            "{broken}: {}",
            answer.text()
        );
    }
    let missing = post(&job, bound, &files).await?;
    ensure!(missing.status == 422, "{}", missing.text());
    let files = [files[0], files[1], ("p.json", plan.as_str())];
    let done = world.deploy_as(&job, bound, &files).await?;
    ensure!(done.status() == 200, "{}", done.answer.text());
    let again = world.deploy_as(&job, bound, &files).await?;
    ensure!(
        again.status() == 409 && again.code() == "plan_changed",
        "{}",
        again.answer.text()
    );
    let problem = again.json()?["problem"].clone();
    let first = problem["errors"][0]["message"].as_str();
    ensure!(
        first.context("a place")?.contains("conf: did not exist"),
        "{problem}"
    );
    Ok(())
}
