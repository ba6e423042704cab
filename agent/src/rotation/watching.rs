//! What the cluster shows: the register, the other agents, and the Secrets themselves.
//!
//! One future for each cluster, inside the daemon's task. Secrets are watched by their metadata, as the
//! project that answers for them, one watch for each project and namespace; who wrote which key stands
//! in `managedFields`, so that damage is seen without any value.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use deploy::managed;
use deploy::managed::Record;
use deploy::object::Gvk;
use deploy::object::text;
use deploy::owned;
use deploy::ports::Cluster;
use deploy::ports::Observation;
use deploy::ports::Scope;
use deploy::principal::Actor;
use deploy::register::Entry;
use deploy::register::Home;
use deploy::rotate::Found;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use futures::stream::SelectAll;
use proto::ids::ClusterName;
use serde_json::Value;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Tools;
use super::credentials;
use super::members;
use super::members::Members;
use super::table::App;
use super::table::Place;
use super::table::Row;
use super::table::Table;

/// Whose Secrets in which namespace one watch is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Post {
    namespace: String,
    user: String,
}

/// A stream that ends when its token is cancelled.
type Watch = BoxStream<'static, (Post, Observation)>;

/// Everything about one cluster.
pub(super) struct Watcher<'a> {
    pub(super) name: &'a ClusterName,
    pub(super) cluster: &'a Arc<dyn Cluster>,
    pub(super) table: &'a Table,
    pub(super) tools: &'a Tools,
}

fn config_map() -> Gvk {
    Gvk::new("v1", "ConfigMap")
}

