//! What a world does on the servers: its Vault role, secrets and credentials, its namespace.
//!
//! Everything here acts with all rights, as a platform team would.

use std::collections::BTreeMap;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use reqwest::Method;
use serde_json::Value;
use serde_json::json;

use super::World;
use crate::stand::agent;
use crate::stand::openbao;
use crate::stand::openbao::jwt_role;
use crate::stand::postgres;

impl World {
    pub(super) async fn furnish_vault(&self) -> Result<()> {
        let role = &self.role;
        let policy = format!(
            r#"path "kv/data/{role}/*" {{ capabilities = ["read"] }}
path "kv1/{role}/*" {{ capabilities = ["read"] }}
path "database/creds/flask" {{ capabilities = ["read"] }}
path "database/creds/{role}" {{ capabilities = ["read"] }}
path "auth/token/revoke-self" {{ capabilities = ["update"] }}
path "auth/token/lookup-self" {{ capabilities = ["read"] }}
path "sys/leases/revoke" {{ capabilities = ["update"] }}
path "sys/internal/ui/mounts/*" {{ capabilities = ["read"] }}
"#
        );
        self.vault_write(
            &format!("sys/policies/acl/{role}"),
            json!({ "policy": policy }),
        )
        .await?;
        // A role of the scenario's own, so that its credentials can be counted.
        let (_, like) = self
            .stand
            .vault(Method::GET, "database/roles/flask", None)
            .await?;
        self.vault_write(&format!("database/roles/{role}"), like["data"].clone())
            .await?;
        let facts = self.stand.facts();
        let (addr, token) = (&facts.vault_addr, &facts.vault_root_token);
        let policy = self.agent_policy();
        openbao::agent_identity(addr, token, &self.agent_role(), &policy).await?;
        let bound = json!({ "project_id": self.project });
        self.vault_write(&format!("auth/jwt/role/{role}"), jwt_role(&bound, &[role]))
            .await
    }

    /// Name of the AppRole of this world's agents, and of its policy.
    #[must_use]
    pub fn agent_role(&self) -> String {
        format!("{}-agent", self.role)
    }

    /// The policy that this world's agents begin with: the one that operators get, for this world's
    /// secrets.
    #[must_use]
    pub fn agent_policy(&self) -> String {
        let role = &self.role;
        let delivered = openbao::AGENT_POLICY.replace("flask", role);
        format!(
            r#"{delivered}
path "kv1/{role}/*" {{ capabilities = ["read"] }}
path "database/creds/flask" {{ capabilities = ["read"] }}
path "database/static-creds/{role}-static" {{ capabilities = ["read"] }}
path "pki/issue/flask" {{ capabilities = ["update"] }}
"#
        )
    }

