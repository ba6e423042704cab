//! The real client against a real agent: exit codes, and the same job with curl and jq only.

use std::path::Path;
use std::process::Output;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use tests::world::World;
use tests::world::programs;
use tokio::process::Command;

use crate::samples::Deployment;
use crate::samples::config_map;
use crate::samples::spec;
use crate::samples::spec_until;

pub(crate) fn folder(world: &World, files: &[(&str, &str)]) -> Result<TempDir> {
    let dir = TempDir::with_prefix_in("job-", world.dir())?;
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().context("files lie in a folder")?)?;
        std::fs::write(path, text)?;
    }
    Ok(dir)
}

/// Runs the client as a job would.
pub(crate) async fn quaymaster(
    world: &World,
    words: &[&str],
    dir: &Path,
    environment: &[(&str, &str)],
) -> Result<Output> {
    let mut command = Command::new(&programs().await?.client);
    command
        .args(words)
        .current_dir(dir)
        .env_clear()
        .env("QUAYMASTER_SOCKET", world.socket())
        .env("QUAYMASTER_ID_TOKEN", world.stand.sign(world.token()?)?)
        .envs(environment.iter().copied());
    Ok(command.output().await?)
}

pub(crate) fn told(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test]
async fn the_client_deploys_plans_and_shows_what_it_did() -> Result<()> {
    let world = World::new("client").await?;
    let path = world
        .put("app", json!({ "password": "s3cret-of-the-client" }))
        .await?;
    let text = format!(
        "version: 1\nname: ${{APP}}\nsecrets:\n  - name: app-secret\n    keys: {{ value: {{ vault: {path}, field: password }} }}\nmanifests: [k8s/]\n"
    );
    let conf = config_map("conf", "v");
    let dir = folder(
        &world,
        &[
            ("quaymaster.yaml", &text),
            ("k8s/c.yaml", &conf),
            ("notes.txt", "not packed"),
        ],
    )?;
    let variables = [("APP", "shop")];
    let plan = quaymaster(&world, &["plan", "-o", "json"], dir.path(), &variables).await?;
    ensure!(plan.status.code() == Some(0), "{}", told(&plan));
    let report: Value = serde_json::from_slice(&plan.stdout)?;
    ensure!(
        report["name"] == "shop" && report["mode"] == "dry_run",
        "{report}"
    );
    let done = quaymaster(&world, &["deploy"], dir.path(), &variables).await?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    ensure!(
        told(&done).contains("OK ") && !told(&done).contains("s3cret-of-the-client"),
        "{}",
        told(&done)
    );
    let list = quaymaster(&world, &["list", "-o", "json"], dir.path(), &[]).await?;
    let list: Value = serde_json::from_slice(&list.stdout)?;
    let run = list["runs"][0]["id"]
        .as_str()
        .context("the newest run")?
        .to_owned();
    for words in [["status", run.as_str()], ["log", &run], ["result", &run]] {
        let output = quaymaster(&world, &words, dir.path(), &[]).await?;
        ensure!(
            output.status.code() == Some(0),
            "{words:?}: {}",
            told(&output)
        );
    }
    for word in ["whoami", "version"] {
        let output = quaymaster(&world, &[word], dir.path(), &[]).await?;
        ensure!(output.status.code() == Some(0), "{word}: {}", told(&output));
    }
    Ok(())
}

