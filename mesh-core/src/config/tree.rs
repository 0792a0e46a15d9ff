//! YAML text to a tree whose every node knows its place.
//!
//! The text may be hostile: nothing here recurses with it, and its depth, its nodes, and what aliases multiply are
//! bounded. Collections are shared, so that an alias costs a reference count; what it stands for is counted anyway,
//! because whoever walks the tree walks all of it.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::problem::{Draft, Path, Position, Problems, shorten};
use super::scalar::{self, Kind};
use super::{MAX_ALIASED_BYTES, MAX_DEPTH, MAX_NODES, MAX_PIECE};

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Position,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    Sequence(Arc<Vec<Node>>),
    Map(Arc<Vec<Entry>>),
}

#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub(super) text: Arc<str>,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Arc<str>,
    pub(super) at: Position,
    pub(super) value: Node,
}

impl Node {
    /// An unquoted scalar.
    pub(super) fn plain(text: &str, at: Position) -> Self {
        Self { value: Value::Scalar(Scalar { text: text.into(), kind: scalar::resolve(text) }), at }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.kind == Kind::Null)
    }

    /// How a message names it.
    pub(super) fn shown(&self) -> String {
        match &self.value {
            Value::Scalar(Scalar { kind: Kind::String, text }) => format!("{:?}", shorten(text)),
            Value::Scalar(Scalar { kind: Kind::Null, .. }) => "nothing".into(),
            Value::Scalar(scalar) => shorten(&scalar.text),
            Value::Sequence(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
        }
    }

    /// A problem with it.
    pub(super) fn draft(&self, message: impl Into<String>) -> Draft {
        let draft = Draft::new(message);
        match &self.value {
            Value::Scalar(scalar) => draft.about(&scalar.text),
            Value::Sequence(_) | Value::Map(_) => draft,
        }
    }
}

/// The document in `text`. `Some` although a problem was reported if the rest can still be read.
pub(super) fn read(text: &str, problems: &mut Problems) -> Option<Node> {
    let since_event = Cell::new(0_usize);
    // Between two events the parser buffers without a limit of its own; it sees the text end instead.
    let chars = text.chars().take_while(|_| {
        since_event.set(since_event.get() + 1);
        since_event.get() <= MAX_PIECE
    });
    let mut builder = Builder::new(problems);
    for event in Parser::new_from_iter(chars) {
        if since_event.replace(0) > MAX_PIECE {
            let at = event.map_or_else(|error| *error.marker(), |(_, span)| span.start);
            let message =
                format!("more than {MAX_PIECE} characters in one piece: a text, a comment or a list in brackets");
            problems.report(position(at), Path::TOP, || Draft::new(message).help("write a long list with dashes"));
            return None;
        }
        match event {
            Ok((event, span)) => builder.take(event, position(span.start)).ok()?,
            Err(error) => {
                problems.report(position(*error.marker()), Path::TOP, || syntax(&error, text));
                return None;
            }
        }
    }
    let root = builder.root.take().filter(|root| !root.is_null());
    if root.is_none() {
        problems.report(Position::FILE, Path::TOP, || {
            let draft = Draft::new("there is no configuration in it");
            draft.help("an empty file does not stand for a mesh without services")
        });
    }
    root
}

fn syntax(error: &ScanError, text: &str) -> Draft {
    let help = match (error.info(), text.chars().nth(error.marker().index())) {
        (_, Some(c @ ('*' | '&' | '!' | '%' | '@' | '`'))) => {
            Some(format!("a text that begins with `{c}` must be quoted"))
        }
        (_, Some('\t')) => Some("indent with spaces, not with tabs".to_owned()),
        ("mapping values are not allowed in this context", _) => {
            Some("check the indentation; a text with `: ` in it must be quoted".to_owned())
        }
        ("simple key expect ':'" | "simple key expected", _) => Some("write `key: value`".to_owned()),
        _ => None,
    };
    Draft::new(format!("not valid YAML: {}", error.info())).maybe_help(help)
}

fn position(marker: Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

/// A problem behind which reading makes no sense; it has been reported.
struct Stop;

struct Builder<'a> {
    problems: &'a mut Problems,
    /// Collections that are open, the outermost first.
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    root: Option<Node>,
    documents: usize,
    /// Nodes so far, aliases written out.
    nodes: usize,
    /// Bytes of text so far, aliases written out.
    bytes: usize,
    /// The part of `bytes` that aliases added.
    aliased_bytes: usize,
}

struct Open {
    at: Position,
    anchor: usize,
    content: Content,
    /// Levels of collections below this one.
    height: usize,
    nodes_before: usize,
    bytes_before: usize,
}

