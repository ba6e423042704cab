//! `quaymaster cancel`: ends a run that is named, or the one that an earlier command of the job left behind.
//!
//! Called by `commands`. The report that `deploy --report` writes names its run as soon as the agent has
//! accepted it; so an `after_script`, which GitLab starts in a shell of its own, finds what the killed script
//! had begun. Invariant: where nothing is on, nothing is asked for and the exit code is 0.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use proto::error::Code;
use proto::error::Problem;
use proto::ids::RunId;
use proto::report::Report;
use proto::report::Status;
use serde::Deserialize;

use crate::args::Cancel;
use crate::exit::Exit;
use crate::follow;
use crate::patience::Patience;
use crate::progress::Progress;
use crate::render;
use crate::session::Session;
use crate::session::interrupted;
use crate::session::stopped;

/// How long an agent that is away is tried; an `after_script` has five minutes.
const LIMIT: Duration = Duration::from_secs(60);

/// Ends a run.
pub(crate) async fn cancel(session: &mut Session<'_>, which: &Cancel) -> Result<Exit, Problem> {
    match (&which.run, &which.report) {
        (Some(run), _) => end(session, run).await,
        (None, Some(file)) => match left_by(file)? {
            Left::On(run) => end(session, &run).await,
            Left::Nothing(why) => {
                let text = format!("nothing to cancel: {why}\n");
                session.output.answer(&Bytes::from_static(b"{}"), &text);
                Ok(Exit::Done)
            }
        },
        (None, None) => Err(Problem::new(Code::BadRequest, "no run is named")
            .hint("name one, or the file that 'deploy --report' wrote: cancel --report FILE")),
    }
}

async fn end(session: &mut Session<'_>, run: &RunId) -> Result<Exit, Problem> {
    let output = &mut *session.output;
    let patience = &mut Patience::new(LIMIT);
    let mut tell = |progress: Progress<'_>| output.progress(progress);
    let json = tokio::select! {
        json = follow::cancel(session.agent, run, patience, &mut tell) => json?,
        // Cancelling twice is cancelling once; whoever wants it asks again.
        () = interrupted() => return Err(stopped(Some(run))),
    };
    let text = match serde_json::from_slice::<Report>(&json) {
        Ok(report) if report.status.is_final() => {
            format!(
                "nothing to cancel, the run is over\n{}",
                render::verdict(&report)
            )
        }
        // The verdict is the run's own business; whoever waits for it is told there.
        Ok(_) | Err(_) => {
            format!("cancelling {run}; its verdict: quaymaster result --wait {run}\n")
        }
    };
    let json = if json.trim_ascii().is_empty() {
        Bytes::from_static(b"{}")
    } else {
        json
    };
    session.output.answer(&json, &text);
    Ok(Exit::Done)
}

/// What an earlier command left behind.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// A run that may be on.
    On(RunId),
    /// Nothing that could be cancelled, and why.
    Nothing(String),
}

/// What matters here of a report; the rest is for others.
#[derive(Deserialize)]
struct Begun {
    id: Option<RunId>,
    status: Status,
}

fn left_by(file: &Path) -> Result<Left, Problem> {
    let name = file.display();
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = format!("{name} is not there, so no run was begun");
            return Ok(Left::Nothing(why));
        }
        Err(error) => {
            let detail = format!("reading {name}: {error}");
            return Err(Problem::new(Code::BadRequest, detail));
        }
    };
    let wrong = |_error| {
        Problem::new(Code::BadRequest, format!("{name} is not a report"))
            .hint("name the file that 'deploy --report' wrote")
    };
    let begun: Begun = serde_json::from_slice(&text).map_err(wrong)?;
    Ok(match begun.id {
        Some(run) if !begun.status.is_final() => Left::On(run),
        Some(run) => {
            let how = begun.status.word();
            Left::Nothing(format!("run {run} is over ({how})"))
        }
        None => Left::Nothing(format!("{name} says that no run was begun")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "r00000000000000000000000000000001";

    fn left(text: &str) -> Result<Left, Code> {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("deploy.json");
        fs::write(&file, text).expect("written");
        left_by(&file).map_err(|problem| problem.code)
    }

    #[test]
    fn only_a_run_that_may_be_on_is_cancelled() {
        let run: RunId = RUN.parse().expect("an id");
        let on = format!(r#"{{"id":"{RUN}","status":"running","more":1}}"#);
        assert_eq!(left(&on), Ok(Left::On(run)));
        for over in ["succeeded", "failed", "rolled_back", "cancelled"] {
            let text = format!(r#"{{"id":"{RUN}","status":"{over}"}}"#);
            let why = format!("run {RUN} is over ({})", word(over));
            assert_eq!(left(&text), Ok(Left::Nothing(why)), "{over}");
        }
        let refused = left(r#"{"status":"denied","message":"no rule","problem":{}}"#);
        assert!(matches!(refused, Ok(Left::Nothing(_))), "{refused:?}");
    }

    fn word(status: &str) -> &'static str {
        let status: Status = serde_json::from_value(status.into()).expect("a status");
        status.word()
    }

    #[test]
    fn without_a_report_no_run_was_begun() {
        let gone = left_by(Path::new("/no/such/report.json"));
        assert!(matches!(gone, Ok(Left::Nothing(_))));
    }

    #[test]
    fn a_file_that_is_no_report_is_told() {
        for text in ["", "[]", r#"{"id":"../x","status":"running"}"#, "{}"] {
            assert_eq!(left(text), Err(Code::BadRequest), "{text}");
        }
    }
}
