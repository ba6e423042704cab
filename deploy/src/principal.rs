//! The verified caller as a value, and the identity that the cluster sees.
//!
//! Made by `agent::auth` after every check of the token passed; everything after it trusts it.
//! Attributes are claims (or Vault metadata) normalized to text; rules match on them.

use std::collections::BTreeMap;

/// How the caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// A GitLab job with an id_token.
    GitlabJob,
    /// The holder of a Vault token; attributes are its metadata.
    VaultToken,
}

impl PrincipalKind {
    /// Returns the word as it stands on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::GitlabJob => "gitlab_job",
            Self::VaultToken => "vault_token",
        }
    }
}

/// A verified caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    kind: PrincipalKind,
    attributes: BTreeMap<String, String>,
}

impl Principal {
    /// Makes a principal. Only for code that has verified `attributes` (the token checks of the
    /// agent) and for tests; a wrong call here is a hole.
    #[must_use]
    pub fn unchecked(kind: PrincipalKind, attributes: BTreeMap<String, String>) -> Self {
        Self { kind, attributes }
    }

    /// Returns how the caller proved who it is.
    #[must_use]
    pub const fn kind(&self) -> PrincipalKind {
        self.kind
    }

    /// Returns all attributes.
    #[must_use]
    pub const fn attributes(&self) -> &BTreeMap<String, String> {
        &self.attributes
    }

    /// Returns one attribute.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// Returns the project in which the job runs: `job_project_id`, or `project_id` of older GitLab.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        self.attribute("job_project_id")
            .or_else(|| self.attribute("project_id"))
    }

    /// Returns the address of a page of the job's project, such as that of the job (`jobs`, `job_id`).
    /// The claims have no addresses, but what GitLab makes them of.
    #[must_use]
    pub fn page(&self, what: &str, id: &str) -> Option<String> {
        let path = self.attribute("job_project_path");
        let path = path.or_else(|| self.attribute("project_path"));
        let issuer = self.attribute("iss")?.trim_end_matches('/');
        let parts = [issuer, path?, self.attribute(id)?];
        let [issuer, path, id] = parts;
        (!parts.contains(&"")).then(|| format!("{issuer}/{path}/-/{what}/{id}"))
    }

    /// Says whether two principals may see each other's runs: same kind, same project; without a
    /// project, the very same attributes.
    #[must_use]
    pub fn same_owner(&self, other: &Self) -> bool {
        match (self.project(), other.project()) {
            (Some(a), Some(b)) => a == b,
            (None, None) => self == other,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Returns a stable text for this owner, under which idempotency keys are kept.
    #[must_use]
    pub fn owner_key(&self) -> String {
        match self.project() {
            Some(project) => format!("project:{project}"),
            None => format!("{}:{:?}", self.kind.word(), self.attributes),
        }
    }
}

/// The identity under which the agent acts in a cluster, by impersonation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Actor {
    /// The user name, such as `gitlab:ci_job:88120`.
    pub user: String,
    /// The groups, such as `gitlab:ci_job` and `gitlab:project:412`.
    pub groups: Vec<String>,
}

impl Actor {
    /// Makes the actor of a principal with the names that GitLab's own agent uses, so that existing
    /// RBAC works unchanged. Without a job id or a project there is none.
    #[must_use]
    pub fn of(principal: &Principal) -> Option<Self> {
        let job = principal.attribute("job_id")?;
        let mut groups = vec!["gitlab:ci_job".to_owned()];
        groups.extend(project_groups(principal)?);
        Some(Self {
            user: format!("gitlab:ci_job:{job}"),
            groups,
        })
    }

    /// Makes the actor of a project for what goes on after its jobs: in the project's groups, as a
    /// user that no job has. Without a project there is none.
    #[must_use]
    pub fn of_project(principal: &Principal) -> Option<Self> {
        let project = principal.project()?;
        Some(Self {
            user: format!("quaymaster:rotation:{project}"),
            groups: project_groups(principal)?,
        })
    }
}

/// Lists the groups of a principal's project.
fn project_groups(principal: &Principal) -> Option<Vec<String>> {
    let project = principal.project()?;
    let mut groups = vec![format!("gitlab:project:{project}")];
    if let Some(namespace) = principal
        .attribute("job_namespace_id")
        .or_else(|| principal.attribute("namespace_id"))
    {
        groups.push(format!("gitlab:group:{namespace}"));
    }
    if let Some(environment) = principal
        .attribute("environment")
        .filter(|name| is_own_slug(name))
    {
        groups.push(format!("gitlab:project_env:{project}:{environment}"));
    }
    if let Some(tier) = principal.attribute("deployment_tier") {
        groups.push(format!("gitlab:project_env_tier:{project}:{tier}"));
    }
    Some(groups)
}

/// Says whether GitLab's slug of an environment is its very name. For any other name GitLab appends
/// a hash that is not in the token; such an environment gets no group, as a job chooses the name in
/// its YAML and `Production` must never pass for `production`.
fn is_own_slug(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 24
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(fits)
        && !name.contains("--")
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(pairs: &[(&str, &str)]) -> Principal {
        let attributes = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Principal::unchecked(PrincipalKind::GitlabJob, attributes)
    }

    #[test]
    fn the_actor_carries_gitlabs_names() {
        let principal = job(&[
            ("job_id", "7"),
            ("job_project_id", "42"),
            ("project_id", "13"),
            ("environment", "production"),
        ]);
        let actor = Actor::of(&principal).expect("job and project are there");
        assert_eq!(actor.user, "gitlab:ci_job:7");
        assert_eq!(
            actor.groups,
            [
                "gitlab:ci_job",
                "gitlab:project:42",
                "gitlab:project_env:42:production"
            ]
        );
    }

    #[test]
    fn an_environment_never_passes_for_another_one() {
        for name in [
            "Production",
            "prod/uction",
            "production-",
            "a--b",
            "1prod",
            &"x".repeat(25),
        ] {
            let principal = job(&[("job_id", "7"), ("project_id", "42"), ("environment", name)]);
            let actor = Actor::of(&principal).expect("job and project are there");
            assert_eq!(
                actor.groups,
                ["gitlab:ci_job", "gitlab:project:42"],
                "{name}"
            );
        }
    }

    #[test]
    fn no_job_no_actor() {
        assert_eq!(Actor::of(&job(&[("project_id", "42")])), None);
    }
}
