//! Stub, to be replaced.

use deploy::principal::Principal;
use deploy::secret::Secret;

/// What a caller presents.
#[derive(Debug)]
pub struct Presented {
    /// The id_token.
    pub id_token: Option<Secret>,
    /// The Vault token.
    pub vault_token: Option<Secret>,
}

/// Who the caller is.
#[derive(Debug)]
pub struct Identity {
    /// Verified.
    pub principal: Principal,
    /// The id_token.
    pub id_token: Option<Secret>,
    /// The Vault token.
    pub vault_token: Option<Secret>,
}
