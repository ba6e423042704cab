//! The state of a watch: what was observed, how each object stands, and what follows from it.
//!
//! Used by [`super::watch`]; pure but for the instants that it is handed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::ledger::Ledger;
use super::scopes;
use super::settle::Settle;
use crate::cause;
use crate::cause::Arrival;
use crate::cause::Finding;
use crate::cause::World;
use crate::class::Class;
use crate::health::Rule;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::number;
use crate::object::text;
use crate::options::Options;
use crate::options::Wait;
use crate::ports::Observation;
use crate::ports::Scope;
use crate::principal::Actor;
use crate::rollout;
use crate::rollout::Standing;
use crate::rollout::has_condition;

/// How long a refused watch is tried again: the right may be part of what was just applied.
const REFUSED: Duration = Duration::from_secs(3);

/// How one object stands, with what is wrong.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) id: ObjectId,
    pub(super) standing: Standing,
    /// For how long it has said that it failed.
    pub(super) failed_for: Duration,
    /// Each finding, and for how long it has been seen.
    pub(super) findings: Vec<(Finding, Duration)>,
    /// What to know although it is ready.
    pub(super) note: Option<String>,
}

/// All objects in one look.
#[derive(Debug)]
pub(super) struct View {
    pub(super) objects: Vec<Judged>,
    /// Kinds whose first listing is not complete.
    pub(super) unlisted: Vec<String>,
}

/// What was observed so far.
#[derive(Debug)]
pub(super) struct State {
    applied: Vec<AppliedObject>,
    actor: String,
    rules: Vec<Rule>,
    world: World,
    unlisted: BTreeMap<Gvk, usize>,
    blind: BTreeMap<Gvk, (Instant, Class, String)>,
    troubled: BTreeSet<(Gvk, String)>,
    ledger: Ledger,
    /// Jobs that were seen complete: they may be cleaned up at any time.
    completed: BTreeSet<ObjectId>,
    /// The last findings with a log of each object, for when the pods are gone.
    remembered: BTreeMap<ObjectId, Finding>,
    restarts: BTreeMap<String, i64>,
    settle: Settle,
    /// When the first look was: deadlines of single objects count from then.
    first_look: Option<Instant>,
}

impl State {
    pub(super) fn new(
        applied: &[AppliedObject],
        scopes: &[Scope],
        rules: &[Rule],
        actor: &Actor,
        began: jiff::Timestamp,
    ) -> Self {
        let mut unlisted = BTreeMap::new();
        for scope in scopes {
            *unlisted.entry(scope.gvk.clone()).or_insert(0) += 1;
        }
        Self {
            applied: applied.to_vec(),
            actor: actor.user.clone(),
            rules: rules.to_vec(),
            world: World::default(),
            unlisted,
            blind: BTreeMap::new(),
            troubled: BTreeSet::new(),
            ledger: Ledger::default(),
            completed: BTreeSet::new(),
            remembered: BTreeMap::new(),
            restarts: BTreeMap::new(),
            settle: Settle::new(began),
            first_look: None,
        }
    }

    /// Takes in an observation; returns a warning to tell once.
    pub(super) fn observe(&mut self, observation: Observation, now: Instant) -> Option<String> {
        match observation {
            Observation::Present(object) => {
                self.put(object);
                None
            }
            Observation::Gone(id) => {
                if id.gvk.is("", "Pod") {
                    // What it held of the quota is free now.
                    self.ledger.restart("quota_exceeded");
                }
                self.world.remove(&id);
                None
            }
            Observation::Synced(gvk) => {
                self.blind.remove(&gvk);
                self.listed(&gvk);
                None
            }
            Observation::Trouble { gvk, class, reason } => self.trouble(gvk, class, reason, now),
        }
    }

    fn put(&mut self, object: serde_json::Value) {
        let id = World::id(&object);
        if id.gvk.is("batch", "Job") && has_condition(&object, "Complete", "True") {
            // Noted here and not in the next look: it may be removed before.
            let uid = text(&object, &["metadata", "uid"]);
            let ours = |applied: &AppliedObject| applied.id == id && applied.uid == uid;
            if self.applied.iter().any(ours) {
                self.completed.insert(id.clone());
            }
        }
        let arrival = if self.unlisted.contains_key(&id.gvk) {
            Arrival::Listed
        } else {
            Arrival::Live
        };
        self.world.put(object, arrival);
    }

    fn listed(&mut self, gvk: &Gvk) {
        if let Some(left) = self.unlisted.get_mut(gvk) {
            *left -= 1;
            if *left == 0 {
                self.unlisted.remove(gvk);
            }
        }
    }

