//! The `secrets` of a spec: names, types, keys and where each value comes from.
//!
//! Called by [`super::parse()`]. What the API server would refuse later (a missing key of a type, a key
//! name) is refused here, before any credential is issued.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proto::ids::dns_subdomain;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::FORBIDDEN_TYPES;
use super::SecretSpec;
use super::Source;
use super::fields::Errors;
use super::fields::Fields;
use super::fields::Spot;
use super::rotate;
use super::variables;
use crate::ports::Parameters;
use crate::secret::VaultPath;
use crate::template::Template;
use crate::yaml::shown;

const OPAQUE: &str = "Opaque";

/// What a type of Kubernetes needs and takes.
struct Shape {
    name: &'static str,
    needs: &'static [&'static str],
    /// At least one of these.
    one_of: &'static [&'static str],
    also: &'static [&'static str],
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "kubernetes.io/tls",
        needs: &["tls.crt", "tls.key"],
        one_of: &[],
        also: &["ca.crt"],
    },
    Shape {
        name: "kubernetes.io/dockerconfigjson",
        needs: &[".dockerconfigjson"],
        one_of: &[],
        also: &[],
    },
    Shape {
        name: "kubernetes.io/dockercfg",
        needs: &[".dockercfg"],
        one_of: &[],
        also: &[],
    },
    Shape {
        name: "kubernetes.io/basic-auth",
        needs: &[],
        one_of: &["username", "password"],
        also: &[],
    },
    Shape {
        name: "kubernetes.io/ssh-auth",
        needs: &["ssh-privatekey"],
        one_of: &[],
        also: &["ssh-publickey", "known_hosts"],
    },
];

/// Reads all Secrets.
pub(super) fn secrets(spot: &Spot<'_>, errors: &mut Errors) -> Vec<SecretSpec> {
    let mut names = BTreeSet::new();
    let mut secrets = Vec::new();
    for item in spot.items(errors) {
        let known = &["name", "type", "keys", "rotate"];
        let Some(fields) = item.fields(known, errors) else {
            continue;
        };
        let name = fields.need("name", errors).and_then(|spot| {
            let text = spot.text(errors)?;
            spot.parsed(errors, dns_subdomain)?;
            if !names.insert(text) {
                errors.at(&spot, "another Secret above has this name");
            }
            Some(text.to_owned())
        });
        let rotate = fields.take("rotate");
        let rotate = rotate.map(|spot| rotate::rotate(&spot, errors));
        let kind = kind(&fields, errors);
        let keys = fields.need("keys", errors);
        let keys = keys.map(|spot| keys_of(&spot, kind.as_deref(), errors));
        if let (Some(name), Some(kind), Some(keys)) = (name, kind, keys) {
            secrets.push(SecretSpec {
                name,
                kind,
                keys,
                rotate,
            });
        }
    }
    secrets
}

/// Writes a Secret of the spec in the words of the spec; [`secrets`] reads it back the same.
pub(super) fn to_value(secret: &SecretSpec) -> Value {
    let keys: Map<String, Value> = secret
        .keys
        .iter()
        .map(|(key, source)| (key.clone(), source_to_value(source)))
        .collect();
    let mut value = json!({ "name": secret.name, "type": secret.kind, "keys": keys });
    if let Some(rotate) = &secret.rotate {
        value["rotate"] = rotate.to_value();
    }
    value
}

fn source_to_value(source: &Source) -> Value {
    match source {
        Source::Template(template) => json!({ "template": variables::escape(&template.text) }),
        Source::Field {
            path,
            field,
            version,
            parameters,
        } => {
            let mut value = json!({ "vault": path.as_str(), "field": variables::escape(field) });
            if let Some(version) = version {
                value["version"] = json!(version);
            }
            if !parameters.is_empty() {
                let texts = parameters.iter();
                let escaped =
                    texts.map(|(name, text)| (name.clone(), variables::escape(text).into()));
                value["params"] = Value::Object(escaped.collect());
            }
            value
        }
    }
}

fn kind(fields: &Fields<'_>, errors: &mut Errors) -> Option<String> {
    let Some(spot) = fields.take("type") else {
        return Some(OPAQUE.to_owned());
    };
    let text = spot.text(errors)?;
    let problem = if FORBIDDEN_TYPES.contains(&text) {
        "Secrets of this type are never written"
    } else if text != OPAQUE && text.eq_ignore_ascii_case(OPAQUE) {
        "the type is written 'Opaque'"
    } else if text.len() > 253 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "a type is up to 253 visible characters"
    } else if text.starts_with("kubernetes.io/") && shape(text).is_none() {
        "Kubernetes has no Secret type of this name"
    } else {
        return Some(text.to_owned());
    };
    errors.at(&spot, problem);
    None
}

fn shape(kind: &str) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| shape.name == kind)
}

fn keys_of(spot: &Spot<'_>, kind: Option<&str>, errors: &mut Errors) -> BTreeMap<String, Source> {
    let mut keys = BTreeMap::new();
    let entries = spot.map(errors);
    let names: BTreeSet<&str> = entries.iter().map(|(name, _)| *name).collect();
    let mut used = BTreeSet::new();
    for (name, value) in &entries {
        if !is_key(name) {
            errors.at(
                value,
                "the key's name has to be 1 to 253 letters, digits, '-', '_' and '.'",
            );
        }
        let Some(source) = source(value, errors) else {
            continue;
        };
        if let Source::Template(template) = &source {
            used.extend(template.names.iter().cloned());
        }
        keys.insert((*name).to_owned(), source);
    }
    templates(&entries, &keys, &names, "a key of this Secret", errors);
    one_request_a_path(&entries, &keys, errors);
    if let Some(shape) = kind.and_then(shape) {
        check_shape(spot, shape, &entries, &used, errors);
    }
    keys
}

