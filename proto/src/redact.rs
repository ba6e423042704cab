//! In which forms a secret value can stand in a text, and how they are found there.
//!
//! Shared by both sides of the socket, so that they agree on what counts as the value: the agent takes
//! the values of a run out of all that it tells, `quaymaster exec` those that it hands on out of what
//! the command writes. Bytes in, places out: what stands there instead is the caller's choice. The
//! forms are wiped when they are dropped.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

/// A part of a base64 text counts by itself from this length on.
const PART: usize = 8;
/// A value without the blanks around it counts from this length on.
const TRIMMED: usize = 6;
/// Widths at which tools break a base64 text: `openssl base64` and PEM, and `base64`.
const WIDTHS: [usize; 2] = [64, 76];
/// What percent-encoding leaves as it is: RFC 3986, and what `encodeURIComponent` leaves beside that.
const UNRESERVED: [&[u8]; 2] = [b"-._~", b"-._~!'()*"];

/// One form of a value.
pub type Form = Zeroizing<Vec<u8>>;

/// Lists the forms in which a value is still readable: as it is, trimmed, escaped for JSON and for a
/// shell, and each of its lines from `line` bytes on.
#[must_use]
pub fn plain(value: &[u8], line: usize) -> Vec<Form> {
    let mut forms = vec![form(value)];
    let Ok(text) = std::str::from_utf8(value) else {
        return forms;
    };
    let escaped = Zeroizing::new(serde_json::Value::from(text).to_string());
    let escaped = &escaped[1..escaped.len() - 1];
    forms.push(form(escaped.as_bytes()));
    forms.push(Zeroizing::new(escaped.replace('/', "\\/").into_bytes()));
    if !text.is_ascii() {
        forms.push(ascii_json(escaped));
    }
    if text.contains('\'') {
        forms.push(Zeroizing::new(text.replace('\'', "'\\''").into_bytes()));
    }
    let trimmed = text.trim();
    if trimmed != text && trimmed.len() >= line.min(TRIMMED) {
        forms.push(form(trimmed.as_bytes()));
    }
    let lines = text.lines().map(str::trim);
    // A line of signs alone, such as a brace, tells nothing and stands in many a text.
    let lines = lines.filter(|text| text.len() >= line && text.contains(char::is_alphanumeric));
    forms.extend(lines.map(|text| form(text.as_bytes())));
    forms
}

/// Lists the forms in which a value is encoded: base64 in both alphabets, whole, broken into lines and
/// inside a longer text at any alignment, and percent-encoded. A form that is the value itself is left out.
#[must_use]
pub fn encoded(value: &[u8]) -> Vec<Form> {
    let mut forms = Vec::new();
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        let whole = Zeroizing::new(engine.encode(value).into_bytes());
        for width in WIDTHS.into_iter().filter(|width| whole.len() > *width) {
            let lines = whole.chunks(width).filter(|line| line.len() >= PART);
            forms.extend(lines.map(form));
        }
        if whole.len() % 4 != 0 {
            let mut padded = Zeroizing::new(Vec::with_capacity(whole.len() + 3));
            padded.extend_from_slice(&whole);
            padded.resize(whole.len().next_multiple_of(4), b'=');
            forms.push(padded);
        }
        forms.push(whole);
        // Inside a longer text the value starts at any of three alignments; the characters that share
        // bits with its neighbors are cut off.
        for lead in 0..3_usize {
            let mut shifted = Zeroizing::new(vec![0_u8; lead]);
            shifted.extend_from_slice(value);
            let whole = shifted.len() / 3 * 3;
            let encoded = Zeroizing::new(engine.encode(&shifted[..whole]));
            let skip = [0, 2, 3][lead];
            if encoded.len() >= skip + PART {
                forms.push(form(&encoded.as_bytes()[skip..]));
            }
        }
    }
    for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
        for left in UNRESERVED {
            let escaped = percent(value, digits, left);
            if value.contains(&b' ') {
                // As a form sends it.
                let text = String::from_utf8_lossy(&escaped).replace("%20", "+");
                forms.push(Zeroizing::new(text.into_bytes()));
            }
            forms.push(escaped);
        }
    }
    forms.retain(|form| form.as_slice() != value);
    forms
}

fn form(bytes: &[u8]) -> Form {
    Zeroizing::new(bytes.to_vec())
}

/// Writes an escaped text as those do who write JSON in ASCII alone.
fn ascii_json(escaped: &str) -> Form {
    let mut out = Zeroizing::new(Vec::with_capacity(escaped.len() * 2));
    for letter in escaped.chars() {
        let mut units = [0; 2];
        if letter.is_ascii() {
            out.push(letter as u8);
            continue;
        }
        for unit in letter.encode_utf16(&mut units) {
            out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
        }
    }
    out
}

fn percent(bytes: &[u8], digits: &[u8; 16], left: &[u8]) -> Form {
    let mut out = Zeroizing::new(Vec::with_capacity(bytes.len() * 3));
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || left.contains(&byte) {
            out.push(byte);
        } else {
            out.push(b'%');
            out.push(digits[usize::from(byte >> 4)]);
            out.push(digits[usize::from(byte & 15)]);
        }
    }
    out
}

/// Forms to find, by their first bytes: a run with hundreds of values has thousands of them, and each
/// line of its log is searched for all.
pub struct Needles<const FIRST: usize> {
    begins: [bool; 256],
    by_first: HashMap<[u8; FIRST], Vec<Form>>,
    longest: usize,
}

