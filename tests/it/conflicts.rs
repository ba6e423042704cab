//! Who owns what, and what cannot change: the check before the first write, on the real API server.
//!
//! The rules are tested in the crates; these scenarios show that the server says and does what the
//! rules count on.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use tests::submission::Finished;
use tests::world::World;

use crate::samples::config_map;
use crate::samples::spec;

/// Deploys one manifest with more words in the spec.
async fn deploy(world: &World, words: &str, manifest: &str) -> Result<Finished> {
    let spec = spec(words);
    let files = [("quaymaster.yaml", spec.as_str()), ("k8s/a.yaml", manifest)];
    world.deploy(&files).await
}

/// Deploys and wants success.
async fn good(world: &World, words: &str, manifest: &str) -> Result<Finished> {
    let done = deploy(world, words, manifest).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    Ok(done)
}

/// Plans and wants success.
async fn plan(world: &World, words: &str, manifest: &str) -> Result<Value> {
    let spec = spec(words);
    let files = [("quaymaster.yaml", spec.as_str()), ("k8s/a.yaml", manifest)];
    let done = world.plan(&files).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    done.json()
}

/// Writes a manifest where kubectl finds it.
fn file(world: &World, manifest: &str) -> Result<String> {
    let path = world.dir().join("kubectl.yaml");
    std::fs::write(&path, manifest)?;
    Ok(path.display().to_string())
}

async fn field(world: &World, object: &str, path: &str) -> Result<String> {
    let path = format!("jsonpath={path}");
    world.kubectl(&["get", object, "-o", &path]).await
}

/// A Deployment without pods: nothing has to become ready.
fn deployment(replicas: &str, label: &str, spec: &str) -> String {
    format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web }}
spec:
{replicas}  selector: {{ matchLabels: {{ app: {label} }} }}
{spec}  template:
    metadata: {{ labels: {{ app: {label} }} }}
    spec:
      nodeSelector: {{ kubernetes.io/hostname: nowhere }}
      containers: [{{ name: main, image: "example.com/a:1" }}]
"#
    )
}

const AUTOSCALER: &str = r#"apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: { name: web }
spec:
  minReplicas: 1
  maxReplicas: 9
  scaleTargetRef: { apiVersion: apps/v1, kind: Deployment, name: web }
  metrics: [{ type: Resource, resource: { name: cpu, target: { type: Utilization, averageUtilization: 50 } } }]
"#;

#[tokio::test]
async fn a_manual_edit_is_a_conflict_with_field_manager_time_and_both_values() -> Result<()> {
    let world = World::new("edit").await?;
    good(&world, "", &config_map("conf", "ours")).await?;
    let patch = r#"{"data":{"key":"theirs"}}"#;
    let edit = [
        "patch",
        "configmap",
        "conf",
        "--type=merge",
        "--field-manager=kubectl-edit",
        "-p",
        patch,
    ];
    world.kubectl(&edit).await?;
    let done = deploy(&world, "", &config_map("conf", "ours-2")).await?;
    ensure!(done.code() == "apply_conflict", "{}", done.answer.text());
    let text = done.answer.text();
    for word in [
        ".data.key",
        "kubectl-edit",
        "since 20",
        "theirs",
        "ours-2",
        "k8s/a.yaml",
    ] {
        ensure!(text.contains(word), "{word} is missing: {text}");
    }
    ensure!(field(&world, "configmap/conf", "{.data.key}").await? == "theirs");
    Ok(())
}

#[tokio::test]
async fn a_contested_field_is_taken_or_left_as_the_spec_says() -> Result<()> {
    let world = World::new("rules").await?;
    good(&world, "", &config_map("conf", "ours")).await?;
    let patch = r#"{"data":{"key":"theirs"}}"#;
    let edit = [
        "patch",
        "configmap",
        "conf",
        "--type=merge",
        "--field-manager=kubectl-edit",
        "-p",
        patch,
    ];
    world.kubectl(&edit).await?;
    let leave = "conflicts: [{ kind: v1/ConfigMap, name: conf, field: .data.key, then: leave }]\n";
    let done = good(&world, leave, &config_map("conf", "ours-2")).await?;
    ensure!(done.log.contains("left as it is"), "{}", done.log);
    ensure!(field(&world, "configmap/conf", "{.data.key}").await? == "theirs");
    let take = "conflicts: [{ field: .data, manager: kubectl-edit, then: take }]\n";
    let done = good(&world, take, &config_map("conf", "ours-2")).await?;
    ensure!(
        done.log.contains("is taken from kubectl-edit"),
        "{}",
        done.log
    );
    ensure!(field(&world, "configmap/conf", "{.data.key}").await? == "ours-2");
    // Taken once, it is ours: nothing is contested any more.
    good(&world, "", &config_map("conf", "ours-3")).await?;
    Ok(())
}

