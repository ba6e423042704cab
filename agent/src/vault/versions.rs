//! The newest versions of KV v2 secrets, without their values.
//!
//! Called by [`super`] only. A folder of a thousand secrets comes with everything about all of their
//! versions, so it is read page by page, and of each secret only the newest version is kept while it
//! is parsed. A version whose deletion is set for later (`delete_version_after`) is live until then,
//! by the server's time.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::MapAccess;
use serde::de::Visitor;

use deploy::ports::Mount;
use deploy::ports::Newest;
use deploy::ports::SecretsError;
use deploy::ports::Session;
use deploy::ports::Standing;
use deploy::secret::VaultPath;

use super::Vault;
use super::endpoints;
use super::error::Doing;
use super::error::meaning;
use super::reads::inner_of;

/// Secrets of one page: about 200 KB with few versions each.
const PAGE: usize = 500;

/// The grain of the time in HTTP's `Date`.
const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

/// A page of a folder. Folders in it have an empty entry.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    key_info: BTreeMap<String, Detail>,
}

/// What is kept of one secret.
#[derive(Deserialize, Default)]
struct Detail {
    #[serde(default)]
    current_version: u64,
    #[serde(default)]
    versions: Last,
}

/// The version with the highest number; the others are skipped while reading.
#[derive(Default)]
struct Last {
    number: u64,
    state: State,
}

#[derive(Deserialize, Default)]
struct State {
    #[serde(default)]
    deletion_time: String,
    #[serde(default)]
    destroyed: bool,
}

impl<'de> Deserialize<'de> for Last {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Versions;
        impl<'de> Visitor<'de> for Versions {
            type Value = Last;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("versions by number")
            }

            fn visit_unit<E>(self) -> Result<Last, E> {
                Ok(Last::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Last, A::Error> {
                let mut last = Last::default();
                while let Some((number, state)) = map.next_entry::<u64, State>()? {
                    if number >= last.number {
                        last = Last { number, state };
                    }
                }
                Ok(last)
            }
        }
        deserializer.deserialize_any(Versions)
    }
}

impl Detail {
    /// Returns the newest version; `None` where there is none at all.
    fn newest(&self, now: Timestamp) -> Option<Newest> {
        let version = self.current_version;
        if version == 0 {
            return None;
        }
        let state = &self.versions.state;
        // The server tells its time in whole seconds: what was deleted in this one is deleted.
        let now = now.checked_add(SECOND).unwrap_or(now);
        let is_past = |time: &str| time.parse::<Timestamp>().map_or(true, |time| time < now);
        let standing = if self.versions.number != version || state.destroyed {
            Standing::Destroyed
        } else if !state.deletion_time.is_empty() && is_past(&state.deletion_time) {
            Standing::Deleted
        } else {
            Standing::Live
        };
        Some(Newest { version, standing })
    }
}

impl Vault {
    /// Reads the newest versions of a folder, page by page.
    pub(super) async fn newest_in(
        &self,
        session: &Session,
        mount: &Mount,
        folder: &str,
    ) -> Result<BTreeMap<String, Newest>, SecretsError> {
        let place = format!("{}/detailed-metadata/{folder}", mount.path);
        if !is_folder(folder) {
            return Err(SecretsError::Unexpected {
                reason: format!("{place} is not a folder"),
            });
        }
        let doing = Doing::Read {
            path: &place,
            version: 0,
        };
        let mut found = BTreeMap::new();
        let mut after = Some(String::new());
        while let Some(last) = after {
            let endpoint = || endpoints::ListVersions {
                mount: mount.path.clone(),
                folder: folder.to_owned(),
                after: last.clone(),
                limit: PAGE,
            };
            let reply = match self.call(session, endpoint).await {
                Ok(reply) => reply,
                // What was listed before is all there is.
                Err(failure) if !last.is_empty() && is_missing(&failure) => break,
                Err(failure) => return Err(meaning(failure, doing)),
            };
            let page: Answer<Page> = reply.parse().map_err(|failure| meaning(failure, doing))?;
            let now = self.now_there(&reply);
            let Page { keys, key_info } = page.data;
            after = keys.into_iter().last().filter(|last_key| {
                // A server that knows no pages sends everything each time.
                key_info.len() >= PAGE && *last_key > last
            });
            found.extend(key_info.into_iter().filter_map(|(name, detail)| {
                let newest = detail.newest(now).filter(|_| !name.ends_with('/'))?;
                Some((name, newest))
            }));
        }
        if found.is_empty() {
            return Err(SecretsError::Missing { path: place });
        }
        Ok(found)
    }

