//! The words `conflicts` and `adopt`: what happens to fields that other managers own.
//!
//! Called by [`super::parse()`]; the rules are looked up by [`crate::terms`]. The first rule that fits a
//! contested field decides; a field that no rule fits fails the run.

use super::fields::Errors;
use super::fields::Spot;
use crate::field::FieldPath;
use crate::object::ObjectId;

/// What happens to a contested field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It becomes ours.
    Take,
    /// It stays the other's; what the manifest says of it is not sent.
    Leave,
    /// The run fails before anything is written.
    Fail,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictRule {
    /// `group/Kind`, or only the kind; unset is any.
    pub kind: Option<String>,
    /// The object's name; unset is any.
    pub name: Option<String>,
    /// The field, or what it is a part of.
    pub field: FieldPath,
    /// The other manager; `*` and unset are any.
    pub manager: Option<String>,
    /// What happens.
    pub then: Then,
}

impl ConflictRule {
    /// Says whether the rule is about this field of this object.
    #[must_use]
    pub fn fits(&self, id: &ObjectId, field: &FieldPath, manager: &str) -> bool {
        let kind = |wanted: &str| match wanted.rsplit_once('/') {
            // The core group is written as its version, as in policies.
            Some((group, kind)) => id.gvk.is(if group == "v1" { "" } else { group }, kind),
            None => id.gvk.kind == wanted,
        };
        self.kind.as_deref().is_none_or(kind)
            && self.name.as_ref().is_none_or(|name| *name == id.name)
            && self.manager.as_ref().is_none_or(|name| name == manager)
            && self.field.covers(field)
    }
}

/// Reads the rules.
pub(super) fn rules(spot: &Spot<'_>, errors: &mut Errors) -> Vec<ConflictRule> {
    let items = spot.items(errors);
    let rules = items.into_iter().filter_map(|item| rule(item, errors));
    rules.collect()
}

fn rule(spot: Spot<'_>, errors: &mut Errors) -> Option<ConflictRule> {
    let fields = spot.fields(&["kind", "name", "field", "manager", "then"], errors)?;
    let mut word = |name: &str| {
        let text = fields.take(name)?.text(errors)?;
        (text != "*").then(|| text.to_owned())
    };
    let (kind, name, manager) = (word("kind"), word("name"), word("manager"));
    let field = fields
        .need("field", errors)
        .and_then(|spot| spot.parsed(errors, str::parse::<FieldPath>));
    let then = fields.need("then", errors).and_then(|spot| {
        let then = match spot.text(errors)? {
            "take" => Then::Take,
            "leave" => Then::Leave,
            "fail" => Then::Fail,
            _ => {
                errors.at(&spot, "expected take, leave or fail");
                return None;
            }
        };
        Some(then)
    });
    Some(ConflictRule {
        kind,
        name,
        field: field?,
        manager,
        then: then?,
    })
}

/// Reads names of managers whose fields become ours.
pub(super) fn adopt(spot: &Spot<'_>, errors: &mut Errors) -> Vec<String> {
    let items = spot.items(errors);
    let mut names = Vec::new();
    for item in items {
        match item.text(errors) {
            Some("*") => errors.at(
                &item,
                "name every manager; taking from all would hide manual changes",
            ),
            Some(name) => names.push(name.to_owned()),
            None => {}
        }
    }
    names
}
