//! What a template may consist of, checked token by token before minijinja sees it.
//!
//! Called by [`super::Template`]. Inside `{{ }}` there are names, text in quotes, `~`, `|` with one
//! of the three filters, and parentheses: no numbers, calls, loops or conditions, so rendering is
//! bounded by the size of the values.

use std::collections::BTreeSet;

/// Bytes of a template.
const MAX_TEXT: usize = 64 << 10;
/// Tokens of one expression.
const MAX_TOKENS: usize = 64;
/// Nested parentheses.
const MAX_NESTING: usize = 8;
/// Filters in a row.
const MAX_FILTERS: usize = 4;

const RESERVED: &[&str] = &[
    "true", "false", "none", "True", "False", "None", "and", "or", "not", "in", "is", "if", "else",
    "loop", "self", "super", "caller",
];

/// What a template uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// Every name.
    pub(super) names: BTreeSet<String>,
    /// Names whose value has to be text: used other than as `name | b64`.
    pub(super) text_names: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Name(&'a str),
    Text,
    Tilde,
    Pipe,
    Open,
    Close,
}

/// Checks a template and collects what it uses.
pub(super) fn scan(text: &str) -> Result<Uses, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("is over {MAX_TEXT} bytes"));
    }
    if text.contains("{%") {
        return Err("has a statement ({% %}); only expressions ({{ }}) are taken".to_owned());
    }
    if text.contains("{#") {
        return Err("has a comment ({# #}); only expressions ({{ }}) are taken".to_owned());
    }
    let mut uses = Uses::default();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let inside = &rest[start + 2..];
        let (tokens, after) = tokens(inside.strip_prefix(['-', '+']).unwrap_or(inside))?;
        expression(&tokens, &mut uses)?;
        rest = after;
    }
    Ok(uses)
}

/// Reads tokens up to `}}`; returns them and the text behind.
fn tokens(mut rest: &str) -> Result<(Vec<Token<'_>>, &str), String> {
    let mut tokens = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        if let Some(after) = rest.strip_prefix("}}").or_else(|| rest.strip_prefix("-}}")) {
            return Ok((tokens, after));
        }
        let Some(first) = rest.chars().next() else {
            return Err("has '{{' without '}}'".to_owned());
        };
        let (token, length) = match first {
            '~' => (Token::Tilde, 1),
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '"' | '\'' => (Token::Text, quoted(rest, first)?),
            _ if first.is_ascii_alphabetic() || first == '_' => {
                let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
                let length = rest.find(|letter| !word(letter)).unwrap_or(rest.len());
                (Token::Name(&rest[..length]), length)
            }
            '-' | '.' => return Err(not_an_identifier(first)),
            _ => {
                return Err(
                    "has an expression with more than names, quoted text, '~', '|' and \
                     parentheses"
                        .to_owned(),
                );
            }
        };
        tokens.push(token);
        if tokens.len() > MAX_TOKENS {
            return Err(format!(
                "has an expression with more than {MAX_TOKENS} parts"
            ));
        }
        rest = &rest[length..];
    }
}

fn not_an_identifier(sign: char) -> String {
    format!(
        "has '{sign}' in an expression: only keys whose name is an identifier (letters, digits and \
         '_') can be used in templates; name the key so (api_key instead of api-key)"
    )
}

/// Returns the length of a quoted text with its quotes.
fn quoted(text: &str, quote: char) -> Result<usize, String> {
    let mut escaped = false;
    for (position, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return Ok(position + 1),
            _ => {}
        }
    }
    Err("has a quoted text without an end".to_owned())
}

/// Checks the order of tokens: values joined by `~`, each with filters behind.
fn expression(tokens: &[Token<'_>], uses: &mut Uses) -> Result<(), String> {
    let wrong = || "is not a valid expression".to_owned();
    let mut depth = 0_usize;
    let mut filters = 0_usize;
    let mut value_comes = true;
    let mut position = 0;
    while let Some(token) = tokens.get(position) {
        position += 1;
        match (token, value_comes) {
            (Token::Name(name), true) => {
                take_name(name, tokens.get(position..position + 2), uses)?;
                value_comes = false;
            }
            (Token::Text, true) => value_comes = false,
            (Token::Open, true) => {
                depth += 1;
                if depth > MAX_NESTING {
                    return Err(format!("has more than {MAX_NESTING} nested parentheses"));
                }
            }
            (Token::Close, false) => {
                depth = depth.checked_sub(1).ok_or_else(wrong)?;
                filters = 0;
            }
            (Token::Tilde, false) => {
                value_comes = true;
                filters = 0;
            }
            (Token::Pipe, false) => {
                filter(tokens.get(position))?;
                position += 1;
                filters += 1;
                if filters > MAX_FILTERS {
                    return Err(format!("has more than {MAX_FILTERS} filters in a row"));
                }
            }
            (Token::Name(_) | Token::Text | Token::Open, false)
            | (Token::Close | Token::Tilde | Token::Pipe, true) => return Err(wrong()),
        }
    }
    if value_comes || depth > 0 {
        return Err(wrong());
    }
    Ok(())
}

fn take_name(name: &str, next: Option<&[Token<'_>]>, uses: &mut Uses) -> Result<(), String> {
    if RESERVED.contains(&name) {
        return Err(format!(
            "uses '{name}', which is a reserved word of templates"
        ));
    }
    uses.names.insert(name.to_owned());
    if next != Some(&[Token::Pipe, Token::Name("b64")]) {
        uses.text_names.insert(name.to_owned());
    }
    Ok(())
}

fn filter(token: Option<&Token<'_>>) -> Result<(), String> {
    match token {
        Some(Token::Name("b64" | "json" | "url")) => Ok(()),
        _ => Err("uses an unknown filter; there are b64, json and url".to_owned()),
    }
}
