//! Jobs in real containers, as a runner's docker executor makes them: the folder of the jobs socket mounted read-only,
//! no network at all, and an image with curl and jq, with nothing but a shell, or with nothing.
//!
//! What is shown: nothing but the socket is needed, the exit code is the verdict in each, no log has the secret, and a
//! job cannot put its own socket or client in the place of the agent's. What a job can see at all is in [`sight`].

mod sight;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Output;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::json;
use tempfile::TempDir;
use tests::stand::agent;
use tests::stand::docker::CURL;
use tests::stand::docker::Docker;
use tests::stand::docker::NOTHING;
use tests::stand::docker::SHELL;
use tests::world::World;
use tokio::process::Command;

use crate::client::folder;
use crate::client::told;
use crate::pages::blocks;
use crate::pages::read;
use crate::samples::Deployment;

/// Where the README says that jobs find the socket and the client.
const MOUNT: &str = "/run/quaymaster/jobs";
/// The client, as a job calls it.
const CLIENT: &str = "/run/quaymaster/jobs/quaymaster";
/// The secret of the app that is deployed.
const CANARY: &str = "cAnArY-of-a-job-5f0e77";

/// Where jobs of a world find the socket.
fn jobs_folder(world: &World) -> Result<PathBuf> {
    let socket = world.socket();
    Ok(socket.parent().context("a socket is in a folder")?.into())
}

/// Puts the static client beside the socket.
async fn bring_client(world: &World) -> Result<()> {
    let client = agent::build_static_client().await?;
    std::fs::copy(client, jobs_folder(world)?.join("quaymaster"))?;
    Ok(())
}

/// The container of a job, still to be given more options, its image and its words; `bundle` is its checkout.
fn container(
    docker: &Docker,
    world: &World,
    bundle: &Path,
    variables: &[(&str, &str)],
) -> Result<Command> {
    let jobs = jobs_folder(world)?;
    let mut command = docker.command();
    command
        .args(["run", "--rm", "--network=none", "--workdir=/builds"])
        .arg(format!("--volume={}:{MOUNT}:ro", jobs.display()))
        .arg(format!("--volume={}:/builds:ro", bundle.display()));
    for (name, value) in variables {
        // No value on a command line: the engine takes it from the client's environment.
        command.arg(format!("--env={name}")).env(name, value);
    }
    Ok(command)
}

/// A world whose jobs folder has the static client too, and the engine that runs its jobs.
struct Jobs {
    world: World,
    docker: Docker,
}

impl Jobs {
    /// Unset where no container runs, which the stand says loudly.
    async fn new(name: &str) -> Result<Option<Self>> {
        let world = World::new(name).await?;
        if !world.stand.facts().has_node {
            return Ok(None);
        }
        let docker = world.stand.docker().await?;
        bring_client(&world).await?;
        Ok(Some(Self { world, docker }))
    }

    /// Runs a job of `words` in `image`, with `bundle` as its checkout; `options` are more of `docker run`.
    async fn run(
        &self,
        image: &str,
        bundle: &Path,
        options: &[&str],
        words: &[&str],
    ) -> Result<Output> {
        let token = self.world.stand.sign(self.world.token()?)?;
        let variables = [("QUAYMASTER_ID_TOKEN", token.as_str()), ("IMAGE", "unused")];
        let mut command = container(&self.docker, &self.world, bundle, &variables)?;
        command.args(options).arg(image).args(words);
        Ok(command.output().await?)
    }