#[tokio::test]
async fn a_rule_for_another_manager_takes_nothing() -> Result<()> {
    let world = World::new("other").await?;
    good(&world, "", &config_map("conf", "ours")).await?;
    let patch = r#"{"data":{"key":"theirs"}}"#;
    let edit = [
        "patch",
        "configmap",
        "conf",
        "--type=merge",
        "--field-manager=somebody",
        "-p",
        patch,
    ];
    world.kubectl(&edit).await?;
    let take = "conflicts: [{ field: .data, manager: kubectl-edit, then: take }]\n";
    let done = deploy(&world, take, &config_map("conf", "ours-2")).await?;
    ensure!(done.code() == "apply_conflict", "{}", done.answer.text());
    ensure!(field(&world, "configmap/conf", "{.data.key}").await? == "theirs");
    Ok(())
}

#[tokio::test]
async fn replicas_that_an_autoscaler_set_are_left() -> Result<()> {
    let world = World::new("hpa").await?;
    let skip = "  annotations: { quaymaster.dev/wait: skip }\n";
    let manifest = |image: &str, replicas: &str| {
        deployment(replicas, "web", "")
            .replace(
                "metadata: { name: web }\n",
                &format!("metadata:\n  name: web\n{skip}"),
            )
            .replace("example.com/a:1", image)
    };
    let two = "  replicas: 2\n";
    world
        .kubectl(&["apply", "-f", &file(&world, AUTOSCALER)?])
        .await?;
    let first = plan(&world, "", &manifest("example.com/a:1", two)).await?;
    ensure!(first["steps"][0]["action"] == "create", "{first}");
    let applied = file(&world, &manifest("example.com/a:1", two))?;
    let apply = [
        "apply",
        "--server-side",
        "--field-manager=quaymaster",
        "-f",
        &applied,
    ];
    world.kubectl(&apply).await?;
    // Only we own the field: its live value is sent, even when it has left the manifest.
    for replicas in [two, "  replicas: 7\n", ""] {
        let told = plan(&world, "", &manifest("example.com/a:2", replicas)).await?;
        let step = &told["steps"][0];
        ensure!(step["action"] == "change", "{told}");
        let fields = step["fields"].as_array().context("fields")?;
        ensure!(
            fields
                .iter()
                .all(|field| field["field"] != ".spec.replicas"),
            "{step}"
        );
    }
    let scale = [
        "patch",
        "deployment",
        "web",
        "--subresource=scale",
        "--type=merge",
        "--field-manager=kube-controller-manager",
        "-p",
        r#"{"spec":{"replicas":5}}"#,
    ];
    world.kubectl(&scale).await?;
    let told = plan(&world, "", &manifest("example.com/a:2", two)).await?;
    let fields = told["steps"][0]["fields"].to_string();
    ensure!(
        fields.contains("image") && !fields.contains("replicas"),
        "{fields}"
    );
    let notes = told["steps"][0]["notes"].to_string();
    ensure!(notes.contains("HorizontalPodAutoscaler"), "{notes}");
    Ok(())
}

#[tokio::test]
async fn a_field_that_the_manifest_ignores_keeps_its_live_value() -> Result<()> {
    let world = World::new("ignore").await?;
    let manifest = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: conf\n  annotations: {{ quaymaster.dev/ignore-fields: .data.key }}\ndata: {{ key: {value}, other: {value} }}\n"
        )
    };
    good(&world, "", &manifest("one")).await?;
    let patch = r#"{"data":{"key":"theirs"}}"#;
    world
        .kubectl(&["patch", "configmap", "conf", "--type=merge", "-p", patch])
        .await?;
    good(&world, "", &manifest("two")).await?;
    let seen = field(&world, "configmap/conf", "{.data.key} {.data.other}").await?;
    ensure!(seen == "theirs two", "{seen}");
    Ok(())
}

