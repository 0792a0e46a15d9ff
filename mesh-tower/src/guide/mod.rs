//! The guide: from the first call to production.
//!
//! | chapter | what it is about |
//! | --- | --- |
//! | [1. The first call](chapter_01_first_call) | a client, a name, an error |
//! | [2. Configuration](chapter_02_configuration) | the file, the environment, precedence, reload, checking |
//! | [3. Canary and A/B](chapter_03_canary) | weights, matches, moving traffic without an interruption |
//! | [4. Timeouts and retries](chapter_04_retries) | what is bounded, what is sent again, and what stops that |
//! | [5. Finding endpoints](chapter_05_endpoints) | lists, DNS, Unix sockets, a source of your own |
//! | [6. Balancing](chapter_06_balancing) | the policies, zones and priorities, hashes and sessions, a policy of your own |
//! | [7. Telemetry](chapter_07_telemetry) | traces, metrics, events, and what to alert on |
//! | [8. Taking it apart](chapter_08_layers) | single layers around a client of your own |
//! | [9. Testing your service](chapter_09_testing) | backends that fail on demand, time that jumps |
//! | [10. Production](chapter_10_production) | a check list, bounds, Kubernetes |
//! | [11. A bad day](chapter_11_bad_day) | endpoints that fail, backends that are slow: what helps, what it says, what to watch |
//! | [12. Limits of a server](chapter_12_server_limits) | what a caller can cost, where each bound holds, deadlines that travel |
//! | [13. Mutual TLS](chapter_13_mutual_tls) | who you are, who your backends must be, and what happens when either changes |
//! | [14. Identity](chapter_14_identity) | where certificates come from, trust domains, revocation, rotation, what to alert on |
//! | [15. Servers](chapter_15_servers) | who gets in, who calls, where it listens, the way out, Kubernetes |
//! | [16. The threat model](chapter_16_threat_model) | what is protected, from whom, what is not, and the test of each claim |
//! | [17. Probes and pages](chapter_17_admin) | readiness, the admin listener, Kubernetes, servers of other frameworks |
//!
//! Every field of the file is in the [reference](mesh_core::config). What differs for gRPC is in the guide of
//! `mesh-tonic`. The code of all chapters is compiled by the tests of this crate and, but for a few programs that need
//! a network, run; the configurations are read by a test.

#[doc = include_str!("01_first_call.md")]
pub mod chapter_01_first_call {}

#[doc = include_str!("02_configuration.md")]
pub mod chapter_02_configuration {}

#[doc = include_str!("03_canary.md")]
pub mod chapter_03_canary {}

#[doc = include_str!("04_retries.md")]
pub mod chapter_04_retries {}

#[doc = include_str!("05_endpoints.md")]
pub mod chapter_05_endpoints {}

#[doc = include_str!("06_balancing.md")]
pub mod chapter_06_balancing {}

#[doc = include_str!("07_telemetry.md")]
pub mod chapter_07_telemetry {}

#[doc = include_str!("08_layers.md")]
pub mod chapter_08_layers {}

#[doc = include_str!("09_testing.md")]
pub mod chapter_09_testing {}

#[doc = include_str!("10_production.md")]
pub mod chapter_10_production {}

#[doc = include_str!("11_bad_day.md")]
pub mod chapter_11_bad_day {}

#[doc = include_str!("12_server_limits.md")]
pub mod chapter_12_server_limits {}

#[doc = include_str!("13_mutual_tls.md")]
pub mod chapter_13_mutual_tls {}

#[doc = include_str!("14_identity.md")]
pub mod chapter_14_identity {}

#[doc = include_str!("15_servers.md")]
pub mod chapter_15_servers {}

#[doc = include_str!("16_threat_model.md")]
pub mod chapter_16_threat_model {}

#[doc = include_str!("17_admin.md")]
pub mod chapter_17_admin {}
