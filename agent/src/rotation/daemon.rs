//! The daemon's turn: what is due in this agent's share becomes runs.
//!
//! One task for all of it. [`deploy::rotate::due`] decides, here only the order of things is made: one
//! run at a time for an app, few at once so that a deploy never waits for background work, later and
//! later after failures, and never more than so many credentials or repairs for one Secret in a while,
//! whatever Vault or somebody else does.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use deploy::authorize;
use deploy::backoff::Patience;
use deploy::bundle::Bundle;
use deploy::engine;
use deploy::engine::Order;
use deploy::log::RunLog;
use deploy::ports::Ports;
use deploy::register;
use deploy::register::Change;
use deploy::request;
use deploy::request::Request;
use deploy::rotate;
use deploy::rotate::Asked;
use deploy::rotate::Facts;
use deploy::rotate::Found;
use deploy::rotate::Known;
use deploy::rotate::Reason;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use proto::error::Code;
use proto::error::Problem;
use proto::report::Mode;
use proto::report::Report;
use proto::report::Status;
use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Tools;
use super::credentials;
use super::leftovers;
use super::locks;
use super::table::App;
use super::table::Place;
use super::table::Row;
use super::table::Rows;
use super::table::Table;
use super::versions;
use super::view;
use super::watching::Watcher;
use crate::clock;
use crate::runs::RunTools;
use crate::runs::Submission;
use crate::runs::Submitted;
use crate::runs::Work;

/// Rotations that are on at once.
const WIDTH: usize = 4;
/// The table is looked through at least this often: times come without anybody waking the daemon.
const TURN: Duration = Duration::from_secs(1);
/// The first and the longest wait after a run that failed.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// The while that repairs and issues are counted in.
const WHILE: Duration = Duration::from_secs(600);
/// At most so many repairs of one Secret in a while: two who fight are told, not served.
const REPAIRS: usize = 3;
/// At most so many runs that issue a credential for one Secret in a while.
const ISSUES: usize = 5;
/// How long the register may take to be written for a caller.
const FORGET_TIME: Duration = Duration::from_secs(10);

/// Keeps Secrets fresh until it is told to stop.
pub(super) async fn run(table: &Table, tools: &Tools, stop: &CancellationToken) {
    let watchers: Vec<Watcher<'_>> = tools
        .clusters
        .iter()
        .map(|(name, cluster)| Watcher {
            name,
            cluster,
            table,
            tools,
        })
        .collect();
    let watching = watchers.iter().map(|watcher| watcher.run(stop));
    futures::join!(
        futures::future::join_all(watching),
        versions::run(table, tools, stop),
        credentials::run(table, tools, stop),
        leftovers::run(table, tools, stop),
        locks::run(table, tools, stop),
        turns(table, tools, stop),
    );
}

/// A run that was begun, with what it left when it is over.
type Following = futures::future::BoxFuture<'static, (Place, Report)>;

async fn turns(table: &Table, tools: &Tools, stop: &CancellationToken) {
    let mut on: FuturesUnordered<Following> = FuturesUnordered::new();
    loop {
        tokio::select! {
            // Runs live in their own tasks; here they are only followed, and nothing is lost.
            () = stop.cancelled() => return,
            () = table.woken() => {}
            () = tokio::time::sleep(TURN) => {}
            Some((place, report)) = on.next(), if !on.is_empty() => {
                table.with(|rows| over(rows, &place, &report));
            }
        }
        table.with(|rows| view::note_standing(rows, tools.clock.now()));
        while on.len() < WIDTH {
            let Some((place, orders)) = table.with(|rows| next(rows, tools)) else {
                break;
            };
            match begin(&place, orders, tools).await {
                Ok(following) => on.push(following),
                Err(problem) => table.with(|rows| refused(rows, &place, &problem)),
            }
        }
    }
}

/// What a run is begun with.
struct Orders {
    order: Order,
    /// The spec that it submits.
    spec: Value,
    owner: deploy::managed::Owner,
}

