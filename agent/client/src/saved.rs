//! Saved plans as files: written after a dry run, read before the deploy that has to keep them.
//!
//! Called by `commands`. The file is the member `plan` of the dry run's report as the agent wrote it,
//! indented for people who review it. It is read as a value first, so that a wrong file is told here
//! and not by the agent.

use std::fs;
use std::path::Path;

use proto::error::Code;
use proto::error::Place;
use proto::error::Problem;
use proto::report::saved::FORMAT;
use proto::report::saved::SavedPlan;
use serde::Deserialize;

use crate::disk;

/// The name of the saved plan inside a bundle; a dot file, so that no folder of manifests holds it.
pub(crate) const NAME: &str = ".quaymaster-plan.json";

/// The member of a report that is a saved plan; the others are of no account here.
#[derive(Deserialize)]
struct Planned {
    #[serde(default)]
    plan: serde_json::Value,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    /// The agent told no plan.
    #[error("the agent's report has no plan that can be saved")]
    NoPlan,
    /// The file cannot be written.
    #[error("the plan cannot be written")]
    Write(Box<Problem>),
}

/// Writes the plan of a report.
///
/// # Errors
/// There is none, or the file cannot be written.
pub(crate) fn write(file: &Path, report: &[u8]) -> Result<(), SaveError> {
    let planned: Planned = serde_json::from_slice(report).map_err(|_other| SaveError::NoPlan)?;
    if planned.plan.is_null() {
        return Err(SaveError::NoPlan);
    }
    let text = format!("{:#}\n", planned.plan);
    disk::put(file, text.as_bytes()).map_err(|problem| SaveError::Write(Box::new(problem)))
}

impl SaveError {
    /// Tells it.
    pub(crate) fn problem(self) -> Problem {
        match self {
            Self::NoPlan => Problem::new(Code::Internal, self.to_string())
                .hint("the agent may be older than the client; see 'quaymaster version'"),
            Self::Write(problem) => *problem,
        }
    }
}

/// Reads a saved plan; returns its content as it is.
///
/// # Errors
/// It cannot be read, or is no saved plan.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    let refused = |detail: String| {
        Problem::new(Code::BadRequest, detail).hint("make one: quaymaster plan --save FILE")
    };
    let name = file.display().to_string();
    let content = fs::read(file).map_err(|error| refused(format!("reading {name}: {error}")))?;
    let plan: SavedPlan = serde_json::from_slice(&content).map_err(|error| {
        let place = Place {
            file: Some(name.clone()),
            line: Some(error.line() as u64),
            column: Some(error.column() as u64),
            ..Place::message("expected a plan as 'quaymaster plan --save' writes it")
        };
        refused(format!("{name} is no saved plan")).places([place])
    })?;
    if plan.format != FORMAT {
        return Err(refused(format!(
            "{name} has form {}, this client knows form {FORMAT}",
            plan.format
        )));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{"status": "succeeded", "plan": {"format": 1,
        "run": "r00000000000000000000000000000001", "made": "2026-11-24T08:00:00Z", "name": "app",
        "cluster": "demo", "namespace": "app", "bundle": "sha256:a", "steps": []}}"#;

    #[test]
    fn what_is_written_can_be_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("plan.json");
        write(&file, REPORT.as_bytes()).expect("written");
        let content = read(&file).expect("read");
        let plan: SavedPlan = serde_json::from_slice(&content).expect("a plan");
        assert_eq!(plan.bundle, "sha256:a");
    }

    #[test]
    fn a_report_without_plan_and_a_file_that_is_none_are_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("plan.json");
        assert!(matches!(write(&file, b"{}"), Err(SaveError::NoPlan)));
        assert!(!file.exists());
        assert_eq!(read(&file).expect_err("missing").code, Code::BadRequest);
        fs::write(&file, REPORT).expect("written");
        let problem = read(&file).expect_err("a whole report");
        assert_eq!(problem.errors[0].line, Some(1));
    }
}
