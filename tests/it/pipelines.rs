//! The examples' own pipelines, as they stand in the repository, run by a real executor: image built, tested and
//! pushed, deployed to staging and production, the page served with a row of the database; review apps; the component.
//!
//! What a scenario changes of an example is what a team changes too: variables of the project, the paths in Vault, and
//! where Flux's objects are.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use tests::example;
use tests::pipeline::Pipeline;
use tests::pipeline::Ran;
use tests::pipeline::Trigger;
use tests::pipeline::push_base_image;
use tests::stand::Stand;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;

use crate::leaks;
use crate::platform;
use crate::platform::Platform;
use crate::samples::Deployment;

/// What the stand's database says.
const ROW: &str = "row:     ";

/// Pages of the ready pods in a namespace.
async fn pages(world: &World, namespace: &str) -> Result<Vec<String>> {
    let mut pages = Vec::new();
    for pod in example::pods(world.stand, namespace).await? {
        pages.push(example::page(world.stand, &pod).await?);
    }
    Ok(pages)
}

/// Asserts that so many pods of a namespace serve the page, with this title, as users that Vault made.
async fn served(world: &World, namespace: &str, title: &str, pods: usize) -> Result<()> {
    let pages = pages(world, namespace).await?;
    let good = |page: &String| {
        page.starts_with(title) && page.contains(ROW) && page.contains("read as: v-")
    };
    ensure!(
        pages.len() == pods && pages.iter().all(good),
        "{namespace}: {pages:#?}"
    );
    Ok(())
}

/// Searches everything that a pipeline leaves behind for secret values: logs, artifacts, checkouts, history.
async fn nothing_leaked(pipeline: &Pipeline<'_>, runs: &[&Ran], values: &[String]) -> Result<()> {
    let mut texts = vec![("the history".to_owned(), pipeline.history().await?)];
    texts.extend(
        runs.iter()
            .map(|ran| ("the executor's output".to_owned(), ran.said.clone())),
    );
    let kept = leaks::walk(&pipeline.kept())?;
    ensure!(
        kept.iter().any(|file| file.ends_with("dotenv/build.env")),
        "there are artifacts to search"
    );
    for file in kept {
        let bytes = fs::read(&file)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        texts.push((file.display().to_string(), text));
    }
    for (what, text) in &texts {
        leaks::clean(what, text)?;
        for value in values {
            ensure!(!text.contains(value), "{what} holds a value of the Secret");
        }
    }
    Ok(())
}

/// Where the jobs of a pipeline run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a shell beside the agent.
    Shell,
    /// Those that call the agent each in a container of its image; building an image there takes a container
    /// that may mount, so it stays in the shell.
    Containers,
}

/// Runs a way's whole pipeline and looks at what is served afterwards.
async fn whole(way: &'static str, place: Place, titles: [&str; 2], pods: [usize; 2]) -> Result<()> {
    let stand = Stand::shared().await?;
    if !stand.facts().has_node {
        return Ok(());
    }
    let platform = Platform::new(way).await?;
    let world = &platform.world;
    push_base_image(world).await?;
    let mut pipeline = Pipeline::new(world, &platform.files()?).await?;
    let variables = platform.variables(Trigger::Push)?;
    let mut runs = Vec::new();
    let rest: &[&str] = match place {
        Place::Shell => &[],
        Place::Containers => {
            let built = pipeline.run(Trigger::Push, &["build", "test"], &variables);
            runs.push(built.await?);
            pipeline = pipeline.in_containers().await?;
            &["staging", "production"]
        }
    };
    runs.push(pipeline.run(Trigger::Push, rest, &variables).await?);
    let mut passed = Vec::new();
    for ran in &runs {
        println!("{way}:\n{}", ran.said);
        passed.extend(ran.passed());
    }
    passed.sort_unstable();
    let all = ["build", "production", "staging", "test"];
    ensure!(passed == all, "{passed:?}: {runs:?}");
    let ran = runs.last().context("the deploys ran")?;
    let mut values = Vec::new();
    for ((environment, title), pods) in ["staging", "production"].into_iter().zip(titles).zip(pods)
    {
        let log = &ran.job(environment)?.log;
        // What comes after it is the job's `after_script`.
        let verdicts = log.lines().filter(|line| line.starts_with("OK "));
        ensure!(verdicts.count() == 1, "{environment}: {log}");
        let namespace = platform.namespace(environment);
        served(world, &namespace, title, pods).await?;
        values.extend(platform.secrets(&namespace).await?);
    }
    ensure!(values.len() >= 6, "there are Secrets to search for");
    nothing_leaked(&pipeline, &runs.iter().collect::<Vec<_>>(), &values).await?;
    platform.leave().await
}

#[tokio::test]
async fn manifests_go_from_a_push_to_production_in_containers() -> Result<()> {
    let title = "Hello from flask-demo";
    whole("flask", Place::Containers, [title; 2], [2, 2]).await
}

#[tokio::test]
async fn a_chart_goes_from_a_push_to_production() -> Result<()> {
    let titles = [
        "Hello from the chart, staging",
        "Hello from the chart, production",
    ];
    whole("flask-helm", Place::Shell, titles, [1, 3]).await
}

#[tokio::test]
async fn a_kustomization_goes_from_a_push_to_production() -> Result<()> {
    let titles = ["Hello from staging", "Hello from production"];
    whole("flask-kustomize", Place::Shell, titles, [1, 3]).await
}

