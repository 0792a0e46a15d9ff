//! Taking endpoints out for what they answer (Envoy's outlier detection, gRFC A50, Linkerd's probes).
//!
//! - [`outcome`] says what an attempt means for its endpoint,
//! - a [`Record`] belongs to each endpoint, a [`Detector`] to each backend; both outlive updates of the configuration,
//! - an [`EjectionChange`] is what there is to tell of.
//!
//! Failures in a row eject at once, where they are recorded; whatever compares endpoints or takes time happens in the
//! sweep that ends an interval. So an endpoint whose time is up returns with the first sweep after it.

mod detector;
#[cfg(all(loom, test))]
mod models;
mod outcome;
mod record;
mod sweep;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use detector::Detector;
pub use outcome::{Outcome, outcome};
pub use record::{Record, Standing};

/// Why an endpoint is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Server errors in a row.
    Consecutive5xx,
    /// Answers 502, 503 and 504 in a row.
    ConsecutiveGatewayErrors,
    /// Requests without an answer in a row.
    ConsecutiveLocalOriginFailures,
    /// A success rate below that of the others.
    SuccessRate,
    /// Too many failures.
    FailurePercentage,
    /// The request failed that was to show that the endpoint is back.
    Probe,
}

impl Cause {
    /// Every cause, in order.
    pub const ALL: [Self; 6] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGatewayErrors,
        Self::ConsecutiveLocalOriginFailures,
        Self::SuccessRate,
        Self::FailurePercentage,
        Self::Probe,
    ];

    /// A stable word, such as `consecutive_5xx`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayErrors => "consecutive_gateway_errors",
            Self::ConsecutiveLocalOriginFailures => "consecutive_local_origin_failures",
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::Probe => "probe",
        }
    }
}

/// Why an endpoint is not taken out although there is a [`Cause`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unenforced {
    /// As many are out as may be.
    MaxEjectionOverflow,
    /// By the share of ejections that is carried out.
    EnforcementPercentage,
}

impl Unenforced {
    /// Every reason, in order.
    pub const ALL: [Self; 2] = [Self::MaxEjectionOverflow, Self::EnforcementPercentage];

    /// A stable word, such as `max_ejection_overflow`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxEjectionOverflow => "max_ejection_overflow",
            Self::EnforcementPercentage => "enforcement_percentage",
        }
    }
}

/// What happened to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EjectionChange {
    /// It is taken out.
    Ejected {
        /// Why.
        cause: Cause,
        /// For how long.
        duration: Duration,
    },
    /// It would have been taken out.
    Spared {
        /// Why it would.
        cause: Cause,
        /// Why it is not.
        reason: Unenforced,
    },
    /// Its time is up; one request decides whether it is back.
    Probing,
    /// It is back.
    Returned,
}
