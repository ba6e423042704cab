//! What is due? Decides from a managed Secret's record and what is known of Vault what to do, and why.
//!
//! Pure; called by the daemon to plan its work and again by [`crate::engine`] under the app's lock,
//! so that nothing is done twice. [`lease`] says when credentials are renewed and replaced,
//! [`consumers`] which workloads use a Secret.

pub mod consumers;
pub mod lease;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::Timestamp;

use crate::managed::Record;
use crate::managed::Setback;
use crate::ports::Newest;
use crate::ports::OwnToken;
use crate::ports::Standing;
use crate::spec::OnDeleted;
use crate::spec::Restart;
use crate::spec::Rotate;
use crate::spec::Source;

/// After a change that was taken back, the next try comes after this time, doubled each time.
const SETBACK: Duration = Duration::from_secs(10 * 60);
/// The longest wait after changes that were taken back.
const LONGEST_SETBACK: Duration = Duration::from_secs(24 * 60 * 60);

/// Why something is done to a managed Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Vault has another version of a path.
    Version {
        /// The path.
        path: String,
        /// The version to take.
        version: u64,
    },
    /// A credential ends and cannot be extended.
    Ending {
        /// The path.
        path: String,
    },
    /// A credential is gone: revoked, or ended together with its token.
    Gone {
        /// The path.
        path: String,
    },
    /// The agent's token that holds a credential ends.
    TokenEnds {
        /// The path.
        path: String,
    },
    /// Keys were changed or taken over by somebody else.
    Damaged {
        /// The keys.
        keys: BTreeSet<String>,
    },
    /// The Secret was deleted.
    Deleted,
    /// Somebody asked for it.
    Asked,
    /// The rollout after the last change is not judged yet, or what it replaced is not ended yet.
    Unsettled,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { path, version } => write!(f, "{path} has version {version}"),
            Self::Ending { path } => {
                write!(f, "the credential from {path} ends and cannot be extended")
            }
            Self::Gone { path } => write!(f, "the credential from {path} is gone"),
            Self::TokenEnds { path } => write!(
                f,
                "the agent's token that holds the credential from {path} ends"
            ),
            Self::Damaged { keys } => {
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                write!(f, "somebody changed {}", keys.join(", "))
            }
            Self::Deleted => f.write_str("somebody deleted the Secret"),
            Self::Asked => f.write_str("it was asked for"),
            Self::Unsettled => f.write_str("the last change is not settled"),
        }
    }
}

impl Reason {
    /// Says whether it waits neither for a window nor for a time to pass.
    const fn is_urgent(&self) -> bool {
        match self {
            Self::Version { .. } => false,
            Self::Ending { .. }
            | Self::Gone { .. }
            | Self::TokenEnds { .. }
            | Self::Damaged { .. }
            | Self::Deleted
            | Self::Asked
            | Self::Unsettled => true,
        }
    }
}

/// What is known about one credential besides the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It is alive and need not be replaced yet.
    Alive,
    /// It is alive and has to be replaced now.
    Ending,
    /// Vault says that it is gone.
    Gone,
}

/// How the Secret is found in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// As it was written.
    Whole,
    /// Without some of the agent's keys, or with others' values in them.
    Damaged(BTreeSet<String>),
    /// Not at all.
    Deleted,
}

/// What is known now.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The time.
    pub now: Timestamp,
    /// The newest versions, by path. A path that is not here was not looked at.
    pub newest: &'a BTreeMap<String, Newest>,
    /// The credentials, by path. One that is not here is taken as alive.
    pub credentials: &'a BTreeMap<String, Known>,
    /// The agent's own token.
    pub own: Option<&'a OwnToken>,
    /// How the Secret is found.
    pub found: &'a Found,
    /// Whether somebody asked for a change.
    pub asked: Asked,
}

/// Whether somebody asked for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nobody did.
    No,
    /// Somebody did: everything that can be replaced is.
    Yes,
}

/// What to do about one managed Secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Due {
    /// What is to be done now, and why.
    pub now: BTreeSet<Reason>,
    /// What waits, and until when.
    pub later: Option<(Timestamp, Reason)>,
    /// What is wrong and is left as it is by choice, in words.
    pub kept: Vec<String>,
}

/// Says what is due.
#[must_use]
pub fn due(record: &Record, facts: &Facts<'_>) -> Due {
    let mut due = Due::default();
    match facts.found {
        Found::Whole => {}
        Found::Deleted => due.take(Reason::Deleted),
        Found::Damaged(keys) => due.take(Reason::Damaged { keys: keys.clone() }),
    }
    if facts.asked == Asked::Yes {
        due.take(Reason::Asked);
    }
    if is_due_to_settle(record, facts.now) {
        due.take(Reason::Unsettled);
    }
    for reason in credentials(record, facts) {
        due.take(reason);
    }
    for (path, newest) in watched(record, facts) {
        if let Some(version) = wanted_version(record, &path, newest, &mut due.kept) {
            due.wait_or_take(Reason::Version { path, version }, record, facts);
        }
    }
    due
}

/// Says whether the last change can be brought to its end now. Where nobody is restarted the old
/// credentials end by themselves first.
fn is_due_to_settle(record: &Record, now: Timestamp) -> bool {
    let state = &record.state;
    let waits = state.trial.is_none() && rotate_of(record).restart == Restart::Never;
    state.is_open() && !(waits && state.old_end().is_some_and(|end| end > now))
}

