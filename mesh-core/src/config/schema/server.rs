//! What this process serves.

use super::super::choice::{OrNone, ServerTls};
use super::super::listen::{AdminAddress, ListenAddress};
use super::super::names::{IdentityHeader, Name, ServerName};
use super::super::number::{Flag, Integer, Span};
use super::super::peer::PeerItem;
use super::super::section::Presence::{DefaultsTo, Optional, Required};
use super::super::section::section;
use super::super::shape::{List, OneOrMore};
use super::super::text::Word;
use super::U32_MAX;
use crate::model::{self, AccessLog};

/// The longest time that a connection of a server may be kept for: a week.
const WEEK: u64 = 604_800_000;
const MAX_STREAMS: i64 = i32::MAX as i64;

section! {
    /// Where a server listens, whom it lets in, and within which limits. Without an address the program opens its listener.
    Server: "a server" {
        /// Its name, which no other server may have.
        name: Name = Required,
        /// Where it listens. Excludes `addresses`.
        address: ListenAddress = Optional,
        /// Where it listens, if that is more than one address. Excludes `address`.
        addresses: OneOrMore<ListenAddress> = Optional,
        /// Whether callers must prove who they are. Without it `strict` where there is an `identity`, else `disabled`.
        tls: ServerTls = Optional,
        /// What becomes of headers that say who the caller is.
        forwarded_identity: ForwardedIdentity = DefaultsTo("{}"),
        /// Its limits.
        limits: ServerLimits = DefaultsTo("{}"),
        /// How it stops.
        drain: Drain = DefaultsTo("{}"),
        /// Whether each request is written to the log: `off`, or a line of `text` or `json` each.
        access_log: Word<AccessLog> = DefaultsTo("off"),
        /// Whether what a handler sends by a client of the mesh is bound by the deadline of the request that it handles.
        propagate_deadline: Flag = DefaultsTo("false"),
    } not yet { authorization, rate_limit, jwt }

    /// Whether callers must prove who they are, and who may connect.
    ServerTlsSection: "a TLS section of a server" {
        /// `strict`: mutual TLS and nothing else. `permissive`: mutual TLS and plaintext on one port. `disabled`: plaintext.
        mode: Word<model::ServerTls> = Required,
        /// Who may connect with a certificate: one of these. Without it, or if empty, everybody whom the identity trusts.
        identities: List<PeerItem> = Optional,
    } not yet {}

    /// What becomes of `x-forwarded-client-cert`, `x-envoy-*`, `l5d-client-id`, `ssl-client-*` and other headers that say
    /// who the caller is.
    ForwardedIdentity: "a forwarded identity" {
        /// Proxies whose headers are left as they are, by a name in their verified certificates. Without it nobody's.
        trusted_proxies: List<PeerItem> = Optional,
        /// Further headers that say who the caller is, and are removed, with `_` as with `-` in their names.
        headers: List<IdentityHeader> = Optional,
        /// Whether `x-forwarded-client-cert` is written from the verified certificate.
        write: Flag = DefaultsTo("false"),
    } not yet {}

    /// The limits of a server.
    ServerLimits: "a section of limits" {
        /// Connections at once; those above are closed at once.
        max_connections: OrNone<Integer<u32, 1, U32_MAX>> = DefaultsTo("20000"),
        /// Connections at once from one IP address; of IPv6 from one network of 64 bits.
        max_connections_per_address: OrNone<Integer<u32, 1, U32_MAX>> = DefaultsTo("none"),
        /// Bytes of all headers of a request, decoded, 32 more for each (RFC 9113 10.5.1).
        max_header_bytes: Integer<u32, 1024, 8_388_608> = DefaultsTo("16384"),
        /// Headers of a request.
        max_headers: Integer<u32, 1, 65_535> = DefaultsTo("100"),
        /// How long a TLS handshake may take.
        handshake_timeout: Span<1, 300_000> = DefaultsTo("10s"),
        /// How long it may take until it is clear what the caller speaks.
        detection_timeout: Span<1, 300_000> = DefaultsTo("10s"),
        /// How long the headers of a request may take from their first byte to their last.
        header_timeout: Span<1, 300_000> = DefaultsTo("10s"),
        /// From the accepted connection to the headers of its first request, TLS included.
        first_request_timeout: Span<1, 300_000> = DefaultsTo("15s"),
        /// How long a connection may be without a request.
        idle_timeout: OrNone<Span<1, WEEK>> = DefaultsTo("1h"),
        /// How long nothing is heard of a caller before it is asked, by HTTP/2 and by TCP, whether it is still there.
        keepalive_time: OrNone<Span<1000, 86_400_000>> = DefaultsTo("1m"),
        /// How long its answer may take; then the connection ends.
        keepalive_timeout: Span<1, 300_000> = DefaultsTo("20s"),
        /// How old a connection may become, jittered by 10 %.
        max_connection_age: OrNone<Span<1, WEEK>> = DefaultsTo("none"),
        /// How long the requests of a connection that is too old may go on; `none`: any time.
        max_connection_age_grace: OrNone<Span<0, WEEK>> = DefaultsTo("none"),
        /// Requests at once on an HTTP/2 connection.
        max_concurrent_streams: Integer<u32, 1, MAX_STREAMS> = DefaultsTo("200"),
        /// How long a request may take up to the head of its response.
        request_timeout: OrNone<Span<1, 86_400_000>> = DefaultsTo("none"),
        /// How long a handler may wait for the next piece of a request's body; not where it is known to speak gRPC.
        body_timeout: OrNone<Span<1, 86_400_000>> = DefaultsTo("5m"),
        /// How long an answer may wait for a caller that takes nothing of it; not for a handler that has nothing to send.
        send_timeout: OrNone<Span<1, 86_400_000>> = DefaultsTo("5m"),
        /// Bytes of a request's body; not of a gRPC call whose handler is known to speak gRPC.
        max_body_bytes: OrNone<Integer<u64, 0, 1_099_511_627_776>> = DefaultsTo("none"),
        /// Bytes of a message of a gRPC call, as it is sent.
        max_message_bytes: OrNone<Integer<u32, 0, U32_MAX>> = DefaultsTo("4194304"),
        /// Streams that a caller may have reset before their requests were looked at (rapid reset).
        max_pending_resets: Integer<u32, 1, U32_MAX> = DefaultsTo("20"),
        /// Streams that this server may have reset for a caller's mistakes (MadeYouReset).
        max_local_resets: Integer<u32, 1, U32_MAX> = DefaultsTo("1024"),
        /// Frames a second that carry nothing of a request, such as pings and settings; counted over 10 s.
        max_control_frames: Integer<u32, 1, U32_MAX> = DefaultsTo("1000"),
    } not yet {}

    /// How a server stops.
    Drain: "a drain" {
        /// How long it goes on to accept connections once it is no longer ready: until then others still send here.
        delay: Span<0, 3_600_000> = DefaultsTo("5s"),
        /// How long requests under way may then take.
        grace: Span<0, 3_600_000> = DefaultsTo("20s"),
    } not yet {}

    /// The admin listener: plaintext, for kubelets, scrapers and people.
    Admin: "an admin listener" {
        /// Where it listens; a loopback address unless `allow_remote`.
        address: AdminAddress = Required,
        /// Whether `address` may be another than a loopback one: who reaches it needs no identity.
        allow_remote: Flag = DefaultsTo("false"),
        /// Whether `POST /drain` works.
        allow_drain: Flag = DefaultsTo("false"),
        /// Names by which it may be asked for, beside IP addresses and `localhost`: requests for another host are refused.
        hosts: List<ServerName> = Optional,
    } not yet {}
}
