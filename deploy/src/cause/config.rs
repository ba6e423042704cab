//! Configuration that a container needs and does not find: ConfigMaps, Secrets and their keys.
//!
//! Used by [`super::findings`]. The kubelet reads through a cache that lags behind writes, so these
//! count only after they were seen for some seconds.

use serde_json::Value;

use super::Finding;
use super::SETTLED;
use super::World;
use super::container::Container;
use super::world::event_line;

/// Says what configuration a container misses.
pub(super) fn problem(container: &Container<'_>, pod: &Value, world: &World) -> Option<Finding> {
    if container.waiting() != "CreateContainerConfigError" {
        return None;
    }
    let words = container.waiting_message().trim();
    let title = container.title();
    let subject = container.subject();
    let events = world.events_of(pod, &["Failed"]);
    let finding = match missing(words) {
        Some(missing) => missing.finding(&subject, &title, world),
        None if passes(words) => Finding::new(
            "config_pending",
            &subject,
            format!("{title} waits for configuration that the kubelet cannot read yet"),
        ),
        None => Finding::new(
            "config_invalid",
            &subject,
            format!("{title} has a configuration that cannot be run"),
        )
        .permanent(SETTLED)
        .hint("change the security context, environment or volumes of the container as the message says"),
    };
    Some(
        finding
            .seen(words)
            .seen_all(events.iter().take(1).map(|event| event_line(event))),
    )
}

fn passes(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    words.is_empty()
        || [
            "failed to sync",
            "timed out",
            "connection refused",
            "deadline exceeded",
        ]
        .iter()
        .any(|word| words.contains(word))
}

/// A ConfigMap or Secret, or one of its keys, that is not there.
pub(super) struct Missing {
    is_secret: bool,
    name: String,
    key: Option<String>,
}

impl Missing {
    pub(super) fn finding(self, subject: &str, title: &str, world: &World) -> Finding {
        let (whole, part) = if self.is_secret {
            ("secret_missing", "secret_key_missing")
        } else {
            ("config_map_missing", "config_key_missing")
        };
        let what = if self.is_secret {
            "Secret"
        } else {
            "ConfigMap"
        };
        let name = &self.name;
        let (kind, message) = match &self.key {
            Some(key) => (
                part,
                format!("{title} needs the key {key} of {what} {name}, which does not have it"),
            ),
            None => (
                whole,
                format!("{title} needs {what} {name}, which does not exist"),
            ),
        };
        let hint = match (self.is_secret, self.key.is_some()) {
            (true, true) => {
                "add the key under secrets in quaymaster.yaml, or correct its name in the manifest"
            }
            (true, false) => {
                "add the Secret under secrets in quaymaster.yaml, or correct its name in the manifest"
            }
            (false, true) => "add the key to the ConfigMap, or correct its name in the manifest",
            (false, false) => "add the ConfigMap to the manifests, or correct its name",
        };
        let finding = Finding::new(kind, subject, message).hint(hint);
        let mut finding = if world.may_be_made(name) {
            finding.seen(format!(
                "an applied object names {name} and may still make it"
            ))
        } else {
            finding.permanent(SETTLED)
        };
        finding.missing = Some(self.name);
        finding
    }
}

/// Reads the kubelet's words:
/// `secret "db" not found`, `couldn't find key url in ConfigMap shop/app`,
/// `references non-existent secret key: ca.crt`, `object "shop"/"app" not registered` is a cache.
pub(super) fn missing(words: &str) -> Option<Missing> {
    let lower = words.to_ascii_lowercase();
    for (word, is_secret) in [("secret", true), ("configmap", false)] {
        let start = format!("{word} \"");
        if let Some(at) = lower.find(&start)
            && let Some((name, rest)) = lower[at + start.len()..].split_once('"')
            && rest.trim_start().starts_with("not found")
        {
            return Some(Missing {
                is_secret,
                name: name.rsplit('/').next().unwrap_or(name).to_owned(),
                key: None,
            });
        }
    }
    missing_key(words)
}

fn missing_key(words: &str) -> Option<Missing> {
    let rest = words.split_once("couldn't find key ")?.1;
    let (key, rest) = rest.split_once(" in ")?;
    let (kind, rest) = rest.split_once(' ')?;
    let name = rest.split_whitespace().next()?.trim_matches('"');
    Some(Missing {
        is_secret: kind.eq_ignore_ascii_case("secret"),
        name: name.rsplit('/').next().unwrap_or(name).to_owned(),
        key: Some(key.to_owned()),
    })
}
