//! Deploys through Flux: from the push to the verdict, what of it is ours, and how many requests it takes; and 200
//! pushes of two writers at once.
//!
//! Called by `main`. What is rolled out is a ConfigMap, so that the time is that of the controllers alone. "Ours" is
//! from the moment when the API server first shows that the Kustomization is done with the commit until the caller
//! has the verdict; it is looked at every 5 ms by somebody else, so it may be that much too short.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use tests::pushes;
use tests::pushes::Files;
use tests::stand::agent::Programs;
use tests::stand::git::repository::Repository;
use tests::submission::post;
use tests::wait::pause;
use tests::world::World;
use tests::world::fleet::Engine;
use tokio::time::Instant;

/// Deploys.
const ROUNDS: usize = 30;
/// Pushes of each writer.
const EACH: usize = 100;
/// How often the Kustomization is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Longest that a deploy may take.
const LONGEST: Duration = Duration::from_secs(60);

/// 200 pushes of two writers, into two files and into one.
pub(crate) async fn pushes() -> Result<()> {
    for files in [Files::Apart, Files::Shared] {
        let world = World::without_agent(&format!("bench-{files:?}").to_lowercase()).await?;
        let tally = pushes::race(&world, files, EACH).await?;
        println!("{files:?}: {tally}");
    }
    Ok(())
}

fn manifest(number: usize) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: web }}\ndata:\n  \
         image: registry.example.com/web:{number} # {{\"$imagepolicy\": \"flux-system:web\"}}\n"
    )
}

/// From the push to the verdict.
pub(crate) async fn flux(programs: &Programs) -> Result<()> {
    let mut world = World::without_agent("bench-flux").await?;
    world.use_programs(programs.clone());
    let repository = world
        .fleet_repository("fleet", &[("apps/web.yaml", &manifest(0))])
        .await?;
    let engine = Engine::Kustomization { path: "./apps" };
    world.fleet("shop", &repository, engine).await?;
    world.grant_fleet(&repository).await?;
    let vault = world
        .git_credential(&world.stand.facts().git_accounts.writer)
        .await?;
    world.look_into_api().await?;
    world.start_agent().await?;
    let door = world.open_api().await?;
    let api = door.url();
    let (mut whole, mut after_push, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    let (mut requests, mut writes) = (Vec::new(), Vec::new());
    for number in 1..=ROUNDS {
        let spec = format!(
            "version: 1\nname: shop\nflux:\n  repository: {url}\n  path: apps\n  credential: {{ vault: {vault} }}\n  \
             sources: {ns}/shop\n  wait: {{ kustomizations: {ns}/shop }}\n\
             images: {{ web: \"registry.example.com/web:{number}\" }}\nrollout: {{ timeout: 60s }}\n",
            url = repository.url(),
            ns = world.namespace,
        );
        let before = (world.api.passed(""), written(&world));
        let began = Instant::now();
        let answer = post(&world.job()?, "/v1/deploys", &[("quaymaster.yaml", &spec)]).await?;
        ensure!(answer.status == 202, "{}", answer.text());
        let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
        let job = world.job()?;
        let result = format!("/v1/deploys/{id}/result?wait=60s");
        let caller = async {
            let done = job.get(&result).await?;
            ensure!(done.status == 200, "{}", done.text());
            anyhow::Ok(Instant::now())
        };
        let seen = seen(&world, &api, &repository);
        let (told, (pushed, ready)) = futures::future::try_join(caller, seen).await?;
        whole.push(told - began);
        after_push.push(told - pushed);
        ours.push(told.saturating_duration_since(ready));
        requests.push(world.api.passed("") - before.0);
        writes.push(written(&world) - before.1);
    }
    crate::tell("from the POST to the verdict", &mut whole);
    crate::tell("from the push to the verdict", &mut after_push);
    crate::tell("from Flux being done to the verdict", &mut ours);
    requests.sort_unstable();
    writes.sort_unstable();
    println!(
        "requests to the API server for one deploy: {} (half), {} (most); of these writes: {}",
        requests[ROUNDS / 2],
        requests[ROUNDS - 1],
        writes[ROUNDS / 2]
    );
    Ok(())
}

/// How many writes have passed.
fn written(world: &World) -> usize {
    ["POST ", "PUT ", "PATCH ", "DELETE "]
        .map(|verb| world.api.passed(verb))
        .iter()
        .sum()
}

/// Says when the branch had the commit, and when the API server first showed that Flux is done with it.
async fn seen(world: &World, api: &str, repository: &Repository) -> Result<(Instant, Instant)> {
    let first = repository.head("main").await?;
    let until = Instant::now() + LONGEST;
    let commit = loop {
        let head = repository.head("main").await?;
        if head != first {
            break head;
        }
        ensure!(Instant::now() < until, "nothing was pushed");
        pause(LOOK).await;
    };
    let pushed = Instant::now();
    let url = format!(
        "{api}/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/{}/kustomizations/shop",
        world.namespace
    );
    let client = reqwest::Client::new();
    loop {
        let object: Value = client.get(&url).send().await?.json().await?;
        if is_done(&object, &commit) {
            return Ok((pushed, Instant::now()));
        }
        ensure!(Instant::now() < until, "Flux is not done: {object}");
        pause(LOOK).await;
    }
}

fn is_done(object: &Value, commit: &str) -> bool {
    let status = &object["status"];
    let applied = status["lastAppliedRevision"].as_str().unwrap_or_default();
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|one| one["type"] == "Ready" && one["status"] == "True");
    applied.ends_with(commit) && ready.next().is_some()
}
