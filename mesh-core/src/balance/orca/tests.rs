use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// A field of eight bytes.
fn double(number: u32, value: f64) -> Vec<u8> {
    [&[(number << 3 | 1) as u8][..], &value.to_le_bytes()].concat()
}

/// An entry of a map.
fn entry(number: u32, key: &str, value: f64) -> Vec<u8> {
    let message = [&[0x0a, key.len() as u8], key.as_bytes(), &double(2, value)].concat();
    [&[(number << 3 | 2) as u8, message.len() as u8], &message[..]].concat()
}

fn policy(metrics: &[&str]) -> WeightedRoundRobin {
    let utilization_metrics = metrics.iter().map(|name| Arc::from(*name)).collect();
    WeightedRoundRobin { utilization_metrics, ..WeightedRoundRobin::default() }
}

/// A report that says everything.
fn full() -> Vec<u8> {
    [
        double(1, 0.25),
        double(2, 0.5),
        vec![0x18, 0xe8, 0x07],
        entry(4, "db", 3.0),
        entry(5, "disk.io", 0.75),
        double(6, 100.0),
        double(7, 20.0),
        entry(8, "queue", 0.8),
        entry(8, "", 0.1),
        double(9, 0.4),
        double(15, 7.0),
    ]
    .concat()
}

#[test]
fn metrics_are_found_by_name() {
    let bytes = full();
    let report = LoadReport::parse(&bytes).unwrap();
    let cases = [
        ("cpu_utilization", Some(0.25)),
        ("mem_utilization", Some(0.5)),
        ("application_utilization", Some(0.4)),
        ("utilization.disk.io", Some(0.75)),
        ("named_metrics.queue", Some(0.8)),
        ("named_metrics.", Some(0.1)),
        ("named_metrics", None),
        ("named_metrics.disk.io", None),
        ("request_cost.db", None),
        ("rps_fractional", None),
        ("", None),
    ];
    for (name, wanted) in cases {
        assert_eq!(report.metric(name), wanted, "{name}");
    }
    assert_eq!((report.requests_per_second(), report.errors_per_second()), (Some(100.0), 20.0));
}

#[test]
fn the_last_of_a_field_counts() {
    let twice = [double(1, 0.25), entry(8, "a", 1.0), double(1, 0.5), entry(8, "a", 2.0), entry(8, "b", 3.0)].concat();
    let report = LoadReport::parse(&twice).unwrap();
    assert_eq!(report.metric("cpu_utilization"), Some(0.5));
    assert_eq!(report.metric("named_metrics.a"), Some(2.0));
    let emptied = [entry(8, "a", 1.0), vec![0x42, 0x03, 0x0a, 0x01, b'a']].concat();
    assert_eq!(LoadReport::parse(&emptied).unwrap().metric("named_metrics.a"), None);
}

#[test]
fn what_is_no_positive_number_was_not_reported() {
    for value in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let bytes = [double(1, value), double(6, value), double(7, value), entry(8, "a", value)].concat();
        let report = LoadReport::parse(&bytes).unwrap();
        assert_eq!((report.metric("cpu_utilization"), report.metric("named_metrics.a")), (None, None), "{value}");
        assert_eq!((report.requests_per_second(), report.errors_per_second()), (None, 0.0), "{value}");
        assert_eq!(report.weight(&policy(&["named_metrics.a"])), None, "{value}");
    }
}

/// LB-05: gRFC A58, with the utilization of gRFC A114.
#[test]
fn lb_05_a_weight_is_requests_for_utilization_and_errors() {
    let load = |fields: &[Vec<u8>]| [fields.concat(), double(6, 100.0)].concat();
    type Case = (Vec<u8>, &'static [&'static str], f64, Option<f64>);
    let cases: [Case; 12] = [
        (load(&[double(1, 0.5)]), &[], 1.0, Some(200.0)),
        (load(&[double(1, 2.0)]), &[], 1.0, Some(50.0)),
        (load(&[double(1, 0.5), double(9, 0.25)]), &[], 1.0, Some(400.0)),
        (load(&[double(1, 0.5), double(9, -1.0)]), &[], 1.0, Some(200.0)),
        (load(&[double(1, 0.5), double(7, 50.0)]), &[], 1.0, Some(100.0)),
        (load(&[double(1, 0.5), double(7, 50.0)]), &[], 3.0, Some(50.0)),
        (load(&[double(1, 0.5), double(7, 50.0)]), &[], 0.0, Some(200.0)),
        (load(&[double(2, 0.5)]), &[], 1.0, None),
        (double(1, 0.5), &[], 1.0, None),
        (full(), &["named_metrics.queue", "mem_utilization", "nothing"], 0.0, Some(125.0)),
        (full(), &["named_metrics.absent"], 0.0, Some(250.0)),
        (load(&[double(1, 1e-308), double(6, 1e300)]), &[], 1.0, None),
    ];
    for (bytes, metrics, error_utilization_penalty, wanted) in cases {
        let policy = WeightedRoundRobin { error_utilization_penalty, ..policy(metrics) };
        let weight = LoadReport::parse(&bytes).unwrap().weight(&policy);
        assert_eq!(weight, wanted, "{bytes:x?} {metrics:?}");
    }
}

