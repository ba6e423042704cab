//! What callers see of the table. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use deploy::ports::Standing;
use deploy::rotate;
use deploy::rotate::Known;
use deploy::spec::OnDeleted;
use jiff::Timestamp;
use proto::ids::ClusterName;
use proto::managed::FolderFreshness;
use proto::managed::Freshness;
use proto::managed::ManagedCredential;
use proto::managed::ManagedList;
use proto::managed::ManagedSecret;
use proto::managed::Stale;
use tokio::time::Instant;

use super::Asker;
use super::Tools;
use super::table::App;
use super::table::Place;
use super::table::Row;
use super::table::Rows;
use super::table::Way;

/// Lists the Secrets that the asker may see.
pub(super) fn list(rows: &Rows, asker: &Asker, tools: &Tools, now: Timestamp) -> ManagedList {
    let mut secrets = Vec::new();
    for (place, app) in rows.apps.iter().filter(|(_, app)| asker.may_see(app)) {
        for (name, row) in &app.secrets {
            secrets.push(secret(rows, place, app, name, row, now));
        }
    }
    let folders = match asker {
        Asker::Project(_) => Vec::new(),
        Asker::Operator => rows
            .ways
            .iter()
            .map(|(folder, (way, within))| FolderFreshness {
                folder: folder.clone(),
                whole: *way == Way::Whole,
                within_millis: millis((*within).max(tools.freshness)),
            })
            .collect(),
    };
    ManagedList {
        secrets,
        folders,
        unread: unread(rows, &tools.clusters).cloned().collect(),
    }
}

/// Tells of one Secret; `None` where it is not there.
pub(super) fn one(rows: &Rows, place: &Place, name: &str, now: Timestamp) -> Option<ManagedSecret> {
    let app = rows.apps.get(place)?;
    let row = app.secrets.get(name)?;
    Some(secret(rows, place, app, name, row, now))
}

/// The clusters whose register was not read yet.
pub(super) fn unread<'a, T>(
    rows: &'a Rows,
    clusters: &'a BTreeMap<ClusterName, T>,
) -> impl Iterator<Item = &'a ClusterName> {
    let names = clusters.keys();
    names.filter(|name| !rows.synced.contains(*name))
}

fn secret(
    rows: &Rows,
    place: &Place,
    app: &App,
    name: &str,
    row: &Row,
    now: Timestamp,
) -> ManagedSecret {
    let mut notes = row.notes.clone();
    notes.extend(row.problem.clone());
    notes.extend(row.failed.clone());
    notes.extend(row.unread.clone());
    let state = row.record.as_ref().map(|record| &record.state);
    if let Some(setback) = state.and_then(|state| state.setback.as_ref()) {
        notes.push(format!(
            "the change at {:.0} was taken back: {}",
            setback.at, setback.why
        ));
    }
    let credentials = credentials(row, now);
    let freshness = freshness(rows, app, row);
    let stale = stale(rows, row, freshness, &notes, now);
    ManagedSecret {
        cluster: place.cluster.clone(),
        namespace: place.namespace.clone(),
        name: name.to_owned(),
        app: place.app.clone(),
        project: app.entry.owner.project().to_owned(),
        freshness,
        stale,
        generation: state.map_or(0, |state| state.generation),
        written: state.map_or_else(String::new, |state| format!("{:.0}", state.written)),
        age_seconds: state.map_or(0, |state| seconds(now.duration_since(state.written))),
        versions: state
            .map(|state| state.versions.clone())
            .unwrap_or_default(),
        expires_in_seconds: credentials.iter().map(|one| one.left_seconds).min(),
        credentials,
        last_contact: row.contact.map(|time| format!("{time:.3}")),
        restarts: state.map_or(0, |state| state.restarts),
        run: state.map_or_else(String::new, |state| state.run.clone()),
        agent: rows.keeper(place).unwrap_or_default().to_owned(),
        notes,
    }
}

