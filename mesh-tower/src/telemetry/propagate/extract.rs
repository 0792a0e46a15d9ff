//! How a server finds the trace that a request belongs to.
//!
//! What is not exactly as its format says is as if it were not there: the request begins a trace of its own (W3C Trace
//! Context 3.2.2.4). Nothing is taken over that has no bound.

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_core::model::Propagator;
use opentelemetry::Context;
use opentelemetry::baggage::{Baggage, BaggageExt};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use percent_encoding::percent_decode_str;

use super::{
    B3, B3_FLAGS, B3_SAMPLED, B3_SPAN_ID, B3_TRACE_ID, BAGGAGE, BASE64, GRPC_TRACE_BIN, MAX_BAGGAGE, MAX_MEMBERS,
    TRACEPARENT, TRACESTATE, is_token, may_be_in_metadata,
};

/// The most bytes of `tracestate` that are taken over; the trace goes on without a longer one. At least 512 must be
/// (W3C Trace Context 3.3.1.5).
const MAX_STATE: usize = 4096;

/// The context that `headers` hand on: the caller's span and baggage, where `formats` name theirs.
pub(crate) fn extract(formats: &[Propagator], grpc: bool, headers: &HeaderMap) -> Context {
    let mut context = Context::new();
    if let Some(span) = remote_span(formats, grpc, headers) {
        context = context.with_remote_span_context(span);
    }
    if formats.contains(&Propagator::Baggage) {
        let members = baggage(headers);
        if !members.is_empty() {
            context = context.with_baggage(members);
        }
    }
    context
}

/// The caller's span, by the first of `formats` in which there is a valid one (TL-02).
pub(crate) fn remote_span(formats: &[Propagator], grpc: bool, headers: &HeaderMap) -> Option<SpanContext> {
    formats.iter().find_map(|format| match format {
        Propagator::TraceContext => trace_context(headers),
        Propagator::B3 => b3(headers),
        Propagator::B3Multi => b3_multi(headers),
        Propagator::GrpcTraceBin if grpc => grpc_trace_bin(headers),
        _ => None,
    })
}

/// The value of a header that is there once.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

/// Exactly as many hexadecimal digits as `N` bytes need.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn span(trace: [u8; 16], id: [u8; 8], sampled: bool, state: TraceState) -> Option<SpanContext> {
    let flags = TraceFlags::default().with_sampled(sampled);
    let span = SpanContext::new(TraceId::from_bytes(trace), SpanId::from_bytes(id), flags, true, state);
    span.is_valid().then_some(span)
}

/// `00-TRACE-SPAN-FLAGS`; a later version may have more behind it (W3C Trace Context 3.2.2, 4.3).
fn trace_context(headers: &HeaderMap) -> Option<SpanContext> {
    let value = single(headers, TRACEPARENT)?;
    let (known, more) = value.split_at_checked(55)?;
    let [version] = hex(&known[..2])?;
    let fits = match version {
        0 => more.is_empty(),
        0xff => false,
        _ => matches!(more.first(), None | Some(b'-')),
    };
    if !fits || [2, 35, 52].iter().any(|&place| known[place] != b'-') {
        return None;
    }
    let [flags] = hex(&known[53..])?;
    span(hex(&known[3..35])?, hex(&known[36..52])?, flags & 1 == 1, trace_state(headers))
}

/// The list of all its headers; none if it is not valid, or too long.
fn trace_state(headers: &HeaderMap) -> TraceState {
    let values = headers.get_all(TRACESTATE);
    if values.iter().map(HeaderValue::len).sum::<usize>() > MAX_STATE {
        return TraceState::NONE;
    }
    let mut members = Vec::new();
    for value in values {
        let Ok(text) = value.to_str() else { return TraceState::NONE };
        for member in text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|one| !one.is_empty()) {
            match member.split_once('=') {
                Some((key, value)) if !key.is_empty() && !value.contains('\t') => members.push((key, value)),
                _ => return TraceState::NONE,
            }
        }
    }
    TraceState::from_key_value(members).unwrap_or(TraceState::NONE)
}

