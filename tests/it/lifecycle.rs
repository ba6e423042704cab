//! The process: disconnect, drain, second signal, kill, restart, sockets, slow readers.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use rustix::process::Signal;
use tests::submission::post;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::samples::Deployment;
use crate::samples::config_map;
use crate::samples::spec;
use crate::samples::spec_until;

/// A deployment that never becomes ready, so that its run lasts until its deadline.
fn endless(image: &str) -> String {
    let container = "readinessProbe: { exec: { command: [\"/bin/sh\", \"-c\", \"exit 1\"] }, periodSeconds: 1 }";
    Deployment {
        image,
        container,
        pod: "nodeSelector: { no: such-node }",
        ..Deployment::default()
    }
    .yaml()
}

async fn start_endless(world: &World, timeout: &str) -> Result<String> {
    let image = world.stand.busybox();
    let (spec, manifest) = (spec_until(timeout), endless(&image));
    let answer = world
        .post(&[("quaymaster.yaml", &spec), ("k8s/web.yaml", &manifest)])
        .await?;
    ensure!(answer.status == 202, "{}", answer.text());
    let id = answer.json()?["id"].as_str().context("an id")?.to_owned();
    until(
        "the objects to be written",
        Duration::from_secs(30),
        async || match world.kubectl(&["get", "deploy", "web"]).await {
            Ok(_) => Look::Ready(()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await?;
    Ok(id)
}

#[tokio::test]
async fn the_end_of_a_connection_does_not_end_a_run() -> Result<()> {
    let world = World::new("hangup").await?;
    let id = start_endless(&world, "8s").await?;
    let mut stream = tokio::net::UnixStream::connect(world.socket()).await?;
    let token = world.stand.sign(world.token()?)?;
    let head = format!(
        "GET /v1/deploys/{id}/events HTTP/1.1\r\nhost: q\r\nx-quaymaster-client: t\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut first = [0; 64];
    stream.read_exact(&mut first).await?;
    drop(stream);
    let done = world.finish(&world.job()?, &id).await?;
    ensure!(
        done.json()?["code"] == "rollout_timeout",
        "{}",
        done.answer.text()
    );
    Ok(())
}

#[tokio::test]
async fn a_run_can_be_cancelled() -> Result<()> {
    let world = World::new("cancel").await?;
    let id = start_endless(&world, "60s").await?;
    let job = world.job()?;
    let answer = job
        .send("POST", &format!("/v1/deploys/{id}/cancel"), Vec::new())
        .await?;
    ensure!(
        (200..300).contains(&answer.status),
        "{} {}",
        answer.status,
        answer.text()
    );
    let done = world.finish(&job, &id).await?;
    ensure!(
        done.json()?["status"] == "cancelled",
        "{}",
        done.answer.text()
    );
    Ok(())
}

#[tokio::test]
async fn the_first_signal_drains_and_the_agent_ends_when_its_runs_have() -> Result<()> {
    let mut world = World::new("drain").await?;
    let id = start_endless(&world, "6s").await?;
    world.signal_agent(Signal::TERM)?;
    let refused = until(
        "new deploys to be refused",
        Duration::from_secs(5),
        async || {
            let (spec, conf) = (spec(""), config_map("conf", "v"));
            match world
                .post(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", &conf)])
                .await
            {
                Ok(answer) if answer.status == 503 => Look::Ready(true),
                Ok(answer) => Look::NotYet(answer.text()),
                // The listener may be closed already: that refuses as well.
                Err(_) => Look::Ready(true),
            }
        },
    )
    .await?;
    ensure!(refused);
    let code = world.agent_ended(Duration::from_secs(30)).await?;
    ensure!(
        code == Some(0),
        "exit code {code:?}\n{}",
        world.agent_log()?
    );
    world.start_agent().await?;
    let done = world.finish(&world.job()?, &id).await?;
    ensure!(
        done.json()?["code"] == "rollout_timeout",
        "the run ended by itself: {}",
        done.answer.text()
    );
    Ok(())
}

#[tokio::test]
async fn the_second_signal_forces() -> Result<()> {
    let mut world = World::new("force").await?;
    let id = start_endless(&world, "12s").await?;
    world.signal_agent(Signal::TERM)?;
    until(
        "the drain to begin",
        Duration::from_secs(5),
        async || match world.agent_log() {
            Ok(log) if log.contains("drain") => Look::Ready(()),
            Ok(log) => Look::NotYet(log),
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await?;
    world.signal_agent(Signal::TERM)?;
    world.agent_ended(Duration::from_secs(10)).await?;
    world.start_agent().await?;
    let done = world.finish(&world.job()?, &id).await?;
    ensure!(
        done.json()?["code"] == "rollout_timeout",
        "the next process goes on with the run: {}",
        done.answer.text()
    );
    Ok(())
}

#[tokio::test]
async fn after_a_kill_the_agent_goes_on_with_the_run() -> Result<()> {
    let mut world = World::new("kill").await?;
    let id = start_endless(&world, "12s").await?;
    world.kill_agent().await?;
    world.start_agent().await?;
    let job = world.job()?;
    let done = world.finish(&job, &id).await?;
    let report = done.json()?;
    ensure!(
        done.status() == 424 && report["code"] == "rollout_timeout" && report["id"] == id.as_str(),
        "{report}"
    );
    ensure!(
        done.log.contains("the agent was restarted during this run"),
        "{}",
        done.log
    );
    Ok(())
}

#[tokio::test]
async fn a_key_survives_a_kill_and_never_applies_twice() -> Result<()> {
    let mut world = World::new("killkey").await?;
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    let files = [
        ("quaymaster.yaml", spec.as_str()),
        ("k8s/c.yaml", conf.as_str()),
    ];
    let key = |world: &World| anyhow::Ok(world.job()?.with("idempotency-key", "the-key"));
    let first = world
        .deploy_as(&key(&world)?, "/v1/deploys", &files)
        .await?;
    ensure!(first.status() == 200, "{}", first.answer.text());
    world.kill_agent().await?;
    world.start_agent().await?;
    let again = post(&key(&world)?, "/v1/deploys", &files).await?;
    ensure!(
        again.status == 202 && again.json()?["id"] == first.id.as_str(),
        "{}",
        again.text()
    );
    let retried = world.post(&files).await?;
    ensure!(
        retried.json()?["id"] != first.id.as_str(),
        "a job that is retried starts a new run"
    );
    Ok(())
}

#[tokio::test]
async fn sockets_have_their_modes_and_foreign_files_are_never_deleted() -> Result<()> {
    let mut world = World::new("modes").await?;
    let mode =
        |path: &std::path::Path| anyhow::Ok(std::fs::metadata(path)?.permissions().mode() & 0o777);
    let (jobs, admin) = tests::stand::agent::sockets(world.dir());
    ensure!(mode(&admin)? == 0o600, "{:o}", mode(&admin)?);
    ensure!(mode(&jobs)? == 0o666, "{:o}", mode(&jobs)?);
    world.signal_agent(Signal::TERM)?;
    world.agent_ended(Duration::from_secs(20)).await?;
    ensure!(!jobs.exists(), "an agent that ends removes its socket");
    std::fs::write(&jobs, "somebody's file")?;
    world.spawn_agent().await?;
    let code = world.agent_ended(Duration::from_secs(20)).await?;
    ensure!(
        code.is_some_and(|code| code != 0),
        "the agent refuses to start: {code:?}"
    );
    ensure!(std::fs::read_to_string(&jobs)? == "somebody's file");
    ensure!(
        world.agent_log()?.contains("quaymaster.sock"),
        "it says which file: {}",
        world.agent_log()?
    );
    Ok(())
}

#[tokio::test]
async fn a_second_agent_on_the_same_files_is_refused() -> Result<()> {
    let mut world = World::new("second").await?;
    let (jobs, _) = tests::stand::agent::sockets(world.dir());
    let before = std::fs::metadata(&jobs)?.ino();
    let output = tokio::process::Command::new(&tests::world::programs().await?.agent)
        .arg("--config")
        .arg(world.config_path())
        .env_clear()
        .output()
        .await?;
    ensure!(!output.status.success(), "the second one ends");
    ensure!(
        std::fs::metadata(&jobs)?.ino() == before,
        "the first one's socket is untouched"
    );
    ensure!(world.nobody().get("/ping").await?.status == 200);
    world.kill_agent().await
}

#[tokio::test]
async fn every_config_error_is_told_at_once() -> Result<()> {
    let world = World::without_agent("config").await?;
    let path = world.dir().join("broken.toml");
    std::fs::write(
        &path,
        "policy = 5\nunknown = 1\n[issuer]\nurl = \"not a url\"\n[socket]\nadmin = \"relative\"\n",
    )?;
    let output = tokio::process::Command::new(&tests::world::programs().await?.agent)
        .arg("--config")
        .arg(&path)
        .env_clear()
        .output()
        .await?;
    ensure!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    for word in ["policy", "unknown", "issuer"] {
        ensure!(text.contains(word), "{word}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_that_stops_reading_delays_nothing() -> Result<()> {
    let world = World::new("slow").await?;
    let id = start_endless(&world, "8s").await?;
    let token = world.stand.sign(world.token()?)?;
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut stream = tokio::net::UnixStream::connect(world.socket()).await?;
        let head = format!(
            "GET /v1/deploys/{id}/events HTTP/1.1\r\nhost: q\r\nx-quaymaster-client: t\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        readers.push(stream);
    }
    let done = world.finish(&world.job()?, &id).await?;
    ensure!(
        done.json()?["code"] == "rollout_timeout",
        "{}",
        done.answer.text()
    );
    Ok(())
}

#[tokio::test]
async fn the_operator_sees_liveness_readiness_and_metrics() -> Result<()> {
    let world = World::new("admin").await?;
    let (spec, conf) = (spec(""), config_map("conf", "v"));
    ensure!(
        world
            .deploy(&[("quaymaster.yaml", &spec), ("k8s/c.yaml", &conf)])
            .await?
            .status()
            == 200
    );
    for path in ["/livez", "/readyz", "/metrics", "/v1/status"] {
        let answer = world.admin().get(path).await?;
        ensure!(answer.status == 200, "{path}: {}", answer.text());
        ensure!(
            world.nobody().get(path).await?.status == 404,
            "{path} is not on the jobs socket"
        );
    }
    let metrics = world.admin().get("/metrics").await?.text();
    ensure!(
        metrics.contains("succeeded"),
        "runs are counted by status:\n{metrics}"
    );
    Ok(())
}
