//! A run that nobody follows any more: whether it is told to stop, whether it goes back, and how that is told.
//!
//! Called by [`super`] around a run's work, and by [`super::course`] once it has ended. Only the way forward is
//! told to stop: a way back, once begun, is finished whoever is there.

use futures::future::BoxFuture;
use proto::report::Status;

use super::Tools;
use crate::report::Verdict;
use crate::spec::OnDisconnect;
use crate::spec::OnFailure;
use crate::spec::Rollout;

/// Does a run's work. Once its audience has left it is told to stop, where the spec wants that, and ends by
/// itself between two writes.
pub(super) async fn attended<T>(
    mut work: BoxFuture<'_, T>,
    on_disconnect: OnDisconnect,
    tools: &Tools<'_>,
) -> T {
    match on_disconnect {
        OnDisconnect::Finish => return work.await,
        OnDisconnect::Cancel | OnDisconnect::Rollback => {}
    }
    tokio::select! {
        // The work is not dropped when the audience has left: it is awaited to its end below.
        done = &mut work => return done,
        () = tools.audience.left() => {}
    }
    tools.log.warn(format!(
        "nobody has followed this run for {}; it is told to stop, as rollout.on_disconnect asks",
        grace(tools)
    ));
    tools.stop.cancel();
    work.await
}

/// Says whether the app goes back to what worked before.
pub(super) fn goes_back(verdict: &Verdict, rollout: &Rollout, tools: &Tools<'_>) -> bool {
    if tools.end.is_cancelled() {
        return false;
    }
    match verdict.status {
        Status::Failed => match rollout.on_failure {
            OnFailure::Keep => false,
            OnFailure::Rollback | OnFailure::Revert => true,
        },
        Status::Cancelled => match rollout.on_disconnect {
            OnDisconnect::Finish | OnDisconnect::Cancel => false,
            OnDisconnect::Rollback => tools.audience.has_left(),
        },
        Status::Running
        | Status::Succeeded
        | Status::Denied
        | Status::Invalid
        | Status::Superseded
        | Status::RolledBack
        | Status::RollbackFailed
        | Status::Interrupted => false,
    }
}

/// Says of a run that its followers left that it goes back; of any other nothing.
pub(super) fn going_back(mut verdict: Verdict, tools: &Tools<'_>) -> Verdict {
    if verdict.status == Status::Cancelled {
        let text = format!("{}, as rollout.on_disconnect asks", gone(tools));
        put(&mut verdict, text);
    }
    verdict
}

/// Says of a run that was cancelled because its followers left that it was so.
pub(super) fn explained(mut verdict: Verdict, tools: &Tools<'_>) -> Verdict {
    let left = tools.audience.has_left() && !tools.end.is_cancelled();
    let why = gone(tools);
    if left && verdict.status == Status::Cancelled && !verdict.message.starts_with(&why) {
        let text = format!("{why}, as rollout.on_disconnect asks: {}", verdict.message);
        put(&mut verdict, text);
    }
    verdict
}

fn gone(tools: &Tools<'_>) -> String {
    format!("the job was gone for {}; cancelled", grace(tools))
}

fn grace(tools: &Tools<'_>) -> String {
    format!("{} s", tools.audience.grace().as_secs())
}

fn put(verdict: &mut Verdict, text: String) {
    if let Some(problem) = &mut verdict.problem {
        problem.detail.clone_from(&text);
    }
    verdict.message = text;
}
