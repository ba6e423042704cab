//! What an app has and does not want any more: found, held back by a brake, deleted.
//!
//! Called by [`crate::engine`]: [`find`] before the plan is told, [`brake`] before the first write,
//! [`delete`] after the rollout is ready, so that nothing goes that still serves. Invariants: only
//! objects that carry the app's label are deleted, by uid, and never because an input was empty.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt as _;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::time::Instant;

use crate::backoff::Patience;
use crate::history::Member;
use crate::history::PART_OF;
use crate::history::Past;
use crate::history::store::Place;
use crate::object::ObjectId;
use crate::object::list;
use crate::object::text;
use crate::plan::WIDTH;
use crate::plan::cluster_trouble;
use crate::ports::ClusterError;
use crate::ports::Deletion;
use crate::ports::Dependents;
use crate::ports::Write;
use crate::spec::Rollout;

/// Up to so many objects are deleted whatever their share of the app is: small apps change as a whole.
const FEW: usize = 3;

/// How long a deleted object may take to go before its finalizers are told.
const GOING: Duration = Duration::from_secs(20);

/// An object that the app has and does not want any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Which object.
    pub id: ObjectId,
    /// The uid that it has now.
    pub uid: String,
    /// Why it stays whatever the spec says; unset where it can go.
    pub stays: Option<&'static str>,
}

/// Says which of the leftovers a run deletes.
pub fn going<'a>(
    rollout: &Rollout,
    leftovers: &'a [Leftover],
) -> impl Iterator<Item = &'a Leftover> + use<'a> {
    let prune = rollout.prune;
    leftovers
        .iter()
        .filter(move |one| prune && one.stays.is_none())
}

/// Why nothing is deleted, and nothing written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Brake {
    /// Too large a share.
    #[error("pruning would delete {going} of the {all} objects of the app")]
    Share {
        /// How many would go.
        going: usize,
        /// How many the app has.
        all: usize,
    },
    /// A kind that holds data, or other objects.
    #[error("pruning would delete {object}, which holds data or other objects")]
    Protected {
        /// The first of them.
        object: String,
    },
}

/// Looks which members are there and not wanted.
///
/// # Errors
/// The first error that waiting does not mend.
pub async fn find(
    place: Place<'_>,
    past: &Past,
    wanted: &BTreeSet<ObjectId>,
    patience: &Patience<'_>,
) -> Result<Vec<Leftover>, ClusterError> {
    let mut looks = Vec::new();
    for member in past.leftovers(wanted) {
        looks.push(leftover(place, member, patience).boxed());
    }
    // In order, so that the error that is told is the same one every time.
    let mut looks = futures::stream::iter(looks).buffered(WIDTH);
    let mut found = Vec::new();
    while let Some(look) = looks.next().await {
        found.extend(look?);
    }
    // What others need goes last: in the opposite order of writing, and names for a stable plan.
    found.sort_by(|a, b| {
        let wave = |one: &Leftover| crate::plan::Wave::of(&one.id.gvk);
        wave(b).cmp(&wave(a)).then_with(|| a.id.cmp(&b.id))
    });
    Ok(found)
}

/// Looks at one member; `None` where it is gone.
async fn leftover(
    place: Place<'_>,
    member: &Member,
    patience: &Patience<'_>,
) -> Result<Option<Leftover>, ClusterError> {
    let id = member.id();
    let live = look(place, &id, patience).await?;
    Ok(live.map(|live| Leftover {
        stays: stays(member, &live, &place.set_id()),
        uid: text(&live, &["metadata", "uid"]).to_owned(),
        id,
    }))
}

/// Reads an object, of Secrets only what is no value; `None` where it or its kind is gone.
async fn look(
    place: Place<'_>,
    id: &ObjectId,
    patience: &Patience<'_>,
) -> Result<Option<Value>, ClusterError> {
    let live = if id.gvk.is("", "Secret") {
        let call = || place.cluster.secret(place.actor, id);
        let view = patience.retry(call, cluster_trouble).await;
        view.map(|view| view.map(|view| view.rest))
    } else {
        let call = || place.cluster.get(place.actor, id);
        patience.retry(call, cluster_trouble).await
    };
    match live {
        Err(ClusterError::UnknownKind { .. } | ClusterError::Missing { .. }) => Ok(None),
        other => other,
    }
}

fn stays(member: &Member, live: &Value, set: &str) -> Option<&'static str> {
    let metadata = &live["metadata"];
    if text(metadata, &["labels", PART_OF]) != set {
        return Some("it does not carry the app's label any more: somebody else took it");
    }
    if !member.uid.is_empty() && text(metadata, &["uid"]) != member.uid {
        return Some("it was deleted and made anew by somebody else");
    }
    if text(metadata, &["annotations", "quaymaster.dev/keep"]) == "true" {
        return Some("its annotation quaymaster.dev/keep says so");
    }
    None
}

/// Holds back deletions that look like a mistake. `all` is how many objects the app has.
///
/// # Errors
/// What would go, and of how many.
pub fn brake(rollout: &Rollout, leftovers: &[Leftover], all: usize) -> Result<(), Brake> {
    if !rollout.prune {
        return Ok(());
    }
    let going: Vec<&Leftover> = leftovers.iter().filter(|one| one.stays.is_none()).collect();
    if let Some(first) = going.iter().find(|one| is_protected(&one.id))
        && !rollout.prune_protected
    {
        return Err(Brake::Protected {
            object: first.id.to_string(),
        });
    }
    let limit = all * usize::from(rollout.prune_share) / 100;
    if going.len() > FEW.max(limit) {
        return Err(Brake::Share {
            going: going.len(),
            all,
        });
    }
    Ok(())
}

