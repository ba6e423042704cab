//! What a start of the stand tells while it works: steps with an estimate, notes, and the end.
//!
//! The keeper writes events as JSON lines, the process that waits for it reads them and renders them for
//! people. Invariant: exactly one last event, [`Event::Ready`] or [`Event::Failed`].

use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;

use serde::Deserialize;
use serde::Serialize;

/// One thing worth telling while the stand starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Begins a step that may take long.
    Step {
        /// Number of this step, from 1.
        index: usize,
        /// Number of steps.
        of: usize,
        /// What is done, as a phrase.
        what: String,
        /// Estimate of the seconds left, this step included.
        seconds_left: u64,
    },
    /// Says something that is no step, such as what a machine cannot do.
    Note(String),
    /// Says that a server answers, and how long the start took so far.
    Up(String, f64),
    /// Ends a start that worked.
    Ready,
    /// Ends a start that did not, with one sentence for people.
    Failed(String),
}

impl Event {
    /// Renders the event as a line for people; the end of a failed start is told by its caller.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        match self {
            Self::Step {
                index,
                of,
                what,
                seconds_left,
            } => Some(format!(
                "[{index}/{of}] {what} (about {} left)",
                spoken(*seconds_left)
            )),
            Self::Note(text) => Some(text.clone()),
            Self::Up(what, seconds) => Some(format!("{seconds:6.1} s  {what}")),
            Self::Ready | Self::Failed(_) => None,
        }
    }
}

fn spoken(seconds: u64) -> String {
    if seconds < 90 {
        format!("{seconds} s")
    } else {
        format!("{} min", seconds.div_ceil(60))
    }
}

/// Where events go: a line writer shared by everything that starts.
#[derive(Clone)]
pub struct Progress {
    out: Arc<Mutex<Box<dyn Write + Send>>>,
    began: tokio::time::Instant,
}

impl Progress {
    /// Writes events as JSON lines to `out`.
    pub fn to(out: impl Write + Send + 'static) -> Self {
        Self {
            out: Arc::new(Mutex::new(Box::new(out))),
            began: tokio::time::Instant::now(),
        }
    }

    /// Tells one event. A reader that went away is no reason to stop a stand.
    pub fn tell(&self, event: &Event) {
        let Ok(line) = serde_json::to_string(event) else {
            return;
        };
        if let Ok(mut out) = self.out.lock()
            && writeln!(out, "{line}").is_ok()
        {
            drop(out.flush());
        }
    }

    /// Tells that a server answers.
    pub fn up(&self, what: &str) {
        self.tell(&Event::Up(
            what.to_owned(),
            self.began.elapsed().as_secs_f64(),
        ));
    }

    /// Tells something that is no step.
    pub fn note(&self, text: impl Into<String>) {
        self.tell(&Event::Note(text.into()));
    }
}
