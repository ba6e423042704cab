//! The claims of a verified id_token: presence, types, issuer, audience, times, and the principal.
//!
//! Called by [`super::Authenticator`] with a payload whose signature is good. Pure: the time is
//! passed in. A claim of another type than GitLab sends makes the token malformed, so that a
//! comparison of the policy can never meet a value that it does not expect.

use std::collections::BTreeMap;
use std::time::Duration;

use deploy::principal::Principal;
use deploy::principal::PrincipalKind;
use jiff::Timestamp;
use serde_json::Map;
use serde_json::Value;

use super::AuthError;
use super::token::malformed;
use super::token::untrusted;

/// What a token has to say.
#[derive(Debug)]
pub(super) struct Expected {
    /// `iss`, byte by byte.
    pub(super) issuer: String,
    /// Ours first; the others may stand beside it.
    pub(super) audiences: Vec<String>,
    /// The longest age since `iat`.
    pub(super) max_age: Duration,
    /// How far clocks may differ.
    pub(super) leeway: Duration,
}

/// The form in which GitLab sends a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A text that may not be empty.
    Text,
    /// A text of digits.
    Id,
    /// `"true"` or `"false"`, as text.
    Flag,
    /// Text, or null.
    TextOrNull,
    /// A whole number.
    Number,
    /// A list.
    List,
    /// A text or a list; checked apart.
    Audience,
    /// Seconds since 1970; checked apart.
    Time,
}

const REQUIRED: [&str; 9] = [
    "iss",
    "aud",
    "sub",
    "exp",
    "nbf",
    "iat",
    "jti",
    "project_id",
    "job_id",
];

const FORMS: &[(&str, Form)] = &[
    ("iss", Form::Text),
    ("aud", Form::Audience),
    ("sub", Form::Text),
    ("jti", Form::Text),
    ("iat", Form::Time),
    ("nbf", Form::Time),
    ("exp", Form::Time),
    ("namespace_id", Form::Id),
    ("namespace_path", Form::Text),
    ("project_id", Form::Id),
    ("project_path", Form::Text),
    ("job_project_id", Form::Id),
    ("job_project_path", Form::Text),
    ("job_namespace_id", Form::Id),
    ("job_namespace_path", Form::Text),
    ("user_id", Form::Id),
    ("user_login", Form::Text),
    ("user_email", Form::Text),
    ("user_access_level", Form::TextOrNull),
    ("user_identities", Form::List),
    ("groups_direct", Form::List),
    ("pipeline_id", Form::Id),
    ("pipeline_source", Form::Text),
    ("job_id", Form::Id),
    ("job_source", Form::TextOrNull),
    ("job_policy_ref_uri", Form::TextOrNull),
    ("job_policy_ref_sha", Form::TextOrNull),
    ("ref", Form::Text),
    ("ref_type", Form::Text),
    ("ref_path", Form::Text),
    ("ref_protected", Form::Flag),
    ("environment", Form::TextOrNull),
    ("environment_protected", Form::Flag),
    ("deployment_tier", Form::TextOrNull),
    ("environment_action", Form::TextOrNull),
    ("runner_id", Form::Number),
    ("runner_environment", Form::Text),
    ("sha", Form::Text),
    ("ci_config_ref_uri", Form::TextOrNull),
    ("ci_config_sha", Form::TextOrNull),
    ("project_visibility", Form::Text),
    ("target_audience", Form::TextOrNull),
];

/// Checks all claims and makes the principal.
pub(super) fn principal(
    payload: &Map<String, Value>,
    expected: &Expected,
    now: Timestamp,
) -> Result<Principal, AuthError> {
    if let Some(name) = REQUIRED.iter().find(|name| !payload.contains_key(**name)) {
        return Err(malformed(format!("the claim {name} is missing")));
    }
    let mut attributes = BTreeMap::new();
    for (name, form) in FORMS {
        let Some(value) = payload.get(*name) else {
            continue;
        };
        let attribute = normalized(value, *form).ok_or_else(|| {
            malformed(format!("the claim {name} is of another form than GitLab's"))
        })?;
        if let Some(text) = attribute {
            attributes.insert((*name).to_owned(), text);
        }
    }
    if payload["iss"].as_str() != Some(expected.issuer.as_str()) {
        return Err(untrusted("comes from another issuer"));
    }
    audience(&payload["aud"], expected)?;
    times(payload, expected, now)?;
    Ok(Principal::unchecked(PrincipalKind::GitlabJob, attributes))
}

/// Returns the text of a claim; the inner `None` is a claim that says nothing to rules.
fn normalized(value: &Value, form: Form) -> Option<Option<String>> {
    let text = value.as_str().filter(|text| !text.is_empty());
    match form {
        Form::Text => text.map(|text| Some(text.to_owned())),
        Form::TextOrNull if value.is_null() => Some(None),
        // GitLab sends an empty text where a claim without a value is not left out.
        Form::TextOrNull => value.as_str().map(|_| text.map(str::to_owned)),
        Form::Id => text
            .filter(|text| text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit()))
            .map(|text| Some(text.to_owned())),
        Form::Flag => text
            .filter(|text| matches!(*text, "true" | "false"))
            .map(|text| Some(text.to_owned())),
        Form::Number => value.as_u64().map(|number| Some(number.to_string())),
        Form::List => value.is_array().then_some(None),
        Form::Audience | Form::Time => Some(None),
    }
}

fn audience(value: &Value, expected: &Expected) -> Result<(), AuthError> {
    let ours = expected.audiences.first().map(String::as_str);
    let shape = || malformed("the claim aud is of another form than GitLab's");
    let named: Vec<&str> = match value {
        Value::String(text) => vec![text.as_str()],
        Value::Array(list) if !list.is_empty() => list
            .iter()
            .map(Value::as_str)
            .collect::<Option<_>>()
            .ok_or_else(shape)?,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            return Err(shape());
        }
    };
    if !named.iter().any(|one| Some(*one) == ours) {
        return Err(untrusted("is for another audience"));
    }
    let known = |one: &&str| expected.audiences.iter().any(|known| known == one);
    if !named.iter().all(known) {
        return Err(untrusted("is for other audiences too"));
    }
    Ok(())
}

fn times(
    payload: &Map<String, Value>,
    expected: &Expected,
    now: Timestamp,
) -> Result<(), AuthError> {
    let time = |name: &str| {
        let seconds = payload[name].as_i64().filter(|seconds| *seconds > 0);
        seconds
            .ok_or_else(|| malformed(format!("the claim {name} is of another form than GitLab's")))
    };
    let (issued, begins, ends) = (time("iat")?, time("nbf")?, time("exp")?);
    let now = now.as_second();
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let leeway = seconds(expected.leeway);
    let problem = if now.saturating_sub(leeway) >= ends {
        "is expired"
    } else if now.saturating_add(leeway) < begins {
        "is not valid yet"
    } else if now.saturating_add(leeway) < issued {
        "was issued in the future"
    } else if now.saturating_sub(issued) > seconds(expected.max_age).saturating_add(leeway) {
        "is older than this agent takes"
    } else {
        return Ok(());
    };
    Err(AuthError::Expired { problem })
}
