//! The lines of a watch in the run's log: what changed, and a sign of life.
//!
//! Used by [`super::watch`]. A line is written when what it says is new; while nothing changes, one
//! line every [`QUIET`] tells what is waited for.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::state::View;
use crate::log::RunLog;
use crate::object::ObjectId;
use crate::rollout::Standing;

/// The longest time without a line.
const QUIET: Duration = Duration::from_secs(30);

/// At most this many objects are named in a sign of life.
const NAMED: usize = 3;

/// What was told already.
#[derive(Debug)]
pub(super) struct Progress {
    told: BTreeMap<ObjectId, Standing>,
    causes: BTreeSet<(ObjectId, &'static str)>,
    began: Instant,
    last: Instant,
}

impl Progress {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            told: BTreeMap::new(),
            causes: BTreeSet::new(),
            began: now,
            last: now,
        }
    }

    /// Tells what is new.
    pub(super) fn tell(&mut self, view: &View, log: &RunLog, now: Instant) {
        if view.unlisted.is_empty() {
            self.changes(view, log, now);
        }
        if now.duration_since(self.last) >= QUIET {
            self.last = now;
            let seconds = now.duration_since(self.began).as_secs();
            log.info(format!("{} (after {seconds} s)", still_waiting(view)));
        }
    }

    fn changes(&mut self, view: &View, log: &RunLog, now: Instant) {
        for judged in &view.objects {
            if self.told.get(&judged.id) != Some(&judged.standing) {
                let (state, detail) = match &judged.standing {
                    Standing::Ready => ("ready", ""),
                    Standing::Pending(why) => ("waiting", why.as_str()),
                    Standing::Failed(why) => ("failed", why.as_str()),
                };
                log.object(judged.id.to_string(), state, detail);
                self.told.insert(judged.id.clone(), judged.standing.clone());
                self.last = now;
            }
            for (finding, _) in &judged.findings {
                let is_news = finding.kind != "waiting"
                    && self.causes.insert((judged.id.clone(), finding.kind));
                if is_news {
                    log.warn(format!("{}: {}", judged.id, finding.message));
                    self.last = now;
                }
            }
        }
    }
}

fn still_waiting(view: &View) -> String {
    if !view.unlisted.is_empty() {
        return format!(
            "still waiting for the listing of {}",
            view.unlisted.join(", ")
        );
    }
    let waiting: Vec<String> = view
        .objects
        .iter()
        .filter_map(|judged| match &judged.standing {
            Standing::Ready => None,
            Standing::Pending(why) | Standing::Failed(why) => {
                Some(format!("{} ({why})", judged.id))
            }
        })
        .collect();
    let more = waiting.len().saturating_sub(NAMED);
    let named = waiting
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let rest = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "still waiting for {} of {} objects: {named}{rest}",
        waiting.len(),
        view.objects.len()
    )
}
