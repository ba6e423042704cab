//! Pipelines: a project with a `.gitlab-ci.yml`, run by a real executor (gitlab-ci-local) beside a world's agent.
//!
//! Scenarios make a [`Pipeline`] of files, which become a Git repository, and run it or single jobs of it. Jobs run in
//! a shell inside the stand, or each in a container of its image; both reach the stand's registry, and the world's
//! folder of jobs is where a runner mounts it. The environment is empty but for what is set here. The executor knows no
//! `id_tokens`: the token is a variable, as every other that GitLab keeps for one environment. Invariant: everything is
//! below the world's folder and goes with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use tokio::process::Command;

use crate::stand::docker;
use crate::stand::docker::Docker;
use crate::stand::image;
use crate::stand::process;
use crate::world::World;
use crate::world::programs;

/// Longest that a pipeline may take.
const RUN: Duration = Duration::from_secs(900);

/// Where the runner mounts the folder of the socket and the client.
const MOUNT: &str = "/run/quaymaster/jobs";
/// Mounts that folder where jobs run in a shell, and then runs the executor in a folder.
const ENTER: &str =
    r#"mkdir -p "$1" && mount --bind "$2" "$1" && cd "$3" && shift 3 && exec "$@" 2>&1"#;

/// Why a pipeline runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Somebody pushed to the default branch.
    Push,
    /// A merge request, by its number.
    MergeRequest(u32),
}

/// A variable of the project, as GitLab's settings have it.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Which environments get it: a name, or a prefix with `*`.
    pub environment: String,
    /// What it says.
    pub value: String,
}

impl Variable {
    /// A variable of one environment, or with `*` of several.
    #[must_use]
    pub fn of(environment: &str, name: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            environment: environment.to_owned(),
            value: value.to_owned(),
        }
    }
}

/// What became of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub log: String,
}

/// What became of a pipeline.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The jobs that ran, by name.
    pub jobs: BTreeMap<String, Job>,
    /// Everything that the executor printed.
    pub said: String,
}

impl Ran {
    /// A job that has to have run.
    ///
    /// # Errors
    /// When it did not; with what the executor said.
    pub fn job(&self, name: &str) -> Result<&Job> {
        let found = self.jobs.get(name);
        found.with_context(|| format!("job {name} did not run:\n{}", self.said))
    }

    /// Names of the jobs that ran and ended well, in alphabetical order.
    #[must_use]
    pub fn passed(&self) -> Vec<&str> {
        let passed = self.jobs.iter().filter(|(_, job)| job.code == 0);
        passed.map(|(name, _)| name.as_str()).collect()
    }
}

/// A project whose pipelines run beside a world's agent.
pub struct Pipeline<'w> {
    world: &'w World,
    project: PathBuf,
    home: PathBuf,
    /// The engine whose containers run the jobs; unset where they run in a shell.
    docker: Option<Docker>,
}

impl<'w> Pipeline<'w> {
    /// Makes a project with one commit of `files` (path and content) on its default branch.
    ///
    /// # Errors
    /// When Git fails, or the client does not build.
    pub async fn new(world: &'w World, files: &BTreeMap<String, String>) -> Result<Self> {
        let made = Self {
            world,
            project: world.dir().join("pipeline/project"),
            home: world.dir().join("pipeline/home"),
            docker: None,
        };
        fs::create_dir_all(made.home.join("tmp"))?;
        fs::create_dir_all(&made.project)?;
        made.git(&["init", "--quiet", "--initial-branch=main"])
            .await?;
        let origin = "https://gitlab.example.com/team/flask.git";
        made.git(&["remote", "add", "origin", origin]).await?;
        // GitLab has nothing of the executor's own state in a checkout.
        fs::write(made.project.join(".git/info/exclude"), ".gitlab-ci-local\n")?;
        made.commit(files).await?;
        made.furnish()?;
        let jobs = made.jobs()?;
        fs::copy(&programs().await?.client, jobs.join("quaymaster"))?;
        Ok(made)
    }

    /// Runs each job in a container of its image from now on, as a runner's docker executor does.
    ///
    /// # Errors
    /// When the engine does not start or an image cannot be made.
    pub async fn in_containers(mut self) -> Result<Self> {
        // The executor comes with rsync, which the image of its helper has too.
        drop(self.world.stand.executor().await?);
        let docker = self.world.stand.docker().await?;
        docker.pipeline_images().await?;
        // Nothing of the machine is in the jobs' image, so the client has to bring all that it needs.
        let client = crate::stand::agent::build_static_client().await?;
        fs::copy(client, self.jobs()?.join("quaymaster"))?;
        self.docker = Some(docker);
        Ok(self)
    }

