//! The demo: the main job on real servers, told in plain words.
//!
//! What a pipeline does, step by step: build the example's image and push it, plan, deploy it by digest with
//! an id_token through the agent, fetch the page; then an image that does not exist, to see the cause, the
//! verified rollback, the exit code, and the old pods serving all the time; then the history, the good image
//! again, a credential that is replaced while the page is asked for, and the same app as chart and kustomization. Called by `stand demo`. The stand stays up
//! afterwards, so that everything can be looked at; the agent ends with the demo.

mod flux;
mod fresh;

use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use reqwest::Method;
use serde_json::Value;
use serde_json::json;
use tokio::process::Child;
use tokio::process::Command;

use crate::client::Client;
use crate::example;
use crate::example::Pod;
use crate::example::page;
use crate::stand::Stand;
use crate::stand::agent;
use crate::stand::agent::Programs;
use crate::stand::process;
use crate::wait::Look;
use crate::wait::until;

/// The namespace of the example with plain manifests; the others have their folders' names too.
const NAMESPACE: &str = "flask";
/// The app of that example.
const APP: &str = "flask-demo";
/// The same app in other forms: folder and namespace.
const OTHER_WAYS: [&str; 2] = ["flask-helm", "flask-kustomize"];
/// A digest that no registry has.
const MISSING: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
/// How often the page is fetched while a deploy goes wrong.
const FETCH_EVERY: Duration = Duration::from_millis(250);

/// Tells the demo's lines to whoever runs it.
pub type Say<'a> = &'a dyn Fn(&str);

/// Which ways to deliver are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// By the pipeline.
    Pipeline,
    /// Then also through Flux, whose controllers are built for it.
    PipelineAndFlux,
}

/// Runs the demo on a stand.
///
/// # Errors
/// When a step does not do what it should; the error says which.
pub async fn run(stand: &Stand, ways: Ways, say: Say<'_>) -> Result<()> {
    let began = Instant::now();
    ensure!(
        stand.facts().has_node,
        "the demo runs real containers: start it as root"
    );
    heading(say, 1, "build agent and client");
    let programs = agent::build().await?;
    heading(say, 2, "start the agent beside the (imagined) runner");
    let dir = stand.facts().site.folder("agent")?;
    let config = agent::write_agent_config(&dir, stand).await?;
    let _agent = start_agent(&programs, &config, &dir).await?;
    platform(stand).await?;
    say(
        "the platform team has granted project 42 the namespaces flask, flask-helm and flask-kustomize, the paths kv/flask/* and database/creds/flask",
    );
    heading(
        say,
        3,
        "the pipeline's build stage: image from the example's Dockerfile",
    );
    let image = build_image(stand).await?;
    say(&format!("pushed {image}"));
    let job = Job {
        stand,
        programs: &programs,
        socket: agent::sockets(&dir).0,
        admin: agent::sockets(&dir).1,
    };
    first_deploy(&job, say, &image).await?;
    bad_deploy(&job, say, &image).await?;
    afterwards(&job, say, &image).await?;
    fresh::rotate(&job, say, &image, &dir).await?;
    other_ways(&job, say, &image).await?;
    match ways {
        Ways::Pipeline => {}
        Ways::PipelineAndFlux => flux::deliver(&job, say, &image).await?,
    }
    farewell(stand, say, began.elapsed());
    Ok(())
}

async fn build_image(stand: &Stand) -> Result<String> {
    let context = example::folder("flask");
    let base = stand.base_image().await?;
    stand
        .build_and_push(
            &context,
            &context.join("Dockerfile"),
            "flask-demo:1.0.0",
            &[("BASE_IMAGE", &base)],
        )
        .await
}

/// Plan, deploy, page.
async fn first_deploy(job: &Job<'_>, say: Say<'_>, image: &str) -> Result<()> {
    let example = example::folder("flask");
    heading(
        say,
        4,
        "what would a deploy change? quaymaster plan writes nothing",
    );
    job.expect(0, &["plan".as_ref(), example.as_ref()], image)
        .await?;
    heading(say, 5, "the pipeline's deploy stage: quaymaster deploy");
    job.expect(0, &["deploy".as_ref(), example.as_ref()], image)
        .await?;
    say("exit code 0: done and verified");
    heading(say, 6, "the page, fetched from every pod");
    for pod in pods(job.stand, NAMESPACE).await? {
        let text = page(job.stand, &pod).await?;
        say(&format!("{} says:\n{}", pod.name, indent(&text)));
    }
    Ok(())
}

