//! The `Secrets` port on a real Vault or OpenBao.
//!
//! Made by `app`, called by the engine through the port, and by `auth` and `readiness` for the two
//! calls that are not in it. Invariants: one call is one request that is bounded in time and never
//! repeated here (one exception: a read that met a bare 404 asks once more to tell a missing version
//! from a missing secret); what vaultrs says is mapped in [`error`] and goes no further; a token is
//! revealed only for the header or login body that carries it.

mod data;
mod endpoints;
mod error;
mod setup;
mod wire;

use futures::FutureExt;
use futures::future::BoxFuture;
use vaultrs::api::kv2::requests::ReadSecretRequest;

use deploy::ports::Engine;
use deploy::ports::Login;
use deploy::ports::Mount;
use deploy::ports::SecretData;
use deploy::ports::Secrets;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::secret::LeaseId;
use deploy::secret::Secret;
use deploy::secret::VaultPath;

pub use self::data::TokenLookup;
use self::error::Doing;
use self::error::meaning;
pub use self::setup::VaultSettings;
pub use self::setup::VaultSetupError;
use self::wire::Failure;
use self::wire::Wire;

/// Vault or OpenBao behind its HTTP API.
pub struct Vault {
    wire: Wire,
    jwt_mount: String,
}

impl Vault {
    /// Makes the adapter; nothing is sent.
    ///
    /// # Errors
    /// Says which setting cannot be used.
    pub fn new(settings: VaultSettings) -> Result<Self, VaultSetupError> {
        Ok(Self {
            wire: setup::wire(&settings)?,
            jwt_mount: settings.jwt_mount.trim_end_matches('/').to_owned(),
        })
    }

    /// Looks up what a token is. A token that Vault does not know is a refused login.
    ///
    /// # Errors
    /// Refused, or Vault is away.
    pub async fn lookup_self(&self, token: &Secret) -> Result<TokenLookup, SecretsError> {
        let answer = self
            .wire
            .ask(Some(token), endpoints::LookupSelf {})
            .await
            .map_err(|failure| meaning(failure, Doing::Login))?;
        Ok(data::lookup(&answer.data.unwrap_or_default()))
    }

    /// Says whether Vault can serve: initialized, unsealed, and active or a standby that forwards.
    ///
    /// # Errors
    /// Says in words what is wrong.
    pub async fn health(&self) -> Result<(), String> {
        match self.wire.tell(None, endpoints::Health {}).await {
            Ok(()) => Ok(()),
            Err(Failure::Refused(refusal)) => match refusal.code {
                // Standby nodes pass requests on to the active one.
                429 | 473 => Ok(()),
                472 => Err("disaster recovery standby".to_owned()),
                501 => Err("not initialized".to_owned()),
                503 => Err("sealed".to_owned()),
                code => Err(format!("status {code}")),
            },
            Err(Failure::NotSent { reason } | Failure::Cut { reason }) => Err(reason),
            Err(Failure::BadToken | Failure::Garbled) => {
                Err("no answer of Vault's form".to_owned())
            }
        }
    }

