//! The main job: secrets from OpenBao, manifests, a rollout on the real kubelet, a truthful verdict.
//!
//! These scenarios show the wiring; the rules behind them are tested in the crates.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tests::world::World;

use crate::samples::Deployment;
use crate::samples::config_map;
use crate::samples::spec;
use crate::samples::spec_with_secret;

#[tokio::test]
async fn a_job_deploys_manifests_and_secrets_and_learns_that_all_is_ready() -> Result<()> {
    let world = World::new("main").await?;
    let path = world
        .put("app", json!({ "password": "s3cret-value-1", "port": 5432 }))
        .await?;
    let image = world.stand.busybox();
    let deployment = Deployment {
        image: &image,
        container: "env:\n  - name: PASSWORD\n    valueFrom: { secretKeyRef: { name: app-db, key: password } }",
        ..Deployment::default()
    };
    let secrets = format!(
        "secrets:\n  - name: app-db\n    keys:\n      password: {{ vault: {path}, field: password }}\n      port: {{ vault: {path}, field: port }}\n      url: {{ template: \"pg://app:{{{{ password }}}}@db:{{{{ port }}}}\" }}\n"
    );
    let files = [
        ("quaymaster.yaml", spec(&secrets)),
        ("k8s/web.yaml", deployment.yaml()),
        ("k8s/conf.yaml", config_map("conf", "v")),
    ];
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let done = world.deploy(&files).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let report = done.json()?;
    ensure!(report["status"] == "succeeded", "{report}");
    let secret = world.secret("app-db").await?;
    ensure!(
        secret["password"] == "s3cret-value-1" && secret["port"] == "5432",
        "{secret:?}"
    );
    ensure!(
        secret["url"] == "pg://app:s3cret-value-1@db:5432",
        "{secret:?}"
    );
    if world.stand.facts().has_node {
        let seen = world
            .kubectl(&[
                "exec",
                "deploy/web",
                "--",
                "/bin/sh",
                "-c",
                "echo $PASSWORD",
            ])
            .await?;
        ensure!(seen.trim() == "s3cret-value-1", "{seen}");
    }
    ensure!(
        !done.log.contains("s3cret-value-1") && !done.answer.text().contains("s3cret-value-1"),
        "{}",
        done.log
    );
    Ok(())
}

