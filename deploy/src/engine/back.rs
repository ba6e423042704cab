//! Going back: a recorded revision becomes what is wanted, through the same plan, check, apply, watch.
//!
//! Called by [`super`] for `POST /v1/rollbacks` ([`complete`]), and where the spec says `on_failure: rollback`
//! or `on_disconnect: rollback` ([`put_back`]). Secrets stay as they are: their values are in no revision.

use std::collections::BTreeSet;

use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::report::Action;
use proto::report::Status;
use serde_json::Value;
use tokio::time::Instant;

use super::Tools;
use super::book::App;
use super::course::Course;
use super::course::KEPT;
use super::course::judge;
use super::make_plan;
use crate::apply;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::check;
use crate::history;
use crate::history::Member;
use crate::history::Past;
use crate::history::Revision;
use crate::history::store;
use crate::object::Gvk;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::Origin;
use crate::object::Resource;
use crate::object::text;
use crate::plan;
use crate::plan::Plan;
use crate::plan::cluster_trouble;
use crate::prune;
use crate::report;
use crate::report::Verdict;
use crate::request::Source;
use crate::resolve::ResolvedSecrets;
use crate::rollout;

/// Fills a request for a revision with that revision's objects.
pub(super) async fn complete(
    permit: Permit,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Permit, Problem> {
    let Source::Revision(number) = permit.request().source else {
        return Ok(permit);
    };
    let app = App::of(&permit);
    let place = app.place(tools.ports);
    let past = store::read(place, patience)
        .await
        .map_err(|error| report::of_history(&error))?;
    let revision = chosen(&past, number).map_err(|problem| *problem)?;
    tools.log.info(format!(
        "going back to revision {} of {}, made by run {}",
        revision.number, revision.time, revision.run
    ));
    let objects = objects(revision, &app, tools, patience).await?;
    let served = served(&objects, tools, patience).await?;
    permit
        .complete(objects, &served)
        .map_err(|denial| report::of_denial(&denial))
}

/// Finds the revision that is asked for; without a number the deployed one before the newest.
fn chosen(past: &Past, number: Option<u64>) -> Result<&Revision, Box<Problem>> {
    let known: Vec<String> = past
        .revisions
        .iter()
        .filter(|revision| revision.can_come_back())
        .map(|revision| revision.number.to_string())
        .collect();
    let hint = match known.as_slice() {
        [] => "no revision of this app is recorded that could come back".to_owned(),
        some => format!("revisions that can come back: {}", some.join(", ")),
    };
    let found = match number {
        Some(number) => past.revision(number).filter(|one| one.can_come_back()),
        None => {
            let newest = past.revisions.last().map(|revision| revision.number);
            let mut older = past.revisions.iter().rev();
            older.find(|one| one.can_come_back() && Some(one.number) != newest)
        }
    };
    found.ok_or_else(|| {
        let which = number.map_or_else(
            || "an earlier revision".to_owned(),
            |number| format!("revision {number}"),
        );
        let detail = format!("there is no record of {which}");
        Box::new(Problem::new(Code::NotFound, detail).hint(hint))
    })
}

async fn objects(
    revision: &Revision,
    app: &App,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Vec<Object>, Problem> {
    let content = store::content(app.place(tools.ports), revision, patience)
        .await
        .map_err(|error| report::of_history(&error))?;
    if !content.secrets.is_empty() {
        tools.log.info(format!(
            "Secrets keep the values that they have: {}",
            content.secrets.join(", ")
        ));
    }
    let number = revision.number;
    let made = content.objects.into_iter().map(|body| object(body, number));
    Ok(made.collect())
}

/// Makes an object of a recorded body; the label is put on anew.
fn object(mut body: Value, revision: u64) -> Object {
    if let Some(labels) = body
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.remove(history::PART_OF);
    }
    let namespace = text(&body, &["metadata", "namespace"]);
    let id = ObjectId {
        gvk: Gvk::new(text(&body, &["apiVersion"]), text(&body, &["kind"])),
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        name: text(&body, &["metadata", "name"]).to_owned(),
    };
    let origin = Origin {
        file: format!("revision {revision}"),
        line: 0,
    };
    Object { id, body, origin }
}

/// Asks how kinds are served that are not built in; one that is gone is found by the check.
async fn served(
    objects: &[Object],
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Vec<Resource>, Problem> {
    let kinds: BTreeSet<&Gvk> = objects
        .iter()
        .map(|object| &object.id.gvk)
        .filter(|gvk| !rollout::is_builtin(&gvk.group))
        .collect();
    let mut served = Vec::new();
    for gvk in kinds {
        let call = || tools.ports.cluster.resource(gvk);
        match patience.retry(call, cluster_trouble).await {
            Ok(resource) => served.push(resource),
            Err(error) if !error.class().is_transient() => {}
            Err(error) => return Err(report::of_cluster(&gvk.to_string(), &error)),
        }
    }
    Ok(served)
}

/// Puts the last deployed revision back after a failure; the answer tells both.
pub(super) async fn put_back(
    course: &Course<'_>,
    failed: Verdict,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Verdict {
    // The revision of the failed run is pending, so it is none of these.
    let mut newest_first = course.past.revisions.iter().rev();
    let Some(revision) = newest_first.find(|one| one.can_come_back()) else {
        let why = "; no earlier revision is recorded to go back to";
        let status = failed.status;
        return told(failed, status, why);
    };
    tools.log.start(
        Stage::Apply,
        format!("put revision {} back", revision.number),
    );
    tools.log.error(failed.message.replace(KEPT, ""));
    let patience = again(course.plan.permit(), patience);
    let back = restore(course, revision, tools, &patience).await;
    match back {
        Ok(verdict) if verdict.status == Status::Succeeded => {
            let mut all = told(
                failed,
                Status::RolledBack,
                &format!("; revision {} is back and ready", revision.number),
            );
            all.warnings.extend(verdict.warnings);
            all
        }
        Ok(verdict) => {
            let why = format!(
                "; going back to revision {} failed too: {}",
                revision.number, verdict.message
            );
            let mut all = told(failed, Status::RollbackFailed, &why);
            all.causes.extend(verdict.causes);
            all.warnings.extend(verdict.warnings);
            all
        }
        Err(problem) => {
            let why = format!(
                "; going back to revision {} failed too: {}",
                revision.number, problem.detail
            );
            told(failed, Status::RollbackFailed, &why)
        }
    }
}

/// The way back has the run's time once more: the failure may have used it up.
pub(super) fn again<'a>(permit: &Permit, patience: &Patience<'a>) -> Patience<'a> {
    Patience {
        deadline: Instant::now() + permit.request().spec.rollout.timeout,
        ..patience.clone()
    }
}

/// Tells why a way back begins.
pub(super) fn tell_causes(failed: &Verdict, tools: &Tools<'_>) {
    for cause in &failed.causes {
        let text = format!("{}: {}", cause.object, cause.message);
        tools.log.error(text);
    }
}

/// Adds the end of a rollback to the verdict that asked for it.
pub(super) fn told(mut verdict: Verdict, status: Status, more: &str) -> Verdict {
    verdict.status = status;
    verdict.message = verdict.message.replace(KEPT, "");
    verdict.message.push_str(more);
    if let Some(problem) = &mut verdict.problem {
        problem.detail.clone_from(&verdict.message);
    }
    verdict
}

async fn restore(
    course: &Course<'_>,
    revision: &Revision,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Verdict, Problem> {
    let Course {
        plan, app, reins, ..
    } = course;
    let objects = objects(revision, app, tools, patience).await?;
    let served = served(&objects, tools, patience).await?;
    let permit = plan
        .permit()
        .sibling(objects, &served)
        .map_err(|denial| report::of_denial(&denial))?;
    let place = app.place(tools.ports);
    let mut wanted = plan::wanted(&permit);
    history::mark(wanted.iter_mut(), &place.set_id());
    check::access(&wanted, permit.actor(), tools.ports, patience)
        .await
        .map_err(|error| report::of_check(&error))?;
    let keep: BTreeSet<ObjectId> = wanted.iter().map(|(id, _)| id.clone()).collect();
    tools.log.end_stage(Stage::Apply);
    let set = place.set_id();
    let earlier = make_plan(permit, wanted, &set, tools, patience).await?;
    tools.log.start(Stage::Apply, "write");
    let writing = Patience {
        stop: &reins.writing,
        ..patience.clone()
    };
    let applied = apply::apply(&earlier, &ResolvedSecrets::none(), tools.ports, &writing).await;
    tools.log.end_stage(Stage::Apply);
    let applied = applied.map_err(|failure| report::of_apply(&failure))?;
    let mut verdict = judge(earlier.permit(), &applied, reins, tools, patience).await;
    // What a former process made and what it found is not known any more.
    if verdict.status == Status::Succeeded && !course.resumed {
        let only_failed = Past {
            members: made_by(plan),
            ..Past::default()
        };
        let found = prune::find(place, &only_failed, &keep, patience).await;
        let found =
            found.map_err(|error| report::of_cluster("what the failed run made", &error))?;
        let (_, warnings) = prune::delete(place, &found, patience).await;
        verdict.warnings.extend(warnings);
    }
    Ok(verdict)
}

/// What a run created, Secrets aside: an older revision may not know them, yet its pods may use them.
fn made_by(plan: &Plan) -> Vec<Member> {
    plan.steps()
        .iter()
        .filter(|step| step.action == Action::Create && !step.id.gvk.is("", "Secret"))
        .map(|step| Member::of(&step.id, ""))
        .collect()
}