/// Notes since when each Secret stands as it does.
pub(super) fn note_standing(rows: &mut Rows, now: Timestamp) {
    let mut standings = Vec::new();
    for (place, app) in &rows.apps {
        for (name, row) in &app.secrets {
            let standing = freshness(rows, app, row);
            if row.standing.map(|(before, _)| before) != Some(standing) {
                standings.push((place.clone(), name.clone(), standing));
            }
        }
    }
    for (place, name, standing) in standings {
        if let Some(row) = rows.secret_mut(&place, &name) {
            row.standing = Some((standing, now));
        }
    }
}

/// Says since when a Secret may not be what Vault has, and why.
fn stale(
    rows: &Rows,
    row: &Row,
    freshness: Freshness,
    notes: &[String],
    now: Timestamp,
) -> Option<Stale> {
    if let Some((since, reason)) = &rows.outage {
        // Until then it was known.
        let since = row.contact.unwrap_or(*since);
        return Some(Stale {
            since: format!("{since:.3}"),
            why: format!("Vault is away: {reason}"),
        });
    }
    match freshness {
        Freshness::Fresh | Freshness::Changing => None,
        Freshness::Waiting | Freshness::Kept | Freshness::Failing | Freshness::Unknown => {
            let since = row.standing.filter(|(standing, _)| *standing == freshness);
            let since = since.map_or(now, |(_, since)| since);
            let why = notes.first().cloned();
            Some(Stale {
                since: format!("{since:.3}"),
                why: why.unwrap_or_else(|| match freshness {
                    Freshness::Waiting => "a newer version is about to be taken".to_owned(),
                    Freshness::Fresh
                    | Freshness::Changing
                    | Freshness::Kept
                    | Freshness::Failing
                    | Freshness::Unknown => "Vault has not answered about it yet".to_owned(),
                }),
            })
        }
    }
}

fn credentials(row: &Row, now: Timestamp) -> Vec<ManagedCredential> {
    let Some(record) = &row.record else {
        return Vec::new();
    };
    let credentials = record.state.credentials.values();
    credentials
        .map(|credential| {
            let known = row.credentials.get(&credential.path);
            let left = match known.and_then(|known| known.ends) {
                Some(ends) => ends.saturating_duration_since(Instant::now()).as_secs(),
                None => {
                    let age = seconds(now.duration_since(credential.issued));
                    credential.seconds.saturating_sub(age)
                }
            };
            let gone = known.is_some_and(|known| known.known == Known::Gone);
            ManagedCredential {
                path: credential.path.clone(),
                left_seconds: if gone { 0 } else { left },
                renewable: credential.renewable,
            }
        })
        .collect()
}

fn freshness(rows: &Rows, app: &App, row: &Row) -> Freshness {
    let Some(record) = &row.record else {
        return if row.problem.is_some() {
            Freshness::Failing
        } else {
            Freshness::Unknown
        };
    };
    if row.problem.is_some() || row.failed.is_some() {
        return Freshness::Failing;
    }
    if app.running || record.state.is_open() {
        return Freshness::Changing;
    }
    let mut unknown = false;
    let mut kept = false;
    let mut waiting = false;
    for (path, version) in &record.state.versions {
        match rows.newest.get(path) {
            None => unknown = true,
            Some(newest) if newest.standing != Standing::Live => kept = true,
            Some(newest) if newest.version != *version => waiting = true,
            Some(_) => {}
        }
    }
    let pinned = |path: &String| !rotate::followed(record).contains(path.as_str());
    if record.state.versions.keys().all(pinned) {
        (unknown, kept, waiting) = (false, false, false);
    }
    let fails = rotate::rotate_of(record).on_deleted == OnDeleted::Fail;
    if kept && fails {
        Freshness::Failing
    } else if kept || record.state.setback.is_some() {
        Freshness::Kept
    } else if waiting {
        Freshness::Waiting
    } else if unknown && row.contact.is_none() {
        Freshness::Unknown
    } else {
        Freshness::Fresh
    }
}

fn seconds(duration: jiff::SignedDuration) -> u64 {
    u64::try_from(duration.as_secs()).unwrap_or(0)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
