//! The daemon that keeps Secrets fresh, and the desk at which callers ask about them.
//!
//! Made by `app`; `http` asks through [`Rotation`]. [`table`] is what is known, filled by [`watching`]
//! (the cluster), [`versions`] and [`credentials`] (Vault) and [`members`] (the other agents);
//! [`daemon`] asks [`deploy::rotate`] what is due and submits runs like any other caller. Invariants:
//! nothing here writes to a cluster but the agents' own register and membership, every change of a
//! Secret is a run; an agent acts only on apps that are its share, and the app's lock makes sure of
//! it; no error ever drops a credential that may be alive.

mod credentials;
mod daemon;
mod leftovers;
mod locks;
mod members;
mod table;
mod versions;
mod view;
mod watching;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deploy::policy::Policy;
use deploy::ports::Clock;
use deploy::ports::Cluster;
use deploy::ports::Git;
use deploy::ports::Registry;
use deploy::ports::Renderer;
use deploy::ports::Secrets;
use deploy::principal::Principal;
use deploy::register::Home;
use deploy::secret::FingerprintKey;
use deploy::secret::VaultPath;
use proto::error::Code;
use proto::error::Problem;
use proto::ids::ClusterName;
use proto::ids::RunId;
use proto::managed::ManagedList;
use proto::managed::ManagedSecret;
use proto::managed::SecretName;
use proto::managed::Taken;
use tokio_util::sync::CancellationToken;

use self::table::Place;
use self::table::Table;
use crate::journal::DiskJournal;
use crate::runs::Runs;

/// What the daemon works with.
#[derive(Clone)]
pub struct Tools {
    /// Vault.
    pub secrets: Arc<dyn Secrets>,
    /// Every cluster.
    pub clusters: BTreeMap<ClusterName, Arc<dyn Cluster>>,
    /// Every cluster's programs; rotations render nothing, but runs have them.
    pub renderers: BTreeMap<ClusterName, Arc<dyn Renderer>>,
    /// Git; the same holds for it.
    pub git: Arc<dyn Git>,
    /// Image registries; the same holds for them.
    pub registry: Arc<dyn Registry>,
    /// Who may do what.
    pub policy: Arc<Policy>,
    /// The key of fingerprints.
    pub key: Arc<FingerprintKey>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Where runs are submitted.
    pub runs: Runs,
    /// The journal, for what a former process left.
    pub journal: DiskJournal,
    /// The agents' own place in every cluster.
    pub home: Home,
    /// The name of this agent among them.
    pub agent: String,
    /// When the daemon was made: what was issued before may have had another life since.
    pub began: jiff::Timestamp,
    /// Runs that the end of the last process cut off.
    pub cut: Vec<RunId>,
    /// How soon a new version in Vault is to be in its Secret.
    pub freshness: Duration,
    /// At most so many requests a second where each secret is asked by itself.
    pub requests_per_second: usize,
}

/// Who asks about Secrets that are kept fresh.
#[derive(Debug, Clone)]
pub enum Asker {
    /// The operator, on the admin socket: all of them.
    Operator,
    /// A caller on the jobs socket: those of its own project.
    Project(Principal),
}

impl Asker {
    fn may_see(&self, row: &table::App) -> bool {
        match self {
            Self::Operator => true,
            Self::Project(principal) => row.entry.owner.principal().same_owner(principal),
        }
    }
}

/// The desk; clones share it.
#[derive(Clone)]
pub struct Rotation {
    table: Arc<Table>,
    tools: Arc<Tools>,
}

