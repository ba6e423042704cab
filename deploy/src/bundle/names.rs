//! Names of entries: which are taken, and that none means two files on any file system.
//!
//! Called by [`super::walk`] for every entry. A name that is refused for its characters is not
//! repeated in the error; the entry's number is told instead.

use std::collections::BTreeMap;

use unicode_normalization::is_nfc;

use super::InputError;
use super::Limits;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// How a name came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    File,
    Directory,
    /// A directory that only a path below it names.
    Parent,
}

/// The names so far.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By lower case; the value holds the name as it is written.
    by_folded: BTreeMap<String, (String, Known)>,
}

impl Names {
    /// Checks the name of entry `number` and keeps it; returns the path without `./` and end slash.
    pub(super) fn take(
        &mut self,
        raw: &[u8],
        kind: Kind,
        number: usize,
        limits: &Limits,
    ) -> Result<String, InputError> {
        let path = shape(raw, kind).map_err(|problem| {
            InputError::invalid(None, format!("the name of entry {number} {problem}"))
        })?;
        if path.len() > limits.path {
            let message = format!("the path of entry {number} is over {} bytes", limits.path);
            return Err(InputError::too_large(None, message));
        }
        if path.split('/').count() > limits.depth {
            let message = format!("the path has more than {} levels", limits.depth);
            return Err(InputError::too_large(Some(path), message));
        }
        self.keep(path, kind)
            .map_err(|problem| InputError::invalid(Some(path), problem))?;
        Ok(path.to_owned())
    }

    fn keep(&mut self, path: &str, kind: Kind) -> Result<(), &'static str> {
        let known = match kind {
            Kind::File => Known::File,
            Kind::Directory => Known::Directory,
        };
        for (slash, _) in path.match_indices('/') {
            self.add(&path[..slash], Known::Parent)?;
        }
        self.add(path, known)
    }

    fn add(&mut self, path: &str, known: Known) -> Result<(), &'static str> {
        let folded = path.to_lowercase();
        let Some((written, before)) = self.by_folded.get_mut(&folded) else {
            self.by_folded.insert(folded, (path.to_owned(), known));
            return Ok(());
        };
        if written != path {
            return Err("the name differs from another one only by upper and lower case");
        }
        match (*before, known) {
            (Known::Parent | Known::Directory, Known::Parent) => Ok(()),
            (Known::Parent, Known::Directory) => {
                *before = Known::Directory;
                Ok(())
            }
            (Known::File, Known::File) | (Known::Directory, Known::Directory) => {
                Err("two entries have this name")
            }
            (Known::File, Known::Directory | Known::Parent)
            | (Known::Parent | Known::Directory, Known::File) => {
                Err("a file and a directory have this name")
            }
        }
    }
}

/// Checks the shape of a name; the folder that was packed itself (`./`) becomes an empty path.
fn shape(raw: &[u8], kind: Kind) -> Result<&str, &'static str> {
    let Ok(name) = std::str::from_utf8(raw) else {
        return Err("is not UTF-8");
    };
    if name.chars().any(char::is_control) {
        return Err("has a control character");
    }
    if !is_nfc(name) {
        return Err("is not in the NFC form of Unicode");
    }
    if name.contains('\\') {
        return Err("has a backslash");
    }
    if name.starts_with('/') {
        return Err("is absolute; pack from inside the folder with `tar -C folder -c .`");
    }
    let path = match kind {
        Kind::Directory if name == "." || name == "./" => return Ok(""),
        Kind::Directory => name.strip_suffix('/').unwrap_or(name),
        Kind::File => name,
    };
    let path = path.strip_prefix("./").unwrap_or(path);
    for segment in path.split('/') {
        match segment {
            "" => return Err("has an empty segment"),
            "." => return Err("has a '.' segment"),
            ".." => return Err("has a '..' segment"),
            _ => {}
        }
    }
    Ok(path)
}
