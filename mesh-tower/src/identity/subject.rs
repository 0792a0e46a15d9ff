//! The subject of a certificate as text (RFC 4514).

use std::fmt::Write as _;

use x509_parser::asn1_rs::ToDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::certificate::hexadecimal;

/// RFC 4514, section 3: what every reader of such texts knows.
const SHORT_NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
];

/// `name` as text, its last part first: `CN=cart,O=shop`.
pub(super) fn text(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let mut parts: Vec<_> = name.iter_rdn().collect();
    parts.reverse();
    for (place, part) in parts.into_iter().enumerate() {
        for (place_within, attribute) in part.iter().enumerate() {
            match (place, place_within) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let kind = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(id, _)| *id == kind);
    text.push_str(short.map_or(&kind, |(_, short)| short));
    text.push('=');
    match (short, attribute.as_str()) {
        (Some(_), Ok(value)) => write_escaped(text, value),
        _ => {
            text.push('#');
            text.push_str(&hexadecimal(&attribute.attr_value().to_der_vec_raw().unwrap_or_default()));
        }
    }
}

/// RFC 4514, section 2.4; control characters too, so that a name cannot break a line.
fn write_escaped(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (place, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', character]),
            ' ' if place == 0 || place == last => text.push_str("\\ "),
            '#' if place == 0 => text.push_str("\\#"),
            control if control.is_control() => {
                let mut buffer = [0; 4];
                for byte in control.encode_utf8(&mut buffer).bytes() {
                    write!(text, "\\{byte:02X}").expect("a String takes everything");
                }
            }
            other => text.push(other),
        }
    }
}
