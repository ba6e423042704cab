//! Manifests of a bundle as objects: read as kubectl reads them, refused where two readings exist.
//!
//! Called by [`crate::request`]. The objects that come out are the very ones that are decided on and
//! applied.

use crate::bundle::Bundle;
use crate::bundle::InputError;
use crate::object::Object;

/// What was read.
#[derive(Debug, Default, PartialEq)]
pub struct Manifests {
    /// The objects, in the order of files and documents.
    pub objects: Vec<Object>,
    /// Things to tell the caller: dropped fields, repeated objects.
    pub notes: Vec<String>,
}

/// Reads files and folders of a bundle.
///
/// # Errors
/// [`proto::error::Code::ManifestInvalid`] or `TooLarge` with file, line and what is wrong.
pub fn read(_bundle: &Bundle, _paths: &[String]) -> Result<Manifests, InputError> {
    panic!("not written yet")
}
