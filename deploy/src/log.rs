//! The log of one run: events in order, redacted, for any number of readers.
//!
//! The engine writes and never waits; readers hold a cursor (the last seq they have seen) and wait
//! on [`RunLog::changed`]. Bounded: past the limit ordinary messages are dropped with one notice, the
//! end is always kept. Nothing that was not redacted gets in.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use proto::event::Body;
use proto::event::Event;
use proto::event::Level;
use proto::event::Stage;
use proto::report::Status;
use tokio::sync::watch;

use crate::ports::Clock;
use crate::redact::Redactor;
use crate::secret::Secret;

/// At most this many events are kept for one run; GitLab's own job log limit is 4 MiB.
const MAX_EVENTS: usize = 20_000;
/// At most this many bytes of text are kept for one run.
const MAX_BYTES: usize = 3 << 20;

/// The log of one run.
pub struct RunLog {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    seq: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    events: Vec<Event>,
    bytes: usize,
    full: bool,
    redactor: Redactor,
    /// The seq before the first event.
    base: u64,
    /// Whether anything more is taken.
    hushed: bool,
}

impl RunLog {
    /// Makes an empty log.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            inner: Mutex::default(),
            seq: watch::Sender::new(0),
        }
    }

    /// Makes an empty log whose first event comes after `base`: that of a run that goes on.
    #[must_use]
    pub fn after(base: u64, clock: Arc<dyn Clock>) -> Self {
        let log = Self::new(clock);
        log.with(|inner| inner.base = base);
        log
    }

    /// Takes nothing more: what follows is told when the run goes on.
    pub fn hush(&self) {
        self.with(|inner| inner.hushed = true);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        // A panic while holding the lock leaves whole events behind, so the data is good.
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the log know a secret value, so that it is taken out of everything from now on.
    pub fn learn(&self, value: &Secret) {
        self.with(|inner| inner.redactor.add(value));
    }

    /// Takes all known secret values out of a text.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        self.with(|inner| inner.redactor.clean(text))
    }

    /// Adds an event.
    pub fn push(&self, body: Body) {
        let ts = format!("{:.3}", self.clock.now());
        let seq = self.with(|inner| inner.push(ts, body));
        self.seq.send_replace(seq);
    }

    /// Adds one line for people.
    pub fn message(&self, level: Level, text: impl Into<String>) {
        self.push(Body::Message {
            level,
            text: text.into(),
        });
    }

    /// Adds an ordinary line.
    pub fn info(&self, text: impl Into<String>) {
        self.message(Level::Info, text);
    }

    /// Adds a warning.
    pub fn warn(&self, text: impl Into<String>) {
        self.message(Level::Warn, text);
    }

    /// Adds a line of a failure.
    pub fn error(&self, text: impl Into<String>) {
        self.message(Level::Error, text);
    }

    /// Begins a stage.
    pub fn start(&self, stage: Stage, title: impl Into<String>) {
        self.push(Body::StageStarted {
            stage,
            title: title.into(),
        });
    }

    /// Ends a stage.
    pub fn end_stage(&self, stage: Stage) {
        self.push(Body::StageEnded { stage });
    }

    /// Says what happened to an object.
    pub fn object(&self, object: impl Into<String>, state: &str, detail: impl Into<String>) {
        self.push(Body::Object {
            object: object.into(),
            state: state.to_owned(),
            detail: detail.into(),
        });
    }

    /// Ends the log.
    pub fn end(&self, status: Status) {
        self.push(Body::End { status });
    }

    /// Returns all events after `seq`.
    #[must_use]
    pub fn since(&self, seq: u64) -> Vec<Event> {
        self.with(|inner| {
            inner
                .events
                .iter()
                .filter(|event| event.seq > seq)
                .cloned()
                .collect()
        })
    }

    /// Returns a receiver that sees the seq of the newest event.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.seq.subscribe()
    }
}

impl Inner {
    fn push(&mut self, ts: String, body: Body) -> u64 {
        let last = self.events.last().map_or(self.base, |event| event.seq);
        if self.hushed {
            return last;
        }
        let body = self.cleaned(body);
        let size = body_size(&body);
        let is_end = matches!(body, Body::End { .. });
        if !is_end && (self.events.len() >= MAX_EVENTS || self.bytes + size > MAX_BYTES) {
            if self.full {
                return last;
            }
            self.full = true;
            let text = "this run's log is full; further lines are left out, the verdict follows at the end";
            let body = Body::Message {
                level: Level::Warn,
                text: text.to_owned(),
            };
            self.events.push(Event {
                seq: last + 1,
                ts,
                body,
            });
            return last + 1;
        }
        self.bytes += size;
        self.events.push(Event {
            seq: last + 1,
            ts,
            body,
        });
        last + 1
    }

    fn cleaned(&self, body: Body) -> Body {
        let clean = |text: String| printable(&self.redactor.clean(&text));
        match body {
            Body::Message { level, text } => Body::Message {
                level,
                text: clean(text),
            },
            Body::Object {
                object,
                state,
                detail,
            } => Body::Object {
                object: clean(object),
                state,
                detail: clean(detail),
            },
            Body::StageStarted { stage, title } => Body::StageStarted {
                stage,
                title: clean(title),
            },
            body @ (Body::StageEnded { .. } | Body::Heartbeat | Body::End { .. }) => body,
        }
    }
}

fn body_size(body: &Body) -> usize {
    match body {
        Body::Message { text, .. } => text.len(),
        Body::Object { object, detail, .. } => object.len() + detail.len(),
        Body::StageStarted { title, .. } => title.len(),
        Body::StageEnded { .. } | Body::Heartbeat | Body::End { .. } => 0,
    }
}

/// Makes control characters harmless: a text from the cluster must not move a terminal's cursor or
/// forge section markers. Line ends and tabs stay.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}
