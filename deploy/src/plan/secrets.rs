//! What happens to a Secret: compared by keyed fingerprints, key by key, and by who owns what.
//!
//! Pure; called by [`super::plan`] for Secrets from Vault and for those of manifests. A key that the
//! agent once set and that is wanted no more is a change, and so are other labels, annotations or
//! another type. Invariant: no value leaves this file; what is compared by [`crate::owned`] holds marks
//! in place of values.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::report::Action;
use proto::report::KeyChange;
use serde_json::Map;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Judged;
use crate::object::AppliedObject;
use crate::object::ObjectId;
use crate::owned;
use crate::owned::Sameness;
use crate::ports::SecretView;
use crate::resolve::Draft;
use crate::secret::FingerprintKey;
use crate::secret::Secret;
use crate::spec::SecretSpec;

/// Stands in place of every value.
const MARK: bool = true;

/// Decides on a Secret whose values come from Vault.
pub(super) fn from_vault(
    id: &ObjectId,
    body: &Value,
    spec: &SecretSpec,
    live: Option<&SecretView>,
    draft: Option<&Draft>,
    key: &FingerprintKey,
) -> Judged {
    let keys = spec.keys.iter().map(|(name, source)| {
        let known = draft.and_then(|draft| draft.known(&spec.name, name, source));
        let before = live.and_then(|live| live.values.get(name));
        let action = match (known, before) {
            (_, None) => Action::Create,
            (None, Some(_)) => Action::Unknown,
            (Some(value), Some(before)) if key.fingerprint(name, value.bytes()) == *before => {
                Action::Same
            }
            (Some(_), Some(_)) => Action::Change,
        };
        let source = draft.map_or_else(
            || "vault".to_owned(),
            |draft| draft.describe(&spec.name, source),
        );
        KeyChange {
            key: name.clone(),
            action,
            source,
        }
    });
    judge(id, body, keys.collect(), live)
}

/// Decides on a Secret whose values stand in a manifest.
pub(super) fn from_manifest(
    id: &ObjectId,
    body: &Value,
    live: Option<&SecretView>,
    key: &FingerprintKey,
) -> Judged {
    let data = body.get("data").and_then(Value::as_object);
    let keys = data.into_iter().flatten().map(|(name, value)| {
        let before = live.and_then(|live| live.values.get(name));
        let fingerprint = decoded(value).map(|value| key.fingerprint(name, &value));
        let action = match before {
            None => Action::Create,
            Some(before) if fingerprint.as_ref() == Some(before) => Action::Same,
            Some(_) => Action::Change,
        };
        KeyChange {
            key: name.clone(),
            action,
            source: "the manifest".to_owned(),
        }
    });
    judge(id, body, keys.collect(), live)
}

/// Lists the values of a manifest's Secret.
pub(crate) fn values(body: &Value) -> impl Iterator<Item = Secret> {
    let data = body.get("data").and_then(Value::as_object);
    let texts = data.into_iter().flatten();
    texts.filter_map(|(_, value)| Some(Secret::new(decoded(value)?.to_vec())))
}

/// Decodes a value of `data`; the server takes line ends inside.
fn decoded(value: &Value) -> Option<Zeroizing<Vec<u8>>> {
    let mut plain = Zeroizing::new(value.as_str()?.to_owned());
    plain.retain(|letter| !matches!(letter, '\r' | '\n'));
    STANDARD.decode(plain.as_bytes()).ok().map(Zeroizing::new)
}

fn judge(
    id: &ObjectId,
    body: &Value,
    mut keys: Vec<KeyChange>,
    live: Option<&SecretView>,
) -> Judged {
    let Some(live) = live else {
        return Judged {
            keys,
            ..Judged::create()
        };
    };
    keys.extend(left_behind(&keys, live));
    let mut changing = keys
        .iter()
        .filter(|key| key.action != Action::Same)
        .map(|key| key.key.as_str())
        .peekable();
    if changing.peek().is_some() {
        let names: Vec<&str> = changing.collect();
        let reason = format!("new, other or fewer values: {}", names.join(", "));
        return Judged {
            keys,
            ..Judged::change(reason)
        };
    }
    let names = keys.iter().map(|key| key.key.as_str());
    let wanted = marked(body, names);
    let there = marked(&live.rest, live.values.keys().map(String::as_str));
    let judged = match owned::compare(&wanted, &there) {
        Sameness::Same => Judged {
            checked: Some(AppliedObject::of(id.clone(), &live.rest)),
            ..Judged::same("every key has the value that is wanted")
        },
        Sameness::Differs(paths) => Judged::differs(&paths),
        Sameness::Unsure => Judged::change("the values are right, but not all are the agent's"),
    };
    Judged { keys, ..judged }
}

/// Lists the keys that the agent set once and that are wanted no more.
fn left_behind(keys: &[KeyChange], live: &SecretView) -> Vec<KeyChange> {
    owned::data_keys(&live.rest)
        .into_iter()
        .filter(|name| live.values.contains_key(name))
        .filter(|name| !keys.iter().any(|key| key.key == *name))
        .map(|name| KeyChange {
            key: name,
            action: Action::Delete,
            source: "nothing any more".to_owned(),
        })
        .collect()
}

/// Returns a Secret with marks in place of its values.
fn marked<'a>(secret: &Value, keys: impl Iterator<Item = &'a str>) -> Value {
    let mut fields = Map::new();
    for (field, value) in secret.as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "data" | "stringData") {
            fields.insert(field.clone(), value.clone());
        }
    }
    let marks: Map<String, Value> = keys.map(|key| (key.to_owned(), MARK.into())).collect();
    if !marks.is_empty() {
        fields.insert("data".to_owned(), Value::Object(marks));
    }
    Value::Object(fields)
}
