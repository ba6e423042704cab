//! Templates for one key of a Secret: minijinja with secret fields only.
//!
//! Text with `{{ expressions }}`; names are the other keys of the same Secret; filters `b64`,
//! `json`, `url`. No statements, no includes, no macros. A missing name is an error when the spec is
//! read, before any credential is issued.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::AutoEscape;
use minijinja::Environment;
use minijinja::ErrorKind;
use minijinja::UndefinedBehavior;

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
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let wrong = |problem: &str| {
            Err(TemplateError {
                problem: problem.to_owned(),
            })
        };
        if text.contains("{%") || text.contains("{#") {
            return wrong("has a statement or comment; only text with {{ expressions }} is taken");
        }
        let environment = environment();
        let parsed = environment
            .template_from_str(text)
            .map_err(|error| describe(&error))?;
        let names: BTreeSet<String> = parsed.undeclared_variables(false).into_iter().collect();
        // Unknown filters show only when rendered; made-up values are as good as real ones for that.
        let made_up: BTreeMap<&str, &str> = names.iter().map(|name| (name.as_str(), "x")).collect();
        parsed.render(made_up).map_err(|error| describe(&error))?;
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
        let mut texts: BTreeMap<&str, &str> = BTreeMap::new();
        for name in &self.names {
            let value = values.get(name).ok_or_else(|| TemplateError {
                problem: format!("uses {name}, which has no value"),
            })?;
            let text = std::str::from_utf8(value.bytes()).map_err(|_binary| TemplateError {
                problem: format!("uses {name}, whose value is not UTF-8 text"),
            })?;
            texts.insert(name, text);
        }
        let environment = environment();
        let parsed = environment
            .template_from_str(&self.text)
            .map_err(|error| describe(&error))?;
        let rendered = parsed.render(texts).map_err(|error| describe(&error))?;
        if rendered.len() > 1 << 20 {
            return Err(TemplateError {
                problem: "renders to more than 1 MiB".to_owned(),
            });
        }
        Ok(Secret::from_text(rendered))
    }
}

/// An environment with nothing in it but three filters.
fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_name| AutoEscape::None);
    environment.set_recursion_limit(16);
    environment.add_filter("b64", |text: String| STANDARD.encode(text));
    environment.add_filter("json", |text: String| {
        serde_json::Value::from(text).to_string()
    });
    environment.add_filter("url", |text: String| url(&text));
    environment
}

fn url(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// Says what kind of error it is; minijinja's own words may hold values.
fn describe(error: &minijinja::Error) -> TemplateError {
    let problem = match error.kind() {
        ErrorKind::SyntaxError => {
            "is not valid: only text and {{ name }} or {{ name | filter }} are taken"
        }
        ErrorKind::UnknownFilter => {
            "uses a filter that does not exist; there are b64, json and url"
        }
        ErrorKind::UnknownFunction | ErrorKind::UnknownMethod | ErrorKind::UnknownTest => {
            "calls something; only names and filters are taken"
        }
        ErrorKind::UndefinedError => "uses a name that has no value",
        _ => "cannot be rendered",
    };
    TemplateError {
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, pairs: &[(&str, &str)]) -> Result<String, TemplateError> {
        let secrets: Vec<(String, Secret)> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Secret::from_text((*value).to_owned())))
            .collect();
        let values = secrets
            .iter()
            .map(|(name, value)| (name.clone(), value))
            .collect();
        let rendered = Template::parse(text)?.render(&values)?;
        Ok(String::from_utf8_lossy(rendered.bytes()).into_owned())
    }

    #[test]
    fn names_and_filters_are_rendered_without_escaping() {
        let pairs = [("user", "a&b"), ("password", "p/w \"x\"")];
        assert_eq!(
            render("pg://{{ user }}:{{ password | url }}@db", &pairs),
            Ok("pg://a&b:p%2Fw%20%22x%22@db".to_owned())
        );
        assert_eq!(
            render("{{ password | json }}", &pairs),
            Ok("\"p/w \\\"x\\\"\"".to_owned())
        );
        assert_eq!(render("{{ user | b64 }}", &pairs), Ok("YSZi".to_owned()));
    }

    #[test]
    fn everything_that_is_no_expression_is_refused() {
        for bad in [
            "{% set x = 1 %}",
            "{# note #}",
            "{{ user",
            "{{ user | nothing }}",
            "{{ f() }}",
            "{{ }}",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_name_is_an_error_without_values() {
        let error = render("{{ user }}{{ other }}", &[("user", "hunter2")]).unwrap_err();
        assert!(
            error.problem.contains("other") && !error.problem.contains("hunter2"),
            "{error}"
        );
    }
}
