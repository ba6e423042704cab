//! Tells it of kustomizations and charts: what could not be rendered, and what Helm did not write.
//!
//! Pure; called by [`super`] and [`crate::engine`]. A program's words are told as they are, cut and
//! later redacted; only their kind is looked for in them.

use proto::error::Code;
use proto::error::Problem;

use super::of_cluster;
use super::of_denial;
use crate::apply::ApplyError;
use crate::ports::ChartError;
use crate::ports::RenderError;
use crate::release::ReleaseError;
use crate::render::RenderFailure;
use crate::spec;

/// Tells why there is nothing rendered.
#[must_use]
pub fn of_render(failure: &RenderFailure) -> Problem {
    match failure {
        RenderFailure::Fetch {
            chart,
            spec,
            source,
        } => of_fetch(chart, spec, source),
        RenderFailure::Program { what, source } => of_program(what, source),
        RenderFailure::Output(error) => {
            let first = error.places.first().map(|place| place.message.as_str());
            let detail = format!(
                "what was rendered is not valid: {}",
                first.unwrap_or_default()
            );
            Problem::new(error.code, detail).places(error.places.clone())
        }
        RenderFailure::Denied(denial) => of_denial(denial),
        RenderFailure::Cluster { what, source } => of_cluster(what, source),
    }
}

/// Tells why a chart was not fetched, at its place in the spec.
fn of_fetch(chart: &str, spec: &str, error: &ChartError) -> Problem {
    let detail = format!("fetching chart {chart}: {error}");
    let (code, hint, field) = match error {
        ChartError::Missing { .. } => (
            Code::ChartMissing,
            "correct the name or version; `helm show chart` with them shows what the server has",
            "version",
        ),
        ChartError::Denied { .. } => (
            Code::ChartMissing,
            "charts are fetched without credentials for now: let the server give it to everybody \
             (some answer so for a name that does not exist), or put it into the bundle \
             (`helm pull --untar`)",
            "chart",
        ),
        ChartError::Unavailable { .. } => (
            Code::ChartUnavailable,
            "look at the server's health and the way to it from the agent; the run tried until its \
             deadline",
            "chart",
        ),
        ChartError::TooLarge { .. } => (
            Code::ChartInvalid,
            "put the chart into the bundle, or its files out of the chart",
            "chart",
        ),
        ChartError::Mismatch { .. } => (
            Code::ChartInvalid,
            "somebody changed what this version is: find out who; never deploy it unseen",
            "digest",
        ),
        ChartError::NotAChart { .. } => (
            Code::ChartInvalid,
            "name a chart that `helm package` made and `helm push` or an index published",
            "chart",
        ),
        ChartError::Unfit { .. } => (
            Code::ChartInvalid,
            "look at what the server answers; `helm pull` on your machine may be less strict",
            "chart",
        ),
        ChartError::Broken { .. } => (Code::Internal, "tell the operator the run's id", "chart"),
    };
    let text = spec.as_bytes();
    let mut place = spec::place_of(text, &["helm", field], &error.to_string());
    if place.line.is_none() {
        place = spec::place_of(text, &["helm", "chart"], &error.to_string());
    }
    Problem::new(code, detail).hint(hint).places([place])
}

fn of_program(what: &str, error: &RenderError) -> Problem {
    let detail = format!("{what}: {error}");
    match error {
        RenderError::Refused { said, .. } if is_others(said) => of_others(detail),
        RenderError::Refused { .. } => Problem::new(Code::ManifestInvalid, detail)
            .hint("the same command on your machine says the same; correct the files"),
        RenderError::TooMuch { .. } | RenderError::Late { .. } => {
            Problem::new(Code::ManifestInvalid, detail)
                .hint("a template loops, or the deploy is too large; split it")
        }
        RenderError::Unavailable { .. } => Problem::new(Code::ClusterUnavailable, detail)
            .hint("look at the API server's health; the run waited until its deadline"),
        RenderError::Missing { program } => Problem::new(Code::SpecInvalid, detail).hint(format!(
            "the operator sets render.{program} in the agent's configuration"
        )),
        RenderError::Broken { .. } => {
            Problem::new(Code::Internal, detail).hint("tell the operator the run's id")
        }
    }
}

