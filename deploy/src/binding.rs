//! What a request is bound to: the bundle that it came in, and the saved plan that it has to keep.
//!
//! Called by `agent` with an unpacked bundle, before [`crate::request`] reads it. The saved plan
//! travels as one file of the bundle that the caller names; it is taken out here, so that a bundle has
//! the same digest with and without it. The digest is over names and contents: how the archive was
//! packed does not count.

use std::fmt::Write;

use proto::error::Code;
use proto::error::Place;
use proto::report::saved::FORMAT;
use proto::report::saved::SavedPlan;
use sha2::Digest;
use sha2::Sha256;

use crate::bundle::Bundle;
use crate::bundle::InputError;

/// The bundle of a request, and the plan that it has to keep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Binding {
    /// The bundle's digest: `sha256:` and 64 hexadecimal digits.
    pub bundle: String,
    /// The plan; unset where the caller is content with any.
    pub plan: Option<SavedPlan>,
}

/// Takes the saved plan at `path` out of a bundle, and the digest of the rest.
///
/// # Errors
/// The bundle has no such file, or it is no saved plan.
pub fn take(bundle: &mut Bundle, path: Option<&str>) -> Result<Binding, InputError> {
    let plan = match path {
        Some(path) => Some(saved(bundle, path)?),
        None => None,
    };
    Ok(Binding {
        bundle: digest(bundle),
        plan,
    })
}

fn saved(bundle: &mut Bundle, path: &str) -> Result<SavedPlan, InputError> {
    let refused = |line: Option<u64>, column: Option<u64>, message: String| {
        let place = Place {
            file: Some(path.to_owned()),
            line,
            column,
            ..Place::message(message)
        };
        InputError::one(Code::BundleInvalid, place)
    };
    let Some(file) = bundle.files.remove(path) else {
        let message = "the request is bound to this saved plan, and the bundle has no such file";
        return Err(refused(None, None, message.to_owned()));
    };
    let plan: SavedPlan = serde_json::from_slice(&file).map_err(|error| {
        let (line, column) = (error.line() as u64, error.column() as u64);
        let message = "this is no saved plan as `quaymaster plan --save` writes it".to_owned();
        refused(Some(line), Some(column), message)
    })?;
    if plan.format != FORMAT {
        let message = format!(
            "the saved plan has form {}, this agent knows form {FORMAT}; make it anew",
            plan.format
        );
        return Err(refused(None, None, message));
    }
    Ok(plan)
}

fn digest(bundle: &Bundle) -> String {
    let mut hash = Sha256::new();
    for (name, content) in &bundle.files {
        // Lengths keep a name and a content from being read as one another.
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name.as_bytes());
        hash.update((content.len() as u64).to_be_bytes());
        hash.update(content);
    }
    shown(&hash.finalize())
}

/// Writes a digest as `sha256:` and hexadecimal digits.
pub(crate) fn shown(digest: &[u8]) -> String {
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(files: &[(&str, &str)]) -> Bundle {
        let own = |(path, text): &(&str, &str)| ((*path).to_owned(), text.as_bytes().to_vec());
        Bundle {
            files: files.iter().map(own).collect(),
        }
    }

    fn digest_of(files: &[(&str, &str)]) -> String {
        digest(&bundle(files))
    }

    const PLAN: &str = r#"{"format": 1, "run": "r00000000000000000000000000000001", "made": "", "name": "app",
        "cluster": "demo", "namespace": "app", "bundle": "", "steps": []}"#;

    #[test]
    fn the_digest_is_over_names_and_contents() {
        let base = digest_of(&[("a", "bc"), ("d", "")]);
        assert_eq!(base.len(), "sha256:".len() + 64);
        for other in [
            [("a", "b"), ("d", "c")],
            [("ab", "c"), ("d", "")],
            [("a", "bc"), ("e", "")],
            [("a", ""), ("d", "bc")],
        ] {
            assert_ne!(base, digest_of(&other), "{other:?}");
        }
    }

    #[test]
    fn the_saved_plan_is_taken_out_and_does_not_count() {
        let mut with = bundle(&[("a.yaml", "x"), (".plan.json", PLAN)]);
        let bound = take(&mut with, Some(".plan.json")).expect("valid");
        assert_eq!(bound.bundle, digest_of(&[("a.yaml", "x")]));
        assert!(bound.plan.is_some() && !with.files.contains_key(".plan.json"));
    }

    #[test]
    fn what_is_no_saved_plan_is_refused_without_being_quoted() {
        for text in [
            "",
            "hunter2",
            "{}",
            "[]",
            &PLAN.replace("\"made\"", "\"hunter2\""),
            &PLAN.replace("\"format\": 1", "\"format\": 2"),
        ] {
            let mut bad = bundle(&[("p.json", text)]);
            let error = take(&mut bad, Some("p.json")).expect_err(text);
            assert_eq!(error.code, Code::BundleInvalid, "{text}");
            assert!(!error.places[0].message.contains("hunter2"));
        }
        let error = take(&mut bundle(&[]), Some("p.json")).expect_err("missing");
        assert_eq!(error.places[0].file.as_deref(), Some("p.json"));
    }
}
