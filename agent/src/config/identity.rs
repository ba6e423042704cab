//! The section `[vault.identity]`: how the agent itself logs in to Vault.
//!
//! Read by [`super`], used by `vault`. Invariant: no field is a secret, they name the files that hold
//! secrets; so neither the configuration nor the environment ever does.

use std::path::PathBuf;

use super::Reader;

/// Where Kubernetes puts the token of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

const METHODS: &str = "`approle`, `jwt`, `kubernetes`, `cert` or `token_file`";

/// The agent's own identity in Vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Where the auth method is mounted; empty for a token from a file.
    pub mount: String,
    /// How it logs in.
    pub method: Method,
}

/// How the agent logs in. Files are read again at each login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// By role id and secret id.
    AppRole {
        /// The role.
        role: RoleId,
        /// Holds the secret id.
        secret_id_file: PathBuf,
    },
    /// By a JWT of some issuer that the method trusts.
    Jwt {
        /// The role.
        role: String,
        /// Holds the JWT.
        jwt_file: PathBuf,
    },
    /// By the token of a Kubernetes service account.
    Kubernetes {
        /// The role.
        role: String,
        /// Holds the token.
        jwt_file: PathBuf,
    },
    /// By a TLS client certificate.
    Cert {
        /// The role; unset lets Vault try all.
        role: Option<String>,
        /// Holds the certificate and its chain as PEM.
        cert_file: PathBuf,
        /// Holds its key as PEM.
        key_file: PathBuf,
    },
    /// By a token that somebody else renews or replaces, or a periodic one.
    TokenFile {
        /// Holds the token.
        token_file: PathBuf,
    },
}

/// The role id of an AppRole, which is no secret but may be delivered like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleId {
    /// As it stands.
    Text(String),
    /// In a file.
    File(PathBuf),
}

impl Method {
    /// Returns its name, as the configuration has it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AppRole { .. } => "approle",
            Self::Jwt { .. } => "jwt",
            Self::Kubernetes { .. } => "kubernetes",
            Self::Cert { .. } => "cert",
            Self::TokenFile { .. } => "token_file",
        }
    }
}

fn key(name: &str) -> String {
    format!("vault.identity.{name}")
}

/// Reads the section: `Some(None)` where it has no key at all, `None` where it is not usable, which
/// is then among the reader's problems.
pub(super) fn identity(reader: &mut Reader) -> Option<Option<Identity>> {
    if !reader.tables("vault").contains("identity") {
        return Some(None);
    }
    let name = reader.take(&key("method"), METHODS, |value| {
        let name = value.as_str()?;
        let known = ["approle", "jwt", "kubernetes", "cert", "token_file"];
        known.into_iter().find(|known| *known == name)
    });
    let Some(name) = reader.require(&key("method"), METHODS, name) else {
        // Which of the other keys belong here is not known; naming them all would mislead.
        drop(reader.take_below("vault.identity"));
        return None;
    };
    let mount = match name {
        "token_file" => String::new(),
        _ => {
            let mount = reader.text(&key("mount"), "the mount of the auth method");
            let mount = mount.unwrap_or_else(|| name.to_owned());
            mount.trim_matches('/').to_owned()
        }
    };
    let method = method(reader, name);
    let stray = reader.take_below("vault.identity");
    let is_stray = !stray.is_empty();
    for key in stray {
        reader.problem(key, format!("is no key of the method {name}"));
    }
    let method = method.filter(|_| !is_stray)?;
    Some(Some(Identity { mount, method }))
}

fn method(reader: &mut Reader, name: &str) -> Option<Method> {
    match name {
        "approle" => approle(reader),
        "jwt" => {
            let role = role(reader);
            let jwt_file = file(reader, "jwt_file", "the JWT");
            Some(Method::Jwt {
                role: role?,
                jwt_file: jwt_file?,
            })
        }
        "kubernetes" => {
            let role = role(reader);
            let jwt_file = reader.path(&key("jwt_file"));
            Some(Method::Kubernetes {
                role: role?,
                jwt_file: jwt_file.unwrap_or_else(|| PathBuf::from(SERVICE_ACCOUNT)),
            })
        }
        "cert" => {
            let role = reader.text(&key("role"), "the name of a role");
            let cert_file = file(reader, "cert_file", "the client certificate as PEM");
            let key_file = file(reader, "key_file", "its key as PEM");
            Some(Method::Cert {
                role,
                cert_file: cert_file?,
                key_file: key_file?,
            })
        }
        _ => Some(Method::TokenFile {
            token_file: file(reader, "token_file", "a token")?,
        }),
    }
}

fn approle(reader: &mut Reader) -> Option<Method> {
    let text = reader.text(&key("role_id"), "the role id of an AppRole");
    let path = reader.path(&key("role_id_file"));
    if text.is_some() && path.is_some() {
        let expected = "expected either this or vault.identity.role_id, not both";
        reader.problem(key("role_id_file"), expected);
    }
    let role = text.map(RoleId::Text).or(path.map(RoleId::File));
    let expected = "the role id of an AppRole, here or in role_id_file";
    let role = reader.require(&key("role_id"), expected, role);
    let secret_id_file = file(reader, "secret_id_file", "the secret id");
    Some(Method::AppRole {
        role: role?,
        secret_id_file: secret_id_file?,
    })
}

fn role(reader: &mut Reader) -> Option<String> {
    let expected = "the name of a role";
    let role = reader.text(&key("role"), expected);
    reader.require(&key("role"), expected, role)
}

fn file(reader: &mut Reader, name: &str, what: &str) -> Option<PathBuf> {
    let path = reader.path(&key(name));
    let expected = format!("the absolute path of a file with {what}");
    reader.require(&key(name), &expected, path)
}
