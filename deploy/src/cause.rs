//! Why a workload does not become ready: causes with evidence, read from pods, events and owners.
//!
//! Pure: [`crate::watch`] brings the observed world, this finds causes in it. One file a family
//! below `cause/`. Only pods of the new revision are looked at, so neighbors that were broken before
//! never fail a run. A finding is permanent only together with its [`Bound`]: it has to be seen for
//! long enough, so that what heals by itself within seconds is no failure.

mod admission;
mod config;
mod container;
mod image;
mod job;
mod node;
mod probe;
mod revision;
mod schedule;
mod volume;
mod world;

use std::time::Duration;

use proto::report::Cause;
use serde_json::Value;

use crate::object::AppliedObject;
use crate::object::text;
use crate::ports::LogRequest;

pub use revision::newest_replica_set;
pub use revision::pods_of;
pub(crate) use volume::waits_for_consumer;
pub use world::Arrival;
pub use world::World;

/// Whether waiting can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permanence {
    /// It will not heal by itself.
    Permanent,
    /// It may heal; reported when the deadline comes.
    Transient,
}

/// When a permanent finding may become the verdict: seen without a break for `time`, and `count` at
/// least `needed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// How long it has to be seen.
    pub time: Duration,
    /// How often it has to have happened, as the cluster counts.
    pub needed: u64,
}

/// A state that the kubelet or a controller reports only when nothing can change it.
pub const AT_ONCE: Bound = Bound {
    time: Duration::ZERO,
    needed: 1,
};

/// Missing objects and refusals: kubelet and controllers read through caches that lag behind writes
/// by up to a second or two, so the first refusal may be about a state that is over.
pub const SETTLED: Bound = Bound {
    time: Duration::from_secs(3),
    needed: 1,
};

/// Like [`SETTLED`], where the cluster counts repetitions: one refusal alone may be a race.
pub const REPEATED: Bound = Bound {
    time: Duration::from_secs(3),
    needed: 2,
};

/// What a second look has to confirm: a missing image (the kubelet reports the back-off about one
/// second after the first pull failed), and a failed Job whose pod was not seen to end.
pub const SECOND_LOOK: Bound = Bound {
    time: Duration::from_secs(2),
    needed: 1,
};

/// What usually passes: a registry that is away or throttles, a node without network. After so long
/// and so many tries it is not a moment of weakness any more.
pub const LASTING: Bound = Bound {
    time: Duration::from_secs(5 * 60),
    needed: 6,
};

/// Crashes: programs that wait for a database by crashing heal within the first restarts, so three
/// restarts are given.
pub const CRASHES: u64 = 4;

/// Running out of memory three times: it needs no neighbor that may come up later, so it heals less
/// often than a crash.
pub const OUT_OF_MEMORY: u64 = 3;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A stable word, such as `image_missing`.
    pub kind: &'static str,
    /// What it is about, to tell findings of one kind apart: pod and container, or an owner.
    pub subject: String,
    /// One sentence with numbers.
    pub message: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// What to do.
    pub hint: Option<&'static str>,
    /// Whether waiting can help.
    pub permanence: Permanence,
    /// What a permanent one needs to become the verdict.
    pub bound: Bound,
    /// How often it has happened.
    pub count: u64,
    /// The container whose last lines belong to the evidence.
    pub log: Option<LogRequest>,
    /// The Secret, ConfigMap or claim that is missing; somebody may be about to make it.
    pub missing: Option<String>,
}

impl Finding {
    /// Makes a finding that waiting may heal.
    #[must_use]
    pub(crate) fn new(kind: &'static str, subject: &str, message: String) -> Self {
        Self {
            kind,
            subject: subject.to_owned(),
            message,
            evidence: Vec::new(),
            hint: None,
            permanence: Permanence::Transient,
            bound: AT_ONCE,
            count: 1,
            log: None,
            missing: None,
        }
    }

    fn permanent(mut self, bound: Bound) -> Self {
        self.permanence = Permanence::Permanent;
        self.bound = bound;
        self
    }

    const fn transient(mut self) -> Self {
        self.permanence = Permanence::Transient;
        self
    }

    fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    fn seen(mut self, line: impl Into<String>) -> Self {
        let line = line.into();
        if !line.is_empty() && !self.evidence.contains(&line) {
            self.evidence.push(line);
        }
        self
    }

    fn seen_all(self, lines: impl IntoIterator<Item = String>) -> Self {
        lines.into_iter().fold(self, Self::seen)
    }

    const fn counted(mut self, count: u64) -> Self {
        self.count = count;
        self
    }

    /// Says whether this may become the verdict after it was seen for `time`.
    #[must_use]
    pub fn is_final(&self, time: Duration) -> bool {
        match self.permanence {
            Permanence::Permanent => time >= self.bound.time && self.count >= self.bound.needed,
            Permanence::Transient => false,
        }
    }

    /// Turns this into the cause of a report about `object`.
    #[must_use]
    pub fn cause(&self, object: &str) -> Cause {
        Cause {
            kind: self.kind.to_owned(),
            object: object.to_owned(),
            message: self.message.clone(),
            evidence: self.evidence.clone(),
            hint: self.hint.map(str::to_owned),
        }
    }
}

/// Finds what is wrong with one applied object, the likeliest cause first.
#[must_use]
pub fn findings(applied: &AppliedObject, world: &World) -> Vec<Finding> {
    let mut found = Vec::new();
    let Some(live) = world.get(&applied.id) else {
        return found;
    };
    found.extend(admission::refusals(applied, live, world));
    found.extend(job::failure(applied, live, world));
    if applied.id.gvk.is("", "PersistentVolumeClaim") {
        found.extend(volume::claim(live, world));
    }
    for pod in pods_of(applied, world) {
        found.extend(pod_findings(applied, pod, world));
    }
    found.sort_by_key(rank);
    merge(found)
}

fn pod_findings(applied: &AppliedObject, pod: &Value, world: &World) -> Vec<Finding> {
    let mut found = Vec::new();
    if text(pod, &["status", "phase"]) == "Succeeded" {
        return found;
    }
    found.extend(schedule::unschedulable(pod, world));
    found.extend(node::thrown_out(pod));
    found.extend(node::too_long(applied, pod));
    found.extend(node::lost(pod, world));
    found.extend(node::no_sandbox(pod, world));
    found.extend(volume::mounts(pod, world));
    for container in container::all(pod) {
        found.extend(image::problem(&container, pod, world));
        found.extend(config::problem(&container, pod, world));
        let stopped = container::failure(&container, pod, world)
            .map(|finding| job::leave_to_the_job(applied, finding));
        found.extend(stopped);
        found.extend(probe::failing(&container, pod, world));
    }
    found
}

/// Permanent before transient; a cause before what follows from it.
fn rank(finding: &Finding) -> (bool, u8) {
    let order = match finding.kind {
        "job_failed" => 0,
        "probe_failing" => 2,
        "unschedulable" => 3,
        "waiting" => 4,
        _ => 1,
    };
    (finding.permanence == Permanence::Transient, order)
}

/// Pods of one revision fail alike: one finding of each kind and container is kept, with the number
/// of the others.
fn merge(found: Vec<Finding>) -> Vec<Finding> {
    let mut kept: Vec<(Finding, usize)> = Vec::new();
    for finding in found {
        let same = kept.iter_mut().find(|(other, _)| {
            other.kind == finding.kind && container_of(other) == container_of(&finding)
        });
        match same {
            Some((other, more)) => {
                *more += 1;
                if finding.count > other.count {
                    *other = finding;
                }
            }
            None => kept.push((finding, 0)),
        }
    }
    kept.into_iter()
        .map(|(finding, more)| match more {
            0 => finding,
            1 => finding.seen("the same holds for 1 more pod"),
            _ => finding.seen(format!("the same holds for {more} more pods")),
        })
        .collect()
}

/// The part of the subject after the pod.
fn container_of(finding: &Finding) -> &str {
    finding
        .subject
        .split_once('/')
        .map_or("", |(_, container)| container)
}

#[cfg(test)]
mod tests;
