//! A complete, valid request: the spec and the objects of one bundle.
//!
//! Made from an unpacked bundle; consumed by [`crate::authorize`]. From here on nothing is parsed
//! again.

use proto::error::Code;
use proto::error::Place;
use proto::report::Mode;

use crate::bundle::Bundle;
use crate::bundle::InputError;
use crate::bundle::SPEC_FILE;
use crate::image;
use crate::manifest;
use crate::manifest::Manifests;
use crate::object::Object;
use crate::spec;
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
pub fn read(bundle: &Bundle, mode: Mode) -> Result<Request, InputError> {
    let Some(file) = bundle.files.get(SPEC_FILE) else {
        let message = format!(
            "the bundle has no {SPEC_FILE} at its root; pack from inside the folder: tar -c -C DIR ."
        );
        return Err(InputError {
            code: Code::SpecInvalid,
            places: vec![Place::message(message)],
        });
    };
    let spec = spec::parse(file)?;
    let Manifests { mut objects, notes } = manifest::read(bundle, &spec.manifests)?;
    let unused = image::substitute(&mut objects, &spec.images);
    if !unused.is_empty() {
        let place = |name: &String| Place {
            file: Some(SPEC_FILE.to_owned()),
            path: Some(format!("images.{name}")),
            ..Place::message("no container of the manifests has an image of this name")
        };
        return Err(InputError {
            code: Code::SpecInvalid,
            places: unused.iter().map(place).collect(),
        });
    }
    Ok(Request {
        mode,
        spec,
        objects,
        notes,
    })
}
