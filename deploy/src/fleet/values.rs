//! Places by a path that the spec names: values of a HelmRelease, or of a values file.
//!
//! Used by [`super`]. A rule has to find a place; it may find several, in several files.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::EditError;
use super::Source;
use super::Splice;
use super::ValueRule;
use super::scalar;
use super::scan::Scalar;
use super::scan::Step;
use super::setters::text_of;
use super::setters::word;
use crate::image::ImageRef;

/// The rules, with how far each leads.
pub(super) struct Paths<'a> {
    rules: Vec<(&'a ValueRule, Reached)>,
}

enum Reached {
    /// Nothing of it.
    Nothing,
    /// The object, or the first keys.
    Keys(Vec<String>),
    /// A place.
    Place,
}

impl<'a> Paths<'a> {
    pub(super) fn new(rules: &'a [ValueRule]) -> Self {
        Self {
            rules: rules.iter().map(|rule| (rule, Reached::Nothing)).collect(),
        }
    }

    /// Finds the places of all rules in a file.
    pub(super) fn splices(
        &mut self,
        source: &Source<'_>,
        images: &BTreeMap<String, ImageRef>,
        found: &mut BTreeSet<String>,
    ) -> Result<Vec<Splice>, EditError> {
        let mut splices = Vec::new();
        for (rule, reached) in &mut self.rules {
            let Some(image) = images.get(&rule.image) else {
                continue;
            };
            for document in 0..source.scan.documents() {
                if !is_about(source, document, rule) {
                    continue;
                }
                let path = path(rule);
                let Some(scalar) = source.scan.at(document, &path) else {
                    note(reached, longest(source, document, &path), rule);
                    continue;
                };
                *reached = Reached::Place;
                found.insert(rule.image.clone());
                let Some(new) = text_of(image, rule.part) else {
                    let part = word(rule.part);
                    let problem = format!(
                        "the rule wants the {part} of {}, which its reference does not have",
                        rule.image
                    );
                    return Err(source.broken(scalar.line, problem));
                };
                let what = format!("value {}", keys(rule).join("."));
                splices.push(scalar::replace(source, scalar, what, &new)?);
            }
        }
        Ok(splices)
    }

    /// Tells the first rule that found no place.
    pub(super) fn finish(self) -> Result<(), EditError> {
        for (rule, reached) in self.rules {
            let reached = match reached {
                Reached::Place => continue,
                Reached::Nothing => match &rule.object {
                    Some(object) => format!("no file has {object}"),
                    None => "no file has its first key".to_owned(),
                },
                Reached::Keys(keys) if keys.is_empty() => {
                    "the object has not even its first key".to_owned()
                }
                Reached::Keys(keys) => format!("the last key that is there is {}", keys.join(".")),
            };
            let path = match &rule.object {
                Some(object) => format!("{} of {object}", rule.path),
                None => rule.path.clone(),
            };
            return Err(EditError::Path { path, reached });
        }
        Ok(())
    }
}

/// Remembers the furthest that a rule has led.
fn note(reached: &mut Reached, keys: Vec<String>, rule: &ValueRule) {
    // Without an object every file is asked, and most have nothing to do with it.
    if rule.object.is_none() && keys.is_empty() {
        return;
    }
    match reached {
        Reached::Nothing => *reached = Reached::Keys(keys),
        Reached::Keys(before) if before.len() < keys.len() => *reached = Reached::Keys(keys),
        Reached::Keys(_) | Reached::Place => {}
    }
}

/// The keys of a rule, from the top of the document.
fn keys(rule: &ValueRule) -> Vec<String> {
    let own = rule.path.split('.').map(str::to_owned);
    let is_release = rule
        .object
        .as_ref()
        .is_some_and(|object| object.starts_with("HelmRelease/"));
    if is_release && !rule.path.starts_with("spec.") {
        let above = ["spec", "values"].map(str::to_owned);
        return above.into_iter().chain(own).collect();
    }
    own.collect()
}

/// The path of a rule, from the top of the document.
fn path(rule: &ValueRule) -> Vec<Step> {
    keys(rule).into_iter().map(Step::Key).collect()
}

/// Finds the places of one rule in a file.
pub(super) fn places<'s>(source: &'s Source<'_>, rule: &ValueRule) -> Vec<&'s Scalar> {
    let path = path(rule);
    let about = |document: &usize| is_about(source, *document, rule);
    let documents = (0..source.scan.documents()).filter(about);
    documents
        .filter_map(|document| source.scan.at(document, &path))
        .collect()
}

fn is_about(source: &Source<'_>, document: usize, rule: &ValueRule) -> bool {
    let Some((kind, name)) = rule
        .object
        .as_ref()
        .and_then(|object| object.split_once('/'))
    else {
        return true;
    };
    let is = |path: &[&str], value: &str| {
        let field = source.scan.field(document, path);
        field.is_some_and(|scalar| scalar.value == value)
    };
    is(&["kind"], kind) && is(&["metadata", "name"], name)
}

/// The longest part of a path that is there.
fn longest(source: &Source<'_>, document: usize, path: &[Step]) -> Vec<String> {
    let common = |scalar: &Scalar| {
        let pairs = scalar.path.iter().zip(path);
        pairs.take_while(|(a, b)| a == b).count()
    };
    let scalars = source.scan.scalars.iter();
    let most = scalars
        .filter(|scalar| scalar.document == document)
        .map(common)
        .max()
        .unwrap_or(0);
    let steps = path.iter().take(most).filter_map(|step| match step {
        Step::Key(key) => Some(key.clone()),
        Step::Item(_) => None,
    });
    steps.collect()
}
