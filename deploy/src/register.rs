//! Where the agents note which Secrets they keep fresh: one ConfigMap an app in the agents' own namespace.
//!
//! An index and a seal, not a source of truth: what a Secret is made of stands on the Secret itself,
//! and here stands the digest of that, written where only the agents can write. A record whose digest
//! is not here was made by somebody else, and is not acted on. Written by [`crate::engine`] around the
//! writing of a Secret, read by the daemon to find its work. Every write names the version that was
//! seen, so two agents lose nothing of each other.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proto::ids::DeployName;
use proto::ids::Namespace;
use serde_json::Value;
use serde_json::json;
use sha2::Digest;
use sha2::Sha256;

use crate::backoff::Patience;
use crate::backoff::cluster_trouble;
use crate::managed::Owner;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::text;
use crate::ports::Cluster;
use crate::ports::ClusterError;
use crate::principal::Actor;

/// How often a write that met another one is tried anew.
const TRIES: usize = 8;

/// The agents' own place in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Their namespace.
    pub namespace: String,
}

impl Home {
    /// As whom the agents write there.
    #[must_use]
    pub fn actor() -> Actor {
        Actor {
            user: "quaymaster:agent".to_owned(),
            groups: Vec::new(),
        }
    }

    /// Returns the id of an app's entry.
    #[must_use]
    pub fn entry(&self, namespace: &str, app: &str) -> ObjectId {
        let digest = Sha256::digest(format!("{namespace}/{app}").as_bytes());
        let name = digest[..10]
            .iter()
            .fold("managed-".to_owned(), |name, byte| {
                format!("{name}{byte:02x}")
            });
        ObjectId {
            gvk: Gvk::new("v1", "ConfigMap"),
            namespace: Some(self.namespace.clone()),
            name,
        }
    }
}

/// What is noted about one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The app's namespace.
    pub namespace: Namespace,
    /// The app.
    pub app: DeployName,
    /// Who answers for it: as whom its Secrets are watched.
    pub owner: Owner,
    /// Its Secrets that are kept fresh, each with the digests that its record may have: of what it is,
    /// and while it is being written of what it was.
    pub secrets: BTreeMap<String, BTreeSet<String>>,
}

impl Entry {
    /// Reads an entry; `None` for a ConfigMap that is none.
    #[must_use]
    pub fn read(body: &Value) -> Option<Self> {
        let data = |name| text(body, &["data", name]);
        Some(Self {
            namespace: data("namespace").parse().ok()?,
            app: data("app").parse().ok()?,
            owner: serde_json::from_str(data("owner")).ok()?,
            secrets: serde_json::from_str(data("secrets")).ok()?,
        })
    }

    fn body(&self, id: &ObjectId, version: &str) -> Value {
        let words = |value: Result<String, serde_json::Error>| {
            value.expect("maps of texts are always valid JSON")
        };
        let mut body = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": id.name,
                "namespace": id.namespace,
                "labels": { "app.kubernetes.io/managed-by": "quaymaster" },
            },
            "data": {
                "namespace": self.namespace,
                "app": self.app,
                "owner": words(serde_json::to_string(&self.owner)),
                "secrets": words(serde_json::to_string(&self.secrets)),
            },
        });
        if !version.is_empty() {
            body["metadata"]["resourceVersion"] = Value::from(version);
        }
        body
    }
}

/// What a change does to an entry.
pub enum Change<'a> {
    /// Secrets are about to be written: their digests are taken beside those of before.
    Add {
        /// Who answers for the app from now on.
        owner: &'a Owner,
        /// The digests by Secret.
        digests: &'a BTreeMap<String, String>,
    },
    /// Secrets are written: these digests are theirs, and no others.
    Settle {
        /// The digests by Secret.
        digests: &'a BTreeMap<String, String>,
    },
    /// Secrets are kept fresh no more.
    Forget {
        /// Which.
        secrets: &'a BTreeSet<String>,
    },
}

