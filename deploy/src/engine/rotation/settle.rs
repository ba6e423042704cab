//! After the write: restart what uses the Secrets, judge it, and end the old credentials, or go back.
//!
//! Called by [`super`] under the app's lock, for a change of this run as for one that a former run,
//! maybe of another agent, left open: the record on the Secret says all that is needed, and the values
//! of before are in their backup. Invariants: nothing that a pod may still use is ended before the pods
//! with the new values are ready; what did not work is taken back to values whose credentials are
//! alive; every step can be done twice.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::report::Cause;
use proto::report::Status;
use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use super::is_tried;
use super::put;
use super::rewritten;
use super::workloads;
use super::workloads::Restarted;
use super::workloads::Scene;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::backoff::Trouble;
use crate::backoff::cluster_trouble;
use crate::class::Class;
use crate::engine::Tools;
use crate::lock::Reins;
use crate::managed;
use crate::managed::Credential;
use crate::managed::Record;
use crate::managed::Setback;
use crate::managed::State;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::text;
use crate::plan;
use crate::ports::ClusterError;
use crate::ports::Deletion;
use crate::ports::Dependents;
use crate::ports::Force;
use crate::ports::Login;
use crate::ports::SecretsError;
use crate::ports::Write;
use crate::report;
use crate::report::Verdict;
use crate::resolve::secret_id;
use crate::rotate::consumers;
use crate::rotate::consumers::Changed;
use crate::secret::Secret;
use crate::spec::Restart;
use crate::spec::SecretSpec;
use crate::spec::Workload;
use crate::watch;
use crate::watch::Outcome;
use crate::watch::Watched;

/// What this run changed in one Secret.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    /// The keys whose values changed.
    pub(super) keys: BTreeSet<String>,
}

/// What settling needs.
pub(super) struct Settling<'a> {
    pub(super) permit: &'a Permit,
    /// What this run changed, by Secret; others that are open were changed before.
    pub(super) changes: BTreeMap<String, Change>,
    pub(super) reins: &'a Reins,
    pub(super) tools: &'a Tools<'a>,
    pub(super) patience: &'a Patience<'a>,
}

/// A Secret whose change is not over.
struct Open<'a> {
    spec: &'a SecretSpec,
    record: Record,
    /// When it was written, by the server's clock.
    written: jiff::Timestamp,
    /// The object without values.
    body: Value,
}

/// How the workloads took it.
enum Roll {
    Well {
        restarts: u64,
        warnings: Vec<String>,
    },
    Badly {
        code: Code,
        why: String,
        causes: Vec<Cause>,
    },
    /// The run was told to stop, or lost its lock: the next one goes on.
    Stopped,
}

