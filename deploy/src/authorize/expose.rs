//! May a job have values from Vault as variables? The one place where an [`Exposure`] is made.
//!
//! Called by the agent with a checked spec. One rule that matches the caller has to list every path
//! under `expose`; `paths`, which is for Secrets in the cluster, grants nothing here. The policy's own
//! conditions hold as for a deploy: no fork, no environment action that promises not to deploy.

use std::collections::BTreeMap;

use super::Denial;
use super::admitted;
use super::grant::ASK;
use super::grant::misspelt;
use super::nearest;
use crate::policy::Policy;
use crate::policy::Rule;
use crate::principal::Principal;
use crate::secret::VaultPath;
use crate::spec::Source;

/// Proof that a caller may have these values. Not cloneable, consumed by [`crate::expose`].
#[derive(Debug)]
pub struct Exposure {
    rule: String,
    decision: String,
    vault_role: Option<String>,
    wanted: BTreeMap<String, Source>,
}

impl Exposure {
    /// Returns the id of the rule that grants it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Returns the id of the decision.
    #[must_use]
    pub fn decision(&self) -> &str {
        &self.decision
    }

    /// Returns the Vault role of the rule.
    #[must_use]
    pub fn vault_role(&self) -> Option<&str> {
        self.vault_role.as_deref()
    }

    /// Returns the variables with their sources.
    #[must_use]
    pub const fn wanted(&self) -> &BTreeMap<String, Source> {
        &self.wanted
    }
}

/// Decides about variables.
///
/// # Errors
/// The denial, naming the first path that the best matching rule does not list.
pub fn expose(
    policy: &Policy,
    principal: &Principal,
    wanted: BTreeMap<String, Source>,
    decision: &str,
) -> Result<Exposure, Denial> {
    let (_, rules) = admitted(policy, principal, decision)?;
    let mut best: Option<(usize, &Rule, &VaultPath)> = None;
    for rule in rules {
        let mut passed = 0;
        let mut paths = paths(&wanted).inspect(|_| passed += 1);
        let Some(refused) = paths.find(|path| !lists(rule, path)) else {
            drop(paths);
            return Ok(Exposure {
                rule: rule.id.clone(),
                decision: decision.to_owned(),
                vault_role: rule.vault.as_ref().and_then(|vault| vault.role.clone()),
                wanted,
            });
        };
        drop(paths);
        if best.is_none_or(|(most, _, _)| passed > most) {
            best = Some((passed, rule, refused));
        }
    }
    let (message, hint) = match best {
        Some((_, rule, path)) => refusal(rule, path),
        // There is at least one rule; without a path there is nothing to refuse.
        None => ("no rule grants this".to_owned(), ASK),
    };
    Err(Denial {
        decision: decision.to_owned(),
        message,
        hint: hint.to_owned(),
        nearest: nearest(policy, principal),
    })
}

fn paths(wanted: &BTreeMap<String, Source>) -> impl Iterator<Item = &VaultPath> {
    wanted.values().filter_map(|source| match source {
        Source::Field { path, .. } => Some(path),
        Source::Template(_) => None,
    })
}

fn lists(rule: &Rule, path: &VaultPath) -> bool {
    let mut patterns = rule.vault.iter().flat_map(|vault| &vault.expose);
    patterns.any(|pattern| pattern.matches(path))
}

fn refusal(rule: &Rule, path: &VaultPath) -> (String, &'static str) {
    let id = &rule.id;
    let message = format!(
        "the Vault path {path} may not be given to a job: rule {id} does not list it under vault.expose"
    );
    let for_secrets = rule.vault.iter().flat_map(|vault| &vault.paths);
    let hint = if let Some(hint) = misspelt(path) {
        hint
    } else if for_secrets.into_iter().any(|pattern| pattern.matches(path)) {
        "the rule grants it for Secrets in the cluster, where the job never sees the value: use `secrets` if that \
         is enough, or ask the operator to list it under `expose` as well"
    } else {
        ASK
    };
    (message, hint)
}
