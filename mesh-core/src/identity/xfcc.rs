//! `x-forwarded-client-cert`: what a proxy says of the certificate that its caller showed (Envoy's HTTP headers).
//!
//! ```text
//! By=spiffe://td/ns/a/sa/x;Hash=0ab3..;Subject="CN=cart,O=shop";URI=spiffe://td/ns/b/sa/cart;DNS=cart.shop.svc
//! ```
//!
//! A list of [`Element`]s, one for each proxy on the way, the nearest last. It is worth what its sender is worth: read it
//! only where that is a proxy that you trust, as the servers of a mesh see to.

use std::fmt::{self, Write as _};

use http::HeaderMap;

/// The name of the header.
pub const XFCC: http::HeaderName = http::HeaderName::from_static("x-forwarded-client-cert");

/// What one proxy says of its caller. Fields that Envoy does not know are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// The URIs in the certificate of the proxy itself.
    pub by: Vec<String>,
    /// SHA-256 of the caller's certificate, in hexadecimal.
    pub hash: Option<String>,
    /// The caller's certificate in PEM, percent-encoded.
    pub cert: Option<String>,
    /// Its chain in PEM, percent-encoded.
    pub chain: Option<String>,
    /// The subject of the caller's certificate.
    pub subject: Option<String>,
    /// The URIs in the caller's certificate.
    pub uri: Vec<String>,
    /// The DNS names in the caller's certificate.
    pub dns: Vec<String>,
}

/// A value of the header that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XfccError {
    /// It has bytes that are not UTF-8.
    #[error("x-forwarded-client-cert is not text")]
    NotText,
    /// A field without `=`.
    #[error("a field of x-forwarded-client-cert has no `=`")]
    NoValue,
    /// A quotation mark where none may be, or one too few.
    #[error("a quotation mark in x-forwarded-client-cert is out of place")]
    Quote,
    /// A field that there is one of is there twice.
    #[error("x-forwarded-client-cert says `{0}` twice of one caller")]
    Twice(&'static str),
}

/// Reads all values of the header in `headers`, in their order. None is an empty list.
///
/// # Errors
/// As [`parse`].
pub fn of(headers: &HeaderMap) -> Result<Vec<Element>, XfccError> {
    let mut elements = Vec::new();
    for value in headers.get_all(XFCC) {
        elements.extend(parse(std::str::from_utf8(value.as_bytes()).map_err(|_| XfccError::NotText)?)?);
    }
    Ok(elements)
}

/// Reads a value of the header.
///
/// The names of fields are compared without regard to case. A value in quotation marks ends at the next one that no
/// backslash stands before; in it `\"` is a quotation mark and `\\` a backslash. What stands between commas or semicolons
/// may be empty and is then skipped, as in every list of HTTP (RFC 9110 5.6.1). Nothing is percent-decoded.
///
/// # Errors
/// If it is ambiguous or malformed: nothing of it is then worth a decision.
pub fn parse(value: &str) -> Result<Vec<Element>, XfccError> {
    let mut elements = Vec::new();
    let mut element: Option<Element> = None;
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        match rest.chars().next() {
            None => break,
            Some(',') => {
                elements.extend(element.take());
                rest = &rest[1..];
            }
            Some(';') => rest = &rest[1..],
            Some(_) => rest = field(rest, element.get_or_insert_default())?,
        }
    }
    elements.extend(element);
    Ok(elements)
}

/// Reads one field into `element`, and returns what follows it: nothing, or a separator.
fn field<'a>(text: &'a str, element: &mut Element) -> Result<&'a str, XfccError> {
    let end = text.find(['=', ',', ';', '"']).ok_or(XfccError::NoValue)?;
    let (name, rest) = text.split_at(end);
    match rest.strip_prefix('=') {
        Some(rest) => {
            let (value, rest) = read_value(rest)?;
            put(element, name.trim_end_matches([' ', '\t']), value)?;
            Ok(rest)
        }
        None if rest.starts_with('"') => Err(XfccError::Quote),
        None => Err(XfccError::NoValue),
    }
}

