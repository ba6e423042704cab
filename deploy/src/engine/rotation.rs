//! One rotation: Secrets of an app get new values, what uses them is restarted and judged, and only
//! then the old credentials end.
//!
//! Called by the agent's daemon with a permit for the app's owner. It takes the app's lock, so neither
//! a deploy nor another agent touches the app meanwhile, and looks at the records again under the
//! lock: what was done by somebody else is not done twice. Make before break: issue, note, keep the
//! values of before, write, restart, watch, end the old. [`settle`] does everything after the write,
//! also for a change that another agent did not bring to its end.

mod back;
mod rewrite;
mod settle;
mod workloads;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use futures::FutureExt as _;
use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;
use proto::report::Action;
use proto::report::Report;
use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;

use self::settle::Change;
use self::settle::Settling;
use super::Told;
use super::Tools;
use super::app;
use super::book::App;
use super::gate;
use super::plan_for;
use super::told;
use super::values;
use super::wanted_of;
use crate::apply;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::backoff::cluster_trouble;
use crate::lock::Reins;
use crate::managed::Record;
use crate::object::ObjectId;
use crate::plan;
use crate::plan::Content;
use crate::plan::Plan;
use crate::ports::ClusterError;
use crate::ports::Entry;
use crate::ports::Force;
use crate::ports::Login;
use crate::ports::Payload;
use crate::ports::Write;
use crate::report;
use crate::report::Verdict;
use crate::resolve::Draft;
use crate::resolve::Scope;
use crate::resolve::secret_id;
use crate::rotate::Reason;
use crate::secret::Secret;
use crate::spec::Restart;
use crate::spec::SecretSpec;
use crate::spec::Source;
use crate::spec::WhenLocked;

/// What a rotation is to do, as the daemon found it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Order {
    /// Why, for each Secret of the permit's spec.
    pub reasons: BTreeMap<String, BTreeSet<Reason>>,
    /// The generation that the daemon saw of each: another one means that somebody was faster.
    pub generations: BTreeMap<String, u64>,
    /// The digests that the register has for each.
    pub digests: BTreeMap<String, BTreeSet<String>>,
    /// The last records of Secrets that were deleted.
    pub lost: BTreeMap<String, Record>,
}

/// Carries out a rotation. Always ends the log.
pub async fn rotate(permit: Permit, order: Order, tools: Tools<'_>) -> Report {
    let report = told::first_report(&permit, &tools);
    let patience = Patience {
        deadline: Instant::now() + permit.request().spec.rollout.timeout,
        stop: &tools.stop,
        log: tools.log,
        seed: told::seed(&tools.id),
    };
    told::introduce(&permit, tools.log);
    let mut told = Told::default();
    // Boxed for its size.
    let executed = execute(permit, &order, &tools, &patience, &mut told).boxed();
    let verdict = match executed.await {
        Ok(verdict) => verdict,
        Err(_) if tools.stop.is_cancelled() => Verdict::problem(Problem::new(
            Code::Cancelled,
            "the rotation was cancelled; nothing was written",
        )),
        Err(problem) => Verdict::problem(problem),
    };
    told::tell(&verdict, &[], tools.log);
    let report = told::finish(report, verdict, told, &tools);
    tools.log.end(report.status);
    report
}

