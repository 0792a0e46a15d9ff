//! What callers wrote, in a log: nobody can end a line, begin another, or speak to the terminal that shows it (TL-08).

use std::fmt::{self, Write};

/// What stands for the rest of a value that is too long.
const CUT: &str = "...";

/// Bytes as text that may stand between quotes: `"` and `\` behind a `\`, and `\xHH` for all that is not printable ASCII.
/// At most `max` bytes of them, then `...`.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) max: usize,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.bytes.iter().take(self.max) {
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                b' '..=b'~' => f.write_char(char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        if self.bytes.len() > self.max { f.write_str(CUT) } else { Ok(()) }
    }
}

/// Bytes as a string of JSON in printable ASCII, its quotes included (RFC 8259 7). What is not UTF-8 becomes U+FFFD. At
/// most `max` bytes of them, then `...`.
#[derive(Clone, Copy)]
pub(super) struct Json<'a>(pub(super) Text<'a>);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text { bytes, max } = self.0;
        f.write_char('"')?;
        for chunk in bytes[..bytes.len().min(max)].utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '"' | '\\' => write!(f, "\\{character}")?,
                    ' '..='~' => f.write_char(character)?,
                    _ => {
                        for unit in character.encode_utf16(&mut [0; 2]) {
                            write!(f, "\\u{unit:04x}")?;
                        }
                    }
                }
            }
            if !chunk.invalid().is_empty() {
                f.write_str("\\ufffd")?;
            }
        }
        if bytes.len() > max {
            f.write_str(CUT)?;
        }
        f.write_char('"')
    }
}
