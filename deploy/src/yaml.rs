//! YAML with positions: one reader for the spec (strict) and for manifests (as kubectl reads them).
//!
//! [`build`] walks the parser's events and builds a located [`tree`] inside a budget; [`core`] types
//! scalars by YAML 1.2 for the spec, [`legacy`] by YAML 1.1 for manifests. Called by
//! [`crate::spec`] and [`crate::manifest`].
//!
//! Invariant: a [`Flaw`] never quotes the file: it holds positions and our own words, and at most
//! the name of a key that is made of harmless characters.

use proto::error::Place;

mod build;
pub(crate) mod core;
pub(crate) mod legacy;
pub(crate) mod tree;

/// What is wrong at one position of a YAML file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// Counted from 1; 0 where no line is known.
    pub(crate) line: u64,
    /// Counted from 1, in characters; 0 where it is not known.
    pub(crate) column: u64,
    /// What is wrong and what is expected.
    pub(crate) message: String,
    /// Whether it is only too much of something that is valid.
    pub(crate) kind: FlawKind,
}

/// Whether a file is wrong or only too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlawKind {
    /// It breaks a rule.
    Invalid,
    /// It is over a budget.
    TooLarge,
}

impl Flaw {
    /// Makes a flaw at a position.
    pub(crate) fn new(line: u64, column: u64, message: impl Into<String>) -> Self {
        Self {
            line,
            column,
            message: message.into(),
            kind: FlawKind::Invalid,
        }
    }

    /// Turns it into a place of `file`.
    pub(crate) fn place(self, file: &str) -> Place {
        Place {
            file: Some(file.to_owned()),
            line: (self.line > 0).then_some(self.line),
            column: (self.column > 0).then_some(self.column),
            path: None,
            message: self.message,
        }
    }
}

/// Decodes a file: UTF-8, with or without byte order mark.
pub(crate) fn text(file: &[u8]) -> Result<&str, Flaw> {
    let wide_mark = file.starts_with(&[0xff, 0xfe]) || file.starts_with(&[0xfe, 0xff]);
    let wide_letters = file.iter().take(4).any(|byte| *byte == 0);
    if wide_mark || wide_letters {
        return Err(Flaw::new(
            1,
            1,
            "the file is UTF-16 or binary; save it as UTF-8",
        ));
    }
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    std::str::from_utf8(file).map_err(|error| {
        let good = file.get(..error.valid_up_to()).unwrap_or_default();
        let line = 1 + good
            .iter()
            .fold(0, |lines, byte| lines + u64::from(*byte == b'\n'));
        Flaw::new(line, 0, "the file is not UTF-8 here")
    })
}

/// Names a key where it is harmless to do so: short, and made of the characters of field names.
pub(crate) fn shown(key: &str) -> String {
    let harmless = |letter: char| letter.is_ascii_alphanumeric() || "-._/".contains(letter);
    if !key.is_empty() && key.len() <= 64 && key.chars().all(harmless) {
        format!("'{key}'")
    } else {
        "this key".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_fine_and_utf_16_is_not() {
        assert_eq!(text(b"\xef\xbb\xbfa: 1"), Ok("a: 1"));
        for wide in [
            b"\xff\xfea\0".as_slice(),
            b"\xfe\xff\0a",
            b"a\0:\0 \0",
            b"\0a\0:",
        ] {
            assert_eq!(text(wide).unwrap_err().line, 1, "{wide:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_told_with_their_line() {
        assert_eq!(text(b"a: 1\nb: \xc3\x28\n").unwrap_err().line, 2);
        assert_eq!(text(b"a: 1\nb: \xc3").unwrap_err().line, 2);
    }

    #[test]
    fn only_harmless_keys_are_shown() {
        assert_eq!(shown("app.kubernetes.io/name"), "'app.kubernetes.io/name'");
        assert_eq!(shown("pass word"), "this key");
        assert_eq!(shown(&"x".repeat(65)), "this key");
        assert_eq!(shown(""), "this key");
    }
}
