//! The demo: the main job on real servers, told in plain words.
//!
//! What a pipeline does, step by step: build the example's image and push it, deploy it by digest with an
//! id_token through the agent, fetch the page from a pod; then the same with an image that does not exist,
//! to see the cause, the exit code, and the old pods still serving. Called by `stand demo`. The stand stays
//! up afterwards, so that everything can be looked at; the agent ends with the demo.

use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use reqwest::Method;
use serde_json::Value;
use serde_json::json;
use tokio::process::Child;
use tokio::process::Command;

use crate::client::Client;
use crate::stand::Stand;
use crate::stand::agent;
use crate::stand::agent::Programs;
use crate::stand::process;
use crate::wait::Look;
use crate::wait::until;

/// Where the demo deploys.
const NAMESPACE: &str = "flask";
/// A digest that no registry has.
const MISSING: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Tells the demo's lines to whoever runs it.
pub type Say<'a> = &'a dyn Fn(&str);

/// Runs the demo on a stand.
///
/// # Errors
/// When a step does not do what it should; the error says which.
pub async fn run(stand: &Stand, say: Say<'_>) -> Result<()> {
    let began = Instant::now();
    ensure!(
        stand.facts().has_node,
        "the demo runs real containers: start it as root"
    );
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/flask");

    heading(say, 1, "build agent and client");
    let programs = agent::build().await?;
    heading(say, 2, "start the agent beside the (imagined) runner");
    let dir = stand.facts().site.folder("agent")?;
    let config = agent::write_agent_config(&dir, stand)?;
    let _agent = start_agent(&programs, &config, &dir).await?;
    platform(stand).await?;
    say(
        "the platform team has granted project 42 the namespace flask, the paths kv/flask/* and database/creds/flask",
    );

    heading(
        say,
        3,
        "the pipeline's build stage: image from the example's Dockerfile",
    );
    let base = stand.base_image().await?;
    let image = stand
        .build_and_push(
            &example,
            &example.join("Dockerfile"),
            "flask-demo:1.0.0",
            &[("BASE_IMAGE", &base)],
        )
        .await?;
    say(&format!("pushed {image}"));

    heading(say, 4, "the pipeline's deploy stage: quaymaster deploy");
    let job = Job {
        stand,
        programs: &programs,
        socket: agent::sockets(&dir).0,
        example: &example,
    };
    let code = job.quaymaster("deploy", &image).await?;
    ensure!(code == 0, "the deploy ended with exit code {code}");
    say("exit code 0");

    heading(say, 5, "the page, fetched from a pod");
    let before = pods(stand).await?;
    for pod in &before {
        say(&format!(
            "{} says:\n{}",
            pod.name,
            indent(&page(stand, pod).await?)
        ));
    }

    heading(say, 6, "the same job with an image that does not exist");
    let broken = format!("{}@{MISSING}", image.split('@').next().unwrap_or_default());
    let code = job.quaymaster("deploy", &broken).await?;
    ensure!(
        code == 10,
        "a failed deploy that keeps what was written ends with 10, not {code}"
    );
    say("exit code 10: failed, what was written is kept");

    heading(say, 7, "the old pods still serve");
    for pod in &before {
        let text = page(stand, pod).await?;
        say(&format!("{} says:\n{}", pod.name, indent(&text)));
    }
    // The next deploy of the good image puts things right again.
    let code = job.quaymaster("deploy", &image).await?;
    ensure!(
        code == 0,
        "putting the good image back ended with exit code {code}"
    );
    farewell(stand, say, began.elapsed());
    Ok(())
}

