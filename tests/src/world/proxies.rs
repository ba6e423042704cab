//! Other proxies for a world's agent, which is to be started: ones that look at single requests.

use anyhow::Result;

use super::World;
use crate::faults::Faults;

impl World {
    /// Lets faults before the API server be about single requests: the agent speaks plain HTTP to the proxy,
    /// and the proxy TLS to the server, as the agent.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub async fn look_into_api(&mut self) -> Result<()> {
        let facts = self.stand.facts();
        let target = facts.api.trim_start_matches("https://");
        self.api = Faults::through_tls(target, &facts.kubeconfig_agent).await?;
        self.write_config()
    }

    /// A door to the API server for everybody here, in plain HTTP and with all rights.
    ///
    /// # Errors
    /// When loopback has no port left.
    pub async fn open_api(&self) -> Result<Faults> {
        let facts = self.stand.facts();
        let target = facts.api.trim_start_matches("https://");
        Faults::through_tls(target, &facts.kubeconfig_admin).await
    }
}
