use proptest::prelude::*;

use super::*;

fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
    }
    map
}

#[test]
fn content_type_tells_grpc_from_the_rest() {
    for (value, expected) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;charset=utf-8", true),
        ("Application/GRPC+json", true),
        ("application/grpc-web", false),
        ("application/grpc-web+proto", false),
        ("application/grpcs", false),
        ("application/grp", false),
        ("application/json", false),
        (" application/grpc", false),
        ("", false),
    ] {
        assert_eq!(is_grpc(&headers(&[("content-type", value.as_bytes())])), expected, "{value:?}");
    }
    assert!(!is_grpc(&HeaderMap::new()));
}

#[test]
fn codes_have_the_numbers_and_names_of_the_specification() {
    let names = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    for (number, name) in names.iter().enumerate() {
        let code = Code::from_i32(number as i32);
        assert_eq!(code as usize, number);
        assert_eq!(code.name(), *name);
        assert_eq!(code.to_string(), *name);
        assert_eq!(code.header_value(), number.to_string());
        assert_eq!(Code::from_header_value(code.header_value().as_bytes()), code);
    }
    for number in [-1, 17, i32::MAX, i32::MIN] {
        assert_eq!(Code::from_i32(number), Code::Unknown, "{number}");
    }
}

#[test]
fn status_values_that_are_no_code_are_unknown() {
    for (value, expected) in [
        ("0", Code::Ok),
        ("14", Code::Unavailable),
        ("014", Code::Unavailable),
        ("17", Code::Unknown),
        ("-1", Code::Unknown),
        ("+0", Code::Unknown),
        (" 0", Code::Unknown),
        ("", Code::Unknown),
        ("UNAVAILABLE", Code::Unknown),
        ("4294967296", Code::Unknown),
        ("18446744073709551616", Code::Unknown),
    ] {
        assert_eq!(status(&headers(&[("grpc-status", value.as_bytes())])), Some(expected), "{value:?}");
    }
    assert_eq!(status(&headers(&[("grpc-status", b"\xff")])), Some(Code::Unknown));
    assert_eq!(status(&HeaderMap::new()), None);
}

#[test]
fn a_head_settles_the_call_only_if_it_must() {
    let with = headers(&[("grpc-status", b"14")]);
    let without = HeaderMap::new();
    for (http, headers, end_of_stream, expected) in [
        (200, &without, false, None),
        // A status in a head that goes on is not the call's: that comes in the trailers.
        (200, &with, false, None),
        (200, &with, true, Some(Code::Unavailable)),
        (200, &without, true, Some(Code::Unknown)),
        (404, &without, false, Some(Code::Unimplemented)),
        (404, &without, true, Some(Code::Unimplemented)),
        (404, &with, false, Some(Code::Unimplemented)),
        // gRPC's own status beats the mapping.
        (404, &with, true, Some(Code::Unavailable)),
    ] {
        let http = StatusCode::from_u16(http).unwrap();
        assert_eq!(code_of_head(http, headers, end_of_stream), expected, "{http} {headers:?} {end_of_stream}");
    }
}

#[test]
fn http_statuses_map_as_in_http_grpc_status_mapping() {
    for status in 100..1000 {
        let expected = match status {
            400 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502 | 503 | 504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        assert_eq!(code_of_http_status(StatusCode::from_u16(status).unwrap()), expected, "{status}");
    }
}

#[test]
fn h2_reasons_map_as_in_protocol_http2() {
    for (reason, expected) in [
        (0x0, Code::Internal),
        (0x1, Code::Internal),
        (0x2, Code::Internal),
        (0x3, Code::Internal),
        (0x4, Code::Internal),
        (0x5, Code::Internal),
        (0x6, Code::Internal),
        (0x7, Code::Unavailable),
        (0x8, Code::Cancelled),
        (0x9, Code::Internal),
        (0xa, Code::Internal),
        (0xb, Code::ResourceExhausted),
        (0xc, Code::PermissionDenied),
        (0xd, Code::Internal),
        (0xe, Code::Internal),
        (u32::MAX, Code::Internal),
    ] {
        assert_eq!(code_of_h2_reason(reason), expected, "{reason:#x}");
    }
}

/// RE-08: what does not read as a pause forbids the retry.
#[test]
fn re_08_pushback_is_a_pause_or_a_stop() {
    for (values, expected) in [
        (&[][..], Pushback::Absent),
        (&["0"], Pushback::After(Duration::ZERO)),
        (&["500"], Pushback::After(Duration::from_millis(500))),
        (&["18446744073709551615"], Pushback::After(Duration::from_millis(u64::MAX))),
        (&["18446744073709551616"], Pushback::Stop),
        (&["-1"], Pushback::Stop),
        (&["abc"], Pushback::Stop),
        (&[""], Pushback::Stop),
        (&["+5"], Pushback::Stop),
        (&["5 "], Pushback::Stop),
        (&["1.5"], Pushback::Stop),
        (&["5", "5"], Pushback::Stop),
    ] {
        let pairs: Vec<_> = values.iter().map(|value| ("grpc-retry-pushback-ms", value.as_bytes())).collect();
        assert_eq!(pushback(&headers(&pairs)), expected, "{values:?}");
    }
}

#[test]
fn messages_are_percent_encoded() {
    for (message, expected) in [
        ("", ""),
        ("plain text, ~ and space", "plain text, ~ and space"),
        ("100%", "100%25"),
        ("a\r\nb\t", "a%0D%0Ab%09"),
        ("caf\u{e9} \u{1f980}", "caf%C3%A9 %F0%9F%A6%80"),
        ("\u{7f}\u{0}", "%7F%00"),
    ] {
        assert_eq!(percent_encode_message(message), expected, "{message:?}");
    }
}

fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (hex, tail) = tail.split_at(2);
            out.push(u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap());
            rest = tail;
        } else {
            out.push(byte);
        }
    }
    out
}