impl<const FIRST: usize> Default for Needles<FIRST> {
    fn default() -> Self {
        Self {
            begins: [false; 256],
            by_first: HashMap::new(),
            longest: 0,
        }
    }
}

impl<const FIRST: usize> Needles<FIRST> {
    /// Adds a form; one that is shorter than `FIRST` bytes is left out.
    pub fn push(&mut self, needle: Form) {
        let Some(first) = needle.first_chunk::<FIRST>() else {
            return;
        };
        self.begins[usize::from(first[0])] = true;
        self.longest = self.longest.max(needle.len());
        let alike = self.by_first.entry(*first).or_default();
        if !alike.contains(&needle) {
            alike.push(needle);
        }
    }

    /// Reports every place of every form, overlapping ones too, as start and end.
    pub fn find(&self, text: &[u8], mut hit: impl FnMut(usize, usize)) {
        for (start, rest) in text.windows(FIRST).enumerate() {
            if !self.begins[usize::from(rest[0])] {
                continue;
            }
            let alike = rest.first_chunk().and_then(|rest| self.by_first.get(rest));
            for needle in alike.into_iter().flatten() {
                if text[start..].starts_with(needle) {
                    hit(start, start + needle.len());
                }
            }
        }
    }

    /// Returns where the first form begins that the end of the text has a part of; the length of the
    /// text where it ends with a part of none.
    #[must_use]
    pub fn unfinished(&self, text: &[u8]) -> usize {
        let from = text.len().saturating_sub(self.longest.saturating_sub(1));
        let mut starts = from..text.len();
        let found = starts.find(|start| self.could_go_on(&text[*start..]));
        found.unwrap_or(text.len())
    }

    fn could_go_on(&self, end: &[u8]) -> bool {
        if !self.begins[usize::from(end[0])] {
            return false;
        }
        let Some(first) = end.first_chunk::<FIRST>() else {
            let mut firsts = self.by_first.keys();
            return firsts.any(|first| first.starts_with(end));
        };
        let mut alike = self.by_first.get(first).into_iter().flatten();
        alike.any(|needle| needle.len() > end.len() && needle.starts_with(end))
    }
}

/// Joins places that overlap or touch.
#[must_use]
pub fn merge(mut hits: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    hits.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::with_capacity(hits.len());
    for (start, end) in hits {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            Some(_) | None => merged.push((start, end)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(forms: &[Form]) -> Vec<&str> {
        let texts = forms.iter();
        texts
            .map(|form| std::str::from_utf8(form).expect("text"))
            .collect()
    }

    #[test]
    fn a_value_has_its_readable_forms() {
        let forms = plain("it's \"é\"/1\n".as_bytes(), 4);
        for form in [
            "it's \"é\"/1\n",
            "it's \\\"é\\\"/1\\n",
            "it's \\\"é\\\"\\/1\\n",
            "it's \\\"\\u00e9\\\"/1\\n",
            "it'\\''s \"é\"/1\n",
            "it's \"é\"/1",
        ] {
            assert!(texts(&forms).contains(&form), "{form}");
        }
    }

    #[test]
    fn lines_count_by_themselves_unless_they_are_short_or_say_nothing() {
        let forms = plain(b"{\n  \"key\": 1,\r\n}}}}}}\nab\n", 4);
        let texts = texts(&forms);
        assert!(texts.contains(&"\"key\": 1,"), "{texts:?}");
        assert!(!texts.contains(&"}}}}}}") && !texts.contains(&"ab"));
    }

    #[test]
    fn bytes_that_are_no_text_have_encoded_forms_and_themselves() {
        assert_eq!(plain(&[0xff, 0, 1], 4), [form(&[0xff, 0, 1])]);
        assert!(encoded(&[0xff, 0, 1]).contains(&form(b"_wAB")));
        assert!(encoded(&[0xff, 0, 1]).contains(&form(b"%ff%00%01")));
    }

    #[test]
    fn a_value_that_encodes_to_itself_is_no_form_of_its_own() {
        assert!(!encoded(b"plain-value").contains(&form(b"plain-value")));
        assert!(encoded(b"two words!").contains(&form(b"two+words%21")));
        assert!(encoded(b"two words!").contains(&form(b"two%20words!")));
    }

    #[test]
    fn base64_that_is_broken_into_lines_is_found_line_by_line() {
        let value = [b'v'; 100];
        let whole = base64::engine::general_purpose::STANDARD.encode(value);
        let mut needles = Needles::<2>::default();
        encoded(&value)
            .into_iter()
            .for_each(|form| needles.push(form));
        for width in WIDTHS {
            let lines = whole.trim_end_matches('=').as_bytes().chunks(width);
            for line in lines.filter(|line| line.len() >= PART) {
                let mut hits = Vec::new();
                needles.find(line, |start, end| hits.push((start, end)));
                assert_eq!(merge(hits), [(0, line.len())]);
            }
        }
    }

    #[test]
    fn the_beginning_of_a_form_is_seen_at_the_end_of_a_text() {
        let mut needles = Needles::<2>::default();
        needles.push(form(b"secret"));
        needles.push(form(b"other-secret"));
        for (text, start) in [
            ("", 0),
            ("a", 1),
            ("as", 1),
            ("a secr", 2),
            ("a other-secr", 2),
            ("secret", 6),
            ("secretsec", 6),
            ("oth er", 6),
        ] {
            assert_eq!(needles.unfinished(text.as_bytes()), start, "{text}");
        }
        assert_eq!(Needles::<2>::default().unfinished(b"text"), 4);
    }
}
