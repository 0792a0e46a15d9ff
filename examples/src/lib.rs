//! What the examples, the benchmarks and the interop tests share.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

pub mod backend;
pub mod certs;
pub mod echo;
#[cfg(feature = "interop")]
pub mod peers;

/// The service that they call: `greeter.v1.Greeter`, client and server, generated from `proto/greeter.proto`.
pub mod greeter {
    tonic::include_proto!("greeter.v1");
}

/// The service of gRPC's interop tests: `grpc.testing.TestService`, client and server, generated from
/// `proto/grpc/testing/test.proto`.
pub mod grpc_testing {
    tonic::include_proto!("grpc.testing");

    /// Its proto files, as reflection hands them out.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/grpc_testing.bin"));
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

/// Reads what is at `path`, a file or a pipe, but no more than one byte beyond `max`: whoever gets more knows enough.
///
/// # Errors
/// If it cannot be read.
pub fn read_at_most(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(max as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{percentile, read_at_most};

    #[test]
    fn no_more_is_read_than_tells_that_it_is_too_much() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "1234567").unwrap();
        assert_eq!(read_at_most(&path, 7).unwrap(), b"1234567");
        assert_eq!(read_at_most(&path, 4).unwrap(), b"12345");
        assert!(read_at_most(directory.path(), 4).is_err());
    }

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