fn read_value(text: &str) -> Result<(String, &str), XfccError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ';']).unwrap_or(text.len()));
        let value = value.trim_matches([' ', '\t']);
        return if value.contains('"') { Err(XfccError::Quote) } else { Ok((value.to_owned(), rest)) };
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => {
                let rest = quoted[at + 1..].trim_start_matches([' ', '\t']);
                let ends = rest.is_empty() || rest.starts_with([',', ';']);
                return if ends { Ok((value, rest)) } else { Err(XfccError::Quote) };
            }
            '\\' => match chars.next() {
                Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                Some((_, other)) => value.extend(['\\', other]),
                None => break,
            },
            char => value.push(char),
        }
    }
    Err(XfccError::Quote)
}

fn put(element: &mut Element, name: &str, value: String) -> Result<(), XfccError> {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    let many = [("By", &mut element.by), ("URI", &mut element.uri), ("DNS", &mut element.dns)];
    if let Some((_, values)) = many.into_iter().find(|(known, _)| is(known)) {
        values.push(value);
        return Ok(());
    }
    let once = [
        ("Hash", &mut element.hash),
        ("Cert", &mut element.cert),
        ("Chain", &mut element.chain),
        ("Subject", &mut element.subject),
    ];
    let Some((known, one)) = once.into_iter().find(|(known, _)| is(known)) else { return Ok(()) };
    one.replace(value).map_or(Ok(()), |_| Err(XfccError::Twice(known)))
}

impl fmt::Display for Element {
    /// As Envoy writes it, fit to follow others behind a comma.
    ///
    /// Names in certificates are written by whoever asked for the certificate, and readers differ in what a backslash in
    /// quotation marks means. So none of them can end a value: quotation marks, backslashes, control characters and what
    /// is not ASCII are percent-encoded, and what has a separator in it stands in quotation marks. Only a subject keeps
    /// its backslashes, each before two digits (`\\2C` for `\\,`), which is the other way that RFC 4514 2.4 has to say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, hash, cert, chain, subject, uri, dns } = self;
        let fields = by.iter().map(|value| ("By", value));
        let fields = fields.chain(hash.iter().map(|value| ("Hash", value)));
        let fields = fields.chain(cert.iter().map(|value| ("Cert", value)));
        let fields = fields.chain(chain.iter().map(|value| ("Chain", value)));
        let fields = fields.chain(subject.iter().map(|value| ("Subject", value)));
        let fields = fields.chain(uri.iter().map(|value| ("URI", value)));
        let fields = fields.chain(dns.iter().map(|value| ("DNS", value)));
        for (number, (name, value)) in fields.enumerate() {
            if number > 0 {
                f.write_char(';')?;
            }
            write!(f, "{name}=")?;
            // Envoy quotes these whatever is in them.
            let quoted = matches!(name, "Cert" | "Chain" | "Subject") || value.contains([' ', ',', ';', '=']);
            if quoted {
                f.write_char('"')?;
            }
            if name == "Subject" {
                write_subject(f, value)?
            } else {
                write_plain(f, value)?
            }
            if quoted {
                f.write_char('"')?;
            }
        }
        Ok(())
    }
}