#[tokio::test]
async fn what_left_the_manifest_goes_when_kubectl_apply_hands_over() -> Result<()> {
    let world = World::new("adopt").await?;
    let old =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: conf }\ndata: { key: one, gone: x }\n";
    world.kubectl(&["apply", "-f", &file(&world, old)?]).await?;
    let told = plan(&world, "", &config_map("conf", "two")).await?;
    let step = told["steps"][0].to_string();
    for word in ["kubectl-client-side-apply", ".data.gone", ".data.key"] {
        ensure!(step.contains(word), "{word} is missing: {step}");
    }
    ensure!(field(&world, "configmap/conf", "{.data.gone}").await? == "x");
    good(&world, "", &config_map("conf", "two")).await?;
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
    let live: Value = serde_json::from_str(&text)?;
    ensure!(
        live["data"] == serde_json::json!({ "key": "two" }),
        "{live}"
    );
    ensure!(
        !text.contains("last-applied") && !text.contains("kubectl-client-side"),
        "{text}"
    );
    let again = good(&world, "", &config_map("conf", "two")).await?.json()?;
    ensure!(again["steps"][0]["action"] == "same", "{again}");
    Ok(())
}

#[tokio::test]
async fn a_strategy_that_kubectl_apply_set_can_change_with_the_move() -> Result<()> {
    let world = World::new("strategy").await?;
    let rolling = "  strategy: { type: RollingUpdate, rollingUpdate: { maxSurge: 1 } }\n";
    let old = deployment("  replicas: 0\n", "web", rolling);
    world
        .kubectl(&["apply", "-f", &file(&world, &old)?])
        .await?;
    let new = deployment("  replicas: 0\n", "web", "  strategy: { type: Recreate }\n");
    good(&world, "", &new).await?;
    let seen = field(&world, "deployment/web", "{.spec.strategy}").await?;
    ensure!(seen == r#"{"type":"Recreate"}"#, "{seen}");
    Ok(())
}

#[tokio::test]
async fn another_tools_fields_become_ours_only_when_the_spec_adopts_it() -> Result<()> {
    let world = World::new("helm").await?;
    let old =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: conf }\ndata: { key: one, gone: x }\n";
    let path = file(&world, old)?;
    let create = ["create", "--field-manager=helm", "-f", &path];
    world.kubectl(&create).await?;
    let done = deploy(&world, "", &config_map("conf", "two")).await?;
    ensure!(done.code() == "apply_conflict", "{}", done.answer.text());
    good(&world, "adopt: [helm]\n", &config_map("conf", "two")).await?;
    let seen = field(&world, "configmap/conf", "{.data}").await?;
    ensure!(seen == r#"{"key":"two"}"#, "{seen}");
    Ok(())
}

#[tokio::test]
async fn a_fixed_selector_is_named_and_the_object_is_made_anew_only_when_allowed() -> Result<()> {
    let world = World::new("selector").await?;
    good(&world, "", &deployment("  replicas: 0\n", "one", "")).await?;
    let uid = field(&world, "deployment/web", "{.metadata.uid}").await?;
    let other = deployment("  replicas: 0\n", "two", "");
    let done = deploy(&world, "", &other).await?;
    ensure!(done.code() == "object_invalid", "{}", done.answer.text());
    let text = done.answer.text();
    ensure!(
        text.contains(".spec.selector.matchLabels.app cannot change")
            && text.contains("quaymaster.dev/recreate"),
        "{text}"
    );
    ensure!(field(&world, "deployment/web", "{.metadata.uid}").await? == uid);
    let allowed = other.replace(
        "{ name: web }",
        "{ name: web, annotations: { quaymaster.dev/recreate: allow } }",
    );
    let told = plan(&world, "", &allowed).await?;
    ensure!(told["steps"][0]["action"] == "recreate", "{told}");
    ensure!(field(&world, "deployment/web", "{.metadata.uid}").await? == uid);
    good(&world, "", &allowed).await?;
    ensure!(field(&world, "deployment/web", "{.metadata.uid}").await? != uid);
    let kept = allowed.replace("app: two", "app: three").replace(
        "recreate: allow",
        "recreate: allow, quaymaster.dev/keep: \"true\"",
    );
    let done = deploy(&world, "", &kept).await?;
    ensure!(
        done.answer.text().contains("quaymaster.dev/keep"),
        "{}",
        done.answer.text()
    );
    Ok(())
}

/// A StatefulSet whose pods run on the stand's real node.
fn stateful(image: &str, service: &str) -> String {
    format!(
        r#"apiVersion: apps/v1
kind: StatefulSet
metadata: {{ name: db, annotations: {{ quaymaster.dev/recreate: allow }} }}
spec:
  serviceName: {service}
  selector: {{ matchLabels: {{ app: db }} }}
  template:
    metadata: {{ labels: {{ app: db }} }}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{ name: main, image: "{image}", command: ["/bin/sh", "-c", "exec sleep 3600"] }}]
"#
    )
}

