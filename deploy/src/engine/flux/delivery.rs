//! One commit on its way to the cluster: Flux is asked, waited for, and looked at beside the workloads.
//!
//! Used by [`super`] for a commit of ours and for the one that takes it back.

use std::time::Duration;

use futures::FutureExt as _;
use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::report::Cause;
use proto::report::Status;
use tokio::time::Instant;

use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::engine::Tools;
use crate::engine::course::KEPT;
use crate::flux::FluxError;
use crate::flux::objects;
use crate::flux::scene;
use crate::flux::wait::Pushed;
use crate::flux::wait::Said;
use crate::flux::wait::Stand;
use crate::flux::wait::Waiter;
use crate::object::AppliedObject;
use crate::ports::CommitId;
use crate::ports::GitLogin;
use crate::report;
use crate::report::Verdict;
use crate::spec::Flux;
use crate::watch;
use crate::watch::Outcome;
use crate::watch::Watched;

/// How long the watch may look for a cause once Flux has said that it failed.
const LOOK: Duration = Duration::from_secs(8);
/// How often workloads that are ready are looked at while Flux goes on.
const AGAIN: Duration = Duration::from_secs(1);

/// One commit on its way to the cluster.
pub(super) struct Delivery<'a, 'b> {
    pub(super) permit: &'a Permit,
    pub(super) flux: &'a Flux,
    pub(super) login: &'a GitLogin,
    /// Whether the commit is on the branch.
    pub(super) pushed: Pushed,
    pub(super) tools: &'a Tools<'b>,
    /// What stops it, and when it ends.
    pub(super) patience: Patience<'a>,
    /// What the run wrote itself, judged with the rest.
    pub(super) own: &'a [AppliedObject],
}

/// How Flux and the workloads ended.
enum End {
    /// With the number of objects and what is to be known beside them.
    Ready(usize, Vec<String>),
    Failed(Vec<Cause>),
    TimedOut(Vec<Cause>),
    Stopped,
    Trouble(FluxError),
}

/// What was seen of Flux and of the workloads at once.
struct Look {
    stands: Vec<Said>,
    /// Of the watch, where it has ended well.
    warnings: Vec<String>,
}

impl Delivery<'_, '_> {
    /// Waits for one commit and tells how it fared.
    pub(super) async fn verdict(&self, commit: &CommitId) -> Verdict {
        let log = self.tools.log;
        log.start(Stage::Watch, "wait for Flux and watch the rollout");
        // Another one for each commit of a run, and for each run.
        let now = self.tools.ports.clock.now();
        let token = format!("{now:.3}-{}-{}", self.tools.id, commit.short());
        let waiter = Waiter::new(
            self.flux,
            (commit, self.pushed),
            self.permit.actor(),
            self.login,
            self.tools.ports,
            token,
        );
        // Boxed for its size.
        let end = self.end(&waiter).boxed().await;
        let later = waiter.later().await;
        let verdict = self.told(end, commit);
        let verdict = match later {
            None => verdict,
            Some(later) => self.with_later(verdict, commit, &later).await,
        };
        log.end_stage(Stage::Watch);
        verdict
    }

    /// Waits until the workloads and Flux agree.
    async fn end(&self, waiter: &Waiter<'_>) -> End {
        let (log, patience) = (self.tools.log, &self.patience);
        if let Err(error) = waiter.sources(patience).await {
            return trouble(error, waiter).await;
        }
        log.info("the source has fetched it");
        if let Err(error) = waiter.ask(patience).await {
            return trouble(error, waiter).await;
        }
        let begun = |stand: &Stand| matches!(stand, Stand::Applied | Stand::Ready);
        let stands = match waiter.appliers_are(begun, patience).await {
            Ok(stands) => stands,
            Err(error) => return trouble(error, waiter).await,
        };
        self.judge(waiter, stands).await
    }

    /// Looks at Flux and at the workloads side by side.
    async fn judge(&self, waiter: &Waiter<'_>, stands: Vec<Said>) -> End {
        let mut look = Look {
            stands,
            warnings: Vec::new(),
        };
        let mut judged: Option<Vec<AppliedObject>> = None;
        loop {
            let objects = match self.workloads(&look.stands).await {
                Ok(objects) => objects,
                Err(error) => return trouble(error, waiter).await,
            };
            if let Some(failed) = failure(&look.stands) {
                return self.failed(failed, &objects).await;
            }
            let mut stands = look.stands.iter();
            let all_ready = stands.all(|(_, stand, _)| *stand == Stand::Ready);
            if all_ready && judged.as_ref() == Some(&objects) {
                let count = objects.len() + self.own.len();
                return End::Ready(count, look.warnings);
            }
            look = match self.side_by_side(waiter, &look.stands, &objects).await {
                Ok(Ok(next)) => next,
                Ok(Err(error)) => return trouble(error, waiter).await,
                Err(end) => return end,
            };
            judged = Some(objects);
        }
    }

