//! Which images the files of a branch name now, read at the places where a deploy would replace them.
//!
//! Called by [`crate::flux`] for the environment that a promotion takes its images from. All places of an image
//! have to agree: which of two was meant is not guessed. Reads only; nothing else of the files is told.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::EditError;
use super::Part;
use super::Source;
use super::ValueRule;
use super::is_yaml;
use super::kustomize;
use super::read;
use super::scan::Scalar;
use super::setters;
use super::shown;
use super::values;
use crate::image::ImageRef;

/// What the places of one image say, each part with its place.
#[derive(Default)]
struct Parts {
    name: Option<(String, String)>,
    tag: Option<(String, String)>,
    digest: Option<(String, String)>,
}

/// Reads the images of these names.
///
/// # Errors
/// An image without a place, or places that are no reference, do not agree, or tell too little.
pub fn images(
    files: &BTreeMap<String, Vec<u8>>,
    names: &BTreeMap<String, ImageRef>,
    rules: &[ValueRule],
) -> Result<BTreeMap<String, ImageRef>, EditError> {
    let mut parts: BTreeMap<&str, Parts> = BTreeMap::new();
    let mut count = 0;
    for (file, bytes) in files {
        if !is_yaml(file) {
            continue;
        }
        count += 1;
        let Some(source) = read(file, bytes, names)? else {
            continue;
        };
        for place in setters::places(&source, names, &mut BTreeSet::new())? {
            let parts = parts.entry(place.name).or_default();
            parts.take(&source, place.name, place.scalar, place.part)?;
        }
        for entry in kustomize::entries(&source, names) {
            let parts = parts.entry(entry.image_name).or_default();
            parts.take_entry(&source, &entry)?;
        }
        for rule in rules {
            for scalar in values::places(&source, rule) {
                let parts = parts.entry(&rule.image).or_default();
                parts.take(&source, &rule.image, scalar, rule.part)?;
            }
        }
    }
    let nowhere = names
        .keys()
        .filter(|name| !parts.contains_key(name.as_str()));
    let nowhere: Vec<String> = nowhere.cloned().collect();
    if !nowhere.is_empty() {
        return Err(EditError::NoPlace {
            images: nowhere,
            files: count,
        });
    }
    let whole = |(name, parts): (&str, Parts)| Ok((name.to_owned(), parts.whole(name)?));
    parts.into_iter().map(whole).collect()
}

impl Parts {
    /// Takes what stands at one place.
    fn take(
        &mut self,
        source: &Source<'_>,
        image: &str,
        scalar: &Scalar,
        part: Part,
    ) -> Result<(), EditError> {
        let text = &scalar.value;
        // A part is read as the rest of a reference, so that its rules are those of references.
        let (read, has_name) = match part {
            Part::Reference | Part::Name => (ImageRef::parse(text), true),
            Part::Tag => (ImageRef::parse(&format!("x:{text}")), false),
            Part::Digest => (ImageRef::parse(&format!("x@{text}")), false),
        };
        let is_whole = |read: &ImageRef| match part {
            Part::Name => read.tag.is_none() && read.digest.is_none(),
            Part::Reference | Part::Tag | Part::Digest => true,
        };
        let Some(read) = read.ok().filter(is_whole) else {
            let problem = format!("what stands here is no {} of an image", setters::word(part));
            return Err(source.broken(scalar.line, problem));
        };
        let place = format!("{}, line {}", source.name, scalar.line);
        if has_name {
            put(&mut self.name, image, read.name, &place)?;
        }
        if let Some(tag) = read.tag {
            put(&mut self.tag, image, tag, &place)?;
        }
        match read.digest {
            Some(digest) => put(&mut self.digest, image, digest, &place),
            None => Ok(()),
        }
    }

    /// Takes an entry of a kustomization; without `newName` the image keeps its name.
    fn take_entry(
        &mut self,
        source: &Source<'_>,
        entry: &kustomize::Entry<'_, '_>,
    ) -> Result<(), EditError> {
        let image = entry.image_name;
        let fields = [
            (Some(entry.new_name.unwrap_or(entry.name)), Part::Name),
            (entry.new_tag, Part::Tag),
            (entry.digest, Part::Digest),
        ];
        for (scalar, part) in fields {
            if let Some(scalar) = scalar {
                self.take(source, image, scalar, part)?;
            }
        }
        Ok(())
    }

