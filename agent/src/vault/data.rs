//! From Vault's answers to our values: mounts, secret fields, leases, token look-ups.
//!
//! Called by [`super`] only; pure. Field texts are moved, not copied, into the redacted type.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use deploy::ports::Engine;
use deploy::ports::Mount;
use deploy::ports::SecretData;
use deploy::ports::SecretsError;
use deploy::secret::Lease;
use deploy::secret::LeaseId;
use deploy::secret::Secret;
use deploy::secret::VaultPath;

use super::wire::Envelope;

/// What a token says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenLookup {
    /// All policies, also those of the identity.
    pub policies: Vec<String>,
    /// The metadata that its auth method wrote.
    pub meta: BTreeMap<String, String>,
    /// The path at which it was made, such as `auth/jwt/login`.
    pub path: String,
    /// The display name.
    pub display_name: String,
    /// The period in seconds; unset for tokens that are not periodic.
    pub period_seconds: Option<u64>,
    /// Whether it has no parent.
    pub orphan: bool,
    /// The remaining life in seconds; 0 never ends.
    pub ttl_seconds: u64,
    /// `service` or `batch`.
    pub kind: String,
    /// Tells one token from another; empty for batch tokens.
    pub accessor: String,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// The longest life that it was given apart from its role; unset without one.
    pub explicit_max_seconds: Option<u64>,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// Reads the answer about the mount over `path`.
pub(super) fn mount(data: Option<&Value>, path: &VaultPath) -> Result<Mount, SecretsError> {
    let text = |key: &str| data.and_then(|data| data.get(key)).and_then(Value::as_str);
    let unexpected = |reason: &str| SecretsError::Unexpected {
        reason: format!("{reason} in the mount of {path}"),
    };
    let at = text("path").ok_or_else(|| unexpected("no path"))?;
    let at = at.trim_matches('/');
    let inner = inner(at, path).ok_or_else(|| unexpected("another path"))?;
    let version = data
        .and_then(|data| data.get("options")?.get("version")?.as_str())
        .unwrap_or("1");
    let engine = match (text("type").ok_or_else(|| unexpected("no type"))?, version) {
        ("kv", "2") => Engine::KvV2,
        ("kv" | "generic" | "cubbyhole", _) => Engine::KvV1,
        // Vault's own parts hold no secrets for applications.
        ("system" | "identity" | "token" | "ns_system" | "ns_identity" | "ns_token", _) => {
            return Err(SecretsError::Missing {
                path: path.to_string(),
            });
        }
        _ => Engine::Dynamic,
    };
    let prefix = ["data/", "metadata/"]
        .into_iter()
        .find(|prefix| inner.starts_with(prefix));
    match (engine, prefix) {
        (Engine::KvV2, Some(prefix)) => Err(SecretsError::DataPrefix {
            path: path.to_string(),
            prefix,
        }),
        (Engine::KvV1 | Engine::KvV2 | Engine::Dynamic, _) => Ok(Mount {
            path: at.to_owned(),
            engine,
        }),
    }
}

/// Returns the part of `path` behind the mount.
pub(super) fn inner<'p>(mount: &str, path: &'p VaultPath) -> Option<&'p str> {
    path.as_str().strip_prefix(mount)?.strip_prefix('/')
}

/// Reads the answer of an issuing engine at its time `now`. Of values without a lease the end is
/// found where engines tell it: a certificate's `expiration` (a time), the `ttl` of a static role.
pub(super) fn issued(
    answer: Envelope,
    path: &str,
    now: Timestamp,
) -> Result<SecretData, SecretsError> {
    let number = |name: &str| answer.data.as_ref()?.get(name)?.as_i64();
    let until = |end: i64| u64::try_from(end.saturating_sub(now.as_second())).unwrap_or(0);
    let expiry = || number("expiration").map(until);
    let rotation = || number("ttl").and_then(|ttl| u64::try_from(ttl).ok());
    let ends_in = match answer.lease_id.as_str() {
        "" => expiry().or_else(rotation),
        _leased => None,
    };
    let data = plain(answer, path)?;
    Ok(SecretData { ends_in, ..data })
}

