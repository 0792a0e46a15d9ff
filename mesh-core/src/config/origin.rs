//! Who said what the configuration holds.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Who said a value. The later one of this list wins: builder over environment over file over default.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody: it is what holds without a word.
    Default,
    /// The file.
    File {
        /// Its name, as the caller gave it.
        name: Arc<str>,
        /// The line, from 1; 0 for the file as a whole.
        line: usize,
        /// The column in characters, from 1; 0 for the file as a whole.
        column: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: Arc<str>,
    },
    /// The program.
    Builder {
        /// The setter that it called.
        setter: &'static str,
    },
}

impl Origin {
    pub(super) fn line(&self) -> usize {
        if let Self::File { line, .. } = self { *line } else { 0 }
    }

    pub(super) fn column(&self) -> usize {
        if let Self::File { column, .. } = self { *column } else { 0 }
    }
}

/// `default`, `mesh.yaml:12:5`, `environment MESH_TIMEOUT`, `builder default_timeout`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line: 0, .. } => f.write_str(name),
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::Builder { setter } => write!(f, "builder {setter}"),
        }
    }
}

/// `kind` (`default`, `file`, `environment`, `builder`) with `name`, `line` and `column` of a file, `name` of a variable
/// or a setter.
impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        let (kind, name) = match self {
            Self::Default => ("default", None),
            Self::File { name, .. } => ("file", Some(&**name)),
            Self::Environment { variable } => ("environment", Some(&**variable)),
            Self::Builder { setter } => ("builder", Some(*setter)),
        };
        map.serialize_entry("kind", kind)?;
        if let Some(name) = name {
            map.serialize_entry("name", name)?;
        }
        if let Self::File { line: line @ 1.., column, .. } = self {
            map.serialize_entry("line", line)?;
            map.serialize_entry("column", column)?;
        }
        map.end()
    }
}

/// The origin of a node, small enough to hang on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// A place in the file; line and column from 1.
    File {
        line: usize,
        column: usize,
    },
    Default,
    Environment(&'static str),
    Builder(&'static str),
}

impl Position {
    /// Stands for the file as a whole.
    pub(super) const FILE: Self = Self::File { line: 0, column: 0 };

    /// The line; 0 without one.
    pub(super) fn line(self) -> usize {
        if let Self::File { line, .. } = self { line } else { 0 }
    }

    pub(super) fn origin(self, file: &Arc<str>) -> Origin {
        match self {
            Self::Default => Origin::Default,
            Self::File { line, column } => Origin::File { name: Arc::clone(file), line, column },
            Self::Environment(variable) => Origin::Environment { variable: variable.into() },
            Self::Builder(setter) => Origin::Builder { setter },
        }
    }
}
