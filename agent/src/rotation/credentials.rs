//! Credentials: extended in time, and never dropped because of an error.
//!
//! One future inside the daemon's task. Every answer of Vault is one of three: the credential is gone
//! (it is replaced, once), it may not be extended (it is used to its end and replaced inside the
//! budget), or Vault cannot say now (it is asked again soon). While Vault is away one credential asks
//! for all, so that its return is noticed at once and without a herd.

use std::time::Duration;

use deploy::managed::Credential;
use deploy::ports::Login;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::rotate::Known;
use deploy::rotate::lease;
use deploy::rotate::lease::Growth;
use deploy::rotate::lease::Life;
use deploy::rotate::lease::Next;
use deploy::rotate::rotate_of;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Tools;
use super::table::CredentialRow;
use super::table::Place;
use super::table::Row;
use super::table::Rows;
use super::table::Table;
use crate::clock;

/// How many credentials are asked about at once.
const WIDTH: usize = 8;
/// How often the table is looked through.
const STEP: Duration = Duration::from_millis(250);
/// While Vault is away, one question is asked this often.
const PROBE: Duration = Duration::from_secs(1);
/// What was issued this short ago still has its first life.
const YOUNG: u64 = 60;
/// What was found at the start is asked about within this time, not all at once.
const SPREAD: Duration = Duration::from_secs(5);
/// A credential that no living agent's token holds is replaced within this time.
const ORPHAN_SPREAD: Duration = Duration::from_secs(20);

/// One credential to ask about.
struct Question {
    place: Place,
    secret: String,
    credential: Credential,
    budget: Duration,
}

/// Makes rows for the credentials of a record, and forgets those of others.
pub(super) fn take_record(row: &mut Row, tools: &Tools) {
    let Some(record) = &row.record else {
        return;
    };
    let budget = rotate_of(record).outage_budget;
    let credentials = &record.state.credentials;
    row.credentials.retain(|path, known| {
        credentials
            .get(path)
            .is_some_and(|credential| credential.issued == known.issued)
    });
    let now = Instant::now();
    for (path, credential) in credentials {
        if row.credentials.contains_key(path) {
            continue;
        }
        let age = tools.clock.now().duration_since(credential.issued);
        let age = u64::try_from(age.as_secs()).unwrap_or(0);
        let is_leased = credential.lease.is_some();
        let mut known = CredentialRow {
            issued: credential.issued,
            known: Known::Alive,
            ends: None,
            next: now + share(SPREAD),
            replace: false,
            extend: now,
            orphan: None,
            errors: 0,
        };
        let is_ours = credential.issued >= tools.began && age <= YOUNG;
        if is_ours || !is_leased {
            let left = Duration::from_secs(credential.seconds.saturating_sub(age));
            let growth = if credential.renewable && is_leased {
                Growth::Renewable
            } else {
                Growth::Ending
            };
            known.plan(
                Life {
                    granted: left,
                    growth,
                },
                budget,
                now,
            );
        }
        row.credentials.insert(path.clone(), known);
    }
}

impl CredentialRow {
    fn plan(&mut self, life: Life, budget: Duration, now: Instant) {
        self.ends = Some(now + life.granted);
        self.errors = 0;
        match lease::next(life, budget, clock::chance()) {
            Next::Renew(after) => {
                self.known = Known::Alive;
                self.replace = false;
                // A budget of the whole life would ask without end.
                self.next = now + after.max(Duration::from_secs(1)).max(life.granted / 20);
            }
            Next::Replace(after) => {
                self.known = if after.is_zero() {
                    Known::Ending
                } else {
                    Known::Alive
                };
                self.next = now + after;
                self.replace = true;
            }
        }
    }
}

/// A part of a time, by chance.
fn share(time: Duration) -> Duration {
    time * clock::chance() / 1_000
}

