//! Reads the scalars of `quaymaster.yaml` with their places: just enough for the client.
//!
//! Called by `expand` and `pack`. The agent is the one who judges a spec; this only has to find
//! values and the list of manifests, and to refuse what is no YAML at all. It never resolves
//! aliases, so it cannot be made to grow.

use granit_parser::Event;
use granit_parser::Parser;
use granit_parser::ScalarStyle;
use granit_parser::Span;
use proto::error::Place;

/// The name of the spec's file.
pub(crate) const SPEC_FILE: &str = "quaymaster.yaml";

/// What a scalar is to the collection that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A key, or a part of one.
    Key,
    /// A value or an item.
    Value,
}

/// One scalar.
#[derive(Debug)]
pub(crate) struct Scalar {
    /// Where it hangs: the keys above it; items are `[]`.
    pub(crate) path: Vec<String>,
    /// Key or value.
    pub(crate) role: Role,
    /// The text that it means.
    pub(crate) value: String,
    /// How it is written.
    pub(crate) style: ScalarStyle,
    /// Its first byte in the source, quotes included.
    pub(crate) start: usize,
    /// The byte after its last.
    pub(crate) end: usize,
    /// The column of its first character, counted from 0: for a block text its indentation.
    pub(crate) indent: usize,
}

impl Scalar {
    /// Returns its source text.
    pub(crate) fn raw<'a>(&self, source: &'a str) -> &'a str {
        source.get(self.start..self.end).unwrap_or("")
    }
}

/// A collection that is open.
enum Open {
    /// A sequence; the role of what it holds.
    Sequence(Role),
    /// A mapping before a key.
    Key(Role),
    /// A mapping before the value of this key.
    Value(Role, String),
}

/// Reads all scalars, in the order of the file.
///
/// # Errors
/// The place where the text stops being YAML.
pub(crate) fn scalars(source: &str) -> Result<Vec<Scalar>, Place> {
    let mut open: Vec<Open> = Vec::new();
    let mut found = Vec::new();
    for next in Parser::new_from_str(source) {
        let (event, span) = next.map_err(|error| {
            let at = error.marker().byte_offset().unwrap_or(0);
            let hint = "; inside { } and [ ] a text with ${NAME} needs quotes";
            place(
                source,
                at,
                format!("not valid YAML: {}{hint}", error.info()),
            )
        })?;
        match event {
            Event::Scalar(value, style, ..) => {
                let role = role(&open);
                found.push(scalar(&open, role, value.into_owned(), style, span));
                let key = found.last().map_or("", |scalar| scalar.value.as_str());
                advance(&mut open, key);
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => advance(&mut open, ""),
            Event::SequenceStart(..) => open.push(Open::Sequence(role(&open))),
            Event::MappingStart(..) => open.push(Open::Key(role(&open))),
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
                advance(&mut open, "");
            }
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::Anchor(..)
            | Event::Comment(..)
            | _ => {}
        }
    }
    Ok(found)
}

/// Blanks out the fields of a spec that are not named, so that what is left stands where it stood.
/// A spec that is no list of fields at the margin is left as it is.
///
/// # Errors
/// As [`scalars`].
pub(crate) fn parts(source: &str, named: &[&str]) -> Result<String, Place> {
    let scalars = scalars(source)?;
    let tops = scalars.iter();
    let tops = tops.filter(|scalar| scalar.path.is_empty() && scalar.role == Role::Key);
    let tops: Vec<&Scalar> = tops.collect();
    if tops.iter().any(|top| top.indent != 0) {
        return Ok(source.to_owned());
    }
    let mut left = String::with_capacity(source.len());
    let mut done = 0;
    for (number, top) in tops.iter().enumerate() {
        let end = tops.get(number + 1).map_or(source.len(), |next| next.start);
        left.push_str(&source[done..top.start]);
        let field = &source[top.start..end];
        if named.contains(&top.value.as_str()) {
            left.push_str(field);
        } else {
            left.extend(field.chars().filter(|letter| *letter == '\n'));
        }
        done = end;
    }
    left.push_str(&source[done..]);
    Ok(left)
}

