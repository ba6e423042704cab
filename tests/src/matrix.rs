//! The fault matrix of rotations: what a fault in a phase may do to a Secret, and what it did.
//!
//! A [`Site`] is a world with one Secret `app-db` that is kept fresh; [`Site::play`] plays one cell on it and
//! leaves it fresh for the next one. At every look the Secret has to be whole; who is in it has to be able to
//! log in to PostgreSQL; users are counted in PostgreSQL. Invariant: a row says what happened, also where
//! that was promised otherwise.

mod seen;

use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::json;
use tokio::time::Instant;

use self::seen::Door;
pub use self::seen::Seen;
use crate::faults::Fault;
use crate::wait::Look;
use crate::wait::until;
use crate::world::World;

/// How long everything may take to be right again once a fault is over.
const RIGHT: Duration = Duration::from_secs(40);
/// How long a fault may take to be met.
const MET: Duration = Duration::from_secs(30);
/// Longest that the agent waits for an answer of Vault here.
const PATIENCE: &str = "timeout = \"2s\"\n";

/// What is going on when a fault comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing but the look for new versions.
    Check,
    /// A token is made for a new credential.
    Intent,
    /// A new credential is issued.
    Issue,
    /// A credential is extended.
    Renew,
    /// The new values are written to Kubernetes.
    Write,
    /// What uses the Secret is restarted.
    Restart,
    /// The credential of before is ended.
    Revoke,
}

impl Phase {
    /// What the first line of the requests of this phase has in it.
    const fn part(self) -> &'static str {
        match self {
            Self::Check => " /v1/",
            Self::Intent => "/v1/auth/token/create",
            Self::Issue => "/v1/database/creds/",
            Self::Renew => "/v1/sys/leases/renew",
            Self::Write => {
                "/secrets/app-db?fieldManager=quaymaster&fieldValidation=Strict&force=false HTTP"
            }
            Self::Restart => "PATCH /apis/apps/v1/namespaces/",
            Self::Revoke => "/v1/auth/token/revoke-accessor",
        }
    }

    /// In words.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Check => "idle, versions checked",
            Self::Intent => "token for a new credential",
            Self::Issue => "issue of a new credential",
            Self::Renew => "renewal",
            Self::Write => "write to Kubernetes",
            Self::Restart => "restart and watch",
            Self::Revoke => "revoke of the old",
        }
    }

    /// Says whether the daemon is asked to change the Secret, so that the phase comes.
    const fn is_of_a_change(self) -> bool {
        match self {
            Self::Check | Self::Renew => false,
            Self::Intent | Self::Issue | Self::Write | Self::Restart | Self::Revoke => true,
        }
    }

    const fn is_of_kubernetes(self) -> bool {
        match self {
            Self::Write | Self::Restart => true,
            Self::Check | Self::Intent | Self::Issue | Self::Renew | Self::Revoke => false,
        }
    }
}

/// How long a fault is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    /// Until so many requests met it.
    Met(usize),
    /// Until the Secret was changed once.
    Changed,
    /// Until the agent, which is killed when one request met it, is started again.
    Killed,
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// How often the values in the Secret change, at least and at most.
    pub changes: (u64, u64),
    /// How many credentials are issued at most.
    pub issued: usize,
    /// How many are alive at most while the fault is on.
    pub alive: usize,
}

impl Promise {
    /// Nothing changes.
    pub const STAYS: Self = Self {
        changes: (0, 0),
        issued: 0,
        alive: 1,
    };
    /// A version that comes while the fault is on is taken, and the credential stays.
    pub const VERSION: Self = Self {
        changes: (1, 1),
        issued: 0,
        alive: 1,
    };
    /// One change, with one credential; the one of before lives until then.
    pub const ONE: Self = Self {
        changes: (1, 1),
        issued: 1,
        alive: 2,
    };
    /// One change; a credential whose answer was lost is issued once more, and ended.
    pub const ONE_OF_TWO: Self = Self {
        changes: (1, 1),
        issued: 2,
        alive: 2,
    };
    /// One change or none, with at most this many credentials.
    #[must_use]
    pub const fn at_most_one(issued: usize) -> Self {
        Self {
            changes: (0, 1),
            issued,
            alive: 2,
        }
    }

    /// In words.
    #[must_use]
    pub fn words(self) -> String {
        let (least, most) = self.changes;
        let changes = if least == most {
            format!("{least}")
        } else {
            format!("{least}-{most}")
        };
        format!(
            "changes {changes}, issued <= {}, alive <= {} then 1",
            self.issued, self.alive
        )
    }
}

