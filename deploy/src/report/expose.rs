//! Tells why a job got no values.
//!
//! Called by the agent for `POST /v1/values`. Errors hold paths, fields and names, never a value.

use proto::error::Code;
use proto::error::Problem;

use super::of_vault;
use crate::expose::ExposeError;

/// Tells an error of reading values for a job.
#[must_use]
pub fn of_expose(error: &ExposeError) -> Problem {
    let detail = error.to_string();
    match error {
        ExposeError::NoLogin => Problem::new(Code::VaultDenied, detail)
            .hint("send an id_token (and let the rule name a Vault role), or pass a Vault token"),
        ExposeError::Vault { what, source } => {
            let mut problem = of_vault(what, source);
            if problem.code == Code::VaultUnavailable {
                problem.hint = Some("look at Vault's health, then run the job again".to_owned());
            }
            if problem.code == Code::Internal {
                problem.hint = Some("tell the operator the id of the decision".to_owned());
            }
            problem
        }
        ExposeError::Dynamic { .. } => Problem::new(Code::SpecInvalid, detail).hint(
            "expose fields of a KV secret; a credential that is issued belongs into a Secret of the cluster (`secrets`), \
             where the agent ends it",
        ),
        ExposeError::NoVersions { .. } => {
            Problem::new(Code::SpecInvalid, detail).hint("leave 'version' out")
        }
        ExposeError::FieldMissing { .. } => Problem::new(Code::SecretMissing, detail).hint(
            "look at the names of the fields with 'vault kv get', or correct 'field' in quaymaster.yaml",
        ),
        ExposeError::Template { source, .. } => {
            Problem::new(Code::SpecInvalid, format!("{detail}: {source}"))
                .hint("correct the template in quaymaster.yaml")
        }
        ExposeError::Unfit { .. } => Problem::new(Code::SpecInvalid, detail)
            .hint("a value of this kind belongs into a file of the image or a Secret of the cluster"),
    }
}
