//! `quaymasterd doctor`: does the agent's own identity in Vault work, and what does its policy allow?
//!
//! Called by `main` instead of serving. Everything is asked of Vault itself. Invariant: nothing is changed
//! but that a token comes and goes; the token of a running agent is neither read nor used.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;

use deploy::policy::Policy;
use deploy::policy::Verb;
use deploy::ports::Engine;
use deploy::ports::Login;
use deploy::ports::Mount;
use deploy::ports::Secrets as _;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::secret::VaultPath;

use super::StartError;
use super::parts;
use super::parts::Keeps;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::vault::Vault;

/// What the identity has to be allowed, and what it is for.
const NEEDED: [(&str, &str); 6] = [
    ("auth/token/create", "makes a token for each credential"),
    ("auth/token/revoke-accessor", "ends a credential"),
    (
        "auth/token/renew-accessor",
        "keeps a credential's token alive",
    ),
    ("sys/leases/renew", "extends credentials"),
    (
        "sys/leases/lookup",
        "says how long a credential lives that cannot be extended",
    ),
    ("sys/leases/revoke", "revokes credentials of killed runs"),
];

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    Bad,
    Note,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    mark: Mark,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.mark {
            Mark::Good => "ok    ",
            Mark::Bad => "FAILED",
            Mark::Note => "note  ",
        };
        write!(f, "{mark}  {}", self.text)
    }
}

fn good(text: impl Into<String>) -> Finding {
    let (mark, text) = (Mark::Good, text.into());
    Finding { mark, text }
}

fn bad(text: impl Into<String>) -> Finding {
    let (mark, text) = (Mark::Bad, text.into());
    Finding { mark, text }
}

fn note(text: impl Into<String>) -> Finding {
    let (mark, text) = (Mark::Note, text.into());
    Finding { mark, text }
}

