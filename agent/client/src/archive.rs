//! Writes files as a tar archive that is the same for the same input.
//!
//! Called by `pack`. ustar, with a pax header for names that do not fit; no owner, no time, mode
//! 0644, sorted by path, the spec first.

use std::collections::BTreeMap;
use std::io;

use tar::Builder;
use tar::EntryType;
use tar::Header;

use crate::yaml::SPEC_FILE;

/// The unit of an archive.
const BLOCK: usize = 512;

/// Writes an archive.
///
/// # Errors
/// Only when a name cannot be stored, which the caller's checks exclude.
pub(crate) fn tar(files: &BTreeMap<String, Vec<u8>>) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    let is_spec = |name: &str| name == SPEC_FILE;
    let first = files.iter().filter(|(name, _)| is_spec(name));
    let rest = files.iter().filter(|(name, _)| !is_spec(name));
    for (name, content) in first.chain(rest) {
        add(&mut archive, name, content)?;
    }
    archive.into_inner()
}

/// Adds a file to an archive that [`tar()`] wrote.
///
/// # Errors
/// As [`tar()`].
pub(crate) fn append(mut archive: Vec<u8>, name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
    // The end is marked by two empty blocks, which are written anew.
    archive.truncate(archive.len().saturating_sub(2 * BLOCK));
    let mut archive = Builder::new(archive);
    add(&mut archive, name, content)?;
    archive.into_inner()
}

fn add(archive: &mut Builder<Vec<u8>>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    if header.set_path(name).is_err() {
        archive.append_pax_extensions([("path", name.as_bytes())])?;
        header.set_path("long-name")?;
    }
    header.set_cksum();
    archive.append(&header, content)
}
