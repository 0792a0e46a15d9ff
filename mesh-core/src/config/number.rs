//! Shapes of numbers, switches and durations. Their ranges are part of their types.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::time::Duration;

use super::duration;
#[cfg(test)]
use super::json_schema::{Definitions, Schema, json};
use super::problem::Path;
use super::scalar::Kind;
use super::shape::{Context, Shape};
use super::tree::{Node, Scalar, Value};

/// `true` or `false`.
pub(super) struct Flag;

impl Shape for Flag {
    type Value = bool;

    fn form() -> Cow<'static, str> {
        "`true` or `false`".into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<bool> {
        if let Value::Scalar(Scalar { kind: Kind::Bool(flag), .. }) = node.value {
            return Some(flag);
        }
        let help = match &node.value {
            Value::Scalar(Scalar { text, .. }) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" => Some("write `true`, without quotes".to_owned()),
                "false" | "no" | "off" | "n" => Some("write `false`, without quotes".to_owned()),
                _ => None,
            },
            _ => None,
        };
        context.mismatch(node, path, &Self::form(), help);
        None
    }

    #[cfg(test)]
    fn schema(_: &mut Definitions) -> Schema {
        json!({ "type": "boolean" })
    }
}

/// `true`, where there is nothing else to say.
pub(super) struct True;

impl Shape for True {
    type Value = ();

    fn form() -> Cow<'static, str> {
        "`true`".into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<()> {
        if Flag::read(node, path, context)? {
            return Some(());
        }
        context.mismatch(node, path, &Self::form(), Some("remove it".to_owned()));
        None
    }

    #[cfg(test)]
    fn schema(_: &mut Definitions) -> Schema {
        json!({ "const": true })
    }
}

/// An integer of the type `T` from `MIN` to `MAX`.
pub(super) struct Integer<T, const MIN: i64, const MAX: i64>(PhantomData<T>);

impl<T: TryFrom<i128>, const MIN: i64, const MAX: i64> Shape for Integer<T, MIN, MAX> {
    type Value = T;

    fn form() -> Cow<'static, str> {
        if (MIN, MAX) == (i64::MIN, i64::MAX) {
            "an integer".into()
        } else {
            format!("an integer from {MIN} to {MAX}").into()
        }
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<T> {
        let number = match &node.value {
            Value::Scalar(Scalar { kind: Kind::Int(number), .. }) => Some(*number),
            // `2.0` is the same number, and some programs write it so.
            Value::Scalar(Scalar { kind: Kind::Float(number), .. }) if number.fract() == 0.0 => Some(*number as i128),
            _ => None,
        };
        let in_range = number.filter(|number| (i128::from(MIN)..=i128::from(MAX)).contains(number));
        let value = in_range.and_then(|number| T::try_from(number).ok());
        match value {
            Some(_) => {}
            None if number.is_some() => out_of_range(node, path, context, &Self::form()),
            None => context.mismatch(node, path, &Self::form(), unquote(node)),
        }
        value
    }

    #[cfg(test)]
    fn schema(_: &mut Definitions) -> Schema {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// A number from `MIN` to `MAX`, both and its value in units of `10^-DECIMALS`: exact up to there, refused beyond.
pub(super) struct Decimal<const MIN: u32, const MAX: u32, const DECIMALS: u32>;

impl<const MIN: u32, const MAX: u32, const DECIMALS: u32> Shape for Decimal<MIN, MAX, DECIMALS> {
    type Value = u32;

    fn form() -> Cow<'static, str> {
        let unit = 10_f64.powi(-(DECIMALS as i32));
        let (min, max) = (f64::from(MIN) * unit, f64::from(MAX) * unit);
        format!("a number from {min} to {max} with up to {DECIMALS} decimals").into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<u32> {
        let number = match &node.value {
            Value::Scalar(Scalar { kind: Kind::Int(number), .. }) => *number as f64,
            Value::Scalar(Scalar { kind: Kind::Float(number), .. }) => *number,
            _ => {
                context.mismatch(node, path, &Self::form(), unquote(node));
                return None;
            }
        };
        let scaled = number * f64::from(10_u32.pow(DECIMALS));
        // The product of two doubles is off by far less, a digit too many is off by far more.
        if (scaled - scaled.round()).abs() > 1e-6 {
            context.mismatch(node, path, &Self::form(), None);
            return None;
        }
        if !(f64::from(MIN)..=f64::from(MAX)).contains(&scaled.round()) {
            out_of_range(node, path, context, &Self::form());
            return None;
        }
        Some(scaled.round() as u32)
    }

    #[cfg(test)]
    fn schema(_: &mut Definitions) -> Schema {
        let unit = 10_f64.powi(-(DECIMALS as i32));
        json!({ "type": "number", "minimum": f64::from(MIN) * unit, "maximum": f64::from(MAX) * unit })
    }
}

fn out_of_range(node: &Node, path: Path<'_>, context: &mut Context, form: &str) {
    context.report(node.at, path, || node.draft(format!("{} is out of range: write {form}", node.shown())));
}

/// A number in quotes is text.
fn unquote(node: &Node) -> Option<String> {
    let Value::Scalar(Scalar { text, kind: Kind::String }) = &node.value else { return None };
    let is_number = matches!(super::scalar::resolve(text), Kind::Int(_) | Kind::Float(_));
    is_number.then(|| format!("write it without quotes: {text}"))
}

/// A duration from `MIN` to `MAX` milliseconds.
pub(super) struct Span<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Shape for Span<MIN, MAX> {
    type Value = Duration;

    fn form() -> Cow<'static, str> {
        let [min, max] = [MIN, MAX].map(|millis| duration::format(Duration::from_millis(millis)));
        format!("a duration from {min} to {max}").into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Duration> {
        let value = span(node, path, context)?;
        if (Duration::from_millis(MIN)..=Duration::from_millis(MAX)).contains(&value) {
            return Some(value);
        }
        out_of_range(node, path, context, &Self::form());
        None
    }

    #[cfg(test)]
    fn schema(_: &mut Definitions) -> Schema {
        json!({ "type": "string", "pattern": duration::PATTERN })
    }
}

/// A bound on time that may be taken away: `0s` is none.
pub(super) struct Timeout;

impl Shape for Timeout {
    type Value = Option<Duration>;

    fn form() -> Cow<'static, str> {
        "a duration, `0s` for none".into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Option<Duration>> {
        let value = span(node, path, context)?;
        Some((!value.is_zero()).then_some(value))
    }

    #[cfg(test)]
    fn schema(_: &mut Definitions) -> Schema {
        json!({ "type": "string", "pattern": duration::PATTERN })
    }
}

fn span(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Duration> {
    let form = format!("a duration: {}", duration::SYNTAX);
    let Value::Scalar(Scalar { text, kind }) = &node.value else {
        context.mismatch(node, path, &form, None);
        return None;
    };
    let help = match kind {
        Kind::String => match duration::parse_duration(text) {
            Some(value) => return Some(value),
            None => duration::guess(text).map(|guess| format!("did you mean `{guess}`?")),
        },
        Kind::Int(0) => Some("write `0s`".into()),
        Kind::Int(number @ 1..=99_999) => Some(format!("add the unit: `{number}s` or `{number}ms`")),
        Kind::Float(_) => {
            duration::guess(&format!("{text}s")).map(|guess| format!("add the unit: for seconds `{guess}`"))
        }
        _ => None,
    };
    context.mismatch(node, path, &form, help);
    None
}
