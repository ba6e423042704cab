//! A unix socket, bound so that nobody can connect before its mode is right.
//!
//! Called by `app` for both sockets. The socket is bound in a fresh private folder beside its place,
//! gets its mode there, and is then renamed into place. Only a dead socket of ours is replaced; a
//! live one, one of another user or anything else is an error. At the end only our own inode goes.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;

use tokio::net::UnixListener;

use crate::clock;

/// The longest path of a unix socket: 108 bytes with the closing zero.
pub const MAX_PATH: usize = 107;
/// What the private folder adds to the parent's path: `/.q`, 16 digits, `/s`.
const PRIVATE: usize = 21;

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The kernel takes no path of this length.
    #[error(
        "the socket path {} is too long: at most {limit} bytes, and its folder at most {} bytes",
        path.display(), MAX_PATH - PRIVATE
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// Something that is not a socket is there.
    #[error("{} is there and is not a socket; it is left alone: choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A process listens there.
    #[error("another process listens on {}; stop it or choose another path", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The socket of another user is there.
    #[error("{} is a socket of user {owner}; it is left alone: choose another path", path.display())]
    Foreign {
        /// The path.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// The file system says no.
    #[error("cannot {doing} for the socket {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A listening socket; dropping it removes its file if that is still ours.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl BoundSocket {
    /// Returns the listener.
    #[must_use]
    pub const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket cannot be removed");
        }
    }
}

/// Binds a socket with a mode. A missing folder is made, with `folder_mode`.
///
/// # Errors
/// See [`BindError`]; nothing is changed then.
pub fn bind(path: &Path, mode: u32, folder_mode: u32) -> Result<BoundSocket, BindError> {
    let failed = |doing| {
        move |source| BindError::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    };
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    let length = |path: &Path| path.as_os_str().as_bytes().len();
    if length(path) > MAX_PATH || length(parent) + PRIVATE > MAX_PATH {
        return Err(BindError::TooLong {
            path: path.to_owned(),
            limit: MAX_PATH,
        });
    }
    make_folder(parent, folder_mode).map_err(failed("make the folder"))?;
    check_place(path)?;
    let private = private_folder(parent).map_err(failed("make a private folder"))?;
    let bound = bind_in(&private, path, mode);
    // Empty once the socket is renamed away; a failed bind may have left the socket inside.
    drop(fs::remove_file(private.join("s")));
    drop(fs::remove_dir(&private));
    bound
}

fn bind_in(private: &Path, path: &Path, mode: u32) -> Result<BoundSocket, BindError> {
    let failed = |doing| {
        move |source| BindError::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    };
    let place = private.join(OsStr::new("s"));
    let listener = UnixListener::bind(&place).map_err(failed("listen"))?;
    fs::set_permissions(&place, fs::Permissions::from_mode(mode))
        .map_err(failed("set the mode"))?;
    let found = fs::symlink_metadata(&place).map_err(failed("look at the socket"))?;
    fs::rename(&place, path).map_err(failed("move into place"))?;
    Ok(BoundSocket {
        listener,
        path: path.to_owned(),
        inode: (found.dev(), found.ino()),
    })
}

fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    fs::DirBuilder::new().mode(mode).create(folder)?;
    // The process mask may have taken bits that jobs need.
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

fn private_folder(parent: &Path) -> io::Result<PathBuf> {
    let name = format!(".q{:016x}", u64::from_be_bytes(clock::random::<8>()?));
    let folder = parent.join(name);
    fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

/// Says whether the place is free or holds a dead socket of ours.
fn check_place(path: &Path) -> Result<(), BindError> {
    let path = || path.to_owned();
    let found = match fs::symlink_metadata(path()) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(BindError::Io {
                doing: "look at the path",
                path: path(),
                source,
            });
        }
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket { path: path() });
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(BindError::Foreign {
            path: path(),
            owner: found.uid(),
        });
    }
    match UnixStream::connect(path()) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // A full backlog or a wrong type also mean that somebody is there.
        Ok(_) | Err(_) => Err(BindError::InUse { path: path() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("it is there").mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let jobs = folder.path().join("jobs");
        let path = jobs.join("quaymaster.sock");
        let bound = bind(&path, 0o666, 0o755).expect("it binds");
        assert_eq!((mode(&path), mode(&jobs)), (0o666, 0o755));
        assert_eq!(fs::read_dir(&jobs).expect("it is there").count(), 1);
        assert!(UnixStream::connect(&path).is_ok());
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("it binds"));
        let bound = bind(&path, 0o600, 0o700).expect("the dead one is replaced");
        assert!(matches!(
            bind(&path, 0o600, 0o700),
            Err(BindError::InUse { .. })
        ));
        assert!(UnixStream::connect(bound.path()).is_ok());
    }

    #[tokio::test]
    async fn files_folders_and_links_are_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "mine").expect("it is written");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("it is linked");
        for path in [&file, &link, &folder.path().to_owned()] {
            let refused = bind(path, 0o600, 0o700);
            assert!(
                matches!(refused, Err(BindError::NotASocket { .. })),
                "{path:?}"
            );
        }
        assert_eq!(fs::read(&file).expect("it is there"), b"mine");
    }

    #[tokio::test]
    async fn a_file_that_took_our_place_is_not_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let bound = bind(&path, 0o600, 0o700).expect("it binds");
        fs::remove_file(&path).expect("it is ours");
        fs::write(&path, "other").expect("it is written");
        drop(bound);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn long_paths_are_named_with_the_limit() {
        let path = Path::new("/tmp").join("x".repeat(120));
        let refused = bind(&path, 0o600, 0o700);
        assert!(matches!(
            refused,
            Err(BindError::TooLong { limit: 107, .. })
        ));
    }
}
