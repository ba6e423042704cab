//! Commit statuses: what GitLab is told of a run, and that no answer of it changes a verdict.
//!
//! GitLab is the stand-in of [`tests::statuses`], which checks each request against what GitLab documents.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use tests::statuses::Mood;
use tests::statuses::Post;
use tests::statuses::StatusBoard;
use tests::submission::Finished;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;

use crate::samples::config_map;
use crate::samples::spec;

const TOKEN: &str = "glpat-canary-of-the-statuses";
const LIMIT: Duration = Duration::from_secs(60);

async fn world(name: &str, mood: Mood, token: &str) -> Result<(World, StatusBoard)> {
    let mut world = World::without_agent(name).await?;
    let board = StatusBoard::start(TOKEN, mood).await?;
    let file = world.dir().join("gitlab-token");
    fs::write(&file, format!("{token}\n"))?;
    let config = fs::read_to_string(world.config_path())?;
    let section = format!(
        "{config}\n[gitlab]\nurl = \"{}\"\ntoken_file = \"{}\"\n",
        board.url,
        file.display()
    );
    fs::write(world.config_path(), section)?;
    world.start_agent().await?;
    Ok((world, board))
}

async fn deploy(world: &World) -> Result<Finished> {
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    world
        .deploy(&[("quaymaster.yaml", &spec), ("k8s/conf.yaml", &conf)])
        .await
}

fn states(posts: &[Post]) -> Vec<&str> {
    let states = posts.iter().map(|post| post.body["state"].as_str());
    states.map(Option::unwrap_or_default).collect()
}

/// Waits until this was posted, as far as the states go.
async fn posted(board: &StatusBoard, expected: &[&str]) -> Result<Vec<Post>> {
    until("the statuses", LIMIT, async || {
        let posts = board.posts();
        if states(&posts) == expected {
            Look::Ready(posts)
        } else {
            Look::NotYet(format!("{posts:?}"))
        }
    })
    .await
}

/// Waits until the agent's log says so, and nothing of the token.
async fn logged(world: &World, words: &str) -> Result<()> {
    until("the warning", LIMIT, async || match world.agent_log() {
        Ok(log) if log.contains(words) => Look::Ready(()),
        Ok(log) => Look::NotYet(log.lines().last().unwrap_or_default().to_owned()),
        Err(error) => Look::NotYet(format!("{error:#}")),
    })
    .await?;
    ensure!(!world.agent_log()?.contains("canary"), "the token is told");
    Ok(())
}

#[tokio::test]
async fn gitlab_is_told_when_a_run_begins_and_how_it_ends() -> Result<()> {
    let (world, board) = world("status", Mood::Well, TOKEN).await?;
    let done = deploy(&world).await?;
    ensure!(done.status() == 200, "{}", done.log);
    let posts = posted(&board, &["running", "success"]).await?;
    let last = &posts[1];
    println!("{} {} {}", last.project, last.sha, last.body);
    ensure!(last.project == world.project, "{last:?}");
    let text = |name: &str| last.body[name].as_str().unwrap_or_default().to_owned();
    let name = text("name");
    ensure!(name.starts_with("quaymaster/app/"), "{name}");
    ensure!(text("pipeline_id") == "5001", "{last:?}");
    ensure!(text("target_url").contains("/-/jobs/"), "{last:?}");
    let message = done.json()?["message"].clone();
    ensure!(
        last.body["description"] == message,
        "{last:?} is not {message}"
    );
    ensure!(posts[0].body["name"] == last.body["name"], "one status");

    // A plan has none, and a failure is one.
    let (spec, conf) = (spec(""), config_map("conf", "w"));
    let files = [("quaymaster.yaml", &*spec), ("k8s/conf.yaml", &*conf)];
    let planned = world.plan(&files).await?;
    ensure!(planned.status() == 200, "{}", planned.log);
    let odd = conf.replace("data: {", "data: { odd: [1], ");
    let files = [("quaymaster.yaml", &*spec), ("k8s/conf.yaml", &*odd)];
    let failed = world.deploy(&files).await?;
    ensure!(failed.status() != 200, "{}", failed.log);
    let mut expected = vec!["running", "success"];
    if !failed.id.is_empty() {
        expected.extend(["running", "failed"]);
    }
    posted(&board, &expected).await?;
    logged(&world, "the run ended").await?;
    ensure!(
        !world.agent_log()?.contains("GitLab has no commit status"),
        "nothing was refused"
    );
    Ok(())
}

#[tokio::test]
async fn what_gitlab_refuses_is_a_warning_and_no_verdict() -> Result<()> {
    let (world, board) = world("status-refused", Mood::Well, "glpat-canary-of-nobody").await?;
    let done = deploy(&world).await?;
    ensure!(done.status() == 200, "{}", done.log);
    // Refused for good, so each is posted once.
    posted(&board, &["running", "success"]).await?;
    logged(&world, "GitLab has no commit status of this run").await?;
    logged(&world, "401").await
}

#[tokio::test]
async fn what_gitlab_fails_to_take_is_tried_again_and_no_verdict() -> Result<()> {
    let (world, board) = world("status-failing", Mood::Failing(500), TOKEN).await?;
    let done = deploy(&world).await?;
    ensure!(done.status() == 200, "{}", done.log);
    let all = [
        "running", "running", "running", "success", "success", "success",
    ];
    posted(&board, &all).await?;
    logged(&world, "500").await
}

#[tokio::test]
async fn a_gitlab_that_does_not_answer_holds_up_nothing() -> Result<()> {
    let (world, board) = world("status-silent", Mood::Silent, TOKEN).await?;
    let done = deploy(&world).await?;
    ensure!(done.status() == 200, "{}", done.log);
    // The first call has not even been given up.
    let early: Vec<Value> = board.posts().into_iter().map(|post| post.body).collect();
    ensure!(
        early.iter().all(|body| body["state"] == "running"),
        "{early:?}"
    );
    logged(&world, "it did not answer").await
}