#[tokio::test]
async fn flux_takes_a_push_to_production() -> Result<()> {
    let titles = ["Hello from Flux in staging", "Hello from Flux"];
    whole("flask-flux", Place::Shell, titles, [1, 3]).await
}

/// Names of the objects of an app that a namespace has, such as `deployment.apps/flask-7`.
async fn objects(world: &World, namespace: &str) -> Result<Vec<String>> {
    let kinds = "deployments,services,configmaps,secrets,pods";
    let words = ["-n", namespace, "get", kinds, "-o", "name"];
    let all = world.stand.kubectl(&words).await?;
    let of_apps = |name: &&str| name.contains("/flask-");
    Ok(all.lines().filter(of_apps).map(str::to_owned).collect())
}

#[tokio::test]
async fn a_merge_request_has_an_app_until_it_is_stopped() -> Result<()> {
    let stand = Stand::shared().await?;
    if !stand.facts().has_node {
        return Ok(());
    }
    let platform = Platform::new("flask-kustomize").await?;
    let world = &platform.world;
    push_base_image(world).await?;
    let pipeline = Pipeline::new(world, &platform.files()?).await?;
    let trigger = Trigger::MergeRequest(7);
    let ran = pipeline
        .run(trigger, &[], &platform.variables(trigger)?)
        .await?;
    println!("{}", ran.said);
    ensure!(
        ran.passed() == ["build", "plan", "review", "test"],
        "{:?}: {}",
        ran.passed(),
        ran.said
    );
    let namespace = platform.namespace("review");
    served(world, &namespace, "Hello from merge request 7", 1).await?;
    // A plan of production writes nothing there.
    ensure!(
        objects(world, &platform.namespace("production"))
            .await?
            .is_empty(),
        "the plan wrote"
    );
    // Another merge request beside it, with the same image.
    let built = pipeline
        .kept()
        .join("artifacts/build/.gitlab-ci-reports/dotenv/build.env");
    let built = fs::read_to_string(built)?;
    let image = built.trim().strip_prefix("IMAGE=");
    let other = Trigger::MergeRequest(8);
    let mut variables = platform.variables(other)?;
    variables.push(platform::image(image.context("the build names an image")?));
    let second = pipeline.run(other, &["review"], &variables).await?;
    ensure!(second.passed() == ["review"], "{}", second.said);
    let values = platform.secrets(&namespace).await?;

    let stopped = pipeline
        .run(trigger, &["stop review"], &platform.stopping(trigger)?)
        .await?;
    println!("{}", stopped.said);
    ensure!(stopped.passed() == ["stop review"], "{}", stopped.said);
    let left = until(
        "the stopped app's pods to go",
        Duration::from_secs(60),
        async || match objects(world, &namespace).await {
            Ok(left) if left.iter().any(|name| name.starts_with("pod/flask-7")) => {
                Look::NotYet(left.join(" "))
            }
            other => other.into(),
        },
    )
    .await?;
    let of_first: Vec<&String> = left
        .iter()
        .filter(|name| name.contains("/flask-7"))
        .collect();
    ensure!(
        of_first == ["configmap/flask-7-stopped"],
        "left of the first: {of_first:?}"
    );
    served(world, &namespace, "Hello from merge request 8", 1).await?;
    nothing_leaked(&pipeline, &[&ran, &second, &stopped], &values).await?;
    platform.leave().await
}

#[tokio::test]
async fn the_component_plans_merge_requests_and_deploys_the_default_branch() -> Result<()> {
    let stand = Stand::shared().await?;
    if !stand.facts().has_node {
        return Ok(());
    }
    let platform = Platform::new("component").await?;
    let world = &platform.world;
    let template =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/dist/gitlab/templates/deploy.yml");
    let pipeline_file = "stages: [deploy]\ninclude:\n  - local: templates/deploy.yml\n    inputs:\n      \
        environment: production\n      url: https://shop.example.com\n      folder: app\n      image: shop=$IMAGE\n      \
        prefix: shop-\n";
    let spec = format!(
        "version: 1\nname: shop\ntarget: {{ namespace: {} }}\nmanifests: [web.yaml]\nimages: {{ shop: shop:unset }}\n",
        platform.namespace("production")
    );
    let manifest = Deployment {
        name: "flask-shop",
        image: "shop",
        ..Deployment::default()
    };
    let files = [
        (".gitlab-ci.yml", pipeline_file.to_owned()),
        ("templates/deploy.yml", fs::read_to_string(template)?),
        ("app/quaymaster.yaml", spec),
        ("app/web.yaml", manifest.yaml()),
    ];
    let files: BTreeMap<String, String> = files
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text))
        .collect();
    let pipeline = Pipeline::new(world, &files).await?;
    let name = format!("team/{}:small", world.role);
    let image = platform::image(&platform::small_image(stand, &name, "").await?);
    for (trigger, job) in [
        (Trigger::MergeRequest(3), "shop-plan"),
        (Trigger::Push, "shop-deploy"),
    ] {
        let mut variables = platform.variables(trigger)?;
        variables.push(image.clone());
        let ran = pipeline.run(trigger, &[], &variables).await?;
        println!("{}", ran.said);
        ensure!(ran.passed() == [job], "{}", ran.said);
        let there = objects(world, &platform.namespace("production")).await?;
        let deployed = there
            .iter()
            .any(|name| name == "deployment.apps/flask-shop");
        ensure!(deployed == (trigger == Trigger::Push), "{job}: {there:?}");
    }
    platform.leave().await
}
