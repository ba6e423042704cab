//! A complete, valid request: the spec and the objects of one bundle.
//!
//! Made from an unpacked bundle; consumed by [`crate::authorize`]. From here on nothing is parsed
//! again.

use proto::report::Mode;

use crate::bundle::Bundle;
use crate::bundle::InputError;
use crate::object::Object;
use crate::spec::Spec;

/// What a caller asks for.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// Whether it writes.
    pub mode: Mode,
    /// The spec.
    pub spec: Spec,
    /// The manifests' objects with images put in; namespaces are not filled in yet.
    pub objects: Vec<Object>,
    /// Things to tell the caller.
    pub notes: Vec<String>,
}

/// Reads a request out of a bundle.
///
/// # Errors
/// Every error of the spec at once, else every error of the manifests, else images that nothing uses.
pub fn read(_bundle: &Bundle, _mode: Mode) -> Result<Request, InputError> {
    panic!("not written yet")
}
