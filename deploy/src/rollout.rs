//! How one object stands after an apply: pure readiness rules per kind, generation-safe.
//!
//! Called by [`crate::watch`] with what was observed. Never waits, never looks anything up.

use serde_json::Value;

use crate::object::AppliedObject;

/// How an object stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Not there yet; the reason in words.
    Pending(String),
    /// Done.
    Ready,
    /// It says itself that it failed; the reason in words.
    Failed(String),
}

/// Judges one object. `live` is what was observed last, unset when it is gone.
#[must_use]
pub fn standing(_applied: &AppliedObject, _live: Option<&Value>) -> Standing {
    panic!("not written yet")
}
