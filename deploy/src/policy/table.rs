//! Walks one TOML table of a policy and tells which of its keys nobody asked for.
//!
//! Used by [`super::load`]. Problems name the table, the key and what is expected; they are collected,
//! never returned, so that one reading finds all of them.

use toml::Table;
use toml::Value;

/// One table: hands out keys and tells which were never asked for.
pub(super) struct Keys<'t, 'p> {
    place: String,
    table: &'t Table,
    taken: Vec<&'static str>,
    problems: &'p mut Vec<String>,
}

impl<'t, 'p> Keys<'t, 'p> {
    /// Begins with a table that is called `place` in problems.
    pub(super) fn new(place: String, table: &'t Table, problems: &'p mut Vec<String>) -> Self {
        Self {
            place,
            table,
            taken: Vec::new(),
            problems,
        }
    }

    /// Hands out a value.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'t Value> {
        self.taken.push(key);
        self.table.get(key)
    }

    /// Reports what is wrong with a key.
    pub(super) fn problem(&mut self, key: &str, what: &str) {
        self.problems.push(format!("{}: {key}: {what}", self.place));
    }

    /// Reads a text that is not empty.
    pub(super) fn text(&mut self, key: &'static str) -> Option<&'t str> {
        let text = self.take(key)?.as_str();
        let text = text.filter(|text| !text.trim().is_empty());
        if text.is_none() {
            self.problem(key, "expected a text that is not empty");
        }
        text
    }

    /// Reads true or false.
    pub(super) fn flag(&mut self, key: &'static str, default: Flag) -> Flag {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(true)) => Flag::Yes,
            Some(Value::Boolean(false)) => Flag::No,
            Some(_) => {
                self.problem(key, "expected true or false");
                default
            }
        }
    }

    /// Reads a list of texts, each by `parse`; an empty list is a problem.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let value = self.take(key)?;
        let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
            self.problem(key, "expected a list of texts that is not empty");
            return None;
        };
        let mut parsed = Vec::with_capacity(list.len());
        for value in list {
            match value.as_str().map(&parse) {
                Some(Ok(item)) => parsed.push(item),
                Some(Err(what)) => {
                    let text = value.as_str().unwrap_or_default();
                    self.problem(key, &format!("{text:?} {what}"));
                }
                None => self.problem(key, "expected texts in quotes"),
            }
        }
        Some(parsed)
    }

    /// Reads a table inside this one.
    pub(super) fn section(&mut self, key: &'static str) -> Option<&'t Table> {
        let value = self.take(key)?;
        let table = value.as_table();
        if table.is_none() {
            self.problem(key, "expected a table");
        }
        table
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            if !self.taken.contains(&key.as_str()) {
                let known = self.taken.join(", ");
                self.problems.push(format!(
                    "{}: {key}: is no key of this table; expected one of {known}",
                    self.place
                ));
            }
        }
    }
}

/// A boolean of the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    Yes,
    No,
}