    async fn trade(&self, jwt: &Secret, role: String) -> Result<Session, SecretsError> {
        let refused = |reason: &str| SecretsError::LoginRefused {
            reason: reason.to_owned(),
        };
        let endpoint = endpoints::JwtLogin {
            mount: self.jwt_mount.clone(),
            jwt: wire::header_text(jwt).map_err(|_bad| refused("the id_token is not a JWT"))?,
            role,
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

    async fn read_versioned(
        &self,
        session: &Session,
        mount: &Mount,
        path: &VaultPath,
        version: Option<u64>,
    ) -> Result<SecretData, SecretsError> {
        let inner = inner_of(mount, path)?;
        let ask = |version| {
            let endpoint = ReadSecretRequest {
                mount: mount.path.clone(),
                path: inner.to_owned(),
                version,
            };
            self.wire.ask(Some(&session.token), endpoint)
        };
        let number = version.unwrap_or(0);
        let doing = Doing::Read {
            path: path.as_str(),
            version: number,
        };
        match ask(version).await {
            Ok(answer) => data::versioned(answer, path.as_str(), number),
            Err(failure) if version.is_some() && is_bare_missing(&failure) => {
                let gone = match ask(None).await {
                    Ok(_latest) => true,
                    Err(Failure::Refused(refusal)) => refusal.tombstone,
                    Err(_other) => false,
                };
                Err(if gone {
                    SecretsError::VersionGone {
                        path: path.to_string(),
                        version: number,
                    }
                } else {
                    meaning(failure, doing)
                })
            }
            Err(failure) => Err(meaning(failure, doing)),
        }
    }

    async fn read_plain(
        &self,
        session: &Session,
        path: &VaultPath,
        doing: Doing<'_>,
    ) -> Result<SecretData, SecretsError> {
        let endpoint = endpoints::ReadPath {
            path: path.to_string(),
        };
        let answer = self.wire.ask(Some(&session.token), endpoint).await;
        let answer = answer.map_err(|failure| meaning(failure, doing))?;
        data::plain(answer, path.as_str())
    }
}

impl Secrets for Vault {
    fn login<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Session, SecretsError>> {
        async move {
            match login {
                Login::Jwt { token, role } => self.trade(token, role.clone()).await,
                Login::Passed { token } => {
                    wire::header_text(token).map_err(|bad| meaning(bad, Doing::Login))?;
                    Ok(Session {
                        token: token.duplicate(),
                        ours: false,
                    })
                }
            }
        }
        .boxed()
    }

    fn engine<'a>(
        &'a self,
        session: &'a Session,
        path: &'a VaultPath,
    ) -> BoxFuture<'a, Result<Mount, SecretsError>> {
        async move {
            let endpoint = endpoints::MountOf {
                path: path.to_string(),
            };
            let doing = Doing::Read {
                path: path.as_str(),
                version: 0,
            };
            let answer = self.wire.ask(Some(&session.token), endpoint).await;
            let answer = answer.map_err(|failure| meaning(failure, doing))?;
            data::mount(answer.data.as_ref(), path)
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        session: &'a Session,
        mount: &'a Mount,
        path: &'a VaultPath,
        version: Option<u64>,
    ) -> BoxFuture<'a, Result<SecretData, SecretsError>> {
        async move {
            match (mount.engine, version) {
                (Engine::KvV2, version) => self.read_versioned(session, mount, path, version).await,
                (Engine::KvV1, None) => {
                    let doing = Doing::Read {
                        path: path.as_str(),
                        version: 0,
                    };
                    self.read_plain(session, path, doing).await
                }
                (Engine::KvV1, Some(version)) => Err(SecretsError::VersionGone {
                    path: path.to_string(),
                    version,
                }),
                (Engine::Dynamic, _) => Err(SecretsError::Unexpected {
                    reason: format!("{path} is not a KV secret and cannot be read twice"),
                }),
            }
        }
        .boxed()
    }

