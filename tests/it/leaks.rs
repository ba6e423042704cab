//! The canary: a secret value is planted, everything is run, and every output is searched for it.

use anyhow::Result;
use anyhow::ensure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tests::world::World;

use crate::samples::Deployment;
use crate::samples::spec;

/// A value with characters that base64, URLs and JSON write differently.
pub(crate) const CANARY: &str = "cAnArY/5f0e+77\"x?é-value";

/// Every form in which the value could leave.
fn forms() -> Vec<String> {
    let json = serde_json::Value::from(CANARY).to_string();
    let url: String = CANARY
        .bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect();
    vec![
        CANARY.to_owned(),
        STANDARD.encode(CANARY).trim_end_matches('=').to_owned(),
        json[1..json.len() - 1].to_owned(),
        url,
    ]
}

/// Searches a text for the canary in every form.
pub(crate) fn clean(what: &str, text: &str) -> Result<()> {
    for form in forms() {
        ensure!(!text.contains(&form), "{what} holds the canary as {form}");
    }
    Ok(())
}

#[tokio::test]
async fn a_secret_value_is_in_no_output() -> Result<()> {
    ensure!(
        clean("a text", &format!("x{CANARY}x")).is_err(),
        "the search finds a canary"
    );
    let mut world = World::new("canary").await?;
    let path = world.put("app", json!({ "password": CANARY })).await?;
    let image = world.stand.busybox();
    // The app prints its secret in every form and crashes: the agent fetches exactly these lines.
    let shell = "echo \"got $P\"; printf %s \"$P\" | base64 | tr -d '\\n'; echo; exit 3";
    let container =
        "env:\n  - name: P\n    valueFrom: { secretKeyRef: { name: app-db, key: password } }";
    let deployment = Deployment {
        image: &image,
        shell,
        container,
        ..Deployment::default()
    }
    .yaml();
    let spec = spec(&format!(
        "secrets:\n  - name: app-db\n    keys:\n      password: {{ vault: {path}, field: password }}\n"
    ));
    let files = [
        ("quaymaster.yaml", spec.as_str()),
        ("k8s/web.yaml", deployment.as_str()),
    ];
    let job = world.job()?;
    let plan = world.plan(&files).await?;
    let done = world.deploy_as(&job, "/v1/deploys", &files).await?;
    if world.stand.facts().has_node {
        ensure!(
            done.status() == 424 && done.log.contains("[redacted]"),
            "{}\n{}",
            done.answer.text(),
            done.log
        );
    }
    let events = job
        .get(&format!("/v1/deploys/{}/events", done.id))
        .await?
        .text();
    let list = job.get("/v1/deploys").await?.text();
    let admin = world.admin().get("/v1/status").await?.text()
        + &world.admin().get("/metrics").await?.text();
    for (what, text) in [
        ("the plan", &plan.answer.text()),
        ("the plan's log", &plan.log),
        ("the result", &done.answer.text()),
        ("the log", &done.log),
        ("the events", &events),
        ("the list", &list),
        ("the admin socket", &admin),
        ("the agent's own log", &world.agent_log()?),
    ] {
        clean(what, text)?;
    }
    let pid = world.agent_pid().unwrap_or_default();
    for file in ["environ", "cmdline"] {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}"))?;
        clean(file, &String::from_utf8_lossy(&bytes))?;
    }
    world.kill_agent().await?;
    let kept = walk(&world.dir().join("state"))?;
    ensure!(!kept.is_empty(), "there is a journal to search");
    for file in kept {
        clean(
            &file.display().to_string(),
            &String::from_utf8_lossy(&std::fs::read(&file)?),
        )?;
    }
    Ok(())
}

/// Lists all files of a folder.
pub(crate) fn walk(dir: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(walk(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}
