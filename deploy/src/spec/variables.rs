//! `${NAME}` in a spec: the job's variables, which somebody else has to put in.
//!
//! Called by [`super::parse()`] before anything else is read. `quaymaster` puts the values in before it
//! sends; what arrives here as `${NAME}` is a mistake. A literal `${` is written `$${`, by people and
//! by the client for values that hold one, and only here it becomes `${`: so both kinds of caller
//! write it alike and neither can be taken for the other. Keys hold no variables at all.

use super::fields::Errors;
use super::fields::Spot;
use crate::yaml::tree::Content;
use crate::yaml::tree::Node;

/// Reports every `${NAME}` that nobody replaced.
pub(super) fn check(root: &Node, errors: &mut Errors) {
    let whole = Spot {
        node: root,
        path: String::new(),
    };
    below(&whole, errors);
}

fn below(spot: &Spot<'_>, errors: &mut Errors) {
    if spot.node.scalar().is_some_and(has_variable) {
        errors.at(
            spot,
            "a variable ${...} was not replaced; `quaymaster deploy` replaces variables before \
             sending, the agent does not; write $${ for a literal ${",
        );
    }
    for (index, node) in spot.node.sequence().unwrap_or_default().iter().enumerate() {
        let path = format!("{}[{index}]", spot.path);
        below(&Spot { node, path }, errors);
    }
    for (key, value) in spot.node.mapping().unwrap_or_default() {
        let name = key.scalar().unwrap_or_default();
        if has_variable(&name.replace("$${", "${")) {
            let path = spot.path.clone();
            errors.at(
                &Spot { node: key, path },
                "a key holds no variables; write the name out",
            );
        }
        below(&spot.below(name, value), errors);
    }
}

/// Says whether a text has a `${NAME}` that is not written `$${NAME}`.
fn has_variable(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let escaped = rest[..at].ends_with('$');
        rest = &rest[at + 2..];
        let name = rest.split_once('}').map(|(name, _)| name);
        if !escaped && name.is_some_and(is_name) {
            return true;
        }
    }
    false
}

fn is_name(name: &str) -> bool {
    name.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Turns `$${` into `${` in every value. A spec has no anchors, so every value is met once.
pub(super) fn unescape(node: &mut Node) {
    match &mut node.content {
        Content::Plain(text) | Content::Quoted(text) => {
            if text.contains("$${") {
                *text = text.replace("$${", "${");
            }
        }
        Content::Sequence(items) => items.iter_mut().for_each(unescape),
        Content::Mapping(entries) => entries.iter_mut().for_each(|(_, value)| unescape(value)),
        Content::Shared(_) => {}
    }
}

/// Writes a text so that reading it gives the same text: the other way round of [`unescape`].
pub(super) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_variables_that_are_not_escaped_count() {
        for text in ["${A}", "x${a_1}y", "${{A}${B}", "$${A}${B}", "a$ ${A}"] {
            assert!(has_variable(text), "{text}");
        }
        for text in [
            "$A",
            "${",
            "${}",
            "${1}",
            "${a-b}",
            "{{ a }}",
            "$ {A}",
            "${a",
            "$${A}",
            "$$${A}",
            "$${A}$${B}",
        ] {
            assert!(!has_variable(text), "{text}");
        }
    }
}
