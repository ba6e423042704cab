//! The Vault calls that vaultrs lacks, or whose own structures are in the way.
//!
//! Used by [`super`] only. Paths carry no leading slash (rustify would double it) and no version
//! (the middleware adds it). Answers are read from the envelope, so all of them are untyped here.

use rustify_derive::Endpoint;

/// Logs in by a JWT method.
#[derive(Endpoint)]
#[endpoint(path = "auth/{self.mount}/login", method = "POST")]
pub(super) struct JwtLogin {
    #[endpoint(skip)]
    pub(super) mount: String,
    pub(super) jwt: String,
    pub(super) role: String,
}

/// Reads a path as it stands: KV v1 secrets and credentials of dynamic engines.
#[derive(Endpoint)]
#[endpoint(path = "{self.path}", response = "serde_json::Value")]
pub(super) struct ReadPath {
    #[endpoint(skip)]
    pub(super) path: String,
}

/// Says what is mounted over a path, to anybody who may use something below it.
#[derive(Endpoint)]
#[endpoint(
    path = "sys/internal/ui/mounts/{self.path}",
    response = "serde_json::Value"
)]
pub(super) struct MountOf {
    #[endpoint(skip)]
    pub(super) path: String,
}

/// Revokes a lease and waits until the engine has done it.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/revoke", method = "PUT")]
pub(super) struct RevokeLease {
    pub(super) lease_id: String,
    pub(super) sync: bool,
}

/// Looks the sent token up, with its metadata, type and period.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/lookup-self", response = "serde_json::Value")]
pub(super) struct LookupSelf {}

/// Revokes the sent token and its leases.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/revoke-self", method = "POST")]
pub(super) struct RevokeSelf {}

/// Asks for the state of the server; needs no token.
#[derive(Endpoint)]
#[endpoint(path = "sys/health", response = "serde_json::Value")]
pub(super) struct Health {}