/// Finds the next app with something to do, and marks it as being changed.
fn next(rows: &mut Rows, tools: &Tools) -> Option<(Place, Orders)> {
    let now = Instant::now();
    let mine: Vec<Place> = rows
        .apps
        .iter()
        .filter(|(_, app)| !app.running && app.not_before.is_none_or(|time| time <= now))
        .filter(|(place, app)| rows.looks_after(place, app, &tools.agent))
        .map(|(place, _)| place.clone())
        .collect();
    let newest = std::mem::take(&mut rows.newest);
    let mut found = None;
    for place in mine {
        if let Some(app) = rows.apps.get_mut(&place)
            && let Some(orders) = orders(&place, app, &newest, tools)
        {
            app.running = true;
            found = Some((place, orders));
            break;
        }
    }
    rows.newest = newest;
    found
}

/// Says what is due in an app; changes come before what is only open.
fn orders(
    place: &Place,
    app: &mut App,
    newest: &BTreeMap<String, deploy::ports::Newest>,
    tools: &Tools,
) -> Option<Orders> {
    let mut due: BTreeMap<String, BTreeSet<Reason>> = BTreeMap::new();
    for (name, row) in &mut app.secrets {
        let reasons = reasons(row, newest, tools);
        if !reasons.is_empty() {
            due.insert(name.clone(), reasons);
        }
    }
    let is_change = |reason: &Reason| *reason != Reason::Unsettled;
    if due.is_empty() {
        return None;
    }
    if due.values().flatten().any(is_change) {
        due.retain(|_, reasons| reasons.iter().any(is_change));
        app.settling = 0;
    } else {
        // What could not be ended is tried later and later.
        let wait = AGAIN.0 * (1_u32 << app.settling.min(10));
        app.not_before = Some(Instant::now() + wait.min(AGAIN.1));
        app.settling += 1;
    }
    let mut order = Order::default();
    let mut secrets = Vec::new();
    let mut damaged = Vec::new();
    for (name, reasons) in due {
        let row = app.secrets.get_mut(&name)?;
        let record = row.record.as_ref()?;
        secrets.push(record.declaration.secret.to_value());
        if reasons
            .iter()
            .any(|reason| matches!(reason, Reason::Damaged { .. }))
        {
            damaged.push(name.clone());
            row.repairs.push(Instant::now());
        }
        if reasons.iter().any(issues) {
            row.issues.push(Instant::now());
        }
        if row.is_asked(record.state.generation) == Asked::Yes {
            row.served = Some(record.state.generation);
        }
        row.asked = None;
        order
            .generations
            .insert(name.clone(), record.state.generation);
        let digests = app.entry.secrets.get(&name).cloned().unwrap_or_default();
        order.digests.insert(name.clone(), digests);
        if reasons.contains(&Reason::Deleted) {
            order.lost.insert(name.clone(), record.clone());
        }
        order.reasons.insert(name, reasons);
    }
    let mut spec = json!({
        "version": 1,
        "name": place.app,
        "target": { "cluster": place.cluster, "namespace": place.namespace },
        "secrets": secrets,
    });
    if !damaged.is_empty() {
        // Keys that were the agents' are taken back; everything else still conflicts.
        spec["conflicts"] = json!([{ "kind": "v1/Secret", "field": ".data", "then": "take" }]);
    }
    Some(Orders {
        order,
        spec,
        owner: app.entry.owner.clone(),
    })
}

fn issues(reason: &Reason) -> bool {
    match reason {
        Reason::Ending { .. }
        | Reason::Gone { .. }
        | Reason::TokenEnds { .. }
        | Reason::Deleted
        | Reason::Damaged { .. } => true,
        Reason::Version { .. } | Reason::Asked | Reason::Unsettled => false,
    }
}

