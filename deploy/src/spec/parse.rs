//! The fields of `quaymaster.yaml`, from the top down.
//!
//! Called by [`super::parse()`] with the located tree. Everything wrong is reported at once; words that
//! later versions will know are refused by name, never passed over.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::error::Code;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;

use super::OnFailure;
use super::Rollout;
use super::Spec;
use super::WhenLocked;
use super::fields::Errors;
use super::fields::Fields;
use super::fields::Spot;
use super::secrets;
use crate::bundle::InputError;
use crate::image::ImageRef;
use crate::yaml::core::Scalar;
use crate::yaml::core::scalar;
use crate::yaml::tree::Node;

/// Words that the design knows and this version does not do.
pub(super) const LATER: &[&str] = &["kustomize", "helm", "flux", "duplicates", "rotate"];

const TOP: &[&str] = &[
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
    "duplicates",
];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads the whole spec.
pub(super) fn spec(root: &Node) -> Result<Spec, InputError> {
    let mut errors = Errors::default();
    let whole = Spot {
        node: root,
        path: String::new(),
    };
    unexpanded(&whole, &mut errors);
    let spec = whole
        .fields(TOP, &mut errors)
        .and_then(|fields| top(&fields, &mut errors));
    match spec {
        Some(spec) if errors.places.is_empty() => Ok(spec),
        _ => Err(InputError {
            code: Code::SpecInvalid,
            places: errors.places,
        }),
    }
}

fn top(fields: &Fields<'_>, errors: &mut Errors) -> Option<Spec> {
    if let Some(version) = fields.need("version", errors)
        && version.int(errors).is_some_and(|number| number != 1)
    {
        errors.at(&version, "this agent reads version 1");
    }
    let name = fields
        .need("name", errors)
        .and_then(|spot| spot.parsed(errors, str::parse::<DeployName>));
    let (cluster, namespace) = target(fields, errors);
    let secrets = fields.take("secrets");
    let secrets = secrets.map(|spot| secrets::secrets(&spot, errors));
    let manifests = fields.take("manifests").map(|spot| {
        let items = spot.items(errors);
        items.iter().filter_map(|item| path(item, errors)).collect()
    });
    let images = fields.take("images").map(|spot| images(&spot, errors));
    let rollout = rollout(fields, errors);
    for word in LATER {
        fields.refuse(word, errors);
    }
    let sources = ["secrets", "manifests", "kustomize", "helm", "flux"];
    if sources.iter().all(|word| fields.take(word).is_none()) {
        fields.nothing(errors);
    }
    Some(Spec {
        name: name?,
        cluster,
        namespace,
        secrets: secrets.unwrap_or_default(),
        manifests: manifests.unwrap_or_default(),
        images: images.unwrap_or_default(),
        rollout,
        text: String::new(),
    })
}

fn target(fields: &Fields<'_>, errors: &mut Errors) -> (Option<ClusterName>, Option<Namespace>) {
    let target = fields
        .take("target")
        .and_then(|spot| spot.fields(&["cluster", "namespace"], errors));
    let Some(target) = target else {
        return (None, None);
    };
    let cluster = target
        .take("cluster")
        .and_then(|spot| spot.parsed(errors, str::parse));
    let namespace = target
        .take("namespace")
        .and_then(|spot| spot.parsed(errors, str::parse));
    (cluster, namespace)
}

fn images(spot: &Spot<'_>, errors: &mut Errors) -> BTreeMap<String, ImageRef> {
    let mut images = BTreeMap::new();
    for (name, value) in spot.map(errors) {
        match ImageRef::parse(name) {
            Ok(ImageRef {
                tag: None,
                digest: None,
                ..
            }) => {}
            Ok(_) => errors.at(
                &value,
                "the name on the left is the image as manifests call it, without tag and digest",
            ),
            Err(_) => errors.at(&value, "the name on the left is not the name of an image"),
        }
        if let Some(reference) = value.parsed(errors, ImageRef::parse) {
            images.insert(name.to_owned(), reference);
        }
    }
    images
}

