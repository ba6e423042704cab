//! Looking around before a plan: rights, lock, history, leftovers, secrets, what is there. What does
//! not depend on another answer is asked at once.
//!
//! Called by [`super`] for each plan. Nothing is written here. Invariants: the lock is looked at before
//! anything of its app is read, so that taking it in the version that was seen proves that nothing
//! moved since; of several troubles that is told which asking one by one would have met first; Vault
//! is asked after the rights, and its login is never dropped half way, for it makes a token.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use futures::FutureExt as _;
use futures::future;
use proto::error::Problem;
use proto::report::Mode;

use super::Tools;
use super::book;
use super::book::App;
use super::values;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::check;
use crate::history::Past;
use crate::lock::Line;
use crate::lock::Sight;
use crate::object::ObjectId;
use crate::plan;
use crate::plan::Content;
use crate::plan::Live;
use crate::ports::Login;
use crate::prune;
use crate::prune::Leftover;
use crate::report;
use crate::resolve::Draft;
use crate::resolve::Scope;

/// What a plan is made from.
pub(super) struct Scene {
    /// The locks; unset for a dry run, which needs none.
    pub(super) seen: Option<Sight>,
    /// What is known of the app.
    pub(super) past: Past,
    /// What the app has and does not want any more.
    pub(super) leftovers: Vec<Leftover>,
    /// The values of the secrets; unset for a run without any.
    pub(super) draft: Option<Draft>,
    /// What is there of the wanted objects.
    pub(super) observed: BTreeMap<ObjectId, Live>,
}

/// Whose scene it is.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) permit: &'a Permit,
    pub(super) app: &'a App,
    pub(super) wanted: &'a [(ObjectId, Content)],
    /// How the run gets its Vault token.
    pub(super) login: Option<&'a Login>,
}

/// Asks for all of it, in two rounds: what does not need the lock's answer, then the rest.
pub(super) async fn around(
    asked: Asked<'_>,
    line: &mut Line<'_>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Scene, Problem> {
    let Asked { permit, wanted, .. } = asked;
    let rights = async {
        let asked = check::access(wanted, permit.actor(), tools.ports, patience).await;
        asked.map_err(|error| report::of_check(&error))
    };
    let locked = async {
        let seen = match permit.request().mode {
            Mode::DryRun => None,
            Mode::Deploy | Mode::Rollback | Mode::Rotation => {
                let seen = line.look(patience).await;
                Some(seen.map_err(|error| report::of_lock(&error))?)
            }
        };
        Ok(seen)
    };
    // Joined like this, trouble of the first drops the second, and trouble of the second waits for
    // the first, which may have more to say. What can be dropped only reads from the cluster.
    let ((), seen) = future::try_join(rights, locked.map(Ok)).await?;
    let seen = seen?;
    let there = async {
        let observed = plan::observe(permit, wanted, tools.ports, patience).await;
        observed.map_err(|error| report::of_cluster("reading what is there", &error))
    };
    let known = known(asked, tools, patience);
    let ((past, leftovers, draft), observed) = future::try_join(known, there.map(Ok)).await?;
    match observed {
        Ok(observed) => Ok(Scene {
            seen,
            past,
            leftovers,
            draft,
            observed,
        }),
        Err(problem) => {
            values::close(draft, tools, patience).await;
            Err(problem)
        }
    }
}

/// What is recorded of the app, and the values of its secrets.
async fn known(
    asked: Asked<'_>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<(Past, Vec<Leftover>, Option<Draft>), Problem> {
    let Asked {
        permit,
        app,
        wanted,
        login,
    } = asked;
    let hurry = tools.stop.child_token();
    let recorded = recorded(permit, app, wanted, tools, patience).inspect(|recorded| {
        if recorded.is_err() {
            // Nobody waits for a Vault that is away once the run cannot go on.
            hurry.cancel();
        }
    });
    let vault = Patience {
        stop: &hurry,
        ..patience.clone()
    };
    let scope = match permit.request().mode {
        Mode::DryRun => Scope::Believe,
        Mode::Deploy | Mode::Rollback | Mode::Rotation => Scope::Alive,
    };
    let draft = values::draft(permit, login, scope, BTreeMap::new(), tools, &vault);
    match future::join(recorded, draft).await {
        (Ok((past, leftovers)), Ok(draft)) => Ok((past, leftovers, draft)),
        (Ok(_), Err(problem)) | (Err(problem), Err(_)) => Err(problem),
        (Err(problem), Ok(draft)) => {
            values::close(draft, tools, patience).await;
            Err(problem)
        }
    }
}

/// Reads what is recorded of the app, and finds what it has and does not want any more; the brake
/// speaks before any credential is issued.
pub(super) async fn recorded(
    permit: &Permit,
    app: &App,
    wanted: &[(ObjectId, Content)],
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<(Past, Vec<Leftover>), Problem> {
    let past = book::open(permit, app, tools, patience).await?;
    let ids: BTreeSet<ObjectId> = wanted.iter().map(|(id, _)| id.clone()).collect();
    let found = prune::find(app.place(tools.ports), &past, &ids, patience).await;
    let found = found.map_err(|error| report::of_cluster("what the app has", &error))?;
    let rollout = &permit.request().spec.rollout;
    prune::brake(rollout, &found, past.members.len()).map_err(|brake| report::of_brake(&brake))?;
    Ok((past, found))
}
