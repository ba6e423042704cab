//! Credentials of runs that were killed before they wrote anything: revoked with the agent's own identity.
//!
//! A background task of an agent that has an identity in Vault; the token of the job that the run had is
//! gone with the process. Invariant: only leases that the journal says are in no Secret are revoked, and
//! one that cannot be now, because Vault is away or its policy forbids it, is tried again, also after
//! another restart.

use std::sync::Arc;
use std::time::Duration;

use deploy::ports::Clock;
use deploy::ports::Login;
use deploy::ports::Secrets;
use deploy::ports::SecretsError;
use deploy::secret::LeaseId;
use tokio_util::sync::CancellationToken;

use crate::journal::DiskJournal;
use crate::telemetry::Chain;

/// The first and the longest wait after a try that failed.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Revokes what is noted, then waits for the end of the agent.
pub(super) async fn revoke_unused(
    journal: DiskJournal,
    secrets: Arc<dyn Secrets>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut wait = AGAIN.0;
    loop {
        let left = match journal.owed_leases(clock.now()).await {
            Ok(owed) if owed.is_empty() => break,
            Ok(owed) => revoke_all(&owed, &journal, &*secrets).await,
            Err(fault) => {
                tracing::error!(error = %Chain(&fault), "unused credentials are not known");
                Left::Refused
            }
        };
        wait = match left {
            Left::Nothing => break,
            // Vault is away: its return is to be noticed soon.
            Left::Away => (wait * 2).min(Duration::from_secs(5)),
            Left::Refused => (wait * 2).min(AGAIN.1),
        };
        tokio::select! {
            // Nothing is under way while the timer runs.
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
    stop.cancelled().await;
}

/// What is left after a try.
enum Left {
    Nothing,
    Away,
    Refused,
}

async fn revoke_all(owed: &[LeaseId], journal: &DiskJournal, secrets: &dyn Secrets) -> Left {
    let own = match secrets.login(&Login::Own).await {
        Ok(own) => own,
        Err(error) => return left(&error),
    };
    let mut all = Left::Nothing;
    for lease in owed {
        match secrets.revoke(&own, lease).await {
            Ok(()) => {
                tracing::info!("revoked a credential of a killed run that is in no Secret");
                if let Err(fault) = journal.forget_lease(lease).await {
                    tracing::error!(error = %Chain(&fault), "a revoked credential stays noted");
                    all = Left::Refused;
                }
            }
            Err(error) => all = left(&error),
        }
    }
    all
}

fn left(error: &SecretsError) -> Left {
    tracing::warn!(%error, "a credential of a killed run could not be revoked yet");
    match error {
        SecretsError::Unavailable { .. } | SecretsError::Unanswered { .. } => Left::Away,
        SecretsError::LoginRefused { .. }
        | SecretsError::Forbidden { .. }
        | SecretsError::Missing { .. }
        | SecretsError::VersionGone { .. }
        | SecretsError::DataPrefix { .. }
        | SecretsError::Unexpected { .. } => Left::Refused,
    }
}
