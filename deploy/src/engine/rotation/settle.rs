//! After the write: restart what uses the Secrets, judge it, and end the old credentials, or go back.
//!
//! Called by [`super`] under the app's lock, for a change of this run as for one that a former run,
//! maybe of another agent, left open: the record on the Secret says all that is needed, and the values
//! of before are in their backup. Invariants: nothing that a pod may still use is ended before the pods
//! with the new values are ready; what did not work is taken back to values whose credentials are
//! alive; every step can be done twice.

use super::back::is_put_back;
use super::is_tried;
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
use crate::managed::State;
use crate::object::AppliedObject;
use crate::ports::ClusterError;
use crate::ports::Login;
use crate::ports::SecretsError;
use crate::report;
use crate::report::Verdict;
use crate::resolve::secret_id;
use crate::rotate::consumers;
use crate::rotate::consumers::Changed;
use crate::spec::Restart;
use crate::spec::SecretSpec;
use crate::spec::Workload;
use crate::watch;
use crate::watch::Outcome;
use crate::watch::Watched;
use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::report::Cause;
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use tokio::time::Instant;

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
pub(super) struct Open<'a> {
    pub(super) spec: &'a SecretSpec,
    pub(super) record: Record,
    /// When it was written, by the server's clock.
    written: jiff::Timestamp,
    /// The object without values.
    pub(super) body: Value,
}

/// How the workloads took it.
pub(super) enum Roll {
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

    pub(super) fn names(&self) -> String {
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
    pub(super) async fn open(&self) -> Result<Vec<Open<'_>>, ClusterError> {
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
            if record.state.is_open() {
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
    pub(super) async fn roll(&self, open: &[Open<'_>]) -> Result<Roll, ClusterError> {
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
                // One that a former run restarted has no older pods, and was not judged yet.
                let restarted = scene.was_restarted(&workload, &one.record.state.run);
                if named || restarted || scene.has_any(&workload, &older) {
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
    pub(super) async fn end_old(
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
                if state.old_end().is_some_and(|end| end > now) {
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
            record.state.stale = false;
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
    pub(super) async fn end_all(&self, old: &[Credential]) -> Result<(), String> {
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
