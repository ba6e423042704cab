//! The fields of `quaymaster.yaml`, from the top down.
//!
//! Called by [`super::parse()`] with the located tree. Everything wrong is reported at once.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::error::Code;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;

use super::Duplicates;
use super::OnDisconnect;
use super::OnFailure;
use super::Rollout;
use super::Spec;
use super::WhenLocked;
use super::charts;
use super::conflicts;
use super::expose;
use super::fields::Errors;
use super::fields::Fields;
use super::fields::Spot;
use super::flux;
use super::healths;
use super::registries;
use super::secrets;
use super::variables;
use crate::bundle::InputError;
use crate::image::ImageRef;
use crate::yaml::core::Scalar;
use crate::yaml::core::scalar;
use crate::yaml::tree::Node;

const TOP: &[&str] = &[
    "version",
    "name",
    "target",
    "secrets",
    "manifests",
    "images",
    "registries",
    "rollout",
    "health",
    "conflicts",
    "adopt",
    "kustomize",
    "helm",
    "flux",
    "duplicates",
    "expose",
];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads the whole spec.
pub(super) fn spec(mut root: Node) -> Result<Spec, InputError> {
    let mut errors = Errors::default();
    variables::check(&root, &mut errors);
    variables::unescape(&mut root);
    let whole = Spot {
        node: &root,
        path: String::new(),
    };
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
    let duplicates = fields.take("duplicates");
    let duplicates = duplicates.map(|spot| duplicates_of(&spot, errors));
    let images = images.unwrap_or_default();
    let registries = fields.take("registries");
    let registries = registries.map(|spot| registries::registries(&spot, errors));
    let kustomize = fields
        .take("kustomize")
        .and_then(|spot| path(&spot, errors));
    let helm = fields
        .take("helm")
        .and_then(|spot| charts::helm(spot, name.as_ref(), &images, errors));
    let flux = fields
        .take("flux")
        .and_then(|spot| flux::flux(spot, &images, errors));
    one_source(fields, errors);
    let rollout = rollout(fields, errors);
    flux::on_failure(fields, flux.as_ref(), &rollout, errors);
    let health = fields.take("health");
    let health = health.map(|spot| healths::rules(&spot, errors));
    let conflicts = fields.take("conflicts");
    let conflicts = conflicts.map(|spot| conflicts::rules(&spot, errors));
    let adopt = fields.take("adopt");
    let adopt = adopt.map(|spot| conflicts::adopt(&spot, errors));
    let expose = fields.take("expose");
    let expose = expose.map(|spot| expose::expose(&spot, errors));
    let sources = [
        "secrets",
        "manifests",
        "kustomize",
        "helm",
        "flux",
        "expose",
    ];
    if sources.iter().all(|word| fields.take(word).is_none()) {
        fields.nothing(errors);
    }
    Some(Spec {
        name: name?,
        cluster,
        namespace,
        secrets: secrets.unwrap_or_default(),
        manifests: manifests.unwrap_or_default(),
        duplicates: duplicates.unwrap_or_default(),
        kustomize,
        helm: helm.map(Box::new),
        flux: flux.map(Box::new),
        images,
        registries: registries.unwrap_or_default(),
        rollout,
        health: health.unwrap_or_default(),
        conflicts: conflicts.unwrap_or_default(),
        adopt: adopt.unwrap_or_default(),
        expose: expose.unwrap_or_default(),
        text: String::new(),
    })
}

/// Refuses a second source of objects: two would have two owners and no order.
fn one_source(fields: &Fields<'_>, errors: &mut Errors) {
    let words = ["manifests", "kustomize", "helm", "flux"];
    let mut given = words
        .iter()
        .filter_map(|word| Some((word, fields.take(word)?)));
    let Some((first, _)) = given.next() else {
        return;
    };
    for (_, spot) in given {
        errors.at(
            &spot,
            format!("'{first}' is given too; name one of manifests, kustomize, helm and flux"),
        );
    }
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

fn duplicates_of(spot: &Spot<'_>, errors: &mut Errors) -> Duplicates {
    match spot.text(errors) {
        Some("last") => Duplicates::Last,
        Some("refuse") | None => Duplicates::Refuse,
        Some(_) => {
            errors.at(spot, "expected refuse or last");
            Duplicates::Refuse
        }
    }
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
        "on_disconnect",
        "prune",
        "prune_share",
        "prune_protected",
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
            Some("revert") => read.on_failure = OnFailure::Revert,
            Some("keep") | None => {}
            Some(_) => errors.at(&spot, "expected keep, rollback, or for Flux revert"),
        }
    }
    if let Some(spot) = rollout.take("on_disconnect") {
        match spot.text(errors) {
            Some("cancel") => read.on_disconnect = OnDisconnect::Cancel,
            Some("rollback") => read.on_disconnect = OnDisconnect::Rollback,
            Some("finish") | None => {}
            Some(_) => errors.at(&spot, "expected finish, cancel or rollback"),
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
    let protected = rollout.take("prune_protected");
    if let Some(protected) = protected.and_then(|spot| spot.flag(errors)) {
        read.prune_protected = protected;
    }
    if let Some(spot) = rollout.take("prune_share")
        && let Some(share) = spot.int(errors)
    {
        match u8::try_from(share) {
            Ok(share) if share <= 100 => read.prune_share = share,
            Ok(_) | Err(_) => errors.at(&spot, "expected a whole number of percent, 0 to 100"),
        }
    }
    let older = rollout.take("allow_older");
    if let Some(older) = older.and_then(|spot| spot.flag(errors)) {
        read.allow_older = older;
    }
    let timeout = rollout.take("timeout");
    if let Some(timeout) = timeout.and_then(|spot| timeout_of(&spot, errors)) {
        read.timeout = timeout;
    }
    read
}

/// Reads a duration, and says of a bare number what is missing.
pub(super) fn timeout_of(spot: &Spot<'_>, errors: &mut Errors) -> Option<Duration> {
    if let Some(Scalar::Int(_) | Scalar::Float) = scalar(spot.node) {
        errors.at(spot, "a duration needs a unit, such as 90s, 10m or 1h30m");
        return None;
    }
    spot.parsed(errors, duration)
}

/// Reads `90s`, `10m`, `1h30m`: hours, minutes and seconds in this order, each at most once.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
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
pub(super) fn path(spot: &Spot<'_>, errors: &mut Errors) -> Option<String> {
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
}
