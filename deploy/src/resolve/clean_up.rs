//! Revokes what a run issued and nobody uses, and ends its Vault session.
//!
//! Called by [`crate::engine`] at the end of every run, also of a failed or cancelled one. Nothing
//! here fails the run: what cannot be revoked is told, and ends by itself.

use futures::FutureExt as _;

use super::HeldLease;
use crate::backoff::Patience;
use crate::backoff::Trouble;
use crate::class::Class;
use crate::ports::Entry;
use crate::ports::Ports;
use crate::ports::SecretsError;
use crate::ports::Session;

/// Revokes leases and says which could not be.
pub async fn revoke(
    leases: &[HeldLease],
    session: &Session,
    own: Option<&Session>,
    ports: &Ports,
    patience: &Patience<'_>,
) {
    for lease in leases {
        let result = patience
            .retry(
                || end(lease, session, own, ports).boxed(),
                |error: &SecretsError| Trouble {
                    // Revoking is idempotent, so an unanswered one is simply sent again.
                    class: if error.class().is_transient() {
                        Class::Upstream
                    } else {
                        error.class()
                    },
                    retry_after_seconds: None,
                    reason: error.to_string(),
                },
            )
            .await;
        match result {
            Ok(()) => {
                patience.log.info(format!(
                    "revoked the credential from {} for Secret {}",
                    lease.path, lease.secret
                ));
                for entry in entries(lease) {
                    if let Err(error) = ports.journal.append(entry).await {
                        patience.log.warn(error.to_string());
                    }
                }
            }
            Err(error) => patience.log.warn(format!(
                "could not revoke the credential from {} ({error}); it ends by itself within {} s",
                lease.path, lease.seconds
            )),
        }
    }
}

/// Ends what holds a credential: the token that was made for it, or else its lease.
async fn end(
    lease: &HeldLease,
    session: &Session,
    own: Option<&Session>,
    ports: &Ports,
) -> Result<(), SecretsError> {
    if let (Some(accessor), Some(own)) = (&lease.accessor, own) {
        return ports.secrets.end(own, accessor).await;
    }
    match &lease.id {
        Some(id) => ports.secrets.revoke(session, id).await,
        None => Ok(()),
    }
}

fn entries(lease: &HeldLease) -> impl Iterator<Item = Entry> {
    let token = lease.accessor.clone();
    let token = token.map(|accessor| Entry::TokenEnded { accessor });
    // The lease of such a token was never noted by itself.
    let lease = lease.id.clone().filter(|_| token.is_none());
    let lease = lease.map(|lease| Entry::LeaseRevoked { lease });
    token.into_iter().chain(lease)
}

/// Ends a session that is ours; failure is only told, the token ends by itself.
pub async fn end_session(session: Session, ports: &Ports, patience: &Patience<'_>) {
    if !session.ours {
        return;
    }
    if let Err(error) = ports.secrets.logout(session).await {
        patience.log.warn(format!(
            "could not revoke the run's Vault token ({error}); it ends at its TTL"
        ));
    }
}
