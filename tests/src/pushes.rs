//! Two writers who push to one branch at once, through the agent's own Git adapter, until each has pushed so often.
//!
//! Used by the scenario and by `cargo measure pushes`. Each writer is a process of its own (`stand pushes`, which is
//! also what the adapter's children become), with its own copy of the repository and its own permits, and takes the
//! same steps as a run: look, edit, push, edit anew. Invariant: afterwards the history is read commit by commit, and
//! every one of them holds what all before it say, byte for byte.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::config::GitPrograms;
use agent::git::Repositories;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use deploy::authorize;
use deploy::backoff::Patience;
use deploy::bundle::Bundle;
use deploy::fakes::Fakes;
use deploy::flux::land::Pusher;
use deploy::flux::scene;
use deploy::flux::scene::Scene;
use deploy::log::RunLog;
use deploy::policy::Policy;
use deploy::ports::GitLogin;
use deploy::ports::Ports;
use deploy::principal::Principal;
use deploy::principal::PrincipalKind;
use deploy::request;
use deploy::secret::Secret;
use futures::future::try_join_all;
use proto::report::Mode;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::stand::git::repository::Repository;
use crate::stand::layout::Facts;
use crate::stand::process;
use crate::stand::program;
use crate::world::World;

/// Longest that one writer may take.
const LONGEST: Duration = Duration::from_secs(600);
/// The writers, by the name of their image.
const WRITERS: [&str; 2] = ["one", "two"];

/// Where the writers write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Files {
    /// Each into its own file.
    Apart,
    /// Both into one file.
    Shared,
}

impl Files {
    fn word(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Shared => "shared",
        }
    }

    fn of(self, writer: &str) -> String {
        match self {
            Self::Apart => format!("apps/{writer}.yaml"),
            Self::Shared => "apps/both.yaml".to_owned(),
        }
    }

    /// Every file with the numbers that its writers have come to.
    fn contents(self, numbers: &BTreeMap<&str, usize>) -> BTreeMap<String, String> {
        let mut files = BTreeMap::<String, String>::new();
        for writer in WRITERS {
            let number = numbers.get(writer).copied().unwrap_or_default();
            let line = format!(
                "{writer}: 'registry.example.com/{writer}:{number}'   # {{\"$imagepolicy\": \"flux-system:{writer}\"}}\r\n"
            );
            let file = files.entry(self.of(writer));
            file.or_insert_with(|| "# Grüße\r\n".to_owned())
                .push_str(&line);
        }
        files
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Tally {
    /// How many commits were pushed.
    pub pushes: usize,
    /// How often a writer was late and edited anew.
    pub anew: usize,
    /// From look to pushed, of every push, the shortest first.
    pub times: Vec<Duration>,
    /// How long all of it took.
    pub whole: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |share: usize| {
            let found = self
                .times
                .get(self.times.len().saturating_sub(1) * share / 100);
            found.copied().unwrap_or_default().as_millis()
        };
        write!(
            f,
            "{} pushes in {:.1} s, all in the history, every byte right; {} edited anew; a push takes {} ms (half), {} ms \
             (95 of 100), {} ms (longest)",
            self.pushes,
            self.whole.as_secs_f64(),
            self.anew,
            at(50),
            at(95),
            at(100)
        )
    }
}

/// One writer, as its process is told.
#[derive(clap::Args)]
pub struct Orders {
    /// Folder of the stand.
    state: PathBuf,
    /// URL of the repository.
    repository: String,
    /// Name of the writer's image.
    writer: String,
    /// Where it writes.
    files: Files,
    /// How often.
    each: usize,
}

impl Orders {
    fn words(&self) -> [String; 6] {
        [
            "pushes".to_owned(),
            self.state.display().to_string(),
            self.repository.clone(),
            self.writer.clone(),
            self.files.word().to_owned(),
            self.each.to_string(),
        ]
    }
}

struct Writer {
    name: String,
    files: Files,
    repository: String,
    policy: Policy,
    ports: Ports,
    login: GitLogin,
    _state: tempfile::TempDir,
}

/// Lets both writers push `each` times to a new repository, and reads what is there afterwards.
///
/// # Errors
/// When a push fails or is lost, or a byte is not right.
pub async fn race(world: &World, files: Files, each: usize) -> Result<Tally> {
    let start = files.contents(&BTreeMap::new());
    let start: Vec<(&str, &str)> = start
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    let repository = world.fleet_repository(files.word(), &start).await?;
    let site = &world.stand.facts().site;
    let began = Instant::now();
    let writers = WRITERS.map(|writer| {
        let orders = Orders {
            state: site.dir.clone(),
            repository: repository.url(),
            writer: writer.to_owned(),
            files,
            each,
        };
        async move {
            let mut command = process::command(site, program()?);
            process::run_with(command.args(orders.words()), None, LONGEST).await
        }
    });
    let told = try_join_all(writers).await?;
    let whole = began.elapsed();
    let pushes = read_back(&repository, files, each).await?;
    let (mut anew, mut times) = (0, Vec::new());
    for line in told.iter().flat_map(|text| text.lines()) {
        let (late, time) = line.split_once(' ').context("two numbers")?;
        anew += late.parse::<usize>()?;
        times.push(Duration::from_micros(time.parse()?));
    }
    times.sort();
    Ok(Tally {
        pushes,
        anew,
        times,
        whole,
    })
}

