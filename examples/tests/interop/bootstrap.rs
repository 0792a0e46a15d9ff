//! Bootstraps of Envoys, put together from the parts that Envoy's API has: each is YAML in one piece, `{ .. }`.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::SocketAddr;

use examples::peers::Files;

/// What Istio's sidecars offer to each other.
pub(crate) const ISTIO_H2: &str = "istio-h2, istio, h2";
pub(crate) const ISTIO_HTTP1: &str = "istio-http/1.1, istio, http/1.1";

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
const SOCKETS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The whole.
pub(crate) fn bootstrap(listeners: &[String], clusters: &[String]) -> String {
    let (listeners, clusters) = (listeners.join(",\n  "), clusters.join(",\n  "));
    format!("static_resources: {{ listeners: [\n  {listeners}\n  ], clusters: [\n  {clusters}\n  ] }}")
}

/// A listener that tells TLS from plaintext, if some of its chains ask for that.
pub(crate) fn listener(name: &str, chains: &[String]) -> String {
    let chains = chains.join(",\n    ");
    format!(
        "{{ name: {name}, address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}, listener_filters: [ \
         {{ name: inspector, typed_config: {{ '@type': {FILTERS}.listener.tls_inspector.v3.TlsInspector }} }} ], \
         filter_chains: [\n    {chains} ] }}"
    )
}

/// A chain of one filter; `more` are further fields of the chain, each with a comma behind it.
pub(crate) fn chain(name: &str, more: &str, filter: &str) -> String {
    format!("{{ name: {name}, {more} filters: [ {filter} ] }}")
}

/// HTTP by these routes; `more` are further fields of the connection manager, each with a comma behind it.
pub(crate) fn http(name: &str, routes: &str, more: &str) -> String {
    format!(
        "{{ name: http, typed_config: {{ '@type': {FILTERS}.network.http_connection_manager.v3.HttpConnectionManager, \
         stat_prefix: {name}, {more} http_filters: [ \
         {{ name: router, typed_config: {{ '@type': {FILTERS}.http.router.v3.Router }} }} ], \
         route_config: {{ {routes} }} }} }}"
    )
}

/// Everything goes to that cluster; `more` are further fields of the action, each with a comma before it.
pub(crate) fn all_to(cluster: &str, more: &str) -> String {
    format!(
        "virtual_hosts: [ {{ name: all, domains: ['*'], routes: [ \
         {{ match: {{ prefix: / }}, route: {{ cluster: {cluster}{more} }} }} ] }} ]"
    )
}

/// Bytes, whatever they mean.
pub(crate) fn tcp(cluster: &str) -> String {
    format!(
        "{{ name: tcp, typed_config: {{ '@type': {FILTERS}.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, \
         cluster: {cluster} }} }}"
    )
}

/// Servers at `addresses`, spoken to by that version of HTTP; `more` are further fields, each with a comma before it.
pub(crate) fn cluster(name: &str, addresses: &[SocketAddr], http2: bool, more: &str) -> String {
    let endpoint = |at: &SocketAddr| {
        let (address, port) = (at.ip(), at.port());
        format!("{{ endpoint: {{ address: {{ socket_address: {{ address: {address}, port_value: {port} }} }} }} }}")
    };
    let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
    let version = if http2 { "http2_protocol_options" } else { "http_protocol_options" };
    format!(
        "{{ name: {name}, type: STATIC, typed_extension_protocol_options: {{ {OPTIONS}: {{ \
         '@type': type.googleapis.com/{OPTIONS}, explicit_http_config: {{ {version}: {{}} }} }} }}, \
         load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {} ] }} ] }}{more} }}",
        endpoints.join(", ")
    )
}

/// A cluster's mutual TLS: with what is offered by ALPN, who the server must be, and further parameters. Without one Envoy
/// speaks TLS 1.2 at most as a client.
pub(crate) fn to_server(files: &Files, alpn: &str, identity: &str, parameters: &str) -> String {
    let common = common(files, alpn, &format!("exact: '{identity}'"), parameters);
    format!(", transport_socket: {{ name: tls, typed_config: {{ '@type': {SOCKETS}.UpstreamTlsContext, {common} }} }}")
}

/// A chain's mutual TLS, with what is agreed on by ALPN, and who the client must be: `prefix: ..`.
pub(crate) fn to_clients(files: &Files, alpn: &str, identity: &str) -> String {
    let common = common(files, alpn, identity, "");
    format!(
        "transport_socket: {{ name: tls, typed_config: {{ '@type': {SOCKETS}.DownstreamTlsContext, \
         require_client_certificate: true, {common} }} }},"
    )
}

fn common(files: &Files, alpn: &str, identity: &str, parameters: &str) -> String {
    let (certificate, key, bundle) = (files.certificate(), files.key(), files.bundle());
    format!(
        "common_tls_context: {{ alpn_protocols: [ {alpn} ], tls_params: {{ {parameters} }}, tls_certificates: [ \
         {{ certificate_chain: {{ filename: '{}' }}, private_key: {{ filename: '{}' }} }} ], validation_context: {{ \
         trusted_ca: {{ filename: '{}' }}, match_typed_subject_alt_names: [ \
         {{ san_type: URI, matcher: {{ {identity} }} }} ] }} }}",
        certificate.display(),
        key.display(),
        bundle.display()
    )
}

/// An Envoy that is `server` to programs that have no certificate of their own: on the listener `front`, byte by byte, over
/// mutual TLS with these files.
pub(crate) fn tunnel(server: SocketAddr, files: &Files, alpn: &str, identity: &str) -> String {
    let tls = to_server(files, alpn, identity, "tls_maximum_protocol_version: TLSv1_3");
    bootstrap(&[listener("front", &[chain("all", "", &tcp("it"))])], &[cluster("it", &[server], true, &tls)])
}
