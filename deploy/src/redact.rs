//! Takes the values of a run's secrets out of every text that leaves the agent.
//!
//! Fed by [`crate::resolve`] through [`crate::log::RunLog::learn`] as soon as a value is known; used
//! for each event and for the report. A value is found raw, line by line, as base64 (standard and
//! URL alphabet, with and without padding, and inside a longer base64 text at any alignment),
//! percent-encoded and JSON-escaped. A value shorter than [`SHORT`] bytes is found raw only as a
//! whole word: taking every `1` or every `demo` out of a log would leave no log.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// What stands in place of a value.
const MARK: &str = "[redacted]";
/// Values shorter than this are found raw only as whole words.
const SHORT: usize = 6;
/// Values from this length on are found encoded as well.
const ENCODED: usize = 4;
/// Lines of a longer value count by themselves from this length on.
const LINE: usize = 8;

/// All values of one run, in all their forms.
#[derive(Default)]
pub struct Redactor {
    anywhere: Needles<2>,
    words: Needles<1>,
}

// Every form that is found anywhere has the two bytes that it is kept by.
const _: () = assert!(SHORT > 1 && ENCODED > 1 && LINE > 1);

impl Redactor {
    /// Adds a value in all its forms.
    pub fn add(&mut self, value: &Secret) {
        let bytes = value.bytes();
        if bytes.is_empty() {
            return;
        }
        let text = std::str::from_utf8(bytes).ok();
        if let Some(text) = text {
            if text.len() < SHORT {
                self.words.push(text.to_owned());
            } else {
                self.add_text(text);
            }
        }
        if bytes.len() >= ENCODED {
            self.add_base64(bytes);
            for digits in ["0123456789ABCDEF", "0123456789abcdef"] {
                let encoded = percent(bytes, digits);
                // A value that encodes to itself is found raw, or as a word.
                if encoded.as_bytes() != bytes {
                    self.anywhere.push(encoded);
                }
            }
        }
    }

    fn add_text(&mut self, text: &str) {
        self.anywhere.push(text.to_owned());
        let escaped = serde_json::Value::from(text).to_string();
        let escaped = &escaped[1..escaped.len() - 1];
        self.anywhere.push(escaped.to_owned());
        self.anywhere.push(escaped.replace('/', "\\/"));
        if text.trim() != text && text.trim().len() >= SHORT {
            self.anywhere.push(text.trim().to_owned());
        }
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| line.len() >= LINE)
        {
            self.anywhere.push(line.to_owned());
        }
    }

    fn add_base64(&mut self, bytes: &[u8]) {
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            self.anywhere.push(engine.encode(bytes));
            // Inside a longer text the value starts at any of three alignments; the characters that
            // share bits with its neighbors are cut off.
            for lead in 0..3_usize {
                let mut shifted = Zeroizing::new(vec![0_u8; lead]);
                shifted.extend_from_slice(bytes);
                let whole = shifted.len() / 3 * 3;
                let encoded = Zeroizing::new(engine.encode(&shifted[..whole]));
                let skip = [0, 2, 3][lead];
                if encoded.len() >= skip + LINE {
                    self.anywhere.push(encoded[skip..].to_owned());
                }
            }
        }
    }

    /// Replaces every form of every value by `[redacted]`.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let mut hits: Vec<(usize, usize)> = Vec::new();
        self.anywhere
            .find(text, |start, end| hits.push((start, end)));
        self.words.find(text, |start, end| {
            if is_word(text, start, end) {
                hits.push((start, end));
            }
        });
        if hits.is_empty() {
            return text.to_owned();
        }
        hits.sort_unstable();
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for (start, end) in merge(hits) {
            out.push_str(&text[done..start]);
            out.push_str(MARK);
            done = end;
        }
        out.push_str(&text[done..]);
        out
    }
}

/// Texts to find, by their first bytes: a run with hundreds of values has thousands of them, and each
/// line of its log is searched for all.
struct Needles<const FIRST: usize> {
    begins: [bool; 256],
    by_first: HashMap<[u8; FIRST], Vec<Zeroizing<String>>>,
}

impl<const FIRST: usize> Default for Needles<FIRST> {
    fn default() -> Self {
        Self {
            begins: [false; 256],
            by_first: HashMap::new(),
        }
    }
}

