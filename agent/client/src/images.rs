//! Puts images of the command line into `quaymaster.yaml`: `--image NAME=REFERENCE`.
//!
//! Called by `pack` before variables are replaced, so that an entry `${IMAGE}` needs no such variable then. Works
//! on the source text, as `expand` does: only the scalar of an image that the file lists is replaced.

use std::str::FromStr;

use proto::error::Place;

use crate::yaml;
use crate::yaml::Role;
use crate::yaml::SPEC_FILE;

/// One image of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    name: String,
    reference: String,
}

impl FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, reference) = text
            .split_once('=')
            .ok_or("expected NAME=REFERENCE, such as shop=registry.example.com/shop:1.4")?;
        // What the agent takes as a reference is its to judge; this keeps it one scalar.
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
        if name.is_empty() || reference.is_empty() || !reference.chars().all(plain) {
            return Err(format!("{text:?} is no NAME=REFERENCE of an image"));
        }
        Ok(Self {
            name: name.to_owned(),
            reference: reference.to_owned(),
        })
    }
}

/// Replaces the references of images that the spec lists.
///
/// # Errors
/// A name that the spec does not list under `images`.
pub(crate) fn put(source: &str, images: &[Image]) -> Result<String, Vec<Place>> {
    if images.is_empty() {
        return Ok(source.to_owned());
    }
    let scalars = yaml::scalars(source).map_err(|place| vec![place])?;
    let mut changed = source.to_owned();
    let mut places = Vec::new();
    // From the end, so that the places before stay where they are.
    for scalar in scalars.iter().rev() {
        let [top, name] = scalar.path.as_slice() else {
            continue;
        };
        // The last one given counts, as for other options.
        let given = images.iter().rev().find(|image| image.name == *name);
        if let Some(image) = given.filter(|_| top == "images" && scalar.role == Role::Value) {
            let text = format!("\"{}\"", image.reference);
            changed.replace_range(scalar.start..scalar.end, &text);
        }
    }
    for image in images {
        let listed = scalars.iter().any(|scalar| {
            scalar.role == Role::Value && scalar.path == ["images", image.name.as_str()]
        });
        if !listed {
            places.push(Place {
                file: Some(SPEC_FILE.to_owned()),
                line: None,
                column: None,
                path: Some("images".to_owned()),
                message: format!(
                    "--image names {:?}, which is not listed under 'images'",
                    image.name
                ),
            });
        }
    }
    if places.is_empty() {
        Ok(changed)
    } else {
        Err(places)
    }
}

/// Names every image whose reference is left to the job by its name alone, for a promotion: the agent finds the
/// reference, so no variable has to be set for it.
///
/// # Errors
/// The source is no YAML.
pub(crate) fn open(source: &str) -> Result<String, Vec<Place>> {
    let scalars = yaml::scalars(source).map_err(|place| vec![place])?;
    let mut changed = source.to_owned();
    // From the end, as above.
    for scalar in scalars.iter().rev() {
        let [top, name] = scalar.path.as_slice() else {
            continue;
        };
        let is_image = top == "images" && scalar.role == Role::Value;
        if is_image && scalar.raw(source).contains("${") {
            changed.replace_range(scalar.start..scalar.end, &format!("\"{name}\""));
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(texts: &[&str]) -> Vec<Image> {
        let parsed = texts.iter().map(|text| text.parse());
        parsed.collect::<Result<_, _>>().expect("they are images")
    }

    #[test]
    fn only_the_scalar_of_a_listed_image_changes() {
        let source = "name: web # web\nimages:\n  web: ${IMAGE}   # fresh\n  side/car: 'old:1'\nhelm: { images: { web: x } }\n";
        let put = put(
            source,
            &images(&["web=r.example.com/web:2@sha256:ab", "side/car=s:2"]),
        );
        assert_eq!(
            put.as_deref(),
            Ok(
                "name: web # web\nimages:\n  web: \"r.example.com/web:2@sha256:ab\"   # fresh\n  side/car: \"s:2\"\nhelm: { images: { web: x } }\n"
            )
        );
    }

    #[test]
    fn the_last_of_two_counts_and_an_unknown_name_is_told() {
        let source = "images: { web: a }\n";
        let twice = put(source, &images(&["web=b", "web=c"]));
        assert_eq!(twice.as_deref(), Ok("images: { web: \"c\" }\n"));
        let unknown = put(source, &images(&["api=b"])).expect_err("it is not listed");
        assert!(unknown[0].message.contains("\"api\""), "{unknown:?}");
    }

    #[test]
    fn a_promotion_leaves_open_what_the_job_would_have_said() {
        let source =
            "name: ${APP}\nimages:\n  web: \"${IMAGE}\"  # built\n  db: r.example.com/db:1\n";
        let open = open(source);
        assert_eq!(
            open.as_deref(),
            Ok("name: ${APP}\nimages:\n  web: \"web\"  # built\n  db: r.example.com/db:1\n")
        );
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for bad in ["web", "=x", "web=", "web=a b", "web=a\"b", "web=a\nb"] {
            assert!(bad.parse::<Image>().is_err(), "{bad:?}");
        }
    }
}