    /// Watches workloads and asks Flux until both have spoken; what fails first for good decides. Where
    /// the workloads are ready and change while Flux goes on, as Helm changes them, they are looked at
    /// again: it says how Flux stood before.
    async fn side_by_side(
        &self,
        waiter: &Waiter<'_>,
        stands: &[Said],
        objects: &[AppliedObject],
    ) -> Result<Result<Look, FluxError>, End> {
        let watching = self.watch(objects, self.patience.deadline).fuse();
        let is_ready = |stand: &Stand| *stand == Stand::Ready;
        let asking = waiter.appliers_are(is_ready, &self.patience).fuse();
        futures::pin_mut!(watching, asking);
        // Both are polled again below, or the run ends with what the first one says.
        futures::select! {
            outcome = watching => {
                let warnings = ended(outcome)?;
                loop {
                    futures::select! {
                        said = asking => return Ok(said.map(|stands| Look { stands, warnings })),
                        // A look that is lost to what Flux says is one look less.
                        () = tokio::time::sleep(AGAIN).fuse() => {}
                    }
                    match self.workloads(stands).await {
                        Ok(now) if now == objects => {}
                        Ok(_) => {
                            let stands = stands.to_vec();
                            return Ok(Ok(Look { stands, warnings }));
                        }
                        Err(error) => return Ok(Err(error)),
                    }
                }
            }
            said = asking => {
                // Where all is ready for Flux, it is judged by the same look as any deploy.
                let warnings = if said.as_ref().is_ok_and(|said| failure(said).is_none()) {
                    ended(watching.await)?
                } else {
                    Vec::new()
                };
                Ok(said.map(|stands| Look { stands, warnings }))
            }
        }
    }

    async fn workloads(&self, stands: &[Said]) -> Result<Vec<AppliedObject>, FluxError> {
        let namespace = self.permit.namespace().as_str();
        let mut all: Vec<AppliedObject> = Vec::new();
        for (id, _, object) in stands {
            let found = objects::workloads(
                id,
                object,
                namespace,
                self.permit.actor(),
                self.tools.ports,
                &self.patience,
            );
            for one in found.await? {
                if !all.iter().any(|other| other.id == one.id) {
                    all.push(one);
                }
            }
        }
        // The resource version moves with every look of a controller; it says nothing here.
        all.iter_mut().for_each(|one| one.resource_version.clear());
        Ok(all)
    }

    async fn watch(&self, objects: &[AppliedObject], deadline: Instant) -> Outcome {
        let all: Vec<AppliedObject> = objects.iter().chain(self.own).cloned().collect();
        watch::watch(
            Watched {
                objects: &all,
                namespace: self.permit.namespace().as_str(),
                rules: &self.permit.request().spec.health,
            },
            self.permit.actor(),
            self.tools.ports,
            self.tools.log,
            deadline.min(self.patience.deadline),
            self.patience.stop,
        )
        .await
    }

    /// Flux has said that it failed: the workloads are looked at for why.
    async fn failed(&self, cause: Cause, objects: &[AppliedObject]) -> End {
        if !objects.is_empty() {
            let found = self.watch(objects, Instant::now() + LOOK).await;
            if let Outcome::Failed { mut causes } | Outcome::TimedOut { mut causes } = found
                && !causes.is_empty()
            {
                causes.push(cause);
                return End::Failed(causes);
            }
        }
        End::Failed(vec![cause])
    }

