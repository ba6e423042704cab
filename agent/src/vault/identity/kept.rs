//! The token in the state folder, so that a restart of the agent keeps it and all that it holds.
//!
//! Used by [`super`] only. Invariant: the file is 0600 from its first byte, replaced as a whole, and
//! read only for the same login at the same server.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use zeroize::Zeroizing;

use deploy::secret::Secret;

use super::login::Door;
use crate::vault::wire::Wire;

/// The file in the state folder.
const FILE: &str = "identity.token";

/// Where the token is kept, and whose it is.
pub(super) struct Kept {
    path: PathBuf,
    of: String,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Record<'a> {
    /// Which login the token is of; tokens of others are left alone.
    of: String,
    token: std::borrow::Cow<'a, str>,
}

impl Kept {
    /// Names the file; nothing is read.
    pub(super) fn new(state_dir: &Path, door: &Door, wire: &Wire) -> Self {
        let namespace = wire.namespace.as_deref().unwrap_or_default();
        Self {
            path: state_dir.join(FILE),
            of: format!("{} {namespace} {}", wire.base, door.place()),
        }
    }

    /// Reads the token; `None` where there is none of this login.
    pub(super) async fn read(&self) -> Option<Secret> {
        let path = self.path.clone();
        let read = move || fs::read(path).ok().map(Zeroizing::new);
        let bytes = tokio::task::spawn_blocking(read).await.ok()??;
        let record: Record<'_> = serde_json::from_slice(&bytes).ok()?;
        let token = Secret::from_text(record.token.into_owned());
        (record.of == self.of).then_some(token)
    }

    /// Replaces the file by one with this token.
    pub(super) async fn write(&self, token: &Secret) -> io::Result<()> {
        let text = std::str::from_utf8(token.reveal()).map_err(io::Error::other)?;
        let record = Record {
            of: self.of.clone(),
            token: text.into(),
        };
        // Large enough at once: a buffer that grows leaves unwiped copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * text.len() + self.of.len() * 2 + 64));
        serde_json::to_writer(&mut *bytes, &record)?;
        let path = self.path.clone();
        let write = move || replace(&path, &bytes);
        tokio::task::spawn_blocking(write)
            .await
            .map_err(io::Error::other)?
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("token.new");
    match fs::remove_file(&next) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[tokio::test]
    async fn a_token_comes_back_to_the_same_login_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = |of: &str| Kept {
            path: folder.path().join(FILE),
            of: of.to_owned(),
        };
        assert!(kept("a").read().await.is_none());
        for token in ["s.one", "s.two"] {
            let token = Secret::from_text(token.to_owned());
            kept("a").write(&token).await.expect("the folder is ours");
        }
        let read = kept("a").read().await.expect("it was written");
        assert_eq!(read.reveal(), b"s.two");
        assert!(kept("b").read().await.is_none());
        let mode = fs::metadata(kept("a").path).expect("it is there").mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(kept("a").path, "broken").expect("the folder is ours");
        assert!(kept("a").read().await.is_none());
    }
}
