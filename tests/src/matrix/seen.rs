//! How a site's Secret and its credentials are seen: in Kubernetes, in PostgreSQL, and by the agent.
//!
//! Used by [`super`]. Looks go past the proxies that play faults.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Site;
use crate::faults::Faults;
use crate::world::World;

/// Where a site's Secret is looked at.
pub(super) struct Door {
    api: Faults,
    http: reqwest::Client,
    /// The path of the Secret at the agent's admin socket.
    pub(super) managed: String,
    secret: String,
}

/// The Secret at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// How often its values have changed.
    pub generation: u64,
    /// The user in it.
    pub user: String,
    /// How many credentials were asked for so far; every request that reached Vault counts.
    pub issued: usize,
    /// Nothing of a change is open.
    settled: bool,
    password: String,
}

impl Door {
    pub(super) async fn new(world: &World) -> Result<Self> {
        let namespace = &world.namespace;
        Ok(Self {
            api: world.open_api().await?,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(30))
                .tls_certs_only([])
                .build()?,
            managed: format!("/v1/managed/stand/{namespace}/app-db"),
            secret: format!("/api/v1/namespaces/{namespace}/secrets/app-db"),
        })
    }
}

impl Site {
    /// Looks at the Secret.
    ///
    /// # Errors
    /// When it is not there, or torn.
    pub async fn seen(&self) -> Result<Seen> {
        let door = &self.door;
        let asked = door.http.get(format!("{}{}", door.api.url(), door.secret));
        let answer = asked.send().await?.error_for_status()?;
        let body: Value = serde_json::from_slice(&answer.bytes().await?)?;
        let data = body["data"].as_object().context("the Secret is empty")?;
        let mut values = BTreeMap::new();
        for (key, value) in data {
            let bytes = STANDARD.decode(value.as_str().unwrap_or_default())?;
            values.insert(key.as_str(), String::from_utf8(bytes)?);
        }
        let value = |key: &str| {
            let value = values.get(key).filter(|value| !value.is_empty());
            value
                .cloned()
                .with_context(|| format!("the Secret has no {key}"))
        };
        let (user, password) = (value("username")?, value("password")?);
        ensure!(
            value("url")? == format!("pg://{user}:{password}@db"),
            "the Secret is torn"
        );
        value("api")?;
        let record = &body["metadata"]["annotations"]["state.quaymaster.dev/managed"];
        let record: Value = serde_json::from_str(record.as_str().context("it has a record")?)?;
        let state = &record["state"];
        let retiring = state["retiring"].as_array().map_or(0, Vec::len);
        Ok(Seen {
            generation: state["generation"].as_u64().context("a generation")?,
            issued: self.world.vault.passed("/v1/database/creds/"),
            settled: state["trial"].is_null() && retiring == 0,
            user,
            password,
        })
    }

    /// Logs in to PostgreSQL with what is in the Secret.
    ///
    /// # Errors
    /// When that user cannot.
    pub async fn logged_in(&self) -> Result<Seen> {
        let seen = self.seen().await?;
        let entered = self.world.enter_database(&seen.user, &seen.password).await;
        match entered {
            Ok(()) => Ok(seen),
            // It may have been changed between the two looks.
            Err(error) => {
                let again = self.seen().await?;
                ensure!(again.user != seen.user, "{}: {error:#}", seen.user);
                let entered = self.world.enter_database(&again.user, &again.password);
                entered.await.context(again.user.clone())?;
                Ok(again)
            }
        }
    }

    /// Looks whether everything is as it should be: fresh, settled, one user alive, and it the one that is
    /// in the Secret.
    pub(super) async fn right(&self) -> Result<Option<Seen>> {
        let told = self.world.admin().get(&self.door.managed).await?.json()?;
        let seen = self.seen().await?;
        ensure!(
            told["freshness"] == "fresh",
            "the agent says {}: {}",
            told["freshness"],
            told["notes"]
        );
        ensure!(
            told["generation"] == seen.generation && seen.settled,
            "a change is open: {seen:?}"
        );
        let alive = self.world.users_in_database().await?;
        ensure!(alive == 1, "{alive} users are alive");
        let found = self.logged_in().await?;
        Ok((found == seen).then_some(seen))
    }
}
