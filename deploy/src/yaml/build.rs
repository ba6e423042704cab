//! Builds located trees from the parser's events, inside a budget.
//!
//! Called by the two readers of [`super`]. The size and height of everything that an alias stands for
//! are known when it is met, so an alias bomb costs nothing.

use std::collections::HashMap;
use std::collections::HashSet;
use std::rc::Rc;

use granit_parser::ErrorKind;
use granit_parser::Event;
use granit_parser::Options;
use granit_parser::Parser;
use granit_parser::ScalarStyle;
use granit_parser::ScanError;
use granit_parser::Span;
use granit_parser::StrInput;
use granit_parser::Tag;

use super::Flaw;
use super::FlawKind;
use super::shown;
use super::tree::Budget;
use super::tree::Content;
use super::tree::Dialect;
use super::tree::Extras;
use super::tree::Node;

/// Reads every document of a file, and takes what it uses off `left`.
pub(crate) fn documents(
    text: &str,
    dialect: Dialect,
    left: &mut Budget,
) -> Result<Vec<Node>, Flaw> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.disallow_directives = dialect.extras == Extras::Refused;
    // One level more than ours, so that the budget's own words are told.
    options.flow_nesting_limit = dialect.depth + 1;
    options.block_nesting_limit = dialect.depth + 1;
    let mut builder = Builder {
        dialect,
        documents: Vec::new(),
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        left: *left,
    };
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str_with_options(text, options);
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|error| scan_flaw(&error, dialect))?;
        builder.take(event, &span)?;
    }
    *left = builder.left;
    Ok(builder.documents)
}

/// A collection that is not closed yet.
struct Open {
    node: Node,
    anchor: usize,
    /// What is in it so far.
    weight: Weight,
    /// A key that waits for its value.
    key: Option<Node>,
    /// The keys so far, with their lines.
    keys: HashSet<String>,
}

/// What an anchor stands for.
struct Anchored {
    node: Rc<Node>,
    weight: Weight,
}

/// How much a node is with everything below it, aliases counted by what they stand for.
#[derive(Debug, Clone, Copy)]
struct Weight {
    nodes: usize,
    bytes: usize,
    /// Levels of collections.
    height: usize,
}

