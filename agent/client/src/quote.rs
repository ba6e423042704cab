//! Writes text into a YAML scalar without leaving the scalar.
//!
//! Called by `expand` only. Takes the pieces of a scalar's source text, where a piece with an
//! origin is a value of the environment and the others are source text of that style, and returns
//! source text again. Line breaks of the source are kept, values never add one, except in a
//! literal block.

/// A piece of a scalar: its origin (offset and variable) when it is a value, and the text.
pub(crate) type Part<'a> = (Option<(usize, &'a str)>, &'a str);

/// Words that a plain scalar cannot hold as text.
const NULLS: [&str; 5] = ["", "~", "null", "Null", "NULL"];

/// Writes a plain scalar; it stays plain where that is safe and becomes double quoted otherwise.
pub(crate) fn plain(parts: &[Part<'_>]) -> String {
    let joined: String = parts.iter().map(|(_, text)| *text).collect();
    if is_plain_safe(&joined) {
        return joined;
    }
    let mut out = String::from("\"");
    for (origin, text) in parts {
        match origin {
            Some(_) => escape(text, &mut out),
            None => escape_source(text, &mut out),
        }
    }
    out.push('"');
    out
}

/// Writes a single quoted scalar; it becomes double quoted where a value needs an escape.
pub(crate) fn single(parts: &[Part<'_>]) -> String {
    let hard = |text: &str| {
        text.chars().any(needs_escape)
            || text.starts_with([' ', '\t'])
            || text.ends_with([' ', '\t'])
    };
    if !parts
        .iter()
        .any(|(origin, text)| origin.is_some() && hard(text))
    {
        return parts
            .iter()
            .map(|(origin, text)| match origin {
                Some(_) => text.replace('\'', "''"),
                None => (*text).to_owned(),
            })
            .collect();
    }
    let mut out = String::from("\"");
    let last = parts.len() - 1;
    for (number, (origin, text)) in parts.iter().enumerate() {
        if origin.is_some() {
            escape(text, &mut out);
            continue;
        }
        // The scalar's own quotes are the first and the last byte of the source pieces.
        let text = if number == 0 {
            text.strip_prefix('\'').unwrap_or(text)
        } else {
            text
        };
        let text = if number == last {
            text.strip_suffix('\'').unwrap_or(text)
        } else {
            text
        };
        escape_source(&text.replace("''", "'"), &mut out);
    }
    out.push('"');
    out
}

/// Writes a double quoted scalar.
pub(crate) fn double(parts: &[Part<'_>]) -> String {
    let mut out = String::new();
    for (origin, text) in parts {
        match origin {
            Some(_) => escape(text, &mut out),
            None => out.push_str(text),
        }
    }
    out
}

/// Writes a block scalar. `indent` is set for a literal block, where values may have lines.
pub(crate) fn block(
    parts: &[Part<'_>],
    indent: Option<usize>,
) -> Result<String, Vec<(usize, String)>> {
    let mut out = String::new();
    let mut wrong = Vec::new();
    for (origin, text) in parts {
        let Some((at, name)) = origin else {
            out.push_str(text);
            continue;
        };
        if text
            .chars()
            .any(|c| needs_escape(c) && c != '\n' && c != '\t')
        {
            let why = "holds a control character, which a block text cannot hold";
            wrong.push((*at, format!("the value of {name} {why}; use double quotes")));
            continue;
        }
        let line = out.rsplit('\n').next().unwrap_or("");
        if line.trim().is_empty() && text.starts_with([' ', '\t']) {
            let why = "begins with a blank, which would change the indentation";
            wrong.push((*at, format!("the value of {name} {why}; use double quotes")));
            continue;
        }
        match indent {
            Some(width) => {
                out.push_str(&text.replace('\n', &format!("\n{}", " ".repeat(width))));
            }
            None if text.contains('\n') => wrong.push((
                *at,
                format!("the value of {name} has several lines, which '>' would fold; use '|'"),
            )),
            None => out.push_str(text),
        }
    }
    if wrong.is_empty() {
        Ok(out)
    } else {
        Err(wrong)
    }
}

/// Says whether a text can stand without quotes wherever a plain scalar can.
fn is_plain_safe(text: &str) -> bool {
    let starts =
        |c: char| c.is_alphanumeric() || matches!(c, '_' | '/' | '.' | '+' | '$' | '(' | '=');
    let number = |text: &str| {
        text.strip_prefix('-')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let first = text.chars().next();
    !NULLS.contains(&text)
        && (first.is_some_and(starts) || number(text))
        && !text.starts_with("...")
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text
            .chars()
            .any(|c| needs_escape(c) || matches!(c, '\n' | '\t' | ',' | '[' | ']' | '{' | '}'))
}

/// Says whether a character cannot stand as it is in a quoted scalar on one line.
fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
}

/// Appends a value for double quotes.
fn escape(text: &str, out: &mut String) {
    let last = text.chars().count().saturating_sub(1);
    for (number, c) in text.chars().enumerate() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Line folding takes blanks at the edges of a line away; an escape stays.
            ' ' if number == 0 || number == last => out.push_str("\\x20"),
            c if needs_escape(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
}

/// Appends source text of a plain or single quoted scalar for double quotes. Its line breaks stay:
/// both styles fold them in the same way.
fn escape_source(text: &str, out: &mut String) {
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
}