    /// Commits these files (path and content).
    ///
    /// # Errors
    /// When Git fails.
    pub async fn commit(&self, files: &BTreeMap<String, String>) -> Result<()> {
        for (name, text) in files {
            let path = self.project.join(name);
            fs::create_dir_all(path.parent().context("files lie in a folder")?)?;
            fs::write(path, text)?;
        }
        self.git(&["add", "--all"]).await?;
        let who = ["-c", "user.name=mara", "-c", "user.email=mara@example.com"];
        let words = [&who[..], &["commit", "--quiet", "--message=Change"]].concat();
        self.git(&words).await.map(drop)
    }

    /// Everything that Git has of the project: all commits with their changes.
    ///
    /// # Errors
    /// When Git fails.
    pub async fn history(&self) -> Result<String> {
        self.git(&["log", "--all", "--patch"]).await
    }

    /// The folder in which the executor keeps checkouts, logs and artifacts of the jobs.
    #[must_use]
    pub fn kept(&self) -> PathBuf {
        self.project.join(".gitlab-ci-local")
    }

    /// Runs the pipeline, or only the jobs that are named, whether they are manual or not.
    ///
    /// # Errors
    /// When the executor cannot be had or refuses the file; a job that fails is no error.
    pub async fn run(
        &self,
        trigger: Trigger,
        jobs: &[&str],
        variables: &[Variable],
    ) -> Result<Ran> {
        let stand = self.world.stand;
        let executor = stand.executor().await?;
        self.write_variables(variables)?;
        let mut command = stand.inside("unshare");
        command
            .args(["--mount", "--", "sh", "-c", ENTER, "sh", MOUNT])
            .arg(self.jobs()?)
            .arg(&self.project)
            .arg(&executor.node)
            .arg(&executor.script);
        self.dress(&mut command);
        match &self.docker {
            Some(docker) => self.contain(&mut command, docker)?,
            None => {
                command.args(["--force-shell-executor", "--shell-isolation"]);
            }
        }
        for (name, value) in self.predefined(trigger) {
            command.arg(format!("--variable={name}={value}"));
        }
        if trigger != Trigger::Push {
            // Pipelines of merge requests have no branch.
            command.arg("--unset-variable=CI_COMMIT_BRANCH");
        }
        command.args(jobs).kill_on_drop(true);
        let output = tokio::time::timeout(RUN, command.output())
            .await
            .context("the pipeline took too long")??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let jobs = read(&said);
        ensure!(!jobs.is_empty(), "no job ran: {said}");
        Ok(Ran { jobs, said })
    }

    /// What a runner's `config.toml` says of its containers.
    fn contain(&self, command: &mut Command, docker: &Docker) -> Result<()> {
        command
            .env("DOCKER_HOST", docker.address())
            .arg(format!("--container-executable={}", docker::CLIENT))
            .arg(format!("--helper-image={}", docker::HELPER))
            .arg("--pull-policy=if-not-present")
            .arg(format!("--volume={}:{MOUNT}:ro", self.jobs()?.display()))
            .arg("--network=none");
        Ok(())
    }

    /// What GitLab and the runner say in every job.
    fn predefined(&self, trigger: Trigger) -> Vec<(&'static str, String)> {
        let registry = &self.world.stand.facts().registry;
        let mut all = vec![
            ("GITLAB_CI", "true".to_owned()),
            ("CI_DEFAULT_BRANCH", "main".to_owned()),
            ("CI_REGISTRY", registry.clone()),
            (
                "CI_REGISTRY_IMAGE",
                format!("{registry}/team/{}", self.world.role),
            ),
            ("CI_REGISTRY_USER", "gitlab-ci-token".to_owned()),
            ("CI_REGISTRY_PASSWORD", "glcbt-64_of-the-job".to_owned()),
        ];
        if let Trigger::MergeRequest(number) = trigger {
            all.push(("CI_PIPELINE_SOURCE", "merge_request_event".to_owned()));
            all.push(("CI_MERGE_REQUEST_IID", number.to_string()));
        }
        all
    }

    /// Where buildah finds images, as its `registries.conf` says it.
    fn registries(&self) -> String {
        let registry = &self.world.stand.facts().registry;
        // The stand's registry stands in for Docker Hub, which cannot be reached from here.
        format!(
            r#"unqualified-search-registries = ["docker.io"]
[[registry]]
location = "{registry}"
insecure = true
[[registry]]
prefix = "docker.io/library"
location = "{registry}"
insecure = true
"#
        )
    }

