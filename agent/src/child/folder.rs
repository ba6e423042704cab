//! The private folder of one call: made for it, filled with files, gone with it.
//!
//! Used by [`super`]. Mode 0700 below the agent's state folder. Paths come from a bundle, which
//! refused links and `..`; they are looked at again here, since this is where they meet a disk.

use std::fs;
use std::fs::DirBuilder;
use std::io;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use deploy::ports::Files;
use tokio::sync::OwnedSemaphorePermit;

use crate::clock;

/// A folder; dropping it removes it and gives its slot back.
pub(crate) struct Folder {
    path: PathBuf,
    _slot: OwnedSemaphorePermit,
}

/// Makes the parent of all folders, without what was in it.
pub(crate) fn empty(base: &Path) -> Result<(), io::Error> {
    match fs::remove_dir_all(base) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    DirBuilder::new().mode(0o700).recursive(true).create(base)
}

impl Folder {
    /// Makes one with a name of its own.
    pub(crate) fn new(base: &Path, slot: OwnedSemaphorePermit) -> Result<Self, io::Error> {
        let name: [u8; 16] = clock::random()?;
        let path = base.join(format!("{:032x}", u128::from_be_bytes(name)));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, _slot: slot })
    }

    /// Returns where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes files below `folder`.
    pub(crate) fn put(&self, folder: &str, files: &Files) -> Result<(), io::Error> {
        let base = self.path.join(folder);
        let mut folders = DirBuilder::new();
        folders.mode(0o700).recursive(true);
        folders.create(&base)?;
        for (name, content) in files {
            let name = Path::new(name);
            let plain = name
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if !plain {
                return Err(io::Error::other("a file's path is not plain"));
            }
            let path = base.join(name);
            if let Some(parent) = path.parent() {
                folders.create(parent)?;
            }
            let mut file = fs::OpenOptions::new();
            let mut file = file.write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(content)?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a run's folder is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn files(name: &str) -> Files {
        Files::from([(name.to_owned(), b"x".to_vec())])
    }

    #[tokio::test]
    async fn a_folder_is_private_and_gone_with_its_call() {
        let base = tempfile::tempdir().expect("a folder for the test");
        let base = base.path().join("render");
        fs::create_dir_all(base.join("left/behind")).expect("it can be made");
        empty(&base).expect("it can be emptied");
        let slots = Arc::new(Semaphore::new(1));
        let slot = Arc::clone(&slots).acquire_owned().await.expect("a slot");
        let folder = Folder::new(&base, slot).expect("a folder");
        folder.put("bundle", &files("a/b.yaml")).expect("a file");
        let path = folder.path().to_owned();
        let mode = fs::metadata(&path).expect("it is there").mode() & 0o777;
        let file = fs::metadata(path.join("bundle/a/b.yaml")).expect("it is there");
        assert_eq!((mode, file.mode() & 0o777), (0o700, 0o600));
        assert_eq!(fs::read_dir(&base).expect("it is there").count(), 1);
        for bad in ["../x", "/x", "a/../../x"] {
            assert!(folder.put("bundle", &files(bad)).is_err(), "{bad}");
        }
        drop(folder);
        assert_eq!(fs::read_dir(&base).expect("it is there").count(), 0);
        assert_eq!(slots.available_permits(), 1);
    }
}
