//! The examples as they stand in the repository: the same app from manifests, a chart and a
//! kustomization, each deployed with its real image, its secrets and a database.
//!
//! What a scenario changes of an example is the target and the KV path, which belong to its world.

use std::collections::BTreeMap;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::json;
use tests::example;
use tests::stand::Stand;
use tests::submission::Finished;
use tests::world::World;

/// Makes a world in which an example can be deployed: its Secret is granted, its KV fields are there.
async fn world(name: &str) -> Result<World> {
    let mut world = World::without_agent(name).await?;
    let policy = world.policy().replace("\"app-*\"", "\"flask-*\"");
    std::fs::write(world.policy_path(), policy)?;
    let (host, _) = world
        .stand
        .facts()
        .postgres_for_pods
        .split_once(':')
        .context("PostgreSQL has a port")?;
    world
        .put("app", json!({ "api_key": "k2-0000beef", "db_host": host }))
        .await?;
    world.start_agent().await?;
    Ok(world)
}

/// The files of an example's production, for a world; only the image is left as it is.
fn bundle(world: &World, way: &str) -> Result<BTreeMap<String, String>> {
    let mut files = example::files(&example::folder(way))?;
    // What people and pipelines read is in no bundle.
    files.retain(|name, _| name.ends_with(".yaml"));
    let spec = files.get_mut("quaymaster.yaml").context("the spec")?;
    *spec = spec
        .replace("kv/flask/app", &format!("kv/{}/app", world.role))
        .replace("${NAMESPACE}", &world.namespace)
        .replace("${APP}", "flask")
        .replace("${OVERLAY}", "production")
        .replace("${CI_ENVIRONMENT_NAME}", "production");
    Ok(files)
}

/// Deploys an example with an image; the client would put the variables in.
async fn deploy(world: &World, way: &str, image: &str) -> Result<Finished> {
    let mut files = bundle(world, way)?;
    let spec = files.get_mut("quaymaster.yaml").context("the spec")?;
    *spec = spec.replace("${IMAGE}", image);
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    world.deploy(&files).await
}

/// The image of the example, built and pushed as its pipeline does.
async fn image(stand: &Stand) -> Result<String> {
    let context = example::folder("flask");
    let base = stand.base_image().await?;
    stand
        .build_and_push(
            &context,
            &context.join("Dockerfile"),
            "flask-examples:1.0.0",
            &[("BASE_IMAGE", &base)],
        )
        .await
}

/// What the logs of the three ways have in common.
#[derive(Debug, PartialEq)]
struct Shape {
    stages: Vec<String>,
    /// What was done with which object, without the namespace.
    steps: Vec<String>,
    /// The last line of the log.
    last: String,
    /// The verdict's sentence, without the app's name.
    verdict: String,
}

/// Deploys one example to a world of its own and looks at what the cluster then has.
async fn shape(way: &str, image: &str) -> Result<Shape> {
    let world = world(way).await?;
    let done = deploy(&world, way, image).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let ready = [
        "get",
        "deploy",
        "flask",
        "-o",
        "jsonpath={.status.readyReplicas} {.spec.template.spec.containers[0].image}",
    ];
    let replicas = if way == "flask" { 2 } else { 3 };
    let seen = world.kubectl(&ready).await?;
    ensure!(seen == format!("{replicas} {image}"), "{way}: {seen}");
    let secret = world.secret("flask-db").await?;
    for value in [&secret["password"], &secret["api-key"]] {
        ensure!(!done.log.contains(value.as_str()), "{way}: {}", done.log);
    }
    let report = done.json()?;
    let name = report["name"].as_str().context("the app has a name")?;
    let message = report["message"].as_str().context("there is a verdict")?;
    let last = done.log.lines().rfind(|line| !line.trim().is_empty());
    let steps = report["steps"].as_array().context("there are steps")?;
    let mut steps: Vec<String> = steps
        .iter()
        .map(|step| format!("{} {}", step["action"], step["object"]))
        .map(|step| step.replace(&world.namespace, "NAMESPACE"))
        .collect();
    steps.sort();
    Ok(Shape {
        stages: crate::charts::stages(&done.log),
        steps,
        last: last.unwrap_or_default().to_owned(),
        verdict: message.replace(name, "APP"),
    })
}

#[tokio::test]
async fn the_examples_deploy_and_their_logs_have_one_shape() -> Result<()> {
    let stand = Stand::shared().await?;
    if !stand.facts().has_node {
        return Ok(());
    }
    let image = image(stand).await?;
    let (plain, mut chart, mut kustomization) = tokio::try_join!(
        shape("flask", &image),
        shape("flask-helm", &image),
        shape("flask-kustomize", &image),
    )?;
    println!("{plain:?}");
    for rendered in [&mut chart, &mut kustomization] {
        let before = rendered.stages.len();
        rendered.stages.retain(|stage| stage != "render");
        ensure!(rendered.stages.len() + 1 == before, "{rendered:?}");
    }
    ensure!(
        plain.last.contains("succeeded") && plain.stages.len() > 3 && plain.steps.len() == 4,
        "{plain:?}"
    );
    ensure!(chart == plain, "{chart:#?} and {plain:#?}");
    ensure!(kustomization == plain, "{kustomization:#?} and {plain:#?}");
    Ok(())
}