    fn issue<'a>(
        &'a self,
        session: &'a Session,
        path: &'a VaultPath,
    ) -> BoxFuture<'a, Result<SecretData, SecretsError>> {
        async move {
            let doing = Doing::Change {
                path: path.as_str(),
            };
            self.read_plain(session, path, doing).await
        }
        .boxed()
    }

    fn revoke<'a>(
        &'a self,
        session: &'a Session,
        lease: &'a LeaseId,
    ) -> BoxFuture<'a, Result<(), SecretsError>> {
        async move {
            let endpoint = endpoints::RevokeLease {
                lease_id: lease.0.clone(),
                sync: true,
            };
            let path = "sys/leases/revoke";
            match self.wire.tell(Some(&session.token), endpoint).await {
                Ok(()) => Ok(()),
                Err(Failure::Refused(refusal)) if refusal.code == 400 => {
                    let says = |text: &str| refusal.errors.iter().any(|e| e.contains(text));
                    if says("invalid lease") || says("lease not found") {
                        return Ok(());
                    }
                    // The engine behind it cannot revoke now; the lease stays and can be tried again.
                    Err(SecretsError::Unavailable {
                        reason: "the engine could not revoke the lease".to_owned(),
                        retry_after_seconds: refusal.retry_after_seconds,
                    })
                }
                Err(failure) => Err(meaning(failure, Doing::Change { path })),
            }
        }
        .boxed()
    }

    fn logout(&self, session: Session) -> BoxFuture<'_, Result<(), SecretsError>> {
        async move {
            if !session.ours {
                return Ok(());
            }
            let path = "auth/token/revoke-self";
            let endpoint = endpoints::RevokeSelf {};
            match self.wire.tell(Some(&session.token), endpoint).await {
                Ok(()) => Ok(()),
                // The token is dead already, which is what was wanted.
                Err(Failure::Refused(refusal)) if refusal.code == 403 => Ok(()),
                Err(failure) => Err(meaning(failure, Doing::Change { path })),
            }
        }
        .boxed()
    }
}

fn inner_of<'p>(mount: &Mount, path: &'p VaultPath) -> Result<&'p str, SecretsError> {
    data::inner(&mount.path, path).ok_or_else(|| SecretsError::Unexpected {
        reason: format!("{path} is not below the mount {}", mount.path),
    })
}

fn is_bare_missing(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(refusal) if refusal.code == 404 && !refusal.tombstone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    fn vault_at(address: SocketAddr) -> Vault {
        let settings = VaultSettings {
            address: format!("http://{address}"),
            ca_file: None,
            jwt_mount: "jwt".to_owned(),
            namespace: None,
            timeout: Duration::from_secs(30),
        };
        Vault::new(settings).expect("plain http to loopback is fine")
    }

    /// Reads one request and answers it with these bytes; returns what it read.
    async fn one_answer(
        answer: &'static str,
    ) -> (SocketAddr, tokio::task::JoinHandle<Option<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener");
        let seen = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.ok()?;
            let mut request = vec![0; 16 << 10];
            let length = stream.read(&mut request).await.ok()?;
            stream.write_all(answer.as_bytes()).await.ok()?;
            request.truncate(length);
            String::from_utf8(request).ok()
        });
        (address, seen)
    }

    fn session() -> Session {
        Session {
            token: Secret::from_text("s.token".to_owned()),
            ours: true,
        }
    }

    fn path() -> VaultPath {
        VaultPath::parse("database/creds/flask").expect("the path is valid")
    }

    #[tokio::test]
    async fn an_issue_that_is_cut_has_an_unknown_outcome() {
        let (address, seen) = one_answer("").await;
        let issued = vault_at(address).issue(&session(), &path()).await;
        let expected = SecretsError::Unanswered {
            path: "database/creds/flask".to_owned(),
        };
        assert_eq!(issued.err(), Some(expected));
        let request = seen.await.expect("the server ran").expect("a request came");
        assert!(request.starts_with("GET /v1/database/creds/flask HTTP/1.1"));
        assert!(request.to_lowercase().contains("x-vault-token: s.token"));
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let (address, _seen) = one_answer(
            "HTTP/1.1 307 x\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        let issued = vault_at(address).issue(&session(), &path()).await;
        let Err(SecretsError::Unavailable { reason, .. }) = issued else {
            panic!("a redirect means a standby node");
        };
        assert_eq!(reason, "standby node, another one is active");
    }

    #[tokio::test]
    async fn a_body_of_the_wrong_shape_is_not_quoted() {
        let (address, _seen) =
            one_answer("HTTP/1.1 200 x\r\ncontent-length: 19\r\n\r\n{\"data\": \"hunter2\"}").await;
        let read = vault_at(address).lookup_self(&session().token).await;
        let error = read.expect_err("an envelope has more fields");
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }
}
