//! What an app has: its revisions and the objects that it may have in the cluster.
//!
//! One ConfigMap per app, the *parent*, lists revisions and inventory; each revision's objects are in
//! ConfigMaps of their own ([`store`]). The parent is an ApplySet parent as KEP-3659 describes it, and
//! every object of the app carries its label, so `kubectl` knows the set too. Read before a plan is
//! made, noted before the first write (so that nothing leaks after a kill) and after the verdict.
//! Called by [`crate::engine`]. Invariants: no secret value gets in here; a parent is only replaced
//! in the version that was read; a run that changes nothing writes nothing here either.

mod codec;
pub mod store;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashSet;

use proto::app::App;
use proto::app::RevisionStatus;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::authorize::Permit;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::text;
use crate::plan::Content;
use crate::plan::Live;
use crate::principal::Principal;

/// The label that ties an object to its app's parent (KEP-3659).
pub const PART_OF: &str = "applyset.kubernetes.io/part-of";

/// Deployed revisions that are kept; Helm keeps as many by default.
pub const KEPT: usize = 10;

/// How a revision stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Writing began; the verdict is not known, or was cut off.
    Pending,
    /// Deployed and verified.
    Deployed,
    /// Failed, and kept as it is.
    Failed,
    /// Failed, and an earlier revision was put back.
    RolledBack,
}

/// One revision as the parent lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Counted from 1.
    pub number: u64,
    /// How it stands.
    pub state: State,
    /// The run that made it.
    pub run: String,
    /// When, RFC 3339.
    pub time: String,
    /// Who made it, as far as the token said.
    #[serde(default)]
    pub origin: Origin,
    /// How many ConfigMaps hold its objects.
    pub chunks: usize,
    /// For a rollback: the revision that was put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u64>,
}

impl Revision {
    /// Says whether its objects are recorded and were verified.
    #[must_use]
    pub const fn can_come_back(&self) -> bool {
        matches!(self.state, State::Deployed) && self.chunks > 0
    }

    fn told(&self) -> proto::app::Revision {
        let Origin {
            pipeline,
            job,
            commit,
            reference,
            user,
        } = self.origin.clone();
        proto::app::Revision {
            number: self.number,
            status: match self.state {
                State::Pending => RevisionStatus::Pending,
                State::Deployed => RevisionStatus::Deployed,
                State::Failed => RevisionStatus::Failed,
                State::RolledBack => RevisionStatus::RolledBack,
            },
            can_come_back: self.can_come_back(),
            run: self.run.clone(),
            time: self.time.clone(),
            pipeline,
            job,
            commit,
            reference,
            user,
            puts_back: self.back_to,
        }
    }
}

/// Where a revision comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<u64>,
    /// The job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The branch or tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The user who started the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Origin {
    /// Reads it from a verified caller.
    #[must_use]
    pub fn of(principal: &Principal) -> Self {
        let text = |name: &str| principal.attribute(name).map(str::to_owned);
        Self {
            pipeline: principal
                .attribute("pipeline_id")
                .and_then(|id| id.parse().ok()),
            job: text("job_id"),
            commit: text("sha"),
            reference: text("ref"),
            user: text("user_login"),
        }
    }
}

/// An object that the app may have in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// The namespace; unset for cluster scoped kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The uid, once it was written.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

impl Member {
    /// Makes a member of an object.
    #[must_use]
    pub fn of(id: &ObjectId, uid: &str) -> Self {
        Self {
            api_version: id.gvk.api_version(),
            kind: id.gvk.kind.clone(),
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            uid: uid.to_owned(),
        }
    }

    /// Returns which object it is.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        ObjectId {
            gvk: Gvk::new(&self.api_version, &self.kind),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// Returns what it has in common with every name of the same object.
    #[must_use]
    pub fn key(&self) -> Key<'_> {
        let group = self.api_version.rsplit_once('/');
        Key {
            group: group.map_or("", |(group, _version)| group),
            kind: &self.kind,
            namespace: self.namespace.as_deref(),
            name: &self.name,
        }
    }
}

/// What names an object whatever the API version that it is written in. Apps can have thousands of
/// objects, so members are found by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    group: &'a str,
    kind: &'a str,
    namespace: Option<&'a str>,
    name: &'a str,
}