#[tokio::test]
async fn exit_codes_are_the_verdict() -> Result<()> {
    let world = World::new("exits").await?;
    let image = world.stand.busybox();
    let bad = Deployment {
        image: &image,
        pod: "nodeSelector: { no: such-node }",
        ..Deployment::default()
    }
    .yaml();
    let spec_text = spec("").replace("90s", "4s");
    let dir = folder(
        &world,
        &[("quaymaster.yaml", &spec_text), ("k8s/web.yaml", &bad)],
    )?;
    let failed = quaymaster(&world, &["deploy"], dir.path(), &[]).await?;
    ensure!(failed.status.code() == Some(10), "{}", told(&failed));
    let last = String::from_utf8_lossy(&failed.stdout)
        .lines()
        .next_back()
        .unwrap_or_default()
        .to_owned();
    ensure!(
        last.starts_with("FAILED"),
        "the verdict is last: {}",
        told(&failed)
    );
    let other = world
        .stand
        .sign(world.stand.token()?.project("31337", "x/y"))?;
    let denied = quaymaster(
        &world,
        &["deploy"],
        dir.path(),
        &[("QUAYMASTER_ID_TOKEN", &other)],
    )
    .await?;
    ensure!(denied.status.code() == Some(20), "{}", told(&denied));
    let broken = folder(
        &world,
        &[("quaymaster.yaml", "version: 1\nname: app\nmanifest: []\n")],
    )?;
    let invalid = quaymaster(&world, &["deploy"], broken.path(), &[]).await?;
    ensure!(
        invalid.status.code() == Some(21) && told(&invalid).contains("quaymaster.yaml:3"),
        "{}",
        told(&invalid)
    );
    let unset = folder(
        &world,
        &[("quaymaster.yaml", "version: 1\nname: ${NOT_SET}\n")],
    )?;
    let invalid = quaymaster(&world, &["deploy"], unset.path(), &[]).await?;
    ensure!(
        invalid.status.code() == Some(21) && told(&invalid).contains("NOT_SET"),
        "{}",
        told(&invalid)
    );
    let nowhere = [("QUAYMASTER_SOCKET", "/nonexistent/quaymaster.sock")];
    let away = quaymaster(&world, &["whoami"], dir.path(), &nowhere).await?;
    ensure!(away.status.code() == Some(30), "{}", told(&away));
    Ok(())
}

#[tokio::test]
async fn the_client_finds_its_run_after_the_agent_was_killed() -> Result<()> {
    let mut world = World::new("reconnect").await?;
    let image = world.stand.busybox();
    let slow = Deployment {
        image: &image,
        pod: "nodeSelector: { no: such-node }",
        ..Deployment::default()
    }
    .yaml();
    let dir = folder(
        &world,
        &[
            ("quaymaster.yaml", &spec_until("15s")),
            ("k8s/web.yaml", &slow),
        ],
    )?;
    let client = Command::new(&programs().await?.client)
        .arg("deploy")
        .current_dir(dir.path())
        .env_clear()
        .env("QUAYMASTER_SOCKET", world.socket())
        .env("QUAYMASTER_ID_TOKEN", world.stand.sign(world.token()?)?)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    tests::wait::until(
        "the deployment to be written",
        std::time::Duration::from_secs(30),
        async || world.kubectl(&["get", "deploy", "web"]).await.into(),
    )
    .await?;
    world.kill_agent().await?;
    world.start_agent().await?;
    let output = client.wait_with_output().await?;
    let told_all = told(&output);
    for line in ["go on after a restart", "unschedulable", "FAILED stand/"] {
        ensure!(told_all.contains(line), "no `{line}` in: {told_all}");
    }
    ensure!(
        output.status.code() == Some(10),
        "{:?} {}",
        output.status,
        told(&output)
    );
    Ok(())
}

#[tokio::test]
async fn curl_and_jq_do_the_same_job() -> Result<()> {
    let world = World::new("curl").await?;
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/curl.md"))?;
    let script = page
        .split("```sh\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .context("the page has a script")?;
    let conf = config_map("conf", "by-curl");
    let dir = folder(
        &world,
        &[
            ("quaymaster.yaml", &spec("")),
            ("k8s/c.yaml", &conf),
            ("deploy.sh", script),
        ],
    )?;
    let run = async |token: String| -> Result<Output> {
        let mut command = Command::new("sh");
        command
            .arg("deploy.sh")
            .current_dir(dir.path())
            .env("QUAYMASTER_SOCKET", world.socket())
            .env("QUAYMASTER_ID_TOKEN", token)
            .env("IMAGE", "unused");
        Ok(command.output().await?)
    };
    let done = run(world.stand.sign(world.token()?)?).await?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    ensure!(
        told(&done).contains("section_start:"),
        "the log is a GitLab job log: {}",
        told(&done)
    );
    let value = world
        .kubectl(&["get", "configmap", "conf", "-o", "jsonpath={.data.key}"])
        .await?;
    ensure!(value == "by-curl", "{value}");
    let denied = run(world
        .stand
        .sign(world.stand.token()?.project("31337", "x/y"))?)
    .await?;
    ensure!(
        denied.status.code() == Some(1) && told(&denied).contains("No rule allows this"),
        "{}",
        told(&denied)
    );
    Ok(())
}
