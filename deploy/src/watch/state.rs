//! The state of a watch: what was observed, how each object stands, and what follows from it.
//!
//! Used by [`super::watch`]; pure but for the instants that it is handed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::ledger::Ledger;
use super::scopes;
use crate::cause;
use crate::cause::Arrival;
use crate::cause::Finding;
use crate::cause::World;
use crate::class::Class;
use crate::object::AppliedObject;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::number;
use crate::object::text;
use crate::ports::Observation;
use crate::ports::Scope;
use crate::principal::Actor;
use crate::rollout;
use crate::rollout::Standing;

/// An object's own word that it failed, or that it is gone, has to hold for so long: a listing may
/// be a moment older than our write, and a stale condition goes with the controller's next look.
const OWN_WORD: Duration = Duration::from_secs(2);

/// How long a refused watch is tried again: the right may be part of what was just applied.
const REFUSED: Duration = Duration::from_secs(3);

/// How one object stands, with what is wrong.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) id: ObjectId,
    pub(super) standing: Standing,
    /// For how long it has said that it failed.
    failed_for: Duration,
    /// Each finding, and for how long it has been seen.
    pub(super) findings: Vec<(Finding, Duration)>,
    /// What to know although it is ready.
    note: Option<String>,
}

/// All objects in one look.
#[derive(Debug)]
pub(super) struct View {
    pub(super) objects: Vec<Judged>,
    /// Kinds whose first listing is not complete.
    pub(super) unlisted: Vec<String>,
}

/// One finding and the object that it is held against.
#[derive(Debug)]
pub(super) struct Blame {
    pub(super) object: String,
    pub(super) finding: Finding,
}

/// What follows from a look.
#[derive(Debug)]
pub(super) enum Verdict {
    Wait,
    Ready(Vec<String>),
    Failed(Vec<Blame>),
}

/// What was observed so far.
#[derive(Debug)]
pub(super) struct State {
    applied: Vec<AppliedObject>,
    actor: String,
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
}

