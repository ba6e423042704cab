//! Takes the values of a run's secrets out of every text that leaves the agent.
//!
//! Fed by [`crate::resolve`] through [`crate::log::RunLog::learn`] as soon as a value is known; used
//! for each event and for the report. A value is found in every form that [`proto::redact`] knows: raw,
//! line by line, as base64 (also inside a longer base64 text), percent-encoded and JSON-escaped. A value
//! shorter than [`SHORT`] bytes is found raw only as a whole word: taking every `1` or every `demo` out
//! of a log would leave no log.

use proto::redact;
use proto::redact::Form;
use proto::redact::Needles;

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
        // What is no text can stand in a text encoded only.
        if std::str::from_utf8(bytes).is_ok() {
            if bytes.len() < SHORT {
                self.words.push(Form::new(bytes.to_vec()));
            } else {
                let forms = redact::plain(bytes, LINE).into_iter();
                forms.for_each(|form| self.anywhere.push(form));
            }
        }
        if bytes.len() >= ENCODED {
            let forms = redact::encoded(bytes).into_iter();
            forms.for_each(|form| self.anywhere.push(form));
        }
    }

    /// Replaces every form of every value by `[redacted]`.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let mut hits: Vec<(usize, usize)> = Vec::new();
        let bytes = text.as_bytes();
        self.anywhere
            .find(bytes, |start, end| hits.push((start, end)));
        self.words.find(bytes, |start, end| {
            if is_word(text, start, end) {
                hits.push((start, end));
            }
        });
        if hits.is_empty() {
            return text.to_owned();
        }
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for (start, end) in redact::merge(hits) {
            out.push_str(&text[done..start]);
            out.push_str(MARK);
            done = end;
        }
        out.push_str(&text[done..]);
        out
    }
}

fn is_word(text: &str, start: usize, end: usize) -> bool {
    let before = text[..start].chars().next_back();
    let after = text[end..].chars().next();
    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
    !joins(before) && !joins(after)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
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
