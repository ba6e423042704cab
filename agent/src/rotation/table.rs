//! What is known about the Secrets that are kept fresh, in memory.
//!
//! Filled by the tasks beside it, read by [`super::daemon`] and [`super::view`]. It can be lost at any
//! time: everything in it is found again in the cluster and in Vault. Times to act at are monotonic,
//! so that a clock that jumps moves nothing.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use deploy::managed::Record;
use deploy::ports::Mount;
use deploy::ports::Newest;
use deploy::register::Entry;
use deploy::rotate::Asked;
use deploy::rotate::Found;
use deploy::rotate::Known;
use jiff::Timestamp;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;
use proto::managed::Freshness;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long an agent that was asked looks after a Secret that another one keeps.
const GUEST: Duration = Duration::from_secs(15);

/// Where an app is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The cluster.
    pub(super) cluster: ClusterName,
    /// The namespace.
    pub(super) namespace: Namespace,
    /// The app.
    pub(super) app: DeployName,
}

impl Place {
    /// Names one of its Secrets.
    pub(super) fn of_secret(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.cluster, self.namespace)
    }
}

/// One app with Secrets that are kept fresh.
#[derive(Debug)]
pub(super) struct App {
    /// What the register says.
    pub(super) entry: Entry,
    /// Its Secrets by name.
    pub(super) secrets: BTreeMap<String, Row>,
    /// Whether a run is on for it.
    pub(super) running: bool,
    /// No run is begun before this.
    pub(super) not_before: Option<Instant>,
    /// Runs that failed in a row.
    pub(super) failures: u32,
    /// Runs in a row that only had a former change to bring to its end.
    pub(super) settling: u32,
}

/// One Secret.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// Its record as it was last seen; kept when the Secret is deleted.
    pub(super) record: Option<Record>,
    /// When its record was last seen with other versions than before.
    pub(super) moved: Option<Instant>,
    /// Why there is no record that can be used.
    pub(super) problem: Option<String>,
    /// How it was found last; unset before the first look.
    pub(super) found: Option<Found>,
    /// Until when this agent looks after it though another one keeps it: somebody asked here.
    pub(super) guest: Option<Instant>,
    /// Whether somebody asked for a change.
    pub(super) asked: Option<Asked>,
    /// The generation at which a run was begun because somebody asked: while the Secret stays at it,
    /// nobody has got what was asked for.
    pub(super) served: Option<u64>,
    /// Its credentials, by path.
    pub(super) credentials: BTreeMap<String, CredentialRow>,
    /// When Vault last answered about it.
    pub(super) contact: Option<Timestamp>,
    /// How it stood at the daemon's last turn, and since when it stands so.
    pub(super) standing: Option<(Freshness, Timestamp)>,
    /// Repairs of what somebody else did to it, lately.
    pub(super) repairs: Vec<Instant>,
    /// Runs that issued a credential for it, lately.
    pub(super) issues: Vec<Instant>,
    /// Until when a change waits by its jitter; unset while no change is known.
    pub(super) jitter: Option<Instant>,
    /// What the last look said about it, for people.
    pub(super) notes: Vec<String>,
    /// Why its versions could not be asked, where that is so.
    pub(super) unread: Option<String>,
    /// What the last run said, where it failed.
    pub(super) failed: Option<String>,
}

impl Row {
    /// Asks for a change.
    pub(super) fn ask(&mut self) {
        self.asked = Some(Asked::Yes);
        self.be_guest();
    }

    /// Lets this agent look after it for a while, whoever keeps it: the app's lock and the record make
    /// sure that nothing is done twice.
    pub(super) fn be_guest(&mut self) {
        self.guest = Some(Instant::now() + GUEST);
    }

    /// Says whether a change was asked for that is not made yet.
    pub(super) fn is_asked(&self, generation: u64) -> Asked {
        if self.asked.is_some() || self.served == Some(generation) {
            Asked::Yes
        } else {
            Asked::No
        }
    }

    fn is_guest(&self) -> bool {
        self.guest.is_some_and(|until| until > Instant::now())
    }

