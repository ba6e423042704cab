//! The error body: RFC 9457 problem details with our own stable members.
//!
//! Made at the HTTP edge of the agent, read by callers. `code` is a closed set and never changes
//! its meaning; `title` and `detail` are for people and may change. No member ever holds a secret
//! value, nor a value from the caller's files: names of fields and keys may be told, values never.

use serde::Deserialize;
use serde::Serialize;

/// The media type of a problem body.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// At most this many places are listed in one problem.
pub const MAX_ERRORS: usize = 20;

/// What went wrong, as a stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The HTTP request itself is malformed or carries parameters that do not exist (400).
    BadRequest,
    /// The call lacks the client header (400).
    ClientHeaderMissing,
    /// The request came from a browser or another protocol (403).
    CrossProtocol,
    /// No token at all (401).
    TokenMissing,
    /// The token is not one that can be read (401).
    TokenMalformed,
    /// The token is past its end, too old, or not valid yet (401).
    TokenExpired,
    /// Issuer, audience, algorithm or key are not the expected ones (401).
    TokenUntrusted,
    /// The passed Vault token was refused (401).
    VaultTokenRefused,
    /// No rule allows this (403).
    Denied,
    /// The rule allows it, the cluster's own RBAC does not (403).
    ClusterDenied,
    /// Vault does not let the caller's role read this path (403).
    VaultDenied,
    /// No such path, method aside (404).
    NotFound,
    /// The path exists, the method does not (405).
    MethodNotAllowed,
    /// The same idempotency key was used with another body (409).
    IdempotencyConflict,
    /// A newer pipeline deployed the app already (409).
    Superseded,
    /// Another run holds the app (409).
    Locked,
    /// The world is no longer as the saved plan saw it (409).
    PlanChanged,
    /// Over one of the size limits (413).
    TooLarge,
    /// The body's media type is not taken (415).
    UnsupportedMediaType,
    /// The bundle is not a well formed archive (422).
    BundleInvalid,
    /// `quaymaster.yaml` has errors (422).
    SpecInvalid,
    /// A manifest has errors (422).
    ManifestInvalid,
    /// The API server refuses an object as invalid (422).
    ObjectInvalid,
    /// A secret, field or version that the spec names does not exist (424).
    SecretMissing,
    /// A Secret cannot be kept fresh as the spec asks (424).
    RotationRefused,
    /// Vault did not answer within the run's deadline (424).
    VaultUnavailable,
    /// The chart that the spec names does not exist, or its server does not give it out (424).
    ChartMissing,
    /// What came as the chart is none, is too large, or is another one than was named (424).
    ChartInvalid,
    /// The server of the chart did not answer within the run's deadline (424).
    ChartUnavailable,
    /// The Git server does not take the credential (424).
    GitDenied,
    /// The repository or branch that the spec names does not exist (424).
    GitMissing,
    /// The Git server refuses the push (424).
    GitRefused,
    /// The Git server did not answer within the run's deadline (424).
    GitUnavailable,
    /// An image of the spec is not in its registry (424).
    ImageMissing,
    /// The registry does not let the agent look for an image (424).
    RegistryDenied,
    /// The registry answers what no registry should (424).
    RegistryInvalid,
    /// The registry did not answer within the run's deadline (424).
    RegistryUnavailable,
    /// The repository has no place for an image of the spec (424).
    ImagePlaceMissing,
    /// Flux could not carry the deploy out as things are (424).
    FluxNotReady,
    /// The environment whose images were to be promoted is not ready with them (424).
    PromotionRefused,
    /// The API server did not answer within the run's deadline (424).
    ClusterUnavailable,
    /// Another field manager owns a field (424).
    ApplyConflict,
    /// The rollout failed; the digest names the cause (424).
    RolloutFailed,
    /// The rollout was not done at the deadline (424).
    RolloutTimeout,
    /// The run was cancelled (424).
    Cancelled,
    /// The agent ended while the run was on; what is known is in the detail (424).
    Interrupted,
    /// Headers over the limit (431).
    HeadersTooLarge,
    /// The run is still on (504).
    StillRunning,
    /// The agent is stopping, starting or full; try again (503).
    Unavailable,
    /// A fault of the agent (500).
    Internal,
}

/// One place in the caller's files, or one member of the request, with what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file inside the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The column, counted from 1, in characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
    /// The path of the field, such as `secrets[0].keys.password.vault`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is wrong and what is expected; never a value.
    pub message: String,
}

