//! Templates for one key of a Secret: minijinja with secret fields only.
//!
//! Text with `{{ expressions }}`; names are the other keys of the same Secret; filters `b64`,
//! `json`, `url`. No statements, no includes, no macros. A missing name is an error when the spec is
//! read, before any credential is issued.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::secret::Secret;

/// A parsed template. Its text holds no secret and may be shown in a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The text as written.
    pub text: String,
    /// The keys that it uses.
    pub names: BTreeSet<String>,
}

/// Why a template cannot be used. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the template {problem}")]
pub struct TemplateError {
    /// What is wrong, in words.
    pub problem: String,
}

impl Template {
    /// Parses and checks a template without rendering anything.
    ///
    /// # Errors
    /// Syntax, statements, unknown filters.
    pub fn parse(_text: &str) -> Result<Self, TemplateError> {
        panic!("not written yet")
    }

    /// Renders it from values by key.
    ///
    /// # Errors
    /// A name without a value, a value that is not UTF-8 where text is needed, or a result over 1 MiB.
    pub fn render(&self, _values: &BTreeMap<String, &Secret>) -> Result<Secret, TemplateError> {
        panic!("not written yet")
    }
}