/// One cell.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The fault, in words.
    pub name: &'static str,
    /// When it comes.
    pub phase: Phase,
    /// What it is.
    pub fault: Fault,
    /// How long it is on.
    pub lasts: Lasts,
    /// What may happen.
    pub promise: Promise,
}

/// What became of a cell.
#[derive(Debug)]
pub struct Row {
    /// The fault.
    pub name: String,
    /// The phase.
    pub phase: String,
    /// What was promised.
    pub promised: String,
    /// What happened; an error where that was something else.
    pub happened: Result<String>,
    /// How long the cell took.
    pub took: Duration,
    /// The end of the agent's log.
    pub log: String,
}

/// A world with one Secret that is kept fresh.
pub struct Site {
    /// The world.
    pub world: World,
    door: Door,
}

/// How the site's Secret is made.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// How long a credential lives unless it is extended.
    pub life: &'static str,
    /// How long it lives however often it is extended.
    pub longest: &'static str,
    /// The fields of `rotate`.
    pub rotate: &'static str,
    /// Whether something uses the Secret, and so is restarted.
    pub used: Used,
}

/// Whether something uses the Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// Nothing does.
    ByNobody,
    /// A Deployment does, on a node that only plays.
    ByDeployment,
}

const WEB: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      nodeSelector: { type: kwok }
      tolerations: [{ operator: Exists }]
      containers:
        - name: main
          image: "registry.example.com/app:1"
          env: [{ name: WHO, valueFrom: { secretKeyRef: { name: app-db, key: username } } }]
"#;

impl Site {
    /// Makes it on the shared stand, with the agent started and the Secret deployed.
    ///
    /// # Errors
    /// When a server refuses something.
    pub async fn new(name: &str, setup: Setup) -> Result<Self> {
        Self::of(World::without_agent(name).await?, setup).await
    }

    /// Makes it of a world whose agent is not started yet.
    ///
    /// # Errors
    /// When a server refuses something.
    pub async fn of(mut world: World, setup: Setup) -> Result<Self> {
        world.look_into_api().await?;
        let identity = world.approle_identity().await?;
        world.use_identity(&format!("{PATIENCE}{identity}"))?;
        world.keep_fresh().await?;
        world
            .countable_credentials(setup.life, setup.longest)
            .await?;
        world.start_agent().await?;
        let door = Door::new(&world).await?;
        let site = Self { world, door };
        site.deploy(setup).await?;
        Ok(site)
    }

    async fn deploy(&self, setup: Setup) -> Result<()> {
        let kv = self.world.put("app", json!({ "api": "value" })).await?;
        let creds = self.world.creds();
        let manifests = match setup.used {
            Used::ByNobody => "",
            Used::ByDeployment => "manifests: [web.yaml]\nrollout: { timeout: 60s }\n",
        };
        let spec = format!(
            "version: 1\nname: app\n{manifests}secrets:\n  - name: app-db\n    keys:\n      api: {{ vault: {kv}, field: api }}\n      \
             username: {{ vault: {creds}, field: username }}\n      password: {{ vault: {creds}, field: password }}\n      \
             url: {{ template: \"pg://{{{{ username }}}}:{{{{ password }}}}@db\" }}\n    rotate: {}\n",
            setup.rotate
        );
        let mut files = vec![("quaymaster.yaml", spec.as_str())];
        if setup.used == Used::ByDeployment {
            files.push(("web.yaml", WEB));
        }
        let done = self.world.deploy(&files).await?;
        ensure!(done.status() == 200, "{}\n{}", done.answer.text(), done.log);
        Ok(())
    }

    /// Plays one cell.
    pub async fn play(&mut self, cell: &Cell) -> Row {
        let began = Instant::now();
        let happened = self.cell(cell).await;
        self.world.vault.set(Fault::None);
        self.world.api.set(Fault::None);
        self.row(cell.name, cell.phase.word(), cell.promise, happened, began)
    }

    /// Makes a row of what was done by hand.
    #[must_use]
    pub fn row(
        &self,
        name: &str,
        phase: &str,
        promise: Promise,
        happened: Result<String>,
        began: Instant,
    ) -> Row {
        Row {
            name: name.to_owned(),
            phase: phase.to_owned(),
            promised: promise.words(),
            happened,
            took: began.elapsed(),
            log: self.last_words(),
        }
    }

