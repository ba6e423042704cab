//! Charts: what the bundle has to hold, the values that win, and the chart that Helm writes.
//!
//! Called by [`crate::request`], [`crate::render`] and [`crate::release`]. A chart is rendered once;
//! what came out is decided on, and put into a chart without templates ([`frozen`]). So Helm writes
//! the very objects that were allowed, whatever a template would say the second time, and its
//! records stay what people expect of `helm history`, `helm get` and `helm rollback`.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use proto::error::Code;
use proto::error::Place;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::bundle::Bundle;
use crate::bundle::InputError;
use crate::image::ImageRef;
use crate::object::Object;
use crate::object::text;
use crate::ports::Files;
use crate::spec;
use crate::spec::ChartSource;
use crate::spec::Helm;
use crate::spec::ImagePaths;
use crate::spec::SPEC_FILE;
use crate::yaml::legacy;
use crate::yaml::legacy::Form;
use crate::yaml::tree::Budget;

mod emit;
pub mod index;

/// The folder of the chart that Helm writes.
pub const FROZEN: &str = "chart";
/// The place of a fetched chart's archive among the files of the bundle.
pub const FETCHED: &str = ".fetched-chart.tgz";
/// Bytes of an archive's file that are read.
const LONGEST: u64 = 8 << 20;

/// Says whether the bundle holds what the spec names.
///
/// # Errors
/// [`Code::SpecInvalid`] with each path that is missing.
pub fn check(bundle: &Bundle, helm: &Helm) -> Result<(), InputError> {
    let file = bundle.files.get(SPEC_FILE).map(Vec::as_slice);
    let place = |field, message: &str| -> Place {
        spec::place_of(file.unwrap_or_default(), &["helm", field], message)
    };
    let mut places = Vec::new();
    let problem = match &helm.chart {
        ChartSource::Bundle(_) if is_chart(&bundle.files, helm) => None,
        ChartSource::Bundle(_) => {
            Some("the bundle has no chart there: expected a folder with Chart.yaml, or a *.tgz")
        }
        ChartSource::Remote(_) if holds(bundle, FETCHED) => {
            Some("the bundle has a .fetched-chart.tgz, the place of the chart; rename it")
        }
        ChartSource::Remote(_) => None,
    };
    places.extend(problem.map(|message| place("chart", message)));
    for path in &helm.values {
        if !bundle.files.contains_key(&plain(path)) {
            places.push(place(
                "values",
                "the bundle has no file of one of these names",
            ));
        }
    }
    if places.is_empty() {
        Ok(())
    } else {
        Err(InputError {
            code: Code::SpecInvalid,
            places,
        })
    }
}

/// Says whether the bundle has a file of this name, or a folder.
fn holds(bundle: &Bundle, name: &str) -> bool {
    let mut paths = bundle.files.keys();
    paths.any(|path| path.split('/').next() == Some(name))
}

/// Returns where the chart's folder or archive is among the files.
#[must_use]
pub fn path(helm: &Helm) -> String {
    match &helm.chart {
        ChartSource::Bundle(path) => plain(path),
        ChartSource::Remote(_) => FETCHED.to_owned(),
    }
}

/// Says whether there is a chart where one has to be.
#[must_use]
pub fn is_chart(files: &Files, helm: &Helm) -> bool {
    own_file(files, &path(helm), "Chart.yaml").is_some()
}

/// Brings a path into the form of the bundle's paths.
#[must_use]
pub fn plain(path: &str) -> String {
    let segments = path
        .split('/')
        .filter(|segment| !segment.is_empty() && *segment != ".");
    segments.collect::<Vec<_>>().join("/")
}

/// Reads a file at the root of a chart.
fn own_file(files: &Files, chart: &str, name: &str) -> Option<Vec<u8>> {
    let path = if chart.is_empty() {
        name.to_owned()
    } else {
        format!("{chart}/{name}")
    };
    if let Some(content) = files.get(&path) {
        return Some(content.clone());
    }
    let packed = files.get(chart).filter(|_| chart.ends_with(".tgz"))?;
    let mut archive = tar::Archive::new(GzDecoder::new(packed.as_slice()).take(32 * LONGEST));
    for entry in archive.entries().ok()? {
        let entry = entry.ok()?;
        let path = entry.path().ok()?.to_str()?.to_owned();
        // An archive holds one folder, named as the chart.
        if path.split_once('/').is_some_and(|(_, rest)| rest == name) {
            let mut content = Vec::new();
            entry.take(LONGEST).read_to_end(&mut content).ok()?;
            return Some(content);
        }
    }
    None
}