struct Builder {
    dialect: Dialect,
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    /// Nodes of this document so far.
    nodes: usize,
    /// What all documents together may still use.
    left: Budget,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Flaw> {
        let (line, column) = position(span);
        let node = |tag: Option<&Tag>, content| Node {
            line,
            column,
            tag: tag.map(tag_name),
            content,
        };
        match event {
            Event::DocumentStart(..) => {
                self.anchors.clear();
                self.nodes = 0;
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let content = if style == ScalarStyle::Plain {
                    Content::Plain(text.into_owned())
                } else {
                    Content::Quoted(text.into_owned())
                };
                let scalar = node(tag.as_deref(), content);
                self.check_extras(&scalar, anchor)?;
                let weight = Weight {
                    nodes: 1,
                    bytes: scalar.scalar().map_or(0, str::len),
                    height: 0,
                };
                self.count(&scalar, weight)?;
                self.close(scalar, anchor, weight)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(node(tag.as_deref(), Content::Sequence(Vec::new())), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(node(tag.as_deref(), Content::Mapping(Vec::new())), anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(done) => self.close(done.node, done.anchor, done.weight),
                None => Ok(()),
            },
            Event::Alias(id) => self.alias(id, line, column),
            // Marks of the stream and comments, not values. The enum is foreign and open.
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentEnd
            | Event::Anchor(..)
            | Event::UnresolvedAlias(_)
            | Event::Comment(..)
            | _ => Ok(()),
        }
    }

    fn alias(&mut self, id: usize, line: u64, column: u64) -> Result<(), Flaw> {
        if self.dialect.extras == Extras::Refused {
            return Err(Flaw::new(
                line,
                column,
                "aliases are not taken here; write the value out",
            ));
        }
        let Some(target) = self.anchors.get(&id) else {
            return Err(Flaw::new(
                line,
                column,
                "this alias stands inside its own anchor",
            ));
        };
        let weight = target.weight;
        let node = Node {
            line,
            column,
            tag: None,
            content: Content::Shared(Rc::clone(&target.node)),
        };
        self.count(&node, weight)?;
        self.close(node, 0, weight)
    }

    fn open(&mut self, node: Node, anchor: usize) -> Result<(), Flaw> {
        self.check_extras(&node, anchor)?;
        let weight = Weight {
            nodes: 1,
            bytes: 0,
            height: 1,
        };
        self.count(&node, weight)?;
        self.open.push(Open {
            node,
            anchor,
            weight,
            key: None,
            keys: HashSet::new(),
        });
        Ok(())
    }

    /// Puts a complete node where it belongs.
    fn close(&mut self, mut node: Node, anchor: usize, weight: Weight) -> Result<(), Flaw> {
        if anchor != 0 {
            let (line, column) = (node.line, node.column);
            let shared = Rc::new(node);
            let anchored = Anchored {
                node: Rc::clone(&shared),
                weight,
            };
            self.anchors.insert(anchor, anchored);
            node = Node {
                line,
                column,
                tag: None,
                content: Content::Shared(shared),
            };
        }
        let Some(parent) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        parent.weight = Weight {
            nodes: parent.weight.nodes.saturating_add(weight.nodes),
            bytes: parent.weight.bytes.saturating_add(weight.bytes),
            height: parent.weight.height.max(weight.height + 1),
        };
        match (&mut parent.node.content, parent.key.take()) {
            (Content::Mapping(entries), Some(key)) => entries.push((key, node)),
            (Content::Mapping(_), None) => {
                let Some(name) = node.scalar() else {
                    return Err(node.flaw("a key has to be plain text, not a list or mapping"));
                };
                if !parent.keys.insert(name.to_owned()) {
                    return Err(node.flaw(format!("{} is written twice", shown(name))));
                }
                parent.key = Some(node);
            }
            (Content::Sequence(items), _) => items.push(node),
            (Content::Plain(_) | Content::Quoted(_) | Content::Shared(_), _) => {}
        }
        Ok(())
    }

    fn check_extras(&self, node: &Node, anchor: usize) -> Result<(), Flaw> {
        if self.dialect.extras == Extras::Taken {
            return Ok(());
        }
        if anchor != 0 {
            return Err(node.flaw("anchors are not taken here; write the value out"));
        }
        if node.tag.is_some() {
            return Err(node.flaw("tags are not taken here; use quotes to say that it is text"));
        }
        Ok(())
    }

    /// Takes a node off the budget.
    fn count(&mut self, node: &Node, weight: Weight) -> Result<(), Flaw> {
        let height = weight.height;
        self.nodes = self.nodes.saturating_add(weight.nodes);
        let nodes_left = self.left.nodes.checked_sub(weight.nodes);
        let bytes_left = self.left.bytes.checked_sub(weight.bytes);
        let (Some(nodes), Some(bytes)) = (nodes_left, bytes_left) else {
            let message = "all files together have too many values or too much text, aliases \
                           counted by what they stand for";
            return Err(over(node.line, node.column, message.to_owned()));
        };
        self.left = Budget { nodes, bytes };
        let Dialect { depth, nodes, .. } = self.dialect;
        if self.nodes > nodes {
            return Err(over(
                node.line,
                node.column,
                format!(
                    "the document has more than {nodes} values, aliases counted by what they stand for"
                ),
            ));
        }
        if self.open.len().saturating_add(height) > depth {
            return Err(too_deep(node.line, node.column, self.dialect));
        }
        Ok(())
    }
}

fn over(line: u64, column: u64, message: String) -> Flaw {
    Flaw {
        kind: FlawKind::TooLarge,
        ..Flaw::new(line, column, message)
    }
}

fn too_deep(line: u64, column: u64, dialect: Dialect) -> Flaw {
    let message = format!("the nesting is deeper than {} levels", dialect.depth);
    // Nesting is a matter of shape, not of size: 422, not 413.
    Flaw::new(line, column, message)
}

fn position(span: &Span) -> (u64, u64) {
    (span.start.line() as u64, span.start.col() as u64 + 1)
}

/// Returns `str` for `!!str`, `` for `!`, and the whole tag for one of somebody's own.
fn tag_name(tag: &Tag) -> String {
    match tag.suffix_in_namespace("tag:yaml.org,2002:") {
        Some(name) => name.into_owned(),
        None if tag.handle() == "!" && tag.suffix().is_empty() => String::new(),
        None if tag.handle().is_empty() && tag.suffix() == "!" => String::new(),
        None => tag.original(),
    }
}

/// Says what the parser found, without the characters that it found.
fn scan_flaw(error: &ScanError, dialect: Dialect) -> Flaw {
    let (line, column) = (
        error.marker().line() as u64,
        error.marker().col() as u64 + 1,
    );
    let kind = error.kind();
    if matches!(kind, ErrorKind::RecursionLimitExceeded) {
        return too_deep(line, column, dialect);
    }
    let quoting = matches!(
        kind,
        ErrorKind::UnexpectedCharacter { .. }
            | ErrorKind::Custom(_)
            | ErrorKind::InputIo { .. }
            | ErrorKind::InputDecoding { .. }
    );
    let what = if quoting {
        "a character that cannot stand here; put the text in quotes".to_owned()
    } else if matches!(kind, ErrorKind::DirectiveDisallowed) {
        "directives (%YAML, %TAG) are not taken here".to_owned()
    } else {
        kind.to_string()
    };
    Flaw::new(line, column, format!("not valid YAML: {what}"))
}