    fn told(&self, end: End, commit: &CommitId) -> Verdict {
        let name = &self.permit.request().spec.name;
        let short = commit.short();
        match end {
            End::Ready(count, warnings) => Verdict::succeeded(
                format!(
                    "{name} is deployed through Flux: commit {short} is applied, {count} objects are ready"
                ),
                warnings,
            ),
            End::Failed(causes) => {
                let why = causes
                    .first()
                    .map_or("no cause was found", |cause| &cause.message);
                let message =
                    format!("the rollout of {name} at commit {short} failed: {why}{KEPT}");
                Verdict::rollout(Code::RolloutFailed, message, causes)
            }
            End::TimedOut(causes) => {
                let seconds = self.permit.request().spec.rollout.timeout.as_secs();
                let message = format!(
                    "the rollout of {name} at commit {short} was not done after {seconds} s{KEPT}"
                );
                Verdict::rollout(Code::RolloutTimeout, message, causes)
            }
            End::Stopped if !self.tools.stop.is_cancelled() => Verdict::problem(Problem::new(
                Code::ApplyConflict,
                format!(
                    "another run took the lock of {name} while this one waited for Flux; commit {short} is pushed"
                ),
            )),
            End::Stopped => Verdict::problem(Problem::new(
                Code::Cancelled,
                format!(
                    "the run was cancelled after commit {short} was pushed; Flux goes on unwatched"
                ),
            )),
            End::Trouble(error @ FluxError::Absent { .. }) => {
                Verdict::problem(report::flux::of_flux(&error))
            }
            End::Trouble(FluxError::Git { source, .. }) if self.pushed == Pushed::Perhaps => {
                let detail = format!(
                    "the agent was stopped during the run; Flux has a commit that cannot be compared with {short} \
                     without the credential of the repository, which ended with the former process ({source})"
                );
                let hint = "look at Flux, or run the job again: it pushes nothing twice";
                Verdict::problem(Problem::new(Code::Interrupted, detail).hint(hint))
            }
            End::Trouble(error) => {
                let mut problem = report::flux::of_flux(&error);
                problem.detail = format!("{}; commit {short} is pushed", problem.detail);
                Verdict::problem(problem)
            }
        }
    }

    /// A later commit is what Flux has: it may have taken our images away again.
    async fn with_later(&self, verdict: Verdict, commit: &CommitId, later: &CommitId) -> Verdict {
        let edited = scene::edit(
            self.permit,
            self.flux,
            self.login,
            self.tools.ports,
            &self.patience,
        );
        let (ours, theirs) = (commit.short(), later.short());
        let stands = match edited.await {
            Ok((_, edited)) => edited.changes.is_empty(),
            // The places are gone, and our images with them.
            Err(FluxError::Edit(_)) => false,
            Err(error) => {
                let mut verdict = verdict;
                verdict.warnings.push(format!(
                    "Flux is at commit {theirs} by now, which comes after ours; whether it names the same images could \
                     not be looked at: {error}"
                ));
                return verdict;
            }
        };
        if stands {
            self.tools.log.info(format!(
                "Flux is at commit {theirs} by now, which comes after ours and names the same images"
            ));
            return verdict;
        }
        let outcome = match verdict.status {
            Status::Succeeded => "which is ready".to_owned(),
            _ => format!("which did not become ready: {}", verdict.message),
        };
        let detail = format!("commit {ours} was superseded by {theirs}, {outcome}");
        Verdict {
            causes: verdict.causes,
            warnings: verdict.warnings,
            ..Verdict::problem(
                Problem::new(Code::Superseded, detail)
                    .hint("somebody pushed other images to the same places after this run"),
            )
        }
    }
}

/// Tells what keeps Flux from being waited for; at the deadline, what Flux said last.
async fn trouble(error: FluxError, waiter: &Waiter<'_>) -> End {
    match error {
        FluxError::Stopped => End::Stopped,
        FluxError::Late { what } => End::TimedOut(vec![waiter.not_done(&what).await]),
        error => End::Trouble(error),
    }
}

/// Tells every end of a watch but the good one, of which the warnings are left.
fn ended(outcome: Outcome) -> Result<Vec<String>, End> {
    match outcome {
        Outcome::Ready { warnings } => Ok(warnings),
        Outcome::Failed { causes } => Err(End::Failed(causes)),
        Outcome::TimedOut { causes } => Err(End::TimedOut(causes)),
        Outcome::Stopped => Err(End::Stopped),
    }
}

/// The first applier that failed, as a cause.
fn failure(stands: &[Said]) -> Option<Cause> {
    stands.iter().find_map(|(id, stand, _)| match stand {
        Stand::Failed { reason, message } => Some(Cause {
            kind: "flux_failed".to_owned(),
            object: id.to_string(),
            message: format!("{id}: {reason}"),
            evidence: message.lines().take(20).map(str::to_owned).collect(),
            hint: Some("the message is Flux's own; `flux events` shows more".to_owned()),
        }),
        Stand::Waiting | Stand::Applied | Stand::Ready => None,
    })
}