/// Reads the answer of a KV v1 mount. A field that is a text becomes its bytes; every other field
/// becomes its JSON, so the `ca_chain` of a certificate is `["-----BEGIN CERTIFICATE-----\n..."]`,
/// its `expiration` is `1796081904`, and null is `null`.
pub(super) fn plain(answer: Envelope, path: &str) -> Result<SecretData, SecretsError> {
    let lease = (!answer.lease_id.is_empty()).then(|| Lease {
        id: LeaseId(answer.lease_id),
        seconds: u64::from(answer.lease_duration),
        renewable: answer.renewable,
    });
    Ok(SecretData {
        fields: fields(answer.data.unwrap_or_default(), path)?,
        version: None,
        lease,
        ends_in: None,
    })
}

/// Reads the answer of a KV v2 mount.
pub(super) fn versioned(
    answer: Envelope,
    path: &str,
    asked: u64,
) -> Result<SecretData, SecretsError> {
    let mut data = answer.data.unwrap_or_default();
    let version = data
        .get("metadata")
        .and_then(|metadata| metadata.get("version"))
        .and_then(Value::as_u64);
    let values = data.get_mut("data").map(Value::take).unwrap_or_default();
    if values.is_null() {
        return Err(SecretsError::VersionGone {
            path: path.to_owned(),
            version: version.unwrap_or(asked),
        });
    }
    Ok(SecretData {
        fields: fields(values, path)?,
        version,
        lease: None,
        ends_in: None,
    })
}

fn fields(values: Value, path: &str) -> Result<BTreeMap<String, Secret>, SecretsError> {
    let Value::Object(values) = values else {
        return Err(SecretsError::Unexpected {
            reason: format!("the data of {path} has no fields"),
        });
    };
    let secret = |value| match value {
        Value::String(text) => Secret::from_text(text),
        other @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Object(_)) => Secret::from_text(other.to_string()),
    };
    let fields = values.into_iter();
    Ok(fields.map(|(name, value)| (name, secret(value))).collect())
}