impl Settling<'_> {
    /// Settles every Secret of the permit.
    pub(super) async fn settle(&self) -> Verdict {
        let changed = self.changes.len();
        let open = match self.open().await {
            Ok(open) => open,
            Err(error) => return self.unfinished(&error),
        };
        if open.is_empty() {
            let message = match changed {
                0 => "nothing to do".to_owned(),
                _ => format!("{} written; nothing has to be restarted", self.names()),
            };
            return Verdict::succeeded(message, Vec::new());
        }
        match self.roll(&open).await {
            Err(error) => self.unfinished(&error),
            Ok(Roll::Stopped) => Verdict::problem(Problem::new(
                Code::Cancelled,
                "the rotation was told to stop; the new values are written, and the next run goes on",
            )),
            Ok(Roll::Well { restarts, warnings }) => self.end_old(&open, restarts, warnings).await,
            Ok(Roll::Badly { code, why, causes }) => self.go_back(&open, code, &why, causes).await,
        }
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.changes.keys().map(String::as_str).collect();
        match names.as_slice() {
            [] => "Secrets".to_owned(),
            names => format!("Secret {}", names.join(", ")),
        }
    }

    fn unfinished(&self, error: &ClusterError) -> Verdict {
        let mut problem = report::of_cluster("settling a rotation", error);
        problem.detail = format!(
            "{}; the values are as they were written last, both credentials are alive, and the next \
             run goes on",
            problem.detail
        );
        Verdict::problem(problem)
    }

    /// Reads the Secrets whose change is not over.
    async fn open(&self) -> Result<Vec<Open<'_>>, ClusterError> {
        let namespace = self.permit.namespace().as_str();
        let cluster = &self.tools.ports.cluster;
        let mut open = Vec::new();
        for spec in &self.permit.request().spec.secrets {
            let id = secret_id(namespace, &spec.name);
            let look = || cluster.secret(self.permit.actor(), &id);
            let Some(view) = self.patience.retry(look, cluster_trouble).await? else {
                continue;
            };
            let Ok(Some(record)) = Record::of(&view.rest) else {
                continue;
            };
            if record.state.trial.is_some() || !record.state.retiring.is_empty() {
                let now = self.tools.ports.clock.now();
                open.push(Open {
                    spec,
                    written: managed::written_by_server(&view.rest).unwrap_or(now),
                    record,
                    body: view.rest,
                });
            }
        }
        Ok(open)
    }

    /// Restarts what has to see the new values and watches it.
    async fn roll(&self, open: &[Open<'_>]) -> Result<Roll, ClusterError> {
        let scene = Scene::read(self.permit, self.tools, self.patience).await?;
        let mut warnings = Vec::new();
        let workloads = self.to_restart(open, &scene, &mut warnings);
        if workloads.is_empty() {
            return Ok(Roll::Well {
                restarts: 0,
                warnings,
            });
        }
        let log = self.tools.log;
        log.start(Stage::Watch, "restart and watch");
        log.info(format!("restarting {}", workloads::named(&workloads)));
        let rolled = self
            .restart_and_watch(open, &scene, &workloads, warnings)
            .await;
        log.end_stage(Stage::Watch);
        rolled
    }

    fn to_restart(
        &self,
        open: &[Open<'_>],
        scene: &Scene,
        warnings: &mut Vec<String>,
    ) -> BTreeMap<Workload, BTreeSet<String>> {
        let mut all = BTreeMap::new();
        for one in open {
            let rotate = one.spec.rotate.as_ref();
            let restart = rotate.map_or(&Restart::Auto, |rotate| &rotate.restart);
            let changed = match self.changes.get(&one.spec.name) {
                Some(change) => change.keys.clone(),
                None => one.spec.keys.keys().cloned().collect(),
            };
            let change = Changed {
                secret: &one.spec.name,
                keys: &changed,
                restart,
            };
            let found = consumers::affected(&scene.running(), &[change]);
            for absent in found.absent {
                warnings.push(format!("{absent} was to be restarted and is not there"));
            }
            let older = consumers::older_pods(&scene.pods, &one.spec.name, one.written);
            let older: BTreeSet<String> = older.into_iter().collect();
            for (workload, secrets) in found.workloads {
                let named = matches!(restart, Restart::Named(_));
                if named || scene.has_any(&workload, &older) {
                    all.entry(workload)
                        .or_insert_with(BTreeSet::new)
                        .extend(secrets);
                }
            }
        }
        all
    }

    async fn restart_and_watch(
        &self,
        open: &[Open<'_>],
        scene: &Scene,
        workloads: &BTreeMap<Workload, BTreeSet<String>>,
        mut warnings: Vec<String>,
    ) -> Result<Roll, ClusterError> {
        let mut objects: Vec<AppliedObject> = Vec::new();
        let mut restarts = 0;
        for (workload, secrets) in workloads {
            // The run that wrote the values: one restart for it, whichever run does it.
            let change: BTreeSet<&str> = open
                .iter()
                .filter(|one| secrets.contains(&one.spec.name))
                .map(|one| one.record.state.run.as_str())
                .collect();
            let change: Vec<&str> = change.into_iter().collect();
            let change = change.join(",");
            let restarted =
                scene.restart(workload, &change, self.permit, self.tools, self.patience);
            match restarted.await? {
                Some(Restarted::Now(object)) => {
                    restarts += 1;
                    objects.push(object);
                }
                Some(Restarted::Before(object)) => objects.push(object),
                None => warnings.push(format!("{workload} is gone")),
            }
        }
        let watched = Watched {
            objects: &objects,
            namespace: self.permit.namespace().as_str(),
            rules: &self.permit.request().spec.health,
        };
        let outcome = watch::watch(
            watched,
            self.permit.actor(),
            self.tools.ports,
            self.tools.log,
            self.patience.deadline,
            &self.reins.watching,
        );
        Ok(match outcome.await {
            Outcome::Ready { warnings: more } => {
                warnings.extend(more);
                Roll::Well { restarts, warnings }
            }
            Outcome::Failed { causes } => Roll::Badly {
                code: Code::RolloutFailed,
                why: causes.first().map_or_else(
                    || "no cause was found".to_owned(),
                    |cause| cause.message.clone(),
                ),
                causes,
            },
            Outcome::TimedOut { causes } => Roll::Badly {
                code: Code::RolloutTimeout,
                why: "the restart was not done in time".to_owned(),
                causes,
            },
            Outcome::Stopped => Roll::Stopped,
        })
    }

    /// Everything works with the new values: the old credentials end, and the record says so.
    async fn end_old(
        &self,
        open: &[Open<'_>],
        restarts: u64,
        mut warnings: Vec<String>,
    ) -> Verdict {
        let mut ended = 0;
        for one in open {
            let state = &one.record.state;
            let old = unused(state);
            if !is_tried(one.spec) {
                // Nobody was restarted, so pods may use the old ones until they end by themselves.
                let now = self.tools.ports.clock.now();
                let mut lives = old.iter();
                if lives.any(|credential| first_end(credential) > now) {
                    continue;
                }
            }
            if let Err(reason) = self.end_all(&old).await {
                warnings.push(format!(
                    "Secret {}: the old credential is alive still ({reason}); it is ended later",
                    one.spec.name
                ));
                continue;
            }
            ended += old.len();
            let mut record = one.record.clone();
            record.state.trial = None;
            record.state.retiring.clear();
            // What was put back works; what did not is not forgotten.
            if !is_put_back(state) {
                record.state.setback = None;
            }
            record.state.restarts += restarts;
            if let Err(error) = self.rewrite(one, &record).await {
                warnings.push(format!(
                    "Secret {}: {error}; it is noted later",
                    one.spec.name
                ));
                continue;
            }
            self.forget_backup(&one.spec.name).await;
        }
        let what = match ended {
            0 => String::new(),
            1 => "; the old credential is ended".to_owned(),
            more => format!("; {more} old credentials are ended"),
        };
        let restarted = match restarts {
            0 => String::new(),
            1 => ", 1 workload restarted and ready".to_owned(),
            more => format!(", {more} workloads restarted and ready"),
        };
        Verdict::succeeded(format!("{} fresh{restarted}{what}", self.names()), warnings)
    }

    /// Ends credentials; an error leaves some of them alive, and doing it again is safe.
    async fn end_all(&self, old: &[Credential]) -> Result<(), String> {
        let with_token: Vec<_> = old.iter().filter_map(|one| one.accessor.as_ref()).collect();
        if with_token.is_empty() {
            return Ok(());
        }
        let secrets = &self.tools.ports.secrets;
        let trouble = |error: &SecretsError| Trouble {
            class: if error.class().is_transient() {
                Class::Upstream
            } else {
                error.class()
            },
            retry_after_seconds: None,
            reason: error.to_string(),
        };
        // Ending the old ones is worth some waiting, and not the whole run.
        let patience = Patience {
            deadline: self
                .patience
                .deadline
                .min(Instant::now() + std::time::Duration::from_secs(10)),
            ..self.patience.clone()
        };
        let login = patience.retry(|| secrets.login(&Login::Own), trouble);
        let own = login.await.map_err(|error| error.to_string())?;
        for accessor in with_token {
            let end = patience.retry(|| secrets.end(&own, accessor), trouble);
            end.await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Writes a Secret with the values that it has and another record.
    async fn rewrite(&self, one: &Open<'_>, record: &Record) -> Result<(), ClusterError> {
        let id = secret_id(self.permit.namespace().as_str(), &one.spec.name);
        let cluster = &self.tools.ports.cluster;
        let look = || cluster.values(self.permit.actor(), &id);
        let values = self.patience.retry(look, cluster_trouble).await?;
        let Some(values) = values else {
            return Ok(());
        };
        self.write(one, record, values, Force::No).await
    }

    async fn write(
        &self,
        one: &Open<'_>,
        record: &Record,
        mut values: BTreeMap<String, Secret>,
        force: Force,
    ) -> Result<(), ClusterError> {
        let id = secret_id(self.permit.namespace().as_str(), &one.spec.name);
        // Keys of others stay theirs.
        values.retain(|key, _| one.spec.keys.contains_key(key));
        let mut body = self.body_of(one);
        rewritten(&mut body, record);
        put(
            &id,
            &body,
            &values,
            self.permit,
            force,
            self.tools,
            self.patience,
        )
        .await
        .map(drop)
    }

    /// Returns the JSON that the agents own of a Secret, with the labels that it has.
    fn body_of(&self, one: &Open<'_>) -> Value {
        let mut wanted = plan::wanted(self.permit);
        let set = crate::history::store::Place {
            cluster: &*self.tools.ports.cluster,
            actor: self.permit.actor(),
            namespace: self.permit.namespace().as_str(),
            app: self.permit.request().spec.name.as_str(),
        }
        .set_id();
        crate::history::mark(wanted.iter_mut(), &set);
        let mut all = wanted.into_iter();
        all.find(|(id, _)| id.gvk.is("", "Secret") && id.name == one.spec.name)
            .map_or(Value::Null, |(_, content)| content.body().clone())
    }

    async fn forget_backup(&self, secret: &str) {
        let name = managed::backup_name(secret);
        let id = secret_id(self.permit.namespace().as_str(), &name);
        let (cluster, actor) = (&self.tools.ports.cluster, self.permit.actor());
        let look = self
            .patience
            .retry(|| cluster.secret(actor, &id), cluster_trouble);
        let Ok(Some(view)) = look.await else {
            return;
        };
        let deletion = Deletion {
            uid: text(&view.rest, &["metadata", "uid"]).to_owned(),
            dependents: Dependents::Background,
            write: Write::Commit,
        };
        let delete = self
            .patience
            .retry(|| cluster.delete(actor, &id, &deletion), cluster_trouble);
        if let Err(error) = delete.await {
            self.tools
                .log
                .warn(format!("Secret {name} could not be deleted: {error}"));
        }
    }

    /// The new values do not work: those of before go back, and the new credentials end.
    async fn go_back(
        &self,
        open: &[Open<'_>],
        code: Code,
        why: &str,
        causes: Vec<Cause>,
    ) -> Verdict {
        let log = self.tools.log;
        log.start(Stage::Apply, "put the values of before back");
        log.error(format!("the new values do not work: {why}"));
        // The failure may have used up the time of the run.
        let patience = Patience {
            deadline: Instant::now() + self.permit.request().spec.rollout.timeout,
            ..self.patience.clone()
        };
        let again = Settling {
            patience: &patience,
            changes: self.changes.clone(),
            ..*self
        };
        let mut back = Vec::new();
        let mut lost = Vec::new();
        for one in open {
            match again.put_back(one, why).await {
                Ok(Back::Done) => back.push(one.spec.name.as_str()),
                Ok(Back::NothingKept) => {}
                Err(error) => lost.push(format!("Secret {}: {error}", one.spec.name)),
            }
        }
        log.end_stage(Stage::Apply);
        let message = format!("the rotation of {} failed: {why}", again.names());
        let mut verdict = Verdict::rollout(code, message, causes);
        for one in open {
            again.tell_the_secret(one, &verdict.message).await;
        }
        if !lost.is_empty() {
            return end(verdict, Status::RollbackFailed, &lost.join("; "));
        }
        if back.is_empty() {
            return end(
                verdict,
                Status::Failed,
                "there are no values of before to put back; both credentials are alive",
            );
        }
        // The same way forward: restart, watch, end what is in no Secret any more.
        let second = match again.open().await {
            Ok(open) => match again.roll(&open).await {
                Ok(Roll::Well { restarts, warnings }) => {
                    Ok(again.end_old(&open, restarts, warnings).await)
                }
                Ok(Roll::Badly { why, causes, .. }) => {
                    verdict.causes.extend(causes);
                    Err(why)
                }
                Ok(Roll::Stopped) => Err("the run was told to stop".to_owned()),
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        };
        match second {
            Ok(well) => {
                verdict.warnings.extend(well.warnings);
                let told = format!(
                    "the values of before are back in {} and work",
                    back.join(", ")
                );
                end(verdict, Status::RolledBack, &told)
            }
            Err(why) => {
                let told = format!(
                    "the values of before are back in {}, and do not work either: {why}",
                    back.join(", ")
                );
                end(verdict, Status::RollbackFailed, &told)
            }
        }
    }

    async fn put_back(&self, one: &Open<'_>, why: &str) -> Result<Back, ClusterError> {
        let Some(trial) = &one.record.state.trial else {
            return Ok(Back::NothingKept);
        };
        if is_put_back(&one.record.state) {
            // These are the values of before.
            return Ok(Back::NothingKept);
        }
        let backup = secret_id(self.permit.namespace().as_str(), &trial.backup);
        let cluster = &self.tools.ports.cluster;
        let look = || cluster.values(self.permit.actor(), &backup);
        let Some(values) = self.patience.retry(look, cluster_trouble).await? else {
            return Ok(Back::NothingKept);
        };
        let state = &one.record.state;
        let now = self.tools.ports.clock.now();
        let mut retiring = state.retiring.clone();
        let fresh = state.credentials.values();
        retiring.extend(
            fresh
                .filter(|new| trial.credentials.get(&new.path) != Some(new))
                .cloned(),
        );
        let times = state.setback.as_ref().map_or(0, |setback| setback.times) + 1;
        let versions = state.versions.iter();
        let record = Record {
            declaration: one.record.declaration.clone(),
            state: State {
                generation: state.generation + 1,
                written: now,
                run: format!("{}-back", self.tools.id),
                versions: trial.versions.clone(),
                credentials: trial.credentials.clone(),
                retiring,
                // Until the pods with these values are ready: a run that is cut here goes on.
                trial: Some(trial.clone()),
                setback: Some(Setback {
                    at: now,
                    why: why.to_owned(),
                    times,
                    versions: versions
                        .filter(|(path, version)| trial.versions.get(*path) != Some(version))
                        .map(|(path, version)| (path.clone(), *version))
                        .collect(),
                }),
                restarts: state.restarts,
            },
        };
        self.write(one, &record, values, Force::No).await?;
        self.tools.log.object(
            secret_id(self.permit.namespace().as_str(), &one.spec.name).to_string(),
            "put back",
            "the values of before",
        );
        Ok(Back::Done)
    }

    /// Leaves the verdict as an event on the Secret; whoever looks at it there finds why.
    async fn tell_the_secret(&self, one: &Open<'_>, message: &str) {
        let namespace = self.permit.namespace().as_str();
        let id = ObjectId {
            gvk: Gvk::new("v1", "Event"),
            namespace: Some(namespace.to_owned()),
            name: format!("{}.{}", one.spec.name, self.tools.id),
        };
        let now = format!("{:.0}", self.tools.ports.clock.now());
        let body = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": id.name, "namespace": namespace },
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Secret",
                "namespace": namespace,
                "name": one.spec.name,
                "uid": text(&one.body, &["metadata", "uid"]),
            },
            "type": "Warning",
            "reason": "RotationFailed",
            "message": self.tools.log.clean(message),
            "source": { "component": "quaymaster" },
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        });
        let written = self
            .tools
            .ports
            .cluster
            .create(self.permit.actor(), &id, &body)
            .await;
        match written {
            Ok(_) | Err(ClusterError::Exists { .. }) => {}
            Err(error) => self.tools.log.warn(format!(
                "the event on Secret {} could not be written: {error}",
                one.spec.name
            )),
        }
    }
}

/// What became of putting values back.
enum Back {
    Done,
    /// No values of before are kept.
    NothingKept,
}

/// Says whether what a Secret has is what was there before the change on trial.
fn is_put_back(state: &State) -> bool {
    state.trial.as_ref().is_some_and(|trial| {
        trial.credentials == state.credentials && trial.versions == state.versions
    })
}

/// Lists the credentials that are in no Secret any more once a change is good.
fn unused(state: &State) -> Vec<Credential> {
    let tried = state
        .trial
        .iter()
        .flat_map(|trial| trial.credentials.values());
    let old = tried.filter(|old| state.credentials.get(&old.path) != Some(old));
    state.retiring.iter().chain(old).cloned().collect()
}

/// Says when a credential ends that nobody extends any more, at the latest.
fn first_end(credential: &Credential) -> jiff::Timestamp {
    let life = std::time::Duration::from_secs(credential.seconds);
    credential
        .issued
        .checked_add(life)
        .unwrap_or(credential.issued)
}

fn end(mut verdict: Verdict, status: Status, more: &str) -> Verdict {
    verdict.status = status;
    verdict.message = format!("{}; {more}", verdict.message);
    if let Some(problem) = &mut verdict.problem {
        problem.detail.clone_from(&verdict.message);
    }
    verdict
}
