//! What holds for any file: only marked bytes change, the rest reads as before, and twice is once.

use proptest::prelude::*;

use super::*;

/// One line of a generated file.
#[derive(Debug, Clone)]
enum Line {
    /// Something that stays.
    Other(String),
    /// A marked image: what is before, its quotes, what is behind.
    Marked(String, &'static str, String),
}

const OLD: &str = "r.io/team/web:1.0";
const MARK: &str = "# {\"$imagepolicy\": \"flux-system:web\"}";

fn line() -> impl Strategy<Value = Line> {
    let words = "[a-zA-Zäß世🚢 ]{0,20}";
    let quote = prop_oneof![Just(""), Just("'"), Just("\"")];
    prop_oneof![
        words.prop_map(|text| Line::Other(format!("# {text}"))),
        (0..1000_u32, words)
            .prop_map(|(key, text)| Line::Other(format!("k{key}: \"{text}\"   # {text}"))),
        (0..1000_u32).prop_map(|key| Line::Other(format!("u{key}: {OLD} # not marked"))),
        (0..1000_u32).prop_map(|key| Line::Other(format!("l{key}: [ 1, {{ a: {OLD} }}, \"x\" ]"))),
        (0..1000_u32).prop_map(|key| Line::Other(format!("b{key}: |\n  {OLD} {MARK}\n  more"))),
        Just(Line::Other(String::new())),
        Just(Line::Other("---".to_owned())),
        (0..1000_u32, " {1,3}", quote, " {1,3}").prop_map(
            |(key, gap, quote, behind)| Line::Marked(format!("m{key}:{gap}"), quote, behind)
        ),
    ]
}

fn text(lines: &[Line], end: &str, image: &str) -> String {
    let write = |line: &Line| match line {
        Line::Other(text) => text.replace('\n', end),
        Line::Marked(before, quote, behind) => {
            format!("{before}{quote}{image}{quote}{behind}{MARK}")
        }
    };
    let lines: Vec<String> = lines.iter().map(write).collect();
    lines.join(end) + end
}

proptest! {
    #[test]
    fn only_marked_bytes_differ(
        lines in prop::collection::vec(line(), 0..30),
        crlf in any::<bool>(),
        bom in any::<bool>(),
        tag in "[a-z][a-z0-9.]{0,8}",
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let mark = if bom { "\u{feff}" } else { "" };
        let new = format!("registry.example.com/web:{tag}");
        let before = format!("{mark}{}", text(&lines, end, OLD));
        let expected = format!("{mark}{}", text(&lines, end, &new));
        let images = BTreeMap::from([("web".to_owned(), ImageRef::parse(&new).expect("a reference"))]);
        let files = BTreeMap::from([("a.yaml".to_owned(), before.clone().into_bytes())]);
        // A key may be there twice, which is no matter here: places are found by where they stand.
        match edit(&files, &images, &[]) {
            Ok(edited) => {
                let after = edited.files.get("a.yaml").cloned().unwrap_or_else(|| before.into_bytes());
                prop_assert_eq!(String::from_utf8_lossy(&after), expected);
                let files = BTreeMap::from([("a.yaml".to_owned(), after)]);
                let again = edit(&files, &images, &[]).expect("it has places still");
                prop_assert!(again.files.is_empty() && again.changes.is_empty());
            }
            Err(EditError::NoPlace { .. }) => {
                prop_assert!(!lines.iter().any(|line| matches!(line, Line::Marked(..))));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
