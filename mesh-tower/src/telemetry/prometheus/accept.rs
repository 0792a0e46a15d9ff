//! What an `Accept` header asks for (RFC 9110 12.5.1).

/// Whether `accept` names OpenMetrics 1.0, and wants the text format no more than that. Wildcards ask for text, which
/// people can read.
pub(super) fn prefers_openmetrics(accept: &str) -> bool {
    let (mut openmetrics, mut text) = (0, None);
    for range in accept.split(',').filter_map(Range::parse) {
        let place = match &*range.kind {
            "application/openmetrics-text" if range.is_version(&["1.0.0"]) => {
                openmetrics = openmetrics.max(range.quality);
                continue;
            }
            "text/plain" if range.is_version(&["0.0.4"]) => 2,
            "text/*" => 1,
            "*/*" => 0,
            _ => continue,
        };
        // What says more precisely what it means counts, then what is wanted more.
        text = text.max(Some((place, range.quality)));
    }
    openmetrics > 0 && openmetrics >= text.map_or(0, |(_, quality)| quality)
}

/// A range of media types.
struct Range<'a> {
    kind: String,
    version: Option<&'a str>,
    /// In thousandths.
    quality: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Self { kind: parts.next()?.to_ascii_lowercase(), version: None, quality: 1000 };
        for part in parts {
            match part.split_once('=') {
                Some((name, value)) if name.eq_ignore_ascii_case("q") => range.quality = quality(value)?,
                Some((name, value)) if name.eq_ignore_ascii_case("version") => {
                    range.version = Some(value.trim_matches('"'));
                }
                _ => {}
            }
        }
        Some(range)
    }

    fn is_version(&self, known: &[&str]) -> bool {
        self.version.is_none_or(|version| known.contains(&version))
    }
}

/// A weight from 0 to 1, in thousandths.
fn quality(text: &str) -> Option<u16> {
    let weight: f32 = text.parse().ok()?;
    (0.0..=1.0).contains(&weight).then_some((weight * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TL-06.
    #[test]
    fn tl_06_the_content_type_is_negotiated() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (prometheus, true),
            ("application/openmetrics-text", true),
            ("Application/OpenMetrics-Text; version=\"1.0.0\"", true),
            ("application/openmetrics-text, */*", true),
            ("application/openmetrics-text;q=0.5, text/plain;q=0.5", true),
            ("text/plain;version=0.0.4, application/openmetrics-text;q=0.9", false),
            ("application/openmetrics-text;q=0.5, */*", false),
            ("application/openmetrics-text;q=0.5, */*, text/plain;q=0.1", true),
            ("application/openmetrics-text;version=0.0.1", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=2", false),
            ("application/openmetrics-text;q=x", false),
            ("application/*", false),
            ("*/*", false),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
            ("", false),
            (";,=", false),
        ] {
            assert_eq!(prefers_openmetrics(accept), expected, "{accept}");
        }
    }
}
