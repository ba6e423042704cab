//! Which verbs a request needs, and whether a rule grants them.
//!
//! Called by [`super::grant`]; pure.

use proto::report::Mode;

use super::grant::ASK;
use super::grant::Refusal;
use super::grant::refuse;
use crate::policy::ClusterGrant;
use crate::policy::Verb;
use crate::request::Request;
use crate::request::Source;
use crate::spec::OnDisconnect;
use crate::spec::OnFailure;

/// Lists what a request does with the app; each verb is granted for itself.
pub(super) fn verbs(request: &Request) -> Vec<Verb> {
    if request.source == Source::Environment {
        return vec![Verb::Reconcile];
    }
    let rollout = &request.spec.rollout;
    let mut verbs = match request.mode {
        Mode::Deploy | Mode::DryRun => vec![Verb::Apply],
        Mode::Rollback => vec![Verb::Rollback],
        Mode::Rotation => vec![Verb::Rotate],
    };
    if rollout.prune {
        verbs.push(Verb::Prune);
    }
    match rollout.on_failure {
        OnFailure::Keep => {}
        OnFailure::Rollback => verbs.push(Verb::Rollback),
        OnFailure::Revert => verbs.push(Verb::Revert),
    }
    match (rollout.on_disconnect, &request.spec.flux) {
        (OnDisconnect::Finish | OnDisconnect::Cancel, _) => {}
        (OnDisconnect::Rollback, None) => verbs.push(Verb::Rollback),
        (OnDisconnect::Rollback, Some(_)) => verbs.push(Verb::Revert),
    }
    if request.spec.flux.is_some() {
        verbs.extend([Verb::Commit, Verb::Reconcile]);
    }
    if request
        .spec
        .secrets
        .iter()
        .any(|secret| secret.rotate.is_some())
    {
        verbs.push(Verb::Rotate);
    }
    verbs
}

pub(super) fn granted_verb(grant: &ClusterGrant, verb: Verb) -> Result<(), Refusal> {
    if grant.verbs.contains(&verb) {
        return Ok(());
    }
    let what = match verb {
        Verb::Apply => "deploying (the verb apply) is not granted",
        Verb::Prune => "rollout.prune needs the verb prune, which is not granted",
        Verb::Rollback => "going back to a revision needs the verb rollback, which is not granted",
        Verb::Commit => "changing a branch for Flux needs the verb commit, which is not granted",
        Verb::Reconcile => {
            "telling Flux to reconcile needs the verb reconcile, which is not granted"
        }
        Verb::Revert => {
            "taking a commit back (on_failure: revert, on_disconnect: rollback) needs the verb revert, which is not granted"
        }
        Verb::Rotate => {
            "keeping a Secret fresh (rotate) needs the verb rotate, which is not granted"
        }
    };
    Err(refuse(what, ASK))
}
