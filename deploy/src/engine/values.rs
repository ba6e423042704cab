//! The secret values of one run: read, issued, and cleaned up after.
//!
//! Called by [`super`]. Invariant: whatever happens, leases that are in no written Secret are
//! revoked, and the run's own Vault token is ended unless credentials live by it.

use proto::error::Problem;
use proto::event::Stage;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Tools;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::log::RunLog;
use crate::object::ObjectId;
use crate::plan;
use crate::plan::Content;
use crate::ports::Login;
use crate::report;
use crate::resolve;
use crate::resolve::Draft;
use crate::resolve::ResolvedSecrets;
use crate::resolve::clean_up;

/// How long cleaning up after a run may take.
const CLEAN_UP: std::time::Duration = std::time::Duration::from_secs(30);

/// Makes the log take out the values that stand in manifests.
pub(super) fn learn(wanted: &[(ObjectId, Content)], log: &RunLog) {
    for (id, content) in wanted {
        match content {
            Content::Object(body) if id.gvk.is("", "Secret") => {
                plan::secrets::values(body).for_each(|value| log.learn(&value));
            }
            Content::Object(_) | Content::Secret { .. } => {}
        }
    }
}

pub(super) async fn draft(
    permit: &Permit,
    login: Option<&Login>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Option<Draft>, Problem> {
    let specs = &permit.request().spec.secrets;
    if specs.is_empty() {
        // No Vault login happens for a run that needs no secret.
        return Ok(None);
    }
    tools.log.start(Stage::Resolve, "read secrets");
    let draft = resolve::draft(specs, login, tools.ports, patience).await;
    if let Ok(draft) = &draft {
        for spec in specs {
            for (key, source) in &spec.keys {
                tools.log.info(format!(
                    "Secret {} key {key}: {}",
                    spec.name,
                    draft.describe(source)
                ));
            }
        }
    }
    tools.log.end_stage(Stage::Resolve);
    draft.map(Some).map_err(|error| report::of_resolve(&error))
}

pub(super) async fn close(draft: Option<Draft>, tools: &Tools<'_>, patience: &Patience<'_>) {
    if let Some(draft) = draft {
        draft.close(tools.ports, patience).await;
    }
}

pub(super) async fn issue(
    draft: Option<Draft>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<ResolvedSecrets, Problem> {
    let Some(draft) = draft else {
        return Ok(ResolvedSecrets::none());
    };
    match draft.issue(tools.ports, patience).await {
        Ok(secrets) => Ok(secrets),
        Err((error, secrets)) => {
            settle_secrets(secrets, &[], tools, patience).await;
            Err(report::of_resolve(&error))
        }
    }
}

/// Revokes every lease whose Secret was not written, and ends the session unless a credential that
/// is in a Secret now lives by it: Vault revokes the leases of a token together with the token.
pub(super) async fn settle_secrets(
    secrets: ResolvedSecrets,
    written: &[ObjectId],
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) {
    let Some(session) = secrets.session else {
        return;
    };
    let in_use = |secret: &str| {
        written
            .iter()
            .any(|id| id.gvk.is("", "Secret") && id.name == secret)
    };
    let (kept, unused): (Vec<_>, Vec<_>) = secrets
        .leases
        .into_iter()
        .partition(|lease| in_use(&lease.secret));
    // Cleaning up has its own patience: a cancelled or timed out run still revokes.
    let stop = CancellationToken::new();
    let patience = Patience {
        deadline: Instant::now() + CLEAN_UP,
        stop: &stop,
        ..patience.clone()
    };
    clean_up::revoke(&unused, &session, tools.ports, &patience).await;
    if kept.is_empty() {
        clean_up::end_session(session, tools.ports, &patience).await;
        return;
    }
    for lease in &kept {
        tools.log.info(format!(
            "the credential from {} in Secret {} is granted for {} s, and not longer than the Vault token that issued it",
            lease.path, lease.secret, lease.seconds
        ));
    }
}
