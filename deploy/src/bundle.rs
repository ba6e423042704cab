//! The bundle: a tar (or tar.gz) of `quaymaster.yaml` and the files that it names, unpacked in memory.
//!
//! Strict by contract: what could be read in two ways is refused. Called by [`crate::request`]'s
//! caller once the body is complete. Nothing is ever written to disk.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::bufread::MultiGzDecoder;
use proto::error::Code;
use proto::error::Place;

mod names;
mod pax;
mod walk;

/// The name of the spec's file inside a bundle.
pub const SPEC_FILE: &str = "quaymaster.yaml";

/// What a gzip file starts with.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// Sizes that a bundle may have; configuration values with these defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole archive, unpacked.
    pub total: u64,
    /// Entries of any kind.
    pub entries: usize,
    /// Bytes of one file.
    pub file: u64,
    /// Bytes of `quaymaster.yaml`.
    pub spec: u64,
    /// Bytes of a path.
    pub path: usize,
    /// Segments of a path.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: 32 << 20,
            entries: 5_000,
            file: 8 << 20,
            spec: 256 << 10,
            path: 240,
            depth: 16,
        }
    }
}

/// How the archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// `application/x-tar`.
    Tar,
    /// `application/gzip`.
    TarGz,
}

/// The files of a bundle by their path (`k8s/web.yaml`, never with a leading `./`).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Contents by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// The caller's input is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the input is not valid: {}", code.title())]
pub struct InputError {
    /// Which code it gets: [`Code::BundleInvalid`], [`Code::TooLarge`], [`Code::SpecInvalid`] or
    /// [`Code::ManifestInvalid`].
    pub code: Code,
    /// Where, what, and what is expected; never a value from the files.
    pub places: Vec<Place>,
}

impl InputError {
    /// Makes an error about one place.
    pub(crate) fn one(code: Code, place: Place) -> Self {
        Self {
            code,
            places: vec![place],
        }
    }

    fn about(code: Code, file: Option<&str>, message: impl Into<String>) -> Self {
        let place = Place {
            file: file.map(str::to_owned),
            ..Place::message(message)
        };
        Self::one(code, place)
    }

    fn invalid(file: Option<&str>, message: impl Into<String>) -> Self {
        Self::about(Code::BundleInvalid, file, message)
    }

    fn too_large(file: Option<&str>, message: impl Into<String>) -> Self {
        Self::about(Code::TooLarge, file, message)
    }
}

/// Unpacks an archive.
///
/// # Errors
/// The first thing that the contract refuses, with the entry's path where it has one.
pub fn unpack(archive: &[u8], packing: Packing, limits: &Limits) -> Result<Bundle, InputError> {
    if archive.is_empty() {
        return Err(InputError::invalid(
            None,
            "the body is empty; send a tar archive",
        ));
    }
    match packing {
        Packing::TarGz => walk::unpack(&gunzip(archive, limits)?, limits),
        Packing::Tar if archive.starts_with(GZIP) => Err(InputError::invalid(
            None,
            "the body is gzip, not tar; send it with Content-Type: application/gzip",
        )),
        Packing::Tar => walk::unpack(archive, limits),
    }
}

/// Unpacks all members of a gzip file, never holding more than one byte over the limit.
fn gunzip(archive: &[u8], limits: &Limits) -> Result<Vec<u8>, InputError> {
    if !archive.starts_with(GZIP) {
        return Err(InputError::invalid(
            None,
            "the body is not gzip; send plain tar with Content-Type: application/x-tar",
        ));
    }
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(archive)
        .take(limits.total.saturating_add(1))
        .read_to_end(&mut unpacked)
        .map_err(|error| {
            let what = if error.kind() == std::io::ErrorKind::UnexpectedEof {
                "the gzip file is cut"
            } else {
                "the gzip file is damaged, or something follows it"
            };
            InputError::invalid(None, what)
        })?;
    if unpacked.len() as u64 > limits.total {
        return Err(walk::archive_too_large(limits));
    }
    Ok(unpacked)
}

#[cfg(test)]
#[path = "bundle/tests.rs"]
mod tests;
