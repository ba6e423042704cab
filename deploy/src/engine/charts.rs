//! What is different at the end of a run whose chart Helm writes: causes of failed hooks, the note
//! that a release works, and the way back to one that did.
//!
//! Called by [`super`]. A run without a chart passes through unchanged.

use proto::error::Code;
use proto::event::Stage;
use proto::report::Status;
use tokio::time::Instant;

use super::Tools;
use super::back::again;
use super::back::tell_causes;
use super::back::told;
use super::course::Course;
use crate::apply::ApplyError;
use crate::apply::ApplyFailure;
use crate::backoff::Patience;
use crate::plan::Plan;
use crate::release::ReleaseError;
use crate::release::back;
use crate::release::back::By;
use crate::report;
use crate::report::Verdict;
use crate::spec::Helm;
use crate::watch;
use crate::watch::Outcome;
use crate::watch::Watched;

/// How long a failed hook is looked at for its cause.
const LOOK: std::time::Duration = std::time::Duration::from_secs(15);

/// Tells a failure while writing; a failed hook with its cause, from the same evidence as any other.
pub(super) async fn refused(
    plan: &Plan,
    failure: &ApplyFailure,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    let problem = report::of_apply(failure);
    let ApplyError::Release(ReleaseError::Hook { hooks, .. }) = &failure.error else {
        return Verdict::problem(problem);
    };
    if hooks.is_empty() {
        return Verdict::problem(problem);
    }
    let permit = plan.permit();
    let outcome = watch::watch(
        Watched {
            objects: hooks,
            namespace: permit.namespace().as_str(),
            rules: &permit.request().spec.health,
        },
        permit.actor(),
        tools.ports,
        tools.log,
        patience.deadline.min(Instant::now() + LOOK),
        &tools.stop,
    )
    .await;
    match outcome {
        Outcome::Failed { causes } | Outcome::TimedOut { causes } if !causes.is_empty() => {
            Verdict::rollout(Code::RolloutFailed, problem.detail, causes)
        }
        Outcome::Failed { .. }
        | Outcome::TimedOut { .. }
        | Outcome::Ready { .. }
        | Outcome::Stopped => Verdict::problem(problem),
    }
}

/// Notes that a release works, so that a later run can go back to it.
pub(super) async fn mark_ready(plan: &Plan, tools: &Tools<'_>, patience: &Patience<'_>) {
    if let Some(helm) = &plan.permit().request().spec.helm {
        back::mark_ready(plan.permit(), helm, tools.ports, patience).await;
    }
}

/// Puts back the revision that worked, watches it, and tells both stories.
pub(super) async fn roll_back(
    course: &Course<'_>,
    helm: &Helm,
    failed: Verdict,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    let permit = course.plan.permit();
    let patience = again(permit, patience);
    tell_causes(&failed, tools);
    tools.log.start(Stage::Apply, "roll back");
    let by = if course.resumed {
        By::FormerProcess
    } else {
        By::ThisOne
    };
    let put_back = back::roll_back(permit, helm, by, tools.ports, &patience).await;
    tools.log.end_stage(Stage::Apply);
    let (revision, objects) = match put_back {
        Ok(put_back) => put_back,
        // Nothing to go back to is no failed rollback: nothing was tried.
        Err(ReleaseError::NoEarlier { .. }) => {
            let message = format!(
                "{}; there is no earlier revision that worked to roll back to",
                failed.message
            );
            return Verdict { message, ..failed };
        }
        Err(ReleaseError::Untouched { .. }) => {
            let message = format!(
                "{}; Helm had not begun to write the release, so there is nothing to roll back",
                failed.message
            );
            return Verdict { message, ..failed };
        }
        Err(error) => {
            let problem = report::charts::of_release(&error);
            let what = format!("; {}", problem.detail);
            return told(failed, Status::RollbackFailed, &what);
        }
    };
    tools.log.info(format!(
        "Helm put revision {revision} of release {} back",
        helm.release
    ));
    tools.log.start(Stage::Watch, "watch the rollback");
    let outcome = watch::watch(
        Watched {
            objects: &objects,
            namespace: permit.namespace().as_str(),
            rules: &permit.request().spec.health,
        },
        permit.actor(),
        tools.ports,
        tools.log,
        patience.deadline,
        &course.reins.watching,
    )
    .await;
    tools.log.end_stage(Stage::Watch);
    match outcome {
        Outcome::Ready { .. } => {
            // Not the number that the app's own history has: Helm counts its ways back too.
            let what = format!("; Helm's revision {revision} is back and ready");
            // So that the next rollback knows it too.
            back::mark_ready(permit, helm, tools.ports, &patience).await;
            told(failed, Status::RolledBack, &what)
        }
        Outcome::Failed { causes } | Outcome::TimedOut { causes } => {
            let why = causes
                .first()
                .map_or("it is not ready", |cause| &cause.message);
            let what = format!("; Helm's revision {revision} is put back, but {why}");
            told(failed, Status::RollbackFailed, &what)
        }
        Outcome::Stopped => {
            let what =
                format!("; Helm's revision {revision} is put back, but was not watched to the end");
            told(failed, Status::RollbackFailed, &what)
        }
    }
}
