//! The `Renderer` port: kustomize (inside kubectl) and Helm as children, one call one child.
//!
//! Made by `app`, one a cluster; called by the engine through the port. Invariants: a child gets a
//! private folder that is gone after the call, an empty environment, limits of time, output and
//! memory, and for Helm a kubeconfig that impersonates the run's actor and is only in memory. What
//! a child prints is cut and never trusted. [`crate::child`] runs it, [`kubeconfig`] is its identity,
//! [`said`] reads its words. No child fetches anything: charts of registries and repositories come through [`remote`].

mod kubeconfig;
mod remote;
mod said;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deploy::ports::Chart;
use deploy::ports::ChartError;
use deploy::ports::ChartRef;
use deploy::ports::Crds;
use deploy::ports::Fetched;
use deploy::ports::Files;
use deploy::ports::Hooks;
use deploy::ports::Lookup;
use deploy::ports::Marks;
use deploy::ports::Presence;
use deploy::ports::Release;
use deploy::ports::RenderError;
use deploy::ports::Renderer;
use deploy::principal::Actor;
use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::Certificate;
use tokio::sync::Semaphore;

use crate::child::Child;
use crate::child::Ending;
use crate::child::Input;
use crate::child::folder;
use crate::child::folder::Folder;
use crate::registries;

/// Programs at a time: each may take a gigabyte.
const AT_A_TIME: usize = 4;
/// The words under which the programs are told and configured.
const HELM: &str = "helm";
const KUBECTL: &str = "kubectl";

/// What the adapters of all clusters share.
#[derive(Debug, Clone)]
pub struct Programs {
    helm: Option<PathBuf>,
    kubectl: Option<PathBuf>,
    base: PathBuf,
    /// What servers of charts may have beside the machine's roots.
    roots: Vec<Certificate>,
    slots: Arc<Semaphore>,
}

impl Programs {
    /// Takes the programs, a file of roots for servers of charts, and a folder of ours for the runs' own
    /// folders; what a killed agent left there is removed.
    ///
    /// # Errors
    /// When the folder cannot be made or emptied, or the file has no certificates.
    pub fn new(
        helm: Option<PathBuf>,
        kubectl: Option<PathBuf>,
        charts_ca_file: Option<&Path>,
        base: &Path,
    ) -> Result<Self, io::Error> {
        folder::empty(base)?;
        Ok(Self {
            helm,
            kubectl,
            base: base.to_owned(),
            roots: charts_ca_file.map_or_else(|| Ok(Vec::new()), registries::roots)?,
            slots: Arc::new(Semaphore::new(AT_A_TIME)),
        })
    }
}

/// Rendering and writing for one cluster.
#[derive(Debug)]
pub struct Rendering {
    programs: Programs,
    kubeconfig: PathBuf,
    context: Option<String>,
}

impl Rendering {
    /// Makes the adapter; nothing is read or run.
    #[must_use]
    pub const fn new(programs: Programs, kubeconfig: PathBuf, context: Option<String>) -> Self {
        Self {
            programs,
            kubeconfig,
            context,
        }
    }

    async fn run_kustomize(
        &self,
        files: &Files,
        folder: &str,
        time: Duration,
    ) -> Result<Vec<u8>, RenderError> {
        let program = need(self.programs.kubectl.as_ref(), KUBECTL)?;
        let place = self.folder(KUBECTL).await?;
        place.put("bundle", files).map_err(broken(KUBECTL))?;
        let child = Child {
            program,
            words: words(["kustomize", "--load-restrictor=LoadRestrictionsRootOnly"])
                .chain([path_word("bundle", folder)])
                .collect(),
            // Nothing remote gets as far as here; if it did, it would meet a closed port.
            environment: vec![
                ("HTTP_PROXY", "http://127.0.0.1:9".into()),
                ("HTTPS_PROXY", "http://127.0.0.1:9".into()),
            ],
            input: Input::Nothing,
            ending: Ending::Kill,
            time,
        };
        let ended = child.run(place.path()).await;
        said::output(KUBECTL, ended, place.path())
    }

