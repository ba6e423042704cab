//! Templates for one key of a Secret: minijinja with secret fields only.
//!
//! Text with `{{ expressions }}`; names are the other keys of the same Secret; filters `b64`,
//! `json`, `url`. No statements, no includes, no macros. A missing name is an error when the spec is
//! read, before any credential is issued.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::AutoEscape;
use minijinja::Environment;
use minijinja::Error;
use minijinja::ErrorKind;
use minijinja::UndefinedBehavior;
use minijinja::Value;

use crate::secret::Secret;

mod scan;

/// Bytes that a rendered value may have; Kubernetes takes no larger Secret.
const MAX_RESULT: usize = 1 << 20;

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
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let uses = scan::scan(text).map_err(broken)?;
        let environment = environment();
        let compiled = environment
            .template_from_str(text)
            .map_err(|error| syntax(error.line()))?;
        // The scan decides what is taken, minijinja what it means: they have to agree.
        let names: BTreeSet<String> = compiled.undeclared_variables(false).into_iter().collect();
        if names != uses.names {
            return Err(broken("is not a valid expression"));
        }
        Ok(Self {
            text: text.to_owned(),
            names,
        })
    }

    /// Renders it from values by key.
    ///
    /// # Errors
    /// A name without a value, a value that is not UTF-8 where text is needed, or a result over 1 MiB.
    pub fn render(&self, values: &BTreeMap<String, &Secret>) -> Result<Secret, TemplateError> {
        let uses = scan::scan(&self.text).map_err(broken)?;
        let mut context = BTreeMap::new();
        for name in &self.names {
            let Some(secret) = values.get(name) else {
                return Err(broken(format!("uses '{name}', which has no value")));
            };
            let value = match std::str::from_utf8(secret.bytes()) {
                Ok(text) => Value::from(text),
                Err(_) if uses.text_names.contains(name) => {
                    return Err(broken(format!(
                        "uses '{name}' as text, but its value is not UTF-8; use '{name} | b64'"
                    )));
                }
                Err(_) => Value::from_bytes(secret.bytes().to_vec()),
            };
            context.insert(name.clone(), value);
        }
        let environment = environment();
        let rendered = environment
            .template_from_str(&self.text)
            .and_then(|compiled| compiled.render(context))
            .map_err(|error| {
                if error.kind() == ErrorKind::WriteFailure {
                    too_long()
                } else {
                    broken("cannot be rendered from these values")
                }
            })?;
        let rendered = Secret::from_text(rendered);
        if rendered.len() > MAX_RESULT {
            return Err(too_long());
        }
        Ok(rendered)
    }
}

fn broken(problem: impl Into<String>) -> TemplateError {
    TemplateError {
        problem: problem.into(),
    }
}

fn too_long() -> TemplateError {
    broken(format!("gives more than {MAX_RESULT} bytes"))
}

fn syntax(line: Option<usize>) -> TemplateError {
    match line {
        Some(line) => broken(format!("is not a valid expression in its line {line}")),
        None => broken("is not a valid expression"),
    }
}

/// Nothing but the three filters, and errors for everything undefined.
fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_keep_trailing_newline(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.add_filter("b64", b64);
    environment.add_filter("json", json);
    environment.add_filter("url", url);
    environment
}

fn bounded(text: String) -> Result<String, Error> {
    if text.len() > MAX_RESULT {
        return Err(Error::new(ErrorKind::WriteFailure, "too long"));
    }
    Ok(text)
}

fn b64(value: &Value) -> Result<String, Error> {
    let bytes = match value.as_bytes() {
        Some(bytes) => bytes,
        None => text(value)?.as_bytes(),
    };
    bounded(STANDARD.encode(bytes))
}

fn json(value: &Value) -> Result<String, Error> {
    bounded(serde_json::Value::from(text(value)?).to_string())
}

/// Percent-encodes all but the unreserved characters of RFC 3986, so that it fits anywhere in a URL.
fn url(value: &Value) -> Result<String, Error> {
    let mut encoded = String::new();
    for byte in text(value)?.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.extend([byte >> 4, byte & 15].map(|digit| {
                char::from_digit(u32::from(digit), 16)
                    .map_or('0', |digit| digit.to_ascii_uppercase())
            }));
        }
    }
    bounded(encoded)
}

fn text(value: &Value) -> Result<&str, Error> {
    value
        .as_str()
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "not text"))
}

#[cfg(test)]
#[path = "template/tests.rs"]
mod tests;