/// Is one writer: prints how often it was late and the microseconds, for each push.
///
/// # Errors
/// When a push fails.
pub async fn write(orders: &Orders, told: impl Fn(String)) -> Result<()> {
    let writer = Writer::new(orders)?;
    for number in 1..=orders.each {
        let began = Instant::now();
        let anew = writer.push(number).await?;
        told(format!("{anew} {}", began.elapsed().as_micros()));
    }
    Ok(())
}

impl Writer {
    fn new(orders: &Orders) -> Result<Self> {
        let account = Facts::read(&orders.state)?.git_accounts.writer;
        let policy = format!(
            "version = 1\n[[rule]]\nid = \"race\"\n[rule.match]\nproject_id = 42\n[rule.cluster.race]\n\
             namespaces = [\"race\"]\nrequire_digest = false\nverbs = [\"apply\", \"commit\", \"reconcile\"]\n\
             [[rule.cluster.race.flux]]\nrepositories = [\"{}\"]\nbranches = [\"main\"]\nfiles = [\"apps/*\"]\n\
             objects = [\"flux-system/*\"]\n",
            orders.repository
        );
        let state = tempfile::tempdir()?;
        let programs = GitPrograms {
            program: Some("/usr/bin/git".into()),
            ssh_folder: None,
            ca_file: None,
        };
        let git = Repositories::new(programs, state.path())?;
        Ok(Self {
            name: orders.writer.clone(),
            files: orders.files,
            repository: orders.repository.clone(),
            policy: Policy::parse(&policy).map_err(|error| anyhow::anyhow!("{error:?}"))?,
            ports: Ports {
                git: Arc::new(git),
                ..Fakes::default().ports()
            },
            login: GitLogin::Password {
                user: account.name,
                password: Secret::from_text(account.password),
            },
            _state: state,
        })
    }

    /// Pushes one number; returns how often it was edited anew.
    async fn push(&self, number: usize) -> Result<usize> {
        let name = self.name.as_str();
        let spec = format!(
            "version: 1\nname: {name}\nflux:\n  repository: {}\n  path: {}\n  sources: fleet\n  \
             wait: {{ kustomizations: [app] }}\nimages: {{ {name}: \"registry.example.com/{name}:{number}\" }}\n",
            self.repository,
            self.files.of(name)
        );
        let bundle = Bundle {
            files: BTreeMap::from([("quaymaster.yaml".to_owned(), spec.into_bytes())]),
        };
        let request =
            request::read(&bundle, Mode::Deploy).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let claims = [
            ("project_id", "42"),
            ("job_project_id", "42"),
            ("job_id", "7"),
            ("namespace_id", "3"),
        ];
        let claims = claims.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let job = Principal::unchecked(PrincipalKind::GitlabJob, claims.into());
        let permit = authorize::authorize(&self.policy, job, request, &[], "race")
            .map_err(|denial| anyhow::anyhow!("{denial:?}"))?;
        let flux = permit.request().spec.flux.as_deref().context("a flux")?;
        let log = RunLog::new(Arc::clone(&self.ports.clock));
        let stop = CancellationToken::new();
        let patience = Patience {
            deadline: Instant::now() + LONGEST,
            stop: &stop,
            log: &log,
            seed: number as u64 * 2 + u64::from(name == WRITERS[0]),
        };
        let (tip, edited) = scene::edit(&permit, flux, &self.login, &self.ports, &patience).await?;
        let scene = Scene {
            tip,
            edited,
            notes: Vec::new(),
        };
        let pusher = Pusher {
            permit: &permit,
            flux,
            login: &self.login,
            ports: &self.ports,
        };
        let message = format!("{name} {number}");
        let landed = pusher.push(scene, &message, &patience).await?;
        ensure!(
            landed.before.is_some(),
            "{message}: there was nothing to push"
        );
        let events = log.since(0);
        let anew = events
            .iter()
            .filter(|event| format!("{:?}", event.body).contains("editing what is there now"));
        Ok(anew.count())
    }
}

/// Reads the history from its beginning: every push is there once, and every commit holds what it has to.
async fn read_back(repository: &Repository, files: Files, each: usize) -> Result<usize> {
    let mut lines = repository.log_as("main", "%H %s").await?;
    lines.reverse();
    let mut numbers = BTreeMap::<&str, usize>::new();
    for line in &lines[1..] {
        let mut words = line.split(' ');
        let commit = words.next().context("a commit")?;
        let writer = words.next().context("a writer")?;
        let number: usize = words.next().context("a number")?.parse()?;
        let last = numbers.entry(writer).or_default();
        ensure!(number == *last + 1, "{line} comes after {last}");
        *last = number;
        for (path, text) in files.contents(&numbers) {
            let stored = repository.file_at(commit, &path).await?;
            ensure!(stored == text.as_bytes(), "{path} at {line} is not right");
        }
    }
    let all = WRITERS.map(|writer| numbers.get(writer).copied().unwrap_or_default());
    ensure!(
        all == [each, each],
        "pushes that are in the history: {all:?}"
    );
    Ok(lines.len() - 1)
}