#[tokio::test]
async fn deploying_the_same_again_writes_nothing() -> Result<()> {
    let world = World::new("again").await?;
    let path = world
        .put("app", json!({ "password": "first-value" }))
        .await?;
    let spec = format!("{}manifests: [k8s/]\n", spec_with_secret(&path, "password"));
    let conf = config_map("conf", "one");
    let files = [
        ("quaymaster.yaml", spec.as_str()),
        ("k8s/conf.yaml", conf.as_str()),
    ];
    ensure!(
        world.deploy(&files).await?.status() == 200,
        "the first deploy works"
    );
    let version = async |kind: &str, name: &str| {
        world
            .kubectl(&[
                "get",
                kind,
                name,
                "-o",
                "jsonpath={.metadata.resourceVersion}",
            ])
            .await
    };
    let before = (
        version("configmap", "conf").await?,
        version("secret", "app-secret").await?,
    );
    let done = world.deploy(&files).await?;
    ensure!(done.status() == 200, "{}", done.answer.text());
    let after = (
        version("configmap", "conf").await?,
        version("secret", "app-secret").await?,
    );
    ensure!(before == after, "{before:?} became {after:?}");
    let steps = done.json()?["steps"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ensure!(
        !steps.is_empty() && steps.iter().all(|step| step["action"] == "same"),
        "{steps:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_plan_names_every_change_and_writes_nothing() -> Result<()> {
    let world = World::new("plan").await?;
    let path = world
        .put("app", json!({ "password": "planned-value" }))
        .await?;
    let creds = world.creds();
    let secrets = format!(
        "secrets:\n  - name: app-db\n    keys:\n      password: {{ vault: {path}, field: password }}\n      user: {{ vault: {creds}, field: username }}\n"
    );
    let (spec, conf) = (spec(&secrets), config_map("conf", "one"));
    let files = [
        ("quaymaster.yaml", spec.as_str()),
        ("k8s/conf.yaml", conf.as_str()),
    ];
    let done = world.plan(&files).await?;
    ensure!(done.status() == 200, "{}", done.answer.text());
    let report = done.json()?;
    ensure!(report["mode"] == "dry_run", "{report}");
    let steps = report["steps"].as_array().context("there are steps")?;
    ensure!(
        steps.len() == 2 && steps.iter().all(|step| step["action"] == "create"),
        "{steps:?}"
    );
    ensure!(
        world.kubectl(&["get", "configmap", "conf"]).await.is_err(),
        "nothing is written"
    );
    ensure!(
        world.kubectl(&["get", "secret", "app-db"]).await.is_err(),
        "nothing is written"
    );
    ensure!(
        world.live_credentials().await? == 0,
        "a plan issues no credential"
    );
    ensure!(!done.log.contains("planned-value") && !done.answer.text().contains("planned-value"));
    Ok(())
}

#[tokio::test]
async fn database_credentials_work_and_belong_together() -> Result<()> {
    let world = World::new("creds").await?;
    let spec = "version: 1\nname: app\nsecrets:\n  - name: app-db\n    keys:\n      username: { vault: database/creds/flask, field: username }\n      password: { vault: database/creds/flask, field: password }\n";
    let done = world.deploy(&[("quaymaster.yaml", spec)]).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let secret = world.secret("app-db").await?;
    let url = format!(
        "postgresql://{}:{}@{}/demo",
        secret["username"],
        secret["password"],
        world.stand.facts().postgres
    );
    let output = tokio::process::Command::new("psql")
        .arg(url)
        .args(["-Atc", "select count(*) from greetings"])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(
        !done.log.contains(&secret["username"]) && !done.log.contains(&secret["password"]),
        "{}",
        done.log
    );
    Ok(())
}

#[tokio::test]
async fn kv_versions_are_read_as_asked() -> Result<()> {
    let world = World::new("versions").await?;
    let path = world.put("app", json!({ "value": "the-old-one" })).await?;
    world.put("app", json!({ "value": "the-new-one" })).await?;
    world
        .vault_write(
            &format!("kv1/{}/app", world.role),
            json!({ "value": "kv-one" }),
        )
        .await?;
    let role = &world.role;
    let spec = format!(
        "version: 1\nname: app\nsecrets:\n  - name: app-db\n    keys:\n      old: {{ vault: {path}, field: value, version: 1 }}\n      new: {{ vault: {path}, field: value }}\n      one: {{ vault: kv1/{role}/app, field: value }}\n"
    );
    let done = world.deploy(&[("quaymaster.yaml", &spec)]).await?;
    ensure!(done.status() == 200, "{}", done.answer.text());
    let secret = world.secret("app-db").await?;
    ensure!(
        secret["old"] == "the-old-one"
            && secret["new"] == "the-new-one"
            && secret["one"] == "kv-one",
        "{secret:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_custom_resource_and_its_definition_come_in_one_bundle() -> Result<()> {
    let mut world = World::without_agent("crd").await?;
    // A definition is the whole cluster's, so each world has its own.
    let api = format!("w{}.example.com", world.project);
    let kinds =
        format!("kinds = [\"apiextensions.k8s.io/CustomResourceDefinition\", \"{api}/Widget\", ");
    let policy = world.policy().replace("kinds = [", &kinds);
    std::fs::write(world.policy_path(), policy)?;
    let group = format!("gitlab:project:{}", world.project);
    world.stand.cluster().apply(&json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": format!("crd-writer-{}", world.project) }, "rules": [
            { "apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["*"] },
            { "apiGroups": [api], "resources": ["widgets"], "verbs": ["*"] }] },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": format!("crd-writer-{}", world.project) },
          "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("crd-writer-{}", world.project) },
          "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group }] }] })).await?;
    world.start_agent().await?;
    let crd = r#"apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: widgets.demo.example.com }
spec:
  group: demo.example.com
  scope: Namespaced
  names: { kind: Widget, plural: widgets, singular: widget }
  versions:
    - name: v1
      served: true
      storage: true
      schema: { openAPIV3Schema: { type: object, x-kubernetes-preserve-unknown-fields: true } }
"#
    .replace("demo.example.com", &api);
    let widget = format!(
        "apiVersion: {api}/v1\nkind: Widget\nmetadata: {{ name: one }}\nspec: {{ size: 3 }}\n"
    );
    let spec = spec("");
    let done = world
        .deploy(&[
            ("quaymaster.yaml", &spec),
            ("k8s/a.yaml", &widget),
            ("k8s/b.yaml", &crd),
        ])
        .await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    world
        .kubectl(&["get", &format!("widgets.{api}"), "one"])
        .await
        .map(drop)
}

#[tokio::test]
async fn the_same_key_is_the_same_run_and_another_body_is_refused() -> Result<()> {
    let world = World::new("idem").await?;
    let job = world.job()?.with("idempotency-key", "one-key");
    let (spec, one, two) = (
        spec(""),
        config_map("conf", "one"),
        config_map("conf", "two"),
    );
    let first = tests::submission::post(
        &job,
        "/v1/deploys",
        &[("quaymaster.yaml", &spec), ("k8s/c.yaml", &one)],
    )
    .await?;
    ensure!(first.status == 202, "{}", first.text());
    let id = first.json()?["id"].clone();
    let again = tests::submission::post(
        &job,
        "/v1/deploys",
        &[("quaymaster.yaml", &spec), ("k8s/c.yaml", &one)],
    )
    .await?;
    ensure!(
        again.status == 202 && again.json()?["id"] == id,
        "{}",
        again.text()
    );
    let other = tests::submission::post(
        &job,
        "/v1/deploys",
        &[("quaymaster.yaml", &spec), ("k8s/c.yaml", &two)],
    )
    .await?;
    ensure!(
        other.status == 409 && other.code() == "idempotency_conflict",
        "{}",
        other.text()
    );
    let done = world.finish(&job, id.as_str().unwrap_or_default()).await?;
    ensure!(done.status() == 200, "{}", done.answer.text());
    Ok(())
}

#[tokio::test]
async fn objects_are_written_as_the_job_and_not_as_the_agent() -> Result<()> {
    let world = World::new("actor").await?;
    let (spec, conf) = (spec(""), config_map("conf", "one"));
    let done = world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", &conf)])
        .await?;
    ensure!(done.status() == 200, "{}", done.answer.text());
    let text = world
        .kubectl(&[
            "get",
            "configmap",
            "conf",
            "-o",
            "json",
            "--show-managed-fields",
        ])
        .await?;
    let body: Value = serde_json::from_str(&text)?;
    let managers = body["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ensure!(
        managers.len() == 1
            && managers[0]["manager"] == "quaymaster"
            && managers[0]["operation"] == "Apply",
        "{managers:?}"
    );
    ensure!(
        done.log.contains("gitlab:ci_job:"),
        "the log names the identity: {}",
        done.log
    );
    Ok(())
}
