//! Asking Flux, and waiting until it has our commit or one that comes after it.
//!
//! Called by [`crate::engine`] after the push. First the sources, then what applies them. Only what is said
//! about our commit or a later one counts; what was said before it is not looked at.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::StreamExt as _;
use proto::report::Cause;
use serde_json::Value;
use serde_json::json;
use tokio::sync::Mutex;

use super::CALL;
use super::FluxError;
use super::Kind;
use super::cluster_error;
use super::git_error;
use super::scene;
use super::state;
use super::state::Is;
use crate::backoff::Patience;
use crate::backoff::cluster_trouble;
use crate::class::Class;
use crate::object::ObjectId;
use crate::object::at;
use crate::object::text;
use crate::ports::ClusterError;
use crate::ports::CommitId;
use crate::ports::GitLogin;
use crate::ports::Observation;
use crate::ports::Ports;
use crate::ports::Scope;
use crate::ports::Write;
use crate::principal::Actor;
use crate::spec::Flux;
use crate::spec::FluxName;

/// How a commit stands to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// It does not have ours.
    Before,
    /// It is ours.
    Ours,
    /// It comes after ours.
    After,
    /// Ours is not in its history, and it is not in ours.
    Apart,
}

/// How far one object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// Nothing is known about our commit yet.
    Waiting,
    /// It is written to the cluster; health is being looked at.
    Applied,
    /// It is done.
    Ready,
    /// It has failed, with Flux's reason and message.
    Failed {
        /// The reason of its condition.
        reason: String,
        /// The message of its condition; not to be trusted.
        message: String,
    },
}

/// Whether a commit is on its branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The server has said so.
    Surely,
    /// A former process was about to push it.
    Perhaps,
}

/// Waits for Flux on behalf of one commit.
pub struct Waiter<'a> {
    flux: &'a Flux,
    commit: &'a CommitId,
    pushed: Pushed,
    actor: &'a Actor,
    login: &'a GitLogin,
    ports: &'a Ports,
    /// Makes our requests differ from all others.
    token: String,
    ages: Mutex<BTreeMap<CommitId, Age>>,
}

/// What an applier says, with its id and the object itself.
pub type Said = (ObjectId, Stand, Value);