#[test]
fn timeouts_are_read() {
    for (text, expected) in [
        ("1H", Duration::from_secs(3_600)),
        ("2M", Duration::from_secs(120)),
        ("3S", Duration::from_secs(3)),
        ("4m", Duration::from_millis(4)),
        ("5u", Duration::from_micros(5)),
        ("6n", Duration::from_nanos(6)),
        ("0S", Duration::ZERO),
        ("00000007S", Duration::from_secs(7)),
        ("99999999n", Duration::from_nanos(99_999_999)),
        ("99999999H", Duration::from_secs(99_999_999 * 3_600)),
    ] {
        assert_eq!(parse_timeout(text.as_bytes()), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_no_timeout_is_refused() {
    for text in ["", "S", "1", "1s", "1h", "1 S", " 1S", "1S ", "-1S", "+1S", "1.5S", "123456789S", "000000001S", "1SS"]
    {
        assert_eq!(parse_timeout(text.as_bytes()), Err(InvalidTimeout), "{text:?}");
    }
    assert_eq!(parse_timeout(b"\xff\xff"), Err(InvalidTimeout));
}

/// RE-11: what a server is told never exceeds what the caller has left.
#[test]
fn re_11_timeouts_are_written_in_the_finest_unit_that_fits() {
    const HOUR: u64 = 3_600;
    for (timeout, expected) in [
        (Duration::ZERO, "1n"),
        (Duration::from_nanos(1), "1n"),
        (Duration::from_nanos(99_999_999), "99999999n"),
        (Duration::from_nanos(100_000_000), "100000u"),
        (Duration::from_nanos(100_000_999), "100000u"),
        (Duration::from_secs(1), "1000000u"),
        (Duration::from_nanos(99_999_999_999), "99999999u"),
        (Duration::from_secs(100), "100000m"),
        (Duration::from_secs(99_999), "99999000m"),
        (Duration::from_secs(100_000), "100000S"),
        (Duration::new(99_999_999, 999_999_999), "99999999S"),
        (Duration::from_secs(100_000_000), "1666666M"),
        (Duration::from_secs(99_999_999 * 60 + 60), "1666666H"),
        (Duration::from_secs(99_999_999 * HOUR), "99999999H"),
        (Duration::from_secs(100_000_000 * HOUR), "99999999H"),
        (Duration::MAX, "99999999H"),
    ] {
        assert_eq!(encode_timeout(timeout), expected, "{timeout:?}");
    }
}

proptest! {
    #[test]
    fn encoded_messages_decode_to_what_they_were(message in any::<String>()) {
        let encoded = percent_encode_message(&message);
        prop_assert!(encoded.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte)));
        prop_assert_eq!(percent_decode(encoded.as_bytes()), message.as_bytes());
    }

    /// The exponent spreads the durations over all units, which uniform seconds would not.
    #[test]
    fn re_11_encoding_never_exceeds_and_loses_less_than_a_unit(exponent in 0u32..64, nanos in any::<u64>(), scale in 1u32..20) {
        let timeout = Duration::from_nanos(nanos >> exponent) * scale;
        let text = encode_timeout(timeout);
        let read = parse_timeout(text.as_bytes()).unwrap();
        let (unit, count) = text.as_bytes().split_last().unwrap();
        prop_assert!(count.len() <= 8);
        prop_assert_ne!(count[0], b'0');
        let unit = parse_timeout(&[b'1', *unit]).unwrap();
        prop_assert!(read <= timeout.max(Duration::from_nanos(1)));
        prop_assert!(timeout.saturating_sub(read) < unit);
        if unit > Duration::from_nanos(1) {
            prop_assert!(unit.as_nanos() * 100_000 <= timeout.as_nanos());
        }
    }

    #[test]
    fn any_bytes_are_read_as_the_pattern_says(value in prop::collection::vec(any::<u8>(), 0..12)) {
        let pattern = regex::bytes::Regex::new(r"\A[0-9]{1,8}[HMSmun]\z").unwrap();
        prop_assert_eq!(parse_timeout(&value).is_ok(), pattern.is_match(&value));
    }

    #[test]
    fn strings_near_the_pattern_are_read_as_it_says(value in "[0-9 +-]{0,10}[HMSmunhs]?") {
        let pattern = regex::bytes::Regex::new(r"\A[0-9]{1,8}[HMSmun]\z").unwrap();
        prop_assert_eq!(parse_timeout(value.as_bytes()).is_ok(), pattern.is_match(value.as_bytes()));
    }
}
