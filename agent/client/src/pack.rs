//! Packs the bundle: `quaymaster.yaml`, expanded, and the files that it names.
//!
//! Called by the commands `deploy` and `plan`. The archive depends on the files' names and content
//! alone, so the same input gives the same bytes. The limits of the contract are checked here
//! first, because a name and a size on this side help more than a 413 from the other.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::string::FromUtf8Error;

use proto::error::Code;
use proto::error::Place;
use proto::error::Problem;

use crate::archive;
use crate::expand;
use crate::expand::Environment;
use crate::images;
use crate::images::Image;
use crate::kustomization;
use crate::walk;
use crate::walk::WalkError;
use crate::yaml;
use crate::yaml::Named;
use crate::yaml::SPEC_FILE;

/// The file of the bundle with the spec of the environment to promote from.
pub(crate) const FROM: &str = ".quaymaster-from.yaml";
/// The parts of a spec that have to do with values for jobs.
const EXPOSING: &[&str] = &["version", "name", "target", "expose"];
/// Bytes of the whole archive.
const TOTAL_LIMIT: u64 = 32 << 20;
/// Bytes of one file.
const FILE_LIMIT: u64 = 8 << 20;
/// Bytes of the spec.
const SPEC_LIMIT: u64 = 256 << 10;
/// Files in a bundle.
const ENTRY_LIMIT: usize = 5_000;

/// A packed bundle.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// The tar archive.
    pub(crate) archive: Vec<u8>,
    /// What is in it, by path, with sizes; for the verbose log.
    pub(crate) files: BTreeMap<String, usize>,
}