fn credentials(record: &Record, facts: &Facts<'_>) -> Vec<Reason> {
    let mut reasons = Vec::new();
    for (path, credential) in &record.state.credentials {
        let path = path.clone();
        match facts.credentials.get(&path) {
            Some(Known::Gone) => reasons.push(Reason::Gone { path }),
            Some(Known::Ending) => reasons.push(Reason::Ending { path }),
            Some(Known::Alive) | None => {
                // The daemon notes which of its own tokens are on their way out.
                if let Some(own) = facts.own
                    && own.id == credential.parent
                    && own.ends.is_some_and(|ends| near(ends, facts.now, record))
                {
                    reasons.push(Reason::TokenEnds { path });
                }
            }
        }
    }
    reasons
}

/// Says whether a time is so near that what ends then has to be replaced.
fn near(ends: Timestamp, now: Timestamp, record: &Record) -> bool {
    let budget = rotate_of(record).outage_budget;
    let left = ends.duration_since(now);
    left <= SignedDuration::try_from(budget * 2).unwrap_or(SignedDuration::MAX)
}

/// Returns how a record's Secret is kept fresh.
#[must_use]
pub fn rotate_of(record: &Record) -> Rotate {
    record.declaration.secret.rotate.clone().unwrap_or_default()
}

/// Lists the paths whose newest version counts: not those that the spec pins to one.
#[must_use]
pub fn followed(record: &Record) -> BTreeSet<&str> {
    let sources = record.declaration.secret.keys.values();
    sources
        .filter_map(|source| match source {
            Source::Field {
                path,
                version: None,
                ..
            } => Some(path.as_str()),
            Source::Field { .. } | Source::Template(_) => None,
        })
        .filter(|path| record.state.versions.contains_key(*path))
        .collect()
}

fn watched(record: &Record, facts: &Facts<'_>) -> Vec<(String, Newest)> {
    let paths = followed(record).into_iter();
    paths
        .filter_map(|path| Some((path.to_owned(), *facts.newest.get(path)?)))
        .collect()
}

/// Says which version of a path ought to be in the Secret and is not.
fn wanted_version(
    record: &Record,
    path: &str,
    newest: Newest,
    kept: &mut Vec<String>,
) -> Option<u64> {
    let has = record.state.versions.get(path).copied();
    let version = match newest.standing {
        Standing::Live => newest.version,
        Standing::Deleted | Standing::Destroyed => {
            let word = match newest.standing {
                Standing::Deleted => "deleted",
                Standing::Live | Standing::Destroyed => "destroyed",
            };
            match rotate_of(record).on_deleted {
                OnDeleted::Keep | OnDeleted::Fail => {
                    kept.push(format!(
                        "version {} of {path} is {word}; the values of version {} are kept",
                        newest.version,
                        has.unwrap_or(0)
                    ));
                    return None;
                }
                // Which one can be read is found out by reading; it was read before if it is this.
                OnDeleted::Previous => {
                    let before = newest.version.saturating_sub(1);
                    if before == 0 || has.is_some_and(|has| has <= before) {
                        kept.push(format!(
                            "version {} of {path} is {word}; the values of version {} are used",
                            newest.version,
                            has.unwrap_or(0)
                        ));
                        return None;
                    }
                    before
                }
            }
        }
    };
    if has == Some(version) {
        return None;
    }
    let setback = record.state.setback.as_ref();
    let failed = setback.and_then(|setback| setback.versions.get(path));
    if failed == Some(&version) {
        kept.push(format!(
            "version {version} of {path} did not work and was taken back; a newer one, or \
             `quaymaster managed rotate`, tries again"
        ));
        return None;
    }
    Some(version)
}

/// Says when a Secret may be changed again after changes that were taken back.
#[must_use]
pub fn after_setback(setback: &Setback) -> Timestamp {
    let factor = 1_u32 << setback.times.saturating_sub(1).min(16);
    let wait = (SETBACK * factor).min(LONGEST_SETBACK);
    setback.at.checked_add(wait).unwrap_or(Timestamp::MAX)
}

impl Due {
    fn take(&mut self, reason: Reason) {
        debug_assert!(reason.is_urgent());
        self.now.insert(reason);
    }

    /// Takes a reason that waits for its time.
    fn wait_or_take(&mut self, reason: Reason, record: &Record, facts: &Facts<'_>) {
        let rotate = rotate_of(record);
        let mut from = facts.now;
        let written = record.state.written;
        let later = |base: Timestamp, wait: Duration| base.checked_add(wait).unwrap_or(base);
        if let Some(age) = rotate.min_age {
            from = from.max(later(written, age));
        }
        if let Some(setback) = &record.state.setback {
            from = from.max(after_setback(setback));
        }
        let inside = |time: Timestamp| {
            rotate.windows.is_empty() || rotate.windows.iter().any(|window| window.contains(time))
        };
        if from <= facts.now && inside(facts.now) {
            self.now.insert(reason);
            return;
        }
        if !inside(from) {
            from = next_window(from, inside);
        }
        let sooner = self.later.as_ref().is_none_or(|(time, _)| from < *time);
        if sooner {
            self.later = Some((from, reason));
        }
    }

    /// Says whether there is nothing to do now.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.now.is_empty()
    }
}

/// Finds the next minute inside a window; a week holds every window that there is.
fn next_window(from: Timestamp, inside: impl Fn(Timestamp) -> bool) -> Timestamp {
    const MINUTE: i64 = 60;
    const WEEK: i64 = 7 * 24 * 60;
    let first = from.as_second().div_euclid(MINUTE);
    (1..=WEEK)
        .filter_map(|minute| Timestamp::from_second((first + minute) * MINUTE).ok())
        .find(|time| inside(*time))
        .unwrap_or(from)
}

#[cfg(test)]
mod tests;