    /// The end of the agent's log.
    fn last_words(&self) -> String {
        let log = self.world.agent_log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    async fn cell(&mut self, cell: &Cell) -> Result<String> {
        let before = self.fresh().await.context("before the cell")?;
        let faults = if cell.phase.is_of_kubernetes() {
            &self.world.api
        } else {
            &self.world.vault
        };
        let met = faults.met();
        faults.set_for(cell.phase.part(), cell.fault.clone());
        if cell.phase == Phase::Check {
            let value = format!("value of {}", before.generation + 1);
            self.world.put("app", json!({ "api": value })).await?;
        }
        if cell.phase.is_of_a_change() {
            self.ask().await?;
        }
        let faults_met = || faults.met() - met;
        let renewed = self.world.vault.passed(Phase::Renew.part());
        let alive = self.during(cell, &before, faults_met).await?;
        let times = faults_met();
        if cell.lasts == Lasts::Killed {
            self.world.kill_agent().await?;
        }
        self.world.vault.set(Fault::None);
        self.world.api.set(Fault::None);
        if cell.lasts == Lasts::Killed {
            self.world.start_agent().await?;
        }
        if cell.phase == Phase::Renew && cell.lasts != Lasts::Changed {
            until("the credential to be extended", RIGHT, async || {
                match self.world.vault.passed(Phase::Renew.part()) > renewed {
                    true => Look::Ready(()),
                    false => Look::NotYet("it was not asked for".to_owned()),
                }
            })
            .await?;
        }
        let told = self.kept(cell.promise, &before, Some(alive)).await?;
        Ok(format!("met {times}, {told}"))
    }

    /// Looks at the Secret while a fault is on; returns how many credentials were alive at the end of it.
    async fn during(&self, cell: &Cell, before: &Seen, met: impl Fn() -> usize) -> Result<usize> {
        until("the fault to be met", MET, async || {
            let seen = match self.seen().await {
                Ok(seen) => seen,
                Err(error) => return Look::Hopeless(error),
            };
            let over = match cell.lasts {
                Lasts::Met(times) => met() >= times,
                Lasts::Changed => seen.generation > before.generation,
                Lasts::Killed => met() >= 1,
            };
            if over {
                Look::Ready(())
            } else {
                Look::NotYet(format!("met {} times; {seen:?}", met()))
            }
        })
        .await?;
        self.logged_in().await.context("while the fault is on")?;
        self.world.users_in_database().await
    }

    /// Waits until everything is right, and compares it with what was promised. `alive` is how many
    /// credentials were alive in the fault; unset where it ended the one in the Secret itself.
    ///
    /// # Errors
    /// When it does not become right, or otherwise than promised.
    pub async fn kept(
        &self,
        promise: Promise,
        before: &Seen,
        alive: Option<usize>,
    ) -> Result<String> {
        let (least, most) = promise.changes;
        let goal = before.generation + least;
        let began = Instant::now();
        let after = until("everything to be right", RIGHT, async || {
            match self.right().await {
                Ok(Some(seen)) if seen.generation >= goal => Look::Ready(seen),
                Ok(Some(seen)) => Look::NotYet(format!("right, but {seen:?}")),
                Ok(None) => Look::NotYet("not fresh".to_owned()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            }
        })
        .await?;
        let right = began.elapsed();
        let changes = after.generation - before.generation;
        let issued = after.issued - before.issued;
        let told = format!(
            "changes {changes}, issued {issued}, alive {} then 1, right after {:.1} s",
            alive.map_or_else(|| "none".to_owned(), |count| count.to_string()),
            right.as_secs_f32()
        );
        ensure!(changes <= most, "too many changes: {told}");
        ensure!(issued <= promise.issued, "too many issued: {told}");
        ensure!(
            alive.is_none_or(|count| (1..=promise.alive).contains(&count)),
            "alive while it was on: {told}"
        );
        let stays = changes == 0 || promise.issued == 0;
        ensure!(stays == (after.user == before.user), "another user: {told}");
        Ok(told)
    }

    /// Asks the daemon to change the Secret.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn ask(&self) -> Result<()> {
        let path = format!("{}/rotate", self.door.managed);
        let asked = self.world.admin().send("POST", &path, "").await?;
        ensure!(asked.status == 202, "{}", asked.text());
        Ok(())
    }

    /// Waits until the Secret is fresh and nothing is open.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn fresh(&self) -> Result<Seen> {
        until("the Secret to be fresh", RIGHT, async || {
            match self.right().await {
                Ok(Some(seen)) => Look::Ready(seen),
                Ok(None) => Look::NotYet("it is not".to_owned()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            }
        })
        .await
    }
}