#[tokio::test]
async fn the_pods_of_a_stateful_set_that_is_made_anew_stay() -> Result<()> {
    let world = World::new("sts").await?;
    if !world.stand.facts().has_node {
        return Ok(());
    }
    let image = world.stand.busybox();
    good(&world, "", &stateful(&image, "one")).await?;
    let set = field(&world, "statefulset/db", "{.metadata.uid}").await?;
    let pod = field(&world, "pod/db-0", "{.metadata.uid}").await?;
    let done = good(&world, "", &stateful(&image, "two")).await?;
    let step = done.json()?["steps"][0].clone();
    ensure!(step["action"] == "recreate", "{step}");
    ensure!(step["fields"][0]["field"] == ".spec.serviceName", "{step}");
    ensure!(field(&world, "statefulset/db", "{.metadata.uid}").await? != set);
    ensure!(
        field(&world, "pod/db-0", "{.metadata.uid}").await? == pod,
        "the pod stays"
    );
    Ok(())
}

#[tokio::test]
async fn jobs_services_and_immutable_maps_are_named_field_by_field() -> Result<()> {
    let world = World::new("fixed").await?;
    let job = |word: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{ name: a, annotations: {{ quaymaster.dev/wait: skip }} }}\nspec:\n  suspend: true\n  template:\n    spec:\n      restartPolicy: Never\n      containers: [{{ name: main, image: example.com/a, args: [{word}] }}]\n"
        )
    };
    let service = |address: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: a }}\nspec: {{ clusterIP: {address}, selector: {{ app: a }}, ports: [{{ port: 80 }}] }}\n"
        )
    };
    let map = |word: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: a }}\nimmutable: true\ndata: {{ key: {word} }}\n"
        )
    };
    let cases = [
        (
            job("one"),
            job("two"),
            ".spec.template.spec.containers[name=\\\"main\\\"].args[0]",
        ),
        (service("None"), service("10.96.0.250"), ".spec.clusterIP"),
        (map("one"), map("two"), ".data.key"),
    ];
    for (old, new, path) in cases {
        let path_of_file = file(&world, &old)?;
        let apply = [
            "apply",
            "--server-side",
            "--field-manager=quaymaster",
            "-f",
            &path_of_file,
        ];
        world.kubectl(&apply).await?;
        let done = deploy(&world, "", &new).await?;
        let text = done.answer.text();
        println!("fixed | {path} | {}", done.code());
        ensure!(done.code() == "object_invalid", "{text}");
        ensure!(
            text.contains(&format!("{path} cannot change")),
            "{path}: {text}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_claim_is_never_made_anew() -> Result<()> {
    let world = World::new("claim").await?;
    let claim = |mode: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{ name: data, annotations: {{ quaymaster.dev/recreate: allow, quaymaster.dev/wait: skip }} }}\nspec:\n  accessModes: [{mode}]\n  storageClassName: none\n  resources: {{ requests: {{ storage: 1Gi }} }}\n"
        )
    };
    let path = file(&world, &claim("ReadWriteOnce"))?;
    let apply = [
        "apply",
        "--server-side",
        "--field-manager=quaymaster",
        "-f",
        &path,
    ];
    world.kubectl(&apply).await?;
    let done = deploy(&world, "", &claim("ReadWriteMany")).await?;
    let text = done.answer.text();
    ensure!(done.code() == "object_invalid", "{text}");
    ensure!(
        text.contains(".spec.accessModes[0] cannot change") && text.contains("hold data"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn an_object_that_does_not_go_is_told_with_its_finalizers() -> Result<()> {
    let world = World::new("stuck").await?;
    let map = |word: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: a, annotations: {{ quaymaster.dev/recreate: allow }} }}\nimmutable: true\ndata: {{ key: {word} }}\n"
        )
    };
    good(&world, "", &map("one")).await?;
    let hold = r#"{"metadata":{"finalizers":["example.com/hold"]}}"#;
    world
        .kubectl(&["patch", "configmap", "a", "--type=merge", "-p", hold])
        .await?;
    let spec = crate::samples::spec_until("8s");
    let files = [
        ("quaymaster.yaml", spec.as_str()),
        ("k8s/a.yaml", &map("two")),
    ];
    let done = world.deploy(&files).await?;
    ensure!(done.status() != 200, "{}", done.answer.text());
    let text = done.answer.text();
    ensure!(text.contains("example.com/hold"), "{text}");
    let free = r#"{"metadata":{"finalizers":null}}"#;
    world
        .kubectl(&["patch", "configmap", "a", "--type=merge", "-p", free])
        .await?;
    Ok(())
}

