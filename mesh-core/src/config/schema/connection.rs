//! How connections are kept, and how endpoints are asked for their health.

use super::super::choice::Statuses;
use super::super::names::{ServerName, UriPath};
use super::super::number::{Flag, Integer, Span};
use super::super::section::Presence::{DefaultsTo, Optional, Required};
use super::super::section::section;
use super::super::text::Text;

section! {
    /// Pings over HTTP/2 connections (gRFC A8), and the limit of unacknowledged bytes of TCP (gRFC A18).
    Keepalive: "a keepalive" {
        /// How long nothing is received before a ping is sent. gRPC servers close connections that ping often.
        time: Span<1000, 86_400_000> = Required,
        /// How long the answer may take.
        timeout: Span<1, 300_000> = DefaultsTo("20s"),
        /// Whether connections without a request are asked, too.
        without_calls: Flag = DefaultsTo("false"),
    } not yet {}

    /// How endpoints are asked for their health: needs one of `grpc`, `http`. One that is not healthy is not picked.
    HealthCheck: "a health check" {
        /// Asks `grpc.health.v1.Health` for this service; empty for the server as a whole.
        grpc: Text = Optional,
        /// Sends a GET request.
        http: HttpProbe = Optional,
        /// The pause between two questions, jittered by 10 %.
        interval: Span<100, 86_400_000> = DefaultsTo("10s"),
        /// How long an answer may take.
        timeout: Span<1, 300_000> = DefaultsTo("1s"),
        /// After so many bad answers in a row an endpoint is unhealthy.
        unhealthy_threshold: Integer<u32, 1, 1000> = DefaultsTo("3"),
        /// After so many good answers in a row it is healthy again; the first answer of all counts at once.
        healthy_threshold: Integer<u32, 1, 1000> = DefaultsTo("2"),
    } not yet {}

    /// A GET request whose status tells the health.
    HttpProbe: "an HTTP probe" {
        /// Its path.
        path: UriPath = Required,
        /// Its host. Without it the name of the service.
        host: ServerName = Optional,
        /// The good statuses: one, or a section. Without it 200 to 299.
        expected: Statuses = Optional,
    } not yet {}

    /// Statuses from `start` to just below `end`.
    StatusSection: "a range of statuses" {
        /// The first status.
        start: Integer<u16, 100, 599> = Required,
        /// The first status that is no longer good; greater than `start`.
        end: Integer<u16, 101, 600> = Required,
    } not yet {}
}