/// Kinds whose end takes data or other objects along.
fn is_protected(id: &ObjectId) -> bool {
    matches!(
        (id.gvk.group.as_str(), id.gvk.kind.as_str()),
        (
            "",
            "Namespace" | "PersistentVolumeClaim" | "PersistentVolume"
        ) | ("apps", "StatefulSet")
            | ("apiextensions.k8s.io", "CustomResourceDefinition")
    )
}

/// Deletes them one after the other. Returns what is gone, and what to tell about the others.
pub async fn delete(
    place: Place<'_>,
    leftovers: &[Leftover],
    patience: &Patience<'_>,
) -> (BTreeSet<ObjectId>, Vec<String>) {
    let mut gone = BTreeSet::new();
    let mut warnings = Vec::new();
    for one in leftovers.iter().filter(|one| one.stays.is_none()) {
        if patience.stop.is_cancelled() {
            warnings.push(format!(
                "the run was cancelled before {} was deleted",
                one.id
            ));
            continue;
        }
        let deletion = Deletion {
            uid: one.uid.clone(),
            dependents: Dependents::Background,
            write: Write::Commit,
        };
        let call = || place.cluster.delete(place.actor, &one.id, &deletion);
        let deleted = match patience.retry(call, cluster_trouble).await {
            // By uid, so once more is no harm.
            Err(ClusterError::Unanswered { .. }) => patience.retry(call, cluster_trouble).await,
            other => other,
        };
        match deleted {
            Ok(()) => match gone_by(place, one, patience).await {
                None => {
                    patience.log.object(one.id.to_string(), "deleted", "");
                    gone.insert(one.id.clone());
                }
                Some(why) => warnings.push(why),
            },
            Err(error) => warnings.push(format!("{} is not deleted: {error}", one.id)),
        }
    }
    (gone, warnings)
}

/// Waits a while until an object is gone; says what it waits for otherwise.
async fn gone_by(place: Place<'_>, one: &Leftover, patience: &Patience<'_>) -> Option<String> {
    let until = patience.deadline.min(Instant::now() + GOING);
    loop {
        let live = match look(place, &one.id, patience).await {
            Ok(Some(live)) if text(&live, &["metadata", "uid"]) == one.uid => live,
            Ok(_) => return None,
            Err(error) => return Some(format!("{} is being deleted: {error}", one.id)),
        };
        if Instant::now() >= until || patience.stop.is_cancelled() {
            let holders: Vec<&str> = list(&live, &["metadata", "finalizers"])
                .iter()
                .filter_map(Value::as_str)
                .collect();
            let why = match holders.as_slice() {
                [] => "its dependents are still there".to_owned(),
                some => format!(
                    "the controllers of its finalizers have to let it go: {}",
                    some.join(", ")
                ),
            };
            return Some(format!("{} is deleted but not gone yet: {why}", one.id));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Gvk;

    fn leftover(api_version: &str, kind: &str, name: &str) -> Leftover {
        Leftover {
            id: ObjectId {
                gvk: Gvk::new(api_version, kind),
                namespace: Some("app".to_owned()),
                name: name.to_owned(),
            },
            uid: "u".to_owned(),
            stays: None,
        }
    }

    fn pruning() -> Rollout {
        Rollout {
            prune: true,
            ..Rollout::default()
        }
    }

    #[test]
    fn a_large_share_of_an_app_does_not_go_unless_told() {
        let going: Vec<Leftover> = (0..6)
            .map(|n| leftover("v1", "ConfigMap", &n.to_string()))
            .collect();
        assert_eq!(brake(&pruning(), &going, 12), Ok(()));
        assert_eq!(
            brake(&pruning(), &going, 11),
            Err(Brake::Share { going: 6, all: 11 })
        );
        let all = Rollout {
            prune_share: 100,
            ..pruning()
        };
        assert_eq!(brake(&all, &going, 6), Ok(()));
        assert_eq!(brake(&Rollout::default(), &going, 6), Ok(()));
        assert_eq!(brake(&pruning(), &going[..3], 4), Ok(()));
    }

    #[test]
    fn what_holds_data_does_not_go_unless_told() {
        let claim = [leftover("v1", "PersistentVolumeClaim", "data")];
        let object = claim[0].id.to_string();
        assert_eq!(
            brake(&pruning(), &claim, 100),
            Err(Brake::Protected { object })
        );
        let told = Rollout {
            prune_protected: true,
            ..pruning()
        };
        assert_eq!(brake(&told, &claim, 100), Ok(()));
        let kept = [Leftover {
            stays: Some("kept"),
            ..leftover("v1", "PersistentVolumeClaim", "data")
        }];
        assert_eq!(brake(&pruning(), &kept, 100), Ok(()));
    }

    #[test]
    fn only_what_carries_the_label_goes() {
        let member = Member::of(&leftover("v1", "ConfigMap", "a").id, "u");
        let live = |label: &str, uid: &str| serde_json::json!({"metadata": {"uid": uid, "labels": { PART_OF: label }}});
        assert_eq!(stays(&member, &live("set", "u"), "set"), None);
        assert!(stays(&member, &live("other", "u"), "set").is_some());
        assert!(stays(&member, &live("set", "v"), "set").is_some());
    }
}