    fn trouble(&mut self, gvk: Gvk, class: Class, reason: String, now: Instant) -> Option<String> {
        let of_no_use = matches!(class, Class::Denied | Class::Caller | Class::Bug);
        if of_no_use {
            self.blind
                .entry(gvk.clone())
                .or_insert((now, class, reason.clone()));
        }
        if !self.troubled.insert((gvk.clone(), reason.clone())) {
            return None;
        }
        Some(if of_no_use {
            format!("{gvk} cannot be watched as {}: {reason}", self.actor)
        } else {
            format!("the watch of {gvk} has trouble and goes on trying: {reason}")
        })
    }

    /// Judges every object.
    pub(super) fn judge(&mut self, now: Instant) -> View {
        self.first_look.get_or_insert(now);
        let unlisted = self.awaited().map(ToString::to_string).collect();
        let applied = std::mem::take(&mut self.applied);
        let objects = applied
            .iter()
            .map(|object| self.judge_one(object, now))
            .collect();
        self.applied = applied;
        self.note_restarts();
        View { objects, unlisted }
    }

    /// Says whether the first listings are complete, as far as they can be.
    pub(super) fn is_listed(&self) -> bool {
        self.awaited().next().is_none()
    }

    /// The kinds whose first listing is still to come.
    fn awaited(&self) -> impl Iterator<Item = &Gvk> {
        let kinds = self.unlisted.keys();
        kinds.filter(|gvk| !self.blind.contains_key(gvk))
    }

    /// Says whether an applied kind cannot be watched at all.
    pub(super) fn is_refused(&self, gvk: &Gvk) -> bool {
        self.blind.contains_key(gvk) && self.unlisted.contains_key(gvk)
    }

    /// Who watches.
    pub(super) fn actor(&self) -> &str {
        &self.actor
    }

    /// How often containers of the new revisions were started again, by their title.
    pub(super) fn restarts(&self) -> impl Iterator<Item = (&String, &i64)> {
        self.restarts.iter()
    }

    fn judge_one(&mut self, applied: &AppliedObject, now: Instant) -> Judged {
        let mut standing = self.standing(applied, now);
        if self.holds(applied, &standing, now) {
            standing = Standing::Pending("ready; waiting a moment whether it stays so".to_owned());
        }
        if let Standing::Pending(why) = &standing
            && let Some(limit) = self.own_deadline(applied, now)
        {
            let seconds = limit.as_secs();
            let why = format!("was not ready at its own deadline of {seconds} s: {why}");
            standing = Standing::Failed(why);
        }
        let mut judged = Judged {
            id: applied.id.clone(),
            failed_for: Duration::ZERO,
            findings: Vec::new(),
            note: None,
            standing,
        };
        match &judged.standing {
            Standing::Ready => {
                judged.note = self.note(applied);
                if applied.id.gvk.is("batch", "Job") {
                    self.completed.insert(applied.id.clone());
                }
                return judged;
            }
            Standing::Failed(_) => {
                let key = (applied.id.clone(), "failed".to_owned(), String::new());
                judged.failed_for = self.ledger.note(key, now);
            }
            Standing::Pending(_) => {}
        }
        judged.findings = cause::findings(applied, &self.world)
            .into_iter()
            .map(|finding| {
                let subject = finding.subject.clone();
                let key = (applied.id.clone(), finding.kind.to_owned(), subject);
                let seen = self.ledger.note(key, now);
                (finding, seen)
            })
            .collect();
        self.remember(&mut judged);
        judged
    }

    /// Returns the object's own deadline if it has passed.
    fn own_deadline(&self, applied: &AppliedObject, now: Instant) -> Option<Duration> {
        let limit = Options::of(self.world.get(&applied.id)?).timeout?;
        let since = self.first_look?;
        (now.duration_since(since) >= limit).then_some(limit)
    }

    /// Says whether pods show that a workload is not as ready as it says.
    fn holds(&mut self, applied: &AppliedObject, standing: &Standing, now: Instant) -> bool {
        if applied.id.gvk.is("batch", "Job") {
            return false;
        }
        if self.world.get(&applied.id).is_some_and(is_skipped) {
            return false;
        }
        let pods = cause::pods_of(applied, &self.world);
        self.settle.holds(&applied.id, standing, &pods, now)
    }

