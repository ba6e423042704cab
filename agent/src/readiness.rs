//! Named blockers: what keeps the agent from being ready, by name and with the reason.
//!
//! Parts hold a [`Blocker`] from the start and clear it when they work; background probes set it
//! again when they do not. Read by `/readyz`. Invariant: a part that was never cleared blocks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use proto::health;

/// All parts and their standing; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    blocked: Arc<Mutex<BTreeMap<String, String>>>,
}

/// One part's own handle.
#[derive(Debug)]
pub struct Blocker {
    name: String,
    all: Readiness,
}

impl Readiness {
    /// Adds a part that is not ready yet.
    #[must_use]
    pub fn block(&self, name: impl Into<String>, reason: impl Into<String>) -> Blocker {
        let blocker = Blocker {
            name: name.into(),
            all: self.clone(),
        };
        blocker.set(reason);
        blocker
    }

    /// Returns how the agent stands now.
    #[must_use]
    pub fn now(&self) -> health::Readiness {
        let blockers = self.with(|blocked| {
            let blocker = |(name, reason): (&String, &String)| health::Blocker {
                name: name.clone(),
                reason: reason.clone(),
            };
            blocked.iter().map(blocker).collect::<Vec<_>>()
        });
        health::Readiness {
            ready: blockers.is_empty(),
            blockers,
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, String>) -> T) -> T {
        // Every change is one map operation, so a poisoned map is whole.
        act(&mut self.blocked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Blocker {
    /// Says that the part does not work, and why.
    pub fn set(&self, reason: impl Into<String>) {
        self.all
            .with(|blocked| blocked.insert(self.name.clone(), reason.into()));
    }

    /// Says that the part works.
    pub fn clear(&self) {
        self.all.with(|blocked| blocked.remove(&self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_blocks_until_it_is_cleared() {
        let readiness = Readiness::default();
        let vault = readiness.block("vault", "not asked yet");
        let journal = readiness.block("journal", "recovering");
        journal.clear();
        let now = readiness.now();
        assert!(!now.ready);
        assert_eq!(now.blockers[0].name, "vault");
        vault.clear();
        assert!(readiness.now().ready);
        vault.set("sealed");
        assert_eq!(readiness.now().blockers[0].reason, "sealed");
    }
}
