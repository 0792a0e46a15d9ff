//! Events of the parser to a tree, within bounds.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use saphyr_parser::{Event, ScalarStyle, Tag};

use super::origin::Position;
use super::problem::{Draft, Path, Problems, shorten};
use super::scalar::{self, Kind};
use super::tree::{Entries, Entry, Node, Scalar, Value};
use super::{MAX_ALIASED_BYTES, MAX_DEPTH, MAX_NODES};

/// A problem behind which reading makes no sense; it has been reported.
pub(super) struct Stop;

pub(super) struct Builder<'a> {
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
    Map { entries: Entries, keys: HashMap<Arc<str>, usize>, key: PendingKey },
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
    pub(super) fn new(problems: &'a mut Problems) -> Self {
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

    /// The document's value, once all events were taken.
    pub(super) fn into_root(self) -> Option<Node> {
        self.root
    }

    pub(super) fn take(&mut self, event: Event<'_>, at: Position) -> Result<(), Stop> {
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
                let map = Content::Map { entries: Entries::default(), keys: HashMap::new(), key: PendingKey::None };
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
                PendingKey::Key(key, at) => entries.list.push(Entry { key, at, value: node }),
                PendingKey::Refused => entries.is_incomplete = true,
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
                self.problems.report(at, OpenPath(&self.open, Some(text)), || {
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
                keys.insert(text.clone(), at.line());
                PendingKey::Key(text, at)
            }
            Some(first) => {
                let first = *first;
                self.problems.report(at, OpenPath(&self.open, Some(&text)), || {
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
        self.problems.report(at, OpenPath(&self.open, None), draft);
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

/// The way to the node that is being read, or to a key of the innermost map.
struct OpenPath<'a>(&'a [Open], Option<&'a str>);

impl fmt::Display for OpenPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn walk(open: &[Open], parent: Path<'_>, last: Option<&str>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match (open.split_first(), last) {
                (None, None) => parent.fmt(f),
                (None, Some(key)) => parent.key(key).fmt(f),
                (Some((first, rest)), _) => match &first.content {
                    Content::Sequence(items) => walk(rest, parent.index(items.len()), last, f),
                    Content::Map { key: PendingKey::Key(key, _), .. } => walk(rest, parent.key(key), last, f),
                    Content::Map { .. } => walk(rest, parent, last, f),
                },
            }
        }
        walk(self.0, Path::TOP, self.1, f)
    }
}
