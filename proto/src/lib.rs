//! The wire contract: what travels between a caller and the agent over the unix sockets.
//!
//! Everything here is data with serde on it; no sockets, no decisions. Rules that keep the wire
//! stable: requests refuse unknown fields, answers may gain fields (readers ignore what they do not
//! know), a field never changes its meaning, and every closed set of words is an enum here.
//! Beside it stands what both sides have to do alike: finding secret values in a text ([`redact`]).
//! `golden/` holds one recorded body per type, and a round-trip test keeps them.

pub mod ids;

pub mod error;

pub mod managed;
pub mod report;

pub mod app;

pub mod event;

pub mod health;

pub mod redact;

pub mod values;

/// The path prefix and version of the interface.
pub const API_VERSION: &str = "v1";

/// The header that every call but the open ones must carry (guard against cross-protocol requests).
pub const CLIENT_HEADER: &str = "x-quaymaster-client";

/// The header by which a caller passes a Vault token.
pub const VAULT_TOKEN_HEADER: &str = "x-vault-token";
