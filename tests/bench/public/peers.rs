//! What kubectl and Helm do with the same set, and how the cluster becomes as it was.
//!
//! Called by [`super`]. Everything is done with all rights. Invariant: after [`Peers::clear`] nothing of the set
//! is in the cluster, whoever wrote it.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use deploy::object::Object;
use tests::wait::Look;
use tests::wait::until;
use tests::world::World;
use tokio::process::Command;
use tokio::time::Instant;

use super::Form;
use super::Set;
use super::Tools;
use super::sets::run;

/// Kinds that stand in the way of the rest when what they name is not there.
const GATES: [&str; 3] = [
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
    "APIService",
];
/// Longest that the objects of a set may take to go.
const GOES: Duration = Duration::from_secs(180);

/// How others did.
pub(super) type Theirs = Result<Duration, String>;

/// Others, with one set.
pub(super) struct Peers<'a> {
    world: &'a World,
    tools: &'a Tools,
    set: &'a Set,
    dir: &'a Path,
    file: PathBuf,
    /// With all rights, and the world's namespace for what names none.
    kubeconfig: PathBuf,
    /// `KIND/NAME` of what has to go first.
    gates: Vec<String>,
}

impl<'a> Peers<'a> {
    /// Writes what they apply to a file.
    pub(super) async fn new(
        world: &'a World,
        tools: &'a Tools,
        set: &'a Set,
        dir: &'a Path,
        rendered: &str,
        objects: &[Object],
    ) -> Result<Self> {
        let file = dir.join("all.yaml");
        fs::write(&file, rendered)?;
        let kubeconfig = dir.join("kubeconfig");
        fs::copy(&world.stand.facts().kubeconfig_admin, &kubeconfig)?;
        let words = ["config", "set-context", "--current", "--namespace"];
        let mut command = Command::new(&tools.kubectl);
        command.args(words).arg(&world.namespace);
        run(command.env("KUBECONFIG", &kubeconfig)).await?;
        let gates = objects
            .iter()
            .filter(|object| GATES.contains(&object.id.gvk.kind.as_str()));
        let gates = gates.map(|object| format!("{}/{}", object.id.gvk.kind, object.id.name));
        Ok(Self {
            world,
            tools,
            set,
            dir,
            file,
            kubeconfig,
            gates: gates.collect(),
        })
    }

    /// Makes the namespaces that the set expects to be there.
    pub(super) async fn namespaces(&self, objects: &[Object]) -> Result<()> {
        let made = |name: &str| {
            let mut all = objects.iter();
            all.any(|object| object.id.gvk.is("", "Namespace") && object.id.name == name)
        };
        let mut names: Vec<&str> = objects
            .iter()
            .filter_map(|o| o.id.namespace.as_deref())
            .collect();
        names.sort_unstable();
        names.dedup();
        for name in names.into_iter().filter(|name| !made(name)) {
            // It may be there already.
            drop(
                self.world
                    .stand
                    .kubectl(&["create", "namespace", name])
                    .await,
            );
        }
        Ok(())
    }

    fn kubectl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.tools.kubectl);
        command
            .args(words)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.dir);
        command
    }

    /// Applies the set by kubectl.
    pub(super) async fn apply(&self, words: &[&str]) -> Theirs {
        let began = Instant::now();
        let mut command = self.kubectl(&["apply"]);
        match run(command.args(words).arg("-f").arg(&self.file)).await {
            Ok(_) => Ok(began.elapsed()),
            Err(error) => Err(self.told(&format!("{error:#}"))),
        }
    }

    /// Installs or upgrades the set by Helm: its own chart, or one of its objects.
    pub(super) async fn helm(&self) -> Theirs {
        let chart = match self.set.form {
            Form::Helm => self.dir.join("source").join(self.set.entry()),
            Form::Kustomize | Form::Manifests => {
                self.wrapped().map_err(|error| format!("{error:#}"))?
            }
        };
        let began = Instant::now();
        let mut command = Command::new(&self.tools.helm);
        command
            .args(["upgrade", "--install", &self.set.name])
            .arg(chart)
            .args(["-n", &self.world.namespace])
            .args(self.set.words())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.dir);
        match run(&mut command).await {
            Ok(_) => Ok(began.elapsed()),
            Err(error) => Err(self.told(&format!("{error:#}"))),
        }
    }

    /// Makes a chart of the set's objects.
    fn wrapped(&self) -> Result<PathBuf> {
        let chart = self.dir.join("wrapped");
        fs::create_dir_all(chart.join("templates"))?;
        let head = format!("apiVersion: v2\nname: {}\nversion: 0.1.0\n", self.set.name);
        fs::write(chart.join("Chart.yaml"), head)?;
        fs::copy(&self.file, chart.join("all.yaml"))?;
        let template = "{{ .Files.Get \"all.yaml\" }}\n";
        fs::write(chart.join("templates/all.yaml"), template)?;
        Ok(chart)
    }

    /// The first line of what a program said, without our folders.
    fn told(&self, said: &str) -> String {
        let said = said.replace(&self.dir.display().to_string(), "");
        let mut lines = said.lines().filter(|line| {
            !line.trim().is_empty() && !line.starts_with("Warning:") && !line.starts_with("level=")
        });
        let first: String = lines
            .next()
            .unwrap_or("nothing")
            .chars()
            .take(220)
            .collect();
        match lines.count() {
            0 => first,
            more => format!("{first} (and {more} more lines)"),
        }
    }

    /// Takes everything of the set out of the cluster.
    pub(super) async fn clear(&self) -> Result<()> {
        let stand = self.world.stand;
        for gate in &self.gates {
            stand
                .kubectl(&["delete", gate, "--ignore-not-found"])
                .await?;
        }
        let words = ["delete", "--ignore-not-found", "--wait=false", "-f"];
        // A kind that goes with its definition is a complaint here, and no harm.
        drop(run(self.kubectl(&words).arg(&self.file)).await);
        until("the set to be gone", GOES, async || {
            let words = ["get", "--ignore-not-found", "-o", "name", "-f"];
            match self.kubectl(&words).arg(&self.file).output().await {
                Ok(output) if output.stdout.is_empty() => Look::Ready(()),
                Ok(output) => Look::NotYet(String::from_utf8_lossy(&output.stdout).into_owned()),
                Err(error) => Look::Hopeless(error.into()),
            }
        })
        .await?;
        for kind in [
            "secrets",
            "configmaps",
            "jobs,pods,roles,rolebindings,serviceaccounts",
        ] {
            let words = ["delete", kind, "--all"];
            run(&mut self.kubectl(&words)).await?;
        }
        stand
            .grant_project(&self.world.namespace, &self.world.project)
            .await
    }
}
