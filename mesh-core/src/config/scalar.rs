//! What an unquoted scalar stands for: the core schema of YAML 1.2 (10.3.2), and nothing of YAML 1.1: `yes`, `on` and
//! `1:30` are text.

/// The meaning of a scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    /// Numbers beyond the type saturate: they are out of every range anyway.
    Int(i128),
    Float(f64),
    String,
}

/// The meaning of `text` written without quotes.
pub(super) fn resolve(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Kind::Float(f64::NAN),
        _ => {}
    }
    int(text).map(Kind::Int).or_else(|| float(text).map(Kind::Float)).unwrap_or(Kind::String)
}

fn int(text: &str) -> Option<i128> {
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    let (negative, digits) = sign(text);
    let magnitude = radix(digits, 10)?;
    Some(if negative { -magnitude } else { magnitude })
}

fn radix(digits: &str, radix: u32) -> Option<i128> {
    if digits.is_empty() {
        return None;
    }
    digits.chars().try_fold(0_i128, |number, digit| {
        let digit = i128::from(digit.to_digit(radix)?);
        Some(number.saturating_mul(i128::from(radix)).saturating_add(digit))
    })
}

fn float(text: &str) -> Option<f64> {
    let (negative, magnitude) = sign(text);
    if matches!(magnitude, ".inf" | ".Inf" | ".INF") {
        return Some(if negative { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    // Rust also reads `inf`, `nan` and `infinity`, YAML does not.
    let has_digit = magnitude.bytes().any(|b| b.is_ascii_digit());
    let allowed = magnitude.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
    if !has_digit || !allowed || !magnitude.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    text.parse().ok()
}

fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, resolve};

    #[test]
    fn follows_the_core_schema() {
        let table = [
            ("", Kind::Null),
            ("~", Kind::Null),
            ("NULL", Kind::Null),
            ("nUll", Kind::String),
            ("true", Kind::Bool(true)),
            ("False", Kind::Bool(false)),
            ("yes", Kind::String),
            ("on", Kind::String),
            ("0", Kind::Int(0)),
            ("-17", Kind::Int(-17)),
            ("+3", Kind::Int(3)),
            ("0o17", Kind::Int(15)),
            ("0x1F", Kind::Int(31)),
            ("0x", Kind::String),
            ("017", Kind::Int(17)),
            ("1_000", Kind::String),
            ("-", Kind::String),
            ("--1", Kind::String),
            ("1:30", Kind::String),
            ("1.5", Kind::Float(1.5)),
            (".5", Kind::Float(0.5)),
            ("5.", Kind::Float(5.0)),
            ("-1e3", Kind::Float(-1000.0)),
            ("1e", Kind::String),
            (".", Kind::String),
            (".inf", Kind::Float(f64::INFINITY)),
            ("-.INF", Kind::Float(f64::NEG_INFINITY)),
            ("inf", Kind::String),
            ("nan", Kind::String),
            ("e5", Kind::String),
            ("10s", Kind::String),
            ("1.2.3.4:80", Kind::String),
        ];
        for (text, kind) in table {
            assert_eq!(resolve(text), kind, "{text}");
        }
        assert!(matches!(resolve(".nan"), Kind::Float(number) if number.is_nan()));
        assert_eq!(resolve(&"9".repeat(1000)), Kind::Int(i128::MAX));
        assert_eq!(resolve(&format!("-{}", "9".repeat(1000))), Kind::Int(-i128::MAX));
    }
}
