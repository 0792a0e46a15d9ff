//! Durations as Gateway API writes them (GEP-2257): 1 to 4 groups of 1 to 5 digits and a unit, `1h30m`, `10s`, `500ms`.

use std::time::Duration;

/// The units with their milliseconds, the longest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const MAX_GROUPS: usize = 4;
const MAX_DIGITS: usize = 5;

/// What a message says of the syntax.
pub(super) const SYNTAX: &str =
    "write 1 to 4 numbers of up to 5 digits, each with a unit h, m, s or ms: 1h30m, 10s, 500ms";

/// The syntax as a regular expression.
#[cfg(test)]
pub(super) const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// Reads a duration as the configuration writes it (GEP-2257): 1 to 4 numbers of up to 5 digits, each with a unit h, m, s
/// or ms. `None` if `text` is anything else.
///
/// ```
/// use std::time::Duration;
///
/// use mesh_core::config::parse_duration;
///
/// assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
/// assert_eq!(parse_duration("1.5s"), None);
/// ```
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis = 0;
    let mut groups = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        let letters = behind.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, behind) = behind.split_at(letters);
        groups += 1;
        if !(1..=MAX_DIGITS).contains(&digits) || groups > MAX_GROUPS {
            return None;
        }
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        millis += number.parse::<u64>().ok()? * factor;
        rest = behind;
    }
    (groups > 0).then(|| Duration::from_millis(millis))
}

/// Writes whole milliseconds, in one group if that says it all.
pub(super) fn format(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".into();
    }
    let fits = |number: u64| number < 10_u64.pow(MAX_DIGITS as u32);
    if let Some((unit, factor)) = UNITS.iter().find(|(_, factor)| millis % factor == 0 && fits(millis / factor)) {
        return format!("{}{unit}", millis / factor);
    }
    let mut text = String::new();
    for (unit, factor) in UNITS {
        if millis >= factor {
            text.push_str(&format!("{}{unit}", millis / factor));
            millis %= factor;
        }
    }
    text
}

/// What somebody who wrote `text` most likely means, in the syntax of this file: `1500ms` for `1.5s`, `2s` for `2 sec`.
/// Less than a millisecond becomes one.
pub(super) fn guess(text: &str) -> Option<String> {
    const MAX_LEN: usize = 40;
    let mut rest = text.trim_start();
    if rest.is_empty() || rest.len() > MAX_LEN {
        return None;
    }
    let mut millis = 0.0;
    while !rest.is_empty() {
        let (number, behind) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, behind) = split(behind.trim_start(), char::is_alphabetic);
        let factor = match unit.to_lowercase().as_str() {
            "d" | "day" | "days" => 86_400_000.0,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000.0,
            "s" | "sec" | "secs" | "second" | "seconds" => 1000.0,
            "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => 1.0,
            "us" | "µs" | "μs" | "usec" | "microsecond" | "microseconds" => 1e-3,
            "ns" | "nsec" | "nanosecond" | "nanoseconds" => 1e-6,
            _ => return None,
        };
        millis += number.parse::<f64>().ok()? * factor;
        rest = behind.trim_start();
    }
    let rounded = if millis > 0.0 { millis.round().max(1.0) } else { 0.0 };
    let text = (rounded < 1e12).then(|| format(Duration::from_millis(rounded as u64)))?;
    parse_duration(&text).map(|_| text)
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{format, guess, parse_duration};

    /// CF-10.
    #[test]
    fn accepts_what_gep_2257_accepts() {
        let table = [
            ("1h30m", 5_400_000),
            ("10s", 10_000),
            ("500ms", 500),
            ("0s", 0),
            ("0h0m0s0ms", 0),
            ("1h2m3s4ms", 3_723_004),
            ("4ms3s", 3004),
            ("1s1s", 2000),
            ("99999h", 359_996_400_000),
            ("00001s", 1000),
        ];
        for (text, millis) in table {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    /// CF-10.
    #[test]
    fn refuses_what_gep_2257_refuses() {
        let table = [
            "",
            "5",
            "s",
            "1.5s",
            "100us",
            "1d",
            "-1s",
            "+1s",
            " 1s",
            "1s ",
            "1 s",
            "1S",
            "1MS",
            "100000s",
            "1s1s1s1s1s",
            "1h30",
            "1sm",
            "٣s",
            "1ｓ",
        ];
        for text in table {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        let table = [
            (0, "0s"),
            (1, "1ms"),
            (1500, "1500ms"),
            (2000, "2s"),
            (90_000, "90s"),
            (5_400_000, "90m"),
            (7_200_000, "2h"),
            (3_723_004, "1h2m3s4ms"),
        ];
        for (millis, text) in table {
            assert_eq!(format(Duration::from_millis(millis)), text);
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn guesses_the_way_out() {
        let table = [
            ("1.5s", Some("1500ms")),
            ("2 sec", Some("2s")),
            ("10S", Some("10s")),
            ("100us", Some("1ms")),
            ("2500 µs", Some("3ms")),
            ("1 day", Some("24h")),
            ("1 hour 30 minutes", Some("90m")),
            ("120000ms", Some("2m")),
            ("0.0s", Some("0s")),
            ("5", None),
            ("soon", None),
            ("1..5s", None),
            ("99999999999999h", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(guess(text).as_deref(), expected, "{text}");
        }
    }
}
