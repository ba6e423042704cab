//! Takes values out of a stream of bytes as it passes: `[MASKED]` stands where one stood.
//!
//! Used by `exec` for what its command writes. A value can come in several pieces, so what may be the
//! beginning of one is held back until it is clear what it is, and nothing else is. When the command
//! falls silent, a beginning of fewer than [`SHORT`] bytes is shown all the same, so that a prompt
//! appears; the rest of the value, should it come, is still masked.

use proto::redact;
use proto::redact::Needles;
use std::rc::Rc;
use zeroize::Zeroizing;

/// What stands in place of a value, as in GitLab's own job logs.
const MARK: &[u8] = b"[MASKED]";
/// Values that are shorter are not masked, and beginnings that are shorter may be shown.
pub(crate) const SHORT: usize = 4;

/// Values to mask, in all their forms.
#[derive(Default)]
pub(crate) struct Values(Needles<2>);

impl Values {
    /// Adds a value; says whether it is long enough to be masked. An empty one needs no masking.
    pub(crate) fn add(&mut self, value: &[u8]) -> bool {
        if value.len() < SHORT {
            return value.is_empty();
        }
        let forms = redact::plain(value, SHORT).into_iter();
        for form in forms.chain(redact::encoded(value)) {
            self.0.push(form);
        }
        true
    }
}

/// One stream that is masked.
pub(crate) struct Mask {
    values: Rc<Values>,
    /// What may be the beginning of a value, with what it is known to hold.
    held: Zeroizing<Vec<u8>>,
    /// So many bytes of `held` are out already: shown, or masked.
    out: usize,
    /// Whether a mark was the last that went out.
    marked: bool,
}

/// What is known about the end of what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// More may come.
    Open,
    /// Nothing comes any more.
    Over,
}

impl Mask {
    /// Begins a stream.
    pub(crate) fn new(values: Rc<Values>) -> Self {
        Self {
            values,
            held: Zeroizing::default(),
            out: 0,
            marked: false,
        }
    }

    /// Takes bytes; appends to `to` what may be shown.
    pub(crate) fn feed(&mut self, bytes: &[u8], to: &mut Vec<u8>) {
        self.held.extend_from_slice(bytes);
        self.settle(End::Open, to);
    }

    /// Ends the stream; appends the rest to `to`.
    pub(crate) fn finish(&mut self, to: &mut Vec<u8>) {
        self.settle(End::Over, to);
    }

    /// Says whether [`Self::idle`] would show something.
    pub(crate) fn waits(&self) -> bool {
        self.held.len() < SHORT && self.out < self.held.len()
    }

    /// Appends to `to` what is held, if that tells little of a value.
    pub(crate) fn idle(&mut self, to: &mut Vec<u8>) {
        if self.waits() {
            self.show(self.held.len(), to);
        }
    }

    fn settle(&mut self, end: End, to: &mut Vec<u8>) {
        let mut hits = Vec::new();
        let needles = &self.values.0;
        needles.find(&self.held, |start, end| hits.push((start, end)));
        let clear = match end {
            End::Open => needles.unfinished(&self.held),
            End::Over => self.held.len(),
        };
        // What begins behind that is found again with what follows.
        for (start, end) in redact::merge(hits) {
            if start >= clear {
                break;
            }
            if end <= self.out {
                continue;
            }
            self.show(start, to);
            if !(self.marked && start <= self.out) {
                to.extend_from_slice(MARK);
            }
            self.out = end;
            self.marked = true;
        }
        self.show(clear, to);
        self.held.drain(..clear);
        self.out = self.out.saturating_sub(clear);
    }

