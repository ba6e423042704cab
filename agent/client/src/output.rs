//! The one place that writes to stdout and stderr.
//!
//! Called by `commands`. Text mode: everything about a run goes to stdout in order, the verdict
//! last, because job logs do not keep the order of two streams. JSON mode: exactly one document on
//! stdout, notices on stderr. A reader that went away changes nothing about the run or the exit
//! code, so write errors are dropped.

use std::io;
use std::io::Write;

use proto::error::Problem;
use serde::Serialize;

use crate::args::Format;
use crate::log::Log;
use crate::log::Sections;
use crate::log::clean;
use crate::progress::Progress;
use crate::render;

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// What a job log needs.
    Normal,
    /// Files, heartbeats, repetitions as well.
    Verbose,
}

/// Where everything is told.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    detail: Detail,
    log: Log,
    /// Whether stdout has progress, so that a problem belongs there too.
    begun: bool,
}

impl Output {
    /// Writes in this format.
    pub(crate) fn new(format: Format, detail: Detail, sections: Sections) -> Self {
        Self {
            format,
            detail,
            log: Log::new(sections),
            begun: false,
        }
    }

    /// Leaves the verdict out of the log, because it is told as the answer.
    pub(crate) fn leave_verdict(&mut self) {
        self.log.leave_verdict();
    }

    /// Tells progress.
    pub(crate) fn progress(&mut self, progress: Progress<'_>) {
        match (progress, self.format) {
            (Progress::Event(event), Format::Text) => {
                let text = self.log.event(event);
                self.text(&text);
            }
            (Progress::Event(_), Format::Json) => {}
            (Progress::Notice(text), _) => self.notice(&text),
            (Progress::Detail(text), _) if self.detail == Detail::Verbose => self.notice(&text),
            (Progress::Detail(_), _) => {}
        }
    }

    /// Tells something that is not the agent's: in text mode in order, in JSON mode aside.
    pub(crate) fn notice(&mut self, text: &str) {
        let text = format!("quaymaster: {}\n", clean(text));
        match self.format {
            Format::Text => self.text(&text),
            Format::Json => drop(io::stderr().lock().write_all(text.as_bytes())),
        }
    }

    /// Tells something beside what a command writes: always on stderr.
    #[expect(clippy::unused_self, reason = "this is the one place that writes")]
    pub(crate) fn aside(&self, text: &str) {
        let text = format!("quaymaster: {}\n", clean(text));
        drop(io::stderr().lock().write_all(text.as_bytes()));
    }

    /// Tells an answer: `text` for people, or the agent's own JSON.
    pub(crate) fn answer(&mut self, json: &[u8], text: &str) {
        match self.format {
            Format::Text => {
                let before = self.log.close();
                self.text(&before);
                self.text(text);
            }
            Format::Json => {
                let mut out = io::stdout().lock();
                let written = out
                    .write_all(json.trim_ascii())
                    .and_then(|()| out.write_all(b"\n"));
                drop(written);
            }
        }
    }

    /// Tells an answer that is made here.
    pub(crate) fn document(&mut self, value: &impl Serialize, text: &str) {
        let json = serde_json::to_vec(value).unwrap_or_default();
        self.answer(&json, text);
    }

    /// Tells a problem as the last thing.
    pub(crate) fn problem(&mut self, problem: &Problem) {
        let text = render::problem(problem);
        if self.format == Format::Text && !self.begun {
            drop(io::stderr().lock().write_all(text.as_bytes()));
            return;
        }
        self.document(problem, &text);
    }

    fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.begun = true;
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        drop(written);
    }
}
