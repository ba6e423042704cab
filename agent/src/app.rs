//! The composition root: the only file that names every part, and the life of the process.
//!
//! [`load`] reads configuration and policy; [`parts`] makes the adapters; [`Bound::build`] puts
//! everything together, recovers the journal and binds the sockets; [`Bound::run`] serves until a
//! signal and ends in order. Tests start at [`Bound::build`] with doubles as [`Parts`], or with a
//! [`Brain`] of their own at [`Bound::with_brain`].

mod background;
mod error;
mod intake;
mod keep;
mod parts;
mod doctor;
mod resume;
mod unused;
mod values;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use deploy::policy::Policy;
use deploy::ports::Clock;
use deploy::ports::Cluster;
use deploy::ports::Git;
use deploy::ports::Registry;
use deploy::ports::Renderer;
use deploy::ports::Secrets;
use deploy::register::Home;
use deploy::secret::FingerprintKey;
use futures::FutureExt as _;
use proto::ids::ClusterName;
use sd_notify::NotifyState;
use tokio::sync::mpsc;

pub use self::background::Chore;
pub use self::background::Probe;
use self::background::end_runs;
use self::background::purge;
use self::background::recover;
use self::background::watch_part;
pub use self::doctor::Finding;
pub use self::doctor::doctor;
pub use self::doctor::verdict;
pub use self::error::StartError;
pub use self::keep::Keep;
use crate::config::Config;
use crate::config::Environment;
use crate::gitlab::Statuses;
use crate::http::Identity;
use crate::http::Site;
use crate::http::brain::Brain;
use crate::http::brain::Identify;
use crate::http::listener::BoundSocket;
use crate::http::listener::bind;
use crate::http::route::Socket;
use crate::http::serve::serve;
use crate::journal::DiskJournal;
use crate::lifecycle::EndSignal;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Supervisor;
use crate::lifecycle::host;
use crate::lifecycle::notify;
use crate::lifecycle::signals;
use crate::lifecycle::watchdog;
use crate::metrics::Metrics;
use crate::readiness::Blocker;
use crate::readiness::Readiness;
use crate::rotation::Rotation;
use crate::runs::Runs;

/// What connections have to end; a little over their own last words.
const CLOSE_TIME: Duration = Duration::from_secs(3);

/// How the process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// As asked, with every run over.
    Clean,
    /// By force or by deadline, with runs that were not over.
    Cut {
        /// How many.
        runs: usize,
    },
    /// A part of the agent failed.
    Broken {
        /// Which.
        part: String,
    },
}

impl Ending {
    /// Returns the exit code.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Clean => ExitCode::SUCCESS,
            Self::Broken { .. } => ExitCode::FAILURE,
            Self::Cut { .. } => ExitCode::from(3),
        }
    }
}

/// The adapters, or doubles of them.
pub struct Parts {
    /// Vault.
    pub secrets: Arc<dyn Secrets>,
    /// Every cluster.
    pub clusters: BTreeMap<ClusterName, Arc<dyn Cluster>>,
    /// kustomize and Helm, for every cluster.
    pub renderers: BTreeMap<ClusterName, Arc<dyn Renderer>>,
    /// Git.
    pub git: Arc<dyn Git>,
    /// Image registries.
    pub registry: Arc<dyn Registry>,
    /// Who is it.
    pub identify: Identify,
    /// The key of fingerprints; the clusters' adapters use the same.
    pub key: Arc<FingerprintKey>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// How the agent's own login to Vault stands.
    pub identity: Identity,
    /// What `/readyz` shows beside the agent's own parts.
    pub probes: Vec<Probe>,
    /// What goes on in the background for the parts.
    pub chores: Vec<Chore>,
    /// Tells GitLab about runs; unset: nobody does.
    pub statuses: Option<Arc<Statuses>>,
}

/// Reads configuration and policy.
///
/// # Errors
/// With every mistake of the first file that has one.
pub fn load(file: &Path, environment: Environment) -> Result<(Config, Policy), StartError> {
    let read = |what, path: &Path| {
        fs::read_to_string(path).map_err(|source| StartError::Read {
            what,
            path: path.to_owned(),
            source,
        })
    };
    let text = read("configuration", file)?;
    let config = Config::read(&text, environment).map_err(|source| StartError::Config {
        path: file.to_owned(),
        source,
    })?;
    let text = read("policy", &config.policy)?;
    let policy = Policy::parse(&text).map_err(|source| StartError::Policy {
        path: config.policy.clone(),
        source,
    })?;
    Ok((config, policy))
}

/// Runs the agent as a process.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config, policy: Policy) -> Result<Ending, StartError> {
    let signals = signals().map_err(|source| StartError::Kernel {
        what: "signals",
        source,
    })?;
    let parts = parts::parts(&config).await?;
    let bound = Bound::build(&config, policy, parts).await?;
    notify(NotifyState::Ready);
    Ok(bound.run(signals).await)
}

/// The agent with its sockets bound and its journal recovered, not serving yet.
pub struct Bound {
    site: Arc<Site>,
    jobs: BoundSocket,
    admin: BoundSocket,
    journal: DiskJournal,
    rotation: Option<Rotation>,
    probes: Vec<(Probe, Blocker)>,
    chores: Vec<Chore>,
    drain_timeout: Duration,
}

