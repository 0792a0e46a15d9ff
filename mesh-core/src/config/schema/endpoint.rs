//! Endpoints, the places where they run, and how requests are divided among these.

use super::super::address::{EndpointAddress, EndpointItem};
use super::super::choice::OrNone;
use super::super::labels::Labels;
use super::super::number::{Flag, Integer, Span};
use super::super::place::PlaceName;
use super::super::section::Presence::{DefaultsTo, Optional, Required};
use super::super::section::section;
use super::super::shape::List;
use super::super::text::Word;
use super::U32_MAX;
use crate::model::{Health, Proximity};

section! {
    /// Where this process runs.
    HomeSection: "a locality" {
        /// The region, such as `eu-west-1`.
        region: PlaceName = Optional,
        /// The zone in the region, such as `eu-west-1a`.
        zone: PlaceName = Optional,
        /// The part of the zone, such as a rack.
        sub_zone: PlaceName = Optional,
    } not yet {}

    /// Where one instance of a backend listens, and what is known of it.
    EndpointSection: "an endpoint" {
        /// Where it listens.
        address: EndpointAddress = Required,
        /// Its share among the endpoints of its locality; 0 is never picked. Their sum is at most 4294967295.
        weight: Integer<u32, 0, U32_MAX> = DefaultsTo("1"),
        /// What a `subset` selects by.
        metadata: Labels = Optional,
        /// `draining` takes no new requests but for those of a session, `unhealthy` none.
        health: Word<Health> = DefaultsTo("healthy"),
        /// Whether it takes part in the mesh: with `mode: auto` of `tls` it is spoken to by mutual TLS, and others in plaintext.
        mesh: Flag = DefaultsTo("false"),
    } not yet {}

    /// Endpoints that run in one place. A place may stand once in a priority.
    LocalitySection: "a locality" {
        /// The region, such as `eu-west-1`.
        region: PlaceName = Optional,
        /// The zone in the region, such as `eu-west-1a`.
        zone: PlaceName = Optional,
        /// The part of the zone, such as a rack.
        sub_zone: PlaceName = Optional,
        /// 0 is used first; the others in order as it fails, and gaps between them do not count.
        priority: Integer<u32, 0, 127> = DefaultsTo("0"),
        /// Its share among the localities of its priority; 0 is never picked. Their sum is at most 4294967295.
        weight: Integer<u32, 0, U32_MAX> = DefaultsTo("1"),
        /// The endpoints there; an address stands once in all localities.
        endpoints: List<EndpointItem> = Required,
    } not yet {}

    /// How requests are divided among the localities and priorities of a backend.
    LocalityPolicy: "a locality policy" {
        /// In percent. With 140 a priority gets everything while 72 % of it are available; `none`: while one endpoint is.
        overprovisioning_factor: OrNone<Integer<u32, 100, 1_000_000>> = DefaultsTo("140"),
        /// With a smaller share than this available, in percent, requests go to all endpoints, whatever their health.
        panic_threshold: Integer<u32, 0, 100> = DefaultsTo("0"),
        /// How long a priority may take to connect before the next one takes its place.
        failover_timeout: Span<1, 3_600_000> = DefaultsTo("10s"),
        /// Endpoints in the same place as this process come first, and others the later the farther away. Needs `locality`.
        prefer: Word<Proximity> = Optional,
    } not yet {}
}
