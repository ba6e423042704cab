//! What a manifest says to the agent: annotations under `quaymaster.dev/` of the object itself.
//!
//! [`read`] is strict and called once for every object by [`crate::manifest`], so that a name or
//! value that nobody knows is an error with file and line. [`Options::of`] derives the options of a
//! body that passed, or of a live object, where what cannot be read counts as not given.

use std::time::Duration;

use serde_json::Map;
use serde_json::Value;

use crate::field;
use crate::field::FieldPath;
use crate::object::at;
use crate::spec;

/// Where our annotations begin.
const PREFIX: &str = "quaymaster.dev/";

/// What an object's annotations say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `quaymaster.dev/wait`.
    pub wait: Wait,
    /// `quaymaster.dev/timeout`: the object's own deadline; unset is the run's.
    pub timeout: Option<Duration>,
    /// `quaymaster.dev/ignore-fields`: fields that are left to whoever sets them in the cluster.
    pub ignore: Vec<FieldPath>,
    /// `quaymaster.dev/recreate`.
    pub recreate: Recreate,
    /// `quaymaster.dev/keep`.
    pub keep: Keep,
}

/// Whether the rollout waits for an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wait {
    /// It has to become ready.
    #[default]
    Ready,
    /// It is written and not judged.
    Skip,
}

/// Whether an object may be deleted and made anew when a field that cannot change differs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recreate {
    /// It may not; the difference is an error.
    #[default]
    Refuse,
    /// It may.
    Allow,
}

/// Whether an object may be deleted at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keep {
    /// It may, where a rule and the spec say so.
    #[default]
    Release,
    /// Never: not by pruning, not by a rollback, not to make it anew.
    Always,
}

/// An annotation that is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// The annotation.
    pub(crate) name: String,
    /// What is wrong, in words.
    pub(crate) problem: String,
}

impl Options {
    /// Derives the options of an object.
    #[must_use]
    pub fn of(body: &Value) -> Self {
        let annotations = at(body, &["metadata", "annotations"]).and_then(Value::as_object);
        annotations.map_or_else(Self::default, |annotations| read(annotations).0)
    }
}

/// Reads the options among an object's annotations, and what is wrong with them.
pub(crate) fn read(annotations: &Map<String, Value>) -> (Options, Vec<Flaw>) {
    let mut options = Options::default();
    let mut flaws = Vec::new();
    for (name, value) in annotations {
        let Some(word) = name.strip_prefix(PREFIX) else {
            continue;
        };
        // What is not text is refused with every other annotation.
        let Some(value) = value.as_str() else {
            continue;
        };
        if let Err(problem) = options.take(word, value) {
            let name = name.clone();
            flaws.push(Flaw { name, problem });
        }
    }
    (options, flaws)
}

impl Options {
    fn take(&mut self, word: &str, value: &str) -> Result<(), String> {
        let only = |expected: &str| match value == expected {
            true => Ok(()),
            false => Err(format!("takes {expected:?}; leave it out otherwise")),
        };
        match word {
            "wait" => only("skip").map(|()| self.wait = Wait::Skip),
            "recreate" => only("allow").map(|()| self.recreate = Recreate::Allow),
            "keep" => only("true").map(|()| self.keep = Keep::Always),
            "timeout" => {
                self.timeout = Some(spec::duration(value).map_err(str::to_owned)?);
                Ok(())
            }
            "ignore-fields" => {
                self.ignore = paths(value)?;
                Ok(())
            }
            _ => Err(
                "is not an option; there are wait, timeout, ignore-fields, recreate and keep"
                    .to_owned(),
            ),
        }
    }
}

/// Reads paths with commas between them.
fn paths(text: &str) -> Result<Vec<FieldPath>, String> {
    const IDENTITY: [&str; 4] = [
        ".apiVersion",
        ".kind",
        ".metadata.name",
        ".metadata.namespace",
    ];
    let mut paths = Vec::new();
    for part in field::split(text) {
        let path: FieldPath = part.trim().parse().map_err(|error| format!("{error}"))?;
        let whole = path.to_string();
        if whole == ".metadata" || IDENTITY.contains(&whole.as_str()) {
            return Err("names what the object is; that cannot be left to others".to_owned());
        }
        paths.push(path);
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(annotations: &Value) -> (Options, Vec<Flaw>) {
        read(annotations.as_object().expect("annotations"))
    }

    #[test]
    fn every_option_is_read() {
        let annotations = json!({
            "quaymaster.dev/wait": "skip",
            "quaymaster.dev/timeout": "5m",
            "quaymaster.dev/ignore-fields": ".spec.replicas, .metadata.annotations[\"a,b/c\"]",
            "quaymaster.dev/recreate": "allow",
            "quaymaster.dev/keep": "true",
            "example.com/other": "x",
        });
        let (options, flaws) = of(&annotations);
        assert_eq!(flaws, []);
        assert_eq!(options.wait, Wait::Skip);
        assert_eq!(options.timeout, Some(Duration::from_secs(300)));
        assert_eq!(options.recreate, Recreate::Allow);
        assert_eq!(options.keep, Keep::Always);
        let told: Vec<String> = options.ignore.iter().map(ToString::to_string).collect();
        assert_eq!(told, [".spec.replicas", ".metadata.annotations[\"a,b/c\"]"]);
        let body = json!({"metadata": {"annotations": annotations}});
        assert_eq!(Options::of(&body), options);
        assert_eq!(Options::of(&json!({})), Options::default());
    }

    #[test]
    fn unknown_names_and_values_are_flaws() {
        for (name, value) in [
            ("wait", "no"),
            ("wait", ""),
            ("timeout", "5"),
            ("timeout", "0s"),
            ("ignore-fields", "spec.replicas"),
            ("ignore-fields", ".spec,"),
            ("ignore-fields", ".metadata.name"),
            ("ignore-fields", ".metadata"),
            ("recreate", "true"),
            ("keep", "false"),
            ("", "x"),
            ("waits", "skip"),
        ] {
            let name = format!("quaymaster.dev/{name}");
            let (options, flaws) = of(&json!({ name.as_str(): value }));
            assert_eq!(flaws.len(), 1, "{name}: {value}");
            assert_eq!(flaws[0].name, name);
            assert_eq!(options, Options::default(), "{name}: {value}");
        }
    }
}
