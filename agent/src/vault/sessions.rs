//! Logins, their ends, and whose token goes with a call.
//!
//! Called by the rest of [`super`]: every call in a session goes through [`Vault::call`].

use rustify::Endpoint;
use serde_json::json;

use deploy::ports::Login;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::secret::Secret;

use super::Vault;
use super::endpoints;
use super::error::Doing;
use super::error::meaning;
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
        self.wire.call(Some(&session.token), make()).await
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
            Login::Own => Err(SecretsError::LoginRefused {
                reason: "the agent has no identity of its own: set vault.identity.method"
                    .to_owned(),
            }),
        }
    }

    async fn trade(&self, jwt: &Secret, role: &str) -> Result<Session, SecretsError> {
        let jwt = wire::header_text(jwt).map_err(|_bad| SecretsError::LoginRefused {
            reason: "the id_token is not a JWT".to_owned(),
        })?;
        let endpoint = endpoints::WritePath {
            path: format!("auth/{}/login", self.jwt_mount),
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
