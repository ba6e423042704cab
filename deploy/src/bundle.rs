//! The bundle: a tar (or tar.gz) of `quaymaster.yaml` and the files that it names, unpacked in memory.
//!
//! Strict by contract: what could be read in two ways is refused. Called by [`crate::request`]'s
//! caller once the body is complete. Nothing is ever written to disk.

use std::collections::BTreeMap;

use proto::error::Code;
use proto::error::Place;

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

/// Unpacks an archive.
///
/// # Errors
/// The first thing that the contract refuses, with the entry's path where it has one.
pub fn unpack(_archive: &[u8], _packing: Packing, _limits: &Limits) -> Result<Bundle, InputError> {
    panic!("not written yet")
}