fn write_plain(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => write!(f, "%{byte:02X}")?,
            b' '..=b'~' => f.write_char(char::from(byte))?,
            _ => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

fn write_subject(f: &mut fmt::Formatter<'_>, subject: &str) -> fmt::Result {
    let mut rest = subject;
    while let Some((before, after)) = rest.split_once('\\') {
        write_plain(f, before)?;
        let is_digits =
            after.as_bytes().first_chunk().is_some_and(|two: &[u8; 2]| two.iter().all(u8::is_ascii_hexdigit));
        let escaped = after.chars().next().map_or(0, char::len_utf8);
        match (is_digits, escaped) {
            (true, _) => f.write_char('\\')?,
            (false, 0) => write_plain(f, "\\")?,
            (false, _) => {
                for byte in after[..escaped].bytes() {
                    write!(f, "\\{byte:02X}")?;
                }
            }
        }
        rest = if is_digits { after } else { &after[escaped..] };
    }
    write_plain(f, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(uri: &str) -> Element {
        Element { uri: vec![uri.to_owned()], ..Element::default() }
    }

    #[test]
    fn az_05_what_envoy_writes_is_read() {
        let text = "By=spiffe://td/ns/a/sa/x;Hash=0ab3;Cert=\"-----BEGIN%20\";Subject=\"O=Acme\\, Inc.,CN=\\\"cart\\\"\";\
                    URI=spiffe://td/ns/b/sa/cart;DNS=cart;DNS=cart.shop, by = x ;uri=\"a,b;c=d\";hash=1;Later=2,,;";
        let expected = [
            Element {
                by: vec!["spiffe://td/ns/a/sa/x".to_owned()],
                hash: Some("0ab3".to_owned()),
                cert: Some("-----BEGIN%20".to_owned()),
                chain: None,
                subject: Some("O=Acme\\, Inc.,CN=\"cart\"".to_owned()),
                uri: vec!["spiffe://td/ns/b/sa/cart".to_owned()],
                dns: vec!["cart".to_owned(), "cart.shop".to_owned()],
            },
            Element { by: vec!["x".to_owned()], hash: Some("1".to_owned()), ..element("a,b;c=d") },
        ];
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse(" , ;").unwrap(), []);
        assert_eq!(parse("Later=2").unwrap(), [Element::default()]);
        assert_eq!(parse("URI=").unwrap(), [element("")]);
        assert_eq!(parse("URI=\"\"").unwrap(), [element("")]);
        assert_eq!(parse("URI=a?b=c").unwrap(), [element("a?b=c")]);
    }

    #[test]
    fn az_05_what_is_ambiguous_is_refused() {
        for (text, expected) in [
            ("URI", XfccError::NoValue),
            ("URI;By=x", XfccError::NoValue),
            ("URI=a\"b", XfccError::Quote),
            ("UR\"I=a", XfccError::Quote),
            ("URI=\"a", XfccError::Quote),
            ("URI=\"a\\", XfccError::Quote),
            ("URI=\"a\\\"", XfccError::Quote),
            ("URI=\"a\"b", XfccError::Quote),
            ("URI=\"a\" b", XfccError::Quote),
            ("Hash=a;hash=b", XfccError::Twice("Hash")),
            ("Subject=\"a\";SUBJECT=\"a\"", XfccError::Twice("Subject")),
        ] {
            assert_eq!(parse(text), Err(expected), "{text:?}");
        }
    }

    /// Names that would be more than one name to a reader.
    #[test]
    fn az_05_a_certificate_cannot_say_more_than_its_names() {
        for hostile in [
            "a;URI=spiffe://td/admin",
            "a,URI=spiffe://td/admin",
            "\";URI=spiffe://td/admin;DNS=\"",
            "a\\",
            "a\\\";URI=b",
            "a\r\nx: y",
            "\0é",
        ] {
            let written = Element {
                subject: Some(hostile.to_owned()),
                uri: vec![hostile.to_owned()],
                dns: vec![hostile.to_owned()],
                ..Element::default()
            };
            let text = written.to_string();
            let read = parse(&text).unwrap();
            let [Element { subject: Some(_), uri, dns, by, .. }] = &read[..] else { panic!("{text}") };
            assert!(uri.len() == 1 && dns.len() == 1 && by.is_empty(), "{text}");
            // Nobody can take it for more, whatever backslashes mean to them.
            assert!(
                !text.contains("\\\\") && !text.contains("\\\"") && text.matches('"').count().is_multiple_of(2),
                "{text}"
            );
            assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
        }
    }

    #[test]
    fn az_05_a_subject_is_escaped_as_names_are() {
        for (subject, expected) in [
            ("CN=cart,O=shop", "CN=cart,O=shop"),
            ("O=Acme\\, Inc.", "O=Acme\\2C Inc."),
            ("CN=\\\"a\\\"\\\\", "CN=\\22a\\22\\5C"),
            ("CN=\\2c\\C3\\BC", "CN=\\2c\\C3\\BC"),
            ("CN=\\é", "CN=\\C3\\A9"),
            ("CN=é\"", "CN=%C3%A9%22"),
            ("CN=a\\", "CN=a%5C"),
        ] {
            let element = Element { subject: Some(subject.to_owned()), ..Element::default() };
            assert_eq!(element.to_string(), format!("Subject=\"{expected}\""));
            assert_eq!(parse(&element.to_string()).unwrap()[0].subject.as_deref(), Some(expected));
        }
    }

    #[test]
    fn several_headers_are_one_list() {
        let mut headers = HeaderMap::new();
        assert_eq!(of(&headers).unwrap(), []);
        headers.append(XFCC, "URI=a,URI=b".parse().unwrap());
        headers.append(XFCC, "URI=c".parse().unwrap());
        assert_eq!(of(&headers).unwrap(), ["a", "b", "c"].map(element));
        headers.append(XFCC, http::HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(of(&headers), Err(XfccError::NotText));
    }
}
