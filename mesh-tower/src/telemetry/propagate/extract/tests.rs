use proptest::prelude::*;

use super::super::inject;
use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
const BINARY: &str = "AAAK92UZFs1D3YRI6yEcgDGcAbeta3FpIDMxAgE";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

/// `trace span sampled state`, or nothing.
fn found(formats: &[Propagator], pairs: &[(&'static str, &str)]) -> Option<String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let span = remote_span(formats, true, &headers)?;
    assert!(span.is_remote() && span.is_valid());
    let sampled = u8::from(span.is_sampled());
    Some(format!("{} {} {sampled} {}", span.trace_id(), span.span_id(), span.trace_state().header()).trim().to_owned())
}

/// TL-01: what is no valid `traceparent` begins a new trace.
#[test]
fn tl_01_only_a_valid_traceparent_is_continued() {
    let sampled = Some(format!("{TRACE} {SPAN} 1"));
    let ids = format!("{TRACE}-{SPAN}");
    for (value, expected) in [
        (format!("00-{ids}-01"), sampled.clone()),
        (format!("00-{ids}-00"), Some(format!("{TRACE} {SPAN} 0"))),
        (format!("00-{ids}-ff"), sampled.clone()),
        (format!("cc-{ids}-01"), sampled.clone()),
        (format!("cc-{ids}-01-more"), sampled),
        (format!("cc-{ids}-01more"), None),
        (format!("00-{ids}-01-more"), None),
        (format!("ff-{ids}-01"), None),
        (format!("0-{ids}-01"), None),
        (format!("00-{ids}-1"), None),
        (format!("00-{ids}"), None),
        (format!("00-{ids}-0g"), None),
        (format!("00-{}-01", ids.to_uppercase()), None),
        (format!("00_{ids}-01"), None),
        (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
        (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
        (format!(" 00-{ids}-01"), None),
        (String::new(), None),
        ("00".to_owned(), None),
    ] {
        assert_eq!(found(&[Propagator::TraceContext], &[("traceparent", &value)]), expected, "{value}");
    }
    let twice = format!("00-{ids}-01");
    assert_eq!(found(&[Propagator::TraceContext], &[("traceparent", &twice), ("traceparent", &twice)]), None);
}

#[test]
fn tl_01_a_trace_state_is_taken_over_whole_or_not_at_all() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let of = |states: &[&str]| {
        let pairs: Vec<_> =
            [("traceparent", &*parent)].into_iter().chain(states.iter().map(|state| ("tracestate", *state))).collect();
        let found = found(&[Propagator::TraceContext], &pairs).unwrap();
        found.strip_prefix(&format!("{TRACE} {SPAN} 1")).unwrap().trim().to_owned()
    };
    assert_eq!(of(&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"]), "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
    assert_eq!(of(&["a=1", "b=2"]), "a=1,b=2");
    assert_eq!(of(&["a=1 ,\tb=2,,"]), "a=1,b=2");
    for bad in ["a", "=1", "A=1", "a=1=2", "a=1,b", "a=1\tb"] {
        assert_eq!(of(&[bad]), "", "{bad}");
    }
    let members = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    assert_eq!(of(&[&members(40)]), members(32));
    let long = (0..20).map(|n| format!("k{n}={}", "x".repeat(250))).collect::<Vec<_>>().join(",");
    assert_eq!(of(&[&long]), "");
}

/// TL-02, and Zipkin's formats.
#[test]
fn tl_02_each_format_is_read_as_its_specification_says() {
    use Propagator::{B3, B3Multi, Baggage, GrpcTraceBin, TraceContext};
    let (ids, half) = (format!("{TRACE}-{SPAN}"), "8448eb211c80319c");
    let parent = format!("00-{TRACE}-{SPAN}-00");
    let sampled = Some(format!("{TRACE} {SPAN} 1"));
    let unsampled = Some(format!("{TRACE} {SPAN} 0"));
    let short = Some(format!("0000000000000000{half} {SPAN} 1"));
    let b3 = |value: &str, expected: &Option<String>| {
        assert_eq!(found(&[B3], &[("b3", value)]), *expected, "{value}");
    };
    b3(&format!("{ids}-1"), &sampled);
    b3(&format!("{ids}-d"), &sampled);
    b3(&format!("{ids}-0"), &unsampled);
    b3(&ids, &unsampled);
    b3(&format!("{ids}-1-{SPAN}"), &sampled);
    b3(&format!("{half}-{SPAN}-1"), &short);
    for bad in ["0", "", "-", TRACE, &format!("{ids}-x"), &format!("{ids}-1-{SPAN}-"), &format!("{ids}-1-x")] {
        b3(bad, &None);
    }
    let multi = |sampled: &'static str, flags: &'static str| {
        let mut pairs = vec![("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
        pairs.extend((!sampled.is_empty()).then_some(("x-b3-sampled", sampled)));
        pairs.extend((!flags.is_empty()).then_some(("x-b3-flags", flags)));
        found(&[B3Multi], &pairs)
    };
    assert_eq!(multi("1", ""), sampled);
    assert_eq!(multi("true", ""), sampled);
    assert_eq!(multi("0", ""), unsampled);
    assert_eq!(multi("", ""), unsampled);
    assert_eq!(multi("", "1"), sampled);
    assert_eq!(multi("yes", ""), None);
    assert_eq!(found(&[B3Multi], &[("x-b3-traceid", TRACE)]), None);

    for (value, expected) in [
        (BINARY.to_owned(), &sampled),
        (format!("{BINARY}="), &sampled),
        (format!("{}A", &BINARY[..38]), &unsampled),
        (format!("{BINARY}=="), &None),
        (BINARY[..36].to_owned(), &None),
        (format!("{BINARY},{BINARY}"), &None),
        (format!("B{}", &BINARY[1..]), &None),
        (BINARY.replace('A', "!"), &None),
    ] {
        assert_eq!(found(&[GrpcTraceBin], &[("grpc-trace-bin", &value)]), *expected, "{value}");
    }
    let both = [("traceparent", &*parent), ("grpc-trace-bin", BINARY)];
    assert_eq!(found(&[TraceContext, GrpcTraceBin], &both), unsampled, "the first format wins");
    assert_eq!(found(&[GrpcTraceBin, TraceContext], &both), sampled);
    assert_eq!(found(&[B3, Baggage, TraceContext], &both), unsampled, "a format that is not there is no word");
    assert_eq!(found(&[Baggage], &both), None);
    assert!(remote_span(&[GrpcTraceBin], false, &headers(&both)).is_none(), "on gRPC calls only");
}

#[test]
fn tl_02_baggage_is_read_and_bounded() {
    let of = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("baggage", HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let context = extract(&[Propagator::Baggage], false, &headers);
        let mut members: Vec<_> = context
            .baggage()
            .iter()
            .map(|(key, (value, metadata))| format!("{key}={value};{}", metadata.as_str()))
            .collect();
        members.sort_unstable();
        members
    };
    assert_eq!(of(&["a=b , user = J%C3%B6rg%2C%20 ;p=1"]), ["a=b;", "user=J\u{f6}rg, ;p=1"]);
    assert_eq!(of(&["a=1", "b=2"]), ["a=1;", "b=2;"]);
    assert_eq!(of(&["novalue,o d=1,=2,bad=%ff,good=1"]), ["good=1;"]);
    assert!(of(&["a=\u{e9}"]).is_empty());
    let many: String = (0..1000).map(|n| format!("k{n}=1,")).collect();
    assert!(of(&[&many]).len() <= MAX_MEMBERS);
    let long = format!("a=1,b={},c=3", "x".repeat(MAX_BAGGAGE));
    assert_eq!(of(&[&long]), ["a=1;"]);
    assert!(extract(&[Propagator::TraceContext], false, &headers(&[("baggage", "a=1")])).baggage().is_empty());
}

proptest! {
    /// Every format is read as it is written.
    #[test]
    fn tl_01_tl_02_what_is_written_is_read(trace in 1_u128.., id in 1_u64.., sampled in any::<bool>()) {
        let written = SpanContext::new(
            trace.into(),
            id.into(),
            TraceFlags::default().with_sampled(sampled),
            false,
            TraceState::from_key_value([("rojo", "1")]).unwrap(),
        );
        for format in [Propagator::TraceContext, Propagator::B3, Propagator::B3Multi, Propagator::GrpcTraceBin] {
            let mut headers = HeaderMap::new();
            inject(&[format], &written, &Context::new(), true, &mut headers);
            let read = remote_span(&[format], true, &headers).unwrap();
            prop_assert_eq!(read.trace_id(), written.trace_id());
            prop_assert_eq!(read.span_id(), written.span_id());
            prop_assert_eq!(read.is_sampled(), sampled);
        }
    }

    /// Whatever stands in a header, nothing panics and what is found is valid.
    #[test]
    fn tl_01_no_header_does_harm(
        bytes in prop::collection::vec(any::<u8>().prop_filter("no header", |b| *b >= 32 && *b != 127 || *b == 9), 0..80),
        text in "[0-9a-f-]{40,70}",
    ) {
        let formats = [
            Propagator::TraceContext,
            Propagator::Baggage,
            Propagator::B3,
            Propagator::B3Multi,
            Propagator::GrpcTraceBin,
        ];
        for value in [HeaderValue::from_bytes(&bytes).unwrap(), HeaderValue::from_str(&text).unwrap()] {
            let names = [TRACEPARENT, TRACESTATE, BAGGAGE, B3, B3_TRACE_ID, B3_SPAN_ID, B3_SAMPLED, GRPC_TRACE_BIN];
            let headers: HeaderMap = names.into_iter().map(|name| (name, value.clone())).collect();
            let context = extract(&formats, true, &headers);
            prop_assert!(!context.has_active_span() || context.span().span_context().is_valid());
        }
    }
}
