//! Helm's records of a release, by the labels of its Secrets: which revisions there are, and what
//! a pending one means.
//!
//! Called by [`super`]. The records' contents are never read. Pure but for [`read`].

use std::collections::BTreeSet;

use crate::backoff::Patience;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::text;
use crate::plan::cluster_trouble;
use crate::ports::ClusterError;
use crate::ports::Ports;
use crate::ports::Release;
use crate::ports::SecretView;
use crate::principal::Actor;
use crate::render::RECORD;

use super::CONTENT;
use super::READY;
use super::ROLLOUT;
use super::RUN;
use super::ReleaseError;

/// A pending rollback of a release of ours is taken for dead after this time, in seconds: Helm
/// waits for nothing but hooks then, at most this long by default.
const DEAD: i64 = 300;

/// One revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The Secret.
    pub(super) id: ObjectId,
    /// Its uid.
    pub(super) uid: String,
    /// The revision.
    pub(super) revision: u64,
    /// Helm's word, such as `deployed`.
    pub(super) status: String,
    /// The run that wrote it; inherited by revisions that people make.
    pub(super) run: Option<String>,
    /// The digest of its content.
    pub(super) content: Option<String>,
    /// Whether everything of it was ready once.
    pub(super) ready: bool,
    /// When it was last changed, in seconds of the Unix time.
    pub(super) modified: Option<i64>,
}

impl Record {
    /// Says whether Helm holds it for deployed.
    pub(super) fn is_good(&self) -> bool {
        self.status == "deployed"
    }

    fn is_pending(&self) -> bool {
        self.status.starts_with("pending-")
    }

    /// Says whether it was deployed once and worked, as far as we know: what people deployed is
    /// taken as working.
    fn worked(&self) -> bool {
        (self.is_good() || self.status == "superseded") && (self.ready || self.run.is_none())
    }
}

/// What the newest record says about work that is not done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pending<'a> {
    /// Nothing is pending.
    No,
    /// A dead run of ours left it; the revision to go back to, if there is one.
    Ours(&'a Record, Option<u64>),
    /// Somebody else's Helm is at work, or was killed.
    Others(&'a Record),
}

/// Judges the newest record. Our runs hold the app, so a record of a run of ours that is pending now
/// is of a dead one. A run of ours has a label of its own; Helm copies labels to revisions that
/// others make.
pub(super) fn pending(records: &[Record], now: i64) -> Pending<'_> {
    let Some((last, before)) = records.split_last().filter(|(last, _)| last.is_pending()) else {
        return Pending::No;
    };
    let inherited = before.iter().any(|record| record.run == last.run);
    let old = last.modified.is_some_and(|then| now - then > DEAD);
    let ours = match (&last.run, last.status.as_str()) {
        (None, _) => false,
        (Some(_), "pending-rollback") => !inherited || old,
        (Some(_), _) => !inherited,
    };
    if !ours {
        return Pending::Others(last);
    }
    let deployed = before.iter().rev().find(|record| record.is_good());
    let superseded = || before.iter().rev().find(|one| one.status == "superseded");
    let target = deployed.or_else(superseded);
    Pending::Ours(last, target.map(|record| record.revision))
}

/// Finds the newest revision before the current one that worked.
pub(super) fn earlier(records: &[Record]) -> Option<&Record> {
    let (_, before) = records.split_last()?;
    before.iter().rev().find(|record| record.worked())
}

/// Says whether the newest record is of this run and deployed.
pub(super) fn is_done(records: &[Record], run: &str) -> bool {
    let last = records.last();
    last.is_some_and(|last| last.is_good() && last.run.as_deref() == Some(run))
}

/// Reads the records of a release, the oldest first.
///
/// # Errors
/// The cluster.
pub(super) async fn read(
    actor: &Actor,
    release: &Release,
    ports: &Ports,
    patience: &Patience<'_>,
) -> Result<Vec<Record>, ReleaseError> {
    let secrets = patience
        .retry(
            || ports.cluster.secrets(actor, &release.namespace),
            cluster_trouble,
        )
        .await;
    let secrets = match secrets {
        // Without a namespace there is no record in it.
        Err(ClusterError::Missing { .. }) => return Ok(Vec::new()),
        other => other.map_err(|source| ReleaseError::Cluster {
            what: format!("the records of release {}", release.name),
            source,
        })?,
    };
    let mut records: Vec<Record> = secrets
        .iter()
        .filter_map(|(name, view)| record(release, name, view))
        .collect();
    records.sort_by_key(|record| record.revision);
    // After `helm uninstall --keep-history` the release begins anew.
    let gone = |record: &Record| matches!(record.status.as_str(), "uninstalled" | "uninstalling");
    if let Some(place) = records.iter().rposition(gone) {
        records.drain(..=place);
    }
    let mut seen = BTreeSet::new();
    records.retain(|record| seen.insert(record.revision));
    Ok(records)
}

