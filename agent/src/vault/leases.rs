//! Leases and the tokens that hold them: made, renewed, ended.
//!
//! Called by [`super`] only. Invariant: [`SecretsError::Missing`] is said only where Vault's own
//! words say that the lease or token is gone, because who is told so replaces a credential. Renewing
//! and ending may be repeated, and a token that nobody uses costs nothing: a cut answer is no unknown
//! outcome here, but for [`Vault::revoke_lease`], which tells it as its callers expect.

use std::collections::BTreeMap;

use serde::Deserialize;

use deploy::ports::Child;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::secret::Accessor;
use deploy::secret::Lease;
use deploy::secret::LeaseId;
use deploy::secret::Secret;

use super::Vault;
use super::endpoints;
use super::error::Doing;
use super::error::meaning;
use super::error::unavailable;
use super::error::words;
use super::wire::Envelope;
use super::wire::Failure;
use super::wire::Refusal;

const RENEW: &str = "sys/leases/renew";
const LOOKUP: &str = "sys/leases/lookup";
const CREATE: &str = "auth/token/create";
const EXTEND: &str = "auth/token/renew-accessor";
const END: &str = "auth/token/revoke-accessor";

/// How long a child token is asked to live: the server's longest by default, and it clamps more.
const CHILD_TTL: &str = "768h";

/// By which an operator recognizes a child token in lists of tokens.
const NAME: &str = "quaymaster";

/// Vault's words for a lease that is not there, or whose time is over.
const NO_LEASE: [&str; 3] = ["lease not found", "invalid lease", "lease expired"];

/// What looking a lease up tells.
#[derive(Deserialize)]
struct Found {
    data: FoundLease,
}

#[derive(Deserialize)]
struct FoundLease {
    ttl: u64,
    renewable: bool,
}

impl Vault {
    /// Renews a lease.
    pub(super) async fn renew_lease(
        &self,
        session: &Session,
        lease: &LeaseId,
        seconds: u64,
    ) -> Result<Lease, SecretsError> {
        let endpoint = || endpoints::RenewLease {
            lease_id: lease.0.clone(),
            increment: seconds,
        };
        let answer = self.call(session, endpoint).await;
        match answer.and_then(|reply| reply.parse::<Envelope>()) {
            Ok(answer) => Ok(Lease {
                id: lease.clone(),
                seconds: u64::from(answer.lease_duration),
                renewable: answer.renewable,
            }),
            Err(Failure::Refused(refusal)) if refusal.says(&["lease is not renewable"]) => {
                self.look_up_lease(session, lease).await
            }
            Err(failure) => Err(lease_trouble(failure, RENEW)),
        }
    }

    /// Says how long a lease lives that cannot be renewed. Where the right to look is missing, that
    /// is the error: it names what the policy lacks, and nobody takes the lease for gone.
    async fn look_up_lease(
        &self,
        session: &Session,
        lease: &LeaseId,
    ) -> Result<Lease, SecretsError> {
        let endpoint = || endpoints::LookupLease {
            lease_id: lease.0.clone(),
        };
        let answer = self.call(session, endpoint).await;
        let found = answer.and_then(|reply| reply.parse::<Found>());
        let found = found.map_err(|failure| lease_trouble(failure, LOOKUP))?;
        Ok(Lease {
            id: lease.clone(),
            seconds: found.data.ttl,
            renewable: found.data.renewable,
        })
    }

    /// Revokes a lease and waits until its engine has done it.
    pub(super) async fn revoke_lease(
        &self,
        session: &Session,
        lease: &LeaseId,
    ) -> Result<(), SecretsError> {
        let endpoint = || endpoints::RevokeLease {
            lease_id: lease.0.clone(),
            sync: true,
        };
        let path = "sys/leases/revoke";
        let answer = self.call(session, endpoint).await;
        match answer.and_then(|reply| reply.done()) {
            Ok(()) => Ok(()),
            Err(Failure::Refused(refusal)) if refusal.code == 400 => {
                if refusal.says(&["invalid lease", "lease not found"]) {
                    return Ok(());
                }
                // The engine behind it cannot revoke now; the lease stays and can be tried again.
                let reason = "the engine could not revoke the lease".to_owned();
                Err(unavailable(reason, refusal.retry_after_seconds))
            }
            Err(failure) => Err(meaning(failure, Doing::Change { path })),
        }
    }

    /// Makes a token below the session's.
    pub(super) async fn make_child(&self, session: &Session) -> Result<Child, SecretsError> {
        let endpoint = || endpoints::CreateToken {
            r#type: "service",
            renewable: true,
            ttl: CHILD_TTL,
            display_name: NAME,
            meta: BTreeMap::from([("made-by", NAME)]),
        };
        let answer = self.call(session, endpoint).await;
        let answer = answer.and_then(|reply| reply.parse::<Envelope>());
        let answer = answer.map_err(|failure| token_trouble(failure, CREATE))?;
        let auth = answer.auth.ok_or_else(|| SecretsError::Unexpected {
            reason: "a child token was made and not told".to_owned(),
        })?;
        Ok(Child {
            session: Session {
                token: Secret::from_text(auth.client_token),
                ours: false,
            },
            accessor: Accessor(auth.accessor),
            seconds: auth.lease_duration,
        })
    }

