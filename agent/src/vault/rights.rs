//! What a session may use, as Vault says itself.
//!
//! Called by [`super`] only. Policies speak of API paths, so a KV v2 path gets its `data/` here.

use std::collections::BTreeMap;

use serde::Deserialize;

use deploy::ports::Allowance;
use deploy::ports::Engine;
use deploy::ports::Mount;
use deploy::ports::Parameters;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::secret::VaultPath;

use super::Vault;
use super::endpoints;
use super::error::Doing;
use super::error::meaning;
use super::reads::inner_of;

/// Where it is asked.
const PATH: &str = "sys/capabilities-self";

#[derive(Deserialize)]
struct Capabilities {
    data: BTreeMap<String, Vec<String>>,
}

impl Vault {
    /// Returns the capabilities that the session has at API paths.
    pub(super) async fn held(
        &self,
        session: &Session,
        paths: &[String],
    ) -> Result<BTreeMap<String, Vec<String>>, SecretsError> {
        let endpoint = || endpoints::CapabilitiesSelf {
            paths: paths.to_vec(),
        };
        let doing = Doing::Read {
            path: PATH,
            version: 0,
        };
        let answer = self.call(session, endpoint).await;
        let answer = answer.and_then(|reply| reply.parse::<Capabilities>());
        Ok(answer.map_err(|failure| meaning(failure, doing))?.data)
    }

    /// Says which places the session may use.
    pub(super) async fn allowances(
        &self,
        session: &Session,
        places: &[(Mount, VaultPath, Parameters)],
    ) -> Result<Vec<Allowance>, SecretsError> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let paths = places
            .iter()
            .map(|(mount, path, _)| api_path(mount, path))
            .collect::<Result<Vec<String>, SecretsError>>()?;
        let found = self.held(session, &paths).await?;
        let places = paths.iter().zip(places);
        Ok(places
            .map(|(path, (_, _, parameters))| {
                let held = found.get(path).map(Vec::as_slice).unwrap_or_default();
                allowance(held, parameters)
            })
            .collect())
    }
}

/// Spells a path as the API and so policies do.
fn api_path(mount: &Mount, path: &VaultPath) -> Result<String, SecretsError> {
    match mount.engine {
        Engine::KvV2 => Ok(format!("{}/data/{}", mount.path, inner_of(mount, path)?)),
        Engine::KvV1 | Engine::Dynamic => Ok(path.to_string()),
    }
}

fn allowance(held: &[String], parameters: &Parameters) -> Allowance {
    let has = |names: &[&str]| held.iter().any(|held| names.contains(&held.as_str()));
    let needed: &[&str] = if parameters.is_empty() {
        &["read", "root"]
    } else {
        &["create", "update", "root"]
    };
    if has(&["deny"]) || !has(needed) {
        return Allowance::Denied;
    }
    Allowance::Allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(held: &[&str], parameters: &[(&str, &str)]) -> Allowance {
        let held: Vec<String> = held.iter().map(|name| (*name).to_owned()).collect();
        let texts = parameters.iter();
        let parameters = texts
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        allowance(&held, &parameters)
    }

    #[test]
    fn a_read_needs_read_and_a_write_needs_create_or_update() {
        let parameters = [("common_name", "a.example.com")];
        assert_eq!(of(&["read"], &[]), Allowance::Allowed);
        assert_eq!(of(&["update", "list"], &[]), Allowance::Denied);
        assert_eq!(of(&["read"], &parameters), Allowance::Denied);
        assert_eq!(of(&["create"], &parameters), Allowance::Allowed);
        assert_eq!(of(&["update"], &parameters), Allowance::Allowed);
    }

    #[test]
    fn root_may_all_and_deny_wins() {
        assert_eq!(of(&["root"], &[]), Allowance::Allowed);
        assert_eq!(of(&["root"], &[("a", "b")]), Allowance::Allowed);
        assert_eq!(of(&["read", "deny"], &[]), Allowance::Denied);
        assert_eq!(of(&[], &[]), Allowance::Denied);
    }

    #[test]
    fn policies_spell_kv_v2_paths_with_data() {
        let mount = |engine| Mount {
            path: "team/kv".to_owned(),
            engine,
        };
        let path = VaultPath::parse("team/kv/flask/app").expect("it is valid");
        let spelled = |engine| api_path(&mount(engine), &path);
        assert_eq!(
            spelled(Engine::KvV2).as_deref(),
            Ok("team/kv/data/flask/app")
        );
        assert_eq!(spelled(Engine::KvV1).as_deref(), Ok("team/kv/flask/app"));
    }
}
