//! The `secrets` of a spec: names, types, keys and where each value comes from.
//!
//! Called by [`super::read`]. Everything that would make the API server or Vault refuse later and
//! can be known now is refused here, before any credential is issued.

use std::collections::BTreeMap;

use proto::ids::dns_subdomain;

use super::SecretSpec;
use super::Source;
use super::read::Reader;
use super::read::join;
use crate::secret::VaultPath;
use crate::template::Template;
use crate::yaml::tree::Node;

/// Types that are never written: they are the cluster's or Helm's own.
const FORBIDDEN: [&str; 3] = [
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    "helm.sh/release.v1",
];

/// Reads the list.
pub(super) fn list(reader: &mut Reader, node: &Node) -> Vec<SecretSpec> {
    let Some(items) = node.sequence().filter(|items| !items.is_empty()) else {
        reader.wrong(
            node,
            "secrets",
            "expected a list of secrets that is not empty",
        );
        return Vec::new();
    };
    let mut secrets: Vec<SecretSpec> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("secrets[{index}]");
        let Some(secret) = one(reader, item, &path) else {
            continue;
        };
        if secrets.iter().any(|other| other.name == secret.name) {
            reader.wrong(item, &path, "another secret of the list has this name");
        } else {
            secrets.push(secret);
        }
    }
    secrets
}

fn one(reader: &mut Reader, node: &Node, path: &str) -> Option<SecretSpec> {
    reader.fields(node, path, &["name", "type", "keys", "rotate"])?;
    if let Some(rotate) = node.get("rotate") {
        reader.wrong(
            rotate,
            &join(path, "rotate"),
            "'rotate' is not supported by this version; leave it out",
        );
    }
    let name = name(reader, node, path);
    let kind = match node.get("type") {
        Some(kind) => kind_of(reader, kind, &join(path, "type")),
        None => Some("Opaque".to_owned()),
    };
    let keys_path = join(path, "keys");
    let Some(entries) = node
        .get("keys")
        .and_then(Node::mapping)
        .filter(|entries| !entries.is_empty())
    else {
        reader.wrong(
            node,
            &keys_path,
            "expected a mapping of keys that is not empty",
        );
        return None;
    };
    let mut keys = BTreeMap::new();
    for (key, value) in entries {
        let text = key.scalar().unwrap_or_default();
        let key_path = join(&keys_path, text);
        if !is_key(text) {
            reader.wrong(
                key,
                &key_path,
                "a key has 1 to 253 letters, digits, '-', '_' and '.'",
            );
            continue;
        }
        if let Some(source) = source(reader, value, &key_path) {
            keys.insert(text.to_owned(), source);
        }
    }
    check_templates(reader, node, &keys_path, &keys, entries);
    let (name, kind) = (name?, kind?);
    check_type(reader, node, path, &kind, entries);
    Some(SecretSpec { name, kind, keys })
}

fn name(reader: &mut Reader, node: &Node, path: &str) -> Option<String> {
    let name_path = join(path, "name");
    let Some(name) = node.get("name") else {
        reader.wrong(node, &name_path, "missing; name the Secret");
        return None;
    };
    let text = reader.text(name, &name_path)?;
    if let Err(error) = dns_subdomain(text) {
        reader.wrong(name, &name_path, error.to_string());
        return None;
    }
    Some(text.to_owned())
}

fn kind_of(reader: &mut Reader, node: &Node, path: &str) -> Option<String> {
    let text = reader.text(node, path)?;
    if FORBIDDEN.contains(&text) {
        reader.wrong(node, path, "Secrets of this type are never written");
        return None;
    }
    Some(text.to_owned())
}

fn is_key(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(fits) && text != "." && text != ".."
}

