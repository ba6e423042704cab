//! The Docker engine: job containers as a runner's docker executor makes them, on a network of the stand's own.
//!
//! It starts when the first scenario asks (`Stand::docker`), beside the node's containerd, which runs its
//! containers too; [`Docker`] is the scenario's handle. Its images are put together from programs of the machine,
//! because no public registry is needed anywhere on a stand; those of the examples' jobs have the names that the
//! examples use. Invariant: nothing of it is outside of the state folder, the stand's namespaces and its cgroup, so it
//! ends with the stand.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use tokio::process::Command;

use super::image;
use super::layout::Site;
use super::on_demand;
use super::process;
use super::process::Server;
use crate::wait::until;

/// Image with a shell and busybox's applets, and nothing else.
pub const SHELL: &str = "stand/shell:1";
/// The same with curl and jq: what an Alpine job image has after `apk add curl jq`.
pub const CURL: &str = "stand/curl:1";
/// Image with no program at all.
pub const NOTHING: &str = "stand/nothing:1";
/// Image of the executor itself, which copies checkouts and artifacts.
pub(crate) const HELPER: &str = "stand/helper:1";
/// The deploy jobs of the examples.
const BUSYBOX: &str = "busybox:latest";

/// Debian's client: a newer one of the machine's may refuse to speak to Debian's engine.
pub(crate) const CLIENT: &str = "/usr/bin/docker";
/// Name of the service for those who ask.
const NAME: &str = "docker";
/// Network of its containers, away from the pods'.
const BRIDGE: &str = "10.89.0.1/16";

fn address(site: &Site) -> String {
    format!("unix://{}", site.dir.join("docker.sock").display())
}

/// The engine of a running stand.
pub struct Docker {
    site: Site,
}

impl Docker {
    /// Asks a stand for its engine; returns when it is ready and has its images.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) async fn ask(site: &Site) -> Result<Self> {
        on_demand::ask(site, NAME, Vec::new()).await?;
        Ok(Self { site: site.clone() })
    }

    /// Address of the engine, as `DOCKER_HOST` has it.
    #[must_use]
    pub fn address(&self) -> String {
        address(&self.site)
    }

    /// Makes the image of the examples' jobs that call the agent, and the executor's own.
    ///
    /// # Errors
    /// When a program is missing or the engine refuses.
    pub(crate) async fn pipeline_images(&self) -> Result<()> {
        let site = &self.site;
        import(site, &image::busybox_layer(&site.cache), BUSYBOX).await?;
        made_of(site, &["bash", "rsync"], HELPER).await
    }

    /// The `docker` command against this engine, still to be given arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        client(&self.site)
    }
}

fn client(site: &Site) -> Command {
    let mut command = process::command(site, CLIENT);
    command.env("DOCKER_HOST", address(site));
    command
}

/// Waits for askers, for as long as it is polled, and keeps the engine up.
pub(super) async fn on_demand(site: &Site) {
    on_demand::serve(site, NAME, async |_: &str| Ok(vec![start(site).await?])).await;
}

async fn start(site: &Site) -> Result<Server> {
    ensure!(
        site.isolated && site.own_cluster,
        "containers run inside the stand's namespaces beside its node, which need root"
    );
    let arguments = [
        "--host".to_owned(),
        address(site),
        "--data-root".to_owned(),
        site.folder("docker")?.display().to_string(),
        // The stand has a /run of its own.
        "--exec-root=/run/docker".to_owned(),
        "--pidfile=/run/docker.pid".to_owned(),
        "--containerd=/run/containerd/containerd.sock".to_owned(),
        format!("--cgroup-parent={}/docker", site.cgroup()),
        "--exec-opt=native.cgroupdriver=cgroupfs".to_owned(),
        // It may not lower its score on every machine.
        "--oom-score-adjust=0".to_owned(),
        "--iptables=false".to_owned(),
        "--ip-masq=false".to_owned(),
        "--ip-forward=false".to_owned(),
        format!("--bip={BRIDGE}"),
    ];
    let mut server = Server::start(site, "dockerd", "dockerd", &arguments)?;
    until("the Docker engine", Duration::from_secs(60), async || {
        server.look(process::run(client(site).arg("version")).await)
    })
    .await?;
    images(site).await.context("making images for jobs")?;
    Ok(server)
}

async fn images(site: &Site) -> Result<()> {
    import(site, &image::busybox_layer(&site.cache), SHELL).await?;
    made_of(site, &["curl", "jq"], CURL).await?;
    let nothing = site.folder("job-images")?.join("nothing.tar");
    image::write_empty_layer(&nothing)?;
    import(site, &nothing, NOTHING).await
}

/// Makes an image of busybox, programs of the machine, and files with these texts.
async fn made_of(site: &Site, programs: &[&str], name: &str) -> Result<()> {
    let mut files = Vec::new();
    for program in programs {
        files.extend(with_libraries(site, program).await?);
    }
    let layer = site
        .folder("job-images")?
        .join(format!("{}.tar", programs.join("-")));
    add_to(&image::busybox_layer(&site.cache), &files, &layer)?;
    import(site, &layer, name).await
}

async fn import(site: &Site, layer: &Path, name: &str) -> Result<()> {
    let mut import = client(site);
    import
        .args(["import", "--change", "ENV PATH=/usr/bin:/bin"])
        .arg(layer)
        .arg(name);
    process::run(&mut import).await.map(drop)
}

/// Files that a program of the machine needs to run elsewhere: itself, its libraries, their loader.
async fn with_libraries(site: &Site, program: &str) -> Result<Vec<PathBuf>> {
    let path = process::find(program).with_context(|| format!("{program} is not installed"))?;
    let listed = process::run(process::command(site, "ldd").arg(&path)).await?;
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from);
    Ok(libraries.chain([path.clone()]).collect())
}

/// Writes the layer `base` with `files` of the machine, each at its own path, to `to`.
fn add_to(base: &Path, files: &[PathBuf], to: &Path) -> Result<()> {
    let mut tar = tar::Builder::new(File::create(to)?);
    for entry in tar::Archive::new(File::open(base)?).entries()? {
        let mut entry = entry?;
        tar.append(&entry.header().clone(), &mut entry)?;
    }
    let mut files = files.to_vec();
    files.sort();
    files.dedup();
    for file in files {
        tar.append_path_with_name(&file, file.strip_prefix("/")?)
            .with_context(|| format!("packing {}", file.display()))?;
    }
    tar.into_inner()?;
    Ok(())
}
