//! Reading and writing history in the cluster, as the run's actor.
//!
//! Called by [`crate::engine`] through these functions: [`read`] before the plan, [`begin`] before the
//! first write, [`keep`] beside the writes, [`close`] after the verdict, [`content`] for a revision that
//! shall come back. A parent that changed meanwhile is an error: the app's lock keeps others out, so
//! it was no run. Pieces of a revision are of no meaning until the parent says how many there are.

use std::collections::HashSet;

use futures::future;

use super::KEPT;
use super::Key;
use super::Member;
use super::Past;
use super::Revision;
use super::State;
use super::codec;
use super::codec::Broken;
pub use super::codec::Content;
use crate::backoff::Patience;
use crate::object::ObjectId;
use crate::object::text;
use crate::plan::cluster_trouble;
use crate::ports::Cluster;
use crate::ports::ClusterError;
use crate::ports::Deletion;
use crate::ports::Dependents;
use crate::ports::Write;
use crate::principal::Actor;

/// Why history cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The cluster.
    #[error("{doing} {object}")]
    Cluster {
        /// What was being done.
        doing: &'static str,
        /// With which ConfigMap.
        object: String,
        /// What the cluster says.
        source: ClusterError,
    },
    /// Somebody wrote something else into it.
    #[error("reading {object}")]
    Broken {
        /// Which ConfigMap.
        object: String,
        /// Why.
        source: Broken,
    },
}

/// One app's place, and who acts.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The run's cluster.
    pub cluster: &'a dyn Cluster,
    /// Who acts.
    pub actor: &'a Actor,
    /// The target's namespace.
    pub namespace: &'a str,
    /// The app's name.
    pub app: &'a str,
}

impl Place<'_> {
    /// Returns the value of the label that ties objects to this app.
    #[must_use]
    pub fn set_id(&self) -> String {
        codec::set_id(self.namespace, self.app)
    }

    fn parent(&self) -> ObjectId {
        codec::config_map(self.namespace, codec::parent_name(self.app))
    }

    fn piece(&self, revision: u64, piece: usize) -> ObjectId {
        codec::config_map(self.namespace, codec::piece_name(self.app, revision, piece))
    }
}

fn failed(doing: &'static str, id: &ObjectId) -> impl Fn(ClusterError) -> HistoryError {
    let object = id.to_string();
    move |source| HistoryError::Cluster {
        doing,
        object: object.clone(),
        source,
    }
}

/// Reads what is known of an app; of a new one nothing.
///
/// # Errors
/// The cluster, or a parent that this agent did not write.
pub async fn read(place: Place<'_>, patience: &Patience<'_>) -> Result<Past, HistoryError> {
    let id = place.parent();
    let found = patience
        .retry(|| place.cluster.get(place.actor, &id), cluster_trouble)
        .await;
    match found {
        Ok(Some(body)) => codec::past(&body).map_err(|source| HistoryError::Broken {
            object: id.to_string(),
            source,
        }),
        // The namespace may be one that this very run makes.
        Ok(None) | Err(ClusterError::Missing { .. }) => Ok(Past::default()),
        Err(source) => Err(failed("reading", &id)(source)),
    }
}

/// Notes that a revision begins, before its first object is written. Nothing is written where
/// everything that may be written is known to the parent already.
///
/// # Errors
/// The cluster.
pub async fn begin(
    place: Place<'_>,
    past: &mut Past,
    revision: Revision,
    wanted: &[ObjectId],
    patience: &Patience<'_>,
) -> Result<(), HistoryError> {
    let known: HashSet<Key<'_>> = past.members.iter().map(Member::key).collect();
    let new: Vec<Member> = wanted
        .iter()
        .filter(|id| !known.contains(&Key::of(id)))
        .map(|id| Member::of(id, ""))
        .collect();
    let is_first = new.is_empty();
    past.members.extend(new);
    past.revisions.push(revision);
    if is_first {
        return Ok(());
    }
    write_parent(place, past, patience).await
}

/// The pieces of a revision that are there before its verdict.
#[derive(Debug)]
pub struct Pieces(Vec<(ObjectId, String)>);

/// Writes what was sent in the newest revision, for it may come back. All pieces at once: the parent
/// names them only when [`close`] says so.
///
/// # Errors
/// The cluster. Pieces that were written are in the way of nobody.
pub async fn keep(
    place: Place<'_>,
    past: &Past,
    content: &Content,
    patience: &Patience<'_>,
) -> Result<Pieces, HistoryError> {
    let number = past.revisions.last().map_or(0, |last| last.number);
    let pieces = codec::pieces(place.namespace, place.app, number, content);
    let mut writes = Vec::with_capacity(pieces.len());
    for (index, piece) in pieces.iter().enumerate() {
        let id = place.piece(number, index);
        writes.push(async move {
            let uid = write_piece(place, &id, piece, patience).await?;
            Ok((id, uid))
        });
    }
    // Joined, not tried: a write is not dropped half way.
    let written = future::join_all(writes).await;
    written.into_iter().collect::<Result<_, _>>().map(Pieces)
}

