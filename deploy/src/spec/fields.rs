//! Reading located nodes field by field, and collecting every error on the way.
//!
//! Called by [`super::parse()`] and [`super::secrets`]. A method that cannot read its node reports why
//! and returns `None`, so that the caller goes on with the next field.

use std::collections::BTreeSet;

use proto::error::Place;

use super::SPEC_FILE;
use crate::yaml::core::Scalar;
use crate::yaml::core::scalar;
use crate::yaml::shown;
use crate::yaml::tree::Node;

/// Errors so far.
#[derive(Debug, Default)]
pub(super) struct Errors {
    /// In the order in which they were found.
    pub(super) places: Vec<Place>,
}

/// A node and its path.
#[derive(Debug, Clone)]
pub(super) struct Spot<'a> {
    /// The node.
    pub(super) node: &'a Node,
    /// Such as `secrets[0].keys.password`; empty for the whole file.
    pub(super) path: String,
}

/// The fields of a mapping, all of them known.
pub(super) struct Fields<'a> {
    spot: Spot<'a>,
}

/// Appends a key to a path; a key with unusual characters is put in brackets.
pub(super) fn join(path: &str, key: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_/".contains(letter);
    if key.is_empty() || key.len() > 128 || key.chars().any(char::is_control) {
        format!("{path}[?]")
    } else if !key.chars().all(plain) {
        format!("{path}[{key:?}]")
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

impl Errors {
    /// Reports an error at a node.
    pub(super) fn at(&mut self, spot: &Spot<'_>, message: impl Into<String>) {
        self.places.push(Place {
            file: Some(SPEC_FILE.to_owned()),
            line: Some(spot.node.line),
            column: Some(spot.node.column),
            path: (!spot.path.is_empty()).then(|| spot.path.clone()),
            message: message.into(),
        });
    }
}

impl<'a> Spot<'a> {
    /// Goes to the value of a key.
    pub(super) fn below(&self, key: &str, node: &'a Node) -> Self {
        Spot {
            node,
            path: join(&self.path, key),
        }
    }

    /// Reads a mapping whose fields all have to be among `known`.
    pub(super) fn fields(self, known: &[&str], errors: &mut Errors) -> Option<Fields<'a>> {
        for (key, name) in self.entries(errors)? {
            if !known.contains(&name) {
                let spot = self.below(name, key);
                errors.at(
                    &spot,
                    format!("{} is not a field here; {}", shown(name), list(known)),
                );
            }
        }
        Some(Fields { spot: self })
    }

    /// Reads the keys of a mapping with their nodes.
    fn entries(&self, errors: &mut Errors) -> Option<Vec<(&'a Node, &'a str)>> {
        let Some(entries) = self.node.mapping() else {
            errors.at(self, "expected fields (a mapping)");
            return None;
        };
        let named = |(key, _): &'a (Node, Node)| key.scalar().map(|name| (key, name));
        Some(entries.iter().filter_map(named).collect())
    }

    /// Reads a mapping whose keys are the caller's own; an empty one is an error.
    pub(super) fn map(&self, errors: &mut Errors) -> Vec<(&'a str, Self)> {
        let Some(entries) = self.node.mapping() else {
            errors.at(self, "expected names with values (a mapping)");
            return Vec::new();
        };
        if entries.is_empty() {
            errors.at(self, "is empty; leave it out or fill it");
        }
        let below = |(key, value): &'a (Node, Node)| {
            key.scalar().map(|name| (name, self.below(name, value)))
        };
        entries.iter().filter_map(below).collect()
    }

    /// Reads a list; an empty one is an error.
    pub(super) fn items(&self, errors: &mut Errors) -> Vec<Self> {
        let Some(items) = self.node.sequence() else {
            errors.at(self, "expected a list");
            return Vec::new();
        };
        if items.is_empty() {
            errors.at(self, "the list is empty; leave it out or fill it");
        }
        let at = |(index, node)| Spot {
            node,
            path: format!("{}[{index}]", self.path),
        };
        items.iter().enumerate().map(at).collect()
    }

    /// Reads text that is not empty.
    pub(super) fn text(&self, errors: &mut Errors) -> Option<&'a str> {
        let message = match scalar(self.node) {
            Some(Scalar::Text("")) => "is empty",
            Some(Scalar::Text(text)) => return Some(text),
            Some(Scalar::Null) => "is empty; expected text",
            Some(Scalar::Bool(_)) => "is read as a boolean; put it in quotes",
            Some(Scalar::Int(_) | Scalar::Float) => "is read as a number; put it in quotes",
            None => "expected text, not a list or mapping",
        };
        errors.at(self, message);
        None
    }

    /// Reads text and turns it into a value.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &self,
        errors: &mut Errors,
        parse: impl FnOnce(&'a str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(errors)?;
        parse(text)
            .map_err(|error| errors.at(self, error.to_string()))
            .ok()
    }

    /// Reads a whole number.
    pub(super) fn int(&self, errors: &mut Errors) -> Option<i64> {
        if let Some(Scalar::Int(Some(number))) = scalar(self.node) {
            return Some(number);
        }
        errors.at(self, "expected a whole number without quotes");
        None
    }

    /// Reads `true` or `false`.
    pub(super) fn flag(&self, errors: &mut Errors) -> Option<bool> {
        if let Some(Scalar::Bool(flag)) = scalar(self.node) {
            return Some(flag);
        }
        errors.at(self, "expected true or false");
        None
    }
}

impl<'a> Fields<'a> {
    /// Returns a field that may be left out.
    pub(super) fn take(&self, name: &str) -> Option<Spot<'a>> {
        let node = self.spot.node.get(name)?;
        Some(self.spot.below(name, node))
    }

    /// Returns a field that has to be there.
    pub(super) fn need(&self, name: &str, errors: &mut Errors) -> Option<Spot<'a>> {
        let found = self.take(name);
        if found.is_none() {
            errors.at(&self.spot, format!("the field '{name}' is missing"));
        }
        found
    }

    /// Reports that there is nothing to deploy.
    pub(super) fn nothing(&self, errors: &mut Errors) {
        errors.at(
            &self.spot,
            "there is nothing to do: name 'secrets', one of 'manifests', 'kustomize', 'helm' \
             and 'flux', or both; or 'expose'",
        );
    }
}

fn list(known: &[&str]) -> String {
    let names: BTreeSet<_> = known.iter().copied().collect();
    let names: Vec<_> = names.into_iter().collect();
    format!("there are {}", names.join(", "))
}
