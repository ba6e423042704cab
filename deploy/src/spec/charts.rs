//! The field `helm` of `quaymaster.yaml`: chart, values, images and what happens to hooks.
//!
//! Called by [`super::parse()`]. Every image under `images` needs a place in the chart's values, since
//! nobody but the chart knows where it wants it; a place for an image that is not given is refused
//! as well.

use std::collections::BTreeMap;

use proto::ids::DeployName;
use serde_json::Map;
use serde_json::Value;

use super::Helm;
use super::ImagePaths;
use super::fields::Errors;
use super::fields::Fields;
use super::fields::Spot;
use super::parse::path;
use super::parse::timeout_of;
use super::remote;
use crate::image::ImageRef;
use crate::ports::Crds;
use crate::ports::Hooks;
use crate::ports::ReleaseName;
use crate::yaml::core::Scalar;
use crate::yaml::core::scalar;

/// A path into a chart's values, such as `image.tag`; `\.` is a dot inside a key, as for `--set`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValuePath(Vec<String>);

impl ValuePath {
    /// Reads a path.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut keys = vec![String::new()];
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            let last = keys.len() - 1;
            match letter {
                '.' => keys.push(String::new()),
                '\\' => keys[last].extend(letters.next()),
                '[' | ']' | '{' | '}' | ',' | '=' => {
                    return Err("items of lists cannot be named; set the whole list");
                }
                other if other.is_control() => return Err("has a control character"),
                other => keys[last].push(other),
            }
        }
        if keys.iter().any(String::is_empty) {
            return Err("expected keys with dots between them, such as image.tag");
        }
        Ok(Self(keys))
    }

    /// Puts a value at this path; what was there on the way and is no mapping is replaced.
    pub fn put(&self, values: &mut Map<String, Value>, value: Value) {
        let Some((last, above)) = self.0.split_last() else {
            return;
        };
        let mut here = values;
        for key in above {
            let below = here.entry(key.clone()).or_insert(Value::Null);
            if !below.is_object() {
                *below = Value::Object(Map::new());
            }
            let Value::Object(next) = below else {
                return; // It was made one just now.
            };
            here = next;
        }
        here.insert(last.clone(), value);
    }
}

/// Reads the field.
pub(super) fn helm(
    spot: Spot<'_>,
    name: Option<&DeployName>,
    images: &BTreeMap<String, ImageRef>,
    errors: &mut Errors,
) -> Option<Helm> {
    const WORDS: &[&str] = &[
        "chart",
        "repo",
        "version",
        "digest",
        "release",
        "values",
        "set",
        "image",
        "timeout",
        "hooks",
        "skip_crds",
    ];
    let whole = spot.clone();
    let fields = spot.fields(WORDS, errors)?;
    let chart = remote::chart(&fields, errors);
    let release = match fields.take("release") {
        Some(spot) => spot.parsed(errors, ReleaseName::parse),
        None => name.and_then(|name| {
            ReleaseName::parse(name.as_str())
                .map_err(|_shape| {
                    errors.at(
                        &whole,
                        "the app's name is no name of a release; give one as 'release'",
                    );
                })
                .ok()
        }),
    };
    let values = fields.take("values").map(|spot| {
        let items = spot.items(errors);
        items.iter().filter_map(|item| path(item, errors)).collect()
    });
    let set = fields.take("set").map(|spot| set(&spot, errors));
    let image = image(&fields, &whole, images, errors);
    let timeout = fields
        .take("timeout")
        .and_then(|spot| timeout_of(&spot, errors));
    let skip = fields
        .take("skip_crds")
        .and_then(|spot| spot.flag(errors))
        .unwrap_or(false);
    let hooks = hooks(&fields, errors);
    Some(Helm {
        chart: chart?,
        release: release?,
        values: values.unwrap_or_default(),
        set: set.unwrap_or_default(),
        image,
        timeout,
        hooks,
        crds: if skip { Crds::Skip } else { Crds::Install },
    })
}