    /// A checkout with an app that uses a Secret from Vault; `shell` is what its container runs.
    async fn checkout(&self, shell: &str) -> Result<TempDir> {
        let path = self.world.put("app", json!({ "password": CANARY })).await?;
        let spec = format!(
            "version: 1\nname: app\nsecrets:\n  - name: app-db\n    keys:\n      password: {{ vault: {path}, field: password }}\n\
             manifests: [k8s/]\nrollout: {{ timeout: 60s, on_failure: rollback }}\n"
        );
        let deployment = Deployment {
            image: &self.world.stand.busybox(),
            shell,
            container: "env:\n  - name: P\n    valueFrom: { secretKeyRef: { name: app-db, key: password } }",
            ..Deployment::default()
        };
        let scripts = blocks(&read("docs/curl.md")?, "sh");
        let page = scripts.first().context("the page has a script")?;
        let files = [
            ("quaymaster.yaml", spec.as_str()),
            ("k8s/web.yaml", &deployment.yaml()),
            ("deploy.sh", page),
        ];
        let dir = folder(&self.world, &files)?;
        // As a runner leaves its checkouts: for whatever user the job's image has.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(dir)
    }

    /// A good deploy ends with 0 and the app runs with its Secret; a crash after it ends with 11 and is taken back.
    async fn deploys(&self, image: &str, options: &[&str], words: &[&str]) -> Result<()> {
        let good = self.checkout("exec sleep 3600").await?;
        let done = self.run(image, good.path(), options, words).await?;
        ensure!(done.status.code() == Some(0), "{}", told(&done));
        let ready = [
            "get",
            "deploy",
            "web",
            "-o",
            "jsonpath={.status.readyReplicas}",
        ];
        let pods = self.world.kubectl(&ready).await?;
        ensure!(pods == "1", "ready pods: {pods}");
        let bad = self.checkout("echo no-such-table; exit 3").await?;
        let failed = self.run(image, bad.path(), options, words).await?;
        ensure!(failed.status.code() == Some(11), "{}", told(&failed));
        ensure!(told(&failed).contains("no-such-table"), "{}", told(&failed));
        for output in [&done, &failed] {
            ensure!(!told(output).contains(CANARY), "the log has the secret");
        }
        Ok(())
    }
}

#[tokio::test]
async fn an_image_with_curl_and_jq_deploys() -> Result<()> {
    let Some(jobs) = Jobs::new("img-curl").await? else {
        return Ok(());
    };
    jobs.deploys(CURL, &[], &["sh", "deploy.sh"]).await
}

#[tokio::test]
async fn an_image_with_a_shell_alone_deploys() -> Result<()> {
    let Some(jobs) = Jobs::new("img-shell").await? else {
        return Ok(());
    };
    // Many job images do not run as root.
    let script = format!("set -eu\n{CLIENT} whoami\n{CLIENT} deploy");
    jobs.deploys(SHELL, &["--user=1000:1000"], &["sh", "-c", &script])
        .await
}

#[tokio::test]
async fn an_image_with_nothing_deploys() -> Result<()> {
    let Some(jobs) = Jobs::new("img-none").await? else {
        return Ok(());
    };
    let entry = format!("--entrypoint={CLIENT}");
    jobs.deploys(NOTHING, &[&entry], &["deploy"]).await
}

#[tokio::test]
async fn a_job_cannot_replace_the_socket_or_the_client() -> Result<()> {
    let Some(jobs) = Jobs::new("img-trap").await? else {
        return Ok(());
    };
    let checkout = jobs.checkout("exec sleep 3600").await?;
    let before = std::fs::read(jobs_folder(&jobs.world)?.join("quaymaster"))?;
    // Root inside, as most job images are.
    let script = format!(
        "id -u; for f in quaymaster quaymaster.sock; do rm {MOUNT}/$f || echo kept $f; done
echo trap > {MOUNT}/quaymaster || echo unwritten; mount -o remount,rw {MOUNT} || echo still; {CLIENT} whoami"
    );
    let output = jobs
        .run(SHELL, checkout.path(), &[], &["sh", "-c", &script])
        .await?;
    let text = told(&output);
    for line in [
        "kept quaymaster",
        "kept quaymaster.sock",
        "unwritten",
        "still",
    ] {
        ensure!(
            text.lines().any(|said| said == line),
            "no `{line}` in: {text}"
        );
    }
    // The socket still answers through a mount that nobody can write to.
    ensure!(output.status.code() == Some(0), "{text}");
    ensure!(std::fs::read(jobs_folder(&jobs.world)?.join("quaymaster"))? == before);
    Ok(())
}
