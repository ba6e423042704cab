//! The Vault calls that vaultrs lacks, or whose own structures are in the way.
//!
//! Used by [`super`] only. Paths carry no leading slash (rustify would double it) and no version
//! (the middleware adds it). Answers are read from the envelope, so all of them are untyped here.

use rustify_derive::Endpoint;

/// Reads a path as it stands: KV v1 secrets and credentials of dynamic engines.
#[derive(Endpoint)]
#[endpoint(path = "{self.path}", response = "serde_json::Value")]
pub(super) struct ReadPath {
    #[endpoint(skip)]
    pub(super) path: String,
}

/// Writes a JSON body to a path: logins, and credentials of engines that issue by a write.
#[derive(Endpoint)]
#[endpoint(path = "{self.path}", method = "POST")]
pub(super) struct WritePath {
    #[endpoint(skip)]
    pub(super) path: String,
    #[endpoint(raw)]
    pub(super) body: Vec<u8>,
}

/// Reads a page of the versions of a folder's secrets; only OpenBao knows it.
#[derive(Endpoint)]
#[endpoint(path = "{self.mount}/detailed-metadata/{self.folder}", method = "LIST")]
pub(super) struct ListVersions {
    #[endpoint(skip)]
    pub(super) mount: String,
    #[endpoint(skip)]
    pub(super) folder: String,
    #[endpoint(query)]
    pub(super) after: String,
    #[endpoint(query)]
    pub(super) limit: usize,
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

/// Renews a lease.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/renew", method = "PUT")]
pub(super) struct RenewLease {
    pub(super) lease_id: String,
    pub(super) increment: u64,
}

/// Looks a lease up.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/lookup", method = "PUT")]
pub(super) struct LookupLease {
    pub(super) lease_id: String,
}

/// Makes a token below the sent one, with the same policies.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/create", method = "POST")]
pub(super) struct CreateToken {
    pub(super) r#type: &'static str,
    pub(super) renewable: bool,
    pub(super) ttl: &'static str,
    pub(super) display_name: &'static str,
    pub(super) meta: std::collections::BTreeMap<&'static str, &'static str>,
}

/// Renews another token.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/renew-accessor", method = "POST")]
pub(super) struct RenewAccessor {
    pub(super) accessor: String,
    pub(super) increment: &'static str,
}

/// Revokes another token and its leases.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/revoke-accessor", method = "POST")]
pub(super) struct RevokeAccessor {
    pub(super) accessor: String,
}

/// Says what the sent token may do at paths.
#[derive(Endpoint)]
#[endpoint(path = "sys/capabilities-self", method = "POST")]
pub(super) struct CapabilitiesSelf {
    pub(super) paths: Vec<String>,
}

/// Looks the sent token up, with its metadata, type and period.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/lookup-self", response = "serde_json::Value")]
pub(super) struct LookupSelf {}

/// Renews the sent token.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/renew-self", method = "POST")]
pub(super) struct RenewSelf {
    pub(super) increment: &'static str,
}

/// Revokes the sent token and its leases.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/revoke-self", method = "POST")]
pub(super) struct RevokeSelf {}

/// Asks for the state of the server; needs no token.
#[derive(Endpoint)]
#[endpoint(path = "sys/health", response = "serde_json::Value")]
pub(super) struct Health {}
