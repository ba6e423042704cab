//! OpenBao with everything that secrets come from: KV v1 and v2, database, PKI, transit, JWT and AppRole.
//!
//! Started by `servers`; [`furnish`] also furnishes an OpenBao or Vault that was named from outside. It is
//! initialised and unsealed by us, not in dev mode, so that scenarios can seal and unseal it. Invariant: a
//! name that exists already is no error.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use anyhow::ensure;
use reqwest::Method;
use serde_json::Value;
use serde_json::json;

use super::http;
use super::layout::AUDIENCE;
use super::layout::Site;
use super::postgres;
use super::process::Server;
use crate::wait::until;

/// What a job of project 42 may read in the sample.
const FLASK_POLICY: &str = r#"
path "kv/data/flask/*" { capabilities = ["read"] }
path "kv/metadata/flask/*" { capabilities = ["read", "list"] }
path "kv1/flask/*" { capabilities = ["read"] }
path "database/creds/flask" { capabilities = ["read"] }
path "pki/issue/flask" { capabilities = ["update"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
path "sys/internal/ui/mounts" { capabilities = ["read"] }
path "sys/internal/ui/mounts/*" { capabilities = ["read"] }
"#;

/// The AppRole and the policy of the agent's own identity in the sample.
pub const AGENT_ROLE: &str = "quaymaster";

/// What the agent's own identity needs, as it is delivered to operators, for secrets below `flask`.
pub const AGENT_POLICY: &str = include_str!("../../../agent/dist/vault/identity.hcl");

/// Claims that a login copies into the token's metadata. Optional ones are left out by JWT auth itself.
const CLAIMS: &[&str] = &[
    "project_id",
    "project_path",
    "namespace_id",
    "namespace_path",
    "user_id",
    "user_login",
    "pipeline_id",
    "pipeline_source",
    "job_id",
    "ref",
    "ref_type",
    "ref_path",
    "ref_protected",
    "environment",
    "environment_protected",
    "deployment_tier",
    "job_project_id",
    "runner_environment",
    "sha",
];

/// A running OpenBao and what opens it.
pub struct OpenBao {
    /// The process.
    pub server: Server,
    /// Token with all rights.
    pub root_token: String,
    /// The one key that unseals.
    pub unseal_key: String,
}

/// Starts OpenBao, initialises and unseals it.
///
/// # Errors
/// When it does not answer in time.
pub async fn start(site: &Site) -> Result<OpenBao> {
    let dir = site.folder("openbao")?;
    // In memory inside namespaces: nothing waits for a disk, and a killed OpenBao still finds its data.
    let data = if site.isolated {
        PathBuf::from("/run/openbao")
    } else {
        dir.join("data")
    };
    fs::create_dir_all(&data)?;
    let config = json!({
        "storage": { "raft": { "path": data, "node_id": "stand", "performance_multiplier": 1 } },
        "listener": [{ "tcp": { "address": format!("127.0.0.1:{}", site.ports.vault), "tls_disable": true } }],
        "api_addr": address(site),
        "cluster_addr": format!("https://127.0.0.1:{}", site.ports.vault_cluster),
        "ui": false,
        "log_level": "info",
    });
    let path = dir.join("config.json");
    fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
    let arguments = ["server".to_owned(), format!("-config={}", path.display())];
    let mut server = Server::start(site, "openbao", site.program("bao"), &arguments)?;
    let addr = address(site);
    let init = json!({ "secret_shares": 1, "secret_threshold": 1 });
    let keys = until("OpenBao", Duration::from_secs(60), async || {
        let answer = http::vault(&addr, "", Method::PUT, "sys/init", Some(&init)).await;
        server.look(answer.and_then(|(status, keys)| {
            ensure!(status == 200, "sys/init answered {status}: {keys}");
            Ok(keys)
        }))
    })
    .await?;
    let text = |path: &str| {
        keys.pointer(path)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("answer of sys/init")
    };
    let bao = OpenBao {
        root_token: text("/root_token")?,
        unseal_key: text("/keys/0")?,
        server,
    };
    write(&addr, "", "sys/unseal", json!({ "key": bao.unseal_key })).await?;
    until(
        "OpenBao to be active",
        Duration::from_secs(30),
        async || http::get(&format!("{addr}/v1/sys/health")).await.into(),
    )
    .await?;
    Ok(bao)
}

/// Address of the stand's own OpenBao, as its servers see it.
#[must_use]
pub fn address(site: &Site) -> String {
    format!("http://127.0.0.1:{}", site.ports.vault)
}

/// Enables the engines (all but the connection to the database) and writes the sample's data, roles and policy.
///
/// # Errors
/// When a call is refused.
pub async fn furnish(site: &Site, addr: &str, token: &str) -> Result<()> {
    let mount = async |path: &str, body: Value| write(addr, token, path, body).await;
    tokio::try_join!(
        mount(
            "sys/mounts/kv",
            json!({ "type": "kv", "options": { "version": "2" } })
        ),
        mount(
            "sys/mounts/kv1",
            json!({ "type": "kv", "options": { "version": "1" } })
        ),
        mount("sys/mounts/database", json!({ "type": "database" })),
        mount(
            "sys/mounts/pki",
            json!({ "type": "pki", "config": { "max_lease_ttl": "87600h" } })
        ),
        mount("sys/mounts/transit", json!({ "type": "transit" })),
        mount("sys/auth/jwt", json!({ "type": "jwt" })),
        mount("sys/auth/approle", json!({ "type": "approle" })),
    )?;
    tokio::try_join!(
        samples(addr, token),
        login(site, addr, token),
        pki(addr, token)
    )?;
    Ok(())
}

async fn samples(addr: &str, token: &str) -> Result<()> {
    write(
        addr,
        token,
        "sys/policies/acl/flask-demo",
        json!({ "policy": FLASK_POLICY }),
    )
    .await?;
    write(
        addr,
        token,
        "kv1/flask/app",
        json!({ "api_key": "k1-5f0f2b", "color": "blue" }),
    )
    .await?;
    write(addr, token, "transit/keys/flask", json!({})).await?;
    let app = json!({ "data": { "api_key": "k2-93c1de", "greeting": "Hello from Quaymaster" } });
    // A new KV v2 answers 400 while it makes its metadata.
    until("the KV v2 engine", Duration::from_secs(20), async || {
        write(addr, token, "kv/data/flask/app", app.clone())
            .await
            .into()
    })
    .await
}

async fn login(site: &Site, addr: &str, token: &str) -> Result<()> {
    let config =
        json!({ "bound_issuer": site.issuer, "jwt_validation_pubkeys": [site.issuer_key] });
    write(addr, token, "auth/jwt/config", config).await?;
    let bound = json!({ "project_id": "42" });
    write(
        addr,
        token,
        "auth/jwt/role/flask-demo",
        jwt_role(&bound, &["flask-demo"]),
    )
    .await?;
    let approle =
        json!({ "token_policies": ["flask-demo"], "token_ttl": "10m", "token_max_ttl": "1h" });
    write(addr, token, "auth/approle/role/flask-demo", approle).await?;
    agent_identity(addr, token, AGENT_ROLE, AGENT_POLICY).await
}

/// Makes an AppRole for an agent, with a policy and a role id of the same name.
///
/// # Errors
/// When a call is refused.
pub async fn agent_identity(addr: &str, token: &str, name: &str, policy: &str) -> Result<()> {
    let policies = format!("sys/policies/acl/{name}");
    write(addr, token, &policies, json!({ "policy": policy })).await?;
    let role = json!({ "token_policies": [name], "token_type": "service", "token_period": "1h" });
    let path = format!("auth/approle/role/{name}");
    write(addr, token, &path, role).await?;
    let role_id = format!("{path}/role-id");
    write(addr, token, &role_id, json!({ "role_id": name })).await
}

/// A JWT login role for jobs whose claims are as `bound` says.
#[must_use]
pub fn jwt_role(bound: &Value, policies: &[&str]) -> Value {
    let mappings: serde_json::Map<String, Value> =
        CLAIMS.iter().map(|c| ((*c).to_owned(), json!(c))).collect();
    json!({
        "role_type": "jwt",
        "bound_audiences": [AUDIENCE],
        "bound_claims": bound,
        "user_claim": "job_id",
        "claim_mappings": mappings,
        "token_policies": policies,
        // A dynamic credential ends with the token that issued it, so the token lives as long as the lease.
        "token_ttl": "1h",
        "token_max_ttl": "24h",
        "token_no_default_policy": false,
    })
}

/// Connects the database engine to the stand's PostgreSQL, which it reaches at `host` (with the port).
///
/// # Errors
/// When it cannot connect `within` that time.
pub async fn connect_database(addr: &str, token: &str, host: &str, within: Duration) -> Result<()> {
    let connection = json!({
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": ["*"],
        "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@{host}/demo?sslmode=disable"),
        "username": postgres::MASTER,
        "password": postgres::MASTER_PASSWORD,
    });
    // PostgreSQL starts beside us.
    until("OpenBao to connect to PostgreSQL", within, async || {
        write(addr, token, "database/config/demo", connection.clone())
            .await
            .into()
    })
    .await?;
    let role = json!({
        "db_name": "demo",
        "creation_statements": [
            "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO \"{{name}}\";",
        ],
        "default_ttl": "1h",
        "max_ttl": "24h",
    });
    write(addr, token, "database/roles/flask", role).await
}

async fn pki(addr: &str, token: &str) -> Result<()> {
    let root =
        json!({ "common_name": "Stand root", "ttl": "8760h", "key_type": "ec", "key_bits": 256 });
    write(addr, token, "pki/root/generate/internal", root).await?;
    let role = json!({ "allowed_domains": ["flask.svc", "example.com"], "allow_subdomains": true,
        "allow_bare_domains": true, "key_type": "ec", "key_bits": 256, "max_ttl": "72h" });
    write(addr, token, "pki/roles/flask", role).await
}

async fn write(addr: &str, token: &str, path: &str, body: Value) -> Result<()> {
    let (status, answer) = http::vault(addr, token, Method::POST, path, Some(&body)).await?;
    match status {
        200 | 204 => Ok(()),
        400 if answer.to_string().contains("path is already in use") => Ok(()),
        _ => {
            let said = answer
                .get("errors")
                .map_or_else(|| answer.to_string(), Value::to_string);
            bail!(anyhow!("OpenBao answered {status} at {path}: {said}"))
        }
    }
}
