//! Load reports of endpoints: any bytes, any header, and any report that was written well.

use mesh_core::balance::LoadReport;
use mesh_core::model::WeightedRoundRobin;

use super::reader::Reader;

const NAMES: [&str; 8] = [
    "cpu_utilization",
    "mem_utilization",
    "application_utilization",
    "named_metrics.",
    "named_metrics.a",
    "named_metrics.a.b",
    "utilization.a",
    "utilization.é",
];

/// The keys of maps that reports are written with.
const KEYS: [&str; 4] = ["", "a", "a.b", "é"];

const VALUES: [f64; 8] = [0.0, 0.5, 1.0, 250.0, -1.0, f64::NAN, f64::INFINITY, 1e-310];

/// The first byte says what the others are: 0 a message, 1 the value of a header, otherwise the fields of a report, a
/// few bytes each.
pub fn run(data: &[u8]) {
    let mut input = Reader(data);
    match input.below(3) {
        0 => {
            if let Some(report) = LoadReport::parse(input.0) {
                check(&report);
            }
        }
        1 => header(input.0),
        _ => written(&mut input),
    }
}

/// Whatever it says, it is numbers that one can count with.
fn check(report: &LoadReport<'_>) {
    let sound = |value: f64| value.is_finite() && value > 0.0;
    assert!(NAMES.iter().all(|name| report.metric(name).is_none_or(sound)), "{report:?}");
    assert!(report.requests_per_second().is_none_or(sound), "{report:?}");
    assert!(report.errors_per_second() == 0.0 || sound(report.errors_per_second()), "{report:?}");
    let mut policy = WeightedRoundRobin::default();
    assert!(report.weight(&policy).is_none_or(sound), "{report:?}");
    policy.utilization_metrics = NAMES.iter().map(|name| (*name).into()).collect();
    assert!(report.weight(&policy).is_none_or(sound), "{report:?}");
}

/// A header says what the bytes in it say.
fn header(value: &[u8]) {
    let shown = LoadReport::of_header(value, |report| {
        check(report);
        format!("{report:?}")
    });
    let decoded = plainly(value).filter(|_| value.len() <= LoadReport::MAX_HEADER);
    assert_eq!(shown, decoded.and_then(|bytes| LoadReport::parse(&bytes).map(|report| format!("{report:?}"))));
}

/// Base64 again, a bit at a time.
fn plainly(value: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let bare = text.trim_end_matches('=');
    let padding = text.len() - bare.len();
    if bare.len() % 4 == 1 || (padding > 0 && (padding > 2 || text.len() % 4 != 0)) {
        return None;
    }
    let mut bits = Vec::new();
    for char in bare.chars() {
        let number = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).position(|c| c == char)?;
        bits.extend((0..6).rev().map(|bit| number >> bit & 1 == 1));
    }
    let byte = |bits: &[bool]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    Some(bits.chunks_exact(8).map(byte).collect())
}

/// What was written last under a name is what is read.
fn written(input: &mut Reader<'_>) {
    let mut bytes = Vec::new();
    let mut metrics = [None; NAMES.len()];
    for _ in 0..input.below(16) {
        let value = input.pick(&VALUES);
        let double = |number: u8| [&[number << 3 | 1][..], &value.to_le_bytes()].concat();
        let (name, field) = match input.below(8) {
            0 => ("cpu_utilization".to_owned(), double(1)),
            1 => ("mem_utilization".to_owned(), double(2)),
            2 => ("application_utilization".to_owned(), double(9)),
            // A varint, and a group of four bytes, in fields of no name.
            3 => (String::new(), vec![0x18, 0x80 | input.below(128) as u8, 0x01]),
            4 => (String::new(), vec![15 << 3 | 5, 1, 2, 3, 4]),
            map => {
                let (map, number) = if map % 2 == 0 { ("utilization", 5) } else { ("named_metrics", 8) };
                let key = input.pick(&KEYS);
                let key_field = [&[1 << 3 | 2, key.len() as u8], key.as_bytes()].concat();
                let parts = if input.flag() { [key_field, double(2)] } else { [double(2), key_field] };
                let message = parts.concat();
                (format!("{map}.{key}"), [&[number << 3 | 2, message.len() as u8], &message[..]].concat())
            }
        };
        bytes.extend(field);
        if let Some(place) = NAMES.iter().position(|known| *known == name) {
            metrics[place] = Some(value).filter(|value| value.is_finite() && *value > 0.0);
        }
    }
    let report = LoadReport::parse(&bytes).expect("it was written well");
    check(&report);
    for (name, value) in NAMES.iter().zip(metrics) {
        assert_eq!(report.metric(name), value, "{name} of {bytes:x?}");
    }
}
