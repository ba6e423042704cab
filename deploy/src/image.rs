//! Image references: parsing, and putting the spec's images into pod templates.
//!
//! An image named `flask` in the spec replaces every container image whose name (without tag and
//! digest) is `flask`, as `kustomize edit set image` does.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::object::Gvk;
use crate::object::Object;
use crate::object::text;
use crate::ports::ImagePlace;
use crate::ports::is_digest;

/// A valid image reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageRef {
    /// Registry and repository, such as `registry.example.com/team/flask`.
    pub name: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest, `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the image reference {problem}")]
pub struct ImageError {
    /// What is wrong, in words, without the reference.
    pub problem: &'static str,
}

impl ImageRef {
    /// Parses a reference.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        let broken = |problem| Err(ImageError { problem });
        if name.is_empty() {
            return broken("has no name");
        }
        if name.len() > 255 {
            return broken("has a name over 255 characters");
        }
        if let Some(problem) = name_problem(name) {
            return broken(problem);
        }
        if !tag.is_none_or(is_tag) {
            return broken("has a tag that is not 1 to 128 letters, digits, '_', '.' and '-'");
        }
        if !digest.is_none_or(is_digest) {
            return broken("has a digest that is not 'sha256:' and 64 hexadecimal digits");
        }
        Ok(Self {
            name: name.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }
}

/// The registry of images whose names have none.
const HUB: &str = "docker.io";

impl ImageRef {
    /// Returns the registry as references name it: `docker.io` where this one names none.
    #[must_use]
    pub fn registry(&self) -> &str {
        match self.name.split_once('/') {
            Some((host, _)) if is_host_like(host) && host != "index.docker.io" => host,
            _ => HUB,
        }
    }

    /// Returns what its registry is asked for: the digest, else the tag, else `latest`.
    #[must_use]
    pub fn place(&self) -> ImagePlace {
        let path = match self.name.split_once('/') {
            Some((host, path)) if is_host_like(host) => path,
            _ => &self.name,
        };
        let registry = self.registry();
        // What Docker itself publishes is in a folder that nobody writes.
        let folder = match registry == HUB && !path.contains('/') {
            true => "library/",
            false => "",
        };
        let reference = self.digest.as_ref().or(self.tag.as_ref());
        ImagePlace {
            registry: registry.to_owned(),
            repository: format!("{folder}{path}"),
            reference: reference.map_or_else(|| "latest".to_owned(), Clone::clone),
        }
    }
}

/// Splits at the colon behind the last slash; another colon is a registry's port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let path = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[path..].find(':') {
        Some(colon) => (&text[..path + colon], Some(&text[path + colon + 1..])),
        None => (text, None),
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let first = tag.bytes().next().is_some_and(word);
    first && tag.len() <= 128 && tag.bytes().all(|byte| word(byte) || b".-".contains(&byte))
}

fn name_problem(name: &str) -> Option<&'static str> {
    let path = match name.split_once('/') {
        Some((host, path)) if is_host_like(host) => {
            if !is_host(host) {
                return Some("has a registry that is not a host name with an optional port");
            }
            path
        }
        _ => name,
    };
    if path.split('/').all(is_component) {
        None
    } else {
        Some("has a name that is not lower case letters, digits and single separators")
    }
}

fn is_host_like(host: &str) -> bool {
    host == "localhost"
        || host.contains(['.', ':', '['])
        || host.contains(|letter: char| letter.is_ascii_uppercase())
}

fn is_host(host: &str) -> bool {
    let port_fits = |port: &str| {
        (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit())
    };
    if let Some((address, rest)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        let hex = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
        let port = rest.is_empty() || rest.strip_prefix(':').is_some_and(port_fits);
        return !address.is_empty() && address.bytes().all(hex) && port;
    }
    let (host, port) = match host.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (host, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(label) && port.is_none_or(port_fits)
}

/// `[a-z0-9]+` parts joined by one `.`, `_` or `__`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let edges = bytes.first().copied().is_some_and(alphanumeric)
        && bytes.last().copied().is_some_and(alphanumeric);
    let separators =
        component.split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit());
    let separator_fits =
        |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    edges && separators.into_iter().all(separator_fits)
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Puts images into the pod templates of `objects`; returns the names that nothing used.
pub fn substitute(objects: &mut [Object], images: &BTreeMap<String, ImageRef>) -> Vec<String> {
    let mut unused: BTreeSet<&String> = images.keys().collect();
    if images.is_empty() {
        return Vec::new();
    }
    for object in objects {
        let Some(pod) = pod_path(&object.id.gvk).and_then(|path| object.body.pointer_mut(path))
        else {
            continue;
        };
        each_image(pod, &mut |image| {
            if let Some((name, reference)) = images.get_key_value(name_of(image)) {
                *image = reference.to_string();
                unused.remove(name);
            }
        });
    }
    unused.into_iter().cloned().collect()
}

/// Puts other references in for those that stand in pod templates, word for word.
pub fn replace(objects: &mut [Object], references: &BTreeMap<String, String>) {
    for object in objects {
        let path = pod_path(&object.id.gvk);
        let Some(pod) = path.and_then(|path| object.body.pointer_mut(path)) else {
            continue;
        };
        each_image(pod, &mut |image| {
            if let Some(other) = references.get(image) {
                image.clone_from(other);
            }
        });
    }
}

/// Lists every container image of an object's pod template (init and ephemeral ones too), and the
/// images that it mounts as volumes.
#[must_use]
pub fn images_of(object: &Object) -> Vec<String> {
    let mut images = Vec::new();
    if let Some(pod) = pod_path(&object.id.gvk).and_then(|path| object.body.pointer(path)) {
        each_image(&mut pod.clone(), &mut |image| images.push(image.clone()));
    }
    images
}

/// Lists the images of an object's containers, by the name of the container.
pub(crate) fn of_containers<'a>(gvk: &Gvk, body: &'a Value) -> BTreeMap<&'a str, &'a str> {
    let pod = pod_path(gvk).and_then(|path| body.pointer(path));
    let named = |list: &str| pod.map_or(&[][..], |pod| crate::object::list(pod, &[list]));
    let containers = named("initContainers").iter().chain(named("containers"));
    containers
        .map(|one| (text(one, &["name"]), text(one, &["image"])))
        .filter(|(_, image)| !image.is_empty())
        .collect()
}

/// The part of a container's image before tag and digest, also where it is not a valid reference.
pub(crate) fn name_of(image: &str) -> &str {
    let without_digest = image.split_once('@').map_or(image, |(rest, _)| rest);
    split_tag(without_digest).0
}

/// Where the pod's spec stands in an object of a kind that has one.
fn pod_path(gvk: &Gvk) -> Option<&'static str> {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => Some("/spec"),
        ("", "PodTemplate") => Some("/template/spec"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template/spec"),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => Some("/spec/template/spec"),
        _ => None,
    }
}

/// Shows every image of a pod's spec to `visit`.
fn each_image(pod: &mut Value, visit: &mut impl FnMut(&mut String)) {
    for (list, field) in [
        ("initContainers", "/image"),
        ("containers", "/image"),
        ("ephemeralContainers", "/image"),
        ("volumes", "/image/reference"),
    ] {
        let items = pod.get_mut(list).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            if let Some(Value::String(image)) = item.pointer_mut(field) {
                visit(image);
            }
        }
    }
}

#[cfg(test)]
#[path = "image/tests.rs"]
mod tests;
