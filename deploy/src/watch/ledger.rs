//! Since when each finding has been seen.
//!
//! Used by [`super::state`]. Findings are pure and know no time; this remembers them between looks. A
//! finding that was away for a moment (containers alternate between states) is the same one when it
//! comes back within [`GAP`].

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::object::ObjectId;

/// How long a finding may be away and still count as the same.
const GAP: Duration = Duration::from_secs(10);

/// One finding of one object: its kind and its subject.
pub(super) type Key = (ObjectId, String, String);

/// First and last sight of each finding.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    seen: BTreeMap<Key, (Instant, Instant)>,
}

impl Ledger {
    /// Notes that a finding is seen now; returns for how long it has been seen.
    pub(super) fn note(&mut self, key: Key, now: Instant) -> Duration {
        let (first, last) = self.seen.entry(key).or_insert((now, now));
        if now.duration_since(*last) > GAP {
            *first = now;
        }
        *last = now;
        now.duration_since(*first)
    }

    /// Makes all findings of a kind young again, because what they wait for has just moved.
    pub(super) fn restart(&mut self, kind: &str) {
        self.seen.retain(|(_, known, _), _| known != kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Gvk;

    fn key() -> Key {
        let id = ObjectId {
            gvk: Gvk::new("apps/v1", "Deployment"),
            namespace: Some("shop".to_owned()),
            name: "web".to_owned(),
        };
        (id, "crash".to_owned(), "web-1/app".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_finding_ages_while_it_is_seen_and_starts_anew_after_a_gap() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        assert_eq!(ledger.note(key(), start), Duration::ZERO);
        let later = start + Duration::from_secs(4);
        assert_eq!(ledger.note(key(), later), Duration::from_secs(4));
        let much_later = later + Duration::from_secs(11);
        assert_eq!(ledger.note(key(), much_later), Duration::ZERO);
    }
}
