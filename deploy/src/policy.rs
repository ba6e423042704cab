//! The operator's rules as data, read from TOML. No decision is made here.
//!
//! Loaded by `agent::config` at start and on reload; used by [`crate::authorize`]. An unknown key,
//! a duplicate id or a pattern that cannot mean anything is a load error.

/// All rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    hash: String,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its id.
    pub id: String,
}

/// Everything that is wrong with a policy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy has {} errors", problems.len())]
pub struct PolicyError {
    /// Each with the rule or key, and what is expected.
    pub problems: Vec<String>,
}

impl Policy {
    /// Reads a policy from the text of a TOML file.
    ///
    /// # Errors
    /// All problems at once.
    pub fn parse(_text: &str) -> Result<Self, PolicyError> {
        panic!("not written yet")
    }

    /// Returns the rules.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Returns the SHA-256 of the text, in hexadecimal.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }
}