impl<const FIRST: usize> Needles<FIRST> {
    fn push(&mut self, needle: String) {
        let needle = Zeroizing::new(needle);
        let Some(first) = needle.as_bytes().first_chunk::<FIRST>() else {
            return;
        };
        self.begins[usize::from(first[0])] = true;
        let alike = self.by_first.entry(*first).or_default();
        if !alike.contains(&needle) {
            alike.push(needle);
        }
    }

    /// Reports every place of every needle, overlapping ones too.
    fn find(&self, text: &str, mut hit: impl FnMut(usize, usize)) {
        for (start, rest) in text.as_bytes().windows(FIRST).enumerate() {
            if !self.begins[usize::from(rest[0])] {
                continue;
            }
            let alike = rest.first_chunk().and_then(|rest| self.by_first.get(rest));
            for needle in alike.into_iter().flatten() {
                if text.as_bytes()[start..].starts_with(needle.as_bytes()) {
                    hit(start, start + needle.len());
                }
            }
        }
    }
}

fn is_word(text: &str, start: usize, end: usize) -> bool {
    let before = text[..start].chars().next_back();
    let after = text[end..].chars().next();
    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
    !joins(before) && !joins(after)
}

/// Joins ranges that overlap or touch; `hits` are sorted.
fn merge(hits: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    let mut merged: Vec<(usize, usize)> = Vec::with_capacity(hits.len());
    for (start, end) in hits {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            Some(_) | None => merged.push((start, end)),
        }
    }
    merged
}

fn percent(bytes: &[u8], digits: &str) -> String {
    let digits = digits.as_bytes();
    let mut out = String::with_capacity(bytes.len() * 3);
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(digits[usize::from(byte >> 4)]));
            out.push(char::from(digits[usize::from(byte & 15)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use base64::engine::general_purpose::URL_SAFE;

    use super::*;

    fn redactor(values: &[&str]) -> Redactor {
        let mut redactor = Redactor::default();
        for value in values {
            redactor.add(&Secret::from_text((*value).to_owned()));
        }
        redactor
    }

    #[test]
    fn every_form_is_found() {
        let value = "p/ss\"w+rd?é";
        let redactor = redactor(&[value]);
        let json = serde_json::Value::from(value).to_string();
        for form in [
            value.to_owned(),
            STANDARD.encode(value).trim_end_matches('=').to_owned(),
            URL_SAFE.encode(value).trim_end_matches('=').to_owned(),
            json[1..json.len() - 1].to_owned(),
            "p%2Fss%22w%2Brd%3F%C3%A9".to_owned(),
            "p%2fss%22w%2brd%3f%c3%a9".to_owned(),
        ] {
            assert_eq!(
                redactor.clean(&format!("a {form} b")),
                "a [redacted] b",
                "{form}"
            );
        }
    }

    #[test]
    fn a_value_inside_longer_base64_is_found_at_any_alignment() {
        let redactor = redactor(&["correct-horse-battery"]);
        for lead in ["", "x", "xy", "xyz"] {
            let text = STANDARD.encode(format!("{lead}correct-horse-battery tail"));
            let clean = redactor.clean(&text);
            assert!(clean.contains(MARK), "{lead}: {clean}");
            let rest = clean.replace(MARK, "");
            assert!(rest.len() <= text.len() - 24, "{lead}: {rest}");
        }
    }

    #[test]
    fn overlapping_values_leave_nothing_behind() {
        assert_eq!(
            redactor(&["abcdef", "efghij"]).clean("xabcdefghijx"),
            "x[redacted]x"
        );
        assert_eq!(redactor(&["aaaaaa"]).clean("aaaaaaaa"), "[redacted]");
    }

    #[test]
    fn short_values_are_found_as_words_only() {
        let redactor = redactor(&["ab"]);
        assert_eq!(
            redactor.clean("ab cab ab. x-ab"),
            "[redacted] cab [redacted]. x-ab"
        );
    }

    #[test]
    fn values_that_begin_alike_are_all_found() {
        let redactor = redactor(&["user-of-1", "user-of-12", "user-of-é", "us", "u"]);
        assert_eq!(
            redactor.clean("user-of-2 user-of-12 user-of-é us u"),
            "user-of-2 [redacted] [redacted] [redacted] [redacted]"
        );
    }

    #[test]
    fn lines_of_a_long_value_are_found_alone() {
        let redactor = redactor(&["-----BEGIN-----\nMIIEvQIBADAN\n-----END-----\n"]);
        assert_eq!(redactor.clean("got MIIEvQIBADAN"), "got [redacted]");
    }
}