enum Content {
    Sequence(Vec<Node>),
    Map { entries: Vec<Entry>, keys: HashMap<Arc<str>, usize>, key: PendingKey },
}

/// What is known of a map's next entry.
enum PendingKey {
    None,
    /// Its key; the value follows.
    Key(Arc<str>, Position),
    /// Its key was refused and its value goes with it.
    Refused,
}

/// What an alias may stand for.
enum Anchored {
    /// Still being read: an alias here would contain itself.
    Open,
    Closed {
        node: Node,
        height: usize,
        nodes: usize,
        bytes: usize,
    },
}

impl<'a> Builder<'a> {
    fn new(problems: &'a mut Problems) -> Self {
        Self {
            problems,
            open: Vec::new(),
            anchors: HashMap::new(),
            root: None,
            documents: 0,
            nodes: 0,
            bytes: 0,
            aliased_bytes: 0,
        }
    }

    fn take(&mut self, event: Event<'_>, at: Position) -> Result<(), Stop> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents == 1 {
                    return Ok(());
                }
                self.stop(at, "a second document begins here", "a configuration is one document: remove the `---`")
            }
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(text.as_ref().into(), style, tag.as_deref(), at);
                self.count(1, text.len(), at)?;
                if anchor > 0 {
                    let closed = Anchored::Closed { node: node.clone(), height: 0, nodes: 1, bytes: text.len() };
                    self.anchors.insert(anchor, closed);
                }
                self.attach(node, 0);
                Ok(())
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", at);
                self.open(Content::Sequence(Vec::new()), anchor, at)
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", at);
                let map = Content::Map { entries: Vec::new(), keys: HashMap::new(), key: PendingKey::None };
                self.open(map, anchor, at)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.close();
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, at),
        }
    }

    fn open(&mut self, content: Content, anchor: usize, at: Position) -> Result<(), Stop> {
        if self.open.len() >= MAX_DEPTH {
            return self.stop_too_deep(at);
        }
        let (nodes_before, bytes_before) = (self.nodes, self.bytes);
        self.count(1, 0, at)?;
        if anchor > 0 {
            self.anchors.insert(anchor, Anchored::Open);
        }
        self.open.push(Open { at, anchor, content, height: 0, nodes_before, bytes_before });
        Ok(())
    }

    fn close(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let value = match open.content {
            Content::Sequence(items) => Value::Sequence(Arc::new(items)),
            Content::Map { entries, .. } => Value::Map(Arc::new(entries)),
        };
        let node = Node { value, at: open.at };
        let height = open.height + 1;
        if open.anchor > 0 {
            let nodes = self.nodes - open.nodes_before;
            let bytes = self.bytes - open.bytes_before;
            self.anchors.insert(open.anchor, Anchored::Closed { node: node.clone(), height, nodes, bytes });
        }
        self.attach(node, height);
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), Stop> {
        let Some(Anchored::Closed { node, height, nodes, bytes }) = self.anchors.get(&anchor) else {
            return self.stop(at, "an alias inside the very value it stands for", "write the value out");
        };
        let (node, height, nodes, bytes) = (node.clone(), *height, *nodes, *bytes);
        if self.open.len() + height > MAX_DEPTH {
            return self.stop_too_deep(at);
        }
        self.aliased_bytes += bytes;
        if self.aliased_bytes > MAX_ALIASED_BYTES {
            let message = format!("its aliases stand for more than {MAX_ALIASED_BYTES} bytes of text");
            return self.stop(at, message, "use fewer aliases");
        }
        self.count(nodes, bytes, at)?;
        self.attach(node, height);
        Ok(())
    }

    fn count(&mut self, nodes: usize, bytes: usize, at: Position) -> Result<(), Stop> {
        self.nodes += nodes;
        self.bytes += bytes;
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        let message = format!("more than {MAX_NODES} values in one file, counting what aliases stand for");
        self.stop(at, message, "split the mesh, or use fewer aliases")
    }

    /// Puts a finished node where it belongs: below the innermost open collection, as an item, a key or a value.
    fn attach(&mut self, node: Node, height: usize) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        open.height = open.height.max(height);
        match &mut open.content {
            Content::Sequence(items) => items.push(node),
            Content::Map { entries, key, .. } => match std::mem::replace(key, PendingKey::None) {
                PendingKey::Key(key, at) => entries.push(Entry { key, at, value: node }),
                PendingKey::Refused => {}
                PendingKey::None => {
                    let next = self.key(node);
                    if let Some(Open { content: Content::Map { key, .. }, .. }) = self.open.last_mut() {
                        *key = next;
                    }
                }
            },
        }
    }

    fn key(&mut self, node: Node) -> PendingKey {
        let at = node.at;
        let text = match &node.value {
            Value::Scalar(Scalar { text, kind: Kind::String }) if &**text == "<<" => {
                self.report(at, || {
                    let draft = node.draft("`<<` is a merge key, which YAML 1.2 does not have");
                    draft.help("repeat the fields, or put an alias on a whole value")
                });
                return PendingKey::Refused;
            }
            Value::Scalar(Scalar { text, kind: Kind::String }) => text.clone(),
            Value::Scalar(Scalar { text, .. }) => {
                self.report(at, || {
                    let draft = node.draft(format!("{} is not text, which a key must be", node.shown()));
                    draft.help(format!("quote it: {:?}", shorten(text)))
                });
                return PendingKey::Refused;
            }
            Value::Sequence(_) | Value::Map(_) => {
                self.report(at, || {
                    let draft = node.draft(format!("{} is not text, which a key must be", node.shown()));
                    draft.help("a text that begins with a bracket must be quoted")
                });
                return PendingKey::Refused;
            }
        };
        let Some(Open { content: Content::Map { keys, .. }, .. }) = self.open.last_mut() else {
            return PendingKey::Refused;
        };
        match keys.get(&text) {
            None => {
                keys.insert(text.clone(), at.line);
                PendingKey::Key(text, at)
            }
            Some(first) => {
                let first = *first;
                self.report(at, || {
                    let message = format!("`{}` is already set in line {first}", shorten(&text));
                    node.draft(message).help("keep one of them")
                });
                PendingKey::Refused
            }
        }
    }

    fn scalar(&mut self, text: Arc<str>, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Node {
        let plain = style == ScalarStyle::Plain;
        let resolved = scalar::resolve(&text);
        let untagged = if plain { resolved } else { Kind::String };
        let kind = match tag {
            None => untagged,
            Some(tag) if tag.is_yaml_core_schema() => match (tag.suffix.as_str(), resolved) {
                ("str", _) => Kind::String,
                ("null", Kind::Null) | ("bool", Kind::Bool(_)) | ("int", Kind::Int(_)) | ("float", Kind::Float(_)) => {
                    resolved
                }
                ("float", Kind::Int(number)) => Kind::Float(number as f64),
                ("null" | "bool" | "int" | "float", _) => {
                    self.report(at, || {
                        let message = format!("{:?} is not what its tag `!!{}` says", shorten(&text), tag.suffix);
                        Draft::new(message).about(&text).help("remove the tag")
                    });
                    untagged
                }
                _ => {
                    self.refuse_tag(tag, at);
                    untagged
                }
            },
            Some(tag) => {
                self.refuse_tag(tag, at);
                untagged
            }
        };
        Node { value: Value::Scalar(Scalar { text, kind }), at }
    }

    fn check_tag(&mut self, tag: Option<&Tag>, expected: &str, at: Position) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == expected)
        {
            self.refuse_tag(tag, at);
        }
    }

    fn refuse_tag(&mut self, tag: &Tag, at: Position) {
        let written = if tag.is_yaml_core_schema() { format!("!!{}", tag.suffix) } else { tag.to_string() };
        self.report(at, || {
            let message = format!("the tag `{}` means nothing here", shorten(&written));
            Draft::new(message).about(&written).help("remove it, or quote a text that begins with `!`")
        });
    }

    fn report(&mut self, at: Position, draft: impl FnOnce() -> Draft) {
        self.problems.report(at, OpenPath(&self.open), draft);
    }

    fn stop(&mut self, at: Position, message: impl Into<String>, help: &str) -> Result<(), Stop> {
        self.report(at, || Draft::new(message).help(help));
        Err(Stop)
    }

    fn stop_too_deep(&mut self, at: Position) -> Result<(), Stop> {
        let draft = || Draft::new(format!("nested deeper than {MAX_DEPTH} levels"));
        self.problems.report(at, Path::TOP, draft);
        Err(Stop)
    }
}

/// The way to the node that is being read.
struct OpenPath<'a>(&'a [Open]);

impl fmt::Display for OpenPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn walk(open: &[Open], parent: Path<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Some((first, rest)) = open.split_first() else { return parent.fmt(f) };
            match &first.content {
                Content::Sequence(items) => walk(rest, parent.index(items.len()), f),
                Content::Map { key: PendingKey::Key(key, _), .. } => walk(rest, parent.key(key), f),
                Content::Map { .. } => walk(rest, parent, f),
            }
        }
        walk(self.0, Path::TOP, f)
    }
}