fn heading(say: Say<'_>, number: u32, text: &str) {
    say(&format!("\n=== {number}. {text}"));
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn farewell(stand: &Stand, say: Say<'_>, took: Duration) {
    let name = &stand.facts().site.name;
    say(&format!(
        "\nDone in {:.0} s. The stand is still up. To look at it:\n\
         \x20 eval \"$(cargo stand env --name {name})\"     # KUBECONFIG, VAULT_ADDR, VAULT_TOKEN, ...\n\
         \x20 $KUBECTL -n {NAMESPACE} get all,secrets\n\
         \x20 cargo stand agent --name {name}             # run the agent again, with its sockets\n\
         \x20 cargo stand token --name {name} --project 42 --environment production\n\
         To stop it:\n\
         \x20 cargo stand down --name {name}",
        took.as_secs_f64()
    ));
}

/// Starts the agent and waits until it is ready; it ends with the demo.
async fn start_agent(programs: &Programs, config: &Path, dir: &Path) -> Result<Child> {
    let log = std::fs::File::create(dir.join("agent.log"))?;
    let child = agent::start(&programs.agent, config, log)?;
    let admin = Client::new(&agent::sockets(dir).1);
    until(
        "the agent to be ready",
        Duration::from_secs(20),
        async || match admin.get("/readyz").await {
            Ok(answer) if answer.status == 200 => Look::Ready(()),
            Ok(answer) => Look::NotYet(answer.text()),
            Err(error) => Look::NotYet(format!(
                "{error:#}\n{}",
                process::tail(&dir.join("agent.log"), 20)
            )),
        },
    )
    .await?;
    Ok(child)
}

/// What a platform team does once per project: the namespace with its RBAC, and the secret in Vault.
async fn platform(stand: &Stand) -> Result<()> {
    stand.grant_project(NAMESPACE, "42").await?;
    let (host, _) = stand
        .facts()
        .postgres_for_pods
        .split_once(':')
        .context("PostgreSQL has a port")?;
    let fields = json!({ "api_key": "k2-93c1de77", "db_host": host });
    let (status, answer) = stand
        .vault(
            Method::POST,
            "kv/data/flask/app",
            Some(&json!({ "data": fields })),
        )
        .await?;
    ensure!(status == 200, "OpenBao answered {status}: {answer}");
    Ok(())
}

/// The deploy stage of a pipeline.
struct Job<'a> {
    stand: &'a Stand,
    programs: &'a Programs,
    socket: PathBuf,
    example: &'a Path,
}

impl Job<'_> {
    /// Runs the client as the job would; its output goes to the terminal; returns its exit code.
    async fn quaymaster(&self, verb: &str, image: &str) -> Result<i32> {
        let token = self.stand.token()?.environment("production");
        let status = Command::new(&self.programs.client)
            .arg(verb)
            .arg(self.example)
            .env_clear()
            .env("QUAYMASTER_SOCKET", &self.socket)
            .env("QUAYMASTER_ID_TOKEN", self.stand.sign(token)?)
            .env("IMAGE", image)
            .stdin(Stdio::null())
            .status()
            .await
            .context("starting the client")?;
        status.code().context("the client ended by a signal")
    }
}

/// A pod that serves.
struct Pod {
    name: String,
    address: String,
}

/// Lists the ready pods of the app.
async fn pods(stand: &Stand) -> Result<Vec<Pod>> {
    let text = stand
        .kubectl(&["-n", NAMESPACE, "get", "pods", "-o", "json"])
        .await?;
    let list: Value = serde_json::from_str(&text)?;
    let mut found = Vec::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let conditions = pod["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let ready = conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        let leaving = !pod["metadata"]["deletionTimestamp"].is_null();
        if let (true, false, Some(name), Some(address)) = (
            ready,
            leaving,
            pod["metadata"]["name"].as_str(),
            pod["status"]["podIP"].as_str(),
        ) {
            found.push(Pod {
                name: name.to_owned(),
                address: address.to_owned(),
            });
        }
    }
    ensure!(!found.is_empty(), "no pod of the app is ready");
    Ok(found)
}

/// Fetches the page of a pod, from inside the stand's network.
async fn page(stand: &Stand, pod: &Pod) -> Result<String> {
    let url = format!("http://{}:8080/", pod.address);
    let output = stand
        .inside("curl")
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "10",
            &url,
        ])
        .output()
        .await
        .context("starting curl")?;
    if !output.status.success() {
        bail!(
            "the page of {} cannot be fetched: {}",
            pod.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
