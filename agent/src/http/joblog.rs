//! Events as a GitLab job log: one collapsible section a stage, the verdict after the last one.
//!
//! Used by [`super::stream`] for `Accept: text/plain`. Texts are already redacted and free of
//! control characters, so nothing in them can forge a marker.

use std::fmt::Write;

use proto::event::Body;
use proto::event::Event;
use proto::event::Level;
use proto::event::Stage;
use proto::report::Status;

const RESET: &str = "\x1b[0m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31;1m";
const GREEN: &str = "\x1b[32;1m";

/// Writes the log of one reader; remembers which section is open.
#[derive(Debug, Default)]
pub struct JobLog {
    open: Option<Stage>,
}

impl JobLog {
    /// Renders one event.
    #[must_use]
    pub fn render(&mut self, event: &Event) -> String {
        let mut text = String::new();
        match &event.body {
            Body::StageStarted { stage, title } => {
                self.close(&mut text, &event.ts);
                self.open = Some(*stage);
                marker(&mut text, "start", &event.ts, *stage);
                line(&mut text, title);
            }
            Body::StageEnded { stage: _ } => self.close(&mut text, &event.ts),
            Body::Message { level, text: words } => {
                let before = match level {
                    Level::Info => String::new(),
                    Level::Warn => format!("{YELLOW}warning:{RESET} "),
                    Level::Error => format!("{RED}error:{RESET} "),
                };
                line(&mut text, &format!("{before}{words}"));
            }
            Body::Object {
                object,
                state,
                detail,
            } => {
                let colon = if detail.is_empty() { "" } else { ": " };
                line(&mut text, &format!("  {state:<10} {object}{colon}{detail}"));
            }
            Body::Heartbeat => {}
            Body::End { status } => {
                self.close(&mut text, &event.ts);
                let color = match status {
                    Status::Succeeded => GREEN,
                    Status::Running
                    | Status::Failed
                    | Status::RolledBack
                    | Status::RollbackFailed
                    | Status::Denied
                    | Status::Invalid
                    | Status::Superseded
                    | Status::Cancelled
                    | Status::Interrupted => RED,
                };
                line(
                    &mut text,
                    &format!("{color}quaymaster: {}{RESET}", status.word()),
                );
            }
        }
        text
    }

    fn close(&mut self, text: &mut String, ts: &str) {
        if let Some(stage) = self.open.take() {
            marker(text, "end", ts, stage);
            text.push('\n');
        }
    }
}

fn line(text: &mut String, words: &str) {
    text.push_str(words);
    text.push('\n');
}

/// Writes `section_start:UNIX:NAME` or `section_end:...` as GitLab reads them.
fn marker(text: &mut String, edge: &str, ts: &str, stage: Stage) {
    let seconds = ts.parse().map_or(0, jiff::Timestamp::as_second);
    let word = stage.word();
    // Writing to a String cannot fail.
    let _ = write!(text, "section_{edge}:{seconds}:quaymaster_{word}\r\x1b[0K");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(bodies: Vec<Body>) -> String {
        let mut log = JobLog::default();
        let render = |(seq, body)| {
            log.render(&Event {
                seq,
                ts: "2026-01-01T00:00:00.500Z".to_owned(),
                body,
            })
        };
        (1..).zip(bodies).map(render).collect()
    }

    #[test]
    fn stages_are_sections_and_the_verdict_is_outside() {
        let text = log(vec![
            Body::StageStarted {
                stage: Stage::Apply,
                title: "Apply".to_owned(),
            },
            Body::Object {
                object: "Deployment web".to_owned(),
                state: "created".to_owned(),
                detail: String::new(),
            },
            Body::Heartbeat,
            Body::End {
                status: Status::Succeeded,
            },
        ]);
        let expected = "section_start:1767225600:quaymaster_apply\r\x1b[0KApply\n  \
                        created    Deployment web\n\
                        section_end:1767225600:quaymaster_apply\r\x1b[0K\n\
                        \x1b[32;1mquaymaster: succeeded\x1b[0m\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_section_is_closed_once() {
        let text = log(vec![
            Body::StageStarted {
                stage: Stage::Plan,
                title: "Plan".to_owned(),
            },
            Body::StageEnded { stage: Stage::Plan },
            Body::End {
                status: Status::Failed,
            },
        ]);
        assert_eq!(text.matches("section_end").count(), 1);
    }
}