/// Takes the app's lock and does the work; an `Err` means that nothing was written.
async fn execute(
    permit: Permit,
    order: &Order,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Result<Verdict, Problem> {
    let mut gate = gate(&permit, app(&permit), tools);
    loop {
        let seen = gate.look(patience).await;
        let seen = seen.map_err(|error| report::of_lock(&error))?;
        let lock = gate.take(&seen, patience).await;
        if let Some(lock) = lock.map_err(|error| report::of_lock(&error))? {
            let reins = lock.reins();
            let work = locked(permit, order, &reins, tools, patience, told);
            // Boxed for its size.
            return lock.hold(patience, work.boxed()).await;
        }
        let waited = gate.wait(WhenLocked::Wait, patience).await;
        waited.map_err(|error| report::of_lock(&error))?;
    }
}

/// The part under the lock.
async fn locked(
    permit: Permit,
    order: &Order,
    reins: &Reins,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Result<Verdict, Problem> {
    let writing = Patience {
        stop: &reins.writing,
        ..patience.clone()
    };
    if !is_current(&permit, order, tools, &writing).await? {
        return Ok(Verdict::succeeded(
            "nothing to do: the Secrets were changed meanwhile",
            Vec::new(),
        ));
    }
    let asked = order.reasons.values().flatten();
    let changes = asked.into_iter().any(|reason| *reason != Reason::Unsettled);
    let (permit, changed) = if changes {
        let work = change(permit, order, tools, &writing, told);
        // Boxed for its size.
        let (plan, changed) = work.boxed().await?;
        (plan.into_permit(), changed)
    } else {
        (permit, BTreeMap::new())
    };
    let settling = Settling {
        permit: &permit,
        changes: changed,
        reins,
        tools,
        patience: &writing,
    };
    // Boxed for its size.
    Ok(settling.settle().boxed().await)
}

/// Says whether every Secret is still the one that the daemon saw, and its record the one that the
/// agents wrote.
async fn is_current(
    permit: &Permit,
    order: &Order,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<bool, Problem> {
    let namespace = permit.namespace().as_str();
    for spec in &permit.request().spec.secrets {
        let Some(record) = record_of(permit, &spec.name, tools, patience).await? else {
            // Deleted: the daemon's copy of the record is what it is made anew from.
            continue;
        };
        let generation = order.generations.get(&spec.name);
        if record.declaration.secret != *spec || generation != Some(&record.state.generation) {
            return Ok(false);
        }
        let digest = record.declaration.digest(namespace);
        let known = order.digests.get(&spec.name);
        if !known.is_some_and(|known| known.contains(&digest)) {
            let detail = format!(
                "the record on Secret {namespace}/{} is not the one that the agents wrote",
                spec.name
            );
            return Err(Problem::new(Code::RotationRefused, detail).hint(
                "somebody changed the annotation state.quaymaster.dev/managed: deploy the app again",
            ));
        }
    }
    Ok(true)
}

/// Reads the record of a Secret; `None` where there is no Secret, or it is not managed.
async fn record_of(
    permit: &Permit,
    secret: &str,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Option<Record>, Problem> {
    let id = secret_id(permit.namespace().as_str(), secret);
    let cluster = &tools.ports.cluster;
    let look = patience.retry(|| cluster.secret(permit.actor(), &id), cluster_trouble);
    let view = look
        .await
        .map_err(|error| report::of_cluster(&id.to_string(), &error))?;
    let record = view.map(|view| Record::of(&view.rest)).transpose();
    record.map(Option::flatten).map_err(|error| {
        Problem::new(Code::RotationRefused, format!("{id}: {error}"))
            .hint("deploy the app again; the record is then written anew")
    })
}

/// Issues and writes new values. An `Err` means that no Secret was written.
async fn change(
    permit: Permit,
    order: &Order,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
    told: &mut Told,
) -> Result<(Plan, BTreeMap<String, Change>), Problem> {
    for (secret, reasons) in &order.reasons {
        for reason in reasons {
            tools.log.info(format!("Secret {secret}: {reason}"));
        }
    }
    let app = App::of(&permit);
    let mut wanted = wanted_of(&permit, &app, tools);
    let scope = Scope::Replace(replaced(&permit, order));
    let draft = values::draft(
        &permit,
        Some(&Login::Own),
        scope,
        order.lost.clone(),
        tools,
        patience,
    )
    .await?;
    values::mark_records(&mut wanted, &permit, draft.as_ref(), tools);
    let set = app.place(tools.ports).set_id();
    let planned = planned(permit, wanted, draft.as_ref(), &set, tools, patience).await;
    let plan = match planned {
        Ok(plan) => plan,
        Err(problem) => {
            values::close(draft, tools, patience).await;
            return Err(problem);
        }
    };
    told.steps = plan.told();
    told::tell_plan(&told.steps, tools.log);
    if !plan.writes() {
        values::close(draft, tools, patience).await;
        return Ok((plan, BTreeMap::new()));
    }
    let changes = write(&plan, draft, tools, patience).await?;
    Ok((plan, changes))
}

async fn planned(
    permit: Permit,
    wanted: Vec<(ObjectId, Content)>,
    draft: Option<&Draft>,
    set: &str,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Plan, Problem> {
    let observed = plan::observe(&permit, &wanted, tools.ports, patience).await;
    let observed = observed.map_err(|error| report::of_cluster("reading what is there", &error))?;
    plan_for(permit, wanted, &observed, draft, set, tools, patience).await
}

/// Says which paths have to issue anew, by Secret.
fn replaced(permit: &Permit, order: &Order) -> BTreeMap<String, BTreeSet<String>> {
    let mut replaced: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for spec in &permit.request().spec.secrets {
        let paths = replaced.entry(spec.name.clone()).or_default();
        for reason in order.reasons.get(&spec.name).into_iter().flatten() {
            match reason {
                Reason::Ending { path } | Reason::Gone { path } | Reason::TokenEnds { path } => {
                    paths.insert(path.clone());
                }
                Reason::Asked => paths.extend(paths_of(spec, |_| true)),
                // What somebody else wrote is not the credential any more.
                Reason::Damaged { keys } => paths.extend(paths_of(spec, |key| keys.contains(key))),
                Reason::Version { .. } | Reason::Deleted | Reason::Unsettled => {}
            }
        }
    }
    replaced
}

fn paths_of(spec: &SecretSpec, is_meant: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let keys = spec.keys.iter();
    keys.filter(|(key, _)| is_meant(key))
        .filter_map(|(_, source)| match source {
            Source::Field { path, .. } => Some(path.to_string()),
            Source::Template(_) => None,
        })
        .collect()
}

/// From the first request that changes something in Vault to the last write of a Secret.
async fn write(
    plan: &Plan,
    draft: Option<Draft>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<BTreeMap<String, Change>, Problem> {
    tools.log.start(Stage::Apply, "write");
    let secrets = values::issue(draft, tools, patience).await;
    let secrets = match secrets {
        Ok(secrets) => secrets,
        Err(problem) => {
            tools.log.end_stage(Stage::Apply);
            return Err(problem);
        }
    };
    let prepared = prepare(plan, &secrets, tools, patience).await;
    let mut changes = match prepared {
        Ok(changes) => changes,
        Err(problem) => {
            values::settle_secrets(secrets, &[], tools, patience).await;
            tools.log.end_stage(Stage::Apply);
            return Err(problem);
        }
    };
    let applied = apply::apply(plan, &secrets, tools.ports, patience).await;
    let written: Vec<ObjectId> = match &applied {
        Ok(applied) => {
            let objects = applied.objects().iter();
            objects.map(|object| object.id.clone()).collect()
        }
        Err(failure) => failure.written.clone(),
    };
    values::settle_secrets(secrets, &written, tools, patience).await;
    tools.log.end_stage(Stage::Apply);
    match applied {
        Ok(_) => Ok(changes),
        Err(failure) if written.is_empty() => Err(report::of_apply(&failure)),
        // Some are written, and are settled; the daemon comes back for the others.
        Err(failure) => {
            let problem = report::of_apply(&failure);
            tools.log.error(problem.detail);
            changes.retain(|secret, _| written.iter().any(|id| id.name == *secret));
            Ok(changes)
        }
    }
}

/// Keeps the values of before, and notes that writing begins. The register stays as it is: what the
/// Secrets are made of does not change, and one that was forgotten meanwhile stays forgotten.
async fn prepare(
    plan: &Plan,
    secrets: &crate::resolve::ResolvedSecrets,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<BTreeMap<String, Change>, Problem> {
    let mut changes = BTreeMap::new();
    for step in plan.steps() {
        if step.action == Action::Same {
            continue;
        }
        let secret = step.id.name.clone();
        let keys = step.keys.iter();
        let keys = keys
            .filter(|key| key.action != Action::Same)
            .map(|key| key.key.clone())
            .collect();
        let resolved = secrets.secrets.iter().find(|one| one.name == secret);
        let record = resolved.and_then(|one| one.record.as_ref());
        if let Some(trial) = record.and_then(|record| record.state.trial.as_ref()) {
            back_up(plan, &step.id, &trial.backup, tools, patience).await?;
        }
        changes.insert(secret, Change { keys });
    }
    let applying = Entry::Applying { fence: 0 };
    let noted = tools.ports.journal.append(applying).await;
    noted.map_err(|error| report::of_journal(&error))?;
    Ok(changes)
}

/// Writes the values that a Secret has now into its backup; one that is there already is of a change
/// that is not over, and stays.
async fn back_up(
    plan: &Plan,
    id: &ObjectId,
    backup: &str,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<(), Problem> {
    let actor = plan.permit().actor();
    let cluster = &tools.ports.cluster;
    let told = |id: &ObjectId, error: &ClusterError| report::of_cluster(&id.to_string(), error);
    let place = secret_id(plan.permit().namespace().as_str(), backup);
    let there = patience.retry(|| cluster.secret(actor, &place), cluster_trouble);
    if there.await.map_err(|error| told(&place, &error))?.is_some() {
        return Ok(());
    }
    let read = patience.retry(|| cluster.values(actor, id), cluster_trouble);
    let Some(values) = read.await.map_err(|error| told(id, &error))? else {
        return Ok(());
    };
    let body = backup_body(&place, &id.name);
    put(
        &place,
        &body,
        &values,
        plan.permit(),
        Force::No,
        tools,
        patience,
    )
    .await
    .map_err(|error| told(&place, &error))?;
    tools.log.info(format!(
        "the values of before are kept in Secret {backup} until the new ones are known to work"
    ));
    Ok(())
}

fn backup_body(id: &ObjectId, of: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": id.name,
            "namespace": id.namespace,
            "labels": { "app.kubernetes.io/managed-by": "quaymaster" },
            "annotations": { "state.quaymaster.dev/previous-of": of },
        },
        // Its type would ask for keys that a part of the values may lack.
        "type": "Opaque",
    })
}

/// Applies a Secret; an apply without an answer is sent again, it is the same content.
async fn put(
    id: &ObjectId,
    body: &Value,
    data: &BTreeMap<String, Secret>,
    permit: &Permit,
    force: Force,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Value, ClusterError> {
    const TRIES: usize = 5;
    let cluster = &tools.ports.cluster;
    let mut last = ClusterError::Unanswered {
        object: id.to_string(),
    };
    for _ in 0..TRIES {
        let payload = || Payload::Secret { body, data };
        let sent = patience.retry(
            || cluster.apply(permit.actor(), id, payload(), Write::Commit, force),
            cluster_trouble,
        );
        match sent.await {
            Ok((_, object)) => return Ok(object),
            Err(error @ ClusterError::Unanswered { .. }) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Says whether values of a Secret are tried before the old ones end.
fn is_tried(spec: &SecretSpec) -> bool {
    let rotate = spec.rotate.as_ref();
    rotate.is_none_or(|rotate| rotate.restart != Restart::Never)
}
