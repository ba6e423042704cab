//! Reads the located tree of `quaymaster.yaml` into a [`Spec`], collecting every error.
//!
//! Called by [`super::parse`]. A [`Reader`] holds what was found wrong; each helper returns `None`
//! where it noted an error, so that reading goes on. No error holds a value of the file.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use proto::error::Code;
use proto::error::Place;
use proto::ids::NameError;

use super::Rollout;
use super::Spec;
use super::secrets;
use crate::bundle::InputError;
use crate::bundle::SPEC_FILE;
use crate::image::ImageRef;
use crate::yaml::Flaw;
use crate::yaml::core;
use crate::yaml::core::Scalar;
use crate::yaml::shown;
use crate::yaml::tree::Node;

/// The deadline of a run that names none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest deadline.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// What was found wrong so far.
#[derive(Default)]
pub(super) struct Reader {
    places: Vec<Place>,
}

impl Reader {
    /// Notes an error at a node.
    pub(super) fn wrong(&mut self, node: &Node, path: &str, message: impl Into<String>) {
        let mut place = node.flaw(message).place(SPEC_FILE);
        place.path = (!path.is_empty()).then(|| path.to_owned());
        self.places.push(place);
    }

    /// Reads a mapping whose keys are all known; notes unknown ones.
    pub(super) fn fields<'a>(
        &mut self,
        node: &'a Node,
        path: &str,
        known: &[&str],
    ) -> Option<&'a [(Node, Node)]> {
        let Some(entries) = node.mapping() else {
            self.wrong(node, path, "expected a mapping of fields");
            return None;
        };
        for (key, _) in entries {
            let name = key.scalar().unwrap_or_default();
            if !known.contains(&name) {
                let message = format!(
                    "unknown field {}; there are {}",
                    shown(name),
                    known.join(", ")
                );
                self.wrong(key, &join(path, name), message);
            }
        }
        Some(entries)
    }

    /// Reads a text; numbers, booleans and nothing are errors that say to quote.
    pub(super) fn text<'a>(&mut self, node: &'a Node, path: &str) -> Option<&'a str> {
        match core::scalar(node) {
            Some(Scalar::Text(text)) if text.contains("${") => {
                self.wrong(
                    node,
                    path,
                    "a variable in ${...} was not replaced; the quaymaster client does that",
                );
                None
            }
            Some(Scalar::Text("")) => {
                self.wrong(node, path, "the text is empty");
                None
            }
            Some(Scalar::Text(text)) => Some(text),
            Some(Scalar::Bool(_) | Scalar::Int(_) | Scalar::Float) => {
                self.wrong(node, path, "expected text; put it in quotes");
                None
            }
            Some(Scalar::Null) | None => {
                self.wrong(node, path, "expected text");
                None
            }
        }
    }

    /// Reads a text that has a rule of its own.
    pub(super) fn parsed<T: FromStr<Err = NameError>>(
        &mut self,
        node: &Node,
        path: &str,
    ) -> Option<T> {
        let text = self.text(node, path)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(node, path, error.to_string());
                None
            }
        }
    }

    /// Reads a whole number from 1.
    pub(super) fn number(&mut self, node: &Node, path: &str) -> Option<u64> {
        match core::scalar(node) {
            Some(Scalar::Int(Some(number))) if number >= 1 => u64::try_from(number).ok(),
            Some(
                Scalar::Int(_) | Scalar::Text(_) | Scalar::Bool(_) | Scalar::Float | Scalar::Null,
            )
            | None => {
                self.wrong(node, path, "expected a whole number from 1, without quotes");
                None
            }
        }
    }

    /// Says that a known word is not done by this version.
    fn not_yet(&mut self, node: &Node, path: &str) {
        let word = path.rsplit('.').next().unwrap_or(path);
        self.wrong(
            node,
            path,
            format!("'{word}' is not supported by this version; leave it out"),
        );
    }
}

/// Joins a path of fields.
pub(super) fn join(path: &str, name: &str) -> String {
    match (path, shown(name)) {
        // A key with odd characters is not told.
        (path, odd) if odd == "this key" => path.to_owned(),
        ("", _) => name.to_owned(),
        (path, _) => format!("{path}.{name}"),
    }
}

fn invalid(places: Vec<Place>) -> InputError {
    InputError {
        code: Code::SpecInvalid,
        places,
    }
}

/// Reads the file.
pub(super) fn spec(file: &[u8]) -> Result<Spec, InputError> {
    let root = core::document(file).map_err(|flaw: Flaw| invalid(vec![flaw.place(SPEC_FILE)]))?;
    let mut reader = Reader::default();
    let spec = whole(&mut reader, &root);
    match spec {
        Some(spec) if reader.places.is_empty() => Ok(spec),
        Some(_) | None => {
            reader
                .places
                .sort_by_key(|place| (place.line, place.column));
            Err(invalid(reader.places))
        }
    }
}

const FIELDS: [&str; 11] = [
    "version",
    "name",
    "target",
    "secrets",
    "manifests",
    "images",
    "rollout",
    "kustomize",
    "helm",
    "flux",
    "rotate",
];

