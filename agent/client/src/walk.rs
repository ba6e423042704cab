//! Finds the files that an entry of `manifests` means, without ever leaving the bundle's folder.
//!
//! Called by `pack`. Folders are read recursively and in order: `*.yaml`, `*.yml`, `*.json`, no dot
//! files. Symbolic links are followed while they stay inside; then the bundle holds the file under
//! the link's name. Names that the agent would refuse are refused here, with the reason.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

/// Bytes of a path in the bundle.
const PATH_LIMIT: usize = 240;
/// Segments of a path in the bundle.
const DEPTH_LIMIT: usize = 16;

/// Why an entry cannot be packed. The paths are the bundle's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    /// It is absolute or climbs out with `..`.
    #[error("{path:?} leaves the bundle's folder")]
    Outside {
        /// The entry.
        path: String,
    },
    /// A symbolic link leads out.
    #[error("{path} is a symbolic link that leads out of the bundle's folder")]
    LinkOutside {
        /// The link, or what lies behind one.
        path: String,
    },
    /// It is not there or cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// What.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A folder without manifests.
    #[error("the folder {path} holds no file that is wanted here (*.yaml, *.yml, *.json)")]
    Nothing {
        /// The folder.
        path: String,
    },
    /// Neither a file nor a folder.
    #[error("{path} is neither a file nor a folder")]
    Kind {
        /// What.
        path: String,
    },
    /// A name that archives cannot hold safely, or a path over a limit.
    #[error("{path:?} {why}")]
    Name {
        /// The path.
        path: String,
        /// Which rule it breaks.
        why: &'static str,
    },
}

impl WalkError {
    /// Returns one line with the cause.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Read { source, .. } => format!("{self}: {source}"),
            Self::Outside { .. }
            | Self::LinkOutside { .. }
            | Self::Nothing { .. }
            | Self::Kind { .. }
            | Self::Name { .. } => self.to_string(),
        }
    }
}

/// Returns the files of an entry: the path in the bundle and the path on disk. `root` is canonical.
///
/// # Errors
/// The first thing that cannot be packed.
pub(crate) fn files(root: &Path, entry: &str) -> Result<BTreeMap<String, PathBuf>, WalkError> {
    entry_files(root, entry, is_manifest)
}

/// As [`files`], with every file of a folder that is no dot file.
///
/// # Errors
/// The first thing that cannot be packed.
pub(crate) fn whole(root: &Path, entry: &str) -> Result<BTreeMap<String, PathBuf>, WalkError> {
    entry_files(root, entry, |_any| true)
}

fn entry_files(
    root: &Path,
    entry: &str,
    wanted: fn(&OsStr) -> bool,
) -> Result<BTreeMap<String, PathBuf>, WalkError> {
    let name = inside(entry)?;
    let mut found = BTreeMap::new();
    let path = resolve(root, &name)?;
    let kind = metadata(&path, &name)?;
    if kind.is_dir() {
        folder(root, &name, &mut vec![path], wanted, &mut found)?;
        if found.is_empty() {
            return Err(WalkError::Nothing {
                path: entry.to_owned(),
            });
        }
    } else if kind.is_file() {
        found.insert(checked(name)?, path);
    } else {
        return Err(WalkError::Kind { path: name });
    }
    Ok(found)
}

/// Returns an entry in the form of the bundle's paths; the folder itself is the empty path.
fn inside(entry: &str) -> Result<String, WalkError> {
    let outside = || WalkError::Outside {
        path: entry.to_owned(),
    };
    if entry.is_empty() {
        return Err(WalkError::Name {
            path: String::new(),
            why: "is empty",
        });
    }
    let mut segments = Vec::new();
    for component in Path::new(entry).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(segment) => segments.push(segment.to_str().ok_or_else(outside)?),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(outside());
            }
        }
    }
    Ok(segments.join("/"))
}

/// Adds the manifests below a folder. `above` holds the real paths of the folders that are open.
fn folder(
    root: &Path,
    name: &str,
    above: &mut Vec<PathBuf>,
    wanted: fn(&OsStr) -> bool,
    found: &mut BTreeMap<String, PathBuf>,
) -> Result<(), WalkError> {
    let unreadable = |source| WalkError::Read {
        path: name.to_owned(),
        source,
    };
    let here = above.last().cloned().unwrap_or_else(|| root.to_owned());
    for item in fs::read_dir(&here).map_err(unreadable)? {
        let item = item.map_err(unreadable)?.file_name();
        let child = child(name, &item)?;
        if item.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = match resolve(root, &child) {
            Ok(path) => path,
            // A link that dangles or leads out and is no manifest is nobody's business.
            Err(_) if !wanted(&item) => continue,
            Err(error) => return Err(error),
        };
        let kind = metadata(&path, &child)?;
        if kind.is_dir() {
            if above.contains(&path) || above.len() >= DEPTH_LIMIT {
                let why = "is a link to a folder above it, or lies too deep";
                return Err(WalkError::Name { path: child, why });
            }
            above.push(path);
            folder(root, &child, above, wanted, found)?;
            above.pop();
        } else if kind.is_file() && wanted(&item) {
            found.insert(checked(child)?, path);
        }
    }
    Ok(())
}

fn child(name: &str, item: &OsStr) -> Result<String, WalkError> {
    let text = item.to_str().ok_or_else(|| WalkError::Name {
        path: format!("{name}/{}", item.to_string_lossy()),
        why: "is not UTF-8",
    })?;
    Ok(if name.is_empty() {
        text.to_owned()
    } else {
        format!("{name}/{text}")
    })
}

fn is_manifest(item: &OsStr) -> bool {
    let extension = Path::new(item).extension().and_then(OsStr::to_str);
    matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Returns the real path, which lies inside the root.
fn resolve(root: &Path, name: &str) -> Result<PathBuf, WalkError> {
    let path = fs::canonicalize(root.join(name)).map_err(|source| WalkError::Read {
        path: name.to_owned(),
        source,
    })?;
    if path.starts_with(root) {
        Ok(path)
    } else {
        Err(WalkError::LinkOutside {
            path: name.to_owned(),
        })
    }
}

fn metadata(path: &Path, name: &str) -> Result<fs::Metadata, WalkError> {
    fs::metadata(path).map_err(|source| WalkError::Read {
        path: name.to_owned(),
        source,
    })
}

/// Refuses what the agent would refuse as a path.
fn checked(path: String) -> Result<String, WalkError> {
    let why = if path.len() > PATH_LIMIT {
        "is longer than 240 bytes"
    } else if path.split('/').count() > DEPTH_LIMIT {
        "lies deeper than 16 levels"
    } else if path.contains('\\') || path.chars().any(char::is_control) {
        "has a backslash or a control character in its name"
    } else {
        return Ok(path);
    };
    Err(WalkError::Name { path, why })
}
