//! Markers of Flux's image automation: `# {"$imagepolicy": "NAMESPACE:NAME[:tag|:name|:digest]"}`.
//!
//! Used by [`super`]. The form is that of image-automation-controller (its documentation, "Configure image
//! update for custom resources"). A policy is the image of the same name in the spec, with its namespace or
//! without; a marker for another policy is somebody else's.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::Value;

use super::EditError;
use super::Part;
use super::Source;
use super::Splice;
use super::kustomize;
use super::scalar;
use super::scan::Scalar;
use crate::image::ImageRef;

/// The key of a marker.
const KEY: &str = "$imagepolicy";

/// A marker for one of the images.
struct Marker<'a> {
    name: &'a str,
    image: &'a ImageRef,
    part: Part,
    /// As it is written.
    text: String,
}

/// Reads a comment.
fn marker<'a>(comment: &str, images: &'a BTreeMap<String, ImageRef>) -> Option<Marker<'a>> {
    let json = comment.trim().trim_start_matches('#').trim();
    let value: Value = serde_json::from_str(json).ok()?;
    let text = value.get(KEY)?.as_str()?;
    let mut words = text.split(':');
    let (namespace, policy) = (words.next()?, words.next()?);
    let part = match words.next() {
        None => Part::Reference,
        Some("tag") => Part::Tag,
        Some("name") => Part::Name,
        Some("digest") => Part::Digest,
        Some(_) => return None,
    };
    let full = format!("{namespace}:{policy}");
    let found = [full.as_str(), policy]
        .into_iter()
        .find_map(|name| images.get_key_value(name));
    let (name, image) = found?;
    Some(Marker {
        name,
        image,
        part,
        text: text.to_owned(),
    })
}

/// Says whether a text that is no YAML has a marker for one of the images.
pub(super) fn first_in(text: &str, images: &BTreeMap<String, ImageRef>) -> Option<u64> {
    let lines = text.lines().zip(1_u64..);
    let mut comments = lines.flat_map(|(line, number)| {
        let marks = line.match_indices('#');
        marks.map(move |(at, _)| (&line[at..], number))
    });
    comments.find_map(|(comment, number)| marker(comment, images).map(|_| number))
}

/// A marked place.
pub(super) struct Marked<'a, 's> {
    /// The name under `images`.
    pub(super) name: &'a str,
    pub(super) part: Part,
    pub(super) scalar: &'s Scalar,
    image: &'a ImageRef,
    /// Where the comment stands.
    line: u64,
    /// The marker as it is written.
    text: String,
}

/// Finds all marked places of a file, but those in entries of a kustomization, which are kustomize's to read.
pub(super) fn places<'a, 's>(
    source: &'s Source<'_>,
    images: &'a BTreeMap<String, ImageRef>,
    found: &mut BTreeSet<String>,
) -> Result<Vec<Marked<'a, 's>>, EditError> {
    let mut places = Vec::new();
    for comment in &source.scan.comments {
        let Some(marker) = marker(&comment.text, images) else {
            continue;
        };
        // The value that ends last before the comment, on the same line.
        let before = |scalar: &&Scalar| {
            scalar.place.end <= comment.start
                && !source.text[scalar.place.end..comment.start].contains('\n')
        };
        let scalar = source.scan.scalars.iter().rfind(before);
        let Some(scalar) = scalar.filter(|scalar| is_last(source, scalar, comment.start)) else {
            let problem = "a marker stands here without a value of its own on its line";
            return Err(source.broken(comment.line, problem));
        };
        found.insert(marker.name.to_owned());
        if kustomize::is_field(source, scalar) {
            continue;
        }
        places.push(Marked {
            name: marker.name,
            part: marker.part,
            scalar,
            image: marker.image,
            line: comment.line,
            text: marker.text,
        });
    }
    Ok(places)
}

/// Replaces what stands at the marked places of a file.
pub(super) fn splices(
    source: &Source<'_>,
    images: &BTreeMap<String, ImageRef>,
    found: &mut BTreeSet<String>,
) -> Result<Vec<Splice>, EditError> {
    let mut splices = Vec::new();
    for place in places(source, images, found)? {
        let new = match place.part {
            Part::Tag if has_digest(source, place.name, images) => place.image.tag.clone(),
            part => text_of(place.image, part),
        };
        let Some(new) = new else {
            let problem = format!(
                "the marker wants the {} of {}, which its reference does not have",
                word(place.part),
                place.name
            );
            return Err(source.broken(place.line, problem));
        };
        let what = format!("setter {}", place.text);
        splices.push(scalar::replace(source, place.scalar, what, &new)?);
    }
    Ok(splices)
}

/// Says whether a scalar is the last thing before a comment: only brackets may be between them, no alias.
fn is_last(source: &Source<'_>, scalar: &Scalar, comment: usize) -> bool {
    let between = &source.text[scalar.place.end..comment];
    between
        .chars()
        .all(|c| c.is_whitespace() || "]},".contains(c))
}

/// Says whether a file has a place of its own for the digest of an image.
fn has_digest(source: &Source<'_>, name: &str, images: &BTreeMap<String, ImageRef>) -> bool {
    let mut markers = source.scan.comments.iter();
    markers.any(|comment| {
        marker(&comment.text, images)
            .is_some_and(|marker| marker.name == name && marker.part == Part::Digest)
    })
}

/// Returns the text of a part of a reference. A tag carries its digest, so that an image stays pinned where
/// there is no other place for it; Flux's own setter writes the tag alone.
pub(super) fn text_of(image: &ImageRef, part: Part) -> Option<String> {
    match part {
        Part::Reference => Some(image.to_string()),
        Part::Name => Some(image.name.clone()),
        Part::Tag => match (&image.tag, &image.digest) {
            (Some(tag), Some(digest)) => Some(format!("{tag}@{digest}")),
            (Some(tag), None) => Some(tag.clone()),
            (None, _) => None,
        },
        Part::Digest => image.digest.clone(),
    }
}

/// Names a part.
pub(super) const fn word(part: Part) -> &'static str {
    match part {
        Part::Reference => "reference",
        Part::Name => "name",
        Part::Tag => "tag",
        Part::Digest => "digest",
    }
}
