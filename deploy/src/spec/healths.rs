//! The `health` of a spec: rules of the user's own for kinds that follow no convention.
//!
//! Called by [`super::parse()`]. An expression that cannot be read is an error at its line and column.

use super::fields::Errors;
use super::fields::Spot;
use crate::health::Expression;
use crate::health::Rule;

/// Reads all rules.
pub(super) fn rules(spot: &Spot<'_>, errors: &mut Errors) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for item in spot.items(errors) {
        let place = item.clone();
        let Some(rule) = rule(item, errors) else {
            continue;
        };
        let is_same = |other: &Rule| (&other.group, &other.kind) == (&rule.group, &rule.kind);
        if rules.iter().any(is_same) {
            errors.at(&place, "this kind has a rule already");
        }
        rules.push(rule);
    }
    rules
}

fn rule(item: Spot<'_>, errors: &mut Errors) -> Option<Rule> {
    let fields = item.fields(&["kind", "in_progress", "failed", "ready"], errors)?;
    let mut expression = |spot: Spot<'_>| spot.parsed(errors, Expression::parse);
    let in_progress = fields.take("in_progress").map(&mut expression);
    let failed = fields.take("failed").map(&mut expression);
    let kind = fields
        .need("kind", errors)
        .and_then(|spot| spot.parsed(errors, kind));
    let ready = fields
        .need("ready", errors)
        .and_then(|spot| spot.parsed(errors, Expression::parse));
    let (group, kind) = kind?;
    Some(Rule {
        group,
        kind,
        // An expression that was given and could not be read has its error by now.
        in_progress: in_progress.flatten(),
        failed: failed.flatten(),
        ready: ready?,
    })
}

/// Reads `example.com/Widget`.
fn kind(text: &str) -> Result<(String, String), &'static str> {
    let (group, kind) = text
        .split_once('/')
        .ok_or("write group and kind, such as example.com/Widget")?;
    if kind.is_empty() || !kind.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("write group and kind without a version, such as example.com/Widget");
    }
    if !group.contains('.') {
        return Err("the kinds of Kubernetes itself have their own rules");
    }
    Ok((group.to_owned(), kind.to_owned()))
}
