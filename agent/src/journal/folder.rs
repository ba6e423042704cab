//! The state folder: made for the agent alone, or checked that it is.
//!
//! Used by [`super`] when it opens. A folder that others may enter is refused and not changed: it
//! may be somebody else's.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::OpenError;

/// Makes the folder for the agent alone, or checks that it is.
pub(super) fn private_folder(folder: &Path) -> Result<(), OpenError> {
    let unusable = |source| OpenError::Folder {
        path: folder.to_owned(),
        source,
    };
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(unusable(error)),
    }
    let found = fs::metadata(folder).map_err(unusable)?;
    let mode = found.mode() & 0o777;
    if !found.is_dir() {
        return Err(unusable(io::ErrorKind::NotADirectory.into()));
    }
    if mode & 0o077 != 0 {
        return Err(OpenError::Mode {
            path: folder.to_owned(),
            mode,
        });
    }
    Ok(())
}
