//! What follows from a look: wait, all is ready, or somebody failed for good and why.
//!
//! Used by [`super::watch`]. Reads a [`View`] and changes nothing.

use std::time::Duration;

use super::state::Judged;
use super::state::State;
use super::state::View;
use crate::cause::Finding;
use crate::rollout::Standing;

/// An object's own word that it failed, or that it is gone, has to hold for so long: a listing may
/// be a moment older than our write, and a stale condition goes with the controller's next look.
const OWN_WORD: Duration = Duration::from_secs(2);

/// One finding and the object that it is held against.
#[derive(Debug, PartialEq)]
pub(super) struct Blame {
    pub(super) object: String,
    pub(super) finding: Finding,
}

/// What follows from a look.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Wait,
    Ready(Vec<String>),
    Failed(Vec<Blame>),
}

impl State {
    /// Says what follows.
    pub(super) fn verdict(&self, view: &View) -> Verdict {
        if !view.unlisted.is_empty() {
            return Verdict::Wait;
        }
        let blames: Vec<Blame> = view
            .objects
            .iter()
            .flat_map(|judged| self.blames(judged))
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
    fn blames(&self, judged: &Judged) -> Vec<Blame> {
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
        let own = self.own_word(judged, why);
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

    fn own_word(&self, judged: &Judged, why: &str) -> Finding {
        let id = &judged.id;
        if self.is_refused(&id.gvk) {
            let message = format!(
                "{id} cannot be watched as {}: the rights list and watch for {} are missing",
                self.actor(),
                id.gvk
            );
            let mut finding = Finding::new("cannot_watch", "", message);
            finding.evidence.push(why.to_owned());
            finding.hint = Some("grant the job's user or groups get, list and watch for this kind");
            return finding;
        }
        let kind = if why.starts_with("ProgressDeadlineExceeded") {
            "progress_deadline"
        } else if why.contains("at its own deadline") {
            "object_timeout"
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
        let restarts = self.restarts().map(|(name, count)| {
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