/// Says why a Secret has to be changed now, and leaves in its row what is to be told about it.
fn reasons(
    row: &mut Row,
    newest: &BTreeMap<String, deploy::ports::Newest>,
    tools: &Tools,
) -> BTreeSet<Reason> {
    let nothing = BTreeSet::new();
    let (Some(record), Some(found)) = (&row.record, &row.found) else {
        return nothing;
    };
    if row.problem.is_some() && *found != Found::Deleted {
        return nothing;
    }
    let known: BTreeMap<String, Known> = row
        .credentials
        .iter()
        .map(|(path, credential)| (path.clone(), credential.known))
        .collect();
    let own = tools.secrets.own();
    let due = rotate::due(
        record,
        &Facts {
            now: tools.clock.now(),
            newest,
            credentials: &known,
            own: own.as_ref(),
            found,
            asked: row.is_asked(record.state.generation),
        },
    );
    row.notes = due.kept;
    if let Some((time, reason)) = due.later {
        row.notes
            .push(format!("{reason}; it is taken at {time:.0}"));
    }
    let now = Instant::now();
    row.repairs.retain(|time| now.duration_since(*time) < WHILE);
    row.issues.retain(|time| now.duration_since(*time) < WHILE);
    let mut reasons = due.now;
    if row.repairs.len() >= REPAIRS && reasons.iter().any(is_repair) {
        reasons.retain(|reason| !is_repair(reason));
        row.notes.push(format!(
            "somebody else keeps changing it: it was put right {REPAIRS} times in ten minutes and is \
             left alone for a while"
        ));
    }
    if row.issues.len() >= ISSUES && reasons.iter().any(issues) {
        reasons.retain(|reason| !issues(reason));
        row.notes.push(format!(
            "{ISSUES} credentials were issued for it in ten minutes; the next one waits"
        ));
    }
    wait_by_chance(row, reasons, now)
}

fn is_repair(reason: &Reason) -> bool {
    matches!(reason, Reason::Damaged { .. } | Reason::Deleted)
}

/// Lets a new version wait for the jitter that its spec asks for.
fn wait_by_chance(row: &mut Row, mut reasons: BTreeSet<Reason>, now: Instant) -> BTreeSet<Reason> {
    let rotate = row.record.as_ref().map(rotate::rotate_of);
    let jitter = rotate.and_then(|rotate| rotate.jitter);
    let only_versions = reasons
        .iter()
        .all(|reason| matches!(reason, Reason::Version { .. }));
    let Some(jitter) = jitter.filter(|_| only_versions && !reasons.is_empty()) else {
        row.jitter = None;
        return reasons;
    };
    let until = *row
        .jitter
        .get_or_insert_with(|| now + jitter * clock::chance() / 1_000);
    if until > now {
        reasons.clear();
    }
    reasons
}

/// Submits a run for an app.
async fn begin(place: &Place, orders: Orders, tools: &Tools) -> Result<Following, Problem> {
    let request = request(&orders.spec).map_err(|problem| *problem)?;
    let owner = orders.owner.principal();
    let lost = |_| Problem::new(Code::Internal, "the decision got no id");
    let decision = clock::decision_id().map_err(lost)?;
    let whose = owner.owner_key();
    let permit = authorize::authorize(&tools.policy, owner, request, &[], &decision);
    let permit = permit.map_err(|denial| {
        let mut problem = Problem::new(Code::Denied, denial.message).hint(denial.hint);
        problem.decision_id = Some(denial.decision);
        problem
    })?;
    let work = work(place, permit, orders.order, tools).map_err(|problem| *problem)?;
    let submission = Submission {
        owner: whose.clone(),
        mode: Mode::Rotation,
        name: place.app.clone(),
        cluster: place.cluster.clone(),
        namespace: place.namespace.clone(),
        key: None,
        digest: [0; 32],
        work,
        herald: None,
    };
    let submitted = tools.runs.submit(submission).await.map_err(|error| {
        Problem::new(Code::Unavailable, format!("the run was not taken: {error}"))
    })?;
    let (Submitted::New(id) | Submitted::Same(id, _)) = submitted;
    let place = place.clone();
    let found = tools.runs.find(&whose, &id).await;
    let mut run = found
        .ok()
        .flatten()
        .ok_or_else(|| Problem::new(Code::Internal, "a run that was just begun is not there"))?;
    Ok(async move {
        let report = run.done().await;
        (place, Report::clone(&report))
    }
    .boxed())
}