    fn standing(&self, applied: &AppliedObject, now: Instant) -> Standing {
        let gvk = &applied.id.gvk;
        if !scopes::has_state(gvk) {
            return Standing::Ready;
        }
        if let Some((since, class, reason)) = self.blind.get(gvk)
            && self.unlisted.contains_key(gvk)
        {
            return if *class == Class::Caller && !rollout::is_builtin(&gvk.group) {
                // A kind that offers no watch has no state that it wants to be waited for.
                Standing::Ready
            } else if now.duration_since(*since) >= REFUSED {
                Standing::Failed(reason.clone())
            } else {
                Standing::Pending("cannot be watched yet".to_owned())
            };
        }
        if self.unlisted.contains_key(gvk) {
            return Standing::Pending("is not listed yet".to_owned());
        }
        let live = self.world.get(&applied.id);
        if live.is_some_and(is_skipped) {
            return Standing::Ready;
        }
        if live.is_none() && self.was_completed(applied) {
            return Standing::Ready;
        }
        let standing = rollout::standing(applied, live, &self.rules);
        match (&standing, live) {
            (Standing::Pending(_), Some(live))
                if gvk.is("", "PersistentVolumeClaim")
                    && cause::waits_for_consumer(live, &self.world) =>
            {
                Standing::Ready
            }
            (Standing::Failed(why), Some(live)) if self.is_stale_deadline(gvk, why, live) => {
                Standing::Pending("a deadline of an earlier revision passed".to_owned())
            }
            (Standing::Pending(_) | Standing::Ready | Standing::Failed(_), _) => standing,
        }
    }

    /// A Job can be done and removed before we look; then its event is what is left of it.
    fn was_completed(&self, applied: &AppliedObject) -> bool {
        let about = serde_json::json!({ "metadata": { "uid": applied.uid } });
        self.completed.contains(&applied.id)
            || (applied.id.gvk.is("batch", "Job")
                && !applied.uid.is_empty()
                && !self.world.events_of(&about, &["Completed"]).is_empty())
    }

    /// After an undo or a scaling the condition of the revision before stays until the controller's
    /// next progress; it names the ReplicaSet that it is about.
    fn is_stale_deadline(&self, gvk: &Gvk, why: &str, live: &serde_json::Value) -> bool {
        if !gvk.is("apps", "Deployment") || !why.contains("ReplicaSet \"") {
            return false;
        }
        cause::newest_replica_set(live, &self.world).is_some_and(|set| {
            let name = text(set, &["metadata", "name"]);
            !why.contains(&format!("\"{name}\""))
        })
    }

    /// Keeps the newest evidence of a Job: its pods may be gone when it says that it failed.
    fn remember(&mut self, judged: &mut Judged) {
        if !judged.id.gvk.is("batch", "Job") {
            return;
        }
        let newest = judged
            .findings
            .iter()
            .map(|(finding, _)| finding)
            .find(|finding| finding.kind != "job_failed" && finding.log.is_some());
        if let Some(finding) = newest {
            self.remembered.insert(judged.id.clone(), finding.clone());
        } else if let Some(old) = self.remembered.get(&judged.id)
            && let Some((failed, _)) = judged.findings.first_mut()
            && failed.kind == "job_failed"
            && failed.log.is_none()
        {
            failed.evidence.push(old.message.clone());
            failed.evidence.extend(old.evidence.iter().cloned());
        }
    }

    fn note(&self, applied: &AppliedObject) -> Option<String> {
        let gvk = &applied.id.gvk;
        if scopes::has_state(gvk) && self.blind.contains_key(gvk) {
            return Some("cannot be watched, so its state was not judged".to_owned());
        }
        let live = self.world.get(&applied.id)?;
        if is_skipped(live) {
            return Some("is not waited for, as its annotation says".to_owned());
        }
        if gvk.is("", "PersistentVolumeClaim") && text(live, &["status", "phase"]) == "Pending" {
            return Some("is bound when the first pod uses it".to_owned());
        }
        rollout::notes(gvk, live)
    }

    /// Notes how often containers of the new revisions were started again.
    fn note_restarts(&mut self) {
        let judged =
            |applied: &&AppliedObject| !self.world.get(&applied.id).is_some_and(is_skipped);
        for applied in self.applied.iter().filter(judged) {
            for pod in cause::pods_of(applied, &self.world) {
                for status in crate::object::list(pod, &["status", "containerStatuses"]) {
                    let count = number(status, &["restartCount"]).unwrap_or(0);
                    if count > 0 {
                        let pod = text(pod, &["metadata", "name"]);
                        let name = format!("container {} of pod {pod}", text(status, &["name"]));
                        self.restarts.insert(name, count);
                    }
                }
            }
        }
    }
}

/// Says whether an object's annotation says that nobody waits for it.
fn is_skipped(live: &serde_json::Value) -> bool {
    Options::of(live).wait == Wait::Skip
}
