use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use regex::bytes::{Captures, Regex, RegexBuilder};

/// A regular expression that must match the whole of its input.
///
/// Syntax of the `regex` crate without Unicode classes (a superset of what RE2 configurations use), matching bytes in
/// time linear in the input. The compiled program is limited to [`Pattern::SIZE_LIMIT`] bytes. Two patterns are equal
/// if their sources are.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    regex: Regex,
}

/// A regular expression that was refused.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl Pattern {
    /// The largest compiled program, in bytes.
    pub const SIZE_LIMIT: usize = 1 << 20;

    /// Compiles `source`.
    ///
    /// # Errors
    /// If `source` is not a regular expression or its program exceeds [`Pattern::SIZE_LIMIT`].
    pub fn new(source: &str) -> Result<Self, PatternError> {
        // Alone first: `a)|(b` is not an expression, though it becomes one inside the parentheses below.
        build(source).map_err(PatternError::from_regex)?;
        let regex = build(&format!(r"\A(?:{source})\z")).map_err(PatternError::from_regex)?;
        Ok(Self { source: source.into(), regex })
    }

    /// Whether the whole of `input` matches.
    pub fn is_full_match(&self, input: &[u8]) -> bool {
        self.regex.is_match(input)
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

/// A search-and-replace over a text.
#[derive(Clone)]
pub struct Rewrite {
    source: Arc<str>,
    regex: Regex,
    substitution: Arc<str>,
}

impl Rewrite {
    /// Replaces every match of `pattern` by `substitution`, in which `\1` to `\9` stand for groups and `\0` for the
    /// whole match (RE2).
    ///
    /// # Errors
    /// If `pattern` is refused as a [`Pattern`] would be.
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, PatternError> {
        let regex = build(pattern).map_err(PatternError::from_regex)?;
        Ok(Self { source: pattern.into(), regex, substitution: substitution.into() })
    }

    /// `input` with every match replaced.
    pub fn apply<'a>(&self, input: &'a [u8]) -> Cow<'a, [u8]> {
        self.regex.replace_all(input, |captures: &Captures<'_>| {
            let mut out = Vec::new();
            let mut bytes = self.substitution.bytes();
            while let Some(byte) = bytes.next() {
                if byte != b'\\' {
                    out.push(byte);
                    continue;
                }
                match bytes.next() {
                    Some(digit @ b'0'..=b'9') => {
                        out.extend_from_slice(captures.get(usize::from(digit - b'0')).map_or(&[], |m| m.as_bytes()));
                    }
                    Some(other) => out.push(other),
                    None => out.push(b'\\'),
                }
            }
            out
        })
    }

    /// The expression as it was written.
    pub fn pattern(&self) -> &str {
        &self.source
    }

    /// The substitution as it was written.
    pub fn substitution(&self) -> &str {
        &self.substitution
    }
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.substitution == other.substitution
    }
}

impl Eq for Rewrite {}

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rewrite({:?} -> {:?})", self.source, self.substitution)
    }
}

fn build(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).unicode(false).size_limit(Pattern::SIZE_LIMIT).dfa_size_limit(Pattern::SIZE_LIMIT).build()
}

impl PatternError {
    fn from_regex(error: regex::Error) -> Self {
        Self(match error {
            regex::Error::CompiledTooBig(limit) => format!("the compiled expression exceeds {limit} bytes"),
            // The library draws the expression with a caret under it; its last line is the sentence.
            other => {
                let text = other.to_string();
                let line = text.lines().last().unwrap_or_default();
                line.trim_start_matches("error: ").to_owned()
            }
        })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}
