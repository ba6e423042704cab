//! What is to be looked at, and when: after a change, on request, when the source of a chart changed, and at
//! every interval.
//!
//! Called by [`super::serve`]. Invariant: one object is looked at once at a time, and what changed meanwhile leads to
//! another look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::time::timeout_at;

use super::api::Api;
use super::api::Key;
use super::api::Kind;
use super::api::Seen;
use super::chart;
use super::repository;
use super::status;
use super::status::Outcome;
use super::status::text;
use crate::stand::layout::Site;

/// Time until another look after the first failure; doubled with each.
const AGAIN: Duration = Duration::from_millis(750);
/// Interval of an object that names none that is understood.
const INTERVAL: Duration = Duration::from_secs(60);

/// An object and its next look.
struct Entry {
    object: Value,
    /// What was the case at the last look; see [`wanted`].
    handled: Option<String>,
    due: Instant,
    busy: bool,
    failures: u32,
}

/// Looks at everything that is to be looked at, for as long as it is polled.
pub(super) async fn work(site: &Site, api: &Arc<Api>) {
    let (send, mut seen) = mpsc::channel(64);
    for kind in [Kind::Repository, Kind::Chart] {
        let (api, send) = (Arc::clone(api), send.clone());
        tokio::spawn(async move { api.watch(kind, send).await });
    }
    let mut entries: BTreeMap<Key, Entry> = BTreeMap::new();
    let mut looks = FuturesUnordered::new();
    loop {
        for key in due(&entries) {
            let source = source(&entries, &key);
            let wanted = entries
                .get(&key)
                .and_then(|entry| wanted(entry, source.as_ref()));
            if let Some(entry) = entries.get_mut(&key) {
                entry.busy = true;
                entry.handled = wanted;
                looks.push(look(site, api, key, entry.object.clone(), source));
            }
        }
        let next = entries
            .values()
            .filter(|entry| !entry.busy && !suspended(&entry.object));
        let next = next.map(|entry| entry.due).min();
        let next = next.unwrap_or_else(|| Instant::now() + INTERVAL);
        let happened = async {
            tokio::select! {
                Some(seen) = seen.recv() => note(&mut entries, seen),
                Some((key, fine)) = looks.next(), if !looks.is_empty() => finished(&mut entries, &key, fine),
            }
        };
        // The time being up is what else can happen.
        drop(timeout_at(next, happened).await);
    }
}

fn note(entries: &mut BTreeMap<Key, Entry>, seen: Seen) {
    match seen {
        Seen::Gone(key) => drop(entries.remove(&key)),
        Seen::Is(key, object) => {
            let entry = entries.entry(key).or_insert_with(|| Entry {
                object: Value::Null,
                handled: None,
                due: Instant::now(),
                busy: false,
                failures: 0,
            });
            entry.object = *object;
        }
    }
}

fn finished(entries: &mut BTreeMap<Key, Entry>, key: &Key, fine: bool) {
    let Some(entry) = entries.get_mut(key) else {
        return;
    };
    let interval = interval(&entry.object);
    entry.busy = false;
    entry.failures = if fine {
        0
    } else {
        entry.failures.saturating_add(1)
    };
    let pause = match entry.failures {
        0 => interval,
        failures => interval.min(AGAIN * 2_u32.pow(failures.min(10) - 1)),
    };
    entry.due = Instant::now() + pause;
}

/// The objects whose time has come, or that are not as they were at the last look.
fn due(entries: &BTreeMap<Key, Entry>) -> Vec<Key> {
    let now = Instant::now();
    let due = entries.iter().filter(|(key, entry)| {
        if entry.busy || suspended(&entry.object) {
            return false;
        }
        let wanted = wanted(entry, source(entries, key).as_ref());
        entry.due <= now || wanted != entry.handled
    });
    due.map(|(key, _)| key.clone()).collect()
}

/// What a look depends on: generation, request, and for a chart the revision of its source.
fn wanted(entry: &Entry, source: Option<&Value>) -> Option<String> {
    let object = &entry.object;
    let revision = source.map_or("", |source| text(&source["status"]["artifact"]["revision"]));
    let asked = status::requested(object).unwrap_or_default();
    Some(format!(
        "{} {asked} {revision}",
        object["metadata"]["generation"]
    ))
}

/// The GitRepository of a chart.
fn source(entries: &BTreeMap<Key, Entry>, key: &Key) -> Option<Value> {
    match key.kind {
        Kind::Repository => None,
        Kind::Chart => {
            let of = &entries.get(key)?.object["spec"]["sourceRef"];
            let source = Key {
                kind: Kind::Repository,
                namespace: key.namespace.clone(),
                name: text(&of["name"]).to_owned(),
            };
            (of["kind"] == "GitRepository").then_some(())?;
            entries.get(&source).map(|entry| entry.object.clone())
        }
    }
}

fn suspended(object: &Value) -> bool {
    object["spec"]["suspend"] == true
}

/// Go's way to write a duration, as far as hours, minutes and seconds go.
fn interval(object: &Value) -> Duration {
    let (mut total, mut number) = (0, 0);
    for c in text(&object["spec"]["interval"]).chars() {
        match c {
            '0'..='9' => number = number * 10 + u64::from(c) - u64::from('0'),
            'h' => (total, number) = (total + number * 3600, 0),
            'm' => (total, number) = (total + number * 60, 0),
            's' => (total, number) = (total + number, 0),
            _ => return INTERVAL,
        }
    }
    if total == 0 {
        INTERVAL
    } else {
        Duration::from_secs(total)
    }
}

/// Looks once and writes the status; says whether there is an artifact.
async fn look(
    site: &Site,
    api: &Api,
    key: Key,
    object: Value,
    source: Option<Value>,
) -> (Key, bool) {
    let outcome = match key.kind {
        Kind::Repository => repository::look(site, api, &key, &object).await,
        Kind::Chart => chart::look(site, &key, &object, source.as_ref()).await,
    };
    let written = api
        .set_status(&key, &status::status(&object, &outcome))
        .await;
    let fine = matches!(outcome, Outcome::Stored { .. }) && written.is_ok();
    (key, fine)
}