    /// What the runner's machine has: where buildah finds images, and keeps its own.
    fn furnish(&self) -> Result<()> {
        let config = self.home.join(".config/containers");
        fs::create_dir_all(&config)?;
        fs::write(config.join("registries.conf"), self.registries())?;
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{home}/images\"\nrunroot = \"{home}/images-run\"\n",
            home = self.home.display()
        );
        fs::write(self.home.join("storage.conf"), storage)?;
        fs::write(self.home.join("auth.json"), "{}")?;
        Ok(())
    }

    fn dress(&self, command: &mut Command) {
        let home = &self.home;
        command
            .env_clear()
            .env("PATH", process::PATH)
            .env("LANG", "C.UTF-8")
            .env("HOME", home)
            .env("TMPDIR", home.join("tmp"))
            .env("CONTAINERS_STORAGE_CONF", home.join("storage.conf"))
            .env("REGISTRY_AUTH_FILE", home.join("auth.json"));
    }

    /// The executor reads the project's variables from a file in its home.
    fn write_variables(&self, variables: &[Variable]) -> Result<()> {
        let mut all: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        for variable in variables {
            let values = all.entry(&variable.name).or_default();
            values.insert(variable.environment.clone(), json!(variable.value));
        }
        let all: Map<String, Value> = all
            .into_iter()
            .map(|(name, values)| {
                let variable = json!({ "type": "variable", "values": values });
                (name.to_owned(), variable)
            })
            .collect();
        let dir = self.home.join(".gitlab-ci-local");
        fs::create_dir_all(&dir)?;
        // JSON is YAML.
        fs::write(
            dir.join("variables.yml"),
            json!({ "global": all }).to_string(),
        )?;
        Ok(())
    }

    fn jobs(&self) -> Result<PathBuf> {
        let socket = self.world.socket();
        let dir = socket.parent().map(Path::to_owned);
        dir.context("the socket lies in a folder")
    }

    async fn git(&self, words: &[&str]) -> Result<String> {
        let mut git = process::command(&self.world.stand.facts().site, "git");
        process::run(git.current_dir(&self.project).args(words)).await
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        // Images are large, and worlds live until their scenario ends.
        drop(fs::remove_dir_all(self.home.join("images")));
    }
}

/// Pushes the image that the examples are built on, where their short name for it is found.
///
/// # Errors
/// When it cannot be made.
pub async fn push_base_image(world: &World) -> Result<()> {
    let facts = world.stand.facts();
    image::push_python(&facts.site, &facts.registry_addr)
        .await
        .map(drop)
}

/// Reads what the executor printed: which jobs ran, how they ended and what each of them said.
fn read(said: &str) -> BTreeMap<String, Job> {
    // The image and the stage follow; a job may print the same word.
    let names = said.lines().filter_map(|line| {
        let (name, rest) = line.split_once(" starting ")?;
        let name = name.trim();
        let started = rest.ends_with(')') && !name.ends_with('>') && !name.contains(" > ");
        started.then(|| name.to_owned())
    });
    let mut jobs: BTreeMap<String, Job> = names.map(|name| (name, Job::default())).collect();
    for line in said.lines() {
        let rest = |name: &str| Some(line.strip_prefix(name)?.strip_prefix(' ')?.trim_start());
        let Some((job, rest)) = jobs
            .iter_mut()
            .find_map(|(name, job)| Some((job, rest(name)?)))
        else {
            continue;
        };
        if let Some(text) = rest.strip_prefix('>').or_else(|| rest.strip_prefix('$')) {
            job.log.push_str(text.strip_prefix(' ').unwrap_or(text));
            job.log.push('\n');
        } else if rest.starts_with("finished in ") {
            let words: Vec<&str> = rest.split_whitespace().collect();
            if let [.., "FAIL" | "WARN", code] = words[..] {
                job.code = code.parse().unwrap_or(-1);
            }
        }
    }
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_read_with_their_codes_and_their_own_lines() {
        let said = "build       starting shell (build)\n\
            build       $ make it\n\
            build       > made\n\
            build       > daemon starting up (as ever)\n\
            build       finished in 332 ms\n\
            stop review starting busybox:latest (review)\n\
            stop review > gone\n\
            build       exported artifacts in 236 ms\n\
            stop review finished in 549 ms  FAIL 11 \n\
            \n PASS  build      \n FAIL  stop review\n  > gone\n";
        let jobs = read(said);
        assert_eq!(jobs.len(), 2);
        assert_eq!(
            jobs["build"],
            Job {
                code: 0,
                log: "make it\nmade\ndaemon starting up (as ever)\n".to_owned()
            }
        );
        assert_eq!(
            jobs["stop review"],
            Job {
                code: 11,
                log: "gone\n".to_owned()
            }
        );
    }
}
