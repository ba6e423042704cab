//! Located YAML trees: values with their positions, and the budget for them.
//!
//! Made by [`super::build`], read by the two readers of [`super`] and by their callers. No walk over a
//! tree can go deeper or longer than the [`Dialect`] that it was built by.

use std::rc::Rc;

use super::Flaw;

/// The key that merges other mappings in, in YAML 1.1.
pub(crate) const MERGE: &str = "<<";

/// What a file may use, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// Whether tags, anchors, aliases and directives may be used.
    pub(crate) extras: Extras,
    /// How deep collections may be nested.
    pub(crate) depth: usize,
    /// How many nodes a document may have, aliases counted by what they stand for.
    pub(crate) nodes: usize,
}

/// Tags, anchors, aliases and directives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extras {
    /// None of them.
    Refused,
    /// All of them.
    Taken,
}

/// What all files of a bundle may still use together, aliases counted by what they stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Values.
    pub(crate) nodes: usize,
    /// Bytes of text.
    pub(crate) bytes: usize,
}

impl Default for Budget {
    /// A hundred values for each of 10,000 objects, and twice the bytes of the largest bundle; bounds
    /// the memory that one bundle can take.
    fn default() -> Self {
        Self {
            nodes: 1_000_000,
            bytes: 64 << 20,
        }
    }
}

/// One value and its position.
#[derive(Debug, PartialEq)]
pub(crate) struct Node {
    /// Counted from 1.
    pub(crate) line: u64,
    /// Counted from 1, in characters.
    pub(crate) column: u64,
    /// The part of the tag after its namespace (`str`), where there is one.
    pub(crate) tag: Option<String>,
    /// The value.
    pub(crate) content: Content,
}

/// A value.
#[derive(Debug, PartialEq)]
pub(crate) enum Content {
    /// Text without quotes, which is typed by its looks.
    Plain(String),
    /// Quoted or block text.
    Quoted(String),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values in the order of the file; no key twice.
    Mapping(Vec<(Node, Node)>),
    /// A value that has an anchor, or an alias of it.
    Shared(Rc<Node>),
}

impl Node {
    /// Looks through anchors and aliases.
    pub(crate) fn target(&self) -> &Self {
        match &self.content {
            Content::Shared(node) => node.target(),
            Content::Plain(_) | Content::Quoted(_) | Content::Sequence(_) | Content::Mapping(_) => {
                self
            }
        }
    }

    /// Returns the text of a scalar, however it was written.
    pub(crate) fn scalar(&self) -> Option<&str> {
        match &self.target().content {
            Content::Plain(text) | Content::Quoted(text) => Some(text),
            Content::Sequence(_) | Content::Mapping(_) | Content::Shared(_) => None,
        }
    }

    /// Returns the entries of a mapping.
    pub(crate) fn mapping(&self) -> Option<&[(Self, Self)]> {
        match &self.target().content {
            Content::Mapping(entries) => Some(entries),
            Content::Plain(_) | Content::Quoted(_) | Content::Sequence(_) | Content::Shared(_) => {
                None
            }
        }
    }

    /// Returns the items of a sequence.
    pub(crate) fn sequence(&self) -> Option<&[Self]> {
        match &self.target().content {
            Content::Sequence(items) => Some(items),
            Content::Plain(_) | Content::Quoted(_) | Content::Mapping(_) | Content::Shared(_) => {
                None
            }
        }
    }

    /// Returns the value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let mut entries = self.mapping()?.iter();
        entries
            .find(|(name, _)| name.scalar() == Some(key))
            .map(|(_, value)| value)
    }

    /// Makes a flaw at this node.
    pub(crate) fn flaw(&self, message: impl Into<String>) -> Flaw {
        Flaw::new(self.line, self.column, message)
    }
}