/// The values that win over all files: those of the spec, and the images.
#[must_use]
pub fn values(helm: &Helm, images: &BTreeMap<String, ImageRef>) -> Value {
    let mut values = Map::new();
    for (path, value) in &helm.set {
        path.put(&mut values, value.clone());
    }
    for (name, paths) in &helm.image {
        if let Some(image) = images.get(name) {
            put_image(&mut values, paths, image);
        }
    }
    Value::Object(values)
}

/// Puts the parts of an image where the chart wants them. A digest without a place of its own goes
/// behind the tag, where a chart that joins name and tag makes a whole reference of it.
fn put_image(values: &mut Map<String, Value>, paths: &ImagePaths, image: &ImageRef) {
    let mut name = image.name.clone();
    let mut tag = image.tag.clone().unwrap_or_default();
    if let (Some(digest), None) = (&image.digest, &paths.digest) {
        match (&paths.tag, digest.split_once(':')) {
            (Some(_), Some((algorithm, hex))) if tag.is_empty() => {
                name = format!("{name}@{algorithm}");
                tag = hex.to_owned();
            }
            (Some(_), _) => tag = format!("{tag}@{digest}"),
            (None, _) => name = reference(image),
        }
    } else if let (None, Some(tag), None) = (&paths.tag, &image.tag, &paths.digest) {
        name = format!("{name}:{tag}");
    }
    let digest = image.digest.clone().unwrap_or_default();
    for (path, text) in [
        (&paths.repository, name),
        (&paths.tag, tag),
        (&paths.digest, digest),
    ] {
        if let Some(path) = path {
            path.put(values, Value::from(text));
        }
    }
}

fn reference(image: &ImageRef) -> String {
    let tag = image.tag.as_ref().map(|tag| format!(":{tag}"));
    let digest = image.digest.as_ref().map(|digest| format!("@{digest}"));
    format!(
        "{}{}{}",
        image.name,
        tag.unwrap_or_default(),
        digest.unwrap_or_default()
    )
}

/// Makes a chart without templates out of objects that were decided on. Its name, version and
/// default values are those of the chart in `files`.
#[must_use]
pub fn frozen(files: &Files, helm: &Helm, objects: &[Object]) -> Files {
    let mut out = Files::new();
    let chart = path(helm);
    let about = own_file(files, &chart, "Chart.yaml")
        .as_deref()
        .and_then(read)
        .unwrap_or_default();
    let mut kept = json!({ "apiVersion": "v2", "type": "application" });
    for field in ["name", "version", "appVersion", "description"] {
        let value = text(&about, &[field]);
        if !value.is_empty() {
            kept[field] = Value::from(value);
        }
    }
    out.insert(
        format!("{FROZEN}/Chart.yaml"),
        emit::yaml(&kept).into_bytes(),
    );
    if let Some(defaults) = own_file(files, &chart, "values.yaml") {
        out.insert(format!("{FROZEN}/values.yaml"), defaults);
    }
    for path in &helm.values {
        let path = plain(path);
        if let Some(content) = files.get(&path) {
            out.insert(format!("values/{path}"), content.clone());
        }
    }
    for object in objects {
        let document = format!("---\n{}", emit::yaml(&object.body));
        let file = out.entry(home(object)).or_default();
        file.extend_from_slice(document.as_bytes());
    }
    out
}

/// Finds the file of the frozen chart for an object: under the name that it came from, so that
/// Helm's words lead to the template.
fn home(object: &Object) -> String {
    let gvk = &object.id.gvk;
    let definition = gvk.is("apiextensions.k8s.io", "CustomResourceDefinition");
    // `chart/templates/web.yaml`, `chart/charts/sub/templates/web.yaml`, `chart/crds/a.yaml`
    let below = object.origin.file.split_once('/').map(|(_, below)| below);
    let below = below.unwrap_or("templates/rendered.yaml");
    let plain: String = below
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_./".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let plain = plain.replace("..", "_");
    if definition && (plain.starts_with("crds/") || plain.contains("/crds/")) {
        return format!("{FROZEN}/crds/{}.yaml", object.id.name);
    }
    let plain = plain.strip_prefix("templates/").unwrap_or(&plain);
    let stem = plain.rsplit_once('.').map_or(plain, |(stem, _)| stem);
    // A leading underscore would make it a file of helpers, which is not written.
    let stem: Vec<_> = stem
        .split('/')
        .map(|part| part.trim_start_matches('_'))
        .collect();
    format!(
        "{FROZEN}/templates/{}.yaml",
        stem.join("/").replace("//", "/")
    )
}

fn read(content: &[u8]) -> Option<Value> {
    let nodes = legacy::documents(content, Form::Yaml, &mut Budget::default()).ok()?;
    legacy::value(nodes.first()?).ok()
}

#[cfg(test)]
mod tests;
