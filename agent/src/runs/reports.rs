//! The reports that the table itself makes: of a run that begins, and of one that broke.
//!
//! Used by [`super`] only; every other report comes from the engine.

use jiff::Timestamp;
use proto::error::Code;
use proto::error::Problem;
use proto::ids::RunId;
use proto::report::Report;
use proto::report::Status;

use super::Submission;

/// The report of a run that begins.
pub(super) fn beginning(id: &RunId, submission: &Submission, now: Timestamp) -> Report {
    Report {
        id: id.clone(),
        mode: submission.mode,
        name: submission.name.clone(),
        cluster: submission.cluster.clone(),
        namespace: submission.namespace.clone(),
        status: Status::Running,
        started: format!("{now:.3}"),
        finished: None,
        message: "the run is on".to_owned(),
        code: None,
        revision: None,
        problem: None,
        steps: Vec::new(),
        images: Vec::new(),
        url: None,
        plan: None,
        causes: Vec::new(),
        warnings: Vec::new(),
    }
}

/// The report of a run whose task panicked.
pub(super) fn crashed(begun: &Report, now: Timestamp) -> Report {
    let message = "the agent made a mistake during this run; what was written stays. \
                   Tell the operator the id of the run";
    let mut report = begun.clone();
    report.status = Status::Failed;
    report.finished = Some(format!("{now:.3}"));
    report.code = Some(Code::Internal);
    report.problem = Some(Problem::new(Code::Internal, message));
    report.message = message.to_owned();
    report
}
