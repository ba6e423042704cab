//! The events of a run as a stream: NDJSON, or a GitLab job log.
//!
//! Each reader holds a cursor into the run's log, so no reader ever slows a run down. The stream
//! follows until the run is over; its last event is always `end`, sent only once the final report
//! can be had, and it says what the report says. A log that is gone is told from the report.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy::audience::Seat;
use deploy::log::RunLog;
use deploy::ports::Clock;
use futures::Stream;
use futures::stream::unfold;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use proto::event::Body;
use proto::event::Event;
use proto::event::Level;
use proto::report::Status;
use tokio::sync::watch;
use tokio::time::Interval;

use super::answer::Answer;
use super::answer::with_body;
use super::joblog::JobLog;
use crate::runs::Run;

/// How often a silent stream shows that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How events are written.
#[derive(Debug)]
pub enum Writer {
    /// One JSON object a line.
    Ndjson,
    /// For people, in GitLab's log viewer.
    Text(JobLog),
}

impl Writer {
    const fn media_type(&self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Text(_) => "text/plain; charset=utf-8",
        }
    }

    fn write(&mut self, events: &[Event]) -> Bytes {
        let mut bytes = Vec::new();
        for event in events {
            match self {
                Self::Ndjson => match serde_json::to_vec(event) {
                    Ok(line) => {
                        bytes.extend(line);
                        bytes.push(b'\n');
                    }
                    Err(error) => tracing::error!(%error, "an event cannot be written as JSON"),
                },
                Self::Text(log) => bytes.extend(log.render(event).into_bytes()),
            }
        }
        bytes.into()
    }
}

/// Makes the answer that follows a run from after `since`.
#[must_use]
pub fn follow(run: Run, since: u64, writer: Writer, clock: Arc<dyn Clock>) -> Answer {
    let kind = writer.media_type();
    let body = match run.log() {
        Some(log) => {
            let reader = Reader::new(run, log, since, writer, clock);
            StreamBody::new(chunks(reader)).boxed_unsync()
        }
        None => StreamBody::new(chunks(told(&run, since, writer, clock))).boxed_unsync(),
    };
    with_body(StatusCode::OK, kind, body)
}

type Chunk = Result<Frame<Bytes>, Infallible>;

fn chunks(reader: Reader) -> impl Stream<Item = Chunk> + Send {
    unfold(reader, |mut reader| async move {
        let bytes = reader.next().await?;
        Some((Ok(Frame::data(bytes)), reader))
    })
}

/// One reader of a run.
struct Reader {
    source: Option<Source>,
    cursor: u64,
    writer: Writer,
    beat: Interval,
    clock: Arc<dyn Clock>,
    /// Events to send before the source is asked.
    ready: Vec<Event>,
}

struct Source {
    run: Run,
    /// The reader follows the run as long as its stream lives.
    _seat: Seat,
    log: Arc<RunLog>,
    changed: watch::Receiver<u64>,
}

impl Source {
    /// Returns the end of a run that is over, made here if its log has none.
    fn end(&self, ts: String) -> Event {
        let last = self.log.since(0).pop();
        let seq = last.as_ref().map_or(0, |event| event.seq);
        let is_end = |event: &Event| matches!(event.body, Body::End { .. });
        last.filter(is_end).unwrap_or_else(|| Event {
            seq: seq + 1,
            ts,
            body: Body::End {
                status: self.run.report().status,
            },
        })
    }
}

fn heartbeats() -> Interval {
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.reset();
    beat
}

/// Tells a run whose log is gone from its report: the verdict, then the end.
fn told(run: &Run, since: u64, writer: Writer, clock: Arc<dyn Clock>) -> Reader {
    let report = run.report();
    let ts = report
        .finished
        .clone()
        .unwrap_or_else(|| format!("{:.3}", clock.now()));
    let level = match report.status {
        Status::Running | Status::Succeeded => Level::Info,
        Status::Failed
        | Status::RolledBack
        | Status::RollbackFailed
        | Status::Denied
        | Status::Invalid
        | Status::Superseded
        | Status::Cancelled
        | Status::Interrupted => Level::Error,
    };
    let verdict = Body::Message {
        level,
        text: report.message.clone(),
    };
    let end = Body::End {
        status: report.status,
    };
    let event = |(seq, body)| Event {
        seq,
        ts: ts.clone(),
        body,
    };
    Reader {
        source: None,
        cursor: since,
        writer,
        beat: heartbeats(),
        clock,
        ready: (since + 1..).zip([verdict, end]).map(event).collect(),
    }
}

impl Reader {
    fn new(run: Run, log: Arc<RunLog>, since: u64, writer: Writer, clock: Arc<dyn Clock>) -> Self {
        let changed = log.changed();
        Self {
            source: Some(Source {
                _seat: run.take_seat(),
                run,
                log,
                changed,
            }),
            cursor: since,
            writer,
            beat: heartbeats(),
            clock,
            ready: Vec::new(),
        }
    }

    /// Waits for the next bytes; `None` after the end.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.ready.is_empty() {
            let events = std::mem::take(&mut self.ready);
            return Some(self.writer.write(&events));
        }
        loop {
            let source = self.source.as_mut()?;
            // Seen first, read then: what comes in between is noticed by the next wait.
            source.changed.borrow_and_update();
            let mut events = source.log.since(self.cursor);
            if events.is_empty() && source.run.report().status.is_final() {
                // The reader has everything; the end is said again rather than nothing.
                events.push(source.end(format!("{:.3}", self.clock.now())));
            }
            if let Some(last) = events.last_mut() {
                self.cursor = last.seq.max(self.cursor);
                if let Body::End { status } = &mut last.body {
                    *status = source.run.done().await.status;
                    self.source = None;
                }
                self.beat.reset();
                return Some(self.writer.write(&events));
            }
            // A lost change is seen by the next read of the log; a final report stays final; a
            // lost beat comes again.
            tokio::select! {
                changed = source.changed.changed() => changed.ok()?,
                _ = source.run.done() => {}
                _ = self.beat.tick() => {
                    let beat = self.heartbeat();
                    let bytes = self.writer.write(&[beat]);
                    if !bytes.is_empty() {
                        return Some(bytes);
                    }
                }
            }
        }
    }

    fn heartbeat(&self) -> Event {
        Event {
            seq: self.cursor,
            ts: format!("{:.3}", self.clock.now()),
            body: Body::Heartbeat,
        }
    }
}
