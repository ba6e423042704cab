//! What stands behind a path: its mount, KV secrets, and credentials that are issued.
//!
//! Called by [`super`] only.

use jiff::Timestamp;
use vaultrs::api::kv2::requests::ReadSecretRequest;

use deploy::ports::Mount;
use deploy::ports::Parameters;
use deploy::ports::SecretData;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::secret::VaultPath;

use super::Vault;
use super::data;
use super::endpoints;
use super::error::Doing;
use super::error::meaning;
use super::wire::Failure;
use super::wire::Reply;

impl Vault {
    /// Looks up what is mounted over a path.
    pub(super) async fn mount_of(
        &self,
        session: &Session,
        path: &VaultPath,
    ) -> Result<Mount, SecretsError> {
        let endpoint = || endpoints::MountOf {
            path: path.to_string(),
        };
        let answer = self.call(session, endpoint).await;
        let envelope = answer.and_then(|reply| reply.parse::<super::wire::Envelope>());
        let envelope = envelope.map_err(|failure| meaning(failure, latest(path)))?;
        data::mount(envelope.data.as_ref(), path)
    }

    /// Reads a version of a KV v2 secret.
    pub(super) async fn read_versioned(
        &self,
        session: &Session,
        mount: &Mount,
        path: &VaultPath,
        version: Option<u64>,
    ) -> Result<SecretData, SecretsError> {
        let inner = inner_of(mount, path)?;
        let number = version.unwrap_or(0);
        let doing = Doing::Read {
            path: path.as_str(),
            version: number,
        };
        let ask = |version| {
            let endpoint = move || ReadSecretRequest {
                mount: mount.path.clone(),
                path: inner.to_owned(),
                version,
            };
            self.call(session, endpoint)
        };
        match ask(version).await {
            Ok(reply) => {
                let envelope = reply.parse().map_err(|failure| meaning(failure, doing))?;
                data::versioned(envelope, path.as_str(), number)
            }
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

    /// Reads a KV v1 secret.
    pub(super) async fn read_plain(
        &self,
        session: &Session,
        path: &VaultPath,
    ) -> Result<SecretData, SecretsError> {
        let reply = self.fetch(session, path).await;
        let envelope = reply.and_then(|reply| reply.parse());
        let envelope = envelope.map_err(|failure| meaning(failure, latest(path)))?;
        data::plain(envelope, path.as_str())
    }

    /// Issues a credential: by a write where there are parameters, else by a read.
    pub(super) async fn make(
        &self,
        session: &Session,
        path: &VaultPath,
        parameters: &Parameters,
    ) -> Result<SecretData, SecretsError> {
        let doing = Doing::Change {
            path: path.as_str(),
        };
        let reply = if parameters.is_empty() {
            self.fetch(session, path).await
        } else {
            let body = serde_json::to_vec(parameters).map_err(|_never| Failure::Garbled);
            let body = body.map_err(|failure| meaning(failure, doing))?;
            let endpoint = || endpoints::WritePath {
                path: path.to_string(),
                body: body.clone(),
            };
            self.call(session, endpoint).await
        };
        let reply = reply.map_err(|failure| meaning(failure, doing))?;
        let envelope = reply.parse().map_err(|failure| meaning(failure, doing))?;
        data::issued(envelope, path.as_str(), self.now_there(&reply))
    }

    /// The server's time, which its answers are measured by.
    pub(super) fn now_there(&self, reply: &Reply) -> Timestamp {
        reply.at.unwrap_or_else(|| self.clock.now())
    }

    async fn fetch(&self, session: &Session, path: &VaultPath) -> Result<Reply, Failure> {
        let endpoint = || endpoints::ReadPath {
            path: path.to_string(),
        };
        self.call(session, endpoint).await
    }
}

/// Returns the part of `path` behind its mount.
pub(super) fn inner_of<'p>(mount: &Mount, path: &'p VaultPath) -> Result<&'p str, SecretsError> {
    data::inner(&mount.path, path).ok_or_else(|| SecretsError::Unexpected {
        reason: format!("{path} is not below the mount {}", mount.path),
    })
}

fn latest(path: &VaultPath) -> Doing<'_> {
    Doing::Read {
        path: path.as_str(),
        version: 0,
    }
}

fn is_bare_missing(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(refusal) if refusal.code == 404 && !refusal.tombstone)
}