fn rollout(fields: &Fields<'_>, errors: &mut Errors) -> Rollout {
    const WORDS: &[&str] = &[
        "timeout",
        "on_failure",
        "prune",
        "when_locked",
        "allow_older",
    ];
    let mut read = Rollout::default();
    let rollout = fields
        .take("rollout")
        .and_then(|spot| spot.fields(WORDS, errors));
    let Some(rollout) = rollout else {
        return read;
    };
    if let Some(spot) = rollout.take("on_failure") {
        match spot.text(errors) {
            Some("rollback") => read.on_failure = OnFailure::Rollback,
            Some("keep") | None => {}
            Some(_) => errors.at(&spot, "expected keep or rollback"),
        }
    }
    if let Some(spot) = rollout.take("when_locked") {
        match spot.text(errors) {
            Some("fail") => read.when_locked = WhenLocked::Fail,
            Some("wait") | None => {}
            Some(_) => errors.at(&spot, "expected wait or fail"),
        }
    }
    if let Some(prune) = rollout.take("prune").and_then(|spot| spot.flag(errors)) {
        read.prune = prune;
    }
    let older = rollout.take("allow_older");
    if let Some(older) = older.and_then(|spot| spot.flag(errors)) {
        read.allow_older = older;
    }
    let timeout = rollout.take("timeout").and_then(|spot| {
        if let Some(Scalar::Int(_) | Scalar::Float) = scalar(spot.node) {
            errors.at(&spot, "a duration needs a unit, such as 90s, 10m or 1h30m");
            return None;
        }
        spot.parsed(errors, duration)
    });
    if let Some(timeout) = timeout {
        read.timeout = timeout;
    }
    read
}

/// Reads `90s`, `10m`, `1h30m`: hours, minutes and seconds in this order, each at most once.
fn duration(text: &str) -> Result<Duration, &'static str> {
    const SHAPE: &str = "expected a duration such as 90s, 10m or 1h30m";
    let mut rest = text;
    let mut seconds = 0_u64;
    for (unit, length) in [('h', 3_600), ('m', 60), ('s', 1)] {
        let Some((number, after)) = rest.split_once(unit) else {
            continue;
        };
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(SHAPE);
        }
        // Digits only, so this fails for numbers that are far over the limit.
        let number: u64 = number.parse().unwrap_or(u64::MAX);
        seconds = seconds.saturating_add(number.saturating_mul(length));
        rest = after;
    }
    if !rest.is_empty() || text.is_empty() {
        return Err(SHAPE);
    }
    match Duration::from_secs(seconds) {
        Duration::ZERO => Err("a duration has to be longer than zero"),
        duration if duration > DAY => Err("a duration can be 24h at most"),
        duration => Ok(duration),
    }
}

/// Reads the path of a file or folder of the bundle.
fn path(spot: &Spot<'_>, errors: &mut Errors) -> Option<String> {
    let text = spot.text(errors)?;
    let problem = if text.starts_with('/') {
        "the path is absolute; write it from the folder of quaymaster.yaml"
    } else if text.split('/').any(|segment| segment == "..") {
        "the path has '..'; only files of the bundle can be named"
    } else if text.contains(['*', '?', '[']) {
        "globs are not taken; name a file or a folder"
    } else if text.contains('\\') || text.chars().any(char::is_control) {
        "the path has a backslash or control character; use '/'"
    } else {
        return Some(text.to_owned());
    };
    errors.at(spot, problem);
    None
}

/// Reports every `${NAME}` that nobody replaced.
fn unexpanded(spot: &Spot<'_>, errors: &mut Errors) {
    if spot.node.scalar().is_some_and(has_variable) {
        errors.at(
            spot,
            "a variable ${...} was not replaced; `quaymaster deploy` replaces variables before \
             sending, the agent does not",
        );
    }
    for (index, node) in spot.node.sequence().unwrap_or_default().iter().enumerate() {
        let path = format!("{}[{index}]", spot.path);
        unexpanded(&Spot { node, path }, errors);
    }
    for (key, value) in spot.node.mapping().unwrap_or_default() {
        let below = spot.below(key.scalar().unwrap_or_default(), value);
        if key.scalar().is_some_and(has_variable) {
            let path = spot.path.clone();
            unexpanded(&Spot { node: key, path }, errors);
        }
        unexpanded(&below, errors);
    }
}

fn has_variable(text: &str) -> bool {
    text.split("${").skip(1).any(|rest| {
        rest.split_once('}').is_some_and(|(name, _)| {
            name.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_')
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_bounds() {
        for (text, seconds) in [
            ("90s", 90),
            ("10m", 600),
            ("1h30m", 5_400),
            ("1h0m1s", 3_601),
            ("24h", 86_400),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "0s",
            "0h0m",
            "-1s",
            "1.5h",
            "90",
            "s",
            "1m1h",
            "1s1s",
            "10 m",
            "24h1s",
            "1d",
            "500ms",
            "99999999999999999999h",
            "18446744073709551615h",
            "+1s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_whole_variables_count_as_unexpanded() {
        for text in ["${A}", "x${a_1}y", "$${A}", "${{A}${B}"] {
            assert!(has_variable(text), "{text}");
        }
        for text in [
            "$A", "${", "${}", "${1}", "${a-b}", "{{ a }}", "$ {A}", "${a",
        ] {
            assert!(!has_variable(text), "{text}");
        }
    }
}
