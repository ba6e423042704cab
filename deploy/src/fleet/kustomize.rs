//! Entries of `images` in a kustomization: `newName`, `newTag` and `digest`.
//!
//! Used by [`super`]. The rules are kustomize's: where a digest is given the tag is passed over, so an entry gets
//! both and none that is out of date stays. What has no line yet gets one below the entry's name, in its
//! indentation; a digest without a successor loses its line.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::EditError;
use super::Source;
use super::Splice;
use super::Told;
use super::scalar;
use super::scan::Scalar;
use super::scan::Step;
use crate::image::ImageRef;

/// Names that kustomize reads.
const FILES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Says whether a scalar is a field of an entry of `images` in a kustomization.
pub(super) fn is_field(source: &Source<'_>, scalar: &Scalar) -> bool {
    let file = source.name.rsplit('/').next().unwrap_or_default();
    let fields = ["newName", "newTag", "digest"];
    FILES.contains(&file)
        && matches!(scalar.path.as_slice(), [Step::Key(list), Step::Item(_), Step::Key(key)]
            if list == "images" && fields.contains(&key.as_str()))
}

/// One entry.
pub(super) struct Entry<'a, 's> {
    /// The name under `images`.
    pub(super) image_name: &'a String,
    image: &'a ImageRef,
    pub(super) name: &'s Scalar,
    pub(super) new_name: Option<&'s Scalar>,
    pub(super) new_tag: Option<&'s Scalar>,
    pub(super) digest: Option<&'s Scalar>,
}

/// Finds the entries of all images.
pub(super) fn entries<'a, 's>(
    source: &'s Source<'_>,
    images: &'a BTreeMap<String, ImageRef>,
) -> Vec<Entry<'a, 's>> {
    let file = source.name.rsplit('/').next().unwrap_or_default();
    let mut entries = Vec::new();
    if !FILES.contains(&file) {
        return entries;
    }
    for name in &source.scan.scalars {
        let [Step::Key(list), Step::Item(index), Step::Key(key)] = name.path.as_slice() else {
            continue;
        };
        if list != "images" || key != "name" {
            continue;
        }
        let Some((image_name, image)) = images.get_key_value(&name.value) else {
            continue;
        };
        let field = |field: &str| {
            let path = [
                Step::Key("images".to_owned()),
                Step::Item(*index),
                Step::Key(field.to_owned()),
            ];
            source.scan.at(name.document, &path)
        };
        entries.push(Entry {
            image_name,
            image,
            name,
            new_name: field("newName"),
            new_tag: field("newTag"),
            digest: field("digest"),
        });
    }
    entries
}

/// Replaces the entries of all images.
pub(super) fn splices(
    source: &Source<'_>,
    images: &BTreeMap<String, ImageRef>,
    found: &mut BTreeSet<String>,
) -> Result<Vec<Splice>, EditError> {
    let mut splices = Vec::new();
    for entry in entries(source, images) {
        found.insert(entry.image_name.clone());
        splices.extend(one(source, &entry, entry.image)?);
    }
    Ok(splices)
}

fn one(
    source: &Source<'_>,
    entry: &Entry<'_, '_>,
    image: &ImageRef,
) -> Result<Vec<Splice>, EditError> {
    let what = |field: &str| format!("images[{}].{field}", entry.name.value);
    let mut splices = Vec::new();
    let mut added = Vec::new();
    match entry.new_name {
        Some(scalar) => {
            splices.push(scalar::replace(
                source,
                scalar,
                what("newName"),
                &image.name,
            )?);
        }
        None if image.name == entry.name.value => {}
        None => added.push(("newName", image.name.clone())),
    }
    match (entry.new_tag, &image.tag) {
        (Some(scalar), Some(tag)) => {
            splices.push(scalar::replace(source, scalar, what("newTag"), tag)?);
        }
        (None, Some(tag)) => added.push(("newTag", tag.clone())),
        (Some(scalar), None) => splices.push(without(source, entry, scalar, what("newTag"))?),
        (None, None) => {}
    }
    match (entry.digest, &image.digest) {
        (Some(scalar), Some(digest)) => {
            splices.push(scalar::replace(source, scalar, what("digest"), digest)?);
        }
        (None, Some(digest)) => added.push(("digest", digest.clone())),
        (Some(scalar), None) => splices.push(without(source, entry, scalar, what("digest"))?),
        (None, None) => {}
    }
    for (field, text) in added {
        splices.push(with(source, entry, (field, &text), what(field))?);
    }
    Ok(splices)
}

/// Adds a field below the name.
fn with(
    source: &Source<'_>,
    entry: &Entry<'_, '_>,
    (field, text): (&str, &str),
    what: String,
) -> Result<Splice, EditError> {
    let name = entry.name;
    let written = if scalar::is_plain_text(text) {
        text.to_owned()
    } else {
        format!("\"{text}\"")
    };
    let told = Some(Told {
        line: name.line,
        what,
        old: String::new(),
        new: text.to_owned(),
    });
    if name.in_flow {
        return Ok(Splice {
            start: name.place.end,
            end: name.place.end,
            text: format!(", {field}: {written}"),
            told,
        });
    }
    let rest = &source.text[name.place.end..];
    let line = rest.find('\n').map(|at| name.place.end + at);
    let Some(line) = line else {
        let problem = "the last line has no end, so nothing can be added below it";
        return Err(source.broken(name.line, problem));
    };
    let end = if source.text[..line].ends_with('\r') {
        "\r\n"
    } else {
        "\n"
    };
    Ok(Splice {
        start: line + 1,
        end: line + 1,
        text: format!("{}{field}: {written}{end}", indentation(source.text, name)),
        told,
    })
}

/// The column of an entry's keys, as spaces.
fn indentation(text: &str, name: &Scalar) -> String {
    let begins = text[..name.place.start].rfind('\n').map_or(0, |at| at + 1);
    let line = &text[begins..name.place.start];
    let key = line.find("name").unwrap_or(0);
    line[..key]
        .chars()
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect()
}

/// Takes the line of a field away.
fn without(
    source: &Source<'_>,
    entry: &Entry<'_, '_>,
    scalar: &Scalar,
    what: String,
) -> Result<Splice, EditError> {
    let text = source.text;
    let begins = text[..scalar.place.start]
        .rfind('\n')
        .map_or(0, |at| at + 1);
    let ends = text[scalar.place.end..]
        .find('\n')
        .map_or(text.len(), |at| scalar.place.end + at + 1);
    let head = text[begins..scalar.place.start].trim_start();
    let tail = text[scalar.place.end..ends].trim();
    let field = what.rsplit('.').next().unwrap_or_default();
    let alone = head
        .strip_prefix(field)
        .is_some_and(|rest| rest.trim() == ":")
        && tail.is_empty();
    if scalar.in_flow || !alone || scalar.line == entry.name.line {
        let problem = format!(
            "the new image has no such part, and the field {field} shares its line with something else; take \
             it out by hand"
        );
        return Err(source.broken(scalar.line, problem));
    }
    Ok(Splice {
        start: begins,
        end: ends,
        text: String::new(),
        told: Some(Told {
            line: scalar.line,
            what,
            old: scalar.value.clone(),
            new: String::new(),
        }),
    })
}
