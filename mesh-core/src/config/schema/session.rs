//! Cookies and headers that lead requests to their endpoint.

use super::super::names::{CookieName, CookiePath, Header};
use super::super::number::Span;
use super::super::section::Presence::{DefaultsTo, Optional, Required};
use super::super::section::section;

section! {
    /// A cookie that a request is hashed by.
    HashCookie: "a cookie" {
        /// Its name.
        name: CookieName = Required,
        /// Where there is none, one is made up that lives so long; `0s`: as long as the session. Without it none is.
        ttl: Span<0, 31_536_000_000> = Optional,
        /// The path of a cookie that is made up. Without it that of the request's directory.
        path: CookiePath = Optional,
    } not yet {}

    /// How the requests of a session find the endpoint of its first one again: one of `cookie`, `header`.
    SessionAffinity: "a session affinity" {
        /// By a cookie, which the first response sets.
        cookie: SessionCookie = Optional,
        /// By this header of requests and responses.
        header: Header = Optional,
    } not yet {}

    /// A cookie that holds the endpoint of a session.
    SessionCookie: "a cookie of a session" {
        /// Its name.
        name: CookieName = Required,
        /// How long it lives; `0s`: as long as the caller's session.
        ttl: Span<0, 31_536_000_000> = DefaultsTo("0s"),
        /// Its path; requests outside of it have no session.
        path: CookiePath = DefaultsTo("/"),
    } not yet {}
}
