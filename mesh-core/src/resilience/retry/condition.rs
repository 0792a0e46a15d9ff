use http::{HeaderMap, Method, StatusCode};

use crate::classify::{Attempt, Failure};
use crate::grpc::{self, Code};
use crate::matching::header_matches;
use crate::model::{HedgePolicy, RetryOn, RetryPolicy};

/// Whether `policy` wants another attempt after this one.
pub(super) fn holds(grpc: bool, policy: &RetryPolicy, method: &Method, attempt: &Attempt<'_>) -> bool {
    allows(grpc, policy, method, attempt)
        && match *attempt {
            Attempt::Response { status, headers, end_of_stream } if grpc => {
                let code = grpc::code_of_head(status, headers, end_of_stream);
                code.is_some_and(|code| policy.on.intersects(condition_of(code)))
                    || status != StatusCode::OK && http_of(policy, status, headers)
            }
            Attempt::Response { status, headers, .. } => http_of(policy, status, headers),
            Attempt::Failed(failure) => failed(grpc, policy.on, failure),
        }
}

/// Whether another attempt may follow this one at all, whoever wants it.
pub(super) fn allows(grpc: bool, policy: &RetryPolicy, method: &Method, attempt: &Attempt<'_>) -> bool {
    match *attempt {
        // A 200 that goes on is a call that goes on: it is committed (gRFC A6).
        Attempt::Response { status, headers, end_of_stream } if grpc => {
            grpc::code_of_head(status, headers, end_of_stream).is_some()
        }
        Attempt::Response { .. } => policy.methods.allows(method),
        Attempt::Failed(Failure::Local) => false,
        Attempt::Failed(Failure::Reset(_) | Failure::PerTryTimeout) => grpc || policy.methods.allows(method),
        Attempt::Failed(_) => true,
    }
}

/// Whether `policy` goes on after this one.
pub(in crate::resilience) fn is_non_fatal(grpc: bool, policy: &HedgePolicy, attempt: &Attempt<'_>) -> bool {
    let (on, codes) = (policy.non_fatal, &policy.status_codes);
    match *attempt {
        Attempt::Response { status, headers, end_of_stream } if grpc => {
            let code = grpc::code_of_head(status, headers, end_of_stream);
            code.is_some_and(|code| on.intersects(condition_of(code)))
                || status != StatusCode::OK && http(on, codes, status)
        }
        Attempt::Response { status, .. } => http(on, codes, status),
        Attempt::Failed(failure) => failed(grpc, on, failure),
    }
}

fn http_of(policy: &RetryPolicy, status: StatusCode, headers: &HeaderMap) -> bool {
    http(policy.on, &policy.status_codes, status)
        || policy.on.contains(RetryOn::RETRIABLE_HEADERS)
            && policy.headers.iter().any(|header| header_matches(header, headers))
}

fn http(on: RetryOn, codes: &[StatusCode], status: StatusCode) -> bool {
    on.contains(RetryOn::SERVER_ERROR) && status.is_server_error()
        || on.contains(RetryOn::GATEWAY_ERROR) && matches!(status.as_u16(), 502..=504)
        || on.contains(RetryOn::RETRIABLE_4XX) && status == StatusCode::CONFLICT
        || on.contains(RetryOn::RETRIABLE_STATUS_CODES) && codes.contains(&status)
}

fn failed(grpc: bool, on: RetryOn, failure: Failure) -> bool {
    // "No response at all" is part of what 5xx and gateway-error mean (Envoy), and what UNAVAILABLE stands for in gRPC.
    let no_response = RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR;
    let silence = if grpc { no_response | RetryOn::UNAVAILABLE } else { no_response };
    match failure {
        Failure::Reset(Some(code)) if grpc => on.intersects(no_response | RetryOn::RESET | condition_of(code)),
        Failure::Connect | Failure::NotSent => on.intersects(silence | RetryOn::CONNECT_FAILURE),
        Failure::Refused => on.intersects(silence | RetryOn::REFUSED_STREAM | RetryOn::RESET),
        Failure::Reset(_) => on.intersects(silence | RetryOn::RESET),
        // Whoever sets a per-try timeout asks for another try after it.
        Failure::PerTryTimeout => true,
        Failure::Local => false,
    }
}

fn condition_of(code: Code) -> RetryOn {
    match code {
        Code::Cancelled => RetryOn::CANCELLED,
        Code::DeadlineExceeded => RetryOn::DEADLINE_EXCEEDED,
        Code::Internal => RetryOn::INTERNAL,
        Code::ResourceExhausted => RetryOn::RESOURCE_EXHAUSTED,
        Code::Unavailable => RetryOn::UNAVAILABLE,
        _ => RetryOn::none(),
    }
}