fn is_key(name: &str) -> bool {
    let taken = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    // "." and names that start with ".." are refused by Kubernetes.
    (1..=253).contains(&name.len())
        && name.bytes().all(taken)
        && name != "."
        && !name.starts_with("..")
}

/// Reads where one value comes from.
pub(super) fn source(spot: &Spot<'_>, errors: &mut Errors) -> Option<Source> {
    let known = &["vault", "field", "version", "params", "template"];
    let fields = spot.clone().fields(known, errors)?;
    if let Some(template) = fields.take("template") {
        for other in ["vault", "field", "version", "params"] {
            if let Some(other) = fields.take(other) {
                errors.at(&other, "a key has a template or a Vault field, not both");
            }
        }
        let template = template.parsed(errors, Template::parse)?;
        return Some(Source::Template(template));
    }
    let path = fields.need("vault", errors);
    let path = path.and_then(|spot| spot.parsed(errors, VaultPath::parse));
    let field = fields.need("field", errors).and_then(|spot| {
        let text = spot.text(errors)?;
        if text.chars().any(char::is_control) {
            errors.at(&spot, "the name of the field has a control character");
            return None;
        }
        Some(text.to_owned())
    });
    let version = match fields.take("version") {
        None => None,
        Some(spot) => match spot.int(errors).map(u64::try_from) {
            Some(Ok(version)) if version > 0 => Some(version),
            Some(_) => {
                errors.at(&spot, "versions are counted from 1");
                None
            }
            None => None,
        },
    };
    let parameters = fields.take("params");
    if let (Some(spot), Some(_)) = (&parameters, version) {
        errors.at(spot, "a KV secret that has versions takes no params");
    }
    let parameters = parameters.map(|spot| parameters_of(&spot, errors));
    Some(Source::Field {
        path: path?,
        field: field?,
        version,
        parameters: parameters.unwrap_or_default(),
    })
}

/// Reads what a request to issue says: names and texts (numbers and booleans are written as texts).
fn parameters_of(spot: &Spot<'_>, errors: &mut Errors) -> Parameters {
    let mut parameters = Parameters::new();
    for (name, value) in spot.map(errors) {
        if let Some(text) = value.text(errors) {
            parameters.insert(name.to_owned(), text.to_owned());
        }
    }
    if parameters.is_empty() {
        errors.at(spot, "names no parameter; leave it out");
    }
    parameters
}

/// Checks that keys of one path ask for it with the same parameters: they get one credential.
fn one_request_a_path(
    entries: &[(&str, Spot<'_>)],
    keys: &BTreeMap<String, Source>,
    errors: &mut Errors,
) {
    let mut asked: BTreeMap<&str, &Parameters> = BTreeMap::new();
    for (name, spot) in entries {
        let Some(Source::Field {
            path, parameters, ..
        }) = keys.get(*name)
        else {
            continue;
        };
        if *asked.entry(path.as_str()).or_insert(parameters) != parameters {
            errors.at(
                spot,
                "another key of this Secret asks for the same path with other params",
            );
        }
    }
}

/// Checks that templates use only keys beside them that come from Vault: so there are no cycles. `one` is what
/// such a key is called.
pub(super) fn templates(
    entries: &[(&str, Spot<'_>)],
    keys: &BTreeMap<String, Source>,
    names: &BTreeSet<&str>,
    one: &str,
    errors: &mut Errors,
) {
    for (name, spot) in entries {
        let Some(Source::Template(template)) = keys.get(*name) else {
            continue;
        };
        for used in &template.names {
            let problem = match keys.get(used) {
                Some(Source::Field { .. }) => continue,
                Some(Source::Template(_)) => {
                    "which is a template itself; use Vault fields only".to_owned()
                }
                None if names.contains(used.as_str()) => continue, // Reported where it stands.
                None => format!("which is not {one}"),
            };
            errors.at(
                spot,
                format!("the template uses {}, {problem}", shown(used)),
            );
        }
    }
}

fn check_shape(
    spot: &Spot<'_>,
    shape: &Shape,
    entries: &[(&str, Spot<'_>)],
    used: &BTreeSet<String>,
    errors: &mut Errors,
) {
    let has = |wanted: &&str| entries.iter().any(|(name, _)| name == wanted);
    for missing in shape.needs.iter().filter(|key| !has(key)) {
        errors.at(
            spot,
            format!("the type {} needs the key '{missing}'", shape.name),
        );
    }
    if !shape.one_of.is_empty() && !shape.one_of.iter().any(has) {
        let keys = shape.one_of.join("' or '");
        errors.at(
            spot,
            format!("the type {} needs the key '{keys}'", shape.name),
        );
    }
    for (name, value) in entries {
        let lists = [shape.needs, shape.one_of, shape.also];
        // What a template of this Secret is made of has to be one of its keys.
        if !lists.iter().any(|list| list.contains(name)) && !used.contains(*name) {
            let message = format!(
                "the type {} does not take the key {}",
                shape.name,
                shown(name)
            );
            errors.at(value, message);
        }
    }
}
