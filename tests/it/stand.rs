//! The stand itself: what scenarios rely on is really there, and nothing of it is left behind.
//!
//! Everything here goes through the addresses that programs outside of the stand use.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use reqwest::Method;
use serde_json::Value;
use serde_json::json;
use tests::stand::Owner;
use tests::stand::Stand;
use tests::stand::gitlab::Gitlab;
use tests::stand::gitlab::Mood;
use tests::stand::layout::Settings;
use tests::wait::Look;
use tests::wait::until;

#[tokio::test]
async fn job_logs_in_and_reads_what_its_role_grants() -> Result<()> {
    let stand = Stand::shared().await?;
    let jwt = stand.sign(stand.token()?.environment("production"))?;
    let body = json!({ "role": "flask-demo", "jwt": jwt });
    let (status, login) = stand
        .vault_as("", Method::POST, "auth/jwt/login", Some(&body))
        .await?;
    ensure!(status == 200, "login answered {status}: {login}");
    let token = login["auth"]["client_token"].as_str().context("token")?;
    for path in ["kv/data/flask/app", "kv1/flask/app", "database/creds/flask"] {
        let (status, answer) = stand.vault_as(token, Method::GET, path, None).await?;
        ensure!(status == 200, "{path} answered {status}: {answer}");
    }
    let (status, _) = stand
        .vault_as(token, Method::GET, "kv/data/other", None)
        .await?;
    ensure!(status == 403, "a path outside the policy answered {status}");
    Ok(())
}

#[tokio::test]
async fn job_of_another_project_cannot_take_the_role() -> Result<()> {
    let stand = Stand::shared().await?;
    let jwt = stand.sign(stand.token()?.project("43", "shop/other"))?;
    let body = json!({ "role": "flask-demo", "jwt": jwt });
    let (status, _) = stand
        .vault_as("", Method::POST, "auth/jwt/login", Some(&body))
        .await?;
    ensure!(status == 400, "login answered {status}");
    Ok(())
}

#[tokio::test]
async fn agent_may_impersonate_a_granted_job_and_nothing_else() -> Result<()> {
    let stand = Stand::shared().await?;
    stand.grant_project("grant-77", "77").await?;
    let agent = stand.facts().kubeconfig_agent.display().to_string();
    let may = async |words: &[&str]| {
        let mut all = vec!["--kubeconfig", agent.as_str(), "auth", "can-i"];
        all.extend(words);
        // `can-i` fails when the answer is no.
        stand.kubectl(&all).await.is_ok()
    };
    let job = [
        "--as",
        "gitlab:ci_job:1",
        "--as-group",
        "gitlab:project:77",
        "-n",
        "grant-77",
    ];
    ensure!(
        may(&[&["create", "deployments.apps"], &job[..]].concat()).await,
        "granted job"
    );
    ensure!(
        !may(&[&["create", "clusterroles"], &job[..]].concat()).await,
        "job beyond grant"
    );
    ensure!(
        !may(&["get", "secrets", "-n", "grant-77"]).await,
        "agent as itself"
    );
    Ok(())
}