fn request(spec: &Value) -> Result<Request, Box<Problem>> {
    let files = BTreeMap::from([(
        deploy::spec::SPEC_FILE.to_owned(),
        spec.to_string().into_bytes(),
    )]);
    request::read(&Bundle { files }, Mode::Rotation).map_err(|error| {
        let place = error.places.first();
        let why = place.map_or("it is not valid", |place| place.message.as_str());
        let detail = format!("what the record declares is refused: {why}");
        Box::new(Problem::new(error.code, detail).hint("deploy the app again"))
    })
}

fn work(
    place: &Place,
    permit: authorize::Permit,
    order: Order,
    tools: &Tools,
) -> Result<Work, Box<Problem>> {
    let adapters = tools
        .clusters
        .get(&place.cluster)
        .zip(tools.renderers.get(&place.cluster));
    let Some((cluster, renderer)) = adapters else {
        let problem = Problem::new(Code::Internal, "the cluster is gone");
        return Err(Box::new(problem));
    };
    let (cluster, renderer) = (Arc::clone(cluster), Arc::clone(renderer));
    let tools = tools.clone();
    Ok(Box::new(move |run: RunTools| {
        async move {
            let ports = Ports {
                secrets: Arc::clone(&tools.secrets),
                cluster,
                renderer,
                git: Arc::clone(&tools.git),
                registry: Arc::clone(&tools.registry),
                clock: Arc::clone(&tools.clock),
                journal: run.journal,
            };
            let tools = engine::Tools {
                id: run.id,
                ports: &ports,
                log: &run.log,
                key: &tools.key,
                stop: run.stop,
                end: run.end,
                audience: &run.audience,
                agent: &tools.agent,
                home: Some(&tools.home),
            };
            engine::rotate(permit, order, tools).await
        }
        .boxed()
    }))
}

/// Notes that a run is over.
fn over(rows: &mut Rows, place: &Place, report: &Report) {
    let Some(app) = rows.apps.get_mut(place) else {
        return;
    };
    app.running = false;
    if report.status == Status::Succeeded {
        app.failures = 0;
        for row in app.secrets.values_mut() {
            row.failed = None;
            row.served = None;
        }
        return;
    }
    let wait = app.failed();
    tracing::warn!(
        app = %place.app, namespace = %place.namespace, cluster = %place.cluster, run = %report.id,
        status = report.status.word(), again_in_seconds = wait.as_secs(), report.message,
        "a rotation failed"
    );
    let told = format!("run {}: {}", report.id, report.message);
    for row in app.secrets.values_mut() {
        row.failed = Some(told.clone());
    }
}

/// Notes that a run was not begun.
fn refused(rows: &mut Rows, place: &Place, problem: &Problem) {
    let Some(app) = rows.apps.get_mut(place) else {
        return;
    };
    app.running = false;
    let wait = app.failed();
    tracing::warn!(
        app = %place.app, namespace = %place.namespace, cluster = %place.cluster,
        again_in_seconds = wait.as_secs(), problem.detail, "a rotation was refused"
    );
    for row in app.secrets.values_mut() {
        row.failed = Some(problem.detail.clone());
    }
}

impl App {
    /// Counts a failure and returns the wait after it.
    fn failed(&mut self) -> Duration {
        let wait = AGAIN.0 * (1_u32 << self.failures.min(10));
        let wait = wait.min(AGAIN.1);
        self.failures += 1;
        self.not_before = Some(Instant::now() + wait);
        wait
    }
}

/// Takes a Secret out of the register, so that no agent keeps it any more.
pub(super) async fn forget(place: &Place, secret: &str, tools: &Tools) -> Result<(), Problem> {
    let Some(cluster) = tools.clusters.get(&place.cluster) else {
        return Err(Problem::new(Code::Internal, "the cluster is gone"));
    };
    let log = RunLog::new(Arc::clone(&tools.clock));
    let patience = Patience {
        deadline: Instant::now() + FORGET_TIME,
        stop: &CancellationToken::new(),
        log: &log,
        seed: 1,
    };
    let secrets = BTreeSet::from([secret.to_owned()]);
    let change = Change::Forget { secrets: &secrets };
    let app = (&place.namespace, &place.app);
    register::change(&tools.home, app, &change, &**cluster, &patience)
        .await
        .map_err(|error| deploy::report::of_register(&tools.home, &error))
}