fn source(reader: &mut Reader, node: &Node, path: &str) -> Option<Source> {
    reader.fields(node, path, &["vault", "field", "version", "template"])?;
    match (node.get("vault"), node.get("template")) {
        (Some(vault), None) => field(reader, node, vault, path),
        (None, Some(template)) => {
            for word in ["field", "version"] {
                if let Some(extra) = node.get(word) {
                    reader.wrong(
                        extra,
                        &join(path, word),
                        "goes with 'vault', not with 'template'",
                    );
                }
            }
            let template_path = join(path, "template");
            let text = reader.text(template, &template_path)?;
            match Template::parse(text) {
                Ok(template) => Some(Source::Template(template)),
                Err(error) => {
                    reader.wrong(template, &template_path, error.to_string());
                    None
                }
            }
        }
        (Some(_), Some(_)) | (None, None) => {
            reader.wrong(
                node,
                path,
                "expected either 'vault' and 'field', or 'template'",
            );
            None
        }
    }
}

fn field(reader: &mut Reader, node: &Node, vault: &Node, path: &str) -> Option<Source> {
    let vault_path = join(path, "vault");
    let parsed = reader
        .text(vault, &vault_path)
        .and_then(|text| match VaultPath::parse(text) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                reader.wrong(vault, &vault_path, error.to_string());
                None
            }
        });
    let field = match node.get("field") {
        Some(field) => reader.text(field, &join(path, "field")).map(str::to_owned),
        None => {
            reader.wrong(
                node,
                &join(path, "field"),
                "missing; name the field of the secret",
            );
            None
        }
    };
    let version = match node.get("version") {
        Some(version) => Some(reader.number(version, &join(path, "version"))?),
        None => None,
    };
    Some(Source::Field {
        path: parsed?,
        field: field?,
        version,
    })
}

/// A template uses fields of the same Secret, not other templates.
fn check_templates(
    reader: &mut Reader,
    node: &Node,
    path: &str,
    keys: &BTreeMap<String, Source>,
    entries: &[(Node, Node)],
) {
    for (key, source) in keys {
        let Source::Template(template) = source else {
            continue;
        };
        let at = entries
            .iter()
            .find(|(name, _)| name.scalar() == Some(key))
            .map_or(node, |(_, value)| value);
        for name in &template.names {
            match keys.get(name) {
                Some(Source::Field { .. }) => {}
                Some(Source::Template(_)) => {
                    reader.wrong(
                        at,
                        &join(path, key),
                        "a template uses another template; only fields are taken",
                    );
                }
                None => {
                    let message = "the template uses a name that is no key of this Secret (names are keys made of letters, digits and '_')";
                    reader.wrong(at, &join(path, key), message);
                }
            }
        }
    }
}

/// Checks the keys that a type needs, and those that it takes.
fn check_type(reader: &mut Reader, node: &Node, path: &str, kind: &str, entries: &[(Node, Node)]) {
    let (needs, takes): (&[&str], Option<&[&str]>) = match kind {
        "kubernetes.io/tls" => (
            &["tls.crt", "tls.key"],
            Some(&["tls.crt", "tls.key", "ca.crt"]),
        ),
        "kubernetes.io/dockerconfigjson" => (&[".dockerconfigjson"], Some(&[".dockerconfigjson"])),
        "kubernetes.io/dockercfg" => (&[".dockercfg"], Some(&[".dockercfg"])),
        "kubernetes.io/basic-auth" => (&[], Some(&["username", "password"])),
        "kubernetes.io/ssh-auth" => (&["ssh-privatekey"], None),
        _ => (&[], None),
    };
    let has = |wanted: &str| entries.iter().any(|(key, _)| key.scalar() == Some(wanted));
    for need in needs {
        if !has(need) {
            reader.wrong(
                node,
                &join(path, "keys"),
                format!("a Secret of this type needs the key {need}"),
            );
        }
    }
    if let Some(takes) = takes {
        for (key, _) in entries {
            if !takes.contains(&key.scalar().unwrap_or_default()) {
                let message = format!(
                    "a Secret of this type takes only the keys {}",
                    takes.join(", ")
                );
                reader.wrong(key, &join(path, "keys"), message);
            }
        }
    }
}
