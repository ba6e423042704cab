//! Names and ids as types, each with the rule that makes it valid.
//!
//! A value of these types is always well formed: the only way in is parsing. They are printed as
//! they were written. Used by every crate.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

/// Says why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was written.
    #[error("the name is empty")]
    Empty,
    /// Longer than the limit, in bytes.
    #[error("the name is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// A character that the kind of name does not take.
    #[error("expected {expected}")]
    Shape {
        /// What a valid name looks like, in words.
        expected: &'static str,
    },
}

/// Checks a DNS-1123 label: lower case letters, digits and '-', at most 63 bytes.
fn dns_label(text: &str) -> Result<(), NameError> {
    const EXPECTED: &str =
        "lower case letters, digits and '-', starting and ending with a letter or digit";
    check(text, 63, EXPECTED, |byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
    })
}

/// Checks a DNS-1123 subdomain, as Kubernetes object names are: labels joined by dots, 253 bytes.
pub fn dns_subdomain(text: &str) -> Result<(), NameError> {
    const EXPECTED: &str = "lower case letters, digits, '-' and '.', each part starting and ending with a letter or digit";
    check(text, 253, EXPECTED, |byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
    })?;
    if text
        .split('.')
        .any(|part| part.is_empty() || part.starts_with('-') || part.ends_with('-'))
    {
        return Err(NameError::Shape { expected: EXPECTED });
    }
    Ok(())
}

fn check(
    text: &str,
    limit: usize,
    expected: &'static str,
    allowed: impl Fn(u8) -> bool,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > limit {
        return Err(NameError::TooLong { limit });
    }
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !text.bytes().all(allowed) || !edge(text.as_bytes().first()) || !edge(text.as_bytes().last())
    {
        return Err(NameError::Shape { expected });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $rule:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $rule(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                $rule(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a deploy: what one app is called inside its namespace (a DNS label).
    DeployName,
    dns_label
);
name!(
    /// A Kubernetes namespace (a DNS label).
    Namespace,
    dns_label
);
name!(
    /// A cluster, as the agent's configuration names it (a DNS label).
    ClusterName,
    dns_label
);
name!(
    /// The id of one run: `r` and 32 lower case hexadecimal digits.
    RunId,
    run_id
);

fn run_id(text: &str) -> Result<(), NameError> {
    const EXPECTED: &str = "'r' and 32 lower case hexadecimal digits";
    let digits = text
        .strip_prefix('r')
        .ok_or(NameError::Shape { expected: EXPECTED })?;
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.len() != 32 || !digits.bytes().all(hex) {
        return Err(NameError::Shape { expected: EXPECTED });
    }
    Ok(())
}

impl RunId {
    /// Makes an id from 128 random (or time ordered) bits that the caller brings.
    #[must_use]
    pub fn from_bits(bits: u128) -> Self {
        Self(format!("r{bits:032x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kubernetes_rules() {
        for good in ["a", "flask-demo", "x1", "0a"] {
            assert!(good.parse::<DeployName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", &"x".repeat(64)] {
            assert!(bad.parse::<DeployName>().is_err(), "{bad}");
        }
        assert!(dns_subdomain("a.b-c.d").is_ok());
        assert!(dns_subdomain("a..b").is_err());
    }

    #[test]
    fn run_ids_round_trip() {
        let id = RunId::from_bits(255);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert!("r00".parse::<RunId>().is_err());
    }
}