impl Bound {
    /// Puts everything together over adapters or doubles.
    ///
    /// # Errors
    /// Journal or sockets.
    pub async fn build(config: &Config, policy: Policy, parts: Parts) -> Result<Self, StartError> {
        let Parts {
            secrets,
            clusters,
            renderers,
            git,
            registry,
            identify,
            key,
            clock,
            identity,
            probes,
            chores,
            statuses,
        } = parts;
        let hash = policy.hash().to_owned();
        let policy = Arc::new(policy);
        let home = config.rotation.as_ref().map(|rotation| Home {
            namespace: rotation.namespace.to_string(),
        });
        let keeping = config.rotation.as_ref().zip(home.clone());
        let keep = keeping.map(|(rotation, home)| Keep {
            secrets: Arc::clone(&secrets),
            clusters: clusters.clone(),
            renderers: renderers.clone(),
            git: Arc::clone(&git),
            registry: Arc::clone(&registry),
            policy: Arc::clone(&policy),
            key: Arc::clone(&key),
            home,
            freshness: rotation.freshness,
            requests_per_second: rotation.requests_per_second,
        });
        let own = config.vault.identity.as_ref().map(|_| Arc::clone(&secrets));
        let intake = intake::Intake {
            policy,
            secrets,
            clusters,
            renderers,
            git,
            registry,
            key,
            clock: Arc::clone(&clock),
            limits: config.limits.bundle,
            agent: host(),
            home,
            statuses,
        };
        let brain = intake.brain(identify);
        let bound = Self::with_brain(
            config,
            hash,
            brain,
            keep,
            Arc::clone(&clock),
            probes,
            identity,
        );
        let bound = bound.await?;
        let mut chores = chores;
        if let Some(own) = own {
            let journal = bound.journal.clone();
            chores.push(Chore {
                name: "unused credentials",
                run: Box::new(move |stop| unused::revoke_unused(journal, own, clock, stop).boxed()),
            });
        }
        Ok(Self { chores, ..bound })
    }

    /// Puts everything together over a brain; `policy` is the hash that `/v1/status` shows.
    ///
    /// # Errors
    /// Journal or sockets.
    pub async fn with_brain(
        config: &Config,
        policy: String,
        brain: Brain,
        keep: Option<Keep>,
        clock: Arc<dyn Clock>,
        probes: Vec<Probe>,
        identity: Identity,
    ) -> Result<Self, StartError> {
        let journal = DiskJournal::open(&config.state_dir)?;
        let readiness = Readiness::default();
        let lifecycle = Lifecycle::default();
        let metrics = Arc::<Metrics>::default();
        let runs = Runs::new(
            journal.clone(),
            Arc::clone(&clock),
            lifecycle.clone(),
            Arc::clone(&metrics),
            config.runs,
        );
        let cut = recover(&journal, &runs, &brain, &*clock)
            .await
            .map_err(StartError::Recover)?;
        let cut_ids = cut.iter().map(|run| run.id.clone()).collect();
        let rotation = keep.map(|keep| keep.rotation(config, &journal, &runs, &clock, cut_ids));
        let jobs = bind(&config.socket.jobs, config.socket.jobs_mode, 0o755)?;
        let admin = bind(&config.socket.admin, 0o600, 0o700)?;
        let block = |probe: Probe| {
            let blocker = readiness.block(&probe.name, "not asked yet");
            (probe, blocker)
        };
        let probes = probes.into_iter().map(block).collect();
        let site = Site {
            brain,
            runs,
            rotation: rotation.clone(),
            policy,
            identity,
            readiness,
            metrics,
            lifecycle,
            clock,
            limits: config.limits,
        };
        Ok(Self {
            site: Arc::new(site),
            jobs,
            admin,
            journal,
            rotation,
            probes,
            chores: Vec::new(),
            drain_timeout: config.drain_timeout,
        })
    }

    /// Returns the path of the jobs socket.
    #[must_use]
    pub fn jobs(&self) -> &Path {
        self.jobs.path()
    }

    /// Serves until a signal comes or a part fails, then ends in order.
    pub async fn run(self, mut signals: mpsc::Receiver<EndSignal>) -> Ending {
        let Self {
            site,
            jobs,
            admin,
            journal,
            rotation,
            probes,
            chores,
            drain_timeout,
        } = self;
        let stop = site.lifecycle.stopped();
        tracing::info!(jobs = %jobs.path().display(), admin = %admin.path().display(), "serving");
        let mut supervisor = Supervisor::default();
        supervisor.spawn("jobs socket", serve(jobs, Socket::Jobs, Arc::clone(&site)));
        supervisor.spawn(
            "admin socket",
            serve(admin, Socket::Admin, Arc::clone(&site)),
        );
        supervisor.spawn("watchdog", watchdog(stop.clone()));
        supervisor.spawn(
            "purge",
            purge(journal, Arc::clone(&site.clock), stop.clone()),
        );
        if let Some(rotation) = rotation {
            supervisor.spawn("rotation", rotation.run(stop.clone()));
        }
        for chore in chores {
            supervisor.spawn(chore.name, (chore.run)(stop.clone()));
        }
        for (probe, blocker) in probes {
            supervisor.spawn("probe", watch_part(probe, blocker, stop.clone()));
        }
        // Losing a signal's poll loses no signal, the channel keeps it; an ended task stays ended.
        let broken = tokio::select! {
            Some(EndSignal(name)) = signals.recv() => {
                tracing::info!(signal = name, "draining");
                None
            }
            part = supervisor.ended() => Some(part),
        };
        notify(NotifyState::Stopping);
        let ending = if let Some(part) = broken {
            tracing::error!(part, "a part of the agent ended, so the process does");
            site.lifecycle.drain();
            site.runs.cut_all();
            Ending::Broken { part }
        } else {
            end_runs(&site, drain_timeout, &mut signals).await
        };
        site.lifecycle.stop();
        supervisor.finish(CLOSE_TIME).await;
        site.runs.announced().await;
        let left = site.runs.active();
        tracing::info!(?ending, cut = ?left, "ended");
        ending
    }
}