    /// Shows what is not out yet up to a place.
    fn show(&mut self, up_to: usize, to: &mut Vec<u8>) {
        if let Some(text) = self.held.get(self.out..up_to)
            && !text.is_empty()
        {
            to.extend_from_slice(text);
            self.out = up_to;
            self.marked = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(values: &[&str]) -> Mask {
        let mut all = Values::default();
        for value in values {
            assert!(all.add(value.as_bytes()), "{value}");
        }
        Mask::new(Rc::new(all))
    }

    /// Feeds pieces, ends, and returns what came after each.
    fn passed(mask: &mut Mask, pieces: &[&str]) -> Vec<String> {
        let mut all = Vec::new();
        for piece in pieces {
            let mut out = Vec::new();
            mask.feed(piece.as_bytes(), &mut out);
            all.push(String::from_utf8(out).expect("text"));
        }
        let mut out = Vec::new();
        mask.finish(&mut out);
        all.push(String::from_utf8(out).expect("text"));
        all
    }

    fn whole(values: &[&str], text: &str) -> String {
        passed(&mut mask(values), &[text]).concat()
    }

    #[test]
    fn a_value_is_masked_wherever_it_is_split() {
        let text = "before s3cret-value, after s3cret-value\n";
        let expected = "before [MASKED], after [MASKED]\n";
        for at in 0..=text.len() {
            let (first, second) = text.split_at(at);
            let out = passed(&mut mask(&["s3cret-value"]), &[first, second]);
            assert_eq!(out.concat(), expected, "{at}");
        }
        let bytes: Vec<&str> = text.split("").collect();
        let out = passed(&mut mask(&["s3cret-value"]), &bytes);
        assert_eq!(out.concat(), expected);
    }

    #[test]
    fn only_what_may_begin_a_value_is_held_back() {
        let out = passed(
            &mut mask(&["s3cret-value"]),
            &["name: ", "pass ", "s3c", "ond\n"],
        );
        assert_eq!(out, ["name: ", "pass ", "", "s3cond\n", ""]);
    }

    #[test]
    fn a_short_beginning_is_shown_in_silence_and_the_rest_is_masked() {
        let mut mask = mask(&["s3cret-value"]);
        let mut out = Vec::new();
        mask.feed(b"your name, s", &mut out);
        assert!(mask.waits());
        mask.idle(&mut out);
        assert_eq!(out, b"your name, s");
        assert!(!mask.waits(), "there is nothing more to show");
        mask.feed(b"3cret-value!", &mut out);
        mask.finish(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), "your name, s[MASKED]!");
    }

    #[test]
    fn a_value_that_comes_slowly_is_not_shown_byte_by_byte() {
        let mut mask = mask(&["s3cret-value"]);
        let mut out = Vec::new();
        for byte in b"s3cret-value" {
            mask.feed(&[*byte], &mut out);
            mask.idle(&mut out);
        }
        mask.finish(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), "s3c[MASKED]");
    }

    #[test]
    fn values_that_overlap_or_follow_each_other_leave_nothing_behind() {
        let values = ["abcdef", "efghij"];
        assert_eq!(whole(&values, "xabcdefghijx"), "x[MASKED]x");
        assert_eq!(
            passed(&mut mask(&values), &["xabcdef", "ghijx"]).concat(),
            "x[MASKED]x"
        );
        assert_eq!(
            passed(&mut mask(&values), &["xabcdef", "gx"]).concat(),
            "x[MASKED]gx"
        );
        assert_eq!(whole(&["aaaa"], "aaaaaaa aaa"), "[MASKED] aaa");
    }

    #[test]
    fn a_value_inside_a_longer_one_does_not_uncover_it() {
        let values = ["inner", "an-inner-value"];
        for at in 0..=14 {
            let (first, second) = "an-inner-value".split_at(at);
            let out = passed(&mut mask(&values), &[first, second]).concat();
            assert_eq!(out, "[MASKED]", "{at}");
        }
        assert_eq!(whole(&values, "an-inner-valley"), "an-[MASKED]-valley");
    }

    #[test]
    fn every_form_is_masked() {
        let value = "p/ss\"w+rd é'";
        for form in [
            value.to_owned(),
            "cC9zcyJ3K3JkIMOpJw".to_owned(),
            "p%2Fss%22w%2Brd%20%C3%A9%27".to_owned(),
            "p%2fss%22w%2brd+%c3%a9%27".to_owned(),
            "p/ss\\\"w+rd é'".to_owned(),
            "p/ss\\\"w+rd \\u00e9'".to_owned(),
            "p/ss\"w+rd é'\\''".to_owned(),
        ] {
            assert_eq!(
                whole(&[value], &format!("<{form}>")),
                "<[MASKED]>",
                "{form}"
            );
        }
    }

    #[test]
    fn lines_of_a_value_are_masked_one_by_one() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADAN\nBgkqhkiG\n-----END KEY-----\n";
        let text = "got MIIEvQIBADAN\r\nand BgkqhkiG;\n";
        assert_eq!(whole(&[key], text), "got [MASKED]\r\nand [MASKED];\n");
        assert_eq!(whole(&[key], key), "[MASKED]");
    }

    #[test]
    fn short_values_are_not_masked_and_bytes_pass_as_they_are() {
        let mut values = Values::default();
        assert!(!values.add(b"abc") && values.add(b"") && values.add(b"abcd"));
        let mut mask = Mask::new(Rc::new(values));
        let mut out = Vec::new();
        mask.feed(&[0xff, 0, b'a', b'b', b'c', 0xfe], &mut out);
        mask.finish(&mut out);
        assert_eq!(out, [0xff, 0, b'a', b'b', b'c', 0xfe]);
    }
}
