use std::collections::HashMap;
use std::path::Path as FsPath;
use std::sync::Arc;

use super::super::address::MAX_SOCKET_PATH;
use super::super::origin::Position;
use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use crate::model::{Address, Endpoint, Locality, LocalityPolicy, Place};

type List = [Field<schema::EndpointSection>];

/// The endpoints that a backend lists, those of its localities with their places.
pub(super) fn endpoints(
    section: &schema::Backend,
    directory: &FsPath,
    path: Path<'_>,
    context: &mut Context,
) -> Vec<Endpoint> {
    let mut reader = Endpoints { directory, seen: HashMap::new(), found: Vec::new() };
    if let Some(Spanned { value: list, at }) = section.endpoints.given() {
        reader.list(list, None, *at, path.key("endpoints"), context);
    }
    let path = path.key("localities");
    let mut first_of = HashMap::new();
    let mut sums = HashMap::new();
    for (index, item) in section.localities.value().into_iter().flatten().enumerate() {
        let Some(Spanned { value: section, at }) = item.given() else { continue };
        let path = path.index(index);
        let mut locality = Locality::new(place(Names::of(section), path, context));
        locality.priority = section.priority.or(locality.priority);
        locality.weight = section.weight.or(locality.weight);
        if let Some(first) = first_of.insert((locality.priority, locality.place.clone()), index) {
            context.report(*at, path, || {
                let Locality { place, priority, .. } = &locality;
                let message = match &*place.region {
                    "" => format!("there is a locality without a `region` in the priority {priority} already"),
                    _ => format!("the locality `{place}` is already in the priority {priority}"),
                };
                let help = "put the endpoints of both together, or give one another `priority`";
                Draft::new(format!("{message}, as `localities[{first}]`")).help(help)
            });
        }
        let sum = sums.entry(locality.priority).or_insert(0_u64);
        *sum += u64::from(locality.weight);
        if *sum > u64::from(u32::MAX) {
            too_much(*sum, &format!("of the localities of the priority {}", locality.priority), *at, path, context);
        }
        if let Some(Spanned { value: list, at }) = section.endpoints.given() {
            let locality = (index, Arc::new(locality));
            reader.list(list, Some(&locality), *at, path.key("endpoints"), context);
        }
    }
    reader.found
}

/// Reports weights that no 32 bits hold (gRFC A27 has it so for xDS).
fn too_much(sum: u64, whose: &str, at: Position, path: Path<'_>, context: &mut Context) {
    context.report(at, path, || {
        Draft::new(format!("the weights {whose} add up to {sum}: their sum must be at most {}", u32::MAX))
    });
}

struct Endpoints<'a> {
    /// What the paths of sockets are relative to.
    directory: &'a FsPath,
    /// Where each address stands: the index of its locality, if it has one, and its own.
    seen: HashMap<Address, (Option<usize>, usize)>,
    found: Vec<Endpoint>,
}

impl Endpoints<'_> {
    fn list(
        &mut self,
        list: &List,
        locality: Option<&(usize, Arc<Locality>)>,
        at: Position,
        path: Path<'_>,
        context: &mut Context,
    ) {
        let mut sum = 0;
        for (index, item) in list.iter().enumerate() {
            let Some(section) = item.value() else { continue };
            sum += u64::from(section.weight.or(1));
            let place = (locality.map(|(index, _)| *index), index);
            let Some(mut endpoint) = self.endpoint(section, place, path.index(index), context) else { continue };
            endpoint.locality = locality.map(|(_, locality)| Arc::clone(locality));
            self.found.push(endpoint);
        }
        if sum > u64::from(u32::MAX) {
            too_much(sum, "of the endpoints", at, path, context);
        }
    }

    fn endpoint(
        &mut self,
        section: &schema::EndpointSection,
        place: (Option<usize>, usize),
        path: Path<'_>,
        context: &mut Context,
    ) -> Option<Endpoint> {
        let Spanned { value: address, at } = section.address.given()?;
        let address = match address {
            // An absolute path stays what it is.
            Address::Unix(socket) => Address::from(self.directory.join(socket)),
            Address::Socket(_) => address.clone(),
        };
        if let Address::Unix(socket) = &address
            && socket.as_os_str().len() > MAX_SOCKET_PATH
        {
            let message = || format!("{address} has more than the {MAX_SOCKET_PATH} bytes of a Unix socket's path");
            context.report(*at, path, || {
                Draft::new(message()).about(&address.to_string()).help("move the socket, or the configuration")
            });
        }
        if let Some((locality, index)) = self.seen.get(&address) {
            context.report(*at, path, || {
                let message = match *locality {
                    same if same == place.0 => format!("{address} is already in this list, as `[{index}]`"),
                    Some(locality) => {
                        format!("{address} is already an endpoint, as `localities[{locality}].endpoints[{index}]`")
                    }
                    None => format!("{address} is already an endpoint, as `endpoints[{index}]`"),
                };
                Draft::new(message).about(&address.to_string()).help("remove one of them")
            });
            return None;
        }
        self.seen.insert(address.clone(), place);
        let mut endpoint = Endpoint::new(address);
        endpoint.weight = section.weight.or(endpoint.weight);
        endpoint.health = section.health.or(endpoint.health);
        endpoint.metadata = section.metadata.or_default();
        endpoint.mesh = section.mesh.or(endpoint.mesh);
        Some(endpoint)
    }
}

/// The three names of a place, from whatever section.
pub(super) struct Names<'a> {
    region: &'a Field<Arc<str>>,
    zone: &'a Field<Arc<str>>,
    sub_zone: &'a Field<Arc<str>>,
    is_doubtful: bool,
}

impl<'a> Names<'a> {
    fn of(section: &'a schema::LocalitySection) -> Self {
        let schema::LocalitySection { region, zone, sub_zone, is_doubtful, .. } = section;
        Self { region, zone, sub_zone, is_doubtful: *is_doubtful }
    }

    pub(super) fn of_home(section: &'a schema::HomeSection) -> Self {
        let schema::HomeSection { region, zone, sub_zone, is_doubtful, at: _ } = section;
        Self { region, zone, sub_zone, is_doubtful: *is_doubtful }
    }
}

/// The place of these names. A zone is one of a region: zones of two regions may have one name.
pub(super) fn place(names: Names<'_>, path: Path<'_>, context: &mut Context) -> Place {
    let Names { region, zone, sub_zone, is_doubtful } = names;
    for (inner, outer, name, outer_name) in [(zone, region, "zone", "region"), (sub_zone, zone, "sub_zone", "zone")] {
        if let (Some(Spanned { value, at }), Field::Absent, false) = (inner.given(), outer, is_doubtful) {
            context.report(*at, path.key(name), || {
                let draft = Draft::new(format!("`{name}` needs the `{outer_name}` that it is in")).about(value);
                draft.help(format!("add `{outer_name}`"))
            });
        }
    }
    let [region, zone, sub_zone] =
        [region, zone, sub_zone].map(|name| name.value().cloned().unwrap_or_else(|| Arc::from("")));
    Place { region, zone, sub_zone }
}

pub(super) fn locality_policy(section: &schema::LocalityPolicy) -> LocalityPolicy {
    let mut policy = LocalityPolicy::default();
    policy.overprovisioning_factor = section.overprovisioning_factor.or(policy.overprovisioning_factor);
    policy.panic_threshold = section.panic_threshold.or(policy.panic_threshold);
    policy.failover_timeout = section.failover_timeout.or(policy.failover_timeout);
    policy.prefer = section.prefer.value().copied();
    policy
}
