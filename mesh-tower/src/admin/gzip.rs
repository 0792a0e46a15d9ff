//! Pages for those who take them compressed.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Below this many bytes it is not worth it.
const WORTH_IT: usize = 1024;

/// `page` as gzip, if `accepted`, an `Accept-Encoding` header, takes that, and it is worth it.
pub(super) fn gzip(page: &[u8], accepted: &str) -> Option<Vec<u8>> {
    if page.len() < WORTH_IT || !takes_gzip(accepted) {
        return None;
    }
    // Pages of metrics become a tenth even so.
    let mut encoder = GzEncoder::new(Vec::with_capacity(page.len() / 8), Compression::fast());
    encoder.write_all(page).ok()?;
    encoder.finish().ok()
}

/// RFC 9110 12.5.3: what is said of gzip itself counts more than what is said of all.
fn takes_gzip(accepted: &str) -> bool {
    let mut of_all = false;
    for coding in accepted.split(',') {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.split_once('=').filter(|(name, _)| name.eq_ignore_ascii_case("q")));
        let wanted = quality.is_none_or(|(_, value)| value.parse::<f32>().is_ok_and(|quality| quality > 0.0));
        match name {
            "*" => of_all = wanted,
            name if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => return wanted,
            _ => {}
        }
    }
    of_all
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn whoever_takes_gzip_says_so() {
        for (accepted, expected) in [
            ("gzip", true),
            ("GZIP;q=0.5", true),
            ("x-gzip", true),
            ("deflate, gzip;q=1.0, *;q=0.5", true),
            ("*", true),
            ("br, *;q=0.1", true),
            ("*;q=0, gzip", true),
            ("gzip;q=0", false),
            ("gzip; Q=0, *", false),
            ("gzip;q=x", false),
            ("*;q=0", false),
            ("identity", false),
            ("gzipped", false),
            ("", false),
        ] {
            assert_eq!(takes_gzip(accepted), expected, "{accepted}");
        }
    }

    #[test]
    fn what_is_compressed_is_the_page() {
        let page = "mesh_client_requests_total 1\n".repeat(1000);
        let packed = gzip(page.as_bytes(), "gzip").unwrap();
        assert!(packed.len() < page.len() / 10);
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(&*packed).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, page);
        assert_eq!(gzip(&page.as_bytes()[..WORTH_IT - 1], "gzip"), None);
    }
}
