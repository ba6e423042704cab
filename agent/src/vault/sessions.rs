//! Logins, their ends, and whose token goes with a call.
//!
//! Called by the rest of [`super`]: every call in a session goes through [`Vault::call`]. A session of
//! the agent's own identity holds a ticket instead of a token, and each call gets the token of the
//! moment. Invariant: who calls in such a session is told of a refusal only if the token is alive;
//! else the call is made once more with the next token, which is safe because a refused one did
//! nothing.

use rustify::Endpoint;
use serde_json::json;
use tokio::time::Instant;

use deploy::ports::Login;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::secret::Secret;

use super::Vault;
use super::endpoints;
use super::error::Doing;
use super::error::meaning;
use super::identity::Identity;
use super::wire;
use super::wire::Failure;
use super::wire::Reply;

impl Vault {
    /// Runs a call with the session's token.
    pub(super) async fn call<E: Endpoint>(
        &self,
        session: &Session,
        make: impl Fn() -> E,
    ) -> Result<Reply, Failure> {
        let identity = self.identity.as_ref();
        match identity.filter(|identity| identity.is_ticket(&session.token)) {
            Some(identity) => self.own_call(identity, make).await,
            None => self.wire.call(Some(&session.token), make()).await,
        }
    }

    async fn own_call<E: Endpoint>(
        &self,
        identity: &Identity,
        make: impl Fn() -> E,
    ) -> Result<Reply, Failure> {
        let held = identity.token().await.map_err(Failure::NoOwnToken)?;
        let answer = self.wire.call(Some(held.token()), make()).await;
        match answer {
            Err(Failure::Refused(refusal)) if refusal.code == 403 => {
                let seen = Instant::now();
                let newer = identity.doubt(&held, seen).await;
                match newer.map_err(Failure::NoOwnToken)? {
                    Some(newer) => self.wire.call(Some(newer.token()), make()).await,
                    None => Err(Failure::Refused(refusal)),
                }
            }
            other => other,
        }
    }

    /// Opens a session.
    pub(super) async fn open(&self, login: &Login) -> Result<Session, SecretsError> {
        match login {
            Login::Jwt { token, role } => self.trade(token, role).await,
            Login::Passed { token } => {
                wire::header_text(token).map_err(|bad| meaning(bad, Doing::Login))?;
                Ok(Session {
                    token: token.duplicate(),
                    ours: false,
                })
            }
            Login::Own => {
                let identity = self.identity.as_ref();
                let identity = identity.ok_or_else(|| SecretsError::LoginRefused {
                    reason: "the agent has no identity of its own: set vault.identity.method"
                        .to_owned(),
                })?;
                identity.token().await?;
                Ok(Session {
                    token: identity.ticket(),
                    ours: false,
                })
            }
        }
    }

    async fn trade(&self, jwt: &Secret, role: &str) -> Result<Session, SecretsError> {
        let jwt = wire::header_text(jwt).map_err(|_bad| SecretsError::LoginRefused {
            reason: "the id_token is not a JWT".to_owned(),
        })?;
        let endpoint = endpoints::WritePath {
            path: format!(
                "auth/{}/login",
                self.settings.jwt_mount.trim_end_matches('/')
            ),
            body: json!({ "jwt": jwt, "role": role }).to_string().into_bytes(),
        };
        let answer = self
            .wire
            .ask(None, endpoint)
            .await
            .map_err(|failure| meaning(failure, Doing::Login))?;
        let auth = answer.auth.ok_or_else(|| SecretsError::Unexpected {
            reason: "a login without a token".to_owned(),
        })?;
        Ok(Session {
            token: Secret::from_text(auth.client_token),
            ours: true,
        })
    }

    /// Ends a session that is ours.
    pub(super) async fn close(&self, session: Session) -> Result<(), SecretsError> {
        if !session.ours {
            return Ok(());
        }
        let path = "auth/token/revoke-self";
        match self.call(&session, || endpoints::RevokeSelf {}).await {
            Ok(_answer) => Ok(()),
            // The token is dead already, which is what was wanted.
            Err(Failure::Refused(refusal)) if refusal.code == 403 => Ok(()),
            Err(failure) => Err(meaning(failure, Doing::Change { path })),
        }
    }
}