impl State {
    pub(super) fn new(applied: &[AppliedObject], scopes: &[Scope], actor: &Actor) -> Self {
        let mut unlisted = BTreeMap::new();
        for scope in scopes {
            *unlisted.entry(scope.gvk.clone()).or_insert(0) += 1;
        }
        Self {
            applied: applied.to_vec(),
            actor: actor.user.clone(),
            world: World::default(),
            unlisted,
            blind: BTreeMap::new(),
            troubled: BTreeSet::new(),
            ledger: Ledger::default(),
            completed: BTreeSet::new(),
            remembered: BTreeMap::new(),
            restarts: BTreeMap::new(),
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
        let unlisted = self
            .unlisted
            .keys()
            .filter(|gvk| !self.blind.contains_key(gvk))
            .map(ToString::to_string)
            .collect();
        let applied = std::mem::take(&mut self.applied);
        let objects = applied
            .iter()
            .map(|object| self.judge_one(object, now))
            .collect();
        self.applied = applied;
        self.note_restarts();
        View { objects, unlisted }
    }

    fn is_blind(&self, gvk: &Gvk, now: Instant) -> bool {
        self.blind
            .get(gvk)
            .is_some_and(|(since, _, _)| now.duration_since(*since) >= REFUSED)
    }

    fn judge_one(&mut self, applied: &AppliedObject, now: Instant) -> Judged {
        let standing = self.standing(applied, now);
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
        if live.is_none() && self.completed.contains(&applied.id) {
            return Standing::Ready;
        }
        let standing = rollout::standing(applied, live);
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
        if gvk.is("", "PersistentVolumeClaim") && text(live, &["status", "phase"]) == "Pending" {
            return Some("is bound when the first pod uses it".to_owned());
        }
        rollout::notes(gvk, live)
    }

    /// Notes how often containers of the new revisions were started again.
    fn note_restarts(&mut self) {
        for applied in &self.applied {
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

    /// Says what follows.
    pub(super) fn verdict(&self, view: &View, now: Instant) -> Verdict {
        if !view.unlisted.is_empty() {
            return Verdict::Wait;
        }
        let blames: Vec<Blame> = view
            .objects
            .iter()
            .flat_map(|judged| self.blames(judged, now))
            .collect();
        if !blames.is_empty() {
            return Verdict::Failed(blames);
        }
        if view
            .objects
            .iter()
            .all(|judged| judged.standing == Standing::Ready)
        {
            return Verdict::Ready(self.warnings(view));
        }
        Verdict::Wait
    }

    /// What makes an object's failure final; empty when nothing does.
    fn blames(&self, judged: &Judged, now: Instant) -> Vec<Blame> {
        let object = judged.id.to_string();
        let blame = |finding: &Finding| Blame {
            object: object.clone(),
            finding: finding.clone(),
        };
        let last: Vec<Blame> = judged
            .findings
            .iter()
            .filter(|(finding, seen)| finding.is_final(*seen))
            .map(|(finding, _)| blame(finding))
            .collect();
        let Standing::Failed(why) = &judged.standing else {
            return last;
        };
        if !last.is_empty() {
            return last;
        }
        if judged.failed_for < OWN_WORD {
            return Vec::new();
        }
        let own = self.own_word(judged, why, now);
        if judged.findings.is_empty() {
            return vec![Blame {
                object,
                finding: own,
            }];
        }
        judged
            .findings
            .iter()
            .map(|(finding, _)| {
                let mut blamed = blame(finding);
                blamed.finding.evidence.insert(0, own.message.clone());
                blamed
            })
            .collect()
    }

    fn own_word(&self, judged: &Judged, why: &str, now: Instant) -> Finding {
        let id = &judged.id;
        if self.is_blind(&id.gvk, now) && self.unlisted.contains_key(&id.gvk) {
            let message = format!(
                "{id} cannot be watched as {}: the rights list and watch for {} are missing",
                self.actor, id.gvk
            );
            let mut finding = Finding::new("cannot_watch", "", message);
            finding.evidence.push(why.to_owned());
            finding.hint = Some("grant the job's user or groups get, list and watch for this kind");
            return finding;
        }
        let kind = if why.starts_with("ProgressDeadlineExceeded") {
            "progress_deadline"
        } else if why.contains("is gone") || why.contains("does not exist any more") {
            "replaced"
        } else {
            "failed"
        };
        Finding::new(kind, "", format!("{id} {}", sentence(why)))
    }

    fn warnings(&self, view: &View) -> Vec<String> {
        let notes = view.objects.iter().filter_map(|judged| {
            let note = judged.note.as_ref()?;
            Some(format!("{} {note}", judged.id))
        });
        let restarts = self.restarts.iter().map(|(name, count)| {
            let times = if *count == 1 { "time" } else { "times" };
            format!("{name} was restarted {count} {times}")
        });
        notes.chain(restarts).collect()
    }

    /// What was seen of each object that is not ready, for the deadline: causes first.
    pub(super) fn unfinished(&self, view: &View) -> Vec<Blame> {
        let mut known = Vec::new();
        let mut unknown = Vec::new();
        for judged in &view.objects {
            let why = match &judged.standing {
                Standing::Ready => continue,
                Standing::Pending(why) | Standing::Failed(why) => why,
            };
            let object = judged.id.to_string();
            for (finding, _) in &judged.findings {
                let mut finding = finding.clone();
                finding.evidence.insert(0, format!("{object}: {why}"));
                known.push(Blame {
                    object: object.clone(),
                    finding,
                });
            }
            if judged.findings.is_empty() {
                let message = format!("{object} is not ready: {why}");
                let finding = Finding::new("not_ready", "", message);
                unknown.push(Blame { object, finding });
            }
        }
        known.append(&mut unknown);
        known
    }
}

/// Reasons of conditions are words of their own; those of ours go on the sentence.
fn sentence(why: &str) -> String {
    if why.starts_with(|first: char| first.is_ascii_uppercase()) {
        format!("says: {why}")
    } else {
        why.to_owned()
    }
}