    /// Says whether a path is in it.
    pub(super) fn uses(&self, path: &str) -> bool {
        self.record.as_ref().is_some_and(|record| {
            record.state.versions.contains_key(path) || record.state.credentials.contains_key(path)
        })
    }
}

/// One credential of a Secret.
#[derive(Debug, Clone)]
pub(super) struct CredentialRow {
    /// Which one it is: the row is made anew for another.
    pub(super) issued: Timestamp,
    /// What is known of it.
    pub(super) known: Known,
    /// When it ends unless it is extended; unset before the first answer.
    pub(super) ends: Option<Instant>,
    /// When something is to be done about it.
    pub(super) next: Instant,
    /// What is to be done then: it is replaced, else it is extended.
    pub(super) replace: bool,
    /// When the token that holds it is extended.
    pub(super) extend: Instant,
    /// When it is replaced because no living agent's token holds it; unset for one that is held.
    pub(super) orphan: Option<Instant>,
    /// Errors in a row.
    pub(super) errors: u32,
}

/// How a folder is asked for versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// In one request.
    Whole,
    /// Each secret by itself: the server does not know the call, or does not allow it.
    Single,
}

/// All that is known.
#[derive(Default)]
pub(super) struct Rows {
    /// The apps in the register.
    pub(super) apps: BTreeMap<Place, App>,
    /// The newest versions, by path.
    pub(super) newest: BTreeMap<String, Newest>,
    /// The engine behind a path.
    pub(super) mounts: BTreeMap<String, Mount>,
    /// How folders are asked, by mount and folder.
    pub(super) ways: BTreeMap<String, (Way, Duration)>,
    /// Paths to look at before their turn.
    pub(super) look_now: BTreeSet<String>,
    /// The agents that are alive, by cluster.
    pub(super) members: BTreeMap<ClusterName, BTreeSet<String>>,
    /// The tokens in Vault of agents that are alive, by cluster.
    pub(super) tokens: BTreeMap<ClusterName, BTreeSet<String>>,
    /// Clusters whose register was read whole.
    pub(super) synced: BTreeSet<ClusterName>,
    /// While Vault is away: when it is asked next.
    pub(super) away: Option<Instant>,
    /// While Vault is away: since when, and why.
    pub(super) outage: Option<(Timestamp, String)>,
}

impl Rows {
    /// Notes that Vault answers.
    pub(super) fn answered(&mut self) {
        self.away = None;
        self.outage = None;
    }

    /// Returns a Secret's row.
    pub(super) fn secret_mut(&mut self, place: &Place, name: &str) -> Option<&mut Row> {
        self.apps.get_mut(place)?.secrets.get_mut(name)
    }

    /// Tells the Secrets that use a path what is wrong with it.
    pub(super) fn tell(&mut self, path: &str, problem: &str) {
        let rows = self
            .apps
            .values_mut()
            .flat_map(|app| app.secrets.values_mut());
        for row in rows.filter(|row| row.uses(path)) {
            row.unread = Some(problem.to_owned());
        }
    }

    /// Says whether this agent looks after an app: it is its share, or somebody has just asked here.
    pub(super) fn looks_after(&self, place: &Place, app: &App, me: &str) -> bool {
        self.keeper(place) == Some(me) || app.secrets.values().any(Row::is_guest)
    }

    /// Names the agent whose share an app is; unset while none is known to be alive.
    pub(super) fn keeper(&self, place: &Place) -> Option<&str> {
        let members = self.members.get(&place.cluster)?;
        super::members::chosen(members, place)
    }
}

/// The table.
#[derive(Default)]
pub(super) struct Table {
    rows: Mutex<Rows>,
    changed: Notify,
    hurry: Notify,
}

impl Table {
    /// Looks at it or changes it.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Rows) -> T) -> T {
        // Rows are changed by whole operations, so a poisoned table is usable.
        act(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets the daemon look again.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Lets the versions be asked before their turn.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Waits until somebody is in a hurry; a call that came before counts.
    pub(super) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Waits until somebody wakes the daemon; a call that came before counts.
    pub(super) async fn woken(&self) {
        self.changed.notified().await;
    }
}