impl Rotation {
    /// Makes it; nothing is begun before [`Rotation::run`].
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self {
            table: Arc::new(Table::default()),
            tools: Arc::new(tools),
        }
    }

    /// Keeps Secrets fresh until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        daemon::run(&self.table, &self.tools, &stop).await;
    }

    /// Lists the Secrets that the asker may see.
    #[must_use]
    pub fn list(&self, asker: &Asker) -> ManagedList {
        let now = self.tools.clock.now();
        self.table
            .with(|rows| view::list(rows, asker, &self.tools, now))
    }

    /// Tells of one Secret that the asker may see.
    ///
    /// # Errors
    /// There is no such Secret, or several.
    pub fn one(&self, asker: &Asker, name: &SecretName) -> Result<ManagedSecret, Box<Problem>> {
        let now = self.tools.clock.now();
        self.table.with(|rows| {
            let (place, secret) = find(rows, asker, name, &self.tools)?;
            let told = view::one(rows, &place, &secret, now);
            told.ok_or_else(|| Box::new(missing(rows, asker, name, &self.tools.clusters)))
        })
    }

    /// Looks at paths in Vault now, because somebody wrote them; says which Secrets that concerns.
    #[must_use]
    pub fn changed(&self, asker: &Asker, paths: &[VaultPath]) -> Taken {
        let secrets = self.table.with(|rows| {
            let mut touched = Vec::new();
            let theirs = rows.apps.iter_mut().filter(|(_, app)| asker.may_see(app));
            for (place, app) in theirs {
                for (name, row) in &mut app.secrets {
                    if paths.iter().any(|path| row.uses(path.as_str())) {
                        row.be_guest();
                        touched.push(place.of_secret(name));
                    }
                }
            }
            if !touched.is_empty() {
                let paths = paths.iter().map(|path| path.as_str().to_owned());
                rows.look_now.extend(paths);
            }
            touched
        });
        self.table.hurry();
        Taken { secrets, run: None }
    }

    /// Replaces everything in a Secret that can be replaced; the daemon begins it at once.
    ///
    /// # Errors
    /// There is no such Secret, or several.
    pub fn rotate(&self, asker: &Asker, name: &SecretName) -> Result<Taken, Box<Problem>> {
        let taken = self.table.with(|rows| {
            let (place, secret) = find(rows, asker, name, &self.tools)?;
            if let Some(row) = rows.secret_mut(&place, &secret) {
                row.ask();
            }
            Ok(Taken {
                secrets: vec![place.of_secret(&secret)],
                run: None,
            })
        });
        self.table.wake();
        taken
    }

    /// Stops keeping a Secret fresh. Its values stay as they are, and its credentials end by
    /// themselves.
    ///
    /// # Errors
    /// There is no such Secret, or the register cannot be written.
    pub async fn forget(&self, asker: &Asker, name: &SecretName) -> Result<Taken, Problem> {
        let found = self.table.with(|rows| find(rows, asker, name, &self.tools));
        let (place, secret) = found.map_err(|problem| *problem)?;
        daemon::forget(&place, &secret, &self.tools).await?;
        Ok(Taken {
            secrets: vec![place.of_secret(&secret)],
            run: None,
        })
    }
}

/// Finds the one Secret of this name that the asker may see.
fn find(
    rows: &table::Rows,
    asker: &Asker,
    name: &SecretName,
    tools: &Tools,
) -> Result<(Place, String), Box<Problem>> {
    let fits = |place: &Place| {
        name.cluster.as_ref().is_none_or(|it| *it == place.cluster)
            && name
                .namespace
                .as_ref()
                .is_none_or(|it| *it == place.namespace)
    };
    let mut found = rows
        .apps
        .iter()
        .filter(|(place, app)| asker.may_see(app) && fits(place))
        .filter(|(_, app)| app.secrets.contains_key(&name.name))
        .map(|(place, _)| place.clone());
    match (found.next(), found.next()) {
        (Some(only), None) => Ok((only, name.name.clone())),
        (Some(one), Some(other)) => {
            let detail = format!(
                "there are several Secrets {}: {} and {}",
                name.name,
                one.of_secret(&name.name),
                other.of_secret(&name.name)
            );
            let problem = Problem::new(Code::BadRequest, detail);
            Err(Box::new(problem.hint("name cluster and namespace too")))
        }
        (None, _) => Err(Box::new(missing(rows, asker, name, &tools.clusters))),
    }
}

/// Says that a Secret is not there, or that this is not known yet.
fn missing<T>(
    rows: &table::Rows,
    asker: &Asker,
    name: &SecretName,
    clusters: &BTreeMap<ClusterName, T>,
) -> Problem {
    let asked = |cluster: &&ClusterName| name.cluster.as_ref().is_none_or(|it| it == *cluster);
    let unread: Vec<&str> = view::unread(rows, clusters)
        .filter(asked)
        .map(ClusterName::as_str)
        .collect();
    if unread.is_empty() {
        let (whose, hint) = match asker {
            Asker::Operator => ("", "`quaymaster managed list` shows all of them"),
            Asker::Project(_) => (
                " for you",
                "`quaymaster secrets list` shows those of your project",
            ),
        };
        let detail = format!("no Secret {} is kept fresh{whose}", name.name);
        return Problem::new(Code::NotFound, detail).hint(hint);
    }
    let detail = format!(
        "it is not known yet whether Secret {} is kept fresh: the agent has not read what is kept fresh in {}",
        name.name,
        unread.join(", ")
    );
    Problem::new(Code::Unavailable, detail).hint(
        "try again in a few seconds; if it stays so, the agent's log says what the cluster answers",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_called_missing_before_its_cluster_was_read() {
        let cluster = |name: &str| ClusterName::try_from(name.to_owned()).expect("a name");
        let clusters = BTreeMap::from([(cluster("one"), ()), (cluster("two"), ())]);
        let mut rows = table::Rows::default();
        rows.synced.insert(cluster("one"));
        let mut name = SecretName {
            cluster: None,
            namespace: None,
            name: "db".to_owned(),
        };
        let problem = missing(&rows, &Asker::Operator, &name, &clusters);
        assert_eq!((problem.code, problem.retryable), (Code::Unavailable, true));
        assert!(problem.detail.ends_with("kept fresh in two"), "{problem:?}");
        name.cluster = Some(cluster("one"));
        assert_eq!(
            missing(&rows, &Asker::Operator, &name, &clusters).code,
            Code::NotFound
        );
        rows.synced.insert(cluster("two"));
        name.cluster = None;
        assert_eq!(
            missing(&rows, &Asker::Operator, &name, &clusters).code,
            Code::NotFound
        );
    }
}
