//! The history of the run's app: read, noted before the first write, closed with the verdict.
//!
//! Called by [`super`]. A run that changes nothing and finds the app well notes nothing. What cannot
//! be noted after everything was written is a warning, for the app is as the verdict says. What a
//! revision sent is written beside the objects and counts once the verdict is noted.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashSet;
use std::time::Duration;

use proto::error::Problem;
use proto::report::Status;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Tools;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::history;
use crate::history::Key;
use crate::history::Member;
use crate::history::Origin;
use crate::history::Past;
use crate::history::Revision;
use crate::history::State;
use crate::history::store;
use crate::history::store::Content;
use crate::history::store::Pieces;
use crate::history::store::Place;
use crate::object::AppliedObject;
use crate::object::ObjectId;
use crate::plan;
use crate::plan::Plan;
use crate::plan::Step;
use crate::ports::Ports;
use crate::principal::Actor;
use crate::prune::Leftover;
use crate::report;
use crate::report::Verdict;

/// How long noting the end of a run may take, whatever became of its deadline.
const CLOSING: Duration = Duration::from_secs(30);

/// The app of a run.
pub(super) struct App {
    actor: Actor,
    namespace: String,
    name: String,
    origin: Origin,
}

impl App {
    /// Reads it from a permit.
    pub(super) fn of(permit: &Permit) -> Self {
        Self {
            actor: permit.actor().clone(),
            namespace: permit.namespace().to_string(),
            name: permit.request().spec.name.to_string(),
            origin: Origin::of(permit.principal()),
        }
    }

    /// Returns where its history is.
    pub(super) fn place<'a>(&'a self, ports: &'a Ports) -> Place<'a> {
        Place {
            cluster: &*ports.cluster,
            actor: &self.actor,
            namespace: &self.namespace,
            app: &self.name,
        }
    }
}