impl Change<'_> {
    /// Returns the entry after the change; an entry without Secrets is no entry any more.
    fn apply(
        &self,
        before: Option<Entry>,
        namespace: &Namespace,
        app: &DeployName,
    ) -> Option<Entry> {
        match self {
            Self::Add { owner, digests } => {
                let mut entry = before.unwrap_or_else(|| Entry {
                    namespace: namespace.clone(),
                    app: app.clone(),
                    owner: (*owner).clone(),
                    secrets: BTreeMap::new(),
                });
                entry.owner = (*owner).clone();
                for (secret, digest) in *digests {
                    let known = entry.secrets.entry(secret.clone()).or_default();
                    known.insert(digest.clone());
                }
                Some(entry)
            }
            Self::Settle { digests } => {
                let mut entry = before?;
                for (secret, digest) in *digests {
                    let only = BTreeSet::from([digest.clone()]);
                    entry.secrets.insert(secret.clone(), only);
                }
                Some(entry)
            }
            Self::Forget { secrets } => {
                let mut entry = before?;
                entry.secrets.retain(|secret, _| !secrets.contains(secret));
                Some(entry)
            }
        }
    }
}

/// Changes an app's entry; nothing is written where it is so already.
///
/// # Errors
/// The cluster does not take it.
pub async fn change(
    home: &Home,
    (namespace, app): (&Namespace, &DeployName),
    change: &Change<'_>,
    cluster: &dyn Cluster,
    patience: &Patience<'_>,
) -> Result<(), ClusterError> {
    let id = home.entry(namespace.as_str(), app.as_str());
    let actor = Home::actor();
    let mut last = ClusterError::Raced {
        object: id.to_string(),
    };
    for _ in 0..TRIES {
        let read = patience.retry(|| cluster.get(&actor, &id), cluster_trouble);
        let body = read.await?;
        let before = body.as_ref().and_then(Entry::read);
        let Some(after) = change.apply(before.clone(), namespace, app) else {
            return Ok(());
        };
        if before.as_ref() == Some(&after) {
            return Ok(());
        }
        let version = body
            .as_ref()
            .map_or("", |body| text(body, &["metadata", "resourceVersion"]));
        let wanted = after.body(&id, version);
        let written = patience.retry(
            || match body {
                Some(_) => cluster.replace(&actor, &id, &wanted),
                None => cluster.create(&actor, &id, &wanted),
            },
            cluster_trouble,
        );
        match written.await {
            Ok(_) => return Ok(()),
            // Another agent was faster, or it is not known: the next look says how it is.
            Err(
                error @ (ClusterError::Raced { .. }
                | ClusterError::Exists { .. }
                | ClusterError::Unanswered { .. }),
            ) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::Fakes;
    use crate::log::RunLog;
    use crate::principal::Principal;
    use crate::principal::PrincipalKind;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    fn owner(project: &str) -> Owner {
        let attributes = [("project_id".to_owned(), project.to_owned())];
        Owner::of(&Principal::unchecked(
            PrincipalKind::GitlabJob,
            attributes.into(),
        ))
    }

    fn digests(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        pairs.iter().map(own).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_takes_both_digests_until_the_write_is_done() {
        let fakes = Fakes::default();
        let ports = fakes.ports();
        let log = RunLog::new(Arc::clone(&fakes.clock) as _);
        let stop = CancellationToken::new();
        let patience = Patience {
            deadline: Instant::now() + Duration::from_secs(60),
            stop: &stop,
            log: &log,
            seed: 1,
        };
        let home = Home {
            namespace: "quaymaster".to_owned(),
        };
        let namespace: Namespace = "shop".parse().expect("valid");
        let app: DeployName = "web".parse().expect("valid");
        let put = async |one: Change<'_>| {
            change(&home, (&namespace, &app), &one, &*ports.cluster, &patience)
                .await
                .expect("the cluster is there");
            let body = fakes.cluster.object(&home.entry("shop", "web"));
            body.as_ref().and_then(Entry::read)
        };
        let (first, second) = (digests(&[("db", "aa")]), digests(&[("db", "bb")]));
        let owner = owner("42");
        let add = |digests| Change::Add {
            owner: &owner,
            digests,
        };
        put(add(&first)).await;
        let entry = put(add(&second)).await.expect("it is there");
        assert_eq!(entry.owner, owner);
        assert_eq!(entry.secrets["db"].len(), 2);
        let entry = put(Change::Settle { digests: &second }).await;
        let entry = entry.expect("it is there");
        assert_eq!(entry.secrets["db"], BTreeSet::from(["bb".to_owned()]));
        let before = fakes.cluster.booked().len();
        put(Change::Settle { digests: &second }).await;
        assert_eq!(fakes.cluster.booked().len(), before, "nothing to write");
        let gone = BTreeSet::from(["db".to_owned()]);
        let entry = put(Change::Forget { secrets: &gone }).await;
        assert_eq!(entry.expect("it is there").secrets.len(), 0);
    }
}