impl Watcher<'_> {
    /// Watches, and renews the agent's own Lease, until it is told to stop.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        let agents = Mutex::new(Members::default());
        futures::join!(self.watch(&agents, stop), self.renew(&agents, stop));
    }

    /// Beside the watch and not in one of its arms: a stream that is not polled may hold what a request
    /// waits for.
    async fn renew(&self, agents: &Mutex<Members>, stop: &CancellationToken) {
        let mut turn = tokio::time::interval(members::RENEW);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // No renewal is under way while the timer runs.
                () = stop.cancelled() => return,
                _ = turn.tick() => {}
            }
            match members::renew(&**self.cluster, self.tools).await {
                Ok(sent) => known(agents).renewed(sent),
                Err(error) => {
                    tracing::warn!(cluster = %self.name, %error, "the agent's own Lease could not be renewed");
                }
            }
            self.count(agents);
        }
    }

    async fn watch(&self, agents: &Mutex<Members>, stop: &CancellationToken) {
        let home = |gvk| Scope {
            gvk,
            namespace: Some(self.tools.home.namespace.clone()),
            name: None,
        };
        let scopes = vec![home(config_map()), home(members::gvk())];
        let mut register = self.cluster.observe(&Home::actor(), scopes);
        let mut entries: BTreeMap<String, Place> = BTreeMap::new();
        let mut posts: BTreeMap<Post, CancellationToken> = BTreeMap::new();
        let mut secrets: SelectAll<Watch> = SelectAll::new();
        let mut second = tokio::time::interval(std::time::Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Nothing is lost with an arm: streams and intervals keep what they have, and no arm
                // awaits anything.
                () = stop.cancelled() => return,
                Some(seen) = register.next() => {
                    self.take_register(seen, &mut entries, agents);
                    self.tend(&mut posts, &mut secrets, stop);
                }
                Some((post, seen)) = secrets.next(), if !secrets.is_empty() => {
                    self.take_secret(&post, seen);
                }
                _ = second.tick() => self.count(agents),
            }
        }
    }

    /// Puts the agents that are alive into the table.
    fn count(&self, agents: &Mutex<Members>) {
        let now = Instant::now();
        let (alive, mut tokens) = {
            let agents = known(agents);
            (agents.alive(&self.tools.agent, now), agents.tokens(now))
        };
        tokens.extend(self.tools.secrets.own().map(|own| own.id));
        let moved = self.table.with(|rows| {
            rows.tokens.insert(self.name.clone(), tokens);
            let before = rows.members.insert(self.name.clone(), alive.clone());
            before.as_ref() != Some(&alive)
        });
        if moved {
            tracing::info!(cluster = %self.name, agents = ?alive, "agents that keep Secrets fresh");
            self.table.wake();
        }
    }

    fn take_register(
        &self,
        seen: Observation,
        entries: &mut BTreeMap<String, Place>,
        agents: &Mutex<Members>,
    ) {
        match seen {
            Observation::Present(body) if text(&body, &["kind"]) == "Lease" => {
                known(agents).see(&body, Instant::now());
            }
            Observation::Present(body) => self.take_entry(&body, entries),
            Observation::Gone(id) => {
                if let Some(place) = entries.remove(&id.name) {
                    self.table.with(|rows| rows.apps.remove(&place));
                }
            }
            Observation::Synced(gvk) => {
                tracing::debug!(cluster = %self.name, %gvk, "the register is read");
                if gvk.is("", "ConfigMap") {
                    self.table
                        .with(|rows| rows.synced.insert(self.name.clone()));
                }
            }
            Observation::Trouble { gvk, reason, .. } => {
                tracing::warn!(cluster = %self.name, %gvk, reason, "the agents' namespace cannot be watched");
            }
        }
    }

    fn take_entry(&self, body: &Value, entries: &mut BTreeMap<String, Place>) {
        let Some(entry) = Entry::read(body) else {
            return;
        };
        let place = Place {
            cluster: self.name.clone(),
            namespace: entry.namespace.clone(),
            app: entry.app.clone(),
        };
        let name = text(body, &["metadata", "name"]).to_owned();
        self.table.with(|rows| {
            if entry.secrets.is_empty() {
                rows.apps.remove(&place);
                return;
            }
            let app = rows.apps.entry(place.clone()).or_insert_with(|| App {
                entry: entry.clone(),
                secrets: BTreeMap::new(),
                running: false,
                not_before: None,
                failures: 0,
                settling: 0,
            });
            app.secrets
                .retain(|secret, _| entry.secrets.contains_key(secret));
            for secret in entry.secrets.keys() {
                app.secrets.entry(secret.clone()).or_default();
            }
            app.entry = entry;
            for (secret, row) in &mut app.secrets {
                check(&app.entry, secret, row);
            }
        });
        entries.insert(name, place);
        self.table.wake();
    }

    /// Begins watches that are missing and ends those that nobody needs.
    fn tend(
        &self,
        posts: &mut BTreeMap<Post, CancellationToken>,
        secrets: &mut SelectAll<Watch>,
        stop: &CancellationToken,
    ) {
        let wanted: BTreeMap<Post, Actor> = self.table.with(|rows| {
            let apps = rows.apps.iter();
            let ours = apps.filter(|(place, _)| place.cluster == *self.name);
            ours.filter_map(|(place, app)| {
                let actor = Actor::of_project(&app.entry.owner.principal())?;
                let post = Post {
                    namespace: place.namespace.to_string(),
                    user: format!("{} {}", actor.user, actor.groups.join(" ")),
                };
                Some((post, actor))
            })
            .collect()
        });
        posts.retain(|post, token| {
            let stays = wanted.contains_key(post);
            if !stays {
                token.cancel();
            }
            stays
        });
        for (post, actor) in wanted {
            if posts.contains_key(&post) {
                continue;
            }
            let token = stop.child_token();
            let scope = Scope {
                gvk: Gvk::new("v1", "Secret"),
                namespace: Some(post.namespace.clone()),
                name: None,
            };
            let named = post.clone();
            let watch = self
                .cluster
                .observe(&actor, vec![scope])
                .map(move |seen| (named.clone(), seen))
                .take_until(token.clone().cancelled_owned());
            secrets.push(watch.boxed());
            posts.insert(post, token);
        }
    }

    fn take_secret(&self, post: &Post, seen: Observation) {
        match seen {
            Observation::Present(body) => {
                let name = text(&body, &["metadata", "name"]).to_owned();
                self.of_secret(post, &name, |app, row, tools| {
                    take_body(&app.entry, &name, row, &body, tools);
                });
            }
            Observation::Gone(id) => self.of_secret(post, &id.name, |_, row, _| {
                if row.record.is_some() {
                    row.found = Some(Found::Deleted);
                }
            }),
            Observation::Synced(_) => self.gone(post),
            Observation::Trouble { reason, .. } => {
                tracing::warn!(
                    cluster = %self.name, namespace = post.namespace, user = post.user, reason,
                    "Secrets cannot be watched"
                );
                self.table.with(|rows| {
                    for (place, app) in &mut rows.apps {
                        if place.cluster == *self.name && place.namespace.as_str() == post.namespace
                        {
                            for row in app.secrets.values_mut().filter(|row| row.found.is_none()) {
                                row.problem =
                                    Some(format!("the Secret cannot be watched: {reason}"));
                            }
                        }
                    }
                });
            }
        }
        self.table.wake();
    }

    fn of_secret(&self, post: &Post, name: &str, act: impl Fn(&App, &mut Row, &Tools)) {
        self.table.with(|rows| {
            for (place, app) in &mut rows.apps {
                if place.cluster != *self.name || place.namespace.as_str() != post.namespace {
                    continue;
                }
                if let Some(mut row) = app.secrets.remove(name) {
                    act(app, &mut row, self.tools);
                    app.secrets.insert(name.to_owned(), row);
                }
            }
        });
    }

    /// After the first listing: what was not in it is not there.
    fn gone(&self, post: &Post) {
        self.table.with(|rows| {
            for (place, app) in &mut rows.apps {
                if place.cluster != *self.name || place.namespace.as_str() != post.namespace {
                    continue;
                }
                for row in app.secrets.values_mut().filter(|row| row.found.is_none()) {
                    row.found = Some(Found::Deleted);
                    row.problem = Some("the Secret is not there; deploy the app again".to_owned());
                }
            }
        });
    }
}

