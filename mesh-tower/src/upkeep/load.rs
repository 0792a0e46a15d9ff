//! Load reports out of band (ORCA, gRFC A51): endpoints of a backend that is balanced by reported weights are asked for
//! a stream of reports, and each report sets the weight of its endpoint.
//!
//! There is one stream for each endpoint that is connected. It is [no use](crate::net::aside) of its connection: one that
//! nothing else uses idles out, and one that is to be closed is not held. An endpoint that does not know the call is not
//! asked again before it is connected anew; without two weights the backend is balanced by round robin.

use std::sync::Arc;

use mesh_core::balance::{LoadReport, State};
use mesh_core::grpc::Code;
use mesh_core::model::{ConnectBackoff, LoadBalancer, WeightedRoundRobin};
use mesh_core::resilience::backoff::ConnectBackoffState;
use tokio::time::Instant;

use super::authority_of;
use super::rounds::{Errand, Next};
use crate::net::grpc::{Call, CallError};
use crate::net::{Backend, Endpoint};

/// The errand of listening to load reports.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LoadReports(Arc<WeightedRoundRobin>);

/// How a stream of reports ended.
pub(super) struct Ended {
    why: CallError,
    /// Whether a report came before.
    heard: bool,
}

impl Errand for LoadReports {
    /// How often it failed without a report.
    type Memory = ConnectBackoffState;
    type Report = Ended;

    fn of(backend: &Backend) -> Option<Self> {
        match &backend.config().load_balancer {
            LoadBalancer::WeightedRoundRobin(policy) if policy.out_of_band => {
                backend.transport().wanted(true).map(|_| Self(Arc::new(policy.clone())))
            }
            _ => None,
        }
    }

    fn wants(&self, endpoint: &Endpoint) -> bool {
        endpoint.state() == State::Ready
    }

    async fn visit(&self, backend: Arc<Backend>, endpoint: Arc<Endpoint>) -> Ended {
        let (timeout, wanted) = (backend.transport().connect_timeout, backend.transport().wanted(true));
        let authority = authority_of(&backend, &endpoint);
        // It may go on for long, and the backend may change meanwhile.
        drop(backend);
        let Some(wanted) = wanted else { return Ended { why: CallError::Leaving, heard: false } };
        let message = LoadReport::request(self.0.out_of_band_period);
        let call = Call { wanted, authority, path: LoadReport::STREAM, message };
        let mut heard = false;
        let each = |message: &[u8]| {
            heard = true;
            if let Some(weight) = LoadReport::parse(message).and_then(|report| report.weight(&self.0)) {
                endpoint.report_weight(weight, Instant::now().into_std());
            }
        };
        let why = call.stream(&endpoint, timeout, each).await;
        Ended { why, heard }
    }

    fn conclude(
        &self,
        _: &Backend,
        endpoint: &Endpoint,
        backoff: &mut ConnectBackoffState,
        Ended { why, heard }: Ended,
        _: Instant,
    ) -> Next {
        tracing::debug!(endpoint = %endpoint.address(), why = %why, "the stream of load reports ended");
        if heard {
            backoff.reset();
        }
        match why {
            CallError::Status(Code::Unimplemented) => Next::WhenConnectedAnew,
            CallError::Leaving => Next::At(Instant::now()),
            _ => Next::At(Instant::now() + backoff.next_delay(&ConnectBackoff::default(), &mut rand::rng())),
        }
    }
}
