//! Values that a command of the job gets as variables: read, composed, and nothing left behind.
//!
//! Called by the agent for `POST /v1/values` with the proof of [`crate::authorize::expose`]. No run, no
//! journal, no cluster: what is read goes to the caller and nowhere else. Every mount is looked up before
//! the first secret is read, and an engine that issues is refused: nobody would end what it issued. The
//! session is ended whatever happened.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::authorize::Exposure;
use crate::backoff::Patience;
use crate::class::Class;
use crate::ports::Engine;
use crate::ports::Login;
use crate::ports::Mount;
use crate::ports::SecretData;
use crate::ports::Secrets;
use crate::ports::SecretsError;
use crate::ports::Session;
use crate::resolve;
use crate::secret::Secret;
use crate::secret::VaultPath;
use crate::spec::Source;
use crate::template::TemplateError;

/// The longest value: the kernel takes 128 KiB for one variable.
const MAX_VALUE: usize = 64 << 10;
/// All values together: a command's variables and arguments share a fourth of its stack.
const MAX_TOTAL: usize = 512 << 10;

/// Why there are no values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExposeError {
    /// The caller brought no token that Vault takes.
    #[error("the values are in Vault, and no token for it came with the request")]
    NoLogin,
    /// The login or a read failed.
    #[error("reading {what}")]
    Vault {
        /// What was read: "the login", or a path.
        what: String,
        /// Why.
        source: SecretsError,
    },
    /// The engine issues credentials.
    #[error(
        "{path} is of an engine that issues credentials (variable {name}), and nobody would end the one that a \
         command got"
    )]
    Dynamic {
        /// The path.
        path: String,
        /// The variable.
        name: String,
    },
    /// A version was asked of an engine that has none.
    #[error("{path} is not in a KV version 2 engine, so it has no version (variable {name})")]
    NoVersions {
        /// The path.
        path: String,
        /// The variable.
        name: String,
    },
    /// The secret has no such field.
    #[error("the secret at {path} has no field {field} (variable {name})")]
    FieldMissing {
        /// The path.
        path: String,
        /// The field.
        field: String,
        /// The variable.
        name: String,
    },
    /// A template could not be rendered.
    #[error("variable {name}")]
    Template {
        /// The variable.
        name: String,
        /// Why.
        source: TemplateError,
    },
    /// The value cannot be that of a variable.
    #[error("the value of variable {name} {problem}")]
    Unfit {
        /// The variable.
        name: String,
        /// Why.
        problem: &'static str,
    },
}

impl ExposeError {
    /// Returns the class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::NoLogin
            | Self::Dynamic { .. }
            | Self::NoVersions { .. }
            | Self::Template { .. }
            | Self::Unfit { .. } => Class::Caller,
            Self::Vault { source, .. } => source.class(),
            Self::FieldMissing { .. } => Class::NotFound,
        }
    }
}

/// What goes to the caller.
pub type Variables = BTreeMap<String, Secret>;

/// Reads what was granted.
///
/// # Errors
/// The first thing that is missing or refused; then there are no values at all.
pub async fn values(
    exposure: &Exposure,
    login: Option<&Login>,
    secrets: &dyn Secrets,
    patience: &Patience<'_>,
) -> Result<Variables, ExposeError> {
    let login = login.ok_or(ExposeError::NoLogin)?;
    let session = patience
        .retry(|| secrets.login(login), resolve::trouble("the login"))
        .await
        .map_err(in_vault("the login"))?;
    let reader = Reader {
        wanted: exposure.wanted(),
        session: &session,
        secrets,
        patience,
    };
    let read = reader.read().await;
    if session.ours
        && let Err(error) = secrets.logout(session).await
    {
        // It has no leases, and ends by itself.
        patience
            .log
            .warn(format!("could not revoke the Vault token ({error})"));
    }
    read
}

fn in_vault(what: &str) -> impl Fn(SecretsError) -> ExposeError {
    move |source| ExposeError::Vault {
        what: what.to_owned(),
        source,
    }
}