#[tokio::test]
async fn pod_runs_on_the_real_node_and_its_log_can_be_read() -> Result<()> {
    let stand = Stand::shared().await?;
    if !stand.facts().has_node {
        return Ok(());
    }
    stand.kubectl(&["create", "namespace", "real-pod"]).await?;
    let image = format!("--image={}", stand.busybox());
    let run = [
        "-n",
        "real-pod",
        "run",
        "one",
        &image,
        "--restart=Never",
        "--",
        "echo",
        "hello",
    ];
    stand.kubectl(&run).await?;
    until(
        "the log of the pod",
        Duration::from_secs(60),
        async || match stand.kubectl(&["-n", "real-pod", "logs", "one"]).await {
            Ok(log) if log == "hello\n" => Look::Ready(()),
            Ok(log) => Look::NotYet(log),
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await
}

#[tokio::test]
async fn pod_on_a_node_without_containers_becomes_ready() -> Result<()> {
    let stand = Stand::shared().await?;
    let pod = json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "played", "namespace": "default" },
        "spec": { "nodeSelector": { "type": "kwok" }, "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "c", "image": "none" }] } });
    stand.cluster().apply(&pod).await?;
    let wait = [
        "wait",
        "--for=condition=Ready",
        "pod/played",
        "--timeout=30s",
    ];
    stand.kubectl(&wait).await.map(drop)
}

#[tokio::test]
async fn killed_server_is_started_again_and_a_killed_owner_leaves_nothing() -> Result<()> {
    let settings = Settings::read()?;
    let name = format!("killed-{}", std::process::id());
    // Its own, because others push to the registry of the shared one.
    let stand = Stand::start(&settings, &name, Owner::Anyone, |_| {}).await?;
    kill_registry(&stand).await?;
    let facts = stand.facts().clone();
    let keeper = i32::try_from(facts.keeper)?;
    let keeper = rustix::process::Pid::from_raw(keeper).context("keeper")?;
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL)?;
    let traces = || {
        let state = facts.site.dir.clone();
        let inner = facts.inner.map(|pid| PathBuf::from(format!("/proc/{pid}")));
        let cgroups = std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        let cgroup = facts.site.cgroup().trim_start_matches('/').to_owned();
        let mut places: Vec<_> = cgroups.map(|dir| dir.path().join(&cgroup)).collect();
        places.extend(inner);
        places.push(Path::new("/sys/fs/cgroup").join(&cgroup));
        places.push(state);
        places.retain(|place| place.exists());
        places
    };
    until(
        "every trace to vanish",
        Duration::from_secs(30),
        async || match traces().as_slice() {
            [] => Look::Ready(()),
            left => Look::NotYet(format!("{left:?}")),
        },
    )
    .await
}

async fn kill_registry(stand: &Stand) -> Result<()> {
    let file = stand.facts().site.dir.join("pids/registry");
    let before = std::fs::read_to_string(&file)?;
    stand.signal("registry", "KILL").await?;
    let url = format!("{}/v2/", stand.facts().registry_addr);
    until(
        "another registry to answer",
        Duration::from_secs(30),
        async || {
            let answer = async {
                ensure!(
                    std::fs::read_to_string(&file)? != before,
                    "it is the old one"
                );
                reqwest::get(&url)
                    .await?
                    .error_for_status()
                    .context("asking the registry")
            };
            answer.await.map(drop).into()
        },
    )
    .await
}

#[tokio::test]
async fn job_token_names_its_job_until_that_ends() -> Result<()> {
    let stand = Stand::shared().await?;
    let job_token = stand
        .start_job(&stand.token()?.claim("job_id", "4711"))
        .await?;
    let url = format!("{}/api/v4/job", stand.facts().issuer);
    let ask = async || {
        reqwest::Client::new()
            .get(&url)
            .header("JOB-TOKEN", &job_token)
            .send()
            .await
    };
    let job: Value = serde_json::from_str(&ask().await?.text().await?)?;
    ensure!(job["id"] == 4711 && job["status"] == "running", "{job}");
    stand.end_job(&job_token).await?;
    ensure!(ask().await?.status() == 401, "an ended job");
    Ok(())
}

#[tokio::test]
async fn issuer_of_a_scenario_rotates_fails_and_counts() -> Result<()> {
    let gitlab = Gitlab::start().await?;
    let keys = format!("{}/oauth/discovery/keys", gitlab.url());
    gitlab.add_key()?;
    let set: Value = serde_json::from_str(&reqwest::get(&keys).await?.text().await?)?;
    ensure!(set["keys"].as_array().map(Vec::len) == Some(2), "{set}");
    gitlab.withdraw_old_keys();
    gitlab.set_mood(Mood {
        status: Some(503),
        ..Mood::default()
    });
    ensure!(reqwest::get(&keys).await?.status() == 503, "told to fail");
    ensure!(
        gitlab.requests("/oauth/discovery/keys") == 2,
        "two requests"
    );
    Ok(())
}

#[tokio::test]
async fn image_is_built_from_the_base_image_and_runs_by_digest() -> Result<()> {
    let stand = Stand::shared().await?;
    if !stand.facts().has_node {
        return Ok(());
    }
    let base = stand.base_image().await?;
    let context = tempfile::tempdir()?;
    let file = context.path().join("Dockerfile");
    let run = "RUN pip install flask psycopg2\nCMD [\"python\", \"-c\", \"import flask, psycopg2; print('both')\"]";
    std::fs::write(
        &file,
        format!("ARG BASE_IMAGE\nFROM ${{BASE_IMAGE}}\n{run}\n"),
    )?;
    let arguments = [("BASE_IMAGE", base.as_str())];
    let image = stand
        .build_and_push(context.path(), &file, "both:1", &arguments)
        .await?;
    stand.kubectl(&["create", "namespace", "built"]).await?;
    let image = format!("--image={image}");
    stand
        .kubectl(&["-n", "built", "run", "one", &image, "--restart=Never"])
        .await?;
    until(
        "the log of the pod",
        Duration::from_secs(90),
        async || match stand.kubectl(&["-n", "built", "logs", "one"]).await {
            Ok(log) if log == "both\n" => Look::Ready(()),
            Ok(log) => Look::NotYet(log),
            Err(error) => Look::NotYet(format!("{error:#}")),
        },
    )
    .await
}