/// Notes how the newest revision ended. `pieces` hold what was sent, of revisions that can come back;
/// `members` is what the app has now.
///
/// # Errors
/// The cluster.
pub async fn close(
    place: Place<'_>,
    past: &mut Past,
    state: State,
    pieces: Option<&Pieces>,
    members: Vec<Member>,
    patience: &Patience<'_>,
) -> Result<(), HistoryError> {
    let Some(last) = past.revisions.last_mut() else {
        return Ok(());
    };
    last.state = state;
    last.chunks = pieces.map_or(0, |pieces| pieces.0.len());
    past.members = members;
    let old = drop_old(past);
    write_parent(place, past, patience).await?;
    // What the parent does not name any more is of no use; a piece that stays does no harm.
    for revision in old {
        let mut piece = 0;
        // A run that was cut may have left a piece of a revision that is said to have none.
        while piece < revision.chunks.max(1) {
            remove(place, &place.piece(revision.number, piece), patience).await?;
            piece += 1;
        }
    }
    Ok(())
}

/// Takes pieces away again: the revision cannot come back. By uid, so that those of another run are
/// left alone; one that stays does no harm.
pub async fn give_up(place: Place<'_>, pieces: &Pieces, patience: &Patience<'_>) {
    for (id, uid) in &pieces.0 {
        drop(delete(place, id, uid.clone(), patience).await);
    }
}

/// Takes the oldest revisions off the list, so that [`KEPT`] deployed ones stay.
fn drop_old(past: &mut Past) -> Vec<Revision> {
    let deployed = |revision: &Revision| revision.state == State::Deployed;
    let count = past.revisions.iter().filter(|one| deployed(one)).count();
    let mut surplus = count.saturating_sub(KEPT);
    let mut old = Vec::new();
    while surplus > 0 && !past.revisions.is_empty() {
        let first = past.revisions.remove(0);
        surplus -= usize::from(deployed(&first));
        old.push(first);
    }
    old
}

/// Reads the objects of a revision.
///
/// # Errors
/// The cluster, or pieces that are gone.
pub async fn content(
    place: Place<'_>,
    revision: &Revision,
    patience: &Patience<'_>,
) -> Result<Content, HistoryError> {
    let mut pieces = Vec::with_capacity(revision.chunks);
    for index in 0..revision.chunks {
        let id = place.piece(revision.number, index);
        let found = patience
            .retry(|| place.cluster.get(place.actor, &id), cluster_trouble)
            .await;
        let found = found.map_err(failed("reading", &id))?;
        pieces.push(found.ok_or_else(|| HistoryError::Broken {
            object: id.to_string(),
            source: Broken,
        })?);
    }
    codec::content(&pieces).map_err(|source| HistoryError::Broken {
        object: place.piece(revision.number, 0).to_string(),
        source,
    })
}

async fn write_parent(
    place: Place<'_>,
    past: &mut Past,
    patience: &Patience<'_>,
) -> Result<(), HistoryError> {
    let id = place.parent();
    let body = codec::parent(place.namespace, place.app, past);
    let first = past.version.is_none();
    let call = || {
        if first {
            place.cluster.create(place.actor, &id, &body)
        } else {
            place.cluster.replace(place.actor, &id, &body)
        }
    };
    let written = match patience.retry(call, cluster_trouble).await {
        Err(ClusterError::Unanswered { .. }) => {
            // Look: it may be there as we sent it.
            let found = patience
                .retry(|| place.cluster.get(place.actor, &id), cluster_trouble)
                .await;
            match found {
                Ok(Some(live)) if live["data"] == body["data"] => Ok(live),
                Ok(_) => patience.retry(call, cluster_trouble).await,
                Err(error) => Err(error),
            }
        }
        other => other,
    };
    let live = written.map_err(failed("writing", &id))?;
    past.version = Some(text(&live, &["metadata", "resourceVersion"]).to_owned());
    Ok(())
}

/// Writes a piece and returns its uid; one of the same name is left over from a run that was cut off,
/// so it goes.
async fn write_piece(
    place: Place<'_>,
    id: &ObjectId,
    body: &serde_json::Value,
    patience: &Patience<'_>,
) -> Result<String, HistoryError> {
    let create = || place.cluster.create(place.actor, id, body);
    let mut written = patience.retry(create, cluster_trouble).await;
    if let Err(ClusterError::Exists { .. } | ClusterError::Unanswered { .. }) = written {
        remove(place, id, patience).await?;
        written = patience.retry(create, cluster_trouble).await;
    }
    let live = written.map_err(failed("writing", id))?;
    Ok(text(&live, &["metadata", "uid"]).to_owned())
}

async fn remove(
    place: Place<'_>,
    id: &ObjectId,
    patience: &Patience<'_>,
) -> Result<(), HistoryError> {
    let found = patience
        .retry(|| place.cluster.get(place.actor, id), cluster_trouble)
        .await;
    let Some(live) = found.map_err(failed("reading", id))? else {
        return Ok(());
    };
    let uid = text(&live, &["metadata", "uid"]).to_owned();
    delete(place, id, uid, patience).await
}

async fn delete(
    place: Place<'_>,
    id: &ObjectId,
    uid: String,
    patience: &Patience<'_>,
) -> Result<(), HistoryError> {
    let deletion = Deletion {
        uid,
        dependents: Dependents::Background,
        write: Write::Commit,
    };
    let call = || place.cluster.delete(place.actor, id, &deletion);
    match patience.retry(call, cluster_trouble).await {
        // A deletion without an answer leaves at worst a piece that nobody names.
        Ok(()) | Err(ClusterError::Raced { .. } | ClusterError::Unanswered { .. }) => Ok(()),
        Err(source) => Err(failed("deleting", id)(source)),
    }
}