    fn whole(self, image: &str) -> Result<ImageRef, EditError> {
        let partial = |missing| EditError::Partial {
            image: image.to_owned(),
            missing,
        };
        let text = |part: Option<(String, String)>| part.map(|(text, _)| text);
        let (tag, digest) = (text(self.tag), text(self.digest));
        if tag.is_none() && digest.is_none() {
            return Err(partial("tag or digest"));
        }
        let name = text(self.name).ok_or_else(|| partial("name (registry and repository)"))?;
        Ok(ImageRef { name, tag, digest })
    }
}

/// Keeps a part, where it says the same as before.
fn put(
    kept: &mut Option<(String, String)>,
    image: &str,
    text: String,
    place: &str,
) -> Result<(), EditError> {
    match kept {
        Some((before, first)) if *before != text => Err(EditError::Differ {
            image: image.to_owned(),
            first: format!("{first} says {}", shown(before)),
            second: format!("{place} says {}", shown(&text)),
        }),
        Some(_) => Ok(()),
        None => {
            *kept = Some((text, place.to_owned()));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn told(files: &[(&str, String)], rules: &[ValueRule]) -> Result<String, EditError> {
        let bytes = |(name, text): &(&str, String)| ((*name).to_owned(), text.clone().into_bytes());
        let files = files.iter().map(bytes).collect();
        let web = ImageRef::parse("web").expect("a name");
        let names = BTreeMap::from([("web".to_owned(), web)]);
        images(&files, &names, rules).map(|images| images["web"].to_string())
    }

    fn marked(text: &str, part: &str) -> String {
        format!("image: {text} # {{\"$imagepolicy\": \"flux-system:web{part}\"}}\n")
    }

    #[test]
    fn every_kind_of_place_tells_its_image() {
        let whole = format!("r.example.com/web:1@{DIGEST}");
        assert_eq!(
            told(&[("a.yaml", marked(&whole, ""))], &[]),
            Ok(whole.clone())
        );
        let parts = [
            ("a.yaml", marked("r.example.com/web", ":name")),
            ("b.yml", marked(&format!("\"1@{DIGEST}\""), ":tag")),
            ("c.yaml", marked(DIGEST, ":digest")),
        ];
        assert_eq!(told(&parts, &[]), Ok(whole.clone()));
        let entry = format!(
            "images:\n- name: web\n  newName: r.example.com/web\n  newTag: \"1\"\n  digest: {DIGEST}\n- name: api\n  newTag: \"7\"\n"
        );
        assert_eq!(told(&[("kustomization.yaml", entry)], &[]), Ok(whole));
        let rule = |path: &str, part| ValueRule {
            object: None,
            path: path.to_owned(),
            image: "web".to_owned(),
            part,
        };
        let values = "image: { repository: r.example.com/web, tag: \"2\" }\n".to_owned();
        let rules = [
            rule("image.repository", Part::Name),
            rule("image.tag", Part::Tag),
        ];
        assert_eq!(
            told(&[("values.yaml", values.clone())], &rules),
            Ok("r.example.com/web:2".to_owned())
        );
        assert_eq!(
            told(&[("values.yaml", values)], &rules[1..]),
            Err(EditError::Partial {
                image: "web".to_owned(),
                missing: "name (registry and repository)"
            })
        );
    }

    #[test]
    fn places_that_differ_or_are_no_image_are_named() {
        let two = [
            ("a.yaml", marked("web:1", "")),
            ("b.yaml", marked("web:2", "")),
        ];
        let error = told(&two, &[]).expect_err("they differ");
        assert_eq!(
            error.to_string(),
            "the files do not agree on web: a.yaml, line 1 says 1, b.yaml, line 1 says 2"
        );
        let secret = told(&[("a.yaml", marked("'hunter 2'", ""))], &[]).expect_err("no image");
        assert!(!secret.to_string().contains("hunter"), "{secret}");
        let nothing = told(&[("a.yaml", "a: 1\n".to_owned())], &[]);
        assert!(
            matches!(nothing, Err(EditError::NoPlace { files: 1, .. })),
            "{nothing:?}"
        );
        let open = told(&[("a.yaml", marked("web", ""))], &[]);
        assert!(matches!(open, Err(EditError::Partial { .. })), "{open:?}");
    }
}
