//! The log of one run: events in order, redacted, for any number of readers.
//!
//! The engine writes and never waits; readers hold a cursor (the last seq they have seen) and wait
//! on [`RunLog::changed`]. Bounded: past the limit ordinary messages are dropped with one notice, the
//! end is always kept. Nothing that was not redacted gets in.

use std::collections::BTreeMap;
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

/// The same ordinary line is told once in so many seconds.
const QUIET_SECONDS: i64 = 60;
/// Longer lines are cut; the limit is in bytes.
const MAX_LINE: usize = 4 << 10;

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
    /// Ordinary lines of the last minute and when they were told.
    recent: BTreeMap<String, jiff::Timestamp>,
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

    /// Forgets what only a run that is on needs: the secret values, and which lines were told lately.
    /// Takes nothing more.
    pub fn close(&self) {
        self.with(|inner| {
            inner.hushed = true;
            inner.recent = BTreeMap::new();
            inner.redactor = Redactor::default();
            inner.events.shrink_to_fit();
        });
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
        let now = self.clock.now();
        let seq = self.with(|inner| inner.push(now, body));
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
    fn push(&mut self, now: jiff::Timestamp, body: Body) -> u64 {
        let ts = format!("{now:.3}");
        let last = self.events.last().map_or(self.base, |event| event.seq);
        if self.hushed {
            return last;
        }
        let body = self.cleaned(body);
        if self.is_repeated(&body, now) {
            return last;
        }
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

    /// Says whether an ordinary line was told less than a minute ago. Failures are never left out.
    fn is_repeated(&mut self, body: &Body, now: jiff::Timestamp) -> bool {
        let Body::Message {
            level: Level::Info | Level::Warn,
            text,
        } = body
        else {
            return false;
        };
        self.recent
            .retain(|_, told| now.as_second() - told.as_second() < QUIET_SECONDS);
        if self.recent.contains_key(text) {
            return true;
        }
        self.recent.insert(text.clone(), now);
        false
    }

    fn cleaned(&self, body: Body) -> Body {
        let clean = |text: String| shortened(&printable(&self.redactor.clean(&text)));
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

/// Cuts every line that is too long. After the redactor: half a secret is not recognized.
fn shortened(text: &str) -> String {
    if text.len() <= MAX_LINE {
        return text.to_owned();
    }
    let cut = |line: &str| {
        if line.len() <= MAX_LINE {
            return line.to_owned();
        }
        let end = line.floor_char_boundary(MAX_LINE);
        format!("{} [{} bytes more]", &line[..end], line.len() - end)
    };
    text.split('\n').map(cut).collect::<Vec<_>>().join("\n")
}

/// Takes the color and cursor sequences of terminals out.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        let parameters =
            |letter: char| letter.is_ascii_digit() || ";:?<=> !\"#$%&'()*+,-./".contains(letter);
        let after = after.trim_start_matches(parameters);
        rest = after
            .strip_prefix(|letter: char| ('@'..='~').contains(&letter))
            .unwrap_or(after);
    }
    plain.push_str(rest);
    plain
}

/// Makes control characters harmless: a text from the cluster must not move a terminal's cursor or
/// forge section markers. Line ends and tabs stay.
fn printable(text: &str) -> String {
    plain(text)
        .chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::ManualClock;

    fn texts(log: &RunLog) -> Vec<String> {
        let text = |event: Event| match event.body {
            Body::Message { text, .. } => Some(text),
            Body::StageStarted { .. }
            | Body::StageEnded { .. }
            | Body::Object { .. }
            | Body::Heartbeat
            | Body::End { .. } => None,
        };
        log.since(0).into_iter().filter_map(text).collect()
    }

    #[test]
    fn a_closed_log_is_readable_and_takes_nothing_more() {
        let log = RunLog::new(Arc::new(ManualClock::at_unix(1_000)));
        log.learn(&Secret::new(b"hunter2-hunter2".to_vec()));
        log.info("with hunter2-hunter2");
        log.close();
        log.info("hunter2-hunter2 again");
        assert_eq!(texts(&log), ["with [redacted]"]);
        assert_eq!(log.clean("hunter2-hunter2"), "hunter2-hunter2", "forgotten");
    }

    #[test]
    fn the_same_ordinary_line_is_told_once_a_minute_and_a_failure_always() {
        let clock = Arc::new(ManualClock::at_unix(1_000));
        let log = RunLog::new(Arc::clone(&clock) as _);
        log.warn("again");
        clock.shift(59);
        log.warn("again");
        log.error("bad");
        log.error("bad");
        assert_eq!(texts(&log), ["again", "bad", "bad"]);
        clock.shift(1);
        log.warn("again");
        assert_eq!(texts(&log), ["again", "bad", "bad", "again"]);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let log = RunLog::new(Arc::new(ManualClock::at_unix(0)));
        log.info(format!("short\n{}", "\u{e9}".repeat(3_000)));
        let text = texts(&log).remove(0);
        assert!(text.starts_with("short\n\u{e9}"));
        assert!(text.ends_with("\u{e9} [1904 bytes more]"));
    }

    #[test]
    fn colors_are_taken_out_and_other_control_characters_made_harmless() {
        assert_eq!(
            printable("\x1b[1;31mred\x1b[0m\tx\r\x07"),
            "red\tx\u{fffd}\u{fffd}"
        );
        assert_eq!(
            printable("\x1b]0;title\x07\x1b["),
            "\u{fffd}]0;title\u{fffd}"
        );
    }
}