fn record(release: &Release, name: &str, view: &SecretView) -> Option<Record> {
    let prefix = format!("{RECORD}{}.v", release.name);
    let revision = name.strip_prefix(&prefix)?.parse().ok()?;
    let label = |key| text(&view.rest, &["metadata", "labels", key]);
    let own = |key| Some(label(key)).filter(|value| !value.is_empty());
    if label("owner") != "helm" {
        return None;
    }
    Some(Record {
        id: ObjectId {
            gvk: Gvk::new("v1", "Secret"),
            namespace: Some(release.namespace.clone()),
            name: name.to_owned(),
        },
        uid: text(&view.rest, &["metadata", "uid"]).to_owned(),
        revision,
        status: label("status").to_owned(),
        run: own(RUN).map(str::to_owned),
        content: own(CONTENT).map(str::to_owned),
        ready: label(ROLLOUT) == READY,
        modified: own("modifiedAt")
            .or(own("createdAt"))
            .and_then(|seconds| seconds.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(revision: u64, status: &str, run: Option<&str>) -> Record {
        Record {
            id: ObjectId {
                gvk: Gvk::new("v1", "Secret"),
                namespace: Some("app".to_owned()),
                name: format!("{RECORD}app.v{revision}"),
            },
            uid: format!("u{revision}"),
            revision,
            status: status.to_owned(),
            run: run.map(str::to_owned),
            content: None,
            ready: false,
            modified: Some(1_000),
        }
    }

    fn judged(records: &[Record], now: i64) -> String {
        match pending(records, now) {
            Pending::No => "no".to_owned(),
            Pending::Ours(last, target) => format!("ours {} to {target:?}", last.revision),
            Pending::Others(last) => format!("others {}", last.revision),
        }
    }

    #[test]
    fn a_pending_record_is_ours_only_with_a_label_of_its_own() {
        let deployed = record(1, "deployed", Some("a"));
        let rows = [
            (vec![], "no"),
            (vec![deployed.clone()], "no"),
            (
                vec![deployed.clone(), record(2, "pending-upgrade", Some("b"))],
                "ours 2 to Some(1)",
            ),
            (
                vec![deployed.clone(), record(2, "pending-upgrade", Some("a"))],
                "others 2",
            ),
            (
                vec![deployed.clone(), record(2, "pending-upgrade", None)],
                "others 2",
            ),
            (
                vec![record(1, "pending-install", Some("b"))],
                "ours 1 to None",
            ),
            (vec![record(1, "pending-install", None)], "others 1"),
            (
                vec![
                    record(1, "superseded", Some("a")),
                    record(2, "failed", Some("b")),
                    record(3, "pending-upgrade", Some("c")),
                ],
                "ours 3 to Some(1)",
            ),
            (
                vec![deployed.clone(), record(2, "pending-rollback", Some("a"))],
                "others 2",
            ),
        ];
        for (records, expected) in rows {
            assert_eq!(judged(&records, 1_010), expected, "{records:?}");
        }
        let rollback = vec![deployed, record(2, "pending-rollback", Some("a"))];
        assert_eq!(judged(&rollback, 1_000 + DEAD + 1), "ours 2 to Some(1)");
    }

    #[test]
    fn only_a_revision_that_worked_is_gone_back_to() {
        let ready = |revision, status| Record {
            ready: true,
            ..record(revision, status, Some("a"))
        };
        let now = record(4, "deployed", Some("d"));
        let target = |records: &[Record]| earlier(records).map(|record| record.revision);
        let broken = record(3, "superseded", Some("c"));
        assert_eq!(
            target(&[ready(2, "superseded"), broken.clone(), now.clone()]),
            Some(2)
        );
        assert_eq!(
            target(&[record(2, "superseded", None), broken.clone(), now.clone()]),
            Some(2)
        );
        assert_eq!(target(&[broken, now.clone()]), None);
        assert_eq!(target(&[ready(2, "failed"), now.clone()]), None);
        assert_eq!(target(&[now]), None);
    }
}
