//! Asks the agent for the values under `expose`, and keeps them from being shown.
//!
//! Called by `exec` and `print`. Only what the agent needs for that is sent: version, name, target and
//! `expose` of the spec, so that variables which only a deploy has need not be set here.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use proto::error::Code;
use proto::error::Problem;
use proto::values::Values;
use zeroize::Zeroizing;

use crate::follow::Told;
use crate::pack;
use crate::session::Session;
use crate::session::ask;
use crate::wire::Call;

/// Values by the names of their variables.
pub(crate) type Variables = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Asks for the values that a spec exposes.
///
/// # Errors
/// What is wrong with the spec, or why the agent gives none.
pub(crate) async fn fetch(session: &mut Session<'_>, file: &Path) -> Result<Variables, Problem> {
    let bundle = pack::exposing(file, session.environment).map_err(pack::PackError::problem)?;
    let call = Call::post("/v1/values").bundle(Bytes::from(bundle.archive));
    let told: Told<Values> = ask(session.agent, &call).await?;
    let mut variables = Variables::new();
    for (name, value) in &told.value.values {
        let decoded = value.decode().ok_or_else(|| {
            Problem::new(
                Code::Internal,
                format!("the agent's value of {name} is no base64"),
            )
        })?;
        variables.insert(name.clone(), decoded);
    }
    Ok(variables)
}
