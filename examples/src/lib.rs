//! What the examples, the benchmarks and the interop tests share.

pub mod backend;
#[cfg(feature = "interop")]
pub mod peers;

/// The service that they call: `greeter.v1.Greeter`, client and server, generated from `proto/greeter.proto`.
pub mod greeter {
    tonic::include_proto!("greeter.v1");
}

/// Compiles the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadmeDoctests;

/// The value below which `percent` of `sorted` lie (nearest rank); `None` if there are none.
///
/// ```
/// assert_eq!(examples::percentile(&[1, 2, 3, 4], 50.0), Some(2));
/// assert_eq!(examples::percentile(&[1, 2, 3, 4], 99.0), Some(4));
/// ```
pub fn percentile<T: Copy>(sorted: &[T], percent: f64) -> Option<T> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last()).copied()
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn the_nearest_rank_counts() {
        let hundred: Vec<u32> = (1..=100).collect();
        for (values, percent, expected) in [
            (&hundred[..], 50.0, Some(50)),
            (&hundred[..], 99.0, Some(99)),
            (&hundred[..], 100.0, Some(100)),
            (&hundred[..], 0.0, Some(1)),
            (&[7][..], 50.0, Some(7)),
            (&[7][..], 99.0, Some(7)),
            (&[7, 9][..], 51.0, Some(9)),
            (&[][..], 50.0, None),
        ] {
            assert_eq!(percentile(values, percent), expected, "{percent} % of {}", values.len());
        }
    }
}