/// Extends credentials until it is told to stop.
pub(super) async fn run(table: &Table, tools: &Tools, stop: &CancellationToken) {
    loop {
        tokio::select! {
            // Nothing is asked while the timer runs, so nothing is lost.
            () = stop.cancelled() => return,
            () = tokio::time::sleep(STEP) => {}
        }
        let due = due(table, tools);
        if due.is_empty() {
            continue;
        }
        let own = match tools.secrets.login(&Login::Own).await {
            Ok(own) => own,
            Err(error) => {
                away(table, tools, &error);
                continue;
            }
        };
        let mut questions: Vec<BoxFuture<'_, ()>> = Vec::with_capacity(due.len());
        for question in due {
            questions.push(ask(question, &own, table, tools).boxed());
        }
        let mut questions = futures::stream::iter(questions).buffer_unordered(WIDTH);
        while questions.next().await.is_some() {}
    }
}

/// Lists what is due of this agent's share; of what is to be replaced only the mark is set.
fn due(table: &Table, tools: &Tools) -> Vec<Question> {
    let (due, woken) = table.with(|rows| due_of(rows, &tools.agent, Instant::now()));
    if woken {
        table.wake();
    }
    due
}

/// As [`due`]; says too whether something is to be replaced from now on.
fn due_of(rows: &mut Rows, me: &str, now: Instant) -> (Vec<Question>, bool) {
    let (mut due, mut woken) = (Vec::new(), false);
    if rows.away.is_some_and(|next| next > now) {
        return (due, woken);
    }
    let mine: Vec<Place> = rows
        .apps
        .keys()
        .filter(|place| rows.keeper(place) == Some(me))
        .cloned()
        .collect();
    for place in mine {
        let tokens = rows.tokens.get(&place.cluster).cloned().unwrap_or_default();
        let Some(app) = rows.apps.get_mut(&place) else {
            continue;
        };
        for (secret, row) in &mut app.secrets {
            let Some(record) = row.record.as_ref().filter(|_| row.problem.is_none()) else {
                continue;
            };
            for (path, known) in &mut row.credentials {
                let Some(credential) = record.state.credentials.get(path) else {
                    continue;
                };
                if tokens.is_empty() || tokens.contains(&credential.parent) {
                    known.orphan = None;
                } else {
                    woken |= known.orphaned(now);
                }
                if known.next > now || known.known != Known::Alive {
                    continue;
                }
                if known.replace {
                    known.known = Known::Ending;
                    woken = true;
                    continue;
                }
                due.push(Question {
                    place: place.clone(),
                    secret: secret.clone(),
                    credential: credential.clone(),
                    budget: rotate_of(record).outage_budget,
                });
                if rows.away.is_some() {
                    // This one asks for all. Only who really asks may say so: without a credential
                    // that is due, the versions ask.
                    rows.away = Some(now + PROBE);
                    return (due, woken);
                }
            }
        }
    }
    (due, woken)
}

impl CredentialRow {
    /// The token that holds it is of no living agent, so it may end any time: it is replaced soon, and
    /// not all of them at once. Says whether it is to be replaced from now on.
    fn orphaned(&mut self, now: Instant) -> bool {
        let until = *self
            .orphan
            .get_or_insert_with(|| now + share(ORPHAN_SPREAD));
        let ends = until <= now && self.known == Known::Alive;
        if ends {
            self.known = Known::Ending;
        }
        ends
    }
}

