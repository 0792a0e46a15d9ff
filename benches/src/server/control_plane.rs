//! The least xDS control plane that tells a client what the mesh's configuration file tells ours: one route to one
//! cluster of all endpoints, with a retry policy for the one service, without for the other.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};
use prost::Message;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::client::{METHOD_PREFIX, RETRIES, SERVICE, SERVICE_WITHOUT_RETRIES};

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const HTTP_CONNECTION_MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

pub(super) type ControlPlane = AggregatedDiscoveryServiceServer<Ads>;

pub(super) fn control_plane(endpoints: &[SocketAddr]) -> ControlPlane {
    let resources = [
        (SERVICE, any(LISTENER, &listener(SERVICE, Some(retries())))),
        (SERVICE_WITHOUT_RETRIES, any(LISTENER, &listener(SERVICE_WITHOUT_RETRIES, None))),
        (SERVICE, any(CLUSTER, &cluster())),
        (SERVICE, any(ENDPOINTS, &assignment(endpoints))),
    ];
    AggregatedDiscoveryServiceServer::new(Ads { resources: resources.into() })
}

/// Sends what it has of a type and a name to whoever asks for that.
pub(super) struct Ads {
    resources: Arc<[(&'static str, Any)]>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        let resources = Arc::clone(&self.resources);
        let (responses, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut answered: HashMap<String, Vec<String>> = HashMap::new();
            while let Ok(Some(DiscoveryRequest { type_url, resource_names, .. })) = requests.message().await {
                // A request for what was sent already acknowledges it, or refuses it and would again.
                if answered.get(&type_url) == Some(&resource_names) {
                    continue;
                }
                let wanted = |(name, any): &&(&str, Any)| {
                    any.type_url == type_url && resource_names.iter().any(|wanted| wanted == name)
                };
                let response = DiscoveryResponse {
                    version_info: "1".to_owned(),
                    nonce: "1".to_owned(),
                    resources: resources.iter().filter(wanted).map(|(_, any)| any.clone()).collect(),
                    type_url: type_url.clone(),
                    ..Default::default()
                };
                answered.insert(type_url, resource_names);
                if responses.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("state of the world only"))
    }
}

fn any(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

fn retries() -> RetryPolicy {
    RetryPolicy {
        retry_on: "unavailable".to_owned(),
        num_retries: Some(UInt32Value { value: RETRIES }),
        ..Default::default()
    }
}

fn listener(service: &str, retry_policy: Option<RetryPolicy>) -> Listener {
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(METHOD_PREFIX.to_owned())),
            ..Default::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(SERVICE.to_owned())),
            retry_policy,
            ..Default::default()
        })),
        ..Default::default()
    };
    let routes = RouteConfiguration {
        name: service.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: service.to_owned(),
            domains: vec![service.to_owned()],
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    };
    let manager =
        HttpConnectionManager { route_specifier: Some(RouteSpecifier::RouteConfig(routes)), ..Default::default() };
    Listener {
        name: service.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(any(HTTP_CONNECTION_MANAGER, &manager)) }),
        ..Default::default()
    }
}

/// With outlier detection as sharp as gRPC has it (gRFC A50), for whoever reads it: tonic-xds 0.1.0-alpha.4 does not.
fn cluster() -> Cluster {
    let outlier_detection = OutlierDetection {
        interval: Some(Duration { seconds: 1, nanos: 0 }),
        failure_percentage_threshold: Some(UInt32Value { value: 85 }),
        enforcing_failure_percentage: Some(UInt32Value { value: 100 }),
        failure_percentage_minimum_hosts: Some(UInt32Value { value: 3 }),
        failure_percentage_request_volume: Some(UInt32Value { value: 10 }),
        ..Default::default()
    };
    Cluster {
        name: SERVICE.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        outlier_detection: Some(outlier_detection),
        ..Default::default()
    }
}

fn assignment(endpoints: &[SocketAddr]) -> ClusterLoadAssignment {
    let endpoint = |address: &SocketAddr| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address {
                address: Some(AddressKind::SocketAddress(SocketAddress {
                    address: address.ip().to_string(),
                    port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
                    ..Default::default()
                })),
            }),
            ..Default::default()
        })),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: SERVICE.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: endpoints.iter().map(endpoint).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}
