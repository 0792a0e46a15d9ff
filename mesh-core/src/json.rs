//! As much of JSON (RFC 8259) as trust bundles take: whole documents, strictly, of untrusted bytes.
//!
//! The depth is bounded, and a name that comes twice in an object is refused: readers differ in which of the two counts.

/// How deep arrays and objects may stand in one another.
const MAX_DEPTH: usize = 32;

/// A value. What a number is nobody asks here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number,
    String(String),
    Array(Vec<Json>),
    /// In the order of the text, each name once.
    Object(Vec<(String, Json)>),
}

/// Why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// The byte where it went wrong, counted from 0.
    pub(crate) at: usize,
    /// What was expected there, or may not be there.
    pub(crate) reason: &'static str,
}

impl Json {
    /// Reads a document.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.space();
        if reader.at < text.len() { Err(reader.malformed("the end of the document")) } else { Ok(value) }
    }

    /// What stands under `name`, if this is an object that has it.
    pub(crate) fn get(&self, name: &str) -> Option<&Json> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn malformed(&self, reason: &'static str) -> Malformed {
        Malformed { at: self.at, reason }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Takes `byte` if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json, Malformed> {
        if depth > MAX_DEPTH {
            return Err(self.malformed("not so many levels"));
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Json, Malformed> {
        let words: [(&[u8], Json); 3] =
            [(b"null", Json::Null), (b"true", Json::Bool(true)), (b"false", Json::Bool(false))];
        for (word, value) in words {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.malformed("a value"))
    }

    fn number(&mut self) -> Result<Json, Malformed> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        Ok(Json::Number)
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let begin = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > begin { Ok(()) } else { Err(self.malformed("a digit")) }
    }

    fn array(&mut self, depth: usize) -> Result<Json, Malformed> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.take(b']') {
                return Ok(Json::Array(items));
            }
            if !self.take(b',') {
                return Err(self.malformed("`,` or `]`"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, Malformed> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        let mut names = std::collections::HashSet::new();
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.malformed("a name in quotes"));
            }
            let name = self.string()?;
            if !names.insert(name.clone()) {
                return Err(self.malformed("a name that is not there already"));
            }
            self.space();
            if !self.take(b':') {
                return Err(self.malformed("`:`"));
            }
            let value = self.value(depth + 1)?;
            members.push((name, value));
            self.space();
            if self.take(b'}') {
                return Ok(Json::Object(members));
            }
            if !self.take(b',') {
                return Err(self.malformed("`,` or `}`"));
            }
        }
    }

    fn string(&mut self) -> Result<String, Malformed> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let begin = self.at;
            while self.peek().is_some_and(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
                self.at += 1;
            }
            let piece = std::str::from_utf8(&self.text[begin..self.at]);
            text.push_str(piece.map_err(|_| Malformed { at: begin, reason: "UTF-8" })?);
            if self.take(b'"') {
                return Ok(text);
            }
            if !self.take(b'\\') {
                return Err(self.malformed("the end of a text, without control characters before it"));
            }
            text.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char, Malformed> {
        let unescaped = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.code_point();
            }
            _ => return Err(self.malformed("an escape")),
        };
        self.at += 1;
        Ok(unescaped)
    }

    /// One unit of UTF-16, or two that belong together.
    fn code_point(&mut self) -> Result<char, Malformed> {
        let begin = self.at;
        let first = self.unit()?;
        let code = match first {
            0xd800..=0xdbff => {
                let escaped = self.take(b'\\') && self.take(b'u');
                let second = if escaped { self.unit()? } else { 0 };
                if !(0xdc00..=0xdfff).contains(&second) {
                    return Err(Malformed { at: begin, reason: "a whole surrogate pair" });
                }
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            other => other,
        };
        char::from_u32(code).ok_or(Malformed { at: begin, reason: "a whole surrogate pair" })
    }

    fn unit(&mut self) -> Result<u32, Malformed> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            unit = unit << 4 | digit.ok_or_else(|| self.malformed("four hexadecimal digits"))?;
            self.at += 1;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn of(value: &Value) -> Json {
        match value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(_) => Json::Number,
            Value::String(text) => Json::String(text.clone()),
            Value::Array(items) => Json::Array(items.iter().map(of).collect()),
            Value::Object(members) => {
                Json::Object(members.iter().map(|(name, value)| (name.clone(), of(value))).collect())
            }
        }
    }

    /// With the names of objects in order, as the map of the other reader has them.
    fn sorted(json: Json) -> Json {
        match json {
            Json::Array(items) => Json::Array(items.into_iter().map(sorted).collect()),
            Json::Object(members) => {
                let mut members: Vec<_> = members.into_iter().map(|(name, value)| (name, sorted(value))).collect();
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                Json::Object(members)
            }
            other => other,
        }
    }

    /// Reads as `serde_json` does, but for what is refused here alone and for numbers that it cannot hold.
    fn agrees(text: &[u8]) {
        let shown = String::from_utf8_lossy(text);
        match (Json::parse(text), serde_json::from_slice::<Value>(text)) {
            (Ok(ours), Ok(theirs)) => assert_eq!(sorted(ours), sorted(of(&theirs)), "{shown}"),
            (Err(error), Ok(_)) => {
                let own_rule = error.reason.contains("already") || error.reason.contains("levels");
                assert!(own_rule, "{error:?}: {shown}");
            }
            (Ok(_), Err(error)) => assert!(error.to_string().starts_with("number out of range"), "{error}: {shown}"),
            (Err(_), Err(_)) => {}
        }
    }

    #[test]
    fn what_is_malformed_is_refused_with_its_place() {
        let deep = "[".repeat(MAX_DEPTH + 2);
        let cases = [
            ("", 0, "a value"),
            ("{", 1, "a name in quotes"),
            ("{\"a\"}", 4, "`:`"),
            ("{\"a\":1,}", 7, "a name in quotes"),
            ("{\"a\":1 2}", 7, "`,` or `}`"),
            ("{\"a\":1,\"\\u0061\":2}", 15, "a name that is not there already"),
            ("[1,]", 3, "a value"),
            ("[1 2]", 3, "`,` or `]`"),
            ("01", 1, "the end of the document"),
            ("-", 1, "a digit"),
            ("1.", 2, "a digit"),
            ("\"\\ud800\"", 3, "a whole surrogate pair"),
            ("\"\\udc00\"", 3, "a whole surrogate pair"),
            ("\"\\x\"", 2, "an escape"),
            ("\"\n\"", 1, "the end of a text, without control characters before it"),
            (&deep, MAX_DEPTH + 1, "not so many levels"),
        ];
        for (text, at, reason) in cases {
            assert_eq!(Json::parse(text.as_bytes()), Err(Malformed { at, reason }), "{text}");
            agrees(text.as_bytes());
        }
        assert_eq!(Json::parse(b"\"\xff\"").unwrap_err().reason, "UTF-8");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn texts_that_look_like_json_are_read_as_others_read_them(text in r#"[\[\]{}:,"ab\\u0d81e\-+. tnrueslf]{0,24}"#) {
            agrees(text.as_bytes());
        }

        #[test]
        fn any_bytes_are_read_as_others_read_them(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            agrees(&bytes);
            let text = [b"\"", &bytes[..], b"\""].concat();
            agrees(&text);
        }

        #[test]
        fn documents_are_read_as_others_read_them(names in prop::collection::vec(".{0,6}", 0..5), numbers in prop::collection::vec(any::<f64>(), 0..4)) {
            let document = serde_json::json!({ "a": names, "b": { "c": numbers, "d": [null, true, names] } });
            agrees(document.to_string().as_bytes());
            agrees(serde_json::to_string_pretty(&document).unwrap().as_bytes());
        }
    }
}
