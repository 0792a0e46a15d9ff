use std::net::IpAddr;
use std::time::Duration;

use super::super::choice::Balancer;
use super::super::duration::format;
use super::super::problem::Path;
use super::super::schema;
use super::super::shape::{Field, Spanned};
use super::Lint;
use crate::model::{Address, Health};

impl Lint<'_> {
    pub(super) fn backend(&mut self, section: &schema::Backend, path: Path<'_>) {
        self.endpoints(section, path);
        self.balancer_of(section, path);
        let has_default = self.has_identity || self.defaults.is_some_and(|defaults| defaults.tls.is_written());
        if !section.tls.is_written() && !has_default {
            self.public(section, path);
        }
        if let Some(tls) = section.tls.value() {
            self.peers(&tls.identities, path.key("tls").key("identities"));
        }
        if let Some(Spanned { value: budget, at }) = section.retry_budget.given()
            && (budget.percent.value(), budget.min_concurrent.value()) == (Some(&0), Some(&0))
        {
            let message = "the budget allows no retry at all".to_owned();
            let help = "raise it; `retry: none` of a route says that none is meant";
            self.warn("empty-retry-budget", *at, path.key("retry_budget"), message, help);
        }
        let prefer = section.locality_policy.value().and_then(|policy| policy.prefer.given());
        if let Some(Spanned { at, .. }) = prefer
            && !self.has_locality
        {
            let message = "nobody says where this process runs, so no endpoint is nearer than another".to_owned();
            let help = "set `locality` at the top of the file, or `MESH_LOCALITY`";
            self.warn("prefer-without-locality", *at, path.key("locality_policy").key("prefer"), message, help);
        }
        self.keepalive(&section.keepalive, path);
        self.outlier_detection(&section.outlier_detection, path);
        let of_pick_first =
            section.load_balancer.value().and_then(|balancer| balancer.policy.value()) == Some(&Balancer::PickFirst);
        if let Some(Spanned { value: Some(_), at }) = section.outlier_detection.given()
            && of_pick_first
        {
            let message = "`pick_first` stays with its endpoint, whatever that answers".to_owned();
            let help = "choose another `load_balancer`, or remove this";
            self.warn("idle-outlier-detection", *at, path.key("outlier_detection"), message, help);
        } else if let Some(Spanned { value: Some(_), at }) = section.outlier_detection.given()
            && all_endpoints(section)
                .is_some_and(|mut endpoints| endpoints.next().is_some() && endpoints.next().is_none())
        {
            let message = "the only endpoint can be ejected, and every request fails until it is back".to_owned();
            let help = "list more endpoints, or set `max_ejection_percent: 0` or `outlier_detection: none`";
            self.warn("outlier-detection-of-one", *at, path.key("outlier_detection"), message, help);
        } else if let Some(Spanned { value: Some(detection), at }) = section.outlier_detection.given()
            && let Some(least) = least_hosts(detection)
            && let Some(listed) = all_endpoints(section).map(Iterator::count)
            && usize::try_from(least).is_ok_and(|least| listed < least)
        {
            let message =
                format!("no endpoint is ever ejected: {least} of them must have the volume, and {listed} are listed");
            let help = "lower `minimum_hosts`, or count failures in a row by `consecutive_5xx`";
            self.warn("idle-outlier-detection", *at, path.key("outlier_detection"), message, help);
        }
        self.health_check(section, path);
    }

    fn endpoints(&mut self, section: &schema::Backend, path: Path<'_>) {
        const CODE: &str = "no-endpoints";
        if let Some(Spanned { value, at }) = section.endpoints.given() {
            if value.is_empty() {
                let message = "there is no endpoint: every request to this backend fails".to_owned();
                self.warn(CODE, *at, path.key("endpoints"), message, "list some, or use `dns`");
            } else if !value.iter().filter_map(Field::value).any(can_be_picked) {
                let message = "no endpoint can be picked: every request to this backend fails".to_owned();
                let help = "give one that is `healthy` a `weight`";
                self.warn(CODE, *at, path.key("endpoints"), message, help);
            }
        }
        if let Some(Spanned { value, at }) = section.localities.given() {
            let can_be_used = |locality: &schema::LocalitySection| {
                locality.weight.value() != Some(&0)
                    && locality.endpoints.value().into_iter().flatten().filter_map(Field::value).any(can_be_picked)
            };
            if !value.iter().filter_map(Field::value).any(can_be_used) {
                let message = "no endpoint can be picked: every request to this backend fails".to_owned();
                let help = "list one that is `healthy`, and give it and its locality a `weight`";
                self.warn(CODE, *at, path.key("localities"), message, help);
            }
        }
    }

    fn public(&mut self, section: &schema::Backend, path: Path<'_>) {
        const HELP: &str = "add `tls: { mode: simple }`; `mode: disabled` says that plaintext is meant";
        let first = |list: Option<&Vec<Field<schema::EndpointSection>>>| {
            let mut addresses = list.into_iter().flatten().map(|item| item.value()?.address.given()).enumerate();
            addresses.find_map(|(index, address)| {
                let Spanned { value: address, at } = address?;
                is_public(address)
                    .then(|| (index, *at, format!("requests to {address} go over the internet in plaintext")))
            })
        };
        if let Some((index, at, message)) = first(section.endpoints.value()) {
            self.warn("public-plaintext", at, path.key("endpoints").index(index), message, HELP);
        }
        let path = path.key("localities");
        let mut localities = section.localities.value().into_iter().flatten().enumerate();
        let found = localities.find_map(|(place, item)| Some((place, first(item.value()?.endpoints.value())?)));
        if let Some((place, (index, at, message))) = found {
            self.warn("public-plaintext", at, path.index(place).key("endpoints").index(index), message, HELP);
        }
    }

    fn health_check(&mut self, section: &schema::Backend, path: Path<'_>) {
        let Some(check) = section.health_check.value() else { return };
        let path = path.key("health_check");
        let (Some(&timeout), Some(&interval)) = (check.timeout.value(), check.interval.value()) else { return };
        let written = [(&check.timeout, "timeout"), (&check.interval, "interval")];
        let written = written.into_iter().find_map(|(field, name)| Some((field.given()?.at, name)));
        if let Some((at, name)) = written
            && timeout > interval
        {
            let [timeout, interval] = [timeout, interval].map(format);
            let message = format!(
                "an answer may take {timeout}, longer than the {interval} between two questions: a silent endpoint is \
                 asked less often than the others"
            );
            self.warn("slow-health-check", at, path.key(name), message, "make the timeout a fraction of the interval");
        }
    }

    pub(super) fn keepalive(&mut self, field: &Field<Option<schema::Keepalive>>, path: Path<'_>) {
        const LEAST: Duration = Duration::from_secs(10);
        let time = field.value().and_then(|section| section.as_ref()?.time.given());
        if let Some(Spanned { value: time, at }) = time
            && *time < LEAST
        {
            let message = format!(
                "a ping every {}: many gRPC servers answer that with `too_many_pings` and close the connection",
                format(*time)
            );
            let help = "write at least 10s, and ask whoever runs the server what it permits";
            self.warn("frequent-keepalive", *at, path.key("keepalive").key("time"), message, help);
        }
    }

    pub(super) fn outlier_detection(&mut self, field: &Field<Option<schema::OutlierDetection>>, path: Path<'_>) {
        let Some(Spanned { value: Some(section), at }) = field.given() else { return };
        let detects =
            counts_in_a_row(section) || section.success_rate.is_written() || section.failure_percentage.is_written();
        if !detects || section.max_ejection_percent.value() == Some(&0) {
            let why = if detects { "`max_ejection_percent` is 0" } else { "nothing is counted" };
            let help = "raise it or count something; `outlier_detection: none` says that no ejection is meant";
            let message = format!("no endpoint is ever ejected: {why}");
            self.warn("idle-outlier-detection", *at, path.key("outlier_detection"), message, help);
        }
    }
}