impl Place {
    /// Makes a place that is a whole file or no file.
    #[must_use]
    pub fn message(message: impl Into<String>) -> Self {
        Self {
            file: None,
            line: None,
            column: None,
            path: None,
            message: message.into(),
        }
    }
}

/// An RFC 9457 problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI reference that names the kind of problem: `urn:quaymaster:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// One short sentence, the same for every problem of this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened in this case.
    pub detail: String,
    /// The path of the request, or of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The stable word.
    pub code: Code,
    /// Whether sending the same request again may succeed.
    pub retryable: bool,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The id of the policy decision, to be named to the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    /// At most [`MAX_ERRORS`] places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Place>,
}

impl Problem {
    /// Makes a problem of `code` with its own status, title and retryability.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:quaymaster:problem:{}", code.word()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            instance: None,
            code,
            retryable: code.retryable(),
            hint: None,
            decision_id: None,
            errors: Vec::new(),
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds places, the first [`MAX_ERRORS`] of them.
    #[must_use]
    pub fn places(mut self, places: impl IntoIterator<Item = Place>) -> Self {
        self.errors = places.into_iter().take(MAX_ERRORS).collect();
        self
    }
}

impl Code {
    /// Returns the HTTP status that belongs to this code.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::ClientHeaderMissing => 400,
            Self::TokenMissing
            | Self::TokenMalformed
            | Self::TokenExpired
            | Self::TokenUntrusted
            | Self::VaultTokenRefused => 401,
            Self::CrossProtocol | Self::Denied | Self::ClusterDenied | Self::VaultDenied => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::IdempotencyConflict | Self::Superseded | Self::Locked | Self::PlanChanged => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::BundleInvalid
            | Self::SpecInvalid
            | Self::ManifestInvalid
            | Self::ObjectInvalid => 422,
            Self::SecretMissing
            | Self::RotationRefused
            | Self::VaultUnavailable
            | Self::ChartMissing
            | Self::ChartInvalid
            | Self::ChartUnavailable
            | Self::GitDenied
            | Self::GitMissing
            | Self::GitRefused
            | Self::GitUnavailable
            | Self::ImageMissing
            | Self::RegistryDenied
            | Self::RegistryInvalid
            | Self::RegistryUnavailable
            | Self::ImagePlaceMissing
            | Self::FluxNotReady
            | Self::PromotionRefused
            | Self::ClusterUnavailable
            | Self::ApplyConflict
            | Self::RolloutFailed
            | Self::RolloutTimeout
            | Self::Cancelled
            | Self::Interrupted => 424,
            Self::HeadersTooLarge => 431,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::StillRunning => 504,
        }
    }

    /// Returns the word as it stands on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::ClientHeaderMissing => "client_header_missing",
            Self::CrossProtocol => "cross_protocol",
            Self::TokenMissing => "token_missing",
            Self::TokenMalformed => "token_malformed",
            Self::TokenExpired => "token_expired",
            Self::TokenUntrusted => "token_untrusted",
            Self::VaultTokenRefused => "vault_token_refused",
            Self::Denied => "denied",
            Self::ClusterDenied => "cluster_denied",
            Self::VaultDenied => "vault_denied",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::Superseded => "superseded",
            Self::Locked => "locked",
            Self::PlanChanged => "plan_changed",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::BundleInvalid => "bundle_invalid",
            Self::SpecInvalid => "spec_invalid",
            Self::ManifestInvalid => "manifest_invalid",
            Self::ObjectInvalid => "object_invalid",
            Self::SecretMissing => "secret_missing",
            Self::RotationRefused => "rotation_refused",
            Self::VaultUnavailable => "vault_unavailable",
            Self::ChartMissing => "chart_missing",
            Self::ChartInvalid => "chart_invalid",
            Self::ChartUnavailable => "chart_unavailable",
            Self::GitDenied => "git_denied",
            Self::GitMissing => "git_missing",
            Self::GitRefused => "git_refused",
            Self::GitUnavailable => "git_unavailable",
            Self::ImageMissing => "image_missing",
            Self::RegistryDenied => "registry_denied",
            Self::RegistryInvalid => "registry_invalid",
            Self::RegistryUnavailable => "registry_unavailable",
            Self::ImagePlaceMissing => "image_place_missing",
            Self::FluxNotReady => "flux_not_ready",
            Self::PromotionRefused => "promotion_refused",
            Self::ClusterUnavailable => "cluster_unavailable",
            Self::ApplyConflict => "apply_conflict",
            Self::RolloutFailed => "rollout_failed",
            Self::RolloutTimeout => "rollout_timeout",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::HeadersTooLarge => "headers_too_large",
            Self::StillRunning => "still_running",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// Returns one short sentence for people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request is malformed",
            Self::ClientHeaderMissing => "The X-Quaymaster-Client header is missing",
            Self::CrossProtocol => "The request comes from another protocol",
            Self::TokenMissing => "No token was sent",
            Self::TokenMalformed => "The token cannot be read",
            Self::TokenExpired => "The token is expired or not valid yet",
            Self::TokenUntrusted => "The token is not one of the trusted issuer for this agent",
            Self::VaultTokenRefused => "The Vault token was refused",
            Self::Denied => "No rule allows this",
            Self::ClusterDenied => "The cluster does not allow this",
            Self::VaultDenied => "Vault does not allow this",
            Self::NotFound => "There is nothing here",
            Self::MethodNotAllowed => "The method is not allowed here",
            Self::IdempotencyConflict => "The idempotency key was used for another request",
            Self::Superseded => "A newer pipeline deployed the app already",
            Self::Locked => "Another run holds the app",
            Self::PlanChanged => "The world changed after the plan was saved",
            Self::TooLarge => "The request is over a size limit",
            Self::UnsupportedMediaType => "The media type is not taken",
            Self::BundleInvalid => "The bundle is not a valid archive",
            Self::SpecInvalid => "quaymaster.yaml is not valid",
            Self::ManifestInvalid => "A manifest is not valid",
            Self::ObjectInvalid => "The cluster refuses an object as invalid",
            Self::SecretMissing => "A secret that the spec names does not exist",
            Self::RotationRefused => "A Secret cannot be kept fresh as the spec asks",
            Self::VaultUnavailable => "Vault did not answer in time",
            Self::ChartMissing => "The chart that the spec names cannot be had",
            Self::ChartInvalid => "The chart that was fetched is not taken",
            Self::ChartUnavailable => "The chart's server did not answer in time",
            Self::GitDenied => "The Git server does not take the credential",
            Self::GitMissing => "The repository or branch does not exist",
            Self::GitRefused => "The Git server refuses the push",
            Self::GitUnavailable => "The Git server did not answer in time",
            Self::ImageMissing => "An image is not in its registry",
            Self::RegistryDenied => "The registry does not let the agent look for an image",
            Self::RegistryInvalid => "The registry answers what no registry should",
            Self::RegistryUnavailable => "The registry did not answer in time",
            Self::ImagePlaceMissing => "The repository has no place for an image",
            Self::FluxNotReady => "Flux cannot carry this out now",
            Self::PromotionRefused => "The environment to promote from is not ready",
            Self::ClusterUnavailable => "The cluster did not answer in time",
            Self::ApplyConflict => "Another manager owns a field",
            Self::RolloutFailed => "The rollout failed",
            Self::RolloutTimeout => "The rollout was not done in time",
            Self::Cancelled => "The run was cancelled",
            Self::Interrupted => "The agent was stopped during the run",
            Self::HeadersTooLarge => "The headers are over the limit",
            Self::StillRunning => "The run is still on",
            Self::Unavailable => "The agent cannot take the request now",
            Self::Internal => "The agent made a mistake",
        }
    }

    /// Says whether the same request may succeed when it is sent again.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Self::VaultUnavailable
                | Self::ChartUnavailable
                | Self::GitUnavailable
                | Self::RegistryUnavailable
                | Self::ClusterUnavailable
                | Self::RolloutTimeout
                | Self::Locked
                | Self::Interrupted
                | Self::StillRunning
                | Self::Unavailable
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_and_serde_agree() {
        for code in [
            Code::BadRequest,
            Code::TokenUntrusted,
            Code::StillRunning,
            Code::ApplyConflict,
            Code::ChartUnavailable,
            Code::RotationRefused,
            Code::FluxNotReady,
            Code::ImageMissing,
            Code::RegistryUnavailable,
            Code::PromotionRefused,
        ] {
            let json = serde_json::to_string(&code).expect("a code is serializable");
            assert_eq!(json, format!("\"{}\"", code.word()));
        }
    }
}
