//! Tells it of Flux: what kept a commit from being made, or from being waited for.
//!
//! Pure; called by [`crate::engine`]. Words of the Git server are told as they are, cut and later redacted.

use proto::error::Code;
use proto::error::Problem;

use super::of_cluster;
use super::of_denial;
use super::of_journal;
use crate::flux::FluxError;
use crate::ports::GitError;

/// Tells why Flux's part is not done.
#[must_use]
pub fn of_flux(error: &FluxError) -> Problem {
    let detail = error.to_string();
    match error {
        FluxError::NotReady { hint, .. } => Problem::new(Code::FluxNotReady, detail).hint(*hint),
        FluxError::Git { what, source } => of_git(what, source),
        FluxError::Busy { .. } => Problem::new(Code::GitUnavailable, detail)
            .hint("run the job again, or let fewer writers push to the branch at once"),
        FluxError::Lost { .. } => Problem::new(Code::RolloutFailed, detail)
            .hint("look at the history of the branch; run the job again to put the images in once more"),
        FluxError::Absent { .. } => {
            Problem::new(Code::Interrupted, detail).hint("run the job again: it makes the commit anew")
        }
        FluxError::Edit(_) => Problem::new(Code::ImagePlaceMissing, detail).hint(
            "mark the place with an image policy comment, list the image in a kustomization, or name the place \
             under flux.values",
        ),
        FluxError::Denied(denial) => of_denial(denial),
        FluxError::Cluster { what, source } => of_cluster(what, source),
        FluxError::Journal(error) => of_journal(error),
        FluxError::Changed { .. } => Problem::new(Code::RolloutFailed, detail)
            .hint("put the images back by hand, keeping what the other commit changed"),
        FluxError::Moved { .. } => Problem::new(Code::PlanChanged, detail)
            .hint("look at the new plan, and save it: quaymaster plan --save FILE"),
        FluxError::Stopped => Problem::new(Code::Cancelled, detail),
        FluxError::Late { .. } => Problem::new(Code::RolloutTimeout, detail)
            .hint("look at `flux get all -A`; raise rollout.timeout if Flux only needs longer"),
    }
}

/// Tells what the repository said.
fn of_git(what: &str, error: &GitError) -> Problem {
    let detail = format!("{what}: {error}");
    let (code, hint) = match error {
        GitError::Missing { .. } => (
            Code::FluxNotReady,
            "the operator has to name git in the agent's configuration ([git] program, and ssh_folder for ssh)",
        ),
        GitError::Denied => (
            Code::GitDenied,
            "check the credential in Vault that flux.credential names, and that it may push to this branch",
        ),
        GitError::NotFound => (
            Code::GitMissing,
            "correct flux.repository or flux.branch; some servers answer so to credentials without rights",
        ),
        GitError::Unreachable { .. } | GitError::Moved => (
            Code::GitUnavailable,
            "run the job again when the Git server answers",
        ),
        GitError::Refused { .. } => (
            Code::GitRefused,
            "let the credential push to the branch (protected branches name who may), or use another branch",
        ),
        GitError::Late { .. } => (
            Code::GitUnavailable,
            "look at the branch, then run the job again: it pushes nothing twice",
        ),
        GitError::Broken { .. } => (
            Code::Internal,
            "tell the operator; the agent's log has more",
        ),
    };
    Problem::new(code, detail).hint(hint)
}