#[tokio::test]
async fn the_environment_of_a_pod_that_cannot_change_is_not_told() -> Result<()> {
    let world = World::new("env").await?;
    let pod = |value: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: a, annotations: {{ quaymaster.dev/wait: skip }} }}\nspec:\n  nodeSelector: {{ kubernetes.io/hostname: nowhere }}\n  containers: [{{ name: main, image: example.com/a, env: [{{ name: P, value: {value:?} }}] }}]\n"
        )
    };
    let path = file(&world, &pod("hunter-one"))?;
    let apply = [
        "apply",
        "--server-side",
        "--field-manager=quaymaster",
        "-f",
        &path,
    ];
    world.kubectl(&apply).await?;
    let done = deploy(&world, "", &pod("hunter-two")).await?;
    ensure!(done.code() == "object_invalid", "{}", done.answer.text());
    let all = format!("{}{}{}", done.answer.text(), done.log, world.agent_log()?);
    ensure!(all.contains(".env[name="), "{all}");
    ensure!(!all.contains("hunter-"), "{all}");
    Ok(())
}

#[tokio::test]
async fn nulls_are_dropped_and_doubled_items_are_named_before_any_write() -> Result<()> {
    let world = World::new("sane").await?;
    let null = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: a, labels: null }\nimmutable: ~\ndata: { key: x }\n";
    let done = good(&world, "", null).await?;
    ensure!(done.log.contains("null counts as not set"), "{}", done.log);
    let twice = deployment("  replicas: 0\n", "web", "").replace(
        "image: \"example.com/a:1\"",
        "image: a, env: [{ name: A, value: x }, { name: A, value: y }]",
    );
    let done = deploy(&world, "", &twice).await?;
    ensure!(done.code() == "manifest_invalid", "{}", done.answer.text());
    let text = done.answer.text();
    ensure!(
        text.contains(r#"env[name=\"A\"]"#) && text.contains("k8s/a.yaml"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn a_plan_tells_changes_by_path_without_values_of_environments() -> Result<()> {
    let world = World::new("fields").await?;
    let manifest = |image: &str, value: &str| {
        deployment("  replicas: 0\n", "web", "").replace(
            "image: \"example.com/a:1\"",
            &format!("image: {image}, env: [{{ name: P, value: {value} }}]"),
        )
    };
    good(&world, "", &manifest("example.com/a:1", "hunter-one")).await?;
    let told = plan(&world, "", &manifest("example.com/a:2", "hunter-two")).await?;
    let fields = told["steps"][0]["fields"].as_array().context("fields")?;
    let image = fields
        .iter()
        .find(|field| field["field"] == ".spec.template.spec.containers[name=\"main\"].image")
        .context("the image changes")?;
    ensure!(
        image["before"] == "\"example.com/a:1\"" && image["after"] == "\"example.com/a:2\"",
        "{image}"
    );
    ensure!(
        fields.len() == 2 && !told.to_string().contains("hunter-"),
        "{told}"
    );
    Ok(())
}