    async fn run_template(
        &self,
        actor: &Actor,
        chart: &Chart,
        lookup: Lookup,
        time: Duration,
    ) -> Result<Vec<u8>, RenderError> {
        let place = self.folder(HELM).await?;
        let mut line = vec!["template".into(), chart.release.name.as_str().into()];
        line.extend(lay_out(chart, &place).map_err(broken(HELM))?);
        line.push(
            match lookup {
                Lookup::Cluster => "--dry-run=server",
                Lookup::Nothing => "--dry-run=client",
            }
            .into(),
        );
        line.push(
            match chart.crds {
                Crds::Install => "--include-crds",
                Crds::Skip => "--skip-crds",
            }
            .into(),
        );
        if chart.presence == Presence::Installed {
            line.push("--is-upgrade".into());
        }
        self.helm(actor, &place, line, Ending::Kill, time).await
    }

    async fn run_upgrade(
        &self,
        actor: &Actor,
        chart: &Chart,
        marks: &Marks,
        time: Duration,
    ) -> Result<(), RenderError> {
        let place = self.folder(HELM).await?;
        let mut line: Vec<OsString> = words(["upgrade", "--install", "--reset-values"]).collect();
        line.push(chart.release.name.as_str().into());
        line.extend(lay_out(chart, &place).map_err(broken(HELM))?);
        if chart.crds == Crds::Skip {
            line.push("--skip-crds".into());
        }
        let labels: Vec<String> = marks
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        line.push(format!("--labels={}", labels.join(",")).into());
        line.push(format!("--description={}", marks.description).into());
        line.extend(words(["--hide-notes", "--history-max=10"]));
        line.push(limit(time));
        self.helm(actor, &place, line, Ending::Ask, time)
            .await
            .map(drop)
    }

    async fn run_roll_back(
        &self,
        actor: &Actor,
        release: &Release,
        revision: u64,
        time: Duration,
    ) -> Result<(), RenderError> {
        let place = self.folder(HELM).await?;
        let mut line = vec!["rollback".into(), release.name.as_str().into()];
        line.extend([revision.to_string().into(), namespace(release)]);
        line.extend(words(["--history-max=10"]));
        line.push(limit(time));
        self.helm(actor, &place, line, Ending::Ask, time)
            .await
            .map(drop)
    }

    async fn run_manifest(
        &self,
        actor: &Actor,
        release: &Release,
        revision: u64,
        time: Duration,
    ) -> Result<Vec<u8>, RenderError> {
        let place = self.folder(HELM).await?;
        let mut line: Vec<OsString> = words(["get", "manifest"]).collect();
        line.extend([release.name.as_str().into(), namespace(release)]);
        line.push(format!("--revision={revision}").into());
        self.helm(actor, &place, line, Ending::Kill, time).await
    }

    /// Runs Helm as an actor.
    async fn helm(
        &self,
        actor: &Actor,
        place: &Folder,
        line: Vec<OsString>,
        ending: Ending,
        time: Duration,
    ) -> Result<Vec<u8>, RenderError> {
        let program = need(self.programs.helm.as_ref(), HELM)?;
        let kubeconfig = self.identity(actor).map_err(|reason| RenderError::Broken {
            program: HELM,
            reason,
        })?;
        let below = |name: &str| place.path().join(name).into_os_string();
        let child = Child {
            program,
            words: line,
            environment: vec![
                ("KUBECONFIG", kubeconfig::PATH.into()),
                ("HELM_DRIVER", "secret".into()),
                ("HELM_CACHE_HOME", below("cache")),
                ("HELM_CONFIG_HOME", below("config")),
                ("HELM_DATA_HOME", below("data")),
                ("HELM_PLUGINS", below("plugins")),
            ],
            input: Input::Standard(kubeconfig),
            ending,
            time,
        };
        let ended = child.run(place.path()).await;
        said::output(HELM, ended, place.path())
    }

