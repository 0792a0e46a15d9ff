//! How a trace travels with a request.
//!
//! Written by hand and not by a `TextMapPropagator`: that one formats a `String` for each header, which is then copied
//! into a header value, for every request, also those that nobody samples. Here values are cut from a buffer that many
//! requests share.

mod extract;

use std::cell::RefCell;
use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_core::model::Propagator;
use opentelemetry::Context;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::SpanContext;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

pub(crate) use self::extract::{extract, remote_span};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
const GRPC_TRACE_BIN: HeaderName = HeaderName::from_static("grpc-trace-bin");

/// The most bytes of baggage that are sent or taken over (W3C Baggage 3.3.2); members that no longer fit are left out.
const MAX_BAGGAGE: usize = 8192;
/// The most members of baggage that are sent or read.
const MAX_MEMBERS: usize = 180;

/// What must be escaped in a value of baggage (W3C Baggage 3.3.1, `baggage-octet`), and the escape itself.
const NOT_BAGGAGE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b',').add(b';').add(b'\\').add(b'%');

/// Writes `span`, and the baggage of `context`, into `headers` as `formats` say. Headers of the same names that are
/// there are replaced; where there is nothing to say they are left alone.
pub(crate) fn inject(
    formats: &[Propagator],
    span: &SpanContext,
    context: &Context,
    grpc: bool,
    headers: &mut HeaderMap,
) {
    for format in formats {
        match format {
            Propagator::Baggage => baggage(context, headers),
            _ if !span.is_valid() => {}
            Propagator::TraceContext => trace_context(span, headers),
            Propagator::B3 => b3(span, headers),
            Propagator::B3Multi => b3_multi(span, headers),
            Propagator::GrpcTraceBin if grpc => grpc_trace_bin(span, headers),
            _ => {}
        }
    }
}

fn trace_context(span: &SpanContext, headers: &mut HeaderMap) {
    let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags().to_u8() & 1);
    set(headers, TRACEPARENT, |text| write!(text, "00-{trace}-{id}-{flags:02x}"));
    let state = span.trace_state().header();
    if state.is_empty() {
        // One that the caller copied from its own request would speak of another trace.
        headers.remove(TRACESTATE);
    } else {
        set(headers, TRACESTATE, |text| text.write_str(&state));
    }
}

fn b3(span: &SpanContext, headers: &mut HeaderMap) {
    let (trace, id, sampled) = (span.trace_id(), span.span_id(), u8::from(span.is_sampled()));
    set(headers, B3, |text| write!(text, "{trace}-{id}-{sampled}"));
}

fn b3_multi(span: &SpanContext, headers: &mut HeaderMap) {
    set(headers, B3_TRACE_ID, |text| write!(text, "{}", span.trace_id()));
    set(headers, B3_SPAN_ID, |text| write!(text, "{}", span.span_id()));
    let sampled = if span.is_sampled() { "1" } else { "0" };
    headers.insert(B3_SAMPLED, HeaderValue::from_static(sampled));
}

