//! Turns a run's events into lines for people.
//!
//! Called by `output`. In GitLab a stage becomes a section of the job log; elsewhere it is a
//! heading. Pure: an event goes in, text comes out. Control characters of foreign text are dropped,
//! so that no line can pretend to be a section or color what follows.

use proto::event::Body;
use proto::event::Event;
use proto::event::Level;
use proto::event::Stage;

/// How stages are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sections {
    /// As sections of a GitLab job log.
    GitLab,
    /// As headings.
    Plain,
}

/// What is done with the agent's last stage, which tells the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It is shown.
    Shown,
    /// The caller tells the verdict itself, so it is left out from its beginning.
    Left(Verdict),
}

/// Whether the verdict's stage began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Not yet.
    Ahead,
    /// It did.
    Begun,
}

/// Renders the events of one run, in order.
#[derive(Debug)]
pub(crate) struct Log {
    sections: Sections,
    ending: Ending,
    /// The GitLab section that is open, with the time of its last event.
    open: Option<(Stage, u64)>,
}

impl Log {
    /// Renders from the beginning of a run.
    pub(crate) fn new(sections: Sections) -> Self {
        Self {
            sections,
            ending: Ending::Shown,
            open: None,
        }
    }

    /// Leaves the verdict out.
    pub(crate) fn leave_verdict(&mut self) {
        self.ending = Ending::Left(Verdict::Ahead);
    }

    /// Returns the lines of an event, each with its end; maybe none.
    pub(crate) fn event(&mut self, event: &Event) -> String {
        let now = unix_seconds(&event.ts).unwrap_or(0);
        if let Some((_, last)) = &mut self.open {
            *last = now;
        }
        if let Ending::Left(verdict) = &mut self.ending {
            if let Body::StageStarted {
                stage: Stage::Report,
                ..
            } = &event.body
            {
                *verdict = Verdict::Begun;
            }
            if *verdict == Verdict::Begun {
                return self.close();
            }
        }
        match &event.body {
            Body::StageStarted { stage, title } => self.start(*stage, title, now),
            Body::StageEnded { stage } if self.open.is_some_and(|(open, _)| open == *stage) => {
                self.close()
            }
            Body::StageEnded { .. } | Body::Heartbeat => String::new(),
            Body::Message { level, text } => indented(word(*level), text),
            Body::Object {
                object,
                state,
                detail,
            } => {
                let colon = if detail.is_empty() { "" } else { ": " };
                indented("", &format!("{state:<9} {object}{colon}{detail}"))
            }
            Body::End { .. } => self.close(),
        }
    }

    fn start(&mut self, stage: Stage, title: &str, now: u64) -> String {
        let title = clean(title);
        match self.sections {
            Sections::Plain => format!("==> {title}\n"),
            Sections::GitLab => {
                let before = self.close();
                self.open = Some((stage, now));
                let name = stage.word();
                format!("{before}\x1b[0Ksection_start:{now}:quaymaster_{name}\r\x1b[0K{title}\n")
            }
        }
    }

    /// Closes the section that is open, so that what follows stands outside.
    pub(crate) fn close(&mut self) -> String {
        self.open.take().map_or_else(String::new, |(stage, last)| {
            let name = stage.word();
            format!("\x1b[0Ksection_end:{last}:quaymaster_{name}\r\x1b[0K\n")
        })
    }
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Info => "",
        Level::Warn => "warning: ",
        Level::Error => "error: ",
    }
}

/// Indents every line of a text.
fn indented(prefix: &str, text: &str) -> String {
    let mut out = String::new();
    for line in clean(text).lines() {
        out.push_str("  ");
        out.push_str(prefix);
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Drops control characters except line ends and tabs.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect()
}

/// Reads the seconds of an RFC 3339 time in UTC, as the agent writes it.
fn unix_seconds(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // Days since 0000-03-01, so that the leap day is the last of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use proto::event::Body;
    use proto::event::Event;
    use proto::event::Level;
    use proto::event::Stage;
    use proto::report::Status;

    use super::Log;
    use super::Sections;
    use super::unix_seconds;

    fn event(seq: u64, body: Body) -> Event {
        let ts = format!("2026-11-24T08:00:0{seq}.250Z");
        Event { seq, ts, body }
    }

    fn run() -> Vec<Event> {
        let title = "Applying 2 objects".to_owned();
        let text = "one\n\x1b[0Ksection_end:1:x\rtwo".to_owned();
        vec![
            event(
                1,
                Body::StageStarted {
                    stage: Stage::Apply,
                    title,
                },
            ),
            event(
                2,
                Body::Message {
                    level: Level::Warn,
                    text,
                },
            ),
            event(
                3,
                Body::Object {
                    object: "Deployment/web".to_owned(),
                    state: "changed".to_owned(),
                    detail: String::new(),
                },
            ),
            event(4, Body::Heartbeat),
            event(
                5,
                Body::End {
                    status: Status::Failed,
                },
            ),
        ]
    }

    #[test]
    fn a_plain_log_has_headings_and_no_control_characters() {
        let mut log = Log::new(Sections::Plain);
        let text: String = run().iter().map(|event| log.event(event)).collect();
        let expected = "==> Applying 2 objects\n  warning: one\n  warning: [0Ksection_end:1:xtwo\n  \
                        changed   Deployment/web\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_gitlab_section_is_closed_even_when_the_run_ends_inside() {
        let mut log = Log::new(Sections::GitLab);
        let text: String = run().iter().map(|event| log.event(event)).collect();
        let start = "\x1b[0Ksection_start:1795507201:quaymaster_apply\r\x1b[0KApplying 2 objects\n";
        let end = "\x1b[0Ksection_end:1795507205:quaymaster_apply\r\x1b[0K\n";
        assert!(text.starts_with(start), "{text:?}");
        assert!(text.ends_with(end), "{text:?}");
        assert_eq!(text.matches('\x1b').count(), 4);
    }

    #[test]
    fn a_verdict_that_is_told_elsewhere_is_left_out() {
        let mut log = Log::new(Sections::Plain);
        log.leave_verdict();
        let title = "verdict".to_owned();
        let text = "failed".to_owned();
        let stage = Stage::Report;
        let events = [
            event(6, Body::StageStarted { stage, title }),
            event(
                7,
                Body::Message {
                    level: Level::Error,
                    text,
                },
            ),
            event(8, Body::StageEnded { stage }),
            event(
                9,
                Body::End {
                    status: Status::Failed,
                },
            ),
        ];
        let all: String = run()
            .iter()
            .chain(&events)
            .map(|event| log.event(event))
            .collect();
        assert!(all.ends_with("  changed   Deployment/web\n"), "{all:?}");
    }

    #[test]
    fn times_are_read_as_utc() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_seconds("2000-02-29T12:00:00.5Z"), Some(951_825_600));
        assert_eq!(
            unix_seconds("2026-11-24T08:00:01.250Z"),
            Some(1_795_507_201)
        );
        assert_eq!(unix_seconds("yesterday"), None);
    }
}