/// Reads what is known of the app, and refuses to put an older pipeline over a newer one.
pub(super) async fn open(
    permit: &Permit,
    app: &App,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Past, Problem> {
    let past = store::read(app.place(tools.ports), patience)
        .await
        .map_err(|error| report::of_history(&error))?;
    history::guard(permit, &past).map_err(|older| report::of_older(&older))?;
    if app.origin.pipeline.is_none() {
        let text =
            "the token names no pipeline, so an older one could not be told from a newer one";
        tools.log.info(text);
    }
    Ok(past)
}

/// Notes that writing begins; nothing where nothing changes.
pub(super) async fn begin(
    plan: &Plan,
    app: &App,
    past: &mut Past,
    resumed: bool,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<(), Problem> {
    // A run that goes on after a restart may have its revision already.
    let own = tools.id.as_str();
    let begun = past.revisions.last();
    let begun = begun.is_some_and(|last| last.run == own);
    if begun || !(plan.writes() || resumed) {
        return Ok(());
    }
    let revision = Revision {
        number: past.next(),
        state: State::Pending,
        run: tools.id.to_string(),
        time: format!("{:.0}", tools.ports.clock.now()),
        origin: app.origin.clone(),
        chunks: 0,
        back_to: None,
    };
    let wanted: Vec<ObjectId> = own_steps(plan).map(|step| step.id.clone()).collect();
    store::begin(app.place(tools.ports), past, revision, &wanted, patience)
        .await
        .map_err(|error| report::of_history(&error))
}

/// Writes what this run's revision sends, beside the sending. What fails here is tried again at the
/// end; what is of no use in the end is taken away.
pub(super) async fn keep(
    plan: &Plan,
    app: &App,
    past: &Past,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Option<Pieces> {
    let last = past.revisions.last();
    let makes_one = last.is_some_and(|last| last.run == tools.id.as_str());
    // The revisions of a release are Helm's to keep.
    if !makes_one || plan.permit().request().spec.helm.is_some() {
        return None;
    }
    let place = app.place(tools.ports);
    let kept = store::keep(place, past, &content(plan), patience).await;
    kept.ok()
}

/// The steps that this agent writes itself.
fn own_steps(plan: &Plan) -> impl Iterator<Item = &Step> {
    plan.steps().iter().filter(|step| !plan.by_helm(step))
}

/// What became of the app's objects.
pub(super) struct After<'a> {
    /// What was written, or found as it should be.
    pub(super) applied: &'a [AppliedObject],
    /// What is not wanted any more.
    pub(super) leftovers: &'a [Leftover],
    /// Which of them are gone.
    pub(super) gone: &'a BTreeSet<ObjectId>,
    /// What is recorded of the revision already.
    pub(super) pieces: Option<Pieces>,
}

/// Notes how the run ended; returns the number of the revision that it made or found.
pub(super) async fn close(
    plan: &Plan,
    app: &App,
    past: &mut Past,
    after: After<'_>,
    verdict: &mut Verdict,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Option<u64> {
    let state = match verdict.status {
        Status::Succeeded => State::Deployed,
        Status::RolledBack => State::RolledBack,
        Status::Running
        | Status::Failed
        | Status::RollbackFailed
        | Status::Denied
        | Status::Invalid
        | Status::Superseded
        | Status::Cancelled
        | Status::Interrupted => State::Failed,
    };
    let last = past.revisions.last();
    let number = last.map(|revision| revision.number);
    let keeps = plan.permit().request().spec.helm.is_none();
    let is_news =
        last.is_none_or(|revision| revision.state != state || (keeps && revision.chunks == 0));
    if !plan.writes() && after.gone.is_empty() && (!is_news || last.is_none()) {
        return number;
    }
    let members = members(plan, past, &after);
    let place = app.place(tools.ports);
    let stop = CancellationToken::new();
    let closing = closing(&stop, patience);
    let closed = async {
        let comes_back = keeps && state == State::Deployed;
        let pieces = match (comes_back, after.pieces) {
            (true, None) => Some(store::keep(place, past, &content(plan), &closing).await?),
            (_, kept) => kept,
        };
        let named = pieces.as_ref().filter(|_| comes_back);
        store::close(place, past, state, named, members, &closing).await?;
        if let Some(unused) = pieces.filter(|_| !comes_back) {
            store::give_up(place, &unused, &closing).await;
        }
        Ok(())
    };
    if let Err(error) = closed.await {
        let problem = report::of_history(&error);
        verdict.warnings.push(format!(
            "the revision is not recorded, so nothing can go back to it: {}",
            problem.detail
        ));
    }
    number
}

/// The end is noted even where the run's own time is over or it was cancelled.
fn closing<'a>(stop: &'a CancellationToken, patience: &Patience<'a>) -> Patience<'a> {
    Patience {
        deadline: Instant::now() + CLOSING,
        stop,
        ..patience.clone()
    }
}

/// Notes how a run ended that went on after a restart. Its revision is not one to go back to: what it
/// sent ended with the former process.
pub(super) async fn close_resumed(
    app: &App,
    verdict: &mut Verdict,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) {
    let place = app.place(tools.ports);
    let stop = CancellationToken::new();
    let closing = closing(&stop, patience);
    let closed = async {
        let mut past = store::read(place, patience).await?;
        let own = past.revisions.last();
        if own.is_none_or(|last| last.run != tools.id.as_str() || last.state != State::Pending) {
            return Ok(());
        }
        let state = if verdict.status == Status::Succeeded {
            State::Deployed
        } else {
            State::Failed
        };
        let members = past.members.clone();
        store::close(place, &mut past, state, None, members, &closing).await
    };
    if let Err(error) = closed.await {
        let problem = report::of_history(&error);
        verdict.warnings.push(format!(
            "how the revision ended is not recorded: {}",
            problem.detail
        ));
    }
}

/// The objects of a plan as they can be put back: Secrets by name only.
fn content(plan: &Plan) -> Content {
    let is_secret = |id: &ObjectId| id.gvk.is("", "Secret");
    let (secrets, objects): (Vec<_>, Vec<_>) =
        plan.steps().iter().partition(|step| is_secret(&step.id));
    Content {
        objects: objects
            .into_iter()
            .map(|step| match &step.content {
                plan::Content::Object(body) | plan::Content::Secret { body, .. } => body.clone(),
            })
            .collect(),
        secrets: secrets
            .into_iter()
            .map(|step| step.id.name.clone())
            .collect(),
    }
}

/// What the app may have now: what was known, with the uids that were written, less what is gone or
/// somebody else's.
fn members(plan: &Plan, past: &Past, after: &After<'_>) -> Vec<Member> {
    let own: BTreeSet<&ObjectId> = own_steps(plan).map(|step| &step.id).collect();
    let uids: BTreeMap<&ObjectId, &str> = after
        .applied
        .iter()
        .filter(|object| own.contains(&object.id))
        .map(|object| (&object.id, object.uid.as_str()))
        .collect();
    let written: HashSet<Key<'_>> = uids.keys().map(|id| Key::of(id)).collect();
    let gone: HashSet<Key<'_>> = after.gone.iter().map(Key::of).collect();
    let left: HashSet<Key<'_>> = after.leftovers.iter().map(|one| Key::of(&one.id)).collect();
    let mut members: Vec<Member> = past
        .members
        .iter()
        .filter(|member| !gone.contains(&member.key()))
        .filter(|member| !written.contains(&member.key()))
        // Neither wanted nor left over: it is gone already, unless nothing was looked at.
        .filter(|member| uids.is_empty() || member.uid.is_empty() || left.contains(&member.key()))
        .cloned()
        .collect();
    members.extend(uids.into_iter().map(|(id, uid)| Member::of(id, uid)));
    members.sort();
    members
}