fn whole(reader: &mut Reader, root: &Node) -> Option<Spec> {
    reader.fields(root, "", &FIELDS)?;
    for word in ["kustomize", "helm", "flux", "rotate"] {
        if let Some(node) = root.get(word) {
            reader.not_yet(node, word);
        }
    }
    match root.get("version") {
        Some(node) => {
            if !matches!(core::scalar(node), Some(Scalar::Int(Some(1)))) {
                reader.wrong(node, "version", "expected 1, the only version");
            }
        }
        None => reader.wrong(root, "version", "missing; write version: 1"),
    }
    let name = match root.get("name") {
        Some(node) => reader.parsed(node, "name"),
        None => {
            reader.wrong(root, "name", "missing; name the app");
            None
        }
    };
    let (cluster, namespace) = target(reader, root);
    let secrets = root
        .get("secrets")
        .map(|node| secrets::list(reader, node))
        .unwrap_or_default();
    let manifests = root
        .get("manifests")
        .map(|node| manifests(reader, node))
        .unwrap_or_default();
    let images = root
        .get("images")
        .map(|node| images(reader, node))
        .unwrap_or_default();
    let timeout = root
        .get("rollout")
        .map_or(Some(DEFAULT_TIMEOUT), |node| rollout(reader, node));
    let has_work = ["secrets", "manifests", "kustomize", "helm", "flux"]
        .iter()
        .any(|word| root.get(word).is_some());
    if !has_work {
        reader.wrong(
            root,
            "",
            "there is nothing to do: name secrets or manifests",
        );
    }
    Some(Spec {
        name: name?,
        cluster,
        namespace,
        secrets,
        manifests,
        images,
        rollout: Rollout { timeout: timeout? },
    })
}

fn target(
    reader: &mut Reader,
    root: &Node,
) -> (
    Option<proto::ids::ClusterName>,
    Option<proto::ids::Namespace>,
) {
    let Some(node) = root.get("target") else {
        return (None, None);
    };
    reader.fields(node, "target", &["cluster", "namespace"]);
    let cluster = node
        .get("cluster")
        .and_then(|node| reader.parsed(node, "target.cluster"));
    let namespace = node
        .get("namespace")
        .and_then(|node| reader.parsed(node, "target.namespace"));
    (cluster, namespace)
}

fn manifests(reader: &mut Reader, node: &Node) -> Vec<String> {
    let Some(items) = node.sequence().filter(|items| !items.is_empty()) else {
        reader.wrong(
            node,
            "manifests",
            "expected a list of files and folders that is not empty",
        );
        return Vec::new();
    };
    let mut paths = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("manifests[{index}]");
        let Some(text) = reader.text(item, &path) else {
            continue;
        };
        let inner = text.strip_prefix("./").unwrap_or(text);
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if text.contains(['*', '?']) {
            reader.wrong(
                item,
                &path,
                "globs are not taken; name the file or its folder",
            );
        } else if text.starts_with('/')
            || inner
                .split('/')
                .any(|segment| segment == ".." || segment.is_empty())
        {
            reader.wrong(
                item,
                &path,
                "expected a path inside the bundle, without '..' and not absolute",
            );
        } else {
            paths.push(if text == "." || text == "./" {
                String::new()
            } else {
                inner.to_owned()
            });
        }
    }
    paths
}

fn images(reader: &mut Reader, node: &Node) -> BTreeMap<String, ImageRef> {
    let mut images = BTreeMap::new();
    let Some(entries) = node.mapping() else {
        reader.wrong(
            node,
            "images",
            "expected a mapping from the name in the manifests to the image",
        );
        return images;
    };
    for (key, value) in entries {
        let name = key.scalar().unwrap_or_default();
        let path = join("images", name);
        let is_plain_name =
            ImageRef::parse(name).is_ok_and(|image| image.tag.is_none() && image.digest.is_none());
        if !is_plain_name {
            reader.wrong(
                key,
                &path,
                "expected the image's name in the manifests, without tag and digest",
            );
            continue;
        }
        let Some(text) = reader.text(value, &path) else {
            continue;
        };
        match ImageRef::parse(text) {
            Ok(image) => {
                images.insert(name.to_owned(), image);
            }
            Err(error) => reader.wrong(value, &path, error.to_string()),
        }
    }
    images
}

fn rollout(reader: &mut Reader, node: &Node) -> Option<Duration> {
    reader.fields(node, "rollout", &["timeout", "on_failure", "prune"])?;
    if let Some(prune) = node.get("prune")
        && !matches!(core::scalar(prune), Some(Scalar::Bool(false)))
    {
        reader.not_yet(prune, "rollout.prune");
    }
    if let Some(on_failure) = node.get("on_failure")
        && !matches!(core::scalar(on_failure), Some(Scalar::Text("keep")))
    {
        reader.wrong(
            on_failure,
            "rollout.on_failure",
            "only 'keep' is supported by this version; leave it out",
        );
    }
    let Some(timeout) = node.get("timeout") else {
        return Some(DEFAULT_TIMEOUT);
    };
    let text = reader.text(timeout, "rollout.timeout")?;
    let duration = duration(text);
    if duration.is_none() {
        reader.wrong(
            timeout,
            "rollout.timeout",
            "expected a duration such as 90s, 10m or 1h30m, over 0 and up to 24h",
        );
    }
    duration
}

/// Reads `90s`, `10m`, `1h30m`: units in falling order, each once.
fn duration(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut rest = text;
    let mut units = [("h", 3600_u64), ("m", 60), ("s", 1)].into_iter();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = units.find(|(name, _)| rest.starts_with(name))?;
        rest = &rest[1..];
        total = total.checked_add(number.checked_mul(unit.1)?)?;
    }
    let total = Duration::from_secs(total);
    (total > Duration::ZERO && total <= MAX_TIMEOUT).then_some(total)
}

#[cfg(test)]
mod tests;