/// What is known of the agents; changed by whole operations, so a poisoned lock does no harm.
fn known(agents: &Mutex<Members>) -> MutexGuard<'_, Members> {
    agents.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes in a Secret's metadata.
fn take_body(entry: &Entry, name: &str, row: &mut Row, body: &Value, tools: &Tools) {
    match Record::of(body) {
        Ok(Some(mut record)) => {
            record.declaration.owner.share(&entry.owner);
            row.found = Some(found(&record, body));
            let before = row.record.replace(record);
            let versions = |record: &Option<Record>| {
                let record = record.as_ref()?;
                Some(record.state.versions.clone())
            };
            if versions(&before) != versions(&row.record) {
                row.moved = Some(Instant::now());
            }
            row.problem = None;
            credentials::take_record(row, tools);
            check(entry, name, row);
        }
        Ok(None) => {
            row.record = None;
            row.found = Some(Found::Whole);
            row.problem =
                Some("the Secret is not kept fresh any more; deploy the app again".to_owned());
        }
        Err(error) => {
            row.record = None;
            row.found = Some(Found::Whole);
            row.problem = Some(error.to_string());
        }
    }
}

/// Checks that a record is the one that the agents wrote.
fn check(entry: &Entry, name: &str, row: &mut Row) {
    const FORGED: &str = "the record on the Secret is not the one that the agents wrote; deploy the \
                          app again";
    let Some(record) = &row.record else {
        return;
    };
    let digest = record.declaration.digest(entry.namespace.as_str());
    let known = entry.secrets.get(name);
    if known.is_some_and(|known| known.contains(&digest)) {
        if row.problem.as_deref() == Some(FORGED) {
            row.problem = None;
        }
    } else {
        row.problem = Some(FORGED.to_owned());
    }
}

/// Says which of the agents' keys somebody else has now.
fn found(record: &Record, body: &Value) -> Found {
    let ours: BTreeSet<String> = owned::data_keys(body);
    let keys = record.declaration.secret.keys.keys();
    let lost: BTreeSet<String> = keys.filter(|key| !ours.contains(*key)).cloned().collect();
    if lost.is_empty() || managed::written_by_server(body).is_none() && ours.is_empty() {
        Found::Whole
    } else {
        Found::Damaged(lost)
    }
}
