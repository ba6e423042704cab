//! What a world's agent needs for deploys through Flux: a rule, and the credential of the repository in Vault.

use std::fs;
use std::path::Path;

use anyhow::Result;
use anyhow::ensure;
use serde_json::json;

use super::World;
use crate::stand::git;
use crate::stand::git::Account;
use crate::stand::git::repository::Repository;

impl World {
    /// Lets the world's jobs change `main` of its repositories below `apps/` and ask its Flux objects, which
    /// are called `shop` and `live`, with the rights of the sample in `agent/dist`; for an agent that is not started yet.
    ///
    /// # Errors
    /// When the policy cannot be written, or the cluster refuses.
    pub async fn grant_fleet(&self, repository: &Repository) -> Result<()> {
        let verbs = r#"verbs = ["apply", "prune", "rollback", "rotate"]"#;
        let policy = self.policy();
        ensure!(policy.contains(verbs), "the world's policy has other verbs");
        let more =
            r#"verbs = ["apply", "prune", "rollback", "rotate", "commit", "reconcile", "revert"]"#;
        let policy = policy.replace(verbs, more);
        let table = format!(
            "[[rule.cluster.stand.flux]]\nrepositories = [\"{}\", \"{}\"]\nbranches = [\"main\"]\n\
             files = [\"apps/*\"]\nobjects = [\"{}/*\"]\n",
            repository.url(),
            repository.ssh_url(),
            self.namespace
        );
        fs::write(self.policy_path(), format!("{policy}{table}"))?;
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/dist/rbac/flux.yaml");
        let rights = fs::read_to_string(sample)?
            .replace(
                "namespace: flux-system",
                &format!("namespace: {}", self.namespace),
            )
            .replace("[\"fleet\"]", "[\"shop\", \"live\"]")
            .replace("\"shop-staging\"", "\"shop\", \"live\"")
            .replace(
                "gitlab:project:42",
                &format!("gitlab:project:{}", self.project),
            );
        let file = self.dir().join("flux-rights.yaml");
        fs::write(&file, rights)?;
        let file = file.display().to_string();
        self.kubectl(&["apply", "-f", &file]).await.map(drop)
    }

    /// Puts an account of the Git server into Vault, with the field names of Flux's Secrets; returns the path.
    ///
    /// # Errors
    /// When a file of the account cannot be read, or OpenBao refuses.
    pub async fn git_credential(&self, account: &Account) -> Result<String> {
        let known_hosts = fs::read_to_string(git::known_hosts(&self.stand.facts().site))?;
        let fields = json!({ "username": account.name, "password": account.password,
            "identity": fs::read_to_string(&account.key)?, "known_hosts": known_hosts });
        self.put("git", fields).await
    }
}
