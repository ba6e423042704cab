//! Image references: parsing, and putting the spec's images into pod templates.
//!
//! An image named `flask` in the spec replaces every container image whose name (without tag and
//! digest) is `flask`, as `kustomize edit set image` does.

use std::collections::BTreeMap;
use std::fmt;

use crate::object::Object;

/// A valid image reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageRef {
    /// Registry and repository, such as `registry.example.com/team/flask`.
    pub name: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest, `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the image reference {problem}")]
pub struct ImageError {
    /// What is wrong, in words, without the reference.
    pub problem: &'static str,
}

impl ImageRef {
    /// Parses a reference.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(_text: &str) -> Result<Self, ImageError> {
        panic!("not written yet")
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Puts images into the pod templates of `objects`; returns the names that nothing used.
pub fn substitute(_objects: &mut [Object], _images: &BTreeMap<String, ImageRef>) -> Vec<String> {
    panic!("not written yet")
}

/// Lists every container image of an object's pod template (init and ephemeral ones too).
#[must_use]
pub fn images_of(_object: &Object) -> Vec<String> {
    panic!("not written yet")
}
