//! The way back of a rotation: values that do not work are replaced by those of before, and the new
//! credentials end.
//!
//! Called by [`super::settle`]. The record keeps the trial until the pods with the values of before are
//! ready, so that a run that is cut here goes on; the setback stays in it, so that the same values are not
//! tried again at once.

use super::settle::Open;
use super::settle::Roll;
use super::settle::Settling;
use crate::backoff::Patience;
use crate::backoff::cluster_trouble;
use crate::managed::Record;
use crate::managed::Setback;
use crate::managed::State;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::text;
use crate::ports::ClusterError;
use crate::ports::Force;
use crate::report::Verdict;
use crate::resolve::secret_id;
use proto::error::Code;
use proto::event::Stage;
use proto::report::Cause;
use proto::report::Status;
use serde_json::json;
use tokio::time::Instant;

impl Settling<'_> {
    /// The new values do not work: those of before go back, and the new credentials end.
    pub(super) async fn go_back(
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
                stale: false,
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
pub(super) fn is_put_back(state: &State) -> bool {
    state.trial.as_ref().is_some_and(|trial| {
        trial.credentials == state.credentials && trial.versions == state.versions
    })
}

fn end(mut verdict: Verdict, status: Status, more: &str) -> Verdict {
    verdict.status = status;
    verdict.message = format!("{}; {more}", verdict.message);
    if let Some(problem) = &mut verdict.problem {
        problem.detail.clone_from(&verdict.message);
    }
    verdict
}
