use std::fmt;
use std::sync::Arc;

use super::origin::{Origin, Position};

/// One thing that is wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// Who said what is wrong: a place in the file, a variable of the environment, a setter of the builder.
    pub origin: Origin,
    /// The way to the value: `services.greeter.routes[1].retry.on[0]`. Empty at the top.
    pub path: String,
    /// What was written there, shortened. `None` if nothing was.
    pub value: Option<String>,
    /// What is wrong with it, and what would be right.
    pub message: String,
    /// The way out, if there is a likely one: ``did you mean `timeout`?``
    pub help: Option<String>,
}

impl Problem {
    /// The line in the file, from 1; 0 if it is about the whole file or not about the file.
    pub fn line(&self) -> usize {
        self.origin.line()
    }

    /// The column in characters, from 1; 0 if it is about the whole file or not about the file.
    pub fn column(&self) -> usize {
        self.origin.column()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        sentence(f, &self.origin, &self.path, &self.message, self.help.as_deref())
    }
}

/// `origin: path: message; help`. Whoever set a variable or called a setter knows it by its name and not by the path.
pub(super) fn sentence(
    f: &mut fmt::Formatter<'_>,
    origin: &Origin,
    path: &str,
    message: &str,
    help: Option<&str>,
) -> fmt::Result {
    match origin {
        Origin::Environment { variable } => f.write_str(variable)?,
        origin => write!(f, "{origin}")?,
    }
    if !path.is_empty() && matches!(origin, Origin::Default | Origin::File { .. }) {
        write!(f, ": {path}")?;
    }
    write!(f, ": {message}")?;
    match help {
        Some(help) => write!(f, "; {help}"),
        None => Ok(()),
    }
}

/// Everything that is wrong with a configuration.
///
/// Displayed as one line a problem. At most [`ConfigError::MAX_PROBLEMS`] are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
    omitted: usize,
}

impl ConfigError {
    /// How many problems are kept; those behind are only counted.
    pub const MAX_PROBLEMS: usize = 1000;

    /// The problems in the order of their places in the file, those of other origins first; at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many problems were found beyond those that are kept.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

/// As [`Display`](fmt::Display): it is what a `main` that returns the error shows.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => write!(f, "\n.. and {omitted} more problems"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The way to a value, as a list on the stack: only a problem pays for its text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Top,
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    pub(super) const TOP: Path<'static> = Path { parent: None, step: Step::Top };

    pub(super) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    pub(super) fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let is_first = self.parent.is_none_or(|parent| matches!(parent.step, Step::Top));
        match self.step {
            Step::Top => Ok(()),
            // A dot inside a key would read like two keys.
            Step::Key(key) if !is_plain(key) => write!(f, "[{:?}]", shorten(key)),
            Step::Key(key) if is_first => f.write_str(key),
            Step::Key(key) => write!(f, ".{key}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.len() <= MAX_SHOWN && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// How many characters of a value are shown.
const MAX_SHOWN: usize = 60;

/// The first characters of `text`; what was cut off is marked.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}

/// Problems as they are found, in any order.
#[derive(Debug)]
pub(super) struct Problems {
    file: Arc<str>,
    found: Vec<Problem>,
    omitted: usize,
}

impl Problems {
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.into(), found: Vec::new(), omitted: 0 }
    }

    /// Adds those that were `found` elsewhere.
    pub(super) fn add(&mut self, found: &[Problem]) {
        self.found.extend_from_slice(found);
    }

    /// Whether nothing was found.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many were found and are kept.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// Lets those with `path`, the first `before` left out, say nothing but `message`.
    pub(super) fn redact(&mut self, before: usize, path: &str, message: &str) {
        for problem in self.found.iter_mut().skip(before).filter(|problem| problem.path == path) {
            message.clone_into(&mut problem.message);
            (problem.value, problem.help) = (None, None);
        }
    }

    /// Who `at` is.
    pub(super) fn origin(&self, at: Position) -> Origin {
        at.origin(&self.file)
    }

    /// Adds a problem. Its text is made only if it is kept: a hostile file may hold half a million of them.
    pub(super) fn report(&mut self, at: Position, path: impl fmt::Display, draft: impl FnOnce() -> Draft) {
        if self.found.len() == ConfigError::MAX_PROBLEMS {
            self.omitted += 1;
            return;
        }
        let Draft { value, message, help } = draft();
        self.found.push(Problem { origin: self.origin(at), path: path.to_string(), value, message, help });
    }

    /// `value` if nothing was found.
    pub(super) fn into_result<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        let Self { found: mut problems, omitted, .. } = self;
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => {
                problems.sort_by_key(|problem| (problem.line(), problem.column()));
                Err(ConfigError { problems, omitted })
            }
        }
    }
}

/// What a problem says, before it is known where.
#[derive(Debug)]
pub(super) struct Draft {
    value: Option<String>,
    message: String,
    help: Option<String>,
}

impl Draft {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { value: None, message: message.into(), help: None }
    }

    /// About `value`, as it was written.
    pub(super) fn about(mut self, value: &str) -> Self {
        self.value = Some(shorten(value));
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }
}