/// Returns the exit code for findings: a failure where one check failed.
#[must_use]
pub fn verdict(findings: &[Finding]) -> ExitCode {
    if findings.iter().any(|finding| finding.mark == Mark::Bad) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Checks the agent's own identity.
///
/// # Errors
/// When the adapter cannot be made from the configuration.
pub async fn doctor(config: &Config, policy: &Policy) -> Result<Vec<Finding>, StartError> {
    let vault = parts::vault(config, &Arc::new(SystemClock), Keeps::Nothing)?;
    let mut found = Vec::new();
    match vault.health().await {
        Ok(()) => found.push(good(format!("Vault answers at {}", config.vault.address))),
        Err(reason) => {
            let at = &config.vault.address;
            found.push(bad(format!("Vault at {at} does not serve: {reason}")));
            return Ok(found);
        }
    }
    if config.vault.identity.is_none() {
        found.push(note(
            "there is no [vault.identity]: no Secret can be kept fresh, and credentials of killed runs \
             are not revoked",
        ));
        return Ok(found);
    }
    match vault.login(&Login::Own).await {
        Ok(session) => {
            found.push(good("the agent's own login works"));
            found.push(life(&vault));
            found.extend(rights(&vault, &session).await);
            found.extend(freshness(config, policy, &vault, &session).await);
            if let Err(error) = vault.end_identity().await {
                let text = format!(
                    "the token of this check could not be ended ({error}): allow update on auth/token/revoke-self"
                );
                found.push(note(text));
            }
        }
        Err(error) => found.push(bad(format!("the login does not work: {error}"))),
    }
    Ok(found)
}

/// Says how long the token lives.
fn life(vault: &Vault) -> Finding {
    let Some(status) = vault.identity_status() else {
        return bad("there is no token after the login");
    };
    let seconds = status.ttl_seconds;
    match (seconds, status.ends) {
        (None, _) => good("the token does not end"),
        (Some(seconds), _) if !status.renewable => bad(format!(
            "the token ends in {seconds} s and cannot be renewed: all that it holds ends with it"
        )),
        (Some(seconds), None) => good(format!(
            "the token is granted for {seconds} s at a time and can be renewed for ever"
        )),
        (Some(_), Some(ends)) => note(format!(
            "the token can be renewed until {ends:.0} and not longer: then all credentials are \
             replaced; give its role a token_period and no token_max_ttl"
        )),
    }
}

async fn rights(vault: &Vault, session: &Session) -> Vec<Finding> {
    let paths: Vec<String> = NEEDED.iter().map(|(path, _)| (*path).to_owned()).collect();
    let held = match vault.capabilities(session, &paths).await {
        Ok(held) => held,
        Err(error) => return vec![bad(format!("what the token may do is not known: {error}"))],
    };
    let needed = NEEDED.iter();
    needed
        .map(|(path, what)| {
            if has(&held, path, &["update", "create"]) {
                good(format!("{path} is allowed: {what}"))
            } else {
                bad(format!("{path} is not allowed (update): {what}"))
            }
        })
        .collect()
}

/// Says whether one of some capabilities is held at a path.
fn has(held: &BTreeMap<String, Vec<String>>, path: &str, any: &[&str]) -> bool {
    let held = held.get(path).map(Vec::as_slice).unwrap_or_default();
    let holds = |name: &str| held.iter().any(|held| held == name);
    !holds("deny") && (holds("root") || any.iter().any(|name| holds(name)))
}

/// Says for every path that rules let be kept fresh whether it can be.
async fn freshness(
    config: &Config,
    policy: &Policy,
    vault: &Vault,
    session: &Session,
) -> Vec<Finding> {
    let rules = policy.rules().iter().filter(|rule| {
        let mut grants = rule.clusters.values();
        grants.any(|grant| grant.verbs.contains(&Verb::Rotate))
    });
    let grants = rules.filter_map(|rule| rule.vault.as_ref());
    let paths: BTreeSet<String> = grants
        .flat_map(|grant| grant.paths.iter().map(deploy::policy::PathPattern::example))
        .collect();
    let mut found = Vec::new();
    if paths.is_empty() {
        found.push(note("no rule grants the verb `rotate` with paths in Vault"));
    }
    for path in paths {
        let Ok(path) = VaultPath::parse(&path) else {
            continue;
        };
        let checked = one_path(config, vault, session, &path).await;
        found.push(checked.unwrap_or_else(|error| {
            bad(format!(
                "{path}: what may be done there is not known: {error}"
            ))
        }));
    }
    found
}

async fn one_path(
    config: &Config,
    vault: &Vault,
    session: &Session,
    path: &VaultPath,
) -> Result<Finding, SecretsError> {
    let mount = vault.engine(session, path).await?;
    let inner = path.as_str().strip_prefix(&mount.path).unwrap_or_default();
    let inner = inner.trim_start_matches('/');
    match mount.engine {
        Engine::KvV1 => Ok(note(format!(
            "{path}: KV v1 has no versions, so changes are not noticed there"
        ))),
        Engine::Dynamic => {
            let held = vault.capabilities(session, &[path.to_string()]).await?;
            Ok(
                if has(&held, path.as_str(), &["read", "update", "create"]) {
                    good(format!("{path}: credentials may be issued"))
                } else {
                    bad(format!(
                        "{path}: no credential may be issued (read or update)"
                    ))
                },
            )
        }
        Engine::KvV2 => versions(config, vault, session, &mount, inner).await,
    }
}

/// Says how soon new versions of a KV v2 folder are noticed.
async fn versions(
    config: &Config,
    vault: &Vault,
    session: &Session,
    mount: &Mount,
    inner: &str,
) -> Result<Finding, SecretsError> {
    let folder = inner.rsplit_once('/').map_or("", |(folder, _)| folder);
    let place = format!("{}/{folder}", mount.path);
    let data = format!("{}/data/{inner}", mount.path);
    let single = format!("{}/metadata/{inner}", mount.path);
    let paths = [data.clone(), single.clone()];
    let held = vault.capabilities(session, &paths).await?;
    if !has(&held, &data, &["read"]) {
        return Ok(bad(format!("{place}: secrets may not be read ({data})")));
    }
    let rotation = config.rotation.as_ref();
    let Some(rotation) = rotation else {
        return Ok(note(format!(
            "{place}: secrets may be read; without [rotation] nobody looks for new versions"
        )));
    };
    let whole = vault.folder(session, mount, folder).await;
    let seconds = rotation.freshness.as_secs_f32();
    Ok(match whole {
        Ok(_) => good(format!(
            "{place}: asked as a whole, a new version is noticed within {seconds} s"
        )),
        Err(error @ (SecretsError::Unavailable { .. } | SecretsError::Unanswered { .. })) => {
            return Err(error);
        }
        Err(_) if has(&held, &single, &["read"]) => good(format!(
            "{place}: each secret is asked by itself, {} a second (it is empty, or the server or the \
             policy does not give it whole: list on {}/detailed-metadata/{folder})",
            rotation.requests_per_second, mount.path
        )),
        Err(_) => bad(format!(
            "{place}: new versions are not noticed: allow list on {}/detailed-metadata/{folder} or \
             read on {single}",
            mount.path
        )),
    })
}
