//! `x-forwarded-client-cert`: reading any text, and writing any names.

use mesh_core::identity::xfcc::{Element, parse};

/// The input is read as a header, and its pieces between newlines are the values of fields, in order.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(elements) = parse(text) {
        assert_eq!(write(&elements), expected(&elements), "{text:?}");
    }
    let mut elements = [Element::default(), Element::default()];
    for (number, value) in text.split('\n').enumerate() {
        let (element, value) = (&mut elements[number / 7 % 2], value.to_owned());
        match number % 7 {
            0 => element.uri.push(value),
            1 => element.dns.push(value),
            2 => element.subject = Some(value),
            3 => element.by.push(value),
            4 => element.hash = Some(value),
            5 => element.cert = Some(value),
            _ => element.chain = Some(value),
        }
    }
    assert_eq!(write(&elements), expected(&elements), "{text:?}");
}

/// What is written of `elements`, as it is read.
fn write(elements: &[Element]) -> Vec<Element> {
    let text = elements.iter().map(Element::to_string).collect::<Vec<_>>().join(",");
    assert!(http::HeaderValue::from_str(&text).is_ok(), "{text:?}");
    parse(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// Of an element that says nothing nothing is written.
fn expected(elements: &[Element]) -> Vec<Element> {
    elements.iter().filter(|element| **element != Element::default()).map(plain).collect()
}

/// `element` with its values as they may be written.
fn plain(element: &Element) -> Element {
    let one = |value: &String| -> String {
        let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
        value
            .bytes()
            .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    };
    Element {
        by: element.by.iter().map(one).collect(),
        hash: element.hash.as_ref().map(one),
        cert: element.cert.as_ref().map(one),
        chain: element.chain.as_ref().map(one),
        subject: element.subject.as_deref().map(plain_subject),
        uri: element.uri.iter().map(one).collect(),
        dns: element.dns.iter().map(one).collect(),
    }
}

/// A subject as it may be written: what a backslash stands before becomes two digits, unless it is.
fn plain_subject(subject: &str) -> String {
    let (mut text, mut rest) = (String::new(), subject.chars());
    while let Some(char) = rest.next() {
        let mut ahead = rest.clone();
        let mut encode = |char: char, mark: char| {
            let bytes = char.to_string().into_bytes();
            text.extend(bytes.iter().map(|byte| format!("{mark}{byte:02X}")));
        };
        match (char, ahead.next(), ahead.next()) {
            ('\\', Some(one), Some(two)) if one.is_ascii_hexdigit() && two.is_ascii_hexdigit() => text.push(char),
            ('\\', Some(escaped), _) => {
                encode(escaped, '\\');
                rest.next();
            }
            (' '..='~', ..) if char != '"' && char != '\\' => text.push(char),
            _ => encode(char, '%'),
        }
    }
    text
}