    /// Reads the newest version of one secret.
    pub(super) async fn newest_of(
        &self,
        session: &Session,
        mount: &Mount,
        path: &VaultPath,
    ) -> Result<Newest, SecretsError> {
        let inner = inner_of(mount, path)?;
        let endpoint = || endpoints::ReadPath {
            path: format!("{}/metadata/{inner}", mount.path),
        };
        let doing = Doing::Read {
            path: path.as_str(),
            version: 0,
        };
        let reply = self.call(session, endpoint).await;
        let reply = reply.map_err(|failure| meaning(failure, doing))?;
        let answer: Answer<Detail> = reply.parse().map_err(|failure| meaning(failure, doing))?;
        let newest = answer.data.newest(self.now_there(&reply));
        newest.ok_or_else(|| SecretsError::Missing {
            path: path.to_string(),
        })
    }
}

/// Says whether a text can stand in a URL's path as it is meant.
fn is_folder(text: &str) -> bool {
    let odd = |segment: &str| matches!(segment, "" | "." | "..");
    text.is_empty() || (!text.contains(['?', '#', '%', '\\']) && !text.split('/').any(odd))
}

fn is_missing(failure: &super::wire::Failure) -> bool {
    matches!(failure, super::wire::Failure::Refused(refusal) if refusal.code == 404)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest(json: &str) -> Option<Newest> {
        let now = "2026-11-27T12:00:00Z".parse().expect("a time");
        let detail: Detail = serde_json::from_str(json).expect("it is Vault's form");
        detail.newest(now)
    }

    fn of(standing: Standing) -> Option<Newest> {
        Some(Newest {
            version: 10,
            standing,
        })
    }

    #[test]
    fn the_state_of_the_highest_number_counts() {
        // As texts, 9 would come after 10.
        let json = r#"{"current_version": 10, "max_versions": 0, "versions": {
            "10": {"created_time": "x", "deletion_time": "", "destroyed": false},
            "9": {"deletion_time": "2026-11-27T11:00:00Z", "destroyed": true}}}"#;
        assert_eq!(newest(json), of(Standing::Live));
    }

    #[test]
    fn a_deletion_counts_once_its_time_has_come() {
        let at = |time: &str| {
            let state = format!(r#"{{"deletion_time": "{time}", "destroyed": false}}"#);
            newest(&format!(
                r#"{{"versions": {{"10": {state}}}, "current_version": 10}}"#
            ))
        };
        assert_eq!(at("2026-11-27T11:59:59.9Z"), of(Standing::Deleted));
        assert_eq!(at("2026-11-27T12:00:00.9Z"), of(Standing::Deleted));
        assert_eq!(at("2026-11-27T12:00:01Z"), of(Standing::Live));
    }

    #[test]
    fn destroyed_and_absent_versions_cannot_be_read() {
        let destroyed = r#"{"versions": {"10": {"destroyed": true}}, "current_version": 10}"#;
        assert_eq!(newest(destroyed), of(Standing::Destroyed));
        let absent = r#"{"versions": {"9": {"destroyed": false}}, "current_version": 10}"#;
        assert_eq!(newest(absent), of(Standing::Destroyed));
    }

    #[test]
    fn metadata_without_a_version_and_folders_are_no_secrets() {
        assert_eq!(newest(r#"{"current_version": 0, "versions": {}}"#), None);
        assert_eq!(newest(r#"{"current_version": 0, "versions": null}"#), None);
        assert_eq!(newest("{}"), None);
    }

    #[test]
    fn folders_are_plain_paths() {
        assert!(is_folder("") && is_folder("team/a b"));
        for bad in ["../sys", "a//b", "a/", "a?x=1", "a%2fb"] {
            assert!(!is_folder(bad), "{bad}");
        }
    }
}