/// Returns the role of the next node.
fn role(open: &[Open]) -> Role {
    match open.last() {
        None => Role::Value,
        Some(Open::Sequence(role) | Open::Value(role, _)) => *role,
        Some(Open::Key(_)) => Role::Key,
    }
}

/// Steps over a node that is complete.
fn advance(open: &mut [Open], text: &str) {
    if let Some(top) = open.last_mut() {
        match top {
            Open::Sequence(_) => {}
            Open::Key(role) => *top = Open::Value(*role, text.to_owned()),
            Open::Value(role, _) => *top = Open::Key(*role),
        }
    }
}

fn scalar(open: &[Open], role: Role, value: String, style: ScalarStyle, span: Span) -> Scalar {
    let path = open
        .iter()
        .filter_map(|open| match open {
            Open::Sequence(_) => Some("[]".to_owned()),
            Open::Key(_) => None,
            Open::Value(_, key) => Some(key.clone()),
        })
        .collect();
    let range = span.byte_range().unwrap_or(0..0);
    Scalar {
        path,
        role,
        value,
        style,
        start: range.start,
        end: range.end,
        indent: span.start.col(),
    }
}

/// Makes a place of a byte offset of the spec.
pub(crate) fn place(source: &str, at: usize, message: String) -> Place {
    let before = source.get(..at).unwrap_or(source);
    let before = before.strip_prefix('\u{feff}').unwrap_or(before);
    let line = before.rsplit('\n').next().unwrap_or("");
    Place {
        file: Some(SPEC_FILE.to_owned()),
        line: Some(before.matches('\n').count() as u64 + 1),
        column: Some(line.chars().count() as u64 + 1),
        path: None,
        message,
    }
}

/// What an entry of the spec names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// Manifests: a file, or the manifests of a folder.
    Manifests,
    /// A kustomization: its folder, and every file and folder that it names.
    Kustomization,
    /// A file, or a folder with everything in it.
    Whole,
}

/// Returns the entries of a spec that name files, in the order of the file.
pub(crate) fn entries(scalars: &[Scalar]) -> impl Iterator<Item = (Named, &Scalar)> {
    scalars.iter().filter_map(|scalar| {
        if scalar.role != Role::Value {
            return None;
        }
        let path: Vec<&str> = scalar.path.iter().map(String::as_str).collect();
        let named = match path.as_slice() {
            ["manifests", "[]"] => Named::Manifests,
            ["kustomize"] => Named::Kustomization,
            ["helm", "chart"] | ["helm", "values", "[]"] => Named::Whole,
            _ => return None,
        };
        Some((named, scalar))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_where_they_stood() {
        let source = "# a comment\nversion: 1\nimages: { a: \"${A}\" } # ${B}\nname: x\nsecrets:\n- é: ${C}\n\n\"expose\":\n  A: b\nrollout: {}\n";
        let left = parts(source, &["version", "name", "expose"]).expect("YAML");
        assert_eq!(
            left,
            "# a comment\nversion: 1\n\nname: x\n\n\n\n\"expose\":\n  A: b\n\n"
        );
        let all = ["version", "images", "name", "secrets", "expose", "rollout"];
        assert_eq!(parts(source, &all).expect("YAML"), source);
    }

    #[test]
    fn what_is_no_list_of_fields_at_the_margin_is_left_alone() {
        for source in [
            "{ version: 1, images: { a: b } }\n",
            "  version: 1\n  images: {}\n",
            "- version\n",
            "text\n",
            "",
        ] {
            assert_eq!(parts(source, &["version"]).expect("YAML"), source);
        }
        assert!(parts("a: [\n", &[]).is_err());
    }
}
