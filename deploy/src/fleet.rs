//! Images in the files of a repository that Flux reads: found, and replaced byte for byte.
//!
//! Called by [`crate::flux`] with what a branch holds. An image is found by a marker of Flux's image automation
//! on its line ([`setters`]), as an entry of a kustomization ([`kustomize`]), or by a path that the spec names
//! ([`values`]). [`scan`] reads where every scalar stands, [`scalar`] writes a text in the style of the one it
//! replaces, [`message`] is what the commit says. [`told`] goes the other way: which images the files name.
//!
//! Invariants: only bytes of the places found change, everything else stays as it is; what was written is
//! read again and compared before it is given out. Files may hold secrets: nothing of them is told but texts
//! that read as part of an image's reference.

mod kustomize;
pub mod message;
mod scalar;
mod scan;
mod setters;
pub mod told;
mod values;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use crate::image::ImageRef;
use crate::yaml;

/// One place of a file where an image stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The file.
    pub file: String,
    /// The line, counted from 1.
    pub line: u64,
    /// How it was found, such as `setter flux-system:flask:tag`.
    pub what: String,
    /// What stands there, if it reads as part of a reference.
    pub old: String,
    /// What it becomes.
    pub new: String,
}

/// What becomes of the files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edited {
    /// Files that differ.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Places that differ.
    pub changes: Vec<Change>,
    /// Places that say it already.
    pub same: Vec<Change>,
}

/// A place by its path, from the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueRule {
    /// `Kind/name`; of a HelmRelease the path is below `spec.values`. Unset: every file that has the path.
    pub object: Option<String>,
    /// Keys with dots between them.
    pub path: String,
    /// The name under `images`.
    pub image: String,
    /// What stands there.
    pub part: Part,
}

/// Which part of a reference stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Reference,
    /// Registry and repository.
    Name,
    /// The tag, with the digest behind it where there is one.
    Tag,
    /// The digest.
    Digest,
}

/// Why nothing is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditError {
    /// Images have no place.
    NoPlace {
        /// Which.
        images: Vec<String>,
        /// How many files were looked at.
        files: usize,
    },
    /// A place cannot be written.
    Place {
        /// The file.
        file: String,
        /// The line.
        line: u64,
        /// What is the matter, as the rest of a sentence.
        problem: String,
    },
    /// Two places name different images under one name.
    Differ {
        /// The name under `images`.
        image: String,
        /// What stands at the first place, with the place.
        first: String,
        /// What stands at the other.
        second: String,
    },
    /// The places tell too little to know which image it is.
    Partial {
        /// The name under `images`.
        image: String,
        /// What is not told, such as its name.
        missing: &'static str,
    },
    /// A path of the spec leads nowhere.
    Path {
        /// The path, with its object.
        path: String,
        /// How far it leads.
        reached: String,
    },
}

impl std::error::Error for EditError {}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPlace { images, files } => {
                let names = images.join(", ");
                write!(
                    f,
                    "none of the {files} files below flux.path has a place for {names}: looked for markers \
                     {{\"$imagepolicy\": \"NAMESPACE:NAME\"}}, for entries of that name under `images` of a \
                     kustomization, and for the paths of flux.values"
                )
            }
            Self::Place {
                file,
                line,
                problem,
            } => write!(f, "{file}, line {line}: {problem}"),
            Self::Differ {
                image,
                first,
                second,
            } => write!(f, "the files do not agree on {image}: {first}, {second}"),
            Self::Partial { image, missing } => {
                write!(f, "no place of {image} tells its {missing}")
            }
            Self::Path { path, reached } => {
                write!(f, "flux.values: {path} is in no file; {reached}")
            }
        }
    }
}

/// A piece of a file that gets another text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Splice {
    start: usize,
    end: usize,
    text: String,
    /// What is told of it; unset for what only goes with another one.
    told: Option<Told>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    line: u64,
    what: String,
    old: String,
    new: String,
}

/// A file that was read.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
    scan: scan::Scan,
}

impl Source<'_> {
    fn broken(&self, line: u64, problem: impl Into<String>) -> EditError {
        EditError::Place {
            file: self.name.to_owned(),
            line,
            problem: problem.into(),
        }
    }
}

