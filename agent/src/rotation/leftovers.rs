//! Tokens that a former process made for credentials and did not get to use, or to note as used.
//!
//! One future inside the daemon's task: at the start for what a former process left, later for what a run
//! of this one could not end. A token that the record of a Secret names lives on; every other one is
//! ended, and with it whatever was issued under it, also what nobody ever got the answer of. While it is
//! not known what the Secret says, or Vault is away, it is tried again.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use deploy::managed::Record;
use deploy::ports::Login;
use deploy::secret::Accessor;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Tools;
use super::table::Place;
use super::table::Table;
use crate::journal::MadeToken;
use crate::telemetry::Chain;

/// How often it is tried.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the journal is asked for more. What is in it twice, of a run that is over, is left by it: by
/// then the record that the run wrote has been seen.
const LATER: Duration = Duration::from_secs(60);

/// What is known about a token.
enum Fate {
    /// A Secret holds a credential under it.
    Kept,
    /// No Secret does.
    Unused,
    /// The Secret was not looked at yet, or a run is on that may write it.
    Open,
}

/// Settles what is left until it is told to stop.
pub(super) async fn run(table: &Table, tools: &Tools, stop: &CancellationToken) {
    let mut left = listed(tools).await;
    let mut before: BTreeSet<Accessor> = BTreeSet::new();
    let mut next = Instant::now() + LATER;
    loop {
        let mut open = BTreeMap::new();
        for (accessor, made) in left {
            if !settle(&accessor, &made, table, tools).await {
                open.insert(accessor, made);
            }
        }
        left = open;
        let wait = if left.is_empty() { LATER } else { AGAIN };
        tokio::select! {
            // Nothing is under way while the timer runs.
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        if next <= Instant::now() {
            next = Instant::now() + LATER;
            let found = listed(tools).await;
            let known: BTreeSet<Accessor> = found.keys().cloned().collect();
            let twice = found.into_iter().filter(|(one, _)| before.contains(one));
            left.extend(twice);
            before = known;
        }
    }
}

async fn listed(tools: &Tools) -> BTreeMap<Accessor, MadeToken> {
    match tools.journal.tokens().await {
        Ok(found) => found.into_iter().collect(),
        Err(fault) => {
            tracing::error!(error = %Chain(&fault), "it is not known which tokens are left");
            BTreeMap::new()
        }
    }
}

/// Says whether nothing is left to do for a token.
async fn settle(accessor: &Accessor, made: &MadeToken, table: &Table, tools: &Tools) -> bool {
    match fate(accessor, made, table, tools).await {
        Fate::Open => return false,
        Fate::Kept => {}
        Fate::Unused => {
            let ended = async {
                let own = tools.secrets.login(&Login::Own).await?;
                tools.secrets.end(&own, accessor).await
            };
            if let Err(error) = ended.await {
                tracing::warn!(%error, secret = made.secret, run = %made.run,
                    "a credential that no Secret holds could not be ended yet");
                return false;
            }
            tracing::info!(secret = made.secret, run = %made.run,
                "ended a credential that a former process issued and no Secret holds");
        }
    }
    if let Err(fault) = tools.journal.forget_token(accessor).await {
        tracing::error!(error = %Chain(&fault), "the journal keeps a token that is settled");
        return false;
    }
    true
}

async fn fate(accessor: &Accessor, made: &MadeToken, table: &Table, tools: &Tools) -> Fate {
    if tools.runs.active().contains(&made.run) {
        return Fate::Open;
    }
    let record = match tools.journal.load(&made.run).await {
        Ok(Some(record)) => record,
        // Runs are forgotten after a month, when no credential of theirs is young.
        Ok(None) => return Fate::Unused,
        Err(_) => return Fate::Open,
    };
    let place = Place {
        cluster: record.report.cluster,
        namespace: record.report.namespace,
        app: record.report.name,
    };
    table.with(|rows| {
        if !rows.synced.contains(&place.cluster) {
            return Fate::Open;
        }
        // The register is written before the Secret: what is not in it was not written.
        let Some(app) = rows.apps.get(&place) else {
            return Fate::Unused;
        };
        let Some(row) = app.secrets.get(&made.secret) else {
            return Fate::Unused;
        };
        if app.running || row.found.is_none() {
            return Fate::Open;
        }
        match &row.record {
            Some(record) if names(record, accessor) => Fate::Kept,
            Some(_) | None => Fate::Unused,
        }
    })
}

/// Says whether a record names a token.
fn names(record: &Record, accessor: &Accessor) -> bool {
    let state = &record.state;
    let tried = state
        .trial
        .iter()
        .flat_map(|trial| trial.credentials.values());
    state
        .credentials
        .values()
        .chain(&state.retiring)
        .chain(tried)
        .any(|credential| credential.accessor.as_ref() == Some(accessor))
}
