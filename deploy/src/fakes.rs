//! In-memory ports for tests: doubles that keep state and the contracts of [`crate::ports`].
//!
//! They behave instead of replaying: Vault has secrets, leases and tokens; the cluster has objects
//! with generations and field managers; the clock is set by hand; the journal is a list. Faults are
//! queued and taken one a call. `tests/it/contract.rs` runs the same suite against these and against
//! the real servers, so they cannot lie.

mod cluster;
mod fields;
mod git;
mod registry;
mod renderer;
mod vault;

use crate::ports::Clock;
use crate::ports::Entry;
use crate::ports::Journal;
use crate::ports::JournalError;
use crate::ports::Ports;
use crate::secret::FingerprintKey;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

pub use self::cluster::FakeCluster;
pub use self::git::FakeGit;
pub use self::registry::FakeRegistry;
pub use self::renderer::FakeRenderer;
pub use self::vault::FakeVault;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A clock that is set by hand.
pub struct ManualClock(Mutex<jiff::Timestamp>);

impl ManualClock {
    /// Starts at a second of the Unix time.
    #[must_use]
    pub fn at_unix(second: i64) -> Self {
        Self(Mutex::new(
            jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        ))
    }

    /// Moves the clock, forwards or back.
    pub fn shift(&self, seconds: i64) {
        let mut now = lock(&self.0);
        let moved = now.as_second() + seconds;
        *now = jiff::Timestamp::from_second(moved).unwrap_or(*now);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> jiff::Timestamp {
        *lock(&self.0)
    }
}

/// A journal in memory.
#[derive(Default)]
pub struct FakeJournal {
    entries: Mutex<Vec<Entry>>,
    full: Mutex<bool>,
}

impl FakeJournal {
    /// Makes every further append fail, as on a full disk.
    pub fn fill(&self) {
        *lock(&self.full) = true;
    }

    /// Forgets all entries.
    pub fn clear(&self) {
        lock(&self.entries).clear();
    }

    /// Returns the entries.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.entries).clone()
    }
}

impl Journal for FakeJournal {
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<(), JournalError>> {
        async move {
            if *lock(&self.full) {
                return Err(JournalError {
                    reason: "no space left on device".to_owned(),
                });
            }
            lock(&self.entries).push(entry);
            Ok(())
        }
        .boxed()
    }
}

/// All doubles of one run, for tests that look at them afterwards.
pub struct Fakes {
    /// Vault.
    pub vault: Arc<FakeVault>,
    /// The cluster.
    pub cluster: Arc<FakeCluster>,
    /// kustomize and Helm.
    pub renderer: Arc<FakeRenderer>,
    /// Git.
    pub git: Arc<FakeGit>,
    /// Image registries.
    pub registry: Arc<FakeRegistry>,
    /// The clock.
    pub clock: Arc<ManualClock>,
    /// The journal.
    pub journal: Arc<FakeJournal>,
    /// The key of fingerprints.
    pub key: Arc<FingerprintKey>,
}

impl Default for Fakes {
    fn default() -> Self {
        let key = Arc::new(FingerprintKey::new([7; 32]));
        let cluster = Arc::new(FakeCluster::new(Arc::clone(&key)));
        Self {
            vault: Arc::default(),
            renderer: Arc::new(FakeRenderer::new(Arc::clone(&cluster))),
            cluster,
            git: Arc::default(),
            registry: Arc::default(),
            clock: Arc::new(ManualClock::at_unix(1_800_000_000)),
            journal: Arc::default(),
            key,
        }
    }
}

impl Fakes {
    /// Returns them as ports.
    #[must_use]
    pub fn ports(&self) -> Ports {
        Ports {
            secrets: Arc::clone(&self.vault) as _,
            cluster: Arc::clone(&self.cluster) as _,
            renderer: Arc::clone(&self.renderer) as _,
            git: Arc::clone(&self.git) as _,
            registry: Arc::clone(&self.registry) as _,
            clock: Arc::clone(&self.clock) as _,
            journal: Arc::clone(&self.journal) as _,
        }
    }
}