/// Reads a token's look-up.
pub(super) fn lookup(data: &Value) -> TokenLookup {
    let text = |key: &str| {
        let value = data.get(key).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let texts = |key: &str| {
        let list = data.get(key).and_then(Value::as_array);
        let list = list.map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned)
    };
    let number = |key: &str| {
        let value = data.get(key)?;
        // Some versions write the period as text.
        let text = || value.as_str()?.parse().ok();
        value.as_u64().or_else(text)
    };
    let meta = data.get("meta").and_then(Value::as_object);
    TokenLookup {
        policies: texts("policies")
            .chain(texts("identity_policies"))
            .collect(),
        meta: meta
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        path: text("path"),
        display_name: text("display_name"),
        period_seconds: number("period").filter(|seconds| *seconds > 0),
        orphan: data.get("orphan").and_then(Value::as_bool) == Some(true),
        ttl_seconds: number("ttl").unwrap_or(0),
        kind: text("type"),
        accessor: text("accessor"),
        renewable: data.get("renewable").and_then(Value::as_bool) == Some(true),
        explicit_max_seconds: number("explicit_max_ttl").filter(|seconds| *seconds > 0),
        created: data
            .get("creation_time")
            .and_then(Value::as_i64)
            .and_then(|seconds| Timestamp::from_second(seconds).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn path(text: &str) -> VaultPath {
        VaultPath::parse(text).expect("the test's path is valid")
    }

    fn answer(data: Value) -> Envelope {
        Envelope {
            data: Some(data),
            auth: None,
            lease_id: String::new(),
            lease_duration: 0,
            renewable: false,
            request_id: String::new(),
            warnings: None,
            wrap_info: None,
        }
    }

    #[test]
    fn mounts_are_told_apart() {
        let rows = [
            (
                json!({"path": "kv/", "type": "kv", "options": {"version": "2"}}),
                Engine::KvV2,
            ),
            (
                json!({"path": "kv/", "type": "kv", "options": {"version": "1"}}),
                Engine::KvV1,
            ),
            (
                json!({"path": "kv/", "type": "kv", "options": null}),
                Engine::KvV1,
            ),
            (
                json!({"path": "kv/", "type": "database", "options": null}),
                Engine::Dynamic,
            ),
        ];
        for (data, engine) in rows {
            let expected = Mount {
                path: "kv".to_owned(),
                engine,
            };
            assert_eq!(mount(Some(&data), &path("kv/team/flask")), Ok(expected));
        }
    }

    #[test]
    fn the_api_spelling_of_a_kv_v2_path_is_refused_and_of_a_v1_path_is_a_path() {
        let v2 = json!({"path": "team/kv/", "type": "kv", "options": {"version": "2"}});
        let expected = SecretsError::DataPrefix {
            path: "team/kv/data/flask".to_owned(),
            prefix: "data/",
        };
        assert_eq!(mount(Some(&v2), &path("team/kv/data/flask")), Err(expected));
        assert!(mount(Some(&v2), &path("team/kv/database")).is_ok());
        let v1 = json!({"path": "kv/", "type": "kv", "options": {"version": "1"}});
        assert!(mount(Some(&v1), &path("kv/data/flask")).is_ok());
    }

    #[test]
    fn a_mount_that_is_not_over_the_path_is_unexpected() {
        let data = json!({"path": "kv/", "type": "kv"});
        assert!(mount(Some(&data), &path("kvother/flask")).is_err());
    }

    #[test]
    fn texts_stay_and_other_json_becomes_its_text() {
        let data = json!({"data": {"a": "x", "n": 7, "l": [1, "b"]}, "metadata": {"version": 4}});
        let read = versioned(answer(data), "kv/flask", 0).expect("the data are whole");
        let shown: Vec<(&str, &[u8])> = read
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.reveal()))
            .collect();
        let expected: [(&str, &[u8]); 3] = [("a", b"x"), ("l", b"[1,\"b\"]"), ("n", b"7")];
        assert_eq!(shown, expected);
        assert_eq!(read.version, Some(4));
    }

    #[test]
    fn values_without_a_lease_tell_their_end() {
        let now = Timestamp::from_second(1_796_000_000).expect("a time");
        let ends_in = |answer| issued(answer, "pki/issue/flask", now).map(|data| data.ends_in);
        let certificate = || json!({"expiration": 1_796_000_060, "ca_chain": ["a"]});
        assert_eq!(ends_in(answer(certificate())), Ok(Some(60)));
        let past = json!({"expiration": 1_795_000_000});
        assert_eq!(ends_in(answer(past)), Ok(Some(0)));
        let role = json!({"password": "x", "rotation_period": 86_400, "ttl": 41});
        assert_eq!(ends_in(answer(role)), Ok(Some(41)));
        assert_eq!(ends_in(answer(json!({"password": "x"}))), Ok(None));
        let mut leased = answer(certificate());
        leased.lease_id = "pki/issue/flask/1".to_owned();
        assert_eq!(ends_in(leased), Ok(None));
    }

    #[test]
    fn a_lookup_reads_periods_of_both_shapes() {
        let data = json!({"policies": ["default"], "identity_policies": ["x"], "meta": {"a": "b"},
            "path": "auth/jwt/login", "period": 60, "orphan": true, "ttl": 30, "type": "service"});
        let seen = lookup(&data);
        assert_eq!(seen.policies, ["default", "x"]);
        assert_eq!((seen.period_seconds, seen.ttl_seconds), (Some(60), 30));
        assert_eq!(seen.meta.get("a").map(String::as_str), Some("b"));
        assert_eq!(lookup(&json!({"period": "60"})).period_seconds, Some(60));
        assert_eq!(lookup(&json!({"meta": null})), TokenLookup::default());
    }
}
