//! Values about secrets: where one is, the redacted value itself, leases, keyed fingerprints.
//!
//! [`Secret`] is the only type in the project that holds a secret value. It has no Clone, no
//! Serialize and no formatter that shows it; memory is wiped on drop. Revealing is one method,
//! called in the adapters of Vault (to send a token), Kubernetes (to send an object), Git and image
//! registries (to log in);
//! inside this crate [`crate::redact`], [`crate::template`] and the fingerprint look at the bytes
//! through crate-private access.

use std::fmt;

use hmac::Hmac;
use hmac::KeyInit;
use hmac::Mac;
use secrecy::ExposeSecret;
use secrecy::SecretSlice;
use serde::Deserialize;
use serde::Serialize;
use sha2::Sha256;

/// A secret value.
pub struct Secret(SecretSlice<u8>);

impl Secret {
    /// Takes bytes that are secret from now on.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(SecretSlice::from(bytes))
    }

    /// Takes a text that is secret from now on.
    #[must_use]
    pub fn from_text(text: String) -> Self {
        Self::new(text.into_bytes())
    }

    /// Shows the value. For the adapters that have to send it, and for nobody else.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// Looks at the value inside this crate.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.expose_secret().len()
    }

    /// Says whether the value is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes a second holder of the same value, where both live on: a session of a passed token, a
    /// value in two keys. Spelled out instead of Clone, so that copies stay few and visible.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self::new(self.bytes().to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

/// The key under which fingerprints are made; one per agent, never written anywhere readable.
pub struct FingerprintKey(Secret);

impl FingerprintKey {
    /// Takes 32 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes.to_vec()))
    }

    /// Makes the fingerprint of a value in a place, so that equal values in two places differ.
    #[must_use]
    pub fn fingerprint(&self, place: &str, value: &[u8]) -> Fingerprint {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.0.bytes()).expect("HMAC takes keys of any length");
        mac.update(&(place.len() as u64).to_be_bytes());
        mac.update(place.as_bytes());
        mac.update(value);
        let digest: [u8; 32] = mac.finalize().into_bytes().into();
        Fingerprint(digest)
    }
}

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintKey([redacted])")
    }
}

/// HMAC-SHA256 of a value under the agent's own key: comparable, and no oracle for short secrets.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// Why a text is not a Vault path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the Vault path {problem}")]
pub struct VaultPathError {
    /// What is wrong, in words, without the path.
    pub problem: &'static str,
}

/// A path as `vault kv get` users write it: mount and path joined by slashes, without `data/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VaultPath(String);

impl VaultPath {
    /// Checks and takes a path: at least two segments, none empty, `.` or `..`, no `+ * % # ?`,
    /// no white space at the ends, no control characters, at most 512 bytes.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, VaultPathError> {
        let broken = |problem| Err(VaultPathError { problem });
        if text.is_empty() {
            return broken("is empty");
        }
        if text.len() > 512 {
            return broken("is longer than 512 bytes");
        }
        if text.starts_with('/') || text.ends_with('/') {
            return broken("starts or ends with a slash");
        }
        if text.contains("//") {
            return broken("has a doubled slash");
        }
        if text
            .split('/')
            .any(|segment| segment == "." || segment == "..")
        {
            return broken("has a '.' or '..' segment");
        }
        if text.contains(['+', '*', '%', '#', '?', '\\']) {
            return broken("has a wildcard, percent sign or URL character");
        }
        if text.chars().any(char::is_control) || text.trim() != text {
            return broken("has a control character or white space at its ends");
        }
        if !text.contains('/') {
            return broken("needs a mount and a path, such as kv/flask");
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VaultPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a Vault lease. Not secret, but it lets its holder revoke: kept out of job output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub String);

/// The accessor of a Vault token: ends and extends it and reads nothing. Kept out of job output.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Accessor(pub String);

/// A lease on a dynamic credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// How long it was granted for, in seconds.
    pub seconds: u64,
    /// Whether it can be renewed.
    pub renewable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(
            format!("{:?}", Secret::from_text("hunter2".into())),
            "Secret([redacted])"
        );
    }

    #[test]
    fn fingerprints_depend_on_place_value_and_key() {
        let key = FingerprintKey::new([1; 32]);
        let base = key.fingerprint("a", b"x");
        assert_eq!(base, key.fingerprint("a", b"x"));
        assert_ne!(base, key.fingerprint("b", b"x"));
        assert_ne!(base, key.fingerprint("a", b"y"));
        assert_ne!(base, FingerprintKey::new([2; 32]).fingerprint("a", b"x"));
    }

    #[test]
    fn vault_paths_are_strict() {
        for good in ["kv/flask", "database/creds/flask", "kv/a b/c"] {
            assert!(VaultPath::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "", "kv", "/kv/a", "kv/a/", "kv//a", "kv/../a", "kv/./a", "kv/+/a", "kv/*", "kv/%2e",
            "kv/a\n", " kv/a",
        ] {
            assert!(VaultPath::parse(bad).is_err(), "{bad}");
        }
    }
}
