//! Image references: parsing, and putting the spec's images into pod templates.
//!
//! An image named `flask` in the spec replaces every container image whose name (without tag and
//! digest) is `flask`, as `kustomize edit set image` does.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::object::Object;

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
        let broken = |problem| Err(ImageError { problem });
        if text.len() > 512 {
            return broken("is longer than 512 bytes");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return broken(
                "has a digest that is not 'sha256:' and 64 lower case hexadecimal digits",
            );
        }
        // A colon before the last slash belongs to the registry's port.
        let path_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[path_start..].find(':') {
            Some(colon) => (
                &rest[..path_start + colon],
                Some(&rest[path_start + colon + 1..]),
            ),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return broken("has a tag that is not 1 to 128 letters, digits, '_', '.' and '-'");
        }
        if !is_name(name) {
            return broken(
                "needs a registry and repository in lower case, such as registry.example.com/team/app",
            );
        }
        Ok(Self {
            name: name.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }
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

fn is_digest(text: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("sha256:")
        .is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hex))
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let first = text.bytes().next().is_some_and(word);
    first
        && text.len() <= 128
        && text
            .bytes()
            .all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_name(text: &str) -> bool {
    let mut parts = text.split('/').peekable();
    let first = parts.peek().copied().unwrap_or_default();
    let is_registry = text.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    if is_registry {
        parts.next();
        let (host, port) = first
            .split_once(':')
            .map_or((first, None), |(host, port)| (host, Some(port)));
        let host_fits = !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
        let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok());
        if !host_fits || !port_fits {
            return false;
        }
    }
    parts.all(|part| {
        let edge =
            |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(part.bytes().next())
            && edge(part.bytes().next_back())
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    })
}

/// Where the pod spec of a kind is; `None` for kinds without pods.
fn pod_path(object: &Object) -> Option<&'static str> {
    match (object.id.gvk.group.as_str(), object.id.gvk.kind.as_str()) {
        ("", "Pod") => Some("/spec"),
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("", "ReplicationController")
        | ("batch", "Job") => Some("/spec/template/spec"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template/spec"),
        _ => None,
    }
}

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Puts images into the pod templates of `objects`; returns the names that nothing used.
pub fn substitute(objects: &mut [Object], images: &BTreeMap<String, ImageRef>) -> Vec<String> {
    let mut unused: Vec<String> = images.keys().cloned().collect();
    for object in objects {
        let Some(path) = pod_path(object) else {
            continue;
        };
        for list in CONTAINERS {
            let containers = object
                .body
                .pointer_mut(&format!("{path}/{list}"))
                .and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                let Some(image) = container.get("image").and_then(Value::as_str) else {
                    continue;
                };
                let name = ImageRef::parse(image)
                    .map_or_else(|_odd| image.to_owned(), |parsed| parsed.name);
                if let Some(wanted) = images.get(&name) {
                    unused.retain(|unused| *unused != name);
                    container["image"] = Value::from(wanted.to_string());
                }
            }
        }
    }
    unused
}

/// Lists every container image of an object's pod template (init and ephemeral ones too).
#[must_use]
pub fn images_of(object: &Object) -> Vec<String> {
    let Some(path) = pod_path(object) else {
        return Vec::new();
    };
    CONTAINERS
        .iter()
        .filter_map(|list| {
            object
                .body
                .pointer(&format!("{path}/{list}"))
                .and_then(Value::as_array)
        })
        .flatten()
        .filter_map(|container| {
            container
                .get("image")
                .and_then(Value::as_str)
                .map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::Gvk;
    use crate::object::ObjectId;
    use crate::object::Origin;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn references_round_trip() {
        for good in [
            "flask",
            "team/flask:1",
            "registry.example.com/team/flask:1.4.2",
            "localhost:5000/a/b",
            "a.b:1/c:t",
        ] {
            assert_eq!(
                ImageRef::parse(good).map(|image| image.to_string()),
                Ok(good.to_owned())
            );
        }
        let full = format!("registry.example.com/team/flask:1@{DIGEST}");
        let image = ImageRef::parse(&full).expect("it is valid");
        assert_eq!(
            (image.tag.as_deref(), image.digest.as_deref()),
            (Some("1"), Some(DIGEST))
        );
        assert_eq!(image.to_string(), full);
    }

    #[test]
    fn wrong_references_are_refused() {
        for bad in [
            "",
            "Flask",
            "a b",
            "a:",
            "a:-x",
            "a@sha256:12",
            "a@md5:aa",
            "/a",
            "a/",
            "a//b",
            "http://x/y",
            "h:99999/x",
        ] {
            assert!(ImageRef::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn images_are_put_where_their_name_stands() {
        let body = json!({"spec": {"template": {"spec": {"containers": [{"image": "flask:dev"}, {"image": "other"}],
            "initContainers": [{"image": "flask"}]}}}});
        let id = ObjectId {
            gvk: Gvk::new("apps/v1", "Deployment"),
            namespace: None,
            name: "web".to_owned(),
        };
        let mut objects = [Object {
            id,
            body,
            origin: Origin {
                file: String::new(),
                line: 1,
            },
        }];
        let wanted =
            ImageRef::parse(&format!("r.example.com/flask@{DIGEST}")).expect("it is valid");
        let images = BTreeMap::from([
            ("flask".to_owned(), wanted.clone()),
            ("unused".to_owned(), wanted.clone()),
        ]);
        assert_eq!(substitute(&mut objects, &images), ["unused"]);
        assert_eq!(
            images_of(&objects[0]),
            [wanted.to_string(), "other".to_owned(), wanted.to_string()]
        );
    }
}