#[test]
fn a_malformed_report_says_nothing() {
    assert!(LoadReport::parse(&[]).is_some());
    let bytes = full();
    // Between two of its eleven fields it is a shorter report.
    let cut = (1..bytes.len()).filter(|end| LoadReport::parse(&bytes[..*end]).is_some());
    assert_eq!(cut.count(), 10);
    let bad_entry = [double(1, 0.5), vec![0x42, 0x02, 0x0a, 0x07]].concat();
    assert!(LoadReport::parse(&bad_entry).is_none());
    let bad_type = [double(1, 0.5), vec![0x08, 0x01], vec![0x41, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(LoadReport::parse(&bad_type).unwrap().metric("cpu_utilization"), Some(0.5));
}

#[test]
fn a_header_is_base64_of_any_length() {
    let weight = |value: &[u8]| LoadReport::of_header(value, |report| report.weight(&policy(&[])));
    assert_eq!(weight(b"CQAAAAAAAOA/MQAAAAAAAFlA"), Some(Some(200.0)));
    assert_eq!(weight(b""), Some(None));
    assert_eq!(weight(b"CQAAAAAAAOA/MQAAAAAAAFl"), None);
    assert_eq!(weight(b"TEXT cpu_utilization=0.5"), None);
    // A text of zeros in an unknown field brings it to lengths around those of the buffer.
    for zeros in [0, 1, 200, 1_000, 12_000].into_iter().chain(355..370) {
        let length = [zeros as u8 & 0x7f | 0x80, (zeros >> 7) as u8];
        let bytes = [&[0x7a, length[0], length[1]], &vec![0; zeros][..], &double(1, 0.5), &double(6, 100.0)].concat();
        for padded in [true, false] {
            assert_eq!(weight(&encode(&bytes, padded)), Some(Some(200.0)), "{zeros} {padded}");
        }
    }
    assert_eq!(weight(&vec![b'A'; LoadReport::MAX_HEADER + 4]), None);
}

fn encode(bytes: &[u8], padded: bool) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let sextet = |place: usize| ALPHABET[(bits >> (18 - 6 * place)) as usize & 0x3f];
        text.extend((0..=group.len()).map(sextet));
        text.extend((group.len()..3).filter(|_| padded).map(|_| b'='));
    }
    text
}

proptest! {
    #[test]
    fn a_report_is_read_as_it_was_written(
        scalars in prop::collection::vec(0.001..10.0_f64, 5),
        named in prop::collection::btree_map("[a-z.]{0,8}", 0.001..10.0_f64, 0..8),
    ) {
        let numbers = [1, 2, 9, 6, 7];
        let mut bytes = numbers.iter().zip(&scalars).flat_map(|(number, value)| double(*number, *value)).collect::<Vec<_>>();
        bytes.extend(named.iter().flat_map(|(key, value)| entry(8, key, *value)));
        LoadReport::of_header(&encode(&bytes, bytes.len() % 2 == 0), |report| {
            prop_assert_eq!(report.metric("cpu_utilization"), Some(scalars[0]));
            prop_assert_eq!(report.metric("mem_utilization"), Some(scalars[1]));
            prop_assert_eq!(report.metric("application_utilization"), Some(scalars[2]));
            prop_assert_eq!(report.requests_per_second(), Some(scalars[3]));
            prop_assert_eq!(report.errors_per_second(), scalars[4]);
            for (key, value) in &named {
                prop_assert_eq!(report.metric(&format!("named_metrics.{key}")), Some(*value));
            }
            Ok(())
        }).unwrap()?;
    }
}

/// `report_interval` (1) is a `Duration` of seconds (1) and nanoseconds (2).
#[test]
fn a_stream_is_asked_for_with_its_period() {
    assert_eq!(LoadReport::request(Duration::from_secs(10)), [0x0a, 2, 0x08, 10]);
    assert_eq!(
        LoadReport::request(Duration::from_millis(1500)),
        [0x0a, 8, 0x08, 1, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01]
    );
    assert_eq!(LoadReport::request(Duration::ZERO), [0x0a, 0]);
}