/// What failing deploys of the three ways have in common.
#[derive(Debug, PartialEq)]
struct Failure {
    stages: Vec<String>,
    /// The log from the causes on, without names that are made up.
    end: Vec<String>,
    /// States of the revisions, the newest first.
    revisions: Vec<String>,
}

/// Takes out of a line what differs between worlds: the namespace, the app, names of pods and runs.
fn common(line: &str, world: &World, app: &str) -> String {
    let line = line
        .replace(&world.namespace, "NAMESPACE")
        .replace(&format!("stand/NAMESPACE/{app}:"), "stand/NAMESPACE/APP:")
        .replace(&format!("the rollout of {app} "), "the rollout of APP ");
    let line = line.split(" (run r").next().unwrap_or_default();
    let pod = |word: &&str| word.starts_with("flask-") && word.matches('-').count() == 2;
    let words = line.split(' ');
    let words = words.map(|word| if pod(&word) { "POD" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// Deploys an example that works, and then, with the client, one whose image does not exist.
async fn failure(way: &str, image: &str, bad: &str) -> Result<Failure> {
    let world = world(&format!("{way}-back")).await?;
    let done = deploy(&world, way, image).await?;
    ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
    let files = bundle(&world, way)?;
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let dir = crate::client::folder(&world, &files)?;
    let variables = [("IMAGE", bad), ("GITLAB_CI", "true")];
    let failed = crate::client::quaymaster(&world, &["deploy"], dir.path(), &variables).await?;
    let log = crate::client::told(&failed);
    ensure!(failed.status.code() == Some(11), "{way}: {log}");
    let ready = "jsonpath={.status.readyReplicas} {.status.updatedReplicas} {.spec.template.spec.containers[0].image}";
    let seen = world
        .kubectl(&["get", "deploy", "flask", "-o", ready])
        .await?;
    let replicas = if way == "flask" { 2 } else { 3 };
    ensure!(
        seen == format!("{replicas} {replicas} {image}"),
        "{way}: {seen}\n{log}"
    );
    let table = crate::client::quaymaster(&world, &["history"], dir.path(), &[]).await?;
    let table = crate::client::told(&table);
    println!("{way}:\n{table}");
    let states = ["deployed", "rolled_back", "failed"];
    let revisions = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let number = words.next()?;
        let state = words.find(|word| states.contains(word))?;
        Some(format!("{number} {state}"))
    });
    let app = done.json()?["name"].as_str().map(str::to_owned);
    let app = app.context("the app has a name")?;
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let cause = lines.iter().rposition(|line| line.contains("cause: "));
    let end = lines[cause.context("the log names a cause")?..].iter();
    Ok(Failure {
        stages: crate::charts::stages(&log),
        end: end.map(|line| common(line, &world, &app)).collect(),
        revisions: revisions.collect(),
    })
}

#[tokio::test]
async fn an_image_that_does_not_exist_ends_alike_in_all_three_forms() -> Result<()> {
    let stand = Stand::shared().await?;
    if !stand.facts().has_node {
        return Ok(());
    }
    let image = image(stand).await?;
    let bad = format!("{}/flask-examples:not-pushed", stand.facts().registry);
    let (plain, mut chart, mut kustomization) = tokio::try_join!(
        failure("flask", &image, &bad),
        failure("flask-helm", &image, &bad),
        failure("flask-kustomize", &image, &bad),
    )?;
    println!("{plain:#?}\n{chart:#?}\n{kustomization:#?}");
    let (first, last) = (&kustomization.end[0], kustomization.end.last());
    ensure!(first.contains("flask: image_missing"), "{kustomization:#?}");
    ensure!(
        last.is_some_and(|line| line.contains("FAILED, ROLLED BACK")
            && line.contains("revision 1 is back and ready")),
        "{kustomization:#?}"
    );
    ensure!(
        kustomization.revisions == ["2 rolled_back", "1* deployed"],
        "{kustomization:#?}"
    );
    ensure!(plain.stages.len() > 3, "{plain:#?}");
    for rendered in [&mut chart, &mut kustomization] {
        rendered.stages.retain(|stage| stage != "render");
    }
    ensure!(kustomization == plain, "{kustomization:#?} and {plain:#?}");
    // Helm itself goes back, so nothing is planned and checked on that way.
    let back = chart.stages.split_off(6);
    ensure!(back == ["apply", "watch"], "{back:?}");
    chart.stages.extend_from_slice(&plain.stages[6..]);
    ensure!(chart == plain, "{chart:#?} and {plain:#?}");
    Ok(())
}
