//! Leases that dead runs were issued and that nobody uses: noted until they are revoked.
//!
//! Called by `app` at the start and by the task that revokes them. They are moved out of the run's own
//! entries, so that a run that goes on, or ends, does not take them along. Invariant: what is noted here
//! is in no Secret.

use deploy::secret::LeaseId;
use jiff::SignedDuration;
use jiff::Timestamp;
use redb::ReadableDatabase as _;
use redb::ReadableTable as _;
use serde::Deserialize;
use serde::Serialize;

use super::DiskJournal;
use super::Fault;
use super::record::LEASES;
use super::record::StoredEntry;
use super::record::decode;
use super::record::encode;
use super::recovery::Phase;
use super::recovery::UnfinishedRun;

/// No lease lives longer by default in Vault, so what is older is over.
const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 32);

/// Since when a lease is to be revoked.
#[derive(Serialize, Deserialize)]
struct Owed {
    since: Timestamp,
}

impl DiskJournal {
    /// Notes the leases of a run that wrote nothing, and that they are not the run's business any more.
    ///
    /// # Errors
    /// The disk.
    pub async fn owe_leases(&self, run: &UnfinishedRun, now: Timestamp) -> Result<(), Fault> {
        if run.phase != Phase::NothingWritten || run.leases.is_empty() {
            return Ok(());
        }
        let (id, leases) = (run.id.clone(), run.leases.clone());
        self.with("note leases to revoke", move |database| {
            let tx = database.begin_write()?;
            {
                let mut owed = tx.open_table(LEASES)?;
                let mut entries = tx.open_table(super::record::ENTRIES)?;
                let last = entries
                    .range((id.as_str(), 0)..=(id.as_str(), u64::MAX))?
                    .next_back()
                    .transpose()?
                    .map_or(0, |(key, _)| key.value().1 + 1);
                for (lease, number) in leases.into_iter().zip(last..) {
                    owed.insert(lease.0.as_str(), encode(&Owed { since: now })?.as_slice())?;
                    let moved = StoredEntry::LeaseRevoked { lease: lease.0 };
                    entries.insert((id.as_str(), number), encode(&moved)?.as_slice())?;
                }
            }
            tx.commit()?;
            Ok(())
        })
        .await
    }

    /// Lists what is to be revoked, and forgets what is over by itself.
    ///
    /// # Errors
    /// The disk.
    pub async fn owed_leases(&self, now: Timestamp) -> Result<Vec<LeaseId>, Fault> {
        self.with("list leases to revoke", move |database| {
            let owed = database.begin_read()?.open_table(LEASES)?;
            let (mut found, mut over) = (Vec::new(), Vec::new());
            for row in owed.iter()? {
                let (lease, value) = row?;
                let lease = LeaseId(lease.value().to_owned());
                let since = decode::<Owed>(value.value())?.since;
                if now.duration_since(since) > LONGEST {
                    over.push(lease);
                } else {
                    found.push(lease);
                }
            }
            if !over.is_empty() {
                let tx = database.begin_write()?;
                for lease in over {
                    tx.open_table(LEASES)?.remove(lease.0.as_str())?;
                }
                tx.commit()?;
            }
            Ok(found)
        })
        .await
    }

    /// Notes that a lease is revoked.
    ///
    /// # Errors
    /// The disk.
    pub async fn forget_lease(&self, lease: &LeaseId) -> Result<(), Fault> {
        let lease = lease.0.clone();
        self.with("forget a lease", move |database| {
            let tx = database.begin_write()?;
            tx.open_table(LEASES)?.remove(lease.as_str())?;
            tx.commit()?;
            Ok(())
        })
        .await
    }
}
