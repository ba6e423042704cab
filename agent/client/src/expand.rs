//! Puts values of the job's environment into `quaymaster.yaml`: `${NAME}` in scalar values.
//!
//! Called by `pack` before the spec is packed. Works on the source text, not on a tree, so that
//! every line stays where it was and the agent's messages name the caller's own lines. The result
//! is read again and compared: a value can never add or change a key, an item or another value.
//! Keys and comments are left alone. A literal `${` is written `$${`, in the source and in what is
//! sent: the agent, which refuses every `${NAME}`, reads `$${` as `${`. No message ever shows a value.

use std::collections::BTreeMap;

use granit_parser::ScalarStyle;
use proto::error::Place;

use crate::quote;
use crate::yaml;
use crate::yaml::Role;
use crate::yaml::Scalar;

/// The job's environment, collected once in `main`.
pub(crate) type Environment = BTreeMap<String, String>;

/// One piece of a text.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    /// Text that stays, `$${` too.
    Text(&'a str),
    /// `${NAME}` at this byte offset.
    Variable { at: usize, name: &'a str },
    /// `${` without a name and a closing brace, at this byte offset.
    Broken { at: usize },
}

/// Expands a spec.
///
/// # Errors
/// Every place where a variable is unset, is not a name, or cannot be put in.
pub(crate) fn expand(source: &str, environment: &Environment) -> Result<String, Vec<Place>> {
    // A value that holds "${" is meant as it is, so it is written as a literal too.
    let literal = |(name, value): (&String, &String)| (name.clone(), value.replace("${", "$${"));
    let environment = &environment.iter().map(literal).collect();
    let before = yaml::scalars(source).map_err(|place| vec![place])?;
    let mut result = String::with_capacity(source.len());
    let mut places = Vec::new();
    let mut copied = 0;
    for scalar in before.iter().filter(|scalar| scalar.role == Role::Value) {
        let raw = scalar.raw(source);
        if !raw.contains("${") {
            continue;
        }
        match replace(scalar, raw, environment) {
            Ok(new) => {
                result.push_str(&source[copied..scalar.start]);
                result.push_str(&new);
                copied = scalar.end;
            }
            Err(bad) => places.extend(
                bad.into_iter()
                    .map(|(at, text)| yaml::place(source, scalar.start + at, text)),
            ),
        }
    }
    result.push_str(&source[copied..]);
    if !places.is_empty() {
        return Err(places);
    }
    verify(source, &before, &result, environment)?;
    Ok(result)
}

/// Splits a text at its variables.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut rest = 0;
    while let Some(dollar) = text[rest..].find("${").map(|at| at + rest) {
        if text[..dollar].ends_with('$') && dollar > rest {
            // "$${" stays: the agent reads it as "${".
            found.push(Piece::Text(&text[rest..dollar + 2]));
            rest = dollar + 2;
            continue;
        }
        found.push(Piece::Text(&text[rest..dollar]));
        let name = text[dollar + 2..].split_once('}').map(|(name, _)| name);
        match name.filter(|name| is_name(name)) {
            Some(name) => {
                found.push(Piece::Variable { at: dollar, name });
                rest = dollar + 2 + name.len() + 1;
            }
            None => {
                found.push(Piece::Broken { at: dollar });
                rest = dollar + 2;
            }
        }
    }
    found.push(Piece::Text(&text[rest..]));
    found
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What is wrong at a byte offset of a scalar.
type Wrong = (usize, String);

/// Returns the new source text of one scalar.
fn replace(scalar: &Scalar, raw: &str, environment: &Environment) -> Result<String, Vec<Wrong>> {
    let mut wrong = Vec::new();
    let mut values = Vec::new();
    let split = pieces(raw);
    for piece in &split {
        match *piece {
            Piece::Text(text) => values.push((None, text)),
            Piece::Variable { at, name } => match environment.get(name) {
                Some(value) => values.push((Some((at, name)), value.as_str())),
                None => wrong.push((at, format!("the variable {name} is not set in the job"))),
            },
            Piece::Broken { at } => wrong.push((
                at,
                "expected ${NAME} with a name of letters, digits and '_'; write $${ for a literal ${"
                    .to_owned(),
            )),
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    match scalar.style {
        ScalarStyle::Plain => Ok(quote::plain(&values)),
        ScalarStyle::SingleQuoted => Ok(quote::single(&values)),
        ScalarStyle::DoubleQuoted => Ok(quote::double(&values)),
        ScalarStyle::Literal => quote::block(&values, Some(scalar.indent)),
        ScalarStyle::Folded => quote::block(&values, None),
    }
}

/// Reads the result and compares it with what was meant.
fn verify(
    source: &str,
    before: &[Scalar],
    result: &str,
    environment: &Environment,
) -> Result<(), Vec<Place>> {
    let misfit = "the value of a variable does not fit here; put the text in double quotes";
    let surprise = |at: usize| vec![yaml::place(source, at, misfit.to_owned())];
    let after = yaml::scalars(result).map_err(|place| {
        vec![Place {
            message: misfit.to_owned(),
            ..place
        }]
    })?;
    for (old, new) in before.iter().zip(&after) {
        let mut meant = match old.role {
            Role::Key => old.value.clone(),
            Role::Value => text_of(&old.value, environment),
        };
        let mut read = new.value.clone();
        if matches!(old.style, ScalarStyle::Literal | ScalarStyle::Folded) {
            // The block header decides how many line ends are kept, before and after.
            meant.truncate(meant.trim_end_matches('\n').len());
            read.truncate(read.trim_end_matches('\n').len());
        }
        if old.path != new.path || old.role != new.role || meant != read {
            return Err(surprise(old.start));
        }
    }
    if before.len() == after.len() {
        Ok(())
    } else {
        Err(surprise(before.last().map_or(0, |scalar| scalar.start)))
    }
}

/// Expands a text that has no quoting. Unset variables were refused before.
fn text_of(text: &str, environment: &Environment) -> String {
    pieces(text)
        .into_iter()
        .map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Variable { name, .. } => environment.get(name).map_or("", String::as_str),
            Piece::Broken { .. } => "${",
        })
        .collect()
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;