/// Tells why Helm did not write a release, or did not go back.
#[must_use]
pub fn of_release(error: &ReleaseError) -> Problem {
    let detail = error.to_string();
    match error {
        ReleaseError::Helm { source, .. } => of_helm(&detail, source),
        ReleaseError::Hook { said, .. } => {
            Problem::new(Code::RolloutFailed, format!("{detail}: {said}"))
                .hint("the job of the hook says why; correct it and deploy again")
        }
        ReleaseError::Busy { release, .. } => Problem::new(Code::Locked, detail).hint(format!(
            "another Helm is at work, or was killed: look at `helm history {release}`, and `helm rollback {release}` puts it right"
        )),
        ReleaseError::NoEarlier { .. } | ReleaseError::Untouched { .. } => {
            Problem::new(Code::RolloutFailed, detail).hint("deploy a version that works")
        }
        ReleaseError::Cluster { what, source } => of_cluster(what, source),
        ReleaseError::Manifest { .. } => {
            Problem::new(Code::Internal, detail).hint("tell the operator the run's id")
        }
    }
}

/// Says whether Helm found an object of the chart that is not its release's; it looks when it renders, too.
fn is_others(said: &str) -> bool {
    said.contains("cannot be imported into the current release")
        || said.contains("invalid ownership metadata")
}

fn of_others(detail: String) -> Problem {
    Problem::new(Code::ApplyConflict, detail).hint(
        "the object belongs to no release or to another: delete it, or give it Helm's labels and \
         annotations of this release",
    )
}

/// Says whether Helm may have written when writing failed: it was at work, and did not come to an end.
pub(super) const fn may_have_written(error: &ApplyError) -> bool {
    match error {
        ApplyError::Release(ReleaseError::Hook { .. }) => true,
        ApplyError::Release(ReleaseError::Helm { source, .. }) => {
            !matches!(source, RenderError::Missing { .. })
        }
        ApplyError::Release(
            ReleaseError::Busy { .. }
            | ReleaseError::NoEarlier { .. }
            | ReleaseError::Untouched { .. }
            | ReleaseError::Cluster { .. }
            | ReleaseError::Manifest { .. },
        )
        | ApplyError::Write { .. }
        | ApplyError::Stuck { .. }
        | ApplyError::Stopped
        | ApplyError::Journal(_) => false,
    }
}

/// Finds the code for what Helm said; its words are the API server's for the most part.
fn of_helm(detail: &str, error: &RenderError) -> Problem {
    let detail = format!("{detail}: {error}");
    let RenderError::Refused { said, .. } = error else {
        let late = matches!(error, RenderError::Late { .. });
        let mut problem = of_program(&detail, error);
        problem.detail = detail;
        if late {
            problem.code = Code::RolloutTimeout;
            problem.hint = Some(
                "a hook may still run; the next deploy puts the release right first".to_owned(),
            );
        }
        return problem;
    };
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["conflict occurred", "Apply failed with", "conflicts with"]) {
        return Problem::new(Code::ApplyConflict, detail).hint(
            "another manager has these fields: let it give them up, or take them out of the chart",
        );
    }
    if is_others(said) {
        return of_others(detail);
    }
    if has(&["is forbidden", "forbidden:"]) {
        return Problem::new(Code::ClusterDenied, detail)
            .hint("RBAC has to let the project's group do this; Helm also needs get, list, create, update and delete on Secrets");
    }
    if has(&[
        "field is immutable",
        "is invalid",
        "may not be",
        "Invalid value",
    ]) {
        return Problem::new(Code::ObjectInvalid, detail)
            .hint("correct the chart; an immutable field needs the object deleted first");
    }
    Problem::new(Code::RolloutFailed, detail).hint("`helm history` shows the release")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::ApplyFailure;
    use crate::object::ObjectId;

    #[test]
    fn a_helm_that_was_ended_may_have_written() {
        let told = |source, written: Vec<ObjectId>| {
            let error = ReleaseError::Helm {
                release: "web".to_owned(),
                source,
            };
            let error = ApplyError::Release(error);
            crate::report::of_apply(&ApplyFailure { error, written }).detail
        };
        let late = RenderError::Late {
            program: "helm",
            seconds: 41,
        };
        let detail = told(late, Vec::new());
        assert!(
            detail.ends_with("; what Helm had written by then is kept"),
            "{detail}"
        );
        let detail = told(RenderError::Missing { program: "helm" }, Vec::new());
        assert!(detail.ends_with("; nothing was written"), "{detail}");
    }

    #[test]
    fn an_object_of_another_release_is_no_fault_of_the_chart() {
        let code = |said: &str| {
            let source = RenderError::Refused {
                program: "helm",
                said: said.to_owned(),
            };
            let what = "the chart chart/".to_owned();
            of_render(&RenderFailure::Program { what, source }).code
        };
        let others = "Unable to continue with install: Role \"r\" exists and cannot be imported into the current release: invalid ownership metadata";
        assert_eq!(code(others), Code::ApplyConflict);
        assert_eq!(
            code("parse error in templates/a.yaml"),
            Code::ManifestInvalid
        );
    }
}