/// Asks about one credential and notes the answer.
async fn ask(question: Question, own: &Session, table: &Table, tools: &Tools) {
    let Some(lease) = &question.credential.lease else {
        return;
    };
    let asked = question.credential.seconds;
    let answer = tools.secrets.renew(own, lease, asked).await;
    let now = Instant::now();
    let mut wake = false;
    let extend = match &answer {
        Ok(_) => due_extension(&question, table, now),
        Err(_) => None,
    };
    note(&question, table, tools, |row| match &answer {
        Ok(lease) => {
            let life = Life::renewed(
                Duration::from_secs(lease.seconds),
                Duration::from_secs(asked),
                lease.renewable,
            );
            row.plan(life, question.budget, now);
            wake |= row.known != Known::Alive;
            true
        }
        Err(SecretsError::Missing { .. }) => {
            row.known = Known::Gone;
            wake = true;
            true
        }
        Err(
            SecretsError::Forbidden { .. }
            | SecretsError::LoginRefused { .. }
            | SecretsError::VersionGone { .. }
            | SecretsError::DataPrefix { .. }
            | SecretsError::Unexpected { .. },
        ) => {
            // It may be alive, and nobody extends it: used to its end, replaced inside the budget.
            row.errors += 1;
            let ends = *row
                .ends
                .get_or_insert_with(|| now + Duration::from_secs(asked));
            let left = ends.saturating_duration_since(now);
            if left <= question.budget {
                row.known = Known::Ending;
                wake = true;
            }
            // Not later than the budget begins.
            row.next = now + lease::AGAIN.1.min(left.saturating_sub(question.budget));
            true
        }
        Err(SecretsError::Unavailable { .. } | SecretsError::Unanswered { .. }) => {
            row.errors += 1;
            row.next = now;
            false
        }
    });
    match &answer {
        Ok(_) => table.with(Rows::answered),
        Err(error) => away(table, tools, error),
    }
    if let Some(accessor) = extend {
        extend_token(&question, &accessor, own, table, tools).await;
    }
    if wake {
        table.wake();
    }
}

/// Notes an answer in the credential's row; `told` says whether Vault answered about it.
fn note(
    question: &Question,
    table: &Table,
    tools: &Tools,
    told: impl FnOnce(&mut CredentialRow) -> bool,
) {
    table.with(|rows| {
        let Some(row) = rows.secret_mut(&question.place, &question.secret) else {
            return;
        };
        let known = row.credentials.get_mut(&question.credential.path);
        let known = known.filter(|known| known.issued == question.credential.issued);
        if known.is_some_and(told) {
            row.contact = Some(tools.clock.now());
        }
    });
}

/// Says whether the token that holds a credential has to be extended too.
fn due_extension(
    question: &Question,
    table: &Table,
    now: Instant,
) -> Option<deploy::secret::Accessor> {
    let accessor = question.credential.accessor.clone()?;
    table.with(|rows| {
        let row = rows.secret_mut(&question.place, &question.secret)?;
        let known = row.credentials.get(&question.credential.path)?;
        (known.extend <= now).then_some(accessor)
    })
}

async fn extend_token(
    question: &Question,
    accessor: &deploy::secret::Accessor,
    own: &Session,
    table: &Table,
    tools: &Tools,
) {
    let answer = tools.secrets.extend(own, accessor).await;
    let now = Instant::now();
    note(question, table, tools, |row| match answer {
        Ok(seconds) => {
            row.extend = now + Duration::from_secs(seconds / 2);
            true
        }
        Err(SecretsError::Missing { .. }) => {
            row.known = Known::Gone;
            true
        }
        Err(error) => {
            tracing::warn!(%error, secret = question.place.of_secret(&question.secret),
                "the token that holds a credential could not be extended");
            row.extend = now + lease::AGAIN.1;
            false
        }
    });
}

/// Notes that Vault is away, where an error says so.
pub(super) fn away(table: &Table, tools: &Tools, error: &SecretsError) {
    if let SecretsError::Unavailable { reason, .. } = error {
        table.with(|rows| {
            if rows.away.is_none() {
                tracing::warn!(
                    reason,
                    "Vault is away; credentials are used as long as they live"
                );
            }
            rows.away = Some(Instant::now() + PROBE);
            let since = rows.outage.take().map(|(since, _)| since);
            let since = since.unwrap_or_else(|| tools.clock.now());
            rows.outage = Some((since, reason.clone()));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn without_a_credential_that_is_due_the_question_is_left_to_others() {
        let now = Instant::now();
        let mut rows = Rows {
            away: Some(now),
            ..Rows::default()
        };
        let (due, woken) = due_of(&mut rows, "me", now);
        assert!(due.is_empty() && !woken);
        assert_eq!(rows.away, Some(now));
    }
}
