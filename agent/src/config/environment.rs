//! `QUAYMASTER_*` variables as overrides of keys.
//!
//! The pairs are collected once, by `main`, and only those with our prefix; a variable of somebody
//! else that is not UTF-8 cannot hurt. Every value is read as text, so no parser can quote it.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::reader::Reader;

const PREFIX: &str = "QUAYMASTER_";
/// Variables of the client, which may stand in an operator's shell beside ours.
const CLIENT: [&str; 3] = [
    "QUAYMASTER_SOCKET",
    "QUAYMASTER_ID_TOKEN",
    "QUAYMASTER_VAULT_TOKEN",
];

/// Variables without prefix, in lower case, and the keys that they set.
const KEYS: [(&str, &str); 42] = [
    ("policy", "policy"),
    ("state_dir", "state_dir"),
    ("drain_timeout", "drain_timeout"),
    ("disconnect_grace", "disconnect_grace"),
    ("log_format", "log.format"),
    ("log_level", "log.level"),
    ("socket_jobs", "socket.jobs"),
    ("socket_jobs_dir", "socket.jobs_dir"),
    ("socket_jobs_mode", "socket.jobs_mode"),
    ("socket_admin", "socket.admin"),
    ("issuer_url", "issuer.url"),
    ("issuer_audience", "issuer.audience"),
    ("issuer_max_age", "issuer.max_age"),
    ("issuer_leeway", "issuer.leeway"),
    ("issuer_pinned_jwks", "issuer.pinned_jwks"),
    ("issuer_ca_file", "issuer.ca_file"),
    ("gitlab_url", "gitlab.url"),
    ("gitlab_token_file", "gitlab.token_file"),
    ("gitlab_ca_file", "gitlab.ca_file"),
    ("vault_address", "vault.address"),
    ("vault_ca_file", "vault.ca_file"),
    ("vault_jwt_mount", "vault.jwt_mount"),
    ("vault_namespace", "vault.namespace"),
    ("vault_timeout", "vault.timeout"),
    ("vault_identity_method", "vault.identity.method"),
    ("vault_identity_mount", "vault.identity.mount"),
    ("vault_identity_role", "vault.identity.role"),
    ("vault_identity_role_id", "vault.identity.role_id"),
    ("vault_identity_role_id_file", "vault.identity.role_id_file"),
    (
        "vault_identity_secret_id_file",
        "vault.identity.secret_id_file",
    ),
    ("vault_identity_jwt_file", "vault.identity.jwt_file"),
    ("vault_identity_cert_file", "vault.identity.cert_file"),
    ("vault_identity_key_file", "vault.identity.key_file"),
    ("vault_identity_token_file", "vault.identity.token_file"),
    ("render_helm", "render.helm"),
    ("render_kubectl", "render.kubectl"),
    ("render_charts_ca_file", "render.charts_ca_file"),
    ("git_program", "git.program"),
    ("git_ssh_folder", "git.ssh_folder"),
    ("git_ca_file", "git.ca_file"),
    ("registries_ca_file", "registries.ca_file"),
    ("config", ""),
];

/// Our variables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    pairs: Vec<(String, String)>,
    unreadable: Vec<String>,
}

impl Environment {
    /// Takes our variables out of all.
    #[must_use]
    pub fn collect(all: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut ours = Self::default();
        for (name, value) in all {
            let Some(name) = name
                .to_str()
                .filter(|name| name.starts_with(PREFIX) && !CLIENT.contains(name))
            else {
                continue;
            };
            match value.into_string() {
                Ok(value) => ours.pairs.push((name.to_owned(), value)),
                Err(_bytes) => ours.unreadable.push(name.to_owned()),
            }
        }
        ours
    }

    /// Puts the values in place of the file's.
    pub(super) fn put_into(self, reader: &mut Reader) {
        for name in self.unreadable {
            reader.problem(name, "expected UTF-8 text");
        }
        let (known, odd): (Vec<_>, Vec<_>) = self
            .pairs
            .into_iter()
            .partition(|(name, _)| key_of(name).is_some());
        for (name, _) in odd {
            reader.problem(name, "there is no such variable");
        }
        let named: BTreeMap<&str, &str> = KEYS.into_iter().collect();
        // Texts into texts cannot fail; the prefix is cut and the case lowered here.
        let values = envy::prefixed(PREFIX).from_iter::<_, BTreeMap<String, String>>(known);
        for (name, value) in values.unwrap_or_default() {
            let key = named
                .get(name.as_str())
                .copied()
                .filter(|key| !key.is_empty());
            if let Some(key) = key {
                reader.set(key, &format!("{PREFIX}{}", name.to_uppercase()), value);
            }
        }
    }
}

/// Finds the key of a variable that is written in capitals.
fn key_of(variable: &str) -> Option<&'static str> {
    let name = variable.strip_prefix(PREFIX)?;
    let capitals = !name.bytes().any(|byte| byte.is_ascii_lowercase());
    let lower = name.to_lowercase();
    let found = KEYS.iter().find(|(known, _)| *known == lower);
    found.filter(|_| capitals).map(|(_, key)| *key)
}
