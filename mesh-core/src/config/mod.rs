//! The configuration file: YAML text to a [`model::Config`], or everything that is wrong with it.
#![doc = include_str!("reference.md")]

mod address;
mod build;
mod choice;
mod credential;
mod duration;
mod effective;
mod environment;
#[cfg(test)]
mod json_schema;
mod labels;
mod lint;
mod listen;
mod lower;
mod metric;
mod names;
mod number;
mod origin;
mod overrides;
mod peer;
mod place;
mod prime;
mod problem;
mod reader;
mod scalar;
mod schema;
mod section;
mod shape;
mod suggest;
mod text;
mod tree;
mod warning;
mod write;

use std::path::Path as FsPath;

pub use self::duration::parse_duration;
pub use self::effective::{Effective, Setting};
pub use self::environment::{VARIABLES, Variable};
pub use self::origin::Origin;
use self::origin::Position;
pub use self::problem::{ConfigError, Problem};
use self::problem::{Draft, Path, Problems};
pub use self::reader::{File, Parsed, Reader};
pub use self::warning::{WARNINGS, Warning};
use crate::model;

/// The largest file, in bytes.
pub const MAX_BYTES: usize = 8 << 20;

/// How deep collections may be nested.
pub const MAX_DEPTH: usize = 64;

/// How many values a file may hold, counting all that its aliases stand for.
pub const MAX_NODES: usize = 500_000;

/// How many characters the parser may have to look ahead: the longest text, comment or collection in brackets.
const MAX_PIECE: usize = 1 << 20;

/// How many bytes of text aliases may stand for.
const MAX_ALIASED_BYTES: usize = MAX_BYTES;

/// Reads a configuration.
///
/// `name` is how problems call the file. `directory` is what relative paths in it are relative to; nothing is read
/// from there. Neither the environment nor a program has a say; [`Reader`] lets them.
///
/// # Errors
/// All problems at once, as far as one does not hide another: behind a syntax error nothing can be read, and a value
/// of the wrong kind is not looked into. A file without a configuration in it (empty, only comments, `null`) is an
/// error too: it is a mistake far more often than a wish to have no services.
///
/// # Examples
/// ```
/// use std::path::Path;
///
/// let text = b"services: { shop: { backends: { v1: { endpoints: [10.0.0.1:80], protcol: http2 } } } }";
/// let error = mesh_core::config::parse(text, "mesh.yaml", Path::new(".")).unwrap_err();
/// let problem = &error.problems()[0];
/// assert_eq!((problem.line(), problem.column()), (1, 65));
/// assert_eq!(problem.path, "services.shop.backends.v1.protcol");
/// assert_eq!(problem.help.as_deref(), Some("did you mean `protocol`?"));
/// ```
pub fn parse(text: &[u8], name: &str, directory: &FsPath) -> Result<model::Config, ConfigError> {
    Reader::new().read(Some(File { text, name, directory })).map(|parsed| parsed.config)
}

/// The JSON Schema of the file (draft 2020-12), for editors: they complete fields and mark mistakes if the file begins
/// with `# yaml-language-server: $schema=PATH`.
///
/// What [`parse`] takes is valid by it. What needs more than a schema can say, such as that a route names a backend that
/// there is, only `parse` finds.
pub fn json_schema() -> &'static str {
    include_str!("mesh.schema.json")
}

/// The text of a file, unless it is too large, not UTF-8, or has bytes that YAML does not allow.
fn decode<'a>(bytes: &'a [u8], problems: &mut Problems) -> Option<&'a str> {
    if bytes.len() > MAX_BYTES {
        let draft =
            || Draft::new(format!("{} bytes are too many: a configuration has at most {MAX_BYTES}", bytes.len()));
        problems.report(Position::FILE, Path::TOP, draft);
        return None;
    }
    let (valid, is_text) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, true),
        Err(error) => (std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(), false),
    };
    // The parser takes a NUL for the end of the file: what was cut off would be missing without a word.
    if let Some(index) = valid.find(|c: char| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r')) {
        problems.report(end_of(&valid[..index]), Path::TOP, || {
            Draft::new(format!("the control character {:#04x} is not allowed in YAML", bytes[index]))
        });
        return None;
    }
    if !is_text {
        problems.report(end_of(valid), Path::TOP, || {
            let draft = Draft::new(format!("the byte {:#04x} here is not UTF-8", bytes[valid.len()]));
            draft.help("save the file as UTF-8")
        });
        return None;
    }
    Some(valid)
}

/// The place behind `text`.
fn end_of(text: &str) -> Position {
    let line = text.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Position::File { line, column }
}

#[cfg(test)]
mod tests;