    /// Lets this world's agents do in OpenBao what a policy says, from now on: more than
    /// [`Self::agent_policy`] where that is part of the text, less where it is not.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn let_agent(&self, policy: &str) -> Result<()> {
        let path = format!("sys/policies/acl/{}", self.agent_role());
        self.vault_write(&path, json!({ "policy": policy })).await
    }

    /// Makes a secret id of the agents' AppRole; returns the section of the configuration for it.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn approle_identity(&self) -> Result<String> {
        agent::approle_identity(self.dir(), self.stand, &self.agent_role()).await
    }

    /// Writes to OpenBao with all rights.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn vault_write(&self, path: &str, body: Value) -> Result<()> {
        let (status, answer) = self.stand.vault(Method::POST, path, Some(&body)).await?;
        if !(200..300).contains(&status) {
            bail!("OpenBao answered {status} at {path}: {answer}");
        }
        Ok(())
    }

    /// Writes a KV v2 secret `kv/<role>/<name>`; returns the path that a spec names.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn put(&self, name: &str, fields: Value) -> Result<String> {
        let path = format!("{}/{name}", self.role);
        self.vault_write(&format!("kv/data/{path}"), json!({ "data": fields }))
            .await?;
        Ok(format!("kv/{path}"))
    }

    /// The path that issues database credentials of this scenario's own.
    #[must_use]
    pub fn creds(&self) -> String {
        format!("database/creds/{}", self.role)
    }

    /// Lets the credentials of [`Self::creds`] live for `life` unless they are extended, and `longest` at
    /// most, and marks their users in PostgreSQL, so that they are counted there.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn countable_credentials(&self, life: &str, longest: &str) -> Result<()> {
        let path = format!("database/roles/{}", self.role);
        let (_, like) = self.stand.vault(Method::GET, &path, None).await?;
        let mut role = like["data"].clone();
        let mark = format!("COMMENT ON ROLE \"{{{{name}}}}\" IS '{}';", self.role);
        let made = role["creation_statements"].as_array_mut();
        let made = made.context("the role says how users are made")?;
        made.retain(|line| {
            !line
                .as_str()
                .is_some_and(|line| line.starts_with("COMMENT"))
        });
        made.push(mark.into());
        role["default_ttl"] = life.into();
        role["max_ttl"] = longest.into();
        self.vault_write(&path, role).await
    }

    /// Counts the users in PostgreSQL that [`Self::countable_credentials`] marked.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn users_in_database(&self) -> Result<usize> {
        let sql = format!(
            "SELECT count(*) FROM pg_roles JOIN pg_shdescription ON objoid = pg_roles.oid WHERE description = '{}'",
            self.role
        );
        let rows = postgres::query(&self.stand.facts().postgres, &sql).await?;
        rows.trim().parse().context("a number of users")
    }

    /// Logs in to PostgreSQL as a user of this name.
    ///
    /// # Errors
    /// When it does not let the user in.
    pub async fn enter_database(&self, user: &str, password: &str) -> Result<()> {
        let address = &self.stand.facts().postgres;
        postgres::query_as((user, password), address, "SELECT 1")
            .await
            .map(drop)
    }

    /// Counts the live credentials of [`Self::creds`], as OpenBao has them.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn live_credentials(&self) -> Result<usize> {
        let path = format!("sys/leases/lookup/{}", self.creds());
        let (status, body) = self.stand.vault("LIST".parse()?, &path, None).await?;
        Ok(match status {
            200 => body["data"]["keys"].as_array().map_or(0, Vec::len),
            _ => 0,
        })
    }

    /// Says whether PostgreSQL has a user of this name.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn has_database_user(&self, name: &str) -> Result<bool> {
        let sql = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{name}'");
        let rows = postgres::query(&self.stand.facts().postgres, &sql).await?;
        Ok(rows.trim() == "1")
    }

    /// Makes a user in PostgreSQL whose password OpenBao changes once a day; returns the path.
    ///
    /// # Errors
    /// When a server refuses.
    pub async fn static_role(&self) -> Result<String> {
        // Roles and static roles share their names.
        let role = format!("{}-static", self.role);
        let sql = format!("CREATE ROLE \"{role}\" LOGIN");
        postgres::query(&self.stand.facts().postgres, &sql).await?;
        let body = json!({ "db_name": "demo", "username": role, "rotation_period": "86400" });
        self.vault_write(&format!("database/static-roles/{role}"), body)
            .await?;
        Ok(format!("database/static-creds/{role}"))
    }

    /// Runs kubectl in this world's namespace with all rights.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["-n", self.namespace.as_str()];
        all.extend(arguments);
        self.stand.kubectl(&all).await
    }

    /// Reads a Secret of this world's namespace: its values by key.
    ///
    /// # Errors
    /// When it does not exist.
    pub async fn secret(&self, name: &str) -> Result<BTreeMap<String, String>> {
        use base64::Engine as _;
        let text = self.kubectl(&["get", "secret", name, "-o", "json"]).await?;
        let body: Value = serde_json::from_str(&text)?;
        let data = body["data"].as_object().context("the Secret has data")?;
        data.iter()
            .map(|(key, value)| {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(value.as_str().unwrap_or_default())?;
                Ok((key.clone(), String::from_utf8(bytes)?))
            })
            .collect()
    }
}
