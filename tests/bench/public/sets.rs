//! The sets of `cargo measure public`: the list, getting one by git, and what Helm or kubectl make of it.
//!
//! Called by [`super`]. The list names repositories, commits and folders; nothing of what they hold is kept in
//! this repository. Invariant: everything that is fetched lies in a folder that the caller removes.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use tokio::process::Command;

/// How a set is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A chart.
    Helm,
    /// A kustomization.
    Kustomize,
    /// Files.
    Manifests,
}

impl Form {
    /// Returns the word of the list.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Helm => "helm",
            Self::Kustomize => "kustomize",
            Self::Manifests => "manifests",
        }
    }
}

/// One line of the list.
pub(super) struct Set {
    /// What the app is called.
    pub(super) name: String,
    /// How it is written.
    pub(super) form: Form,
    repository: String,
    commit: String,
    /// The folder, or file, that is taken.
    folder: String,
    /// What is deployed of it, as a path below `folder`.
    entry: Option<String>,
    /// Values of a chart.
    pub(super) settings: Vec<(String, String)>,
}

/// Reads the list.
pub(super) fn list() -> Result<Vec<Set>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/public.txt");
    let text = fs::read_to_string(path)?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(set).collect()
}

fn set(line: &str) -> Result<Set> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, form, repository, commit, place, settings @ ..] = &words[..] else {
        bail!("five words are needed: {line}");
    };
    let (folder, entry) = match place.split_once(':') {
        Some((folder, entry)) => (folder, Some(entry.to_owned())),
        None => (*place, None),
    };
    let setting = |word: &&str| {
        let (key, value) = word.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    Ok(Set {
        name: (*name).to_owned(),
        form: match *form {
            "helm" => Form::Helm,
            "kustomize" => Form::Kustomize,
            "manifests" => Form::Manifests,
            other => bail!("no form: {other}"),
        },
        repository: (*repository).to_owned(),
        commit: (*commit).to_owned(),
        folder: folder.to_owned(),
        entry,
        settings: settings.iter().filter_map(setting).collect(),
    })
}

/// Runs a program and returns what it printed.
pub(super) async fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    Ok(output.stdout)
}

impl Set {
    /// Gets the set by git from below `from`, an address or a folder of repositories; it lies in `into` then.
    pub(super) async fn fetch(&self, from: &str, into: &Path) -> Result<()> {
        let source = into.join("source");
        fs::create_dir_all(&source)?;
        let there = format!("{from}/{}", self.repository);
        let repository = if Path::new(&there).is_dir() {
            PathBuf::from(there)
        } else {
            let own = into.join("git");
            run(Command::new("git").args(["init", "-q", "--bare"]).arg(&own)).await?;
            let words = ["fetch", "-q", "--depth", "1", &there, &self.commit];
            run(Command::new("git").arg("-C").arg(&own).args(words)).await?;
            own
        };
        let archive = into.join("set.tar");
        let words = ["archive", &self.commit, "-o"];
        let mut git = Command::new("git");
        git.arg("-C").arg(repository).args(words);
        run(git.arg(&archive).arg(&self.folder)).await?;
        run(Command::new("tar")
            .arg("-C")
            .arg(&source)
            .arg("-xf")
            .arg(&archive))
        .await?;
        Ok(())
    }

    /// What is deployed, below the folder of sources.
    pub(super) fn entry(&self) -> String {
        match &self.entry {
            Some(entry) => format!("{}/{entry}", self.folder),
            None => self.folder.clone(),
        }
    }

    /// The files of a bundle without its spec; what is no text, such as pictures, is left out.
    pub(super) fn files(&self, into: &Path) -> Result<Vec<(String, String)>> {
        let source = into.join("source");
        let start = match self.form {
            Form::Manifests => source.join(self.entry()),
            Form::Helm | Form::Kustomize => source.join(&self.folder),
        };
        let (mut files, mut rest) = (Vec::new(), vec![start]);
        while let Some(path) = rest.pop() {
            if path.is_dir() {
                for entry in fs::read_dir(&path)? {
                    rest.push(entry?.path());
                }
            } else if let Ok(text) = String::from_utf8(fs::read(&path)?) {
                let name = path.strip_prefix(&source)?;
                files.push((name.to_str().context("a plain path")?.to_owned(), text));
            }
        }
        files.sort();
        Ok(files)
    }

    /// The field of the spec that names the set.
    pub(super) fn spec(&self) -> String {
        let entry = self.entry();
        match self.form {
            Form::Manifests => format!("manifests: [{entry}]\n"),
            Form::Kustomize => format!("kustomize: {entry}\n"),
            Form::Helm => {
                let set: String = (self.settings.iter())
                    .map(|(key, value)| format!("    {key}: {value}\n"))
                    .collect();
                let set = if set.is_empty() {
                    set
                } else {
                    format!("  set:\n{set}")
                };
                format!("helm:\n  chart: {entry}\n{set}")
            }
        }
    }

    /// Everything that is in the set, as one text; `more` are more words for Helm.
    pub(super) async fn rendered(
        &self,
        into: &Path,
        tools: &Tools,
        namespace: &str,
        more: &[&str],
    ) -> Result<String> {
        let source = into.join("source");
        let entry = source.join(self.entry());
        let text = match self.form {
            Form::Manifests => {
                let files = self.files(into)?;
                let files = files
                    .into_iter()
                    .filter(|(name, _)| name.ends_with(".yaml"));
                return Ok(files.map(|(_, text)| text + "\n---\n").collect());
            }
            Form::Kustomize => {
                run(Command::new(&tools.kubectl).arg("kustomize").arg(entry)).await?
            }
            Form::Helm => {
                let mut helm = Command::new(&tools.helm);
                helm.args(["template", &self.name]).arg(entry);
                helm.args(["--include-crds", "-n", namespace]).args(more);
                run(helm
                    .args(self.words())
                    .env("HOME", into)
                    .env("KUBECONFIG", "/dev/null"))
                .await?
            }
        };
        Ok(String::from_utf8(text)?)
    }

    /// The settings as words for Helm.
    pub(super) fn words(&self) -> Vec<String> {
        let set = |(key, value): &(String, String)| format!("--set={key}={value}");
        self.settings.iter().map(set).collect()
    }
}

/// The programs of others.
pub(super) struct Tools {
    /// Helm.
    pub(super) helm: PathBuf,
    /// kubectl.
    pub(super) kubectl: PathBuf,
}
