//! Tells it: every way a run can end, as status, stable code, one sentence and what to do.
//!
//! Pure. [`crate::engine`] hands in what happened; out come [`proto::report::Report`] and the digest
//! lines that stand last in the job's log. Secret values cannot get in here: errors hold none, and
//! evidence from the cluster passes the run's redactor.

pub mod charts;
pub mod expose;
mod fields;
pub mod flux;
pub mod images;

use proto::error::Code;
use proto::error::Place;
use proto::error::Problem;
use proto::report::Cause;
use proto::report::Status;
use proto::report::saved::SavedPlan;

use crate::apply::ApplyError;
use crate::apply::ApplyFailure;
use crate::authorize::Denial;
use crate::check::CheckError;
use crate::class::Class;
use crate::history::Older;
use crate::history::store::HistoryError;
use crate::lock::LockError;
use crate::lock::Reins;
use crate::ports::ClusterError;
use crate::ports::JournalError;
use crate::ports::SecretsError;
use crate::prune::Brake;
use crate::register::Home;
use crate::resolve::ResolveError;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The status.
    pub status: Status,
    /// One sentence.
    pub message: String,
    /// The problem, unless it succeeded.
    pub problem: Option<Problem>,
    /// Why the rollout failed.
    pub causes: Vec<Cause>,
    /// What was seen and did not fail the run.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// It is done.
    #[must_use]
    pub fn succeeded(message: impl Into<String>, warnings: Vec<String>) -> Self {
        Self {
            status: Status::Succeeded,
            message: message.into(),
            problem: None,
            causes: Vec::new(),
            warnings,
        }
    }

    /// It is not.
    #[must_use]
    pub fn problem(problem: Problem) -> Self {
        let status = status_of(problem.code);
        Self {
            status,
            message: problem.detail.clone(),
            problem: Some(problem),
            causes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The rollout failed, or was not done in time.
    #[must_use]
    pub fn rollout(code: Code, message: String, causes: Vec<Cause>) -> Self {
        let hint = causes.first().and_then(|cause| cause.hint.clone());
        let mut problem = Problem::new(code, message);
        problem.hint = hint;
        Self {
            causes,
            ..Self::problem(problem)
        }
    }
}

/// Returns the status that belongs to a problem code.
#[must_use]
pub fn status_of(code: Code) -> Status {
    match code.status() {
        401 | 403 => Status::Denied,
        400 | 404 | 405 | 413 | 415 | 422 | 431 => Status::Invalid,
        409 => Status::Superseded,
        _ if code == Code::Cancelled => Status::Cancelled,
        _ if code == Code::Interrupted => Status::Interrupted,
        _ => Status::Failed,
    }
}

/// Tells an error of reading or issuing secrets.
#[must_use]
pub fn of_resolve(error: &ResolveError) -> Problem {
    let detail = error.to_string();
    match error {
        ResolveError::NoLogin => Problem::new(Code::VaultDenied, detail)
            .hint("send an id_token (and let the rule name a Vault role), or pass a Vault token"),
        ResolveError::Vault { what, source } => of_vault(what, source),
        ResolveError::FieldMissing { .. } => Problem::new(Code::SecretMissing, detail)
            .hint("look at the names of the fields with 'vault kv get', or correct 'field' in quaymaster.yaml"),
        ResolveError::NoVersions { .. } => Problem::new(Code::SpecInvalid, detail).hint("leave 'version' out"),
        ResolveError::TooLarge { .. } => {
            Problem::new(Code::SpecInvalid, detail).hint("spread the keys over several Secrets")
        }
        ResolveError::Template { source, .. } => {
            Problem::new(Code::SpecInvalid, format!("{detail}: {source}")).hint("correct the template in quaymaster.yaml")
        }
        ResolveError::NotForRotation { .. } => Problem::new(Code::RotationRefused, detail)
            .hint("the operator has to allow this path in the Vault policy of the agent's identity, or leave 'rotate' out"),
        ResolveError::ShortLife { .. } => Problem::new(Code::RotationRefused, detail)
            .hint("raise the TTL of the role in Vault, or lower outage_budget"),
        ResolveError::Cluster { secret, source } => of_cluster(&format!("Secret {secret}"), source),
        ResolveError::Journal(_) => Problem::new(Code::Internal, "the agent cannot write its journal")
            .hint("the operator should look at the disk of the agent's state directory"),
    }
}

/// Tells that this agent keeps no Secrets fresh.
#[must_use]
pub fn of_no_home() -> Problem {
    let detail = "this agent is not set up to keep Secrets fresh";
    Problem::new(Code::RotationRefused, detail).hint(
        "leave 'rotate' out, or let the operator set [vault.identity] and [rotation] in the agent's \
         configuration",
    )
}

/// Tells that the agents' register of Secrets cannot be written.
#[must_use]
pub fn of_register(home: &Home, error: &ClusterError) -> Problem {
    let detail = format!(
        "the agents' register in namespace {} cannot be written: {error}",
        home.namespace
    );
    Problem::new(Code::RotationRefused, detail).hint(
        "the operator has to create the namespace and bind the Role of agent/dist/rbac to the user \
         quaymaster:agent",
    )
}

fn of_vault(what: &str, error: &SecretsError) -> Problem {
    let told = error.to_string();
    // Most errors name the path themselves.
    let detail = if told.contains(what) {
        told
    } else {
        format!("{what}: {told}")
    };
    match error.class() {
        Class::Denied => Problem::new(Code::VaultDenied, detail)
            .hint("the policies of the rule's Vault role have to allow this path, and the role has to accept the job's claims"),
        Class::NotFound => Problem::new(Code::SecretMissing, detail)
            .hint("check mount, path and version; paths are written as for 'vault kv get', without data/"),
        Class::Caller | Class::Conflict => Problem::new(Code::SpecInvalid, detail)
            .hint("write the path as for 'vault kv get', without data/"),
        Class::Upstream | Class::OutcomeUnknown => Problem::new(Code::VaultUnavailable, detail)
            .hint("look at Vault's health; the run waited until its deadline"),
        Class::Bug => Problem::new(Code::Internal, detail).hint("tell the operator the run's id"),
    }
}

/// Tells an error of the check.
#[must_use]
pub fn of_check(error: &CheckError) -> Problem {
    let detail = error.to_string();
    match error {
        CheckError::Denied {
            user,
            verb,
            object,
            reason,
        } => {
            let because = if reason.is_empty() {
                String::new()
            } else {
                format!(" ({reason})")
            };
            Problem::new(Code::ClusterDenied, format!("the cluster does not let {user} {verb} {object}{because}"))
                .hint("the policy rule allows it, RBAC in the cluster does not: bind a Role with this verb to the group of the project")
        }
        CheckError::UnknownKind { .. } => Problem::new(Code::ObjectInvalid, detail)
            .hint("install its custom resource definition first, or put it into the manifests"),
        CheckError::NamespaceMissing { .. } => Problem::new(Code::ObjectInvalid, detail)
            .hint("create the namespace, or put it into the manifests if the rule allows that"),
        CheckError::Refused { objects } => of_refused(objects),
        CheckError::Conflict { objects } => fields::contested(objects),
        CheckError::Fixed { objects } => fields::fixed(objects),
        CheckError::Cluster { object, source } => of_cluster(object, source),
    }
}

/// Tells that a deploy is not what its caller reviewed; nothing was written.
#[must_use]
pub fn of_changed_plan(reviewed: &SavedPlan, moved: Vec<Place>) -> Problem {
    let first = moved.first().map_or("", |place| place.message.as_str());
    let more = match moved.len() {
        0 | 1 => String::new(),
        many => format!("; {} more differences", many - 1),
    };
    let detail = format!(
        "the plan that was saved at {} is not what this deploy would do, so nothing was written: {first}{more}",
        reviewed.made
    );
    Problem::new(Code::PlanChanged, detail)
        .hint("look at the new plan, and save it: quaymaster plan --save FILE")
        .places(moved)
}

fn of_refused(objects: &[(String, ClusterError)]) -> Problem {
    let places = objects.iter().flat_map(|(object, error)| match error {
        ClusterError::Invalid { causes, .. } => causes
            .iter()
            .map(|cause| Place::message(format!("{object}: {cause}")))
            .collect::<Vec<_>>(),
        ClusterError::Forbidden { .. }
        | ClusterError::UnknownKind { .. }
        | ClusterError::Missing { .. }
        | ClusterError::Conflict { .. }
        | ClusterError::Exists { .. }
        | ClusterError::Raced { .. }
        | ClusterError::Unavailable { .. }
        | ClusterError::Unanswered { .. }
        | ClusterError::Unexpected { .. } => vec![Place::message(format!("{object}: {error}"))],
    });
    let Some((object, first)) = objects.first() else {
        return Problem::new(Code::Internal, "the check failed without a reason");
    };
    of_cluster(object, first).places(places)
}

/// Tells an error of a single cluster call.
#[must_use]
pub fn of_cluster(object: &str, error: &ClusterError) -> Problem {
    let detail = match error {
        ClusterError::Invalid { causes, .. } => format!("{error}: {}", causes.join("; ")),
        ClusterError::Conflict { fields, .. } => {
            let told: Vec<String> = fields
                .iter()
                .map(|field| format!("{} ({})", field.field, field.manager))
                .collect();
            format!("{error}: {}", told.join("; "))
        }
        ClusterError::Forbidden { .. }
        | ClusterError::UnknownKind { .. }
        | ClusterError::Missing { .. }
        | ClusterError::Exists { .. }
        | ClusterError::Raced { .. }
        | ClusterError::Unavailable { .. }
        | ClusterError::Unanswered { .. }
        | ClusterError::Unexpected { .. } => format!("{object}: {error}"),
    };
    match error {
        ClusterError::Forbidden { .. } => Problem::new(Code::ClusterDenied, detail).hint(
            "RBAC, a quota or an admission rule of the cluster says no; the reason names which",
        ),
        ClusterError::Invalid { .. } | ClusterError::UnknownKind { .. } => {
            Problem::new(Code::ObjectInvalid, detail).hint("correct the manifest")
        }
        ClusterError::Missing { .. } => Problem::new(Code::ObjectInvalid, detail)
            .hint("something that the object needs, such as its namespace, does not exist"),
        ClusterError::Exists { .. } | ClusterError::Raced { .. } => {
            Problem::new(Code::ApplyConflict, detail)
                .hint("somebody else changed it at the same moment: run the job again")
        }
        ClusterError::Conflict { .. } => Problem::new(Code::ApplyConflict, detail)
            .hint("take the field out of the manifest, or let the other manager give it up"),
        ClusterError::Unavailable { .. } | ClusterError::Unanswered { .. } => {
            Problem::new(Code::ClusterUnavailable, detail)
                .hint("look at the API server's health; the run waited until its deadline")
        }
        ClusterError::Unexpected { .. } => {
            Problem::new(Code::Internal, detail).hint("tell the operator the run's id")
        }
    }
}

/// Tells that the rule does not grant objects that became known during the run.
#[must_use]
pub fn of_denial(denial: &Denial) -> Problem {
    let mut problem = Problem::new(Code::Denied, denial.message.clone()).hint(denial.hint.clone());
    problem.decision_id = Some(denial.decision.clone());
    problem
}

/// Tells an error of reading or noting the app's history.
#[must_use]
pub fn of_history(error: &HistoryError) -> Problem {
    match error {
        HistoryError::Cluster { doing, object, source } => {
            let mut problem = of_cluster(object, source);
            problem.detail = format!("{doing} the history of the app: {}", problem.detail);
            problem
        }
        HistoryError::Broken { object, .. } => Problem::new(
            Code::Internal,
            format!("{object}, which holds the history of the app, is not as the agent writes it"),
        )
        .hint("somebody changed it: delete it to begin a new history; pruning then starts from nothing"),
    }
}

/// Tells that a newer pipeline came first.
#[must_use]
pub fn of_older(older: &Older) -> Problem {
    let detail = format!("{older} (revision {})", older.revision);
    Problem::new(Code::Superseded, detail).hint(
        "run the newest pipeline's job; to deploy the older one all the same, set rollout.allow_older",
    )
}

/// Tells that the brake holds pruning back.
#[must_use]
pub fn of_brake(brake: &Brake) -> Problem {
    let hint = match brake {
        Brake::Share { .. } => {
            "if that is meant, raise rollout.prune_share (percent of the app) for this deploy"
        }
        Brake::Protected { .. } => {
            "if that is meant, set rollout.prune_protected for this deploy, or annotate the object with quaymaster.dev/keep"
        }
    };
    Problem::new(Code::SpecInvalid, format!("{brake}; nothing was written")).hint(hint)
}

/// Tells that an object is another app's.
#[must_use]
pub fn of_foreign(object: &str) -> Problem {
    let detail = format!("{object} belongs to another app; nothing was written");
    Problem::new(Code::ApplyConflict, detail).hint(
        "its label applyset.kubernetes.io/part-of names the other app: take the object out of one of \
         the two, or remove the label to hand it over",
    )
}

/// Tells that the journal cannot be written.
#[must_use]
pub fn of_journal(error: &JournalError) -> Problem {
    Problem::new(
        Code::Internal,
        format!("the agent {error}; nothing was written"),
    )
    .hint("the operator should look at the disk of the agent's state directory")
}

/// Tells why a run did not get the lock. Nothing was written.
#[must_use]
pub fn of_lock(error: &LockError) -> Problem {
    let detail = error.to_string();
    match error {
        LockError::Held { .. } => Problem::new(Code::Locked, format!("{detail}; nothing was written")).hint(
            "run the job again when that one is over, or let this one wait in line: `rollout: { when_locked: wait }`",
        ),
        LockError::Waited { .. } => Problem::new(Code::Locked, format!("{detail}; nothing was written"))
            .hint("look at that job; a longer `rollout: { timeout: .. }` waits longer"),
        LockError::Stopped => Problem::new(Code::Cancelled, "the run was cancelled; nothing was written"),
        LockError::Cluster { user, source, .. } => {
            let mut problem = of_cluster(&detail, source);
            if problem.code == Code::ClusterDenied {
                problem.hint = Some(format!(
                    "a run that writes needs the lock of its app: let a Role in the namespace allow get, create and \
                     update of leases in coordination.k8s.io to {user} or its groups"
                ));
            }
            problem
        }
    }
}

/// Tells that writing was stopped because the lock was lost, or nobody could be sure of it.
#[must_use]
pub fn of_lost_lock(reins: &Reins, failure: &ApplyFailure) -> Problem {
    let kept = kept(failure);
    if reins.watching.is_cancelled() {
        let detail =
            format!("another run took the lock of the app while this one was writing; {kept}");
        return Problem::new(Code::ApplyConflict, detail)
            .hint("run the job again once the other run is over");
    }
    let detail =
        format!("the lock of the app could not be renewed, so writing was stopped; {kept}");
    Problem::new(Code::ClusterUnavailable, detail)
        .hint("look at the API server's health, then run the job again")
}

fn kept(failure: &ApplyFailure) -> String {
    let before = match failure.written.len() {
        0 => None,
        1 => Some("1 object was written before and is kept".to_owned()),
        many => Some(format!("{many} objects were written before and are kept")),
    };
    let by_helm = charts::may_have_written(&failure.error);
    match (before, by_helm) {
        (None, false) => "nothing was written".to_owned(),
        (Some(before), false) => before,
        // Helm does not say how far it came.
        (None, true) => "what Helm had written by then is kept".to_owned(),
        (Some(before), true) => format!("{before}, and so is what Helm had written by then"),
    }
}

/// Tells a failure while writing.
#[must_use]
pub fn of_apply(failure: &ApplyFailure) -> Problem {
    let mut problem = match &failure.error {
        ApplyError::Write { object, source } => of_cluster(object, source),
        ApplyError::Release(error) => charts::of_release(error),
        ApplyError::Stuck { .. } => Problem::new(Code::RolloutFailed, failure.error.to_string())
            .hint("find out why the controller behind the finalizer does not take it off, then run the job again"),
        ApplyError::Stopped => Problem::new(
            Code::Cancelled,
            "the run was cancelled while it was writing",
        ),
        ApplyError::Journal(_) => {
            Problem::new(Code::Internal, "the agent cannot write its journal")
        }
    };
    problem.detail = format!("{}; {}", problem.detail, kept(failure));
    if !failure.written.is_empty() {
        // The check before the first write passed, so this is a failure and not a denial: the app
        // has changed.
        if matches!(problem.code, Code::ClusterDenied | Code::ObjectInvalid) {
            let mut failed = Problem::new(Code::RolloutFailed, problem.detail);
            failed.hint = problem.hint;
            failed.errors = problem.errors;
            problem = failed;
        }
    }
    problem
}

/// Returns the digest: the lines that stand last in the log of a run that did not succeed.
#[must_use]
pub fn digest(verdict: &Verdict) -> Vec<String> {
    let mut lines = Vec::new();
    for cause in &verdict.causes {
        lines.push(format!("{}: {}", cause.object, cause.message));
        lines.extend(cause.evidence.iter().map(|line| format!("    {line}")));
        if let Some(hint) = &cause.hint {
            lines.push(format!("  what to do: {hint}"));
        }
    }
    if let Some(problem) = &verdict.problem {
        if verdict.causes.is_empty() {
            lines.extend(
                problem
                    .errors
                    .iter()
                    .map(|place| format!("  {}", place.message)),
            );
            if let Some(hint) = &problem.hint {
                lines.push(format!("  what to do: {hint}"));
            }
        }
        lines.push(format!("{}: {}", verdict.status.word(), verdict.message));
    }
    lines
}
