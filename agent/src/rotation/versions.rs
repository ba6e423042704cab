//! New versions in Vault, noticed by asking: a whole folder in one request where the server can, else
//! each secret by itself within a budget.
//!
//! One future inside the daemon's task. What a job says it has just written is asked about at once.
//! A server or a policy that refuses the whole folder is asked for single secrets, and for the folder
//! again after a while. An error changes nothing that is known.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use deploy::ports::Engine;
use deploy::ports::Login;
use deploy::ports::Mount;
use deploy::ports::Newest;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::rotate;
use deploy::secret::VaultPath;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Tools;
use super::credentials::away;
use super::table::Table;
use super::table::Way;

/// How many requests are under way at once.
const WIDTH: usize = 8;
/// A folder that was refused as a whole is tried as a whole again after this time.
const TRY_WHOLE: Duration = Duration::from_secs(600);
/// While Vault is away the versions wait for a credential, or for this time where there is none.
const AWAY: Duration = Duration::from_secs(1);

/// The folders of this agent's share, each with its mount and paths.
type Folders = BTreeMap<String, (Mount, String, BTreeSet<String>)>;

/// What the loop keeps from turn to turn.
#[derive(Default)]
struct Rounds {
    /// Folders that are asked one by one, and until when.
    single: BTreeMap<String, Instant>,
    /// Where the last turn stopped among the single ones.
    after: String,
}

/// Asks until it is told to stop.
pub(super) async fn run(table: &Table, tools: &Tools, stop: &CancellationToken) {
    let mut turn = tokio::time::interval(step(tools));
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rounds = Rounds::default();
    loop {
        let is_turn = tokio::select! {
            // Nothing is asked while these wait, so nothing is lost.
            () = stop.cancelled() => return,
            _ = turn.tick() => true,
            () = table.hurried() => false,
        };
        let is_away = table.with(|rows| rows.away.is_some_and(|next| next > Instant::now()));
        if is_away {
            tokio::select! {
                // Only waiting is given up.
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AWAY.min(step(tools))) => {}
            }
            continue;
        }
        let (paths, now) = wanted(table, tools);
        if paths.is_empty() && now.is_empty() {
            continue;
        }
        let own = match tools.secrets.login(&Login::Own).await {
            Ok(own) => own,
            Err(error) => {
                away(table, tools, &error);
                continue;
            }
        };
        ask_now(&now, &own, table, tools).await;
        if !is_turn {
            // Who tells of one path makes nobody list a thousand others.
            continue;
        }
        let folders = folders(&paths, &own, table, tools).await;
        rounds.ask(folders, &own, table, tools).await;
    }
}

/// Lists the paths of this agent's share, and those that are asked before their turn.
fn wanted(table: &Table, tools: &Tools) -> (BTreeSet<String>, BTreeSet<String>) {
    table.with(|rows| {
        let mine = rows
            .apps
            .iter()
            .filter(|(place, app)| rows.looks_after(place, app, &tools.agent));
        let records = mine
            .flat_map(|(_, app)| app.secrets.values())
            .filter(|row| row.problem.is_none())
            .filter_map(|row| row.record.as_ref());
        let paths: BTreeSet<String> = records
            .flat_map(rotate::followed)
            .map(str::to_owned)
            .collect();
        let now = std::mem::take(&mut rows.look_now);
        let now = now.into_iter().filter(|path| paths.contains(path));
        let now = now.collect();
        (paths, now)
    })
}

/// Finds the mount behind each path; known ones are not asked again.
async fn mount_of(
    path: &str,
    own: &Session,
    table: &Table,
    tools: &Tools,
) -> Option<(Mount, VaultPath)> {
    let parsed = VaultPath::parse(path).ok()?;
    if let Some(mount) = table.with(|rows| rows.mounts.get(path).cloned()) {
        return Some((mount, parsed));
    }
    match tools.secrets.engine(own, &parsed).await {
        Ok(mount) => {
            table.with(|rows| rows.mounts.insert(path.to_owned(), mount.clone()));
            Some((mount, parsed))
        }
        Err(error) => {
            away(table, tools, &error);
            tracing::debug!(path, %error, "the engine behind a path is not known");
            None
        }
    }
}

/// Asks for single paths at once.
async fn ask_now(paths: &BTreeSet<String>, own: &Session, table: &Table, tools: &Tools) {
    let mut asked: Vec<BoxFuture<'_, ()>> = Vec::with_capacity(paths.len());
    for path in paths {
        let ask = async move {
            if let Some((mount, path)) = mount_of(path, own, table, tools).await
                && mount.engine == Engine::KvV2
            {
                ask_one(&mount, &path, own, table, tools).await;
            }
        };
        asked.push(ask.boxed());
    }
    at_once(asked).await;
}

async fn ask_one(mount: &Mount, path: &VaultPath, own: &Session, table: &Table, tools: &Tools) {
    let began = Instant::now();
    match tools.secrets.newest(own, mount, path).await {
        Ok(newest) => {
            let one = BTreeMap::from([(path.as_str().to_owned(), newest)]);
            take(one, began, table, tools);
        }
        Err(error) => {
            away(table, tools, &error);
            table.with(|rows| rows.tell(path.as_str(), &error.to_string()));
        }
    }
}

/// Sorts paths by mount and folder.
async fn folders(paths: &BTreeSet<String>, own: &Session, table: &Table, tools: &Tools) -> Folders {
    let mut folders = Folders::new();
    for path in paths {
        let Some((mount, parsed)) = mount_of(path, own, table, tools).await else {
            continue;
        };
        if mount.engine != Engine::KvV2 {
            continue;
        }
        let inner = parsed.as_str().strip_prefix(&mount.path);
        let inner = inner.map_or("", |inner| inner.trim_start_matches('/'));
        let folder = inner.rsplit_once('/').map_or("", |(folder, _)| folder);
        let key = match folder {
            "" => mount.path.clone(),
            folder => format!("{}/{folder}", mount.path),
        };
        let entry = folders
            .entry(key)
            .or_insert_with(|| (mount, folder.to_owned(), BTreeSet::new()));
        entry.2.insert(path.clone());
    }
    folders
}

