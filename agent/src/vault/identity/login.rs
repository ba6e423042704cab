//! One login of the agent by its method, and what the token that it got is.
//!
//! Used by [`super`] only. Files with secrets are read at each login, so that they can be replaced
//! while the agent runs. A token is asked to live as long as the server lets it: that outlasts the
//! longest absence of the agent, and tells when the token ends for good.

use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;
use zeroize::Zeroizing;

use deploy::ports::SecretsError;
use deploy::secret::Secret;

use super::pace::Refusals;
use crate::config::Identity;
use crate::config::Method;
use crate::config::RoleId;
use crate::vault::TokenLookup;
use crate::vault::VaultSettings;
use crate::vault::VaultSetupError;
use crate::vault::data;
use crate::vault::endpoints;
use crate::vault::error::Doing;
use crate::vault::error::meaning;
use crate::vault::setup;
use crate::vault::wire::Envelope;
use crate::vault::wire::Failure;
use crate::vault::wire::Wire;

/// A file with a secret id, token or certificate is shorter.
const FILE_LIMIT: usize = 64 << 10;

/// Ten years, which every server clamps.
const LONGEST: &str = "87600h";

/// What a token is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Granted {
    /// Tells one token from the next.
    pub(super) accessor: String,
    /// How long it lives unless it is renewed; unset where it does not end.
    pub(super) life: Option<Duration>,
    /// Whether it can be renewed.
    pub(super) renewable: bool,
    /// Whether it lives on for as long as it is renewed.
    pub(super) periodic: bool,
    /// The longest life of a periodic token that has one.
    pub(super) explicit_max: Option<Duration>,
    /// When it was made.
    pub(super) created: Option<Timestamp>,
}

impl Granted {
    /// When the token ends however often it is renewed. One that is not periodic was asked to live
    /// as long as it can.
    pub(super) fn ends(&self, now: Timestamp) -> Option<Timestamp> {
        let after = |from: Timestamp, life: Duration| {
            let life = SignedDuration::try_from(life).ok()?;
            from.checked_add(life).ok()
        };
        if self.periodic {
            return after(self.created.unwrap_or(now), self.explicit_max?);
        }
        after(now, self.life?)
    }
}

/// How the agent logs in.
pub(super) struct Door {
    identity: Identity,
    settings: VaultSettings,
}

impl Door {
    /// Checks what can be checked without the server.
    pub(super) fn new(
        settings: &VaultSettings,
        identity: Identity,
    ) -> Result<Self, VaultSetupError> {
        setup::check_mount("identity mount", &identity.mount)?;
        let is_plain = settings.address.starts_with("http://");
        if is_plain && matches!(identity.method, Method::Cert { .. }) {
            return Err(VaultSetupError::Unsendable {
                setting: "client certificate (the address is not https)",
            });
        }
        Ok(Self {
            identity,
            settings: settings.clone(),
        })
    }

    /// Returns the name of the method.
    pub(super) const fn name(&self) -> &'static str {
        self.identity.method.name()
    }

    /// Says whether tokens of this login are kept over a restart; one from a file is there anyway.
    pub(super) const fn is_kept(&self) -> bool {
        match self.identity.method {
            Method::AppRole { .. }
            | Method::Jwt { .. }
            | Method::Kubernetes { .. }
            | Method::Cert { .. } => true,
            Method::TokenFile { .. } => false,
        }
    }

    /// Says what refused logins cost.
    pub(super) const fn refusals(&self) -> Refusals {
        match self.identity.method {
            Method::AppRole { .. }
            | Method::Jwt { .. }
            | Method::Kubernetes { .. }
            | Method::Cert { .. } => Refusals::LockOut,
            Method::TokenFile { .. } => Refusals::Free,
        }
    }

    /// Names mount and role, without secrets.
    pub(super) fn place(&self) -> String {
        let role = match &self.identity.method {
            Method::AppRole { role, .. } => match role {
                RoleId::Text(text) => text.clone(),
                RoleId::File(path) => path.display().to_string(),
            },
            Method::Jwt { role, .. } | Method::Kubernetes { role, .. } => role.clone(),
            Method::Cert { role, .. } => role.clone().unwrap_or_default(),
            Method::TokenFile { token_file } => token_file.display().to_string(),
        };
        format!("{} {} {role}", self.name(), self.identity.mount)
    }

    /// Where tokens of this login are made; unset where it does not matter.
    fn path(&self) -> Option<String> {
        self.is_kept()
            .then(|| format!("auth/{}/login", self.identity.mount))
    }

    /// Logs in and returns the token.
    pub(super) async fn log_in(&self, wire: &Wire) -> Result<Secret, SecretsError> {
        match &self.identity.method {
            Method::AppRole {
                role,
                secret_id_file,
            } => {
                let role_id = match role {
                    RoleId::Text(text) => Zeroizing::new(text.clone()),
                    RoleId::File(path) => text_of(path).await?,
                };
                let secret_id = text_of(secret_id_file).await?;
                let body = json!({ "role_id": *role_id, "secret_id": *secret_id });
                self.trade(wire, &body).await
            }
            Method::Jwt { role, jwt_file } | Method::Kubernetes { role, jwt_file } => {
                let jwt = text_of(jwt_file).await?;
                self.trade(wire, &json!({ "role": role, "jwt": *jwt }))
                    .await
            }
            Method::Cert {
                role,
                cert_file,
                key_file,
            } => {
                let mut pem = read(cert_file).await?;
                pem.extend_from_slice(b"\n");
                pem.extend_from_slice(&read(key_file).await?);
                let client = reqwest::Identity::from_pem(&pem).map_err(|_may_quote| {
                    refused("the client certificate and its key are not usable PEM".to_owned())
                })?;
                // A connection of its own: the certificate belongs to the handshake.
                let wire = setup::wire_with(&self.settings, Some(client))
                    .map_err(|error| refused(error.to_string()))?;
                let body = role
                    .as_ref()
                    .map_or_else(|| json!({}), |role| json!({ "name": role }));
                self.trade(&wire, &body).await
            }
            Method::TokenFile { token_file } => {
                let token = text_of(token_file).await?;
                Ok(Secret::from_text(token.to_string()))
            }
        }
    }

    async fn trade(&self, wire: &Wire, body: &Value) -> Result<Secret, SecretsError> {
        let endpoint = endpoints::WritePath {
            path: format!("auth/{}/login", self.identity.mount),
            body: body.to_string().into_bytes(),
        };
        let answer = wire.ask(None, endpoint).await;
        let answer = answer.map_err(|failure| meaning(failure, Doing::Login))?;
        let auth = answer.auth.ok_or_else(|| SecretsError::Unexpected {
            reason: "a login without a token".to_owned(),
        })?;
        Ok(Secret::from_text(auth.client_token))
    }
}

