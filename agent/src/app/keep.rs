//! Makes the daemon that keeps Secrets fresh, from the parts of the agent.
//!
//! Used by [`super::Bound`] where the configuration asks for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deploy::policy::Policy;
use deploy::ports::Clock;
use deploy::ports::Cluster;
use deploy::ports::Git;
use deploy::ports::Registry;
use deploy::ports::Renderer;
use deploy::ports::Secrets;
use deploy::register::Home;
use deploy::secret::FingerprintKey;
use proto::ids::ClusterName;
use proto::ids::RunId;
use sha2::Digest as _;
use sha2::Sha256;

use crate::config::Config;
use crate::journal::DiskJournal;
use crate::lifecycle::host;
use crate::rotation::Rotation;
use crate::rotation::Tools;
use crate::runs::Runs;

/// What the daemon needs of the agent's parts.
pub struct Keep {
    pub(super) secrets: Arc<dyn Secrets>,
    pub(super) clusters: BTreeMap<ClusterName, Arc<dyn Cluster>>,
    pub(super) renderers: BTreeMap<ClusterName, Arc<dyn Renderer>>,
    pub(super) git: Arc<dyn Git>,
    pub(super) registry: Arc<dyn Registry>,
    pub(super) policy: Arc<Policy>,
    pub(super) key: Arc<FingerprintKey>,
    pub(super) home: Home,
    pub(super) freshness: Duration,
    pub(super) requests_per_second: usize,
}

impl Keep {
    pub(super) fn rotation(
        self,
        config: &Config,
        journal: &DiskJournal,
        runs: &Runs,
        clock: &Arc<dyn Clock>,
        cut: Vec<RunId>,
    ) -> Rotation {
        let Self {
            secrets,
            clusters,
            renderers,
            git,
            registry,
            policy,
            key,
            home,
            freshness,
            requests_per_second,
        } = self;
        Rotation::new(Tools {
            secrets,
            clusters,
            renderers,
            git,
            registry,
            policy,
            key,
            clock: Arc::clone(clock),
            runs: runs.clone(),
            journal: journal.clone(),
            home,
            agent: member(&host(), &config.state_dir),
            began: clock.now(),
            cut,
            freshness,
            requests_per_second,
        })
    }
}

/// Returns the name of this agent among the others: the same after a restart, another one for each
/// state folder of a host, and fit for the name of an object.
fn member(host: &str, state_dir: &Path) -> String {
    const LONGEST: usize = 40;
    let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let host: String = host
        .to_ascii_lowercase()
        .chars()
        .map(|letter| if fits(letter) { letter } else { '-' })
        .take(LONGEST)
        .collect();
    let digest = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
    let mut name = host.trim_matches('-').to_owned();
    if name.is_empty() {
        name.push_str("host");
    }
    name.push('-');
    for byte in &digest[..4] {
        // Writing to a text does not fail.
        let _infallible = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_agents_of_a_host_have_two_names_that_objects_can_have() {
        let one = member("CI-Runner_01.example.com", Path::new("/var/lib/a"));
        let other = member("CI-Runner_01.example.com", Path::new("/var/lib/b"));
        assert_ne!(one, other);
        assert_eq!(
            one,
            member("CI-Runner_01.example.com", Path::new("/var/lib/a"))
        );
        for name in [
            one,
            other,
            member("...", Path::new("/")),
            member(&"x".repeat(300), Path::new("/")),
        ] {
            assert!(
                proto::ids::dns_subdomain(&format!("agent-{name}")).is_ok(),
                "{name}"
            );
            assert!(name.len() <= 63);
        }
    }
}