impl<'a> Key<'a> {
    /// Reads it from an id.
    #[must_use]
    pub fn of(id: &'a ObjectId) -> Self {
        Self {
            group: &id.gvk.group,
            kind: &id.gvk.kind,
            namespace: id.namespace.as_deref(),
            name: &id.name,
        }
    }
}

/// What is known of an app before a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// Oldest first.
    pub revisions: Vec<Revision>,
    /// Everything that the app may have in the cluster.
    pub members: Vec<Member>,
    /// The version of the parent; unset where there is none yet.
    pub version: Option<String>,
}

impl Past {
    /// Returns the newest revision that was deployed.
    #[must_use]
    pub fn deployed(&self) -> Option<&Revision> {
        self.revisions
            .iter()
            .rev()
            .find(|revision| revision.state == State::Deployed)
    }

    /// Returns a revision.
    #[must_use]
    pub fn revision(&self, number: u64) -> Option<&Revision> {
        self.revisions
            .iter()
            .find(|revision| revision.number == number)
    }

    /// Returns the number of the next revision.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.revisions
            .last()
            .map_or(1, |revision| revision.number + 1)
    }

    /// Tells the app to a caller, the newest revision first.
    #[must_use]
    pub fn told(&self, name: DeployName, cluster: ClusterName, namespace: Namespace) -> App {
        let members = self.members.iter();
        App {
            name,
            cluster,
            namespace,
            current: self.deployed().map(|revision| revision.number),
            revisions: self.revisions.iter().rev().map(Revision::told).collect(),
            objects: members.map(|member| member.id().to_string()).collect(),
        }
    }

    /// Lists what the app may have and does not want any more.
    #[must_use]
    pub fn leftovers(&self, wanted: &BTreeSet<ObjectId>) -> Vec<&Member> {
        let wanted: HashSet<Key<'_>> = wanted.iter().map(Key::of).collect();
        let members = self.members.iter();
        members
            .filter(|member| !wanted.contains(&member.key()))
            .collect()
    }
}

/// Puts the app's label on everything that is wanted.
pub fn mark<'a>(wanted: impl Iterator<Item = &'a mut (ObjectId, Content)>, set: &str) {
    for (_, content) in wanted {
        let (Content::Object(body) | Content::Secret { body, .. }) = content;
        if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            let labels = metadata.entry("labels").or_insert(Value::Null);
            if labels.is_null() {
                *labels = json!({});
            }
            labels[PART_OF] = Value::from(set);
        }
    }
}

/// Finds an object that is there and carries another app's label.
#[must_use]
pub fn foreign<'a>(observed: &'a BTreeMap<ObjectId, Live>, set: &str) -> Option<&'a ObjectId> {
    let is_foreign = |live: &Live| {
        let label = match live {
            Live::Absent => "",
            Live::Object(body) => text(body, &["metadata", "labels", PART_OF]),
            Live::Secret(view) => text(&view.rest, &["metadata", "labels", PART_OF]),
        };
        !label.is_empty() && label != set
    };
    let mut objects = observed.iter();
    objects.find(|(_, live)| is_foreign(live)).map(|(id, _)| id)
}

/// A newer pipeline deployed the app already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pipeline {newer} deployed this app already, this job is of the older pipeline {own}")]
pub struct Older {
    /// The pipeline that is deployed.
    pub newer: u64,
    /// The caller's.
    pub own: u64,
    /// The revision that it made.
    pub revision: u64,
}

/// Says whether the caller may deploy over what is there: an older pipeline never overwrites a newer
/// one, unless the spec allows it. GitLab counts pipelines upwards over the whole instance.
///
/// # Errors
/// Names both pipelines.
pub fn guard(permit: &Permit, past: &Past) -> Result<(), Older> {
    let own = Origin::of(permit.principal()).pipeline;
    let newest = past.deployed();
    match (own, newest) {
        (Some(own), Some(newest)) if !permit.request().spec.rollout.allow_older => {
            match newest.origin.pipeline {
                Some(newer) if newer > own => Err(Older {
                    newer,
                    own,
                    revision: newest.number,
                }),
                Some(_) | None => Ok(()),
            }
        }
        (Some(_) | None, Some(_) | None) => Ok(()),
    }
}
