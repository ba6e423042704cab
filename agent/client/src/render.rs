//! Turns answers into text for people: the verdict, a plan, a problem, who I am.
//!
//! Called by `output`. Pure. The verdict is written so that its last lines are what a person needs
//! who sees only the end of a job log: causes with evidence and hints, then one line with the
//! result.

use proto::error::Place;
use proto::error::Problem;
use proto::report::Cause;
use proto::report::Mode;
use proto::report::Report;
use proto::report::RunList;
use proto::report::Status;
use proto::report::WhoAmI;
use proto::report::text::Line;
use proto::report::text::lines;

use crate::log::clean;

/// Renders the verdict of a run.
pub(crate) fn verdict(report: &Report) -> String {
    let mut out = String::new();
    for warning in &report.warnings {
        text("warning: ", warning, &mut out);
    }
    if report.status != Status::Succeeded {
        digest(report, &mut out);
    }
    out.push_str(&run_line(report));
    out
}

/// Renders a run: the plan of a dry run, and the verdict. A log that was just told leaves both out.
pub(crate) fn result(report: &Report) -> String {
    let mut out = String::new();
    if report.mode == Mode::DryRun {
        plan(report, &mut out);
    }
    out.push_str(&verdict(report));
    out
}

/// Renders how a run stands, in a few lines.
pub(crate) fn status(report: &Report) -> String {
    let mut out = String::new();
    text("run:     ", report.id.as_str(), &mut out);
    text("started: ", &report.started, &mut out);
    if let Some(finished) = &report.finished {
        text("finished: ", finished, &mut out);
    }
    out.push_str(&result(report));
    out
}

/// Renders a list of runs, one a line.
pub(crate) fn list(list: &RunList) -> String {
    let mut out = String::new();
    for run in &list.runs {
        let line = format!(
            "{}  {}  {:<15} {}/{}/{}",
            run.id,
            run.started,
            run.status.word(),
            run.cluster,
            run.namespace,
            run.name
        );
        text("", &line, &mut out);
    }
    if list.runs.is_empty() {
        out.push_str("no runs\n");
    }
    if let Some(next) = &list.next {
        text("more: quaymaster list --after ", next.as_str(), &mut out);
    }
    out
}

fn plan(report: &Report, out: &mut String) {
    for Line { text: told, .. } in lines(&report.steps) {
        text("", &told, out);
    }
}

/// Says why a run failed.
fn digest(report: &Report, out: &mut String) {
    let count = report.causes.len();
    for (number, cause) in report.causes.iter().enumerate() {
        let Cause {
            kind,
            object,
            message,
            evidence,
            hint,
        } = cause;
        let of = if count > 1 {
            format!(" {} of {count}", number + 1)
        } else {
            String::new()
        };
        text("", &format!("\ncause{of}: {object}: {kind}"), out);
        text("  ", message, out);
        for line in evidence {
            text("  | ", line, out);
        }
        if let Some(hint) = hint {
            text("  what to do: ", hint, out);
        }
    }
    // With causes the problem says the same once more.
    if let Some(told) = report.problem.as_ref().filter(|_| count == 0) {
        out.push('\n');
        out.push_str(&problem(told));
    }
    out.push('\n');
}

/// Renders the one line that says it all.
fn run_line(report: &Report) -> String {
    let word = match report.status {
        Status::Running => "RUNNING",
        Status::Succeeded => "OK",
        Status::Failed => "FAILED",
        Status::RolledBack => "FAILED, ROLLED BACK",
        Status::RollbackFailed => "FAILED, ROLLBACK FAILED TOO",
        Status::Denied => "DENIED",
        Status::Invalid => "INVALID",
        Status::Superseded => "SUPERSEDED",
        Status::Cancelled => "CANCELLED",
        Status::Interrupted => "INTERRUPTED",
    };
    let app = format!("{}/{}/{}", report.cluster, report.namespace, report.name);
    let mut out = String::new();
    text(
        "",
        &format!("{word} {app}: {} (run {})", report.message, report.id),
        &mut out,
    );
    out
}

/// Renders a problem.
pub(crate) fn problem(problem: &Problem) -> String {
    let mut out = String::new();
    text(
        "",
        &format!("{}: {}", problem.title, problem.detail),
        &mut out,
    );
    for error in &problem.errors {
        text("  ", &place(error), &mut out);
    }
    if let Some(hint) = &problem.hint {
        text("what to do: ", hint, &mut out);
    }
    if let Some(decision) = &problem.decision_id {
        text("decision: ", decision, &mut out);
    }
    out
}

/// Renders a place in the way that editors understand: `file:line:column: path: message`.
fn place(place: &Place) -> String {
    let mut parts = Vec::new();
    if let Some(file) = &place.file {
        let mut at = file.clone();
        if let Some(line) = place.line {
            at.push_str(&format!(":{line}"));
            if let Some(column) = place.column {
                at.push_str(&format!(":{column}"));
            }
        }
        parts.push(at);
    }
    parts.extend(place.path.clone());
    parts.push(place.message.clone());
    parts.join(": ")
}

/// Renders who the caller is to the agent.
pub(crate) fn whoami(who: &WhoAmI) -> String {
    let mut out = String::new();
    text("", &format!("you are a {}", who.kind), &mut out);
    let width = who.attributes.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in &who.attributes {
        text("  ", &format!("{name:<width$}  {value}"), &mut out);
    }
    if who.rules.is_empty() {
        out.push_str("no rule matches: every deploy is denied\n");
    } else {
        text("matching rules: ", &who.rules.join(", "), &mut out);
    }
    for miss in &who.nearest {
        let line = format!(
            "rule {} does not match: {}: {}",
            miss.rule, miss.attribute, miss.message
        );
        text("  ", &line, &mut out);
    }
    out
}

/// Appends text line by line, without control characters; further lines are indented alike.
fn text(prefix: &str, value: &str, out: &mut String) {
    let further = if prefix.trim_start().starts_with('|') {
        prefix.to_owned()
    } else {
        " ".repeat(prefix.len())
    };
    for (number, line) in clean(value).split('\n').enumerate() {
        out.push_str(if number == 0 { prefix } else { &further });
        out.push_str(line);
        out.truncate(out.trim_end_matches([' ', '\t']).len());
        out.push('\n');
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
pub(crate) mod tests;