/// Replaces images in files.
///
/// # Errors
/// An image without a place, a place that cannot be written, or a path that leads nowhere.
pub fn edit(
    files: &BTreeMap<String, Vec<u8>>,
    images: &BTreeMap<String, ImageRef>,
    values: &[ValueRule],
) -> Result<Edited, EditError> {
    let mut edited = Edited::default();
    let mut found = BTreeSet::new();
    let mut paths = values::Paths::new(values);
    let mut count = 0;
    for (name, bytes) in files {
        if !is_yaml(name) {
            continue;
        }
        count += 1;
        let Some(source) = read(name, bytes, images)? else {
            continue;
        };
        let mut splices = setters::splices(&source, images, &mut found)?;
        splices.extend(kustomize::splices(&source, images, &mut found)?);
        splices.extend(paths.splices(&source, images, &mut found)?);
        write(&source, bytes, splices, &mut edited)?;
    }
    paths.finish()?;
    let missing: Vec<String> = images
        .keys()
        .filter(|name| !found.contains(*name))
        .cloned()
        .collect();
    if !missing.is_empty() {
        return Err(EditError::NoPlace {
            images: missing,
            files: count,
        });
    }
    Ok(edited)
}

fn is_yaml(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let end = file.rsplit('.').next().unwrap_or_default();
    ["yaml", "yml"].contains(&end) || file == "Kustomization"
}

/// Reads a file; what is no YAML is passed over, unless it has a marker for one of the images.
fn read<'a>(
    name: &'a str,
    bytes: &'a [u8],
    images: &BTreeMap<String, ImageRef>,
) -> Result<Option<Source<'a>>, EditError> {
    let Ok(text) = yaml::text(bytes) else {
        return Ok(None);
    };
    match scan::scan(text) {
        Ok(scan) => Ok(Some(Source { name, text, scan })),
        Err(line) => match setters::first_in(text, images) {
            None => Ok(None),
            Some(_) => Err(EditError::Place {
                file: name.to_owned(),
                line,
                problem: "the file has a marker and is not valid YAML from here on".to_owned(),
            }),
        },
    }
}

/// Puts the new texts in, and looks that nothing else has changed.
fn write(
    source: &Source<'_>,
    bytes: &[u8],
    mut splices: Vec<Splice>,
    edited: &mut Edited,
) -> Result<(), EditError> {
    splices.sort_by_key(|splice| (splice.start, splice.end));
    splices.dedup_by(|later, first| {
        later.start == first.start && later.end == first.end && later.text == first.text
    });
    let mut text = String::with_capacity(source.text.len());
    let mut copied = 0;
    let mut wanted = BTreeMap::new();
    for splice in &splices {
        let line = splice.told.as_ref().map_or(0, |told| told.line);
        if splice.start < copied {
            return Err(source.broken(line, "two rules want different texts at one place"));
        }
        text.push_str(&source.text[copied..splice.start]);
        text.push_str(&splice.text);
        copied = splice.end;
        if let Some(told) = &splice.told {
            wanted.insert(splice.start, told.new.clone());
        }
    }
    text.push_str(&source.text[copied..]);
    for told in splices.into_iter().filter_map(|splice| splice.told) {
        let same = told.old == told.new;
        let change = Change {
            file: source.name.to_owned(),
            line: told.line,
            what: told.what,
            old: shown(&told.old),
            new: told.new,
        };
        if same {
            edited.same.push(change);
        } else {
            edited.changes.push(change);
        }
    }
    if text == source.text {
        return Ok(());
    }
    scan::compare(&source.scan, &text, &wanted)
        .map_err(|line| source.broken(line, "the file would not read as it should afterwards"))?;
    let mark = bytes.len() - source.text.len();
    let mut content = bytes[..mark].to_vec();
    content.extend_from_slice(text.as_bytes());
    edited.files.insert(source.name.to_owned(), content);
    Ok(())
}

/// Shows a text where it reads as a reference or a part of one.
fn shown(text: &str) -> String {
    // A tag, a digest, or both; a word that is a password by mistake cannot be told from a tag.
    let alone = |text: &str| ImageRef::parse(&format!("x{text}")).is_ok();
    let reads = text.is_empty()
        || ImageRef::parse(text).is_ok()
        || alone(&format!(":{text}"))
        || alone(&format!("@{text}"));
    if reads {
        text.to_owned()
    } else {
        "(something else)".to_owned()
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