    /// Renews a child token.
    pub(super) async fn extend_child(
        &self,
        session: &Session,
        accessor: &Accessor,
    ) -> Result<u64, SecretsError> {
        let endpoint = || endpoints::RenewAccessor {
            accessor: accessor.0.clone(),
            increment: CHILD_TTL,
        };
        let answer = self.call(session, endpoint).await;
        let answer = answer.and_then(|reply| reply.parse::<Envelope>());
        let answer = answer.map_err(|failure| token_trouble(failure, EXTEND))?;
        let auth = answer.auth.ok_or_else(|| SecretsError::Unexpected {
            reason: "a token was renewed and its time not told".to_owned(),
        })?;
        Ok(auth.lease_duration)
    }

    /// Ends a child token; its leases are ended by the server, which goes on trying where an engine
    /// is away. OpenBao answers a token that is gone with success and a warning, Vault refuses it.
    pub(super) async fn end_child(
        &self,
        session: &Session,
        accessor: &Accessor,
    ) -> Result<(), SecretsError> {
        let endpoint = || endpoints::RevokeAccessor {
            accessor: accessor.0.clone(),
        };
        let answer = self.call(session, endpoint).await;
        match answer.and_then(|reply| reply.done()) {
            Ok(()) => Ok(()),
            Err(Failure::Garbled) => Err(meaning(Failure::Garbled, Doing::Change { path: END })),
            Err(failure) => match token_trouble(failure, END) {
                SecretsError::Missing { .. } => Ok(()),
                error @ (SecretsError::LoginRefused { .. }
                | SecretsError::Forbidden { .. }
                | SecretsError::VersionGone { .. }
                | SecretsError::DataPrefix { .. }
                | SecretsError::Unavailable { .. }
                | SecretsError::Unanswered { .. }
                | SecretsError::Unexpected { .. }) => Err(error),
            },
        }
    }
}

/// What a failed renewal or look-up of a lease means.
fn lease_trouble(failure: Failure, path: &str) -> SecretsError {
    match failure {
        Failure::Refused(refusal) if refusal.code == 400 && refusal.says(&NO_LEASE) => {
            SecretsError::Missing {
                path: path.to_owned(),
            }
        }
        // The engine behind it, such as a database that is away: the lease stands as it did.
        Failure::Refused(refusal) if refusal.code == 400 => unavailable(
            format!("the lease cannot be renewed now: {}", words(&refusal)),
            refusal.retry_after_seconds,
        ),
        other => standing(other, path),
    }
}

/// What a failed call about a token means.
fn token_trouble(failure: Failure, path: &str) -> SecretsError {
    match failure {
        Failure::Refused(refusal) if is_gone(&refusal) => SecretsError::Missing {
            path: path.to_owned(),
        },
        other => standing(other, path),
    }
}

fn is_gone(refusal: &Refusal) -> bool {
    matches!(refusal.code, 400 | 403 | 404)
        && refusal.says(&["invalid accessor", "No token found with this accessor"])
}

/// What a failure means that says nothing about the lease or token: it stands as it did.
fn standing(failure: Failure, path: &str) -> SecretsError {
    match failure {
        Failure::Refused(refusal) if matches!(refusal.code, 400 | 404 | 405) => {
            SecretsError::Unexpected {
                reason: format!("status {} for {path}: {}", refusal.code, words(&refusal)),
            }
        }
        other => meaning(other, Doing::Read { path, version: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deploy::class::Class;

    fn refused(code: u16, words: &str) -> Failure {
        Failure::Refused(Refusal {
            code,
            errors: vec![words.to_owned()],
            speaks_vault: true,
            ..Refusal::default()
        })
    }

    fn missing(path: &str) -> SecretsError {
        SecretsError::Missing {
            path: path.to_owned(),
        }
    }

    #[test]
    fn only_vaults_words_make_a_lease_gone() {
        for words in NO_LEASE {
            assert_eq!(lease_trouble(refused(400, words), RENEW), missing(RENEW));
        }
        let rows = [
            (
                refused(400, "failed to renew entry: dial tcp"),
                Class::Upstream,
            ),
            (refused(403, "permission denied"), Class::Denied),
            (refused(404, "no handler for route"), Class::Bug),
            (refused(404, ""), Class::Bug),
            (refused(500, "internal error"), Class::Upstream),
            (refused(503, "Vault is sealed"), Class::Upstream),
            (
                Failure::Cut {
                    reason: "reset".to_owned(),
                },
                Class::Upstream,
            ),
            (Failure::Garbled, Class::Bug),
        ];
        for (failure, class) in rows {
            let error = lease_trouble(failure.clone(), RENEW);
            assert_eq!(error.class(), class, "{failure:?}");
        }
    }

    #[test]
    fn only_vaults_words_make_a_token_gone() {
        let gone = "1 error occurred:\n\t* invalid accessor\n\n";
        for code in [400, 403, 404] {
            assert_eq!(token_trouble(refused(code, gone), EXTEND), missing(EXTEND));
        }
        let denied = token_trouble(refused(403, "permission denied"), EXTEND);
        assert_eq!(denied.class(), Class::Denied);
        let odd = token_trouble(refused(404, "no handler for route"), EXTEND);
        assert_eq!(odd.class(), Class::Bug);
    }
}