/// One field that a variable comes from.
struct Field<'a> {
    name: &'a str,
    path: &'a VaultPath,
    field: &'a str,
    version: Option<u64>,
}

struct Reader<'a> {
    wanted: &'a BTreeMap<String, Source>,
    session: &'a Session,
    secrets: &'a dyn Secrets,
    patience: &'a Patience<'a>,
}

impl Reader<'_> {
    async fn read(&self) -> Result<Variables, ExposeError> {
        let mounts = self.mounts().await?;
        let mut read: BTreeMap<(&VaultPath, Option<u64>), SecretData> = BTreeMap::new();
        let places: BTreeSet<_> = self.fields().map(|one| (one.path, one.version)).collect();
        for (path, version) in places {
            let mount = &mounts[path];
            let data = self
                .patience
                .retry(
                    || self.secrets.read(self.session, mount, path, version),
                    resolve::trouble(path.as_str()),
                )
                .await
                .map_err(in_vault(path.as_str()))?;
            read.insert((path, version), data);
        }
        let mut values = Variables::new();
        for one in self.fields() {
            let data = read.get(&(one.path, one.version));
            let value = data.and_then(|data| data.fields.get(one.field));
            let value = value.ok_or_else(|| ExposeError::FieldMissing {
                path: one.path.to_string(),
                field: one.field.to_owned(),
                name: one.name.to_owned(),
            })?;
            values.insert(one.name.to_owned(), value.duplicate());
        }
        let rendered = self.rendered(&values)?;
        values.extend(rendered);
        fits(&values)?;
        Ok(values)
    }

    /// Finds the engine behind each path. Nothing is read as long as one of them is unknown or issues.
    async fn mounts(&self) -> Result<BTreeMap<&VaultPath, Mount>, ExposeError> {
        let mut mounts: BTreeMap<&VaultPath, Mount> = BTreeMap::new();
        for one in self.fields() {
            if !mounts.contains_key(one.path) {
                let mount = self
                    .patience
                    .retry(
                        || self.secrets.engine(self.session, one.path),
                        resolve::trouble(one.path.as_str()),
                    )
                    .await
                    .map_err(in_vault(one.path.as_str()))?;
                mounts.insert(one.path, mount);
            }
            let (path, name) = (one.path.to_string(), one.name.to_owned());
            match mounts[one.path].engine {
                Engine::Dynamic => return Err(ExposeError::Dynamic { path, name }),
                Engine::KvV1 if one.version.is_some() => {
                    return Err(ExposeError::NoVersions { path, name });
                }
                Engine::KvV1 | Engine::KvV2 => {}
            }
        }
        Ok(mounts)
    }

    fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.wanted
            .iter()
            .filter_map(|(name, source)| match source {
                Source::Field {
                    path,
                    field,
                    version,
                    ..
                } => Some(Field {
                    name,
                    path,
                    field,
                    version: *version,
                }),
                Source::Template(_) => None,
            })
    }

    fn rendered(&self, values: &Variables) -> Result<Variables, ExposeError> {
        let known: BTreeMap<String, &Secret> = values
            .iter()
            .map(|(name, value)| (name.clone(), value))
            .collect();
        let mut rendered = Variables::new();
        for (name, source) in self.wanted {
            let Source::Template(template) = source else {
                continue;
            };
            let value = template
                .render(&known)
                .map_err(|source| ExposeError::Template {
                    name: name.clone(),
                    source,
                })?;
            rendered.insert(name.clone(), value);
        }
        Ok(rendered)
    }
}

/// Checks that a process can get the values.
fn fits(values: &Variables) -> Result<(), ExposeError> {
    let mut total = 0;
    for (name, value) in values {
        total += value.len();
        let problem = if value.bytes().contains(&0) {
            "has a zero byte, which no variable can hold"
        } else if value.len() > MAX_VALUE {
            "is over 64 KiB, more than a variable should hold"
        } else if total > MAX_TOTAL {
            "makes all of them more than 512 KiB, more than a command takes"
        } else {
            continue;
        };
        let name = name.clone();
        return Err(ExposeError::Unfit { name, problem });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