fn counts_in_a_row(section: &schema::OutlierDetection) -> bool {
    [&section.consecutive_5xx, &section.consecutive_gateway_errors, &section.consecutive_local_origin_failures]
        .iter()
        .any(|field| field.value().is_some_and(Option::is_some))
}

/// How many endpoints a detection needs that only compares endpoints.
fn least_hosts(section: &schema::OutlierDetection) -> Option<u32> {
    let hosts = [
        section.success_rate.value().and_then(|section| section.minimum_hosts.value()),
        section.failure_percentage.value().and_then(|section| section.minimum_hosts.value()),
    ];
    hosts.into_iter().flatten().min().copied().filter(|_| !counts_in_a_row(section))
}

/// Whether the backend lists one endpoint and no more.
pub(super) fn is_single(section: &schema::Backend) -> bool {
    let one = |list: Option<&Vec<_>>| list.is_some_and(|list| list.len() == 1);
    match section.localities.value().map(Vec::as_slice) {
        None => one(section.endpoints.value()),
        Some([locality]) => one(locality.value().and_then(|locality| locality.endpoints.value())),
        Some(_) => false,
    }
}

/// The endpoints of a backend, wherever they are listed. `None` if they are not.
pub(super) fn all_endpoints(section: &schema::Backend) -> Option<impl Iterator<Item = &schema::EndpointSection>> {
    let listed = section.endpoints.is_written() || section.localities.is_written();
    let localities = section.localities.value().into_iter().flatten().filter_map(Field::value);
    let of_localities = localities.filter_map(|locality| locality.endpoints.value()).flatten();
    let endpoints = section.endpoints.value().into_iter().flatten().chain(of_localities);
    listed.then(|| endpoints.filter_map(Field::value))
}

fn can_be_picked(endpoint: &schema::EndpointSection) -> bool {
    endpoint.weight.value() != Some(&0) && endpoint.health.value() == Some(&Health::Healthy)
}

/// Whether packets to it leave what one operator is likely to hold in hand (RFC 6890, RFC 4193).
fn is_public(address: &Address) -> bool {
    let Address::Socket(address) = address else { return false };
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            let is_benchmark = a == 198 && (18..20).contains(&b);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_documentation()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || is_shared
                || is_benchmark)
        }
        IpAddr::V6(ip) => {
            let is_documentation = ip.segments()[..2] == [0x2001, 0xdb8];
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || is_documentation)
        }
    }
}
