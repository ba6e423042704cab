//! Files that GitLab takes from a job: the report as an artifact, and variables as a dotenv report.
//!
//! Called by `session` once a run is accepted, and again once it is over, however it ended. Nothing secret can be in them: the report is
//! the agent's, which holds no values, and variables are made of statuses, ids and references only.

use proto::error::Problem;
use proto::report::Accepted;
use proto::report::Report;
use proto::report::Status;
use serde_json::json;

use crate::args::Files;
use crate::disk;
use crate::exit::Exit;
use crate::expand::Environment;

/// GitLab takes so many variables of a dotenv report on every plan.
const MAX_VARIABLES: usize = 20;
/// GitLab takes a dotenv report up to this size, in bytes.
const MAX_BYTES: usize = 5 << 10;

/// How a run began or ended, as files tell it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End<'a> {
    /// Not yet: it is on.
    Begun(&'a Accepted),
    /// With a report, and the JSON that it came in.
    Report(&'a Report, &'a [u8]),
    /// Without one.
    Problem(&'a Problem),
}

/// Writes the files that were asked for.
///
/// # Errors
/// A file cannot be written; the run is what it is.
pub(crate) fn write(files: &Files, end: End<'_>, environment: &Environment) -> Result<(), Problem> {
    if let Some(file) = &files.report {
        let json = match end {
            End::Begun(accepted) => of_begun(accepted),
            End::Report(_, json) => json.to_vec(),
            End::Problem(problem) => of_problem(problem),
        };
        let mut text = json.trim_ascii().to_vec();
        text.push(b'\n');
        disk::put(file, &text)?;
    }
    if let Some(file) = &files.dotenv {
        disk::put(file, variables(end, environment).as_bytes())?;
    }
    Ok(())
}

/// Returns the address of the job's environment: what the job says, else what the run found.
pub(crate) fn address<'a>(
    report: Option<&'a Report>,
    environment: &'a Environment,
) -> Option<&'a str> {
    let said = environment.get("CI_ENVIRONMENT_URL").map(String::as_str);
    // GitLab leaves names in it that only the dotenv report of this very job can resolve.
    let said = said.filter(|url| is_address(url));
    let found = || report?.url.as_deref().filter(|url| is_address(url));
    said.or_else(found)
}

fn is_address(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://")) && is_value(url)
}

fn of_begun(accepted: &Accepted) -> Vec<u8> {
    let document = json!({
        "id": accepted.id,
        "status": accepted.status,
        "message": "the run is on",
    });
    document.to_string().into_bytes()
}

fn of_problem(problem: &Problem) -> Vec<u8> {
    let mut document = json!({
        "status": status_of(problem).word(),
        "message": problem.detail,
        "code": problem.code,
        "problem": problem,
    });
    if let Some(run) = run_of(problem) {
        // As in a report, so that what reads one finds it.
        document["id"] = run.into();
    }
    document.to_string().into_bytes()
}

/// Returns what a problem means for a run that was asked for.
fn status_of(problem: &Problem) -> Status {
    match Exit::of_code(problem.code) {
        Exit::Denied => Status::Denied,
        Exit::Invalid => Status::Invalid,
        Exit::Superseded => Status::Superseded,
        Exit::StillRunning => Status::Running,
        Exit::Cancelled => Status::Cancelled,
        Exit::RolledBack => Status::RolledBack,
        Exit::RollbackFailed => Status::RollbackFailed,
        Exit::Unreachable if run_of(problem).is_some() => Status::Running,
        Exit::Done | Exit::Changes | Exit::Failed | Exit::Unreachable | Exit::Command(_) => {
            Status::Failed
        }
    }
}

/// Returns the run that a problem is about.
fn run_of(problem: &Problem) -> Option<&str> {
    problem.instance.as_deref()?.strip_prefix("/v1/deploys/")
}

/// Makes the lines of a dotenv report. Images are those of a run that succeeded, because after any
/// other end they may not be what is there.
fn variables(end: End<'_>, environment: &Environment) -> String {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: &str| all.push((name.to_owned(), value.to_owned()));
    match end {
        End::Begun(accepted) => {
            add("QUAYMASTER_STATUS", accepted.status.word());
            add("QUAYMASTER_RUN", accepted.id.as_str());
        }
        End::Problem(problem) => {
            add("QUAYMASTER_STATUS", status_of(problem).word());
            run_of(problem).inspect(|run| add("QUAYMASTER_RUN", run));
        }
        End::Report(report, _) => {
            add("QUAYMASTER_STATUS", report.status.word());
            add("QUAYMASTER_RUN", report.id.as_str());
            add("QUAYMASTER_NAME", report.name.as_str());
            if let Some(revision) = report.revision {
                add("QUAYMASTER_REVISION", &revision.to_string());
            }
            let url = address(Some(report), environment);
            url.inspect(|url| add("QUAYMASTER_URL", url));
            let landed = report.status == Status::Succeeded;
            for change in report.images.iter().filter(|_| landed) {
                let name = format!("QUAYMASTER_IMAGE_{}", word(&change.name));
                add(&name, &change.after);
            }
        }
    }
    let mut text = String::new();
    let mut names: Vec<String> = Vec::new();
    for (name, value) in all {
        let line = format!("{name}={value}\n");
        let fits = names.len() < MAX_VARIABLES && text.len() + line.len() <= MAX_BYTES;
        if fits && is_value(&value) && !names.contains(&name) {
            text.push_str(&line);
            names.push(name);
        }
    }
    text
}

