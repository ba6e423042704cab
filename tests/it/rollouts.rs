//! Rollouts on the real kubelet as one table: slow but good starts never fail, bad ones are named.
//!
//! All cases run concurrently in one namespace, each as an app of its own. With `--nocapture` a table is
//! printed: case, verdict, seconds, whether the cause stands in the last 30 lines. The manifests are in
//! [`manifests`]; causes that need a namespace of their own are in [`crate::causes`]. Invariant: a case asserts
//! verdict, cause and place of the cause, never a time.

mod manifests;

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
use futures::StreamExt as _;
use tests::submission::Finished;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tokio::time::Instant;

use manifests::bad;
use manifests::good;

/// Cases at the same time: most of them wait for the kubelet's own pauses.
const WIDTH: usize = 12;

/// How a rollout has to end.
enum Want {
    /// Ready.
    Ready,
    /// Failed before the deadline, with this cause and these words in the last lines.
    Failed(&'static str, &'static str),
    /// Failed at the deadline, with this cause and these words in the last lines.
    Late(&'static str, &'static str),
}

/// One rollout.
struct Case {
    /// Name of the app and of its objects.
    name: &'static str,
    /// The deadline.
    timeout: &'static str,
    /// The manifests.
    manifest: String,
    /// What is right.
    want: Want,
}

/// How one case ended, as a row of the table.
struct Row {
    text: String,
    problem: Option<String>,
}

fn spec(case: &Case) -> String {
    format!(
        "version: 1\nname: {}\nmanifests: [k8s/]\nrollout: {{ timeout: {} }}\n",
        case.name, case.timeout
    )
}

async fn run(world: &World, case: &Case) -> Row {
    let began = Instant::now();
    let files = [
        ("quaymaster.yaml", spec(case)),
        ("k8s/all.yaml", case.manifest.clone()),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (*a, b.as_str())).collect();
    let done = world.deploy(&files).await;
    let seconds = began.elapsed().as_secs_f64();
    let (verdict, place, problem) = match done {
        Ok(done) => judge(&done, case),
        Err(error) => ("error".to_owned(), "-", Some(format!("{error:#}"))),
    };
    Row {
        text: format!("{} | {verdict} | {seconds:.1} | {place}", case.name),
        problem: problem.map(|problem| format!("{}: {problem}", case.name)),
    }
}

/// Returns verdict, whether the cause is in the last lines, and what is wrong.
fn judge(done: &Finished, case: &Case) -> (String, &'static str, Option<String>) {
    let causes = done.causes();
    let first = causes.first().map_or("", String::as_str);
    let code = done
        .json()
        .ok()
        .and_then(|body| body["code"].as_str().map(str::to_owned))
        .unwrap_or_default();
    let verdict = match done.status() {
        200 => "ready".to_owned(),
        _ => format!("{code} {first}"),
    };
    let lines: Vec<&str> = done.log.lines().collect();
    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
    let (expected, words) = match case.want {
        Want::Ready => {
            let problem = (done.status() != 200).then(|| done.log.clone());
            return (verdict, "-", problem);
        }
        Want::Failed(kind, words) => (("rollout_failed", kind), words),
        Want::Late(kind, words) => (("rollout_timeout", kind), words),
    };
    let is_shown = tail.contains(words);
    let is_right = done.status() == 424 && (code.as_str(), first) == expected && is_shown;
    let problem = (!is_right).then(|| format!("wanted {expected:?} with {words:?}\n{}", done.log));
    (verdict, if is_shown { "yes" } else { "no" }, problem)
}

async fn table(world: &World, cases: &[Case]) -> Result<()> {
    println!("case | verdict | seconds | cause in the last 30 lines");
    let mut rows =
        futures::stream::iter(cases.iter().map(|case| run(world, case))).buffer_unordered(WIDTH);
    let mut problems = Vec::new();
    while let Some(row) = rows.next().await {
        println!("{}", row.text);
        problems.extend(row.problem);
    }
    ensure!(
        problems.is_empty(),
        "{} of {} cases are wrong:\n{}",
        problems.len(),
        cases.len(),
        problems.join("\n=====\n")
    );
    Ok(())
}

/// A world on a real node; without one there is nothing to show here, and the stand says so loudly.
async fn real(name: &str) -> Result<Option<World>> {
    let world = World::new(name).await?;
    Ok(world.stand.facts().has_node.then_some(world))
}

#[tokio::test]
async fn slow_but_good_rollouts_do_not_fail() -> Result<()> {
    let Some(world) = real("good").await? else {
        return Ok(());
    };
    world
        .stand
        .cluster()
        .apply(&good::late_binding_class())
        .await?;
    let _registry = world
        .stand
        .inside("python3")
        .args(["-c", good::STUMBLING_REGISTRY])
        .kill_on_drop(true)
        .spawn()?;
    table(&world, &good::cases(&world.stand.busybox())).await
}

#[tokio::test]
async fn bad_rollouts_name_their_cause_at_the_end_of_the_log() -> Result<()> {
    let Some(world) = real("bad").await? else {
        return Ok(());
    };
    let mut busy = world
        .stand
        .inside("python3")
        .args(["-c", bad::BUSY_REGISTRY])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // The kubelet asks so seldom that its first question counts.
    let mut up = [0; 2];
    if let Some(said) = busy.stdout.as_mut() {
        tokio::io::AsyncReadExt::read_exact(said, &mut up).await?;
    }
    let registry = &world.stand.facts().registry;
    table(&world, &bad::cases(&world.stand.busybox(), registry)).await
}

#[tokio::test]
async fn a_long_termination_of_old_pods_does_not_fail() -> Result<()> {
    let Some(world) = real("term").await? else {
        return Ok(());
    };
    let image = world.stand.busybox();
    let version = |version: &str| Case {
        name: "term",
        timeout: "90s",
        manifest: good::stubborn(&image, version),
        want: Want::Ready,
    };
    for text in ["one", "two"] {
        let row = run(&world, &version(text)).await;
        println!("{}", row.text);
        ensure!(row.problem.is_none(), "{}", row.problem.unwrap_or_default());
    }
    Ok(())
}

#[tokio::test]
async fn an_object_that_somebody_deletes_meanwhile_is_named() -> Result<()> {
    let Some(world) = real("gone").await? else {
        return Ok(());
    };
    let case = Case {
        name: "gone",
        timeout: "60s",
        manifest: bad::never_ready("gone", &world.stand.busybox()),
        want: Want::Failed("replaced", "somebody deleted it"),
    };
    let delete = async {
        until(
            "the pod to run",
            Duration::from_secs(40),
            async || match world.kubectl(&["get", "pods", "-o", "json"]).await {
                Ok(body) if body.contains("\"running\"") => Look::Ready(()),
                Ok(_) => Look::NotYet("no pod runs".to_owned()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            },
        )
        .await?;
        world.kubectl(&["delete", "deploy", "gone"]).await
    };
    let (deleted, row) = tokio::join!(delete, run(&world, &case));
    deleted?;
    println!("{}", row.text);
    ensure!(row.problem.is_none(), "{}", row.problem.unwrap_or_default());
    Ok(())
}
