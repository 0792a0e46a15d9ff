//! Prime numbers.

use std::borrow::Cow;

#[cfg(test)]
use super::json_schema::{Definitions, Schema, json};
use super::number::Integer;
use super::problem::Path;
use super::shape::{Context, Shape};
use super::tree::Node;

/// A prime number up to `MAX`, which is one.
pub(super) struct Prime<const MAX: i64>;

const MIN: i64 = 2;
const U32_MAX: i64 = u32::MAX as i64;

impl<const MAX: i64> Shape for Prime<MAX> {
    type Value = u32;

    fn form() -> Cow<'static, str> {
        format!("a prime number from {MIN} to {MAX}").into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<u32> {
        let number = Integer::<u32, 0, U32_MAX>::read(node, path, context)?;
        if (MIN..=MAX).contains(&i64::from(number)) && is_prime(number) {
            return Some(number);
        }
        let nearest = if i64::from(number) < MAX { i64::from(nearest(number)) } else { MAX };
        context.mismatch(node, path, &Self::form(), Some(format!("the nearest one is {nearest}")));
        None
    }

    #[cfg(test)]
    fn schema(_: &mut Definitions) -> Schema {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}

/// The prime nearest to `number`, which is none; of two that are as near the smaller.
fn nearest(number: u32) -> u32 {
    let around = (1..).flat_map(|step| [number.saturating_sub(step), number.saturating_add(step)]);
    { around }.find(|number| is_prime(*number)).unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use super::{is_prime, nearest};

    #[test]
    fn knows_primes() {
        let primes: Vec<_> = (0..40).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]);
        for prime in [65_537, 5_000_011] {
            assert!(is_prime(prime));
        }
        for (number, prime) in [(0, 2), (1, 2), (4, 3), (9, 7), (24, 23), (65_536, 65_537), (5_000_010, 5_000_011)] {
            assert_eq!((is_prime(number), nearest(number)), (false, prime));
        }
    }
}