impl Rounds {
    async fn ask(&mut self, folders: Folders, own: &Session, table: &Table, tools: &Tools) {
        let now = Instant::now();
        self.single.retain(|_, until| *until > now);
        let mut singles: BTreeMap<String, Mount> = BTreeMap::new();
        let mut ways = BTreeMap::new();
        let asked: BTreeSet<String> = folders.keys().cloned().collect();
        for (key, (mount, folder, paths)) in folders {
            let whole = !self.single.contains_key(&key)
                && self.whole(&key, &mount, &folder, own, table, tools).await;
            if whole {
                ways.insert(key, (Way::Whole, tools.freshness));
            } else if self.single.contains_key(&key) {
                singles.extend(paths.into_iter().map(|path| (path, mount.clone())));
                ways.insert(key, (Way::Single, Duration::ZERO));
            }
        }
        let budget = budget(tools);
        let rounds = singles.len().div_ceil(budget.max(1));
        let within = step(tools) * u32::try_from(rounds.max(1)).unwrap_or(u32::MAX);
        for (way, time) in ways.values_mut() {
            if *way == Way::Single {
                *time = within;
            }
        }
        table.with(|rows| {
            // What is not known now is as it was: Vault may be away.
            rows.ways.retain(|key, _| asked.contains(key));
            rows.ways.extend(ways);
        });
        self.some(&singles, budget, own, table, tools).await;
    }

    /// Asks for a whole folder; `false` where nothing was learned.
    async fn whole(
        &mut self,
        key: &str,
        mount: &Mount,
        folder: &str,
        own: &Session,
        table: &Table,
        tools: &Tools,
    ) -> bool {
        let began = Instant::now();
        match tools.secrets.folder(own, mount, folder).await {
            Ok(found) => {
                let named = found.into_iter();
                let found = named.map(|(name, newest)| (format!("{key}/{name}"), newest));
                take(found.collect(), began, table, tools);
                true
            }
            Err(SecretsError::Missing { .. } | SecretsError::Forbidden { .. }) => {
                tracing::info!(
                    folder = key,
                    "versions are asked one by one: the folder is not answered whole"
                );
                self.single
                    .insert(key.to_owned(), Instant::now() + TRY_WHOLE);
                false
            }
            Err(error) => {
                away(table, tools, &error);
                false
            }
        }
    }

    /// Asks for as many single paths as the budget allows, going on where the last turn stopped.
    async fn some(
        &mut self,
        singles: &BTreeMap<String, Mount>,
        budget: usize,
        own: &Session,
        table: &Table,
        tools: &Tools,
    ) {
        let after = self.after.clone();
        let later = singles.iter().filter(|(path, _)| **path > after);
        let earlier = singles.iter().filter(|(path, _)| **path <= after);
        let turn: Vec<(&String, &Mount)> = later.chain(earlier).take(budget).collect();
        if let Some((last, _)) = turn.last() {
            self.after.clone_from(last);
        }
        let mut asked: Vec<BoxFuture<'_, ()>> = Vec::with_capacity(turn.len());
        for (path, mount) in turn {
            let ask = async move {
                if let Ok(path) = VaultPath::parse(path) {
                    ask_one(mount, &path, own, table, tools).await;
                }
            };
            asked.push(ask.boxed());
        }
        at_once(asked).await;
    }
}

/// Awaits all of them, a few at once.
async fn at_once(all: Vec<BoxFuture<'_, ()>>) {
    let mut all = futures::stream::iter(all).buffer_unordered(WIDTH);
    while all.next().await.is_some() {}
}

/// The time between two turns: what is new has to be in the Secret within the freshness, not only asked
/// for, and a run takes its time too.
fn step(tools: &Tools) -> Duration {
    tools.freshness * 3 / 4
}

/// Single requests in one turn.
fn budget(tools: &Tools) -> usize {
    let millis = usize::try_from(step(tools).as_millis()).unwrap_or(usize::MAX);
    (tools.requests_per_second.saturating_mul(millis) / 1_000).max(1)
}

/// Takes in versions, and wakes the daemon where one is not the one that is in a Secret. Where a Secret
/// got other versions since the question was `asked`, the answer may be older than they are, and counts
/// for nothing.
fn take(found: BTreeMap<String, Newest>, asked: Instant, table: &Table, tools: &Tools) {
    let now = tools.clock.now();
    let moved = table.with(|rows| {
        rows.answered();
        let mut fresh: Vec<(String, Newest)> = Vec::new();
        let all = rows
            .apps
            .values_mut()
            .flat_map(|app| app.secrets.values_mut());
        for row in all {
            let Some(record) = &row.record else {
                continue;
            };
            if row.moved.is_some_and(|moved| moved >= asked) {
                continue;
            }
            let mut told = false;
            for path in record.state.versions.keys() {
                let Some(newest) = found.get(path) else {
                    continue;
                };
                told = true;
                // Only what is asked for is kept: a folder may hold much more.
                if rows.newest.get(path) != Some(newest) {
                    fresh.push((path.clone(), *newest));
                }
            }
            if told {
                row.contact = Some(now);
                row.unread = None;
            }
        }
        let moved = !fresh.is_empty();
        rows.newest.extend(fresh);
        moved
    });
    if moved {
        table.wake();
    }
}
