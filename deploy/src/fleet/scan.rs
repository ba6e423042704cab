//! Where every scalar and comment of a YAML file stands.
//!
//! Used by the finders of [`super`]. Aliases are not followed: a place that one leads to stands elsewhere.

use std::collections::BTreeMap;
use std::ops::Range;

use granit_parser::Event;
use granit_parser::Parser;
use granit_parser::ScalarStyle;
use granit_parser::Span;

/// Most scalars of one file.
const SCALARS: usize = 250_000;

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The value of a key.
    Key(String),
    /// An item.
    Item(usize),
}

/// A scalar that is a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scalar {
    /// Which document of the file.
    pub(super) document: usize,
    pub(super) path: Vec<Step>,
    /// What it means.
    pub(super) value: String,
    pub(super) style: ScalarStyle,
    /// Its bytes, quotes included.
    pub(super) place: Range<usize>,
    /// The line, counted from 1.
    pub(super) line: u64,
    /// Whether it has an anchor or a tag.
    pub(super) is_special: bool,
    /// Whether it stands between brackets or braces.
    pub(super) in_flow: bool,
}

/// A comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Comment {
    pub(super) text: String,
    pub(super) start: usize,
    pub(super) line: u64,
}

/// All of a file.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) scalars: Vec<Scalar>,
    pub(super) comments: Vec<Comment>,
    /// Everything that is there, keys and aliases as well, for comparing.
    shape: Vec<String>,
    /// For each scalar its place in `shape`.
    places: Vec<usize>,
}

impl Scan {
    /// Finds a scalar by its path.
    pub(super) fn at(&self, document: usize, path: &[Step]) -> Option<&Scalar> {
        let mut scalars = self.scalars.iter();
        scalars.find(|scalar| scalar.document == document && scalar.path == path)
    }

    /// Finds a scalar of the top of a document.
    pub(super) fn field(&self, document: usize, path: &[&str]) -> Option<&Scalar> {
        let path: Vec<Step> = path
            .iter()
            .map(|key| Step::Key((*key).to_owned()))
            .collect();
        self.at(document, &path)
    }

    /// Returns how many documents there are.
    pub(super) fn documents(&self) -> usize {
        self.scalars.last().map_or(0, |scalar| scalar.document + 1)
    }
}

enum Open {
    Sequence {
        is_key: bool,
        next: usize,
        in_flow: bool,
    },
    Key {
        is_key: bool,
        in_flow: bool,
    },
    Value {
        is_key: bool,
        key: String,
        in_flow: bool,
    },
}

impl Open {
    const fn in_flow(&self) -> bool {
        match self {
            Self::Sequence { in_flow, .. }
            | Self::Key { in_flow, .. }
            | Self::Value { in_flow, .. } => *in_flow,
        }
    }
}

/// Reads a file; an error is the line where it stops being YAML.
pub(super) fn scan(text: &str) -> Result<Scan, u64> {
    let mut reader = Reader {
        scan: Scan::default(),
        open: Vec::new(),
        documents: 0,
    };
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| error.marker().line() as u64)?;
        reader.take(event, span, text);
        if reader.scan.shape.len() > SCALARS {
            return Err(span.start.line() as u64);
        }
    }
    Ok(reader.scan)
}

struct Reader {
    scan: Scan,
    open: Vec<Open>,
    documents: usize,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span, text: &str) {
        let place = span.byte_range().unwrap_or(0..0);
        match event {
            Event::Scalar(value, style, anchor, tag) => {
                let is_key = self.is_key();
                let shape = format!("{is_key}={value}");
                if !is_key {
                    let scalar = Scalar {
                        document: self.documents.saturating_sub(1),
                        path: self.path(),
                        value: value.to_string(),
                        style,
                        line: span.start.line() as u64,
                        is_special: anchor > 0 || tag.is_some(),
                        in_flow: self.open.last().is_some_and(Open::in_flow),
                        place,
                    };
                    self.scan.scalars.push(scalar);
                    self.scan.places.push(self.scan.shape.len());
                }
                self.scan.shape.push(shape);
                self.step(&value);
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.scan.shape.push("*".to_owned());
                self.step("");
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                let is_sequence = matches!(event, Event::SequenceStart(..));
                let is_key = self.is_key();
                // Block collections begin where their first item does, flow ones with a bracket.
                let begins = text[place.start..].trim_start();
                let in_flow = self.open.last().is_some_and(Open::in_flow)
                    || begins.starts_with(if is_sequence { '[' } else { '{' });
                self.scan
                    .shape
                    .push(if is_sequence { "[" } else { "{" }.to_owned());
                self.open.push(if is_sequence {
                    Open::Sequence {
                        is_key,
                        next: 0,
                        in_flow,
                    }
                } else {
                    Open::Key { is_key, in_flow }
                });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.scan.shape.push("]".to_owned());
                self.open.pop();
                self.step("");
            }
            Event::DocumentStart(..) => {
                self.documents += 1;
                self.scan.shape.push("---".to_owned());
            }
            Event::Comment(words, _) => self.scan.comments.push(Comment {
                text: words.to_string(),
                start: place.start,
                line: span.start.line() as u64,
            }),
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Anchor(..) | _ => {}
        }
    }

    fn is_key(&self) -> bool {
        match self.open.last() {
            None => false,
            Some(Open::Key { .. }) => true,
            Some(Open::Sequence { is_key, .. } | Open::Value { is_key, .. }) => *is_key,
        }
    }

    fn path(&self) -> Vec<Step> {
        let steps = self.open.iter().filter_map(|open| match open {
            Open::Sequence { next, .. } => Some(Step::Item(*next)),
            Open::Key { .. } => None,
            Open::Value { key, .. } => Some(Step::Key(key.clone())),
        });
        steps.collect()
    }

    /// Steps over a node that is complete.
    fn step(&mut self, text: &str) {
        let Some(top) = self.open.last_mut() else {
            return;
        };
        match top {
            Open::Sequence { next, .. } => *next += 1,
            Open::Key { is_key, in_flow } => {
                *top = Open::Value {
                    is_key: *is_key,
                    key: text.to_owned(),
                    in_flow: *in_flow,
                };
            }
            Open::Value {
                is_key, in_flow, ..
            } => {
                *top = Open::Key {
                    is_key: *is_key,
                    in_flow: *in_flow,
                };
            }
        }
    }
}

/// The fields of an entry of a kustomization that may come and go.
const LOOSE: [&str; 3] = ["true=newName", "true=newTag", "true=digest"];

/// Leaves out the fields that may come and go, with their values.
fn without(shape: &[String]) -> Vec<&str> {
    let mut kept = Vec::with_capacity(shape.len());
    let mut shapes = shape.iter().map(String::as_str);
    while let Some(one) = shapes.next() {
        if LOOSE.contains(&one) {
            shapes.next();
        } else {
            kept.push(one);
        }
    }
    kept
}

/// Looks whether a text is what was scanned with some scalars changed, by where they began, and fields of a
/// kustomization that were put in or taken out; an error is a line.
pub(super) fn compare(
    before: &Scan,
    text: &str,
    wanted: &BTreeMap<usize, String>,
) -> Result<(), u64> {
    let after = scan(text)?;
    let mut expected = before.shape.clone();
    for (scalar, place) in before.scalars.iter().zip(&before.places) {
        if let Some(new) = wanted.get(&scalar.place.start) {
            expected[*place] = format!("false={new}");
        }
    }
    if without(&expected) == without(&after.shape) && before.comments.len() == after.comments.len()
    {
        Ok(())
    } else {
        Err(1)
    }
}
