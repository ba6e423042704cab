//! The claims of a GitLab id_token that a rule may name, and which values each can have.
//!
//! Used while a policy is loaded. The list is GitLab's own; a name that is not in it is a spelling
//! mistake that would make a rule silently never match, so it is a load error.

/// Before the name of Vault metadata that is not a GitLab claim.
pub(super) const VAULT_PREFIX: &str = "vault:";

/// Which values a claim can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A number that never changes its meaning; no wildcards.
    Id,
    /// `"true"` or `"false"`; in the policy also as a boolean.
    Flag,
    /// `refs/heads/..`, `refs/tags/..` and the like.
    RefPath,
    /// Any other text.
    Text,
}

const CLAIMS: &[(&str, Shape)] = &[
    ("sub", Shape::Text),
    ("namespace_id", Shape::Id),
    ("namespace_path", Shape::Text),
    ("project_id", Shape::Id),
    ("project_path", Shape::Text),
    ("job_project_id", Shape::Id),
    ("job_project_path", Shape::Text),
    ("job_namespace_id", Shape::Id),
    ("job_namespace_path", Shape::Text),
    ("user_id", Shape::Id),
    ("user_login", Shape::Text),
    ("user_email", Shape::Text),
    ("user_access_level", Shape::Text),
    ("pipeline_id", Shape::Id),
    ("job_id", Shape::Id),
    ("pipeline_source", Shape::Text),
    ("ref", Shape::Text),
    ("ref_type", Shape::Text),
    ("ref_path", Shape::RefPath),
    ("ref_protected", Shape::Flag),
    ("environment", Shape::Text),
    ("environment_protected", Shape::Flag),
    ("deployment_tier", Shape::Text),
    ("environment_action", Shape::Text),
    ("runner_id", Shape::Id),
    ("runner_environment", Shape::Text),
    ("sha", Shape::Text),
    ("ci_config_ref_uri", Shape::Text),
    ("ci_config_sha", Shape::Text),
    ("project_visibility", Shape::Text),
    ("job_source", Shape::Text),
    ("job_policy_ref_uri", Shape::Text),
    ("job_policy_ref_sha", Shape::Text),
];

/// Claims that exist, but are not for rules; with the reason.
const NOT_FOR_RULES: &[(&str, &str)] = &[
    (
        "iss",
        "the agent itself checks it against its configuration",
    ),
    (
        "aud",
        "the agent itself checks it against its configuration",
    ),
    ("iat", "the agent itself checks the times"),
    ("nbf", "the agent itself checks the times"),
    ("exp", "the agent itself checks the times"),
    ("jti", "it is another one in every token"),
    ("groups_direct", "lists cannot be matched"),
    ("user_identities", "lists cannot be matched"),
    ("target_audience", "it belongs to tokens for other services"),
    ("allow_forks", "it belongs beside `id`, outside of `match`"),
];

/// Returns the shape of a claim; the error says why a rule cannot name it.
pub(super) fn shape(name: &str) -> Result<Shape, String> {
    if let Some((_, shape)) = CLAIMS.iter().find(|(known, _)| *known == name) {
        return Ok(*shape);
    }
    if let Some((_, reason)) = NOT_FOR_RULES.iter().find(|(known, _)| *known == name) {
        return Err(format!("cannot be matched: {reason}"));
    }
    Err(format!(
        "is no claim of GitLab; metadata of a Vault token under another name is written \
         \"{VAULT_PREFIX}{name}\""
    ))
}

/// Says whether rights may hang on this claim alone.
pub(super) fn carries_rights(name: &str) -> bool {
    matches!(
        name,
        "project_id" | "job_project_id" | "namespace_id" | "job_namespace_id"
    )
}