/// 29 bytes: the version, and three fields with their numbers (gRFC A72).
fn grpc_trace_bin(span: &SpanContext, headers: &mut HeaderMap) {
    let mut bytes = [0; 29];
    bytes[2..18].copy_from_slice(&span.trace_id().to_bytes());
    bytes[18] = 1;
    bytes[19..27].copy_from_slice(&span.span_id().to_bytes());
    bytes[27] = 2;
    bytes[28] = span.trace_flags().to_u8() & 1;
    set(headers, GRPC_TRACE_BIN, |text| {
        // Binary metadata travels in base64 without padding (gRPC PROTOCOL-HTTP2).
        for group in bytes.chunks(3) {
            let value =
                group.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
            for place in 0..=group.len() {
                text.write_char(BASE64[(value >> (18 - 6 * place) & 63) as usize] as char)?;
            }
        }
        Ok(())
    });
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn baggage(context: &Context, headers: &mut HeaderMap) {
    let members = context.baggage();
    if members.is_empty() {
        return;
    }
    set(headers, BAGGAGE, |text| {
        for (key, (value, metadata)) in members.iter().filter(|(key, _)| is_token(key.as_str())).take(MAX_MEMBERS) {
            let before = text.len();
            let comma = if before == 0 { "" } else { "," };
            write!(text, "{comma}{key}={}", utf8_percent_encode(value.as_str(), NOT_BAGGAGE))?;
            if !metadata.as_str().is_empty() && metadata.as_str().bytes().all(may_be_in_metadata) {
                write!(text, ";{}", metadata.as_str())?;
            }
            if text.len() > MAX_BAGGAGE {
                text.truncate(before);
            }
        }
        Ok(())
    });
}

/// Whether `key` can name a member (RFC 9110 5.6.2); there is no way to escape one that cannot.
fn is_token(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Whether `byte` can be in the properties of a member (W3C Baggage 3.3.1): any other would end the member, or the
/// header.
fn may_be_in_metadata(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t') || byte.is_ascii_graphic() && !b"\",\\".contains(&byte)
}

thread_local! {
    /// What header values are cut from.
    static BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// How large a piece of memory the values share. Whoever keeps one value keeps the piece.
const PIECE: usize = 4096;
/// What nearly every value fits into.
const COMMON: usize = 64;

fn set(headers: &mut HeaderMap, name: HeaderName, fill: impl FnOnce(&mut BytesMut) -> std::fmt::Result) {
    let value = BUFFER.with_borrow_mut(|buffer| {
        if buffer.capacity() < COMMON {
            *buffer = BytesMut::with_capacity(PIECE);
        }
        // Formatting into memory fails only where a formatter does; a header that is not whole is not sent.
        let filled = fill(buffer).is_ok() && !buffer.is_empty();
        let value = buffer.split().freeze();
        filled.then_some(value)
    });
    if let Some(value) = value.and_then(|value: Bytes| HeaderValue::from_maybe_shared(value).ok()) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use opentelemetry::KeyValue;
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};

    use super::*;

    const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
    const SPAN: u64 = 0xb7ad_6b71_6920_3331;

    fn span(sampled: bool, state: &str) -> SpanContext {
        let flags = TraceFlags::default().with_sampled(sampled);
        let state = TraceState::from_str(state).unwrap();
        SpanContext::new(TraceId::from(TRACE), SpanId::from(SPAN), flags, false, state)
    }

    fn injected(formats: &[Propagator], span: &SpanContext, context: &Context, grpc: bool) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        inject(formats, span, context, grpc, &mut headers);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn tl_01_tl_02_each_format_is_written_as_its_specification_says() {
        use Propagator::{B3, B3Multi, Baggage, GrpcTraceBin, TraceContext};
        let trace_id = "0af7651916cd43dd8448eb211c80319c";
        let ids = format!("{trace_id}-b7ad6b7169203331");
        type Case<'a> = (&'a [Propagator], bool, &'a str, bool, Vec<(String, String)>);
        let cases: [Case<'_>; 7] = [
            (&[TraceContext], true, "", false, pairs(&[("traceparent", &format!("00-{ids}-01"))])),
            (&[TraceContext], false, "", false, pairs(&[("traceparent", &format!("00-{ids}-00"))])),
            (
                &[TraceContext, Baggage],
                true,
                "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
                false,
                pairs(&[
                    ("traceparent", &format!("00-{ids}-01")),
                    ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
                ]),
            ),
            (&[B3], true, "", false, pairs(&[("b3", &format!("{ids}-1"))])),
            (
                &[B3Multi],
                false,
                "",
                false,
                pairs(&[("x-b3-traceid", trace_id), ("x-b3-spanid", "b7ad6b7169203331"), ("x-b3-sampled", "0")]),
            ),
            (&[GrpcTraceBin], true, "", true, pairs(&[("grpc-trace-bin", "AAAK92UZFs1D3YRI6yEcgDGcAbeta3FpIDMxAgE")])),
            (&[GrpcTraceBin, Baggage], true, "", false, Vec::new()),
        ];
        for (formats, sampled, state, grpc, expected) in cases {
            let got = injected(formats, &span(sampled, state), &Context::new(), grpc);
            assert_eq!(got, expected, "{formats:?}");
        }
    }

    #[test]
    fn baggage_is_escaped_and_bounded() {
        let context = Context::new().with_baggage([KeyValue::new("user", "J\u{f6}rg, 50%"), KeyValue::new("a", "b")]);
        let got = injected(&[Propagator::Baggage], &SpanContext::NONE, &context, false);
        let [(name, value)] = &*got else { panic!("one header: {got:?}") };
        assert_eq!(name, "baggage");
        let mut members: Vec<_> = value.split(',').collect();
        members.sort_unstable();
        assert_eq!(members, ["a=b", "user=J%C3%B6rg%2C%2050%25"]);

        let many = (0..100).map(|n| KeyValue::new(format!("key-{n}"), "x".repeat(200)));
        let got = injected(&[Propagator::Baggage], &SpanContext::NONE, &Context::new().with_baggage(many), false);
        assert!(got[0].1.len() <= MAX_BAGGAGE, "{}", got[0].1.len());
        assert!(got[0].1.split(',').all(|member| member.starts_with("key-") && member.len() > 200));
    }

    #[test]
    fn tl_02_a_member_that_cannot_be_written_costs_no_other() {
        use opentelemetry::baggage::KeyValueMetadata;
        let cases = [
            ("odd", "p=1; q", "good=1,odd=2;p=1; q"),
            ("odd", "p=1,evil=1", "good=1,odd=2"),
            ("odd", "p=1\r\nevil: 1", "good=1,odd=2"),
            ("odd", "p=\"1\"", "good=1,odd=2"),
            ("odd", "p=\u{e9}", "good=1,odd=2"),
            ("o,d", "", "good=1"),
            ("o=d", "p=1", "good=1"),
            ("\u{e9}", "", "good=1"),
        ];
        for (key, metadata, expected) in cases {
            let members = [
                KeyValueMetadata::new("good", "1", ""),
                KeyValueMetadata::new(key.to_owned(), "2", metadata.to_owned()),
            ];
            let context = Context::new().with_baggage(members);
            let got = injected(&[Propagator::Baggage], &SpanContext::NONE, &context, false);
            let mut members: Vec<_> = got[0].1.split(',').collect();
            members.sort_unstable();
            assert_eq!(members.join(","), expected, "{key:?} {metadata:?}");
        }
    }

    #[test]
    fn without_a_trace_nothing_is_touched() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static("the caller's own"));
        let formats = [Propagator::TraceContext, Propagator::B3, Propagator::B3Multi, Propagator::GrpcTraceBin];
        inject(&formats, &SpanContext::NONE, &Context::new(), true, &mut headers);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers[TRACEPARENT], "the caller's own");
    }

    #[test]
    fn a_state_of_another_trace_does_not_travel_on() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACESTATE, HeaderValue::from_static("old=1"));
        inject(&[Propagator::TraceContext], &span(true, ""), &Context::new(), false, &mut headers);
        assert!(!headers.contains_key(TRACESTATE));
    }
}