impl<'a> Waiter<'a> {
    /// Begins; nothing is asked yet.
    #[must_use]
    pub fn new(
        flux: &'a Flux,
        (commit, pushed): (&'a CommitId, Pushed),
        actor: &'a Actor,
        login: &'a GitLogin,
        ports: &'a Ports,
        token: String,
    ) -> Self {
        Self {
            flux,
            commit,
            pushed,
            actor,
            login,
            ports,
            token,
            ages: Mutex::default(),
        }
    }

    /// Asks all sources and waits until each serves our commit or a later one.
    ///
    /// # Errors
    /// The cluster, the end of the run, or a branch that lost our commit.
    pub async fn sources(&self, patience: &Patience<'_>) -> Result<(), FluxError> {
        let ids: Vec<ObjectId> = self.ids(Kind::Source, &self.flux.sources);
        for id in &ids {
            self.request(id, patience).await?;
        }
        let mut seen = self.seen(&ids);
        loop {
            let mut open = None;
            for id in &ids {
                let served = seen.objects.get(id).and_then(state::served);
                let age = match &served {
                    Some(commit) => self.age(commit, patience).await?,
                    None => Age::Before,
                };
                match age {
                    Age::Ours | Age::After => {}
                    Age::Before if self.is_absent(&seen, id) => return Err(self.absent()),
                    Age::Before => open = Some(id),
                    Age::Apart => return Err(self.lost()),
                }
            }
            let Some(open) = open else {
                return Ok(());
            };
            self.tell_trouble(open, &seen, patience);
            seen.next(&format!("{open} to fetch our commit"), patience)
                .await?;
        }
    }

    /// Asks everything that applies the branch.
    ///
    /// # Errors
    /// The cluster.
    pub async fn ask(&self, patience: &Patience<'_>) -> Result<(), FluxError> {
        for id in self.appliers() {
            self.request(&id, patience).await?;
        }
        Ok(())
    }

    /// Waits until everything that applies the branch is at least where `enough` wants it; returns how
    /// each stands. Ends at once where one has failed.
    ///
    /// # Errors
    /// The cluster or the end of the run.
    pub async fn appliers_are(
        &self,
        enough: impl Fn(&Stand) -> bool,
        patience: &Patience<'_>,
    ) -> Result<Vec<Said>, FluxError> {
        let ids = self.appliers();
        let mut seen = self.seen(&ids);
        loop {
            let mut stands = Vec::new();
            let mut open = None;
            for id in &ids {
                let object = seen.objects.get(id);
                let stand = match object {
                    Some(object) => self.stand(id, object, patience).await?,
                    None => Stand::Waiting,
                };
                if !enough(&stand) {
                    open = Some(id);
                }
                stands.push((id.clone(), stand, object.cloned().unwrap_or_default()));
            }
            let failed = stands
                .iter()
                .any(|(_, stand, _)| matches!(stand, Stand::Failed { .. }));
            match open {
                Some(open) if !failed => {
                    seen.next(&format!("{open} to have our commit"), patience)
                        .await?;
                }
                Some(_) | None => return Ok(stands),
            }
        }
    }

    /// Returns a commit after ours that was met, if there was one.
    pub async fn later(&self) -> Option<CommitId> {
        let ages = self.ages.lock().await;
        let after = ages.iter().find(|(_, age)| **age == Age::After);
        after.map(|(commit, _)| commit.clone())
    }

    /// Tells what Flux said last, when the deadline has come.
    pub async fn not_done(&self, what: &str) -> Cause {
        let mut evidence = Vec::new();
        let sources = self.ids(Kind::Source, &self.flux.sources);
        for id in sources.into_iter().chain(self.appliers()) {
            let object = self.ports.cluster.get(self.actor, &id).await;
            let ready = object.ok().flatten();
            let ready = ready
                .as_ref()
                .and_then(|object| state::condition(object, "Ready"));
            evidence.push(match ready {
                Some(ready) => format!("{id}: {}: {}", ready.reason, ready.message),
                None => format!("{id} says nothing about its present state"),
            });
        }
        Cause {
            kind: "flux_late".to_owned(),
            object: self.flux.branch.to_string(),
            message: format!("waiting for {what} took too long"),
            evidence,
            hint: Some("look at `flux get all -A` and the logs of Flux's controllers".to_owned()),
        }
    }

    fn ids(&self, kind: Kind, names: &[FluxName]) -> Vec<ObjectId> {
        names.iter().map(|name| kind.id(name)).collect()
    }

    fn appliers(&self) -> Vec<ObjectId> {
        let mut ids = self.ids(Kind::Kustomization, &self.flux.kustomizations);
        ids.extend(self.ids(Kind::HelmRelease, &self.flux.helmreleases));
        ids
    }

    /// Watches some objects from now on.
    fn seen(&self, ids: &[ObjectId]) -> Seen {
        let scopes = ids
            .iter()
            .map(|id| Scope {
                gvk: id.gvk.clone(),
                namespace: id.namespace.clone(),
                name: Some(id.name.clone()),
            })
            .collect();
        Seen {
            stream: self.ports.cluster.observe(self.actor, scopes),
            objects: BTreeMap::new(),
            ids: ids.to_vec(),
        }
    }

    /// How an applier stands to our commit.
    async fn stand(
        &self,
        id: &ObjectId,
        object: &Value,
        patience: &Patience<'_>,
    ) -> Result<Stand, FluxError> {
        let ready = state::condition(object, "Ready");
        let failed = |ready: &state::Condition| Stand::Failed {
            reason: ready.reason.clone(),
            message: ready.message.clone(),
        };
        if id.gvk == Kind::HelmRelease.gvk() {
            // The revision of a chart is its version, so the request tells what is about our commit.
            let about = state::has_handled(object, &self.token)
                && state::is_observed(object)
                && self.is_of_our_chart(object, patience).await?;
            return Ok(match ready {
                Some(ready) if about && ready.status == Is::True => Stand::Ready,
                Some(ready)
                    if about && ready.status == Is::False && !state::is_on_the_way(&ready) =>
                {
                    failed(&ready)
                }
                // Helm is at it: its request is answered at the end only.
                Some(_) | None if state::is_installing(object, self.commit) => Stand::Applied,
                Some(_) | None => Stand::Waiting,
            });
        }
        let Some(attempted) = state::attempted(object) else {
            return Ok(Stand::Waiting);
        };
        match self.age(&attempted, patience).await? {
            Age::Ours | Age::After => {}
            Age::Before => return Ok(Stand::Waiting),
            Age::Apart => return Err(self.lost()),
        }
        Ok(match ready {
            Some(ready) if ready.status == Is::True && state::has_applied(object) => Stand::Ready,
            Some(ready) if ready.status == Is::False && !state::is_on_the_way(&ready) => {
                failed(&ready)
            }
            Some(_) | None if state::has_applied(object) => Stand::Applied,
            Some(_) | None => Stand::Waiting,
        })
    }

    /// Says whether a release was attempted with the chart of our commit or of a later one: a request may be taken
    /// up while there is only the chart of before.
    async fn is_of_our_chart(
        &self,
        object: &Value,
        patience: &Patience<'_>,
    ) -> Result<bool, FluxError> {
        let Some(id) = state::chart_commit(object) else {
            return Ok(true);
        };
        if self.commit.as_str().starts_with(id) {
            return Ok(true);
        }
        // Later commits are met at the sources.
        for source in self.ids(Kind::Source, &self.flux.sources) {
            let read = || self.ports.cluster.get(self.actor, &source).boxed();
            let found = patience.retry(read, cluster_trouble).await;
            let found = found.map_err(cluster_error(format!("reading {source}")))?;
            let served = found.as_ref().and_then(state::served);
            if let Some(served) = served.filter(|served| served.as_str().starts_with(id)) {
                let age = self.age(&served, patience).await?;
                return Ok(matches!(age, Age::Ours | Age::After));
            }
        }
        let ages = self.ages.lock().await;
        let mut later = ages.iter().filter(|(_, age)| **age == Age::After);
        Ok(later.any(|(commit, _)| commit.as_str().starts_with(id)))
    }

    /// Finds out how a commit stands to ours, once for each.
    async fn age(&self, commit: &CommitId, patience: &Patience<'_>) -> Result<Age, FluxError> {
        if commit == self.commit {
            return Ok(Age::Ours);
        }
        let mut ages = self.ages.lock().await;
        if let Some(age) = ages.get(commit) {
            return Ok(*age);
        }
        let branch = &self.flux.branch;
        let wrong = || git_error(format!("comparing commits of {branch}"));
        let follows = async |commit: &CommitId, ancestor: &CommitId| {
            let asked = self.ports.git.follows(branch, commit, ancestor, CALL).await;
            asked.map_err(wrong())
        };
        if follows(self.commit, commit).await? {
            ages.insert(commit.clone(), Age::Before);
            return Ok(Age::Before);
        }
        if !follows(commit, self.commit).await? {
            // It may be newer than our copy of the branch.
            scene::tip(self.flux, self.login, self.ports, patience).await?;
        }
        let age = if follows(commit, self.commit).await? {
            Age::After
        } else {
            Age::Apart
        };
        ages.insert(commit.clone(), age);
        Ok(age)
    }

    /// Says whether a source has looked at our request and found no commit of ours.
    fn is_absent(&self, seen: &Seen, id: &ObjectId) -> bool {
        let asked = seen
            .objects
            .get(id)
            .filter(|_| self.pushed == Pushed::Perhaps);
        asked.is_some_and(|object| {
            let ready = state::condition(object, "Ready");
            let fetched = ready.is_none_or(|ready| ready.status == Is::True);
            fetched && state::has_handled(object, &self.token)
        })
    }

    fn absent(&self) -> FluxError {
        FluxError::Absent {
            branch: self.flux.branch.to_string(),
            commit: self.commit.short().to_owned(),
        }
    }

    fn lost(&self) -> FluxError {
        FluxError::Lost {
            branch: self.flux.branch.to_string(),
            commit: self.commit.short().to_owned(),
        }
    }

    /// Asks one object to reconcile now.
    async fn request(&self, id: &ObjectId, patience: &Patience<'_>) -> Result<(), FluxError> {
        let wrong = || cluster_error(format!("asking {id} to reconcile"));
        let read = || self.ports.cluster.get(self.actor, id).boxed();
        let object = patience.retry(read, cluster_trouble).await;
        let object = object.map_err(wrong())?.unwrap_or_default();
        let mut patch = Vec::new();
        if at(&object, &["metadata", "annotations"]).is_none_or(Value::is_null) {
            patch.push(json!({ "op": "add", "path": "/metadata/annotations", "value": {} }));
        }
        let path = format!(
            "/metadata/annotations/{}",
            state::REQUESTED.replace('/', "~1")
        );
        patch.push(json!({ "op": "add", "path": path, "value": self.token }));
        let patch = Value::Array(patch);
        let send = || {
            let cluster = &self.ports.cluster;
            cluster.patch(self.actor, id, &patch, Write::Commit).boxed()
        };
        let sent = patience.retry(send, cluster_trouble).await;
        match sent {
            Ok(_) => Ok(()),
            // The same request again is no other one.
            Err(ClusterError::Unanswered { .. }) => {
                let again = send().await;
                again.map(drop).map_err(wrong())
            }
            Err(error) => Err(wrong()(error)),
        }
    }

    /// Tells the job what keeps a source from fetching.
    fn tell_trouble(&self, id: &ObjectId, seen: &Seen, patience: &Patience<'_>) {
        let Some(object) = seen.objects.get(id) else {
            return;
        };
        let ready = state::condition(object, "Ready");
        if let Some(ready) = ready.filter(|ready| ready.status == Is::False)
            && state::has_handled(object, &self.token)
        {
            let said = &ready.message;
            patience.log.warn(format!("{id} cannot fetch: {said}"));
        }
    }
}

/// Objects as they are seen, kept up to date.
struct Seen {
    stream: futures::stream::BoxStream<'static, Observation>,
    objects: BTreeMap<ObjectId, Value>,
    ids: Vec<ObjectId>,
}

impl Seen {
    /// Waits for the next change.
    async fn next(&mut self, what: &str, patience: &Patience<'_>) -> Result<(), FluxError> {
        loop {
            let seen = tokio::select! {
                // A change that is not read here is read by nobody else: the run ends.
                () = patience.stop.cancelled() => return Err(FluxError::Stopped),
                () = tokio::time::sleep_until(patience.deadline) => {
                    return Err(FluxError::Late { what: what.to_owned() });
                }
                seen = self.stream.next() => seen,
            };
            match seen {
                Some(Observation::Present(object)) => {
                    let found = self.ids.iter().find(|id| is(id, &object)).cloned();
                    if let Some(id) = found {
                        self.objects.insert(id, object);
                        return Ok(());
                    }
                }
                Some(Observation::Gone(id)) => {
                    self.objects.remove(&id);
                    return Ok(());
                }
                Some(Observation::Trouble { reason, class, .. }) if class != Class::Upstream => {
                    return Err(FluxError::Cluster {
                        what: format!("waiting for {what}"),
                        source: ClusterError::Unexpected { reason },
                    });
                }
                Some(Observation::Synced(_) | Observation::Trouble { .. }) => {}
                None => {
                    return Err(FluxError::Cluster {
                        what: format!("waiting for {what}"),
                        source: ClusterError::Unexpected {
                            reason: "the watch ended".to_owned(),
                        },
                    });
                }
            }
        }
    }
}

fn is(id: &ObjectId, object: &Value) -> bool {
    text(object, &["kind"]) == id.gvk.kind
        && text(object, &["metadata", "name"]) == id.name
        && Some(text(object, &["metadata", "namespace"])) == id.namespace.as_deref()
}
