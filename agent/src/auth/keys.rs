//! The issuer's keys: which of a JWKS can be used, and a cache that asks rarely and forgets late.
//!
//! Asked by [`super::Authenticator`] for the key of one token. Rules: one fetch at a time; for a key
//! id that nobody knows at most one fetch a minute, however many tokens name it; a good set stays
//! until a better one is there; with a pinned file nothing is fetched at all.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use super::AuthError;
use super::AuthSetupError;
use super::IssuerSettings;
use super::Which;
use super::fetch::Fetch;
use super::token::untrusted;

/// Between two fetches once there are keys; random key ids must not make us hammer the issuer.
const INTERVAL: Duration = Duration::from_mins(1);
/// Between two fetches while there are no keys at all.
const COLD_INTERVAL: Duration = Duration::from_secs(1);
/// A set is fetched anew when it is older, so that a key that was taken back stops working.
const MAX_AGE: Duration = Duration::from_mins(10);

/// The usable keys of a JWKS by their id.
#[derive(Debug)]
pub(super) struct KeySet(BTreeMap<String, Arc<DecodingKey>>);

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct RsaKey {
    kty: String,
    kid: String,
    n: String,
    e: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
}

impl KeySet {
    /// Reads a JWKS. Keys of other kinds are skipped, and so is an id that two keys claim.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let jwks: Jwks = serde_json::from_slice(text)
            .map_err(|error| format!("the key set cannot be read: {error}"))?;
        let mut keys = BTreeMap::new();
        let mut ambiguous = BTreeSet::new();
        for value in jwks.keys {
            let Ok(key) = serde_json::from_value::<RsaKey>(value) else {
                continue;
            };
            let Some(decoding) = usable(&key) else {
                continue;
            };
            if keys.insert(key.kid.clone(), Arc::new(decoding)).is_some() {
                ambiguous.insert(key.kid);
            }
        }
        keys.retain(|kid, _| !ambiguous.contains(kid));
        if keys.is_empty() {
            return Err("the key set has no usable RS256 key".to_owned());
        }
        Ok(Self(keys))
    }

    fn get(&self, kid: &str) -> Option<Arc<DecodingKey>> {
        self.0.get(kid).cloned()
    }
}

/// Takes only what the key says about itself: RSA, for signatures, RS256.
fn usable(key: &RsaKey) -> Option<DecodingKey> {
    let good = key.kty == "RSA"
        && !key.kid.is_empty()
        && key.alg.as_deref().is_none_or(|alg| alg == "RS256")
        && key.usage.as_deref().is_none_or(|usage| usage == "sig")
        && key
            .key_ops
            .as_ref()
            .is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !good {
        return None;
    }
    DecodingKey::from_rsa_components(&key.n, &key.e).ok()
}

struct Loaded {
    keys: KeySet,
    at: Instant,
}

/// The last fetch. An attempt whose caller went away counts as one that failed.
struct Attempt {
    at: Instant,
    result: Result<(), String>,
}

enum Source {
    Pinned,
    Issuer(Fetch),
}

/// The cache.
pub(super) struct KeyCache {
    loaded: ArcSwapOption<Loaded>,
    source: Source,
    attempt: Mutex<Option<Attempt>>,
}

impl KeyCache {
    /// Makes the cache; reads the pinned file if there is one.
    pub(super) fn new(settings: &IssuerSettings) -> Result<Self, AuthSetupError> {
        let (loaded, source) = match &settings.pinned_jwks {
            None => (None, Source::Issuer(Fetch::new(settings)?)),
            Some(path) => {
                let problem = |problem: String| AuthSetupError {
                    key: "pinned_jwks",
                    problem: format!("{}: {problem}", path.display()),
                };
                let text = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
                let keys = KeySet::parse(&text).map_err(problem)?;
                let at = Instant::now();
                (Some(Arc::new(Loaded { keys, at })), Source::Pinned)
            }
        };
        Ok(Self {
            loaded: ArcSwapOption::new(loaded),
            source,
            attempt: Mutex::new(None),
        })
    }

    /// Finds the key of a token.
    pub(super) async fn find(&self, kid: &str) -> Result<Arc<DecodingKey>, AuthError> {
        let loaded = self.loaded.load_full();
        let known = loaded.as_ref().and_then(|loaded| loaded.keys.get(kid));
        let seen = loaded.as_ref().map(|loaded| loaded.at);
        let refreshed = match known {
            Some(key) if self.is_fresh(seen) => return Ok(key),
            // Who comes while an old set is renewed takes the old key.
            Some(key) => match self.attempt.try_lock() {
                Err(_) => return Ok(key),
                Ok(attempt) => self.refresh(seen, attempt).await,
            },
            None => self.refresh(seen, self.attempt.lock().await).await,
        };
        // An issuer that is away costs nobody a good key: the old set is still there.
        let loaded = self.loaded.load_full();
        match (loaded.and_then(|loaded| loaded.keys.get(kid)), refreshed) {
            (Some(key), _) => Ok(key),
            (None, Ok(())) => Err(untrusted("is not signed by the trusted issuer")),
            (None, Err(_)) => Err(AuthError::Unavailable {
                which: Which::IdToken,
                problem: "the issuer does not answer the agent".to_owned(),
            }),
        }
    }

    fn is_fresh(&self, fetched: Option<Instant>) -> bool {
        match self.source {
            Source::Pinned => true,
            Source::Issuer(_) => fetched.is_some_and(|at| at.elapsed() < MAX_AGE),
        }
    }

    /// Says whether there are keys, and fetches them if not.
    pub(super) async fn ready(&self) -> Result<(), String> {
        if self.loaded.load().is_some() {
            return Ok(());
        }
        self.refresh(None, self.attempt.lock().await).await
    }

    /// Fetches, unless somebody just did. `seen` is the age of the set that was not enough.
    async fn refresh(
        &self,
        seen: Option<Instant>,
        mut attempt: MutexGuard<'_, Option<Attempt>>,
    ) -> Result<(), String> {
        let Source::Issuer(fetch) = &self.source else {
            return Ok(());
        };
        let current = self.loaded.load().as_ref().map(|loaded| loaded.at);
        if current > seen {
            return Ok(());
        }
        let interval = if current.is_some() {
            INTERVAL
        } else {
            COLD_INTERVAL
        };
        if let Some(last) = attempt.as_ref()
            && last.at.elapsed() < interval
        {
            return last.result.clone();
        }
        let at = Instant::now();
        *attempt = Some(Attempt {
            at,
            result: Err("the last attempt was broken off".to_owned()),
        });
        let result = fetch.keys().await.map(|keys| {
            self.loaded.store(Some(Arc::new(Loaded { keys, at })));
        });
        if let Err(reason) = &result {
            tracing::warn!(%reason, "cannot fetch the issuer's keys; keeping those that are known");
        }
        *attempt = Some(Attempt {
            at,
            result: result.clone(),
        });
        result
    }
}