fn hooks(fields: &Fields<'_>, errors: &mut Errors) -> Hooks {
    let Some(spot) = fields.take("hooks") else {
        return Hooks::Run;
    };
    match spot.text(errors) {
        Some("skip") => return Hooks::Skip,
        Some("run") | None => {}
        Some(_) => errors.at(&spot, "expected run or skip"),
    }
    Hooks::Run
}

fn set(spot: &Spot<'_>, errors: &mut Errors) -> BTreeMap<ValuePath, Value> {
    let mut set = BTreeMap::new();
    for (key, value) in spot.map(errors) {
        match ValuePath::parse(key) {
            Ok(path) => {
                if let Some(value) = typed(&value, errors) {
                    set.insert(path, value);
                }
            }
            Err(problem) => errors.at(&value, format!("the path on the left: {problem}")),
        }
    }
    set
}

/// Reads a value as it is written: quoted is text, `true` a boolean, `3` a number.
fn typed(spot: &Spot<'_>, errors: &mut Errors) -> Option<Value> {
    if let Some(items) = spot.node.sequence() {
        let at = |(index, node)| Spot {
            node,
            path: format!("{}[{index}]", spot.path),
        };
        let items = items.iter().enumerate().map(at);
        let items: Vec<Option<Value>> = items.map(|item| typed(&item, errors)).collect();
        return items.into_iter().collect();
    }
    if let Some(entries) = spot.node.mapping() {
        let mut fields = Map::new();
        for (key, node) in entries {
            let key = key.scalar().unwrap_or_default();
            let value = typed(&spot.below(key, node), errors)?;
            fields.insert(key.to_owned(), value);
        }
        return Some(Value::Object(fields));
    }
    match scalar(spot.node)? {
        Scalar::Text(text) => Some(Value::from(text)),
        Scalar::Bool(flag) => Some(Value::from(flag)),
        Scalar::Null => Some(Value::Null),
        Scalar::Int(Some(number)) => Some(Value::from(number)),
        Scalar::Float => float(spot, errors),
        Scalar::Int(None) => {
            errors.at(spot, "the number is too large; put it in quotes");
            None
        }
    }
}

fn float(spot: &Spot<'_>, errors: &mut Errors) -> Option<Value> {
    let number = spot.node.scalar().and_then(|text| text.parse::<f64>().ok());
    let number = number.and_then(serde_json::Number::from_f64);
    if number.is_none() {
        errors.at(spot, "is no number that a chart can take; put it in quotes");
    }
    number.map(Value::Number)
}

fn image(
    fields: &Fields<'_>,
    whole: &Spot<'_>,
    images: &BTreeMap<String, ImageRef>,
    errors: &mut Errors,
) -> BTreeMap<String, ImagePaths> {
    let mut places = BTreeMap::new();
    let given = fields.take("image");
    let entries = given.as_ref().map(|spot| spot.map(errors));
    for (name, spot) in entries.unwrap_or_default() {
        if !images.contains_key(name) {
            errors.at(&spot, "there is no image of this name under 'images'");
        }
        if let Some(paths) = image_paths(spot, errors) {
            places.insert(name.to_owned(), paths);
        }
    }
    for name in images.keys().filter(|name| !places.contains_key(*name)) {
        errors.at(
            given.as_ref().unwrap_or(whole),
            format!(
                "where the chart wants the image {} of 'images' is not said; write image: {{ {}: \
                 {{ repository: image.repository, tag: image.tag, digest: image.digest }} }}",
                crate::yaml::shown(name),
                crate::yaml::shown(name),
            ),
        );
    }
    places
}

fn image_paths(spot: Spot<'_>, errors: &mut Errors) -> Option<ImagePaths> {
    let whole = spot.clone();
    let fields = spot.fields(&["repository", "tag", "digest"], errors)?;
    let mut read = |word| {
        fields
            .take(word)
            .and_then(|spot| spot.parsed(errors, ValuePath::parse))
    };
    let paths = ImagePaths {
        repository: read("repository"),
        tag: read("tag"),
        digest: read("digest"),
    };
    if paths == ImagePaths::default() {
        errors.at(&whole, "names no place; expected repository, tag or digest");
        return None;
    }
    Some(paths)
}