/// The id of a trace, which may be half as long as ours (Zipkin B3).
fn b3_trace_id(text: &[u8]) -> Option<[u8; 16]> {
    hex(text).or_else(|| hex::<8>(text).map(|half| u128::from(u64::from_be_bytes(half)).to_be_bytes()))
}

/// `TRACE-SPAN`, `TRACE-SPAN-SAMPLED` or `TRACE-SPAN-SAMPLED-PARENT`. A caller that leaves the sampling to us counts as
/// one that does not sample.
fn b3(headers: &HeaderMap) -> Option<SpanContext> {
    let mut fields = single(headers, B3)?.split(|byte| *byte == b'-');
    let (trace, id) = (b3_trace_id(fields.next()?)?, hex(fields.next()?)?);
    let sampled = match fields.next() {
        None | Some(b"0") => false,
        Some(b"1" | b"d") => true,
        Some(_) => return None,
    };
    if let Some(parent) = fields.next() {
        hex::<8>(parent)?;
    }
    fields.next().is_none().then(|| span(trace, id, sampled, TraceState::NONE)).flatten()
}

fn b3_multi(headers: &HeaderMap) -> Option<SpanContext> {
    let (trace, id) = (b3_trace_id(single(headers, B3_TRACE_ID)?)?, hex(single(headers, B3_SPAN_ID)?)?);
    let debug = single(headers, B3_FLAGS) == Some(b"1");
    let sampled = match single(headers, B3_SAMPLED) {
        None | Some(b"0" | b"false") => false,
        Some(b"1" | b"true" | b"d") => true,
        Some(_) => return None,
    };
    span(trace, id, debug || sampled, TraceState::NONE)
}

/// 29 bytes: the version, and three fields with their numbers (gRFC A72).
fn grpc_trace_bin(headers: &HeaderMap) -> Option<SpanContext> {
    let text = single(headers, GRPC_TRACE_BIN)?;
    let text = text.strip_suffix(b"=").unwrap_or(text);
    let mut bytes = [0; 30];
    // 39 digits of 6 bits hold 29 bytes and two bits more.
    if text.len() != 39 {
        return None;
    }
    for (group, bytes) in text.chunks(4).zip(bytes.chunks_exact_mut(3)) {
        let mut value = 0_u32;
        for place in 0..4 {
            let digit = match group.get(place) {
                Some(byte) => BASE64.iter().position(|digit| digit == byte)?,
                None => 0,
            };
            value = value << 6 | digit as u32;
        }
        bytes.copy_from_slice(&value.to_be_bytes()[1..]);
    }
    if [bytes[0], bytes[1], bytes[18], bytes[27]] != [0, 0, 1, 2] {
        return None;
    }
    let (mut trace, mut id) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&bytes[2..18]);
    id.copy_from_slice(&bytes[19..27]);
    span(trace, id, bytes[28] & 1 == 1, TraceState::NONE)
}

/// The members of all `baggage` headers, up to the bounds of W3C Baggage 3.3.2. A member that cannot be read costs no
/// other.
fn baggage(headers: &HeaderMap) -> Baggage {
    let mut members = Baggage::new();
    let mut room = MAX_BAGGAGE;
    let values = headers.get_all(BAGGAGE).iter().filter_map(|value| value.to_str().ok());
    for member in values.flat_map(|value| value.split(',')).take(MAX_MEMBERS) {
        let Some(left) = room.checked_sub(member.len()) else { break };
        room = left;
        let (member, metadata) = member.split_once(';').unwrap_or((member, ""));
        let Some((key, value)) = member.split_once('=') else { continue };
        let key = key.trim();
        let Ok(value) = percent_decode_str(value.trim()).decode_utf8() else { continue };
        if is_token(key) && metadata.bytes().all(may_be_in_metadata) {
            members.insert_with_metadata(key.to_owned(), value.into_owned(), metadata);
        }
    }
    members
}

#[cfg(test)]
mod tests;
