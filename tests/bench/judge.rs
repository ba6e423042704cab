//! Applies one folder of manifests and judges it as a run does: the watcher alone, without agent and policy.
//!
//! Called by `cargo measure judge`, which outside runners of health vectors use as their deploy command. They
//! need an API server whose controllers stand still, since they write the status themselves: a stand of one's
//! own does after `kill -STOP` of its kube-controller-manager. Exit code: 0 ready, 10 failed, 31 not done in time.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agent::clock::SystemClock;
use agent::cluster::ClusterSettings;
use agent::cluster::Kube;
use anyhow::Context as _;
use anyhow::Result;
use clap::Args;
use deploy::bundle::Bundle;
use deploy::fakes::Fakes;
use deploy::log::RunLog;
use deploy::manifest;
use deploy::object::Object;
use deploy::ports::Cluster;
use deploy::ports::Force;
use deploy::ports::Payload;
use deploy::ports::Ports;
use deploy::ports::Write;
use deploy::principal::Actor;
use deploy::secret::FingerprintKey;
use deploy::spec::Duplicates;
use deploy::watch;
use deploy::watch::Outcome;
use deploy::watch::Watched;
use proto::event::Body;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What to judge, and where.
#[derive(Args)]
pub(super) struct Judge {
    /// Folder with `manifests/`.
    dir: PathBuf,
    /// A kubeconfig whose user may impersonate.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The namespace whose pods and events are evidence.
    #[arg(long)]
    namespace: String,
    /// The deadline in seconds.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// A group that may do everything.
    #[arg(long, default_value = "gitlab:project:1")]
    group: String,
}

/// Applies, watches, prints the log and returns the exit code.
pub(super) async fn judge(options: Judge) -> Result<ExitCode> {
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    let kube = Kube::connect(ClusterSettings {
        name: "stand".to_owned(),
        kubeconfig: options.kubeconfig,
        context: None,
        timeout: Duration::from_secs(10),
        fingerprint_key: Arc::new(FingerprintKey::new([7; 32])),
    })
    .await?;
    let actor = Actor {
        user: "gitlab:ci_job:1".to_owned(),
        groups: vec![options.group],
    };
    let mut applied = Vec::new();
    for object in objects(&options.dir)? {
        let payload = Payload::Object(&object.body);
        let (done, _) = kube
            .apply(&actor, &object.id, payload, Write::Commit, Force::No)
            .await?;
        applied.push(done);
    }
    let ports = Ports {
        cluster: Arc::new(kube),
        clock: Arc::new(SystemClock),
        ..Fakes::default().ports()
    };
    let log = RunLog::new(Arc::new(SystemClock));
    let stop = CancellationToken::new();
    let outcome = watch::watch(
        Watched {
            objects: &applied,
            namespace: &options.namespace,
            rules: &[],
        },
        &actor,
        &ports,
        &log,
        deadline,
        &stop,
    )
    .await;
    for event in log.since(0) {
        match event.body {
            Body::Message { text, .. } => println!("{text}"),
            Body::Object {
                object,
                state,
                detail,
            } => println!("{state} {object}: {detail}"),
            other => println!("{other:?}"),
        }
    }
    println!("{outcome:?}");
    Ok(match outcome {
        Outcome::Ready { .. } => ExitCode::SUCCESS,
        Outcome::Failed { .. } => ExitCode::from(10),
        Outcome::TimedOut { .. } | Outcome::Stopped => ExitCode::from(31),
    })
}

fn objects(dir: &Path) -> Result<Vec<Object>> {
    let mut bundle = Bundle::default();
    for entry in std::fs::read_dir(dir.join("manifests"))? {
        let entry = entry?;
        let name = format!("manifests/{}", entry.file_name().to_string_lossy());
        bundle.files.insert(name, std::fs::read(entry.path())?);
    }
    let read = manifest::read(&bundle, &["manifests".to_owned()], Duplicates::Refuse)
        .map_err(|error| anyhow::anyhow!("{:?}", error.places))
        .context("reading the manifests")?;
    Ok(read.objects)
}
