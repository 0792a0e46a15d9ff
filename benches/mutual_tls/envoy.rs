//! Two Envoys as sidecars have it: one beside the client, one beside the server, mutual TLS between them.

use std::net::SocketAddr;
use std::time::Duration;

use benches::credentials::{CLIENT, Credentials, SERVER, Side};
use benches::{Result, process};
use examples::peers::Envoy;
use tokio::runtime::Runtime;

/// The variable that has the path of the program.
const PROGRAM: &str = "MESH_PEER_ENVOY";

pub(crate) struct Sidecars {
    client: Envoy,
    server: Envoy,
}

impl Sidecars {
    /// Starts both, before `server`; `None` if there is no Envoy. Each has one worker.
    pub(crate) fn start(runtime: &Runtime, credentials: &Credentials, server: SocketAddr) -> Result<Option<Self>> {
        if std::env::var_os(PROGRAM).is_none() {
            return Ok(None);
        }
        Ok(Some(runtime.block_on(async {
            let inner = tls("Downstream", &credentials.server(), CLIENT);
            let server = Envoy::start(&proxy(server, Some(&inner), None)).await;
            let outer = tls("Upstream", &credentials.client(), SERVER);
            let client = Envoy::start(&proxy(server.listener("front"), None, Some(&outer))).await;
            Self { client, server }
        })))
    }

    /// Where a client calls.
    pub(crate) fn address(&self) -> SocketAddr {
        self.client.listener("front")
    }

    /// What tells the CPU time that both have spent.
    pub(crate) fn meter(&self) -> impl Fn() -> Result<Duration> + use<> {
        let ids = [self.client.process().id(), self.server.process().id()];
        move || Ok(process::cpu(ids[0])? + process::cpu(ids[1])?)
    }
}

/// From the listener `front` to `next`, by HTTP/2, with the TLS of either side.
fn proxy(next: SocketAddr, downstream: Option<&str>, upstream: Option<&str>) -> String {
    format!(
        "
static_resources:
  listeners:
  - name: front
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - {}filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          codec_type: HTTP2
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: next, timeout: 0s }} }}]
          http_filters:
          - name: router
            typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: next
    type: STATIC
    {}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}
",
        downstream.map(|tls| format!("{tls}\n      ")).unwrap_or_default(),
        upstream.unwrap_or_default(),
        next.ip(),
        next.port()
    )
}

/// The TLS of one side, on a single line.
fn tls(direction: &str, side: &Side, peer: &str) -> String {
    let required = if direction == "Downstream" { "require_client_certificate: true, " } else { "" };
    let directory = side.directory().display();
    format!(
        "transport_socket: {{ name: tls, typed_config: {{ \
         '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{direction}TlsContext, \
         {required}common_tls_context: {{ alpn_protocols: [h2], \
         tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}, \
         tls_certificates: [{{ certificate_chain: {{ filename: '{directory}/tls.crt' }}, \
         private_key: {{ filename: '{directory}/tls.key' }} }}], \
         validation_context: {{ trusted_ca: {{ filename: '{directory}/ca.crt' }}, \
         match_typed_subject_alt_names: [{{ san_type: URI, matcher: {{ exact: '{peer}' }} }}] }} }} }} }}"
    )
}
