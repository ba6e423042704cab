//! Reads typed values out of a TOML text with environment overrides and collects every problem.
//!
//! Used by [`super`] only. Keys are dotted. What nobody took at the end is an unknown key. A problem
//! names the key and what is expected, never the value.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Table;
use toml::Value;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, or the environment variable.
    pub key: String,
    /// What is expected.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.expected)
    }
}

/// The values that are not taken yet, and the problems so far.
#[derive(Debug, Default)]
pub(super) struct Reader {
    values: BTreeMap<String, Value>,
    variables: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Reader {
    /// Reads a TOML text.
    pub(super) fn new(text: &str) -> Self {
        let mut reader = Self::default();
        match text.parse::<Table>() {
            Ok(table) => flatten(String::new(), table, &mut reader.values),
            Err(error) => {
                let start = error.span().map_or(0, |span| span.start);
                let before = text.get(..start).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                // The parser's message has no values; its Display would quote the line.
                reader.problem(format!("line {line}"), error.message());
            }
        }
        reader
    }

    /// Puts the value of an environment variable in place of a key's.
    pub(super) fn set(&mut self, key: &str, variable: &str, text: String) {
        self.values.insert(key.to_owned(), Value::String(text));
        self.variables.insert(key.to_owned(), variable.to_owned());
    }

    pub(super) fn problem(&mut self, key: impl Into<String>, expected: impl Into<String>) {
        let key = key.into();
        let key = self.variables.get(&key).cloned().unwrap_or(key);
        let expected = expected.into();
        self.problems.push(Problem { key, expected });
    }

    /// Ends the reading: what is left is unknown.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        let left: Vec<String> = self.values.keys().cloned().collect();
        for key in left {
            self.problem(key, "there is no such key");
        }
        self.problems
    }

    /// Returns the names of the tables directly under `key`.
    pub(super) fn tables(&self, key: &str) -> BTreeSet<String> {
        let prefix = format!("{key}.");
        let inside = self
            .values
            .keys()
            .filter_map(|known| known.strip_prefix(&prefix));
        inside
            .filter_map(|rest| rest.split_once('.').map(|(name, _)| name.to_owned()))
            .collect()
    }

    /// Takes everything under `key` and returns the keys.
    pub(super) fn take_below(&mut self, key: &str) -> Vec<String> {
        let prefix = format!("{key}.");
        let below = |known: &String, _: &mut Value| known.starts_with(&prefix);
        let taken = self.values.extract_if(.., below);
        taken.map(|(key, _)| key).collect()
    }

    /// Takes everything under `key` and returns it.
    pub(super) fn take_values_below(&mut self, key: &str) -> Vec<(String, Value)> {
        let prefix = format!("{key}.");
        let below = |known: &String, _: &mut Value| known.starts_with(&prefix);
        let taken = self.values.extract_if(.., below);
        taken
            .map(|(key, value)| (key[prefix.len()..].to_owned(), value))
            .collect()
    }

    /// Takes a value through `read`; a refused value is a problem.
    pub(super) fn take<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.values.remove(key)?;
        let taken = read(&value);
        if taken.is_none() {
            self.problem(key, format!("expected {expected}"));
        }
        taken
    }

    /// Says that a key which is not there must be.
    pub(super) fn require<T>(&mut self, key: &str, expected: &str, got: Option<T>) -> Option<T> {
        let named =
            |problem: &Problem| problem.key == key || self.variables.get(key) == Some(&problem.key);
        if got.is_none() && !self.problems.iter().any(named) {
            self.problem(key, format!("is missing; expected {expected}"));
        }
        got
    }

    pub(super) fn text(&mut self, key: &str, expected: &str) -> Option<String> {
        self.take(key, expected, |value| {
            let text = value.as_str()?;
            (!text.is_empty()).then(|| text.to_owned())
        })
    }

    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.take(key, "an absolute path", |value| {
            let path = PathBuf::from(value.as_str()?);
            path.is_absolute().then_some(path)
        })
    }

    pub(super) fn list(&mut self, key: &str) -> Vec<String> {
        let read = |value: &Value| {
            let items = value.as_array()?.iter();
            items.map(|item| item.as_str().map(str::to_owned)).collect()
        };
        self.take(key, "a list of texts", read).unwrap_or_default()
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let expected = format!(
            "a duration from {}s to {}s, such as `90s` or `10m`",
            range.start().as_secs(),
            range.end().as_secs()
        );
        let read = |value: &Value| duration(value.as_str()?).filter(|time| range.contains(time));
        self.take(key, &expected, read).unwrap_or(default)
    }

    pub(super) fn number(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let read = |value: &Value| {
            let number = u64::try_from(value.as_integer()?).ok()?;
            range.contains(&number).then_some(number)
        };
        self.take(key, &expected, read).unwrap_or(default)
    }

    pub(super) fn count(&mut self, key: &str, default: usize, range: RangeInclusive<u64>) -> usize {
        let number = self.number(key, default as u64, range);
        usize::try_from(number).unwrap_or(default)
    }
}

fn flatten(prefix: String, table: Table, into: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            Value::Table(inner) if !inner.is_empty() => flatten(key, inner, into),
            // An empty table says nothing, and is no unknown key.
            Value::Table(_) => {}
            value @ (Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_)) => {
                into.insert(key, value);
            }
        }
    }
}

/// Reads `90s`, `10m`, `1h30m`: whole numbers with descending units.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds: u64 = 0;
    let mut found = false;
    for (unit, factor) in [('h', 3_600), ('m', 60), ('s', 1)] {
        let Some((number, tail)) = rest.split_once(unit) else {
            continue;
        };
        let part = digits(number)?.checked_mul(factor)?;
        seconds = seconds.checked_add(part)?;
        rest = tail;
        found = true;
    }
    (found && rest.is_empty()).then(|| Duration::from_secs(seconds))
}

/// Reads a whole number of ASCII digits only.
#[must_use]
pub fn digits(text: &str) -> Option<u64> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_descending_units() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5_400)));
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        for bad in ["", "10", "1s1m", "1.5h", "+1s", "1 s", "h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