/// Looks a token up; a dead one is a refused login.
pub(super) async fn look_up(wire: &Wire, token: &Secret) -> Result<TokenLookup, SecretsError> {
    let answer = wire.ask(Some(token), endpoints::LookupSelf {}).await;
    let answer = answer.map_err(|failure| meaning(failure, Doing::Login))?;
    Ok(data::lookup(&answer.data.unwrap_or_default()))
}

/// Finds out what a token is, refuses it where it cannot serve, and renews it where that is possible.
pub(super) async fn examine(
    wire: &Wire,
    door: &Door,
    token: &Secret,
) -> Result<Granted, SecretsError> {
    let found = look_up(wire, token).await?;
    if found.kind == "batch" {
        return Err(refused(
            "the role gives batch tokens, which hold no credentials; set token_type=service"
                .to_owned(),
        ));
    }
    if door.path().is_some_and(|path| path != found.path) {
        return Err(refused("the token is of another login".to_owned()));
    }
    let seconds = |number: u64| (number > 0).then(|| Duration::from_secs(number));
    let granted = Granted {
        accessor: found.accessor,
        life: seconds(found.ttl_seconds),
        renewable: found.renewable,
        periodic: found.period_seconds.is_some(),
        explicit_max: found.explicit_max_seconds.and_then(seconds),
        created: found.created,
    };
    renew(wire, token, granted).await
}

/// Renews a token where that is possible. A refusal says nothing about the token's life: it is then
/// one that cannot be renewed.
async fn renew(wire: &Wire, token: &Secret, granted: Granted) -> Result<Granted, SecretsError> {
    if !granted.renewable || granted.life.is_none() {
        return Ok(granted);
    }
    let endpoint = endpoints::RenewSelf { increment: LONGEST };
    let answer = wire.call(Some(token), endpoint).await;
    match answer.and_then(|reply| reply.parse::<Envelope>()) {
        Ok(answer) => match answer.auth {
            Some(auth) => Ok(Granted {
                life: Some(Duration::from_secs(auth.lease_duration)),
                renewable: auth.renewable,
                ..granted
            }),
            None => Ok(granted),
        },
        Err(Failure::Refused(refusal)) if matches!(refusal.code, 400 | 403) => Ok(Granted {
            renewable: false,
            ..granted
        }),
        Err(failure) => Err(meaning(failure, Doing::Login)),
    }
}

/// Ends a token that was just made and is not needed. One that stays ends by itself.
pub(super) async fn end(wire: &Wire, token: &Secret) {
    let ended = wire.call(Some(token), endpoints::RevokeSelf {}).await;
    if let Err(failure) = ended {
        let error = meaning(failure, Doing::Login);
        tracing::warn!(%error, "a Vault token that is not needed lives on until its time is over");
    }
}

fn refused(reason: String) -> SecretsError {
    SecretsError::LoginRefused { reason }
}

async fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretsError> {
    let bytes = tokio::fs::read(path).await.map(Zeroizing::new);
    let bytes =
        bytes.map_err(|error| refused(format!("cannot read {}: {error}", path.display())))?;
    if bytes.len() > FILE_LIMIT {
        return Err(refused(format!("{} is too long", path.display())));
    }
    Ok(bytes)
}

/// Reads a file with one word, which editors end with a new line.
async fn text_of(path: &Path) -> Result<Zeroizing<String>, SecretsError> {
    let bytes = read(path).await?;
    let text = std::str::from_utf8(&bytes).map_or("", str::trim);
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let reason = format!("{} does not hold one word of ASCII text", path.display());
        return Err(refused(reason));
    }
    Ok(Zeroizing::new(text.to_owned()))
}