/// An image that does not exist: the cause, the way back, and pods that serve all the time.
async fn bad_deploy(job: &Job<'_>, say: Say<'_>, image: &str) -> Result<()> {
    heading(
        say,
        7,
        "the same job with an image that does not exist; quaymaster.yaml says on_failure: rollback",
    );
    let example = example::folder("flask");
    let before = pods(job.stand, NAMESPACE).await?;
    let broken = format!("{}@{MISSING}", image.split('@').next().unwrap_or_default());
    let words: [&OsStr; 2] = ["deploy".as_ref(), example.as_ref()];
    let mut run = pin!(job.expect(11, &words, &broken));
    let mut fetched = 0_u32;
    let mut ticks = tokio::time::interval(FETCH_EVERY);
    loop {
        tokio::select! {
            // The deploy is over: there is nothing more to fetch for.
            ended = &mut run => break ended?,
            // A tick that is lost to the end of the deploy is one fetch less.
            _ = ticks.tick() => {
                for pod in &before {
                    let text = page(job.stand, pod).await?;
                    ensure!(text.contains("read as:"), "{} says: {text}", pod.name);
                    fetched += 1;
                }
            }
        }
    }
    ensure!(fetched > 0, "the page was never fetched");
    say("exit code 11: failed, and the last revision that worked is back and verified");
    let after = pods(job.stand, NAMESPACE).await?;
    let names = |pods: &[Pod]| pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>();
    ensure!(
        names(&before) == names(&after),
        "the pods that served were replaced: {:?} became {:?}",
        names(&before),
        names(&after)
    );
    say(&format!(
        "meanwhile the old pods gave the page {fetched} times out of {fetched}, and they still run: {}",
        names(&after).join(", ")
    ));
    Ok(())
}

/// What the app has behind it, and the good image once more.
async fn afterwards(job: &Job<'_>, say: Say<'_>, image: &str) -> Result<()> {
    heading(
        say,
        8,
        "what happened to the app so far: quaymaster history",
    );
    let words = [
        "history",
        APP,
        "--cluster",
        "stand",
        "--namespace",
        NAMESPACE,
    ];
    job.expect(0, &words.map(OsStr::new), image).await?;
    heading(
        say,
        9,
        "the good image again: the credential is new, the pods are left alone",
    );
    let example = example::folder("flask");
    job.expect(0, &["deploy".as_ref(), example.as_ref()], image)
        .await?;
    say("exit code 0");
    Ok(())
}

/// The same app from a chart and from a kustomization.
async fn other_ways(job: &Job<'_>, say: Say<'_>, image: &str) -> Result<()> {
    for (number, way) in (12..).zip(OTHER_WAYS) {
        heading(
            say,
            number,
            &format!("the same app in another form: examples/{way}"),
        );
        let example = example::folder(way);
        job.expect(0, &["deploy".as_ref(), example.as_ref()], image)
            .await?;
        for pod in pods(job.stand, way).await?.iter().take(1) {
            let text = page(job.stand, pod).await?;
            say(&format!("{} says:\n{}", pod.name, indent(&text)));
        }
    }
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

/// What a platform team does once per project: the namespaces with their RBAC, and the secret in Vault.
async fn platform(stand: &Stand) -> Result<()> {
    for namespace in OTHER_WAYS.into_iter().chain([NAMESPACE]) {
        stand.grant_project(namespace, "42").await?;
    }
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

/// The jobs of a pipeline.
struct Job<'a> {
    stand: &'a Stand,
    programs: &'a Programs,
    socket: PathBuf,
    /// The operator's socket.
    admin: PathBuf,
}

impl Job<'_> {
    /// Runs the client as a job would; its output goes to the terminal. It has to end with `code`.
    async fn expect(&self, code: i32, words: &[&OsStr], image: &str) -> Result<()> {
        let token = self.stand.token()?.environment("production");
        // Each example is deployed into the namespace that its folder is called by.
        let namespace = words.last().and_then(|word| Path::new(word).file_name());
        let status = Command::new(&self.programs.client)
            .args(words)
            .env_clear()
            .env("QUAYMASTER_SOCKET", &self.socket)
            .env("QUAYMASTER_ID_TOKEN", self.stand.sign(token)?)
            .env("IMAGE", image)
            .env("FLEET_REPOSITORY", flux::address(self.stand))
            .env("CI_ENVIRONMENT_NAME", "production")
            .env("NAMESPACE", namespace.unwrap_or_default())
            .envs([("APP", "flask"), ("OVERLAY", "production")])
            .stdin(Stdio::null())
            .status()
            .await
            .context("starting the client")?;
        let ended = status.code().context("the client ended by a signal")?;
        let verb = words.first().copied().unwrap_or_default().display();
        ensure!(
            ended == code,
            "quaymaster {verb} ended with exit code {ended}, expected {code}"
        );
        Ok(())
    }
}

/// Lists the ready pods of the app.
async fn pods(stand: &Stand, namespace: &str) -> Result<Vec<Pod>> {
    let found = example::pods(stand, namespace).await?;
    ensure!(!found.is_empty(), "no pod of the app is ready");
    Ok(found)
}
