//! Values that a job gets as variables: the answer of `POST /v1/values`.
//!
//! The one answer that carries secret values. Nothing here shows one: neither Debug nor an error has
//! them, and the text is wiped when it is dropped.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::Serialize;
use zeroize::Zeroize as _;
use zeroize::Zeroizing;

/// What a job gets.
#[derive(Debug, Serialize, Deserialize)]
pub struct Values {
    /// The rule that grants it.
    pub rule: String,
    /// The decision, as it stands in the agent's log.
    pub decision_id: String,
    /// The values by the names of their variables.
    pub values: BTreeMap<String, Encoded>,
}

/// A value as base64, so that it can be any bytes.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct Encoded(String);

impl Encoded {
    /// Encodes a value.
    #[must_use]
    pub fn of(value: &[u8]) -> Self {
        Self(STANDARD.encode(value))
    }

    /// Returns the value; unset where the text is no base64.
    #[must_use]
    pub fn decode(&self) -> Option<Zeroizing<Vec<u8>>> {
        STANDARD.decode(&self.0).ok().map(Zeroizing::new)
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoded([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_body_is_read_and_written_the_same() {
        let golden = include_str!("../golden/values.json");
        let recorded: serde_json::Value = serde_json::from_str(golden).expect("JSON");
        let read: Values = serde_json::from_str(golden).expect("the type reads its recorded body");
        assert_eq!(
            serde_json::to_value(&read).expect("it is serializable"),
            recorded
        );
        let value = read.values["NPM_TOKEN"].decode().expect("base64");
        assert_eq!(value.as_slice(), b"npm_0123456789");
    }

    #[test]
    fn no_formatter_shows_a_value_and_bad_base64_is_none() {
        let values = Values {
            rule: "build".to_owned(),
            decision_id: "d1".to_owned(),
            values: [("A".to_owned(), Encoded::of(b"canary"))].into(),
        };
        let shown = format!("{values:?}");
        assert!(
            !shown.contains("canary") && !shown.contains("Y2FuYXJ5"),
            "{shown}"
        );
        assert!(Encoded("%".to_owned()).decode().is_none());
    }
}