/// Why a bundle cannot be packed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    /// The spec has places that are wrong.
    #[error("reading {SPEC_FILE}")]
    Spec(Vec<Place>),
    /// The spec is not text.
    #[error("reading {SPEC_FILE}: it is not UTF-8")]
    NotText(#[source] FromUtf8Error),
    /// A file or folder cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An entry that names files cannot be packed.
    #[error("packing an entry of {SPEC_FILE}")]
    Manifest {
        /// The entry's place in the spec.
        place: Place,
        /// Why.
        source: WalkError,
    },
    /// A file or the whole is over a limit.
    #[error("{what} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The file, or the bundle.
        what: String,
        /// Its size, or the part of it that was read.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Too many files.
    #[error("the bundle has {count} files, more than the limit of {ENTRY_LIMIT}")]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// Packs what `dir` holds.
///
/// # Errors
/// [`PackError`] with the file, and the place in the spec where there is one.
pub(crate) fn pack(
    dir: &Path,
    images: &[Image],
    environment: &Environment,
) -> Result<Bundle, PackError> {
    let (root, spec) = spec_of(dir, |source| images::put(source, images), environment)?;
    whole(dir, &root, spec)
}

/// Packs what `to` holds, with the spec of `from` as the file [`FROM`]: the environment whose images are
/// promoted.
///
/// # Errors
/// As for [`pack`], for either folder.
pub(crate) fn promotion(
    from: &Path,
    to: &Path,
    environment: &Environment,
) -> Result<Bundle, PackError> {
    let (_, other) = spec_of(from, images::open, environment).map_err(|error| match error {
        PackError::Spec(mut places) => {
            let file = from.join(SPEC_FILE).display().to_string();
            let named = places.iter_mut();
            named.for_each(|place| place.file = Some(file.clone()));
            PackError::Spec(places)
        }
        error => error,
    })?;
    let (root, spec) = spec_of(to, images::open, environment)?;
    let mut bundle = whole(to, &root, spec)?;
    bundle.bind(FROM, other.as_bytes())?;
    Ok(bundle)
}

/// Packs of the spec `file` what is needed to give out the values under `expose`, and nothing else.
///
/// # Errors
/// As for [`pack`].
pub(crate) fn exposing(file: &Path, environment: &Environment) -> Result<Bundle, PackError> {
    let of_folder = file.join(SPEC_FILE);
    let file = if file.is_dir() { &of_folder } else { file };
    let spec = read(file, &file.display().to_string(), SPEC_LIMIT)?;
    let source = String::from_utf8(spec).map_err(PackError::NotText)?;
    let source = yaml::parts(&source, EXPOSING).map_err(|place| PackError::Spec(vec![place]))?;
    let spec = expand::expand(&source, environment).map_err(PackError::Spec)?;
    let files = BTreeMap::from([(SPEC_FILE.to_owned(), spec.into_bytes())]);
    bundle(files, file)
}

/// Reads the spec of a folder and fills it in; returns the folder's real path with it.
fn spec_of(
    dir: &Path,
    images: impl Fn(&str) -> Result<String, Vec<Place>>,
    environment: &Environment,
) -> Result<(PathBuf, String), PackError> {
    let root = fs::canonicalize(dir).map_err(unreadable(dir))?;
    let spec = read(&root.join(SPEC_FILE), SPEC_FILE, SPEC_LIMIT)?;
    let source = String::from_utf8(spec).map_err(PackError::NotText)?;
    let source = images(&source).map_err(PackError::Spec)?;
    let spec = expand::expand(&source, environment).map_err(PackError::Spec)?;
    check_size(SPEC_FILE, spec.len() as u64, SPEC_LIMIT)?;
    Ok((root, spec))
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> PackError {
    let path = path.to_owned();
    |source| PackError::Read { path, source }
}

/// Packs a spec and the files that it names.
fn whole(dir: &Path, root: &Path, spec: String) -> Result<Bundle, PackError> {
    let scalars = yaml::scalars(&spec).map_err(|place| PackError::Spec(vec![place]))?;
    let mut paths: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (named, entry) in yaml::entries(&scalars) {
        let path = entry.value.replace("$${", "${");
        let found = match named {
            Named::Manifests => walk::files(root, &path),
            Named::Whole => walk::whole(root, &path),
            Named::Kustomization => kustomization::files(root, &path),
        };
        let found = found.map_err(|source| PackError::Manifest {
            place: yaml::place(&spec, entry.start, String::new()),
            source,
        })?;
        paths.extend(found);
    }
    paths.remove(SPEC_FILE);
    if paths.len() >= ENTRY_LIMIT {
        return Err(PackError::TooMany {
            count: paths.len() + 1,
        });
    }

    let mut files = BTreeMap::from([(SPEC_FILE.to_owned(), spec.into_bytes())]);
    let mut total = 0;
    for (name, path) in paths {
        let content = read(&path, &name, FILE_LIMIT)?;
        total += content.len() as u64;
        check_size("the bundle", total, TOTAL_LIMIT)?;
        files.insert(name, content);
    }
    bundle(files, dir)
}

/// Puts files into one archive; `from` is where they come from.
fn bundle(files: BTreeMap<String, Vec<u8>>, from: &Path) -> Result<Bundle, PackError> {
    let archive = archive::tar(&files).map_err(unreadable(from))?;
    check_size("the bundle", archive.len() as u64, TOTAL_LIMIT)?;
    Ok(Bundle {
        archive,
        files: files
            .into_iter()
            .map(|(name, content)| (name, content.len()))
            .collect(),
    })
}

impl Bundle {
    /// Adds the saved plan that the deploy has to keep.
    ///
    /// # Errors
    /// The whole is over the limit.
    pub(crate) fn bind(&mut self, name: &str, plan: &[u8]) -> Result<(), PackError> {
        let archive = std::mem::take(&mut self.archive);
        let path = PathBuf::from(name);
        self.archive = archive::append(archive, name, plan)
            .map_err(|source| PackError::Read { path, source })?;
        check_size("the bundle", self.archive.len() as u64, TOTAL_LIMIT)
    }
}

/// Reads a file, at most one byte over the limit.
fn read(path: &Path, name: &str, limit: u64) -> Result<Vec<u8>, PackError> {
    let mut content = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut content))
        .map_err(|source| PackError::Read {
            path: path.to_owned(),
            source,
        })?;
    check_size(name, content.len() as u64, limit)?;
    Ok(content)
}

fn check_size(what: &str, size: u64, limit: u64) -> Result<(), PackError> {
    if size > limit {
        return Err(PackError::TooLarge {
            what: what.to_owned(),
            size,
            limit,
        });
    }
    Ok(())
}

impl PackError {
    /// Tells the caller in the words of the agent's own answers.
    pub(crate) fn problem(self) -> Problem {
        let detail = self.to_string();
        match self {
            Self::Spec(places) => {
                Problem::new(Code::SpecInvalid, "quaymaster.yaml cannot be packed").places(places)
            }
            Self::NotText(_) => Problem::new(Code::SpecInvalid, detail),
            Self::Read { source, .. } => Problem::new(Code::BundleInvalid, format!("{detail}: {source}"))
                .hint("run quaymaster in the folder that holds quaymaster.yaml, or name the folder: quaymaster deploy DIR"),
            Self::Manifest { mut place, source } => {
                place.message = source.message();
                Problem::new(Code::BundleInvalid, "a file that quaymaster.yaml names cannot be packed")
                    .places([place])
            }
            Self::TooLarge { .. } | Self::TooMany { .. } => Problem::new(Code::TooLarge, detail)
                .hint("name only the files that belong to this deploy"),
        }
    }
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
