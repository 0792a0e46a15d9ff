//! YAML text to a tree whose every node knows its place.
//!
//! The text may be hostile: nothing here recurses with it, and its depth, its nodes, and what aliases multiply are
//! bounded. Collections are shared, so that an alias costs a reference count; what it stands for is counted anyway,
//! because whoever walks the tree walks all of it.

use std::cell::Cell;
use std::sync::Arc;

use saphyr_parser::{Marker, Parser, ScanError};

use super::MAX_PIECE;
use super::build::Builder;
use super::origin::Position;
use super::problem::{Draft, Path, Problems, shorten};
use super::scalar::{self, Kind};

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Position,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    Sequence(Arc<Vec<Node>>),
    Map(Arc<Entries>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scalar {
    pub(super) text: Arc<str>,
    pub(super) kind: Kind,
}

/// What a map holds, in the order of the file and without duplicates.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    pub(super) list: Vec<Entry>,
    /// Whether entries were refused and are not in the list: then nothing can be called missing.
    pub(super) is_incomplete: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: Arc<str>,
    pub(super) at: Position,
    pub(super) value: Node,
}

impl Entries {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.list.iter().find(|entry| &*entry.key == key)
    }
}

impl Node {
    /// An unquoted scalar.
    pub(super) fn plain(text: &str, at: Position) -> Self {
        Self { value: Value::Scalar(Scalar { text: text.into(), kind: scalar::resolve(text) }), at }
    }

    /// Whether it is this text.
    pub(super) fn is_text(&self, expected: &str) -> bool {
        matches!(&self.value, Value::Scalar(Scalar { text, kind: Kind::String }) if &**text == expected)
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
                format!("more than {MAX_PIECE} characters in one piece: a text, a comment or a collection in brackets");
            problems.report(position(at), Path::TOP, || {
                Draft::new(message).help("write large lists with dashes and large maps by indentation")
            });
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
    let root = builder.into_root().filter(|root| !root.is_null());
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
            Some(format!("a text that begins with {c:?} must be quoted"))
        }
        (info, c) if c == Some('\t') || info.starts_with("tab") => Some("indent with spaces, not with tabs".to_owned()),
        ("mapping values are not allowed in this context", _) => {
            Some("check the indentation; a text with `: ` in it must be quoted".to_owned())
        }
        ("block sequence entries are not allowed in this context", _) => {
            Some("begin the list on a line of its own".to_owned())
        }
        (info, _) if info.starts_with("while parsing a block") || info.starts_with("invalid indentation") => {
            Some("check the indentation".to_owned())
        }
        ("simple key expect ':'" | "simple key expected", _) => Some("write `key: value`".to_owned()),
        _ => None,
    };
    Draft::new(format!("not valid YAML: {}", error.info())).maybe_help(help)
}

fn position(marker: Marker) -> Position {
    Position::File { line: marker.line(), column: marker.col() + 1 }
}