/// Says whether a value means the same to every reader of dotenv files: no quotes, blanks, line ends,
/// comments or further variables.
fn is_value(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@+~%?&=,".contains(c);
    !value.is_empty() && value.chars().all(plain)
}

/// Turns a name into a part of a variable's name.
fn word(name: &str) -> String {
    let upper = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    name.chars().map(upper).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proto::error::Code;
    use proto::report::ImageChange;

    use super::*;
    use crate::render::tests::report;

    fn image(name: &str, after: &str) -> ImageChange {
        ImageChange {
            name: name.to_owned(),
            before: None,
            after: after.to_owned(),
        }
    }

    fn end_of(report: &Report) -> End<'_> {
        End::Report(report, b"{}")
    }

    #[test]
    fn variables_are_what_a_later_job_needs() {
        let mut done = report(Status::Succeeded, "done");
        done.revision = Some(7);
        done.images = vec![image("web-app", "reg.io/web:1@sha256:ab")];
        let variables_of = |done: &Report, url: &str| {
            let said = [("CI_ENVIRONMENT_URL".to_owned(), url.to_owned())];
            variables(end_of(done), &said.into())
        };
        let expected = "QUAYMASTER_STATUS=succeeded\n\
            QUAYMASTER_RUN=r00000000000000000000000000000001\nQUAYMASTER_NAME=flask-demo\n\
            QUAYMASTER_REVISION=7\nQUAYMASTER_URL=https://shop.example.com\n\
            QUAYMASTER_IMAGE_WEB_APP=reg.io/web:1@sha256:ab\n";
        assert_eq!(variables_of(&done, "https://shop.example.com"), expected);
        done.status = Status::RolledBack;
        let text = variables_of(&done, "$QUAYMASTER_URL");
        assert!(!text.contains("IMAGE") && !text.contains("URL"), "{text}");
        done.url = Some("http://found.example.com/".to_owned());
        assert!(variables_of(&done, "$QUAYMASTER_URL").contains("URL=http://found."));
    }

    #[test]
    fn what_gitlab_would_not_take_is_left_out() {
        let mut done = report(Status::Succeeded, "done");
        done.images = vec![
            image("a", "x\nEVIL=1"),
            image("b", "x y"),
            image("c", "\"x\""),
        ];
        let text = variables(end_of(&done), &Environment::default());
        assert_eq!(text.lines().count(), 3, "{text}");
        done.images = (0..40)
            .map(|n| image(&format!("i{n}"), "reg.io/x:1"))
            .collect();
        let text = variables(end_of(&done), &Environment::default());
        assert_eq!(text.lines().count(), MAX_VARIABLES);
        done.images = (0..17)
            .map(|n| image(&format!("i{n}"), &"x".repeat(600)))
            .collect();
        let text = variables(end_of(&done), &Environment::default());
        assert!(
            text.len() <= MAX_BYTES && text.contains("IMAGE_I0="),
            "{}",
            text.len()
        );
    }

    #[test]
    fn a_problem_without_run_is_a_report_too() {
        let problem = Problem::new(Code::Denied, "no rule allows this");
        let document: serde_json::Value =
            serde_json::from_slice(&of_problem(&problem)).expect("it is JSON");
        assert_eq!(document["status"], "denied");
        assert_eq!(document["code"], "denied");
        let text = variables(End::Problem(&problem), &Environment::default());
        assert_eq!(text, "QUAYMASTER_STATUS=denied\n");
        let mut lost = Problem::new(Code::Unavailable, "gone");
        lost.instance = Some("/v1/deploys/r1".to_owned());
        let text = variables(End::Problem(&lost), &Environment::default());
        assert_eq!(text, "QUAYMASTER_STATUS=running\nQUAYMASTER_RUN=r1\n");
    }

    #[test]
    fn a_run_is_named_while_it_is_on() {
        let accepted = Accepted {
            id: "r00000000000000000000000000000001".parse().expect("an id"),
            status: Status::Running,
            location: String::new(),
        };
        let document: serde_json::Value =
            serde_json::from_slice(&of_begun(&accepted)).expect("it is JSON");
        assert_eq!(document["id"], accepted.id.as_str());
        assert_eq!(document["status"], "running");
        let text = variables(End::Begun(&accepted), &Environment::default());
        let expected = format!(
            "QUAYMASTER_STATUS=running\nQUAYMASTER_RUN={}\n",
            accepted.id
        );
        assert_eq!(text, expected);
        let mut lost = Problem::new(Code::StillRunning, "a signal ended the client");
        lost.instance = Some(format!("/v1/deploys/{}", accepted.id));
        let document: serde_json::Value =
            serde_json::from_slice(&of_problem(&lost)).expect("it is JSON");
        assert_eq!(document["id"], accepted.id.as_str());
        assert_eq!(document["status"], "running");
    }

    #[test]
    fn files_are_replaced_as_a_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("deploy.json");
        fs::write(&file, "old, and longer than what follows").expect("written");
        let files = Files {
            report: Some(file.clone()),
            dotenv: None,
        };
        let done = report(Status::Succeeded, "done");
        write(&files, end_of(&done), &Environment::default()).expect("written");
        assert_eq!(fs::read_to_string(&file).expect("read"), "{}\n");
        let names = fs::read_dir(dir.path()).expect("read").count();
        assert_eq!(names, 1, "nothing is left aside");
        let nowhere = Files {
            report: None,
            dotenv: Some(dir.path().join("no/such/folder")),
        };
        assert!(write(&nowhere, end_of(&done), &Environment::default()).is_err());
    }
}