    fn identity(&self, actor: &Actor) -> Result<File, String> {
        kubeconfig::of(&self.kubeconfig, self.context.as_deref(), actor)
    }

    async fn folder(&self, program: &'static str) -> Result<Folder, RenderError> {
        let slot = Arc::clone(&self.programs.slots).acquire_owned().await;
        let slot = slot.map_err(|error| RenderError::Broken {
            program,
            reason: error.to_string(),
        })?;
        Folder::new(&self.programs.base, slot).map_err(broken(program))
    }
}

fn need<'a>(program: Option<&'a PathBuf>, name: &'static str) -> Result<&'a PathBuf, RenderError> {
    program.ok_or(RenderError::Missing { program: name })
}

fn broken(program: &'static str) -> impl Fn(io::Error) -> RenderError {
    move |error| RenderError::Broken {
        program,
        reason: error.to_string(),
    }
}

fn words<const N: usize>(words: [&str; N]) -> impl Iterator<Item = OsString> {
    words.map(OsString::from).into_iter()
}

/// A path below a folder of the call; it never starts with a dash.
fn path_word(folder: &str, path: &str) -> OsString {
    Path::new(folder).join(path).into_os_string()
}

fn namespace(release: &Release) -> OsString {
    format!("--namespace={}", release.namespace).into()
}

/// Helm's own limit, a little below ours, so that it ends by itself and says why.
fn limit(time: Duration) -> OsString {
    let own = time.saturating_sub(Duration::from_secs(2));
    format!("--timeout={}s", own.as_secs().max(1)).into()
}

/// Writes chart and values into the folder; returns the words that name them. Values get names of
/// our own: Helm splits the names of values files at commas and fetches what looks like a URL.
fn lay_out(chart: &Chart, place: &Folder) -> Result<Vec<OsString>, io::Error> {
    place.put("bundle", &chart.files)?;
    let mut words = vec![path_word("bundle", &chart.chart), namespace(&chart.release)];
    let mut values = Files::new();
    for (number, path) in chart.values.iter().enumerate() {
        let content = chart.files.get(path).cloned().unwrap_or_default();
        values.insert(format!("{number}.yaml"), content);
        words.push(format!("--values=values/{number}.yaml").into());
    }
    values.insert("set.json".to_owned(), chart.set.to_string().into_bytes());
    words.push("--values=values/set.json".into());
    place.put("values", &values)?;
    match chart.hooks {
        Hooks::Run => {}
        Hooks::Skip => words.push("--no-hooks".into()),
    }
    Ok(words)
}

impl Renderer for Rendering {
    fn fetch<'a>(&'a self, chart: &'a ChartRef) -> BoxFuture<'a, Result<Fetched, ChartError>> {
        remote::fetch(chart, &self.programs.roots).boxed()
    }

    fn kustomize<'a>(
        &'a self,
        files: &'a Files,
        folder: &'a str,
        time: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, RenderError>> {
        self.run_kustomize(files, folder, time).boxed()
    }

    fn template<'a>(
        &'a self,
        actor: &'a Actor,
        chart: &'a Chart,
        lookup: Lookup,
        time: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, RenderError>> {
        self.run_template(actor, chart, lookup, time).boxed()
    }

    fn upgrade<'a>(
        &'a self,
        actor: &'a Actor,
        chart: &'a Chart,
        marks: &'a Marks,
        time: Duration,
    ) -> BoxFuture<'a, Result<(), RenderError>> {
        self.run_upgrade(actor, chart, marks, time).boxed()
    }

    fn roll_back<'a>(
        &'a self,
        actor: &'a Actor,
        release: &'a Release,
        revision: u64,
        time: Duration,
    ) -> BoxFuture<'a, Result<(), RenderError>> {
        self.run_roll_back(actor, release, revision, time).boxed()
    }

    fn manifest<'a>(
        &'a self,
        actor: &'a Actor,
        release: &'a Release,
        revision: u64,
        time: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, RenderError>> {
        self.run_manifest(actor, release, revision, time).boxed()
    }
}
