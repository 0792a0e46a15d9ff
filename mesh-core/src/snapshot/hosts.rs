//! Compiling virtual hosts and their routes.

use std::collections::HashMap;
use std::sync::Arc;

use super::compile::CompileError;
use super::{Action, Route, Split, Target, VirtualHost};
use crate::matching::{HostTable, RouteTable};
use crate::model::{self, BackendId, RouteAction, RoutePolicy};
use crate::resilience::throttle::Throttle;

pub(super) fn virtual_host<E: std::error::Error>(
    config: &Arc<model::VirtualHost>,
    old: Option<&Arc<VirtualHost>>,
    indices: &HashMap<BackendId, u32>,
    touched: &mut Vec<u32>,
) -> Result<Arc<VirtualHost>, CompileError<E>> {
    if let Some(old) = old
        && (Arc::ptr_eq(&old.config, config) || old.config == *config)
        && old.targets().all(|target| target.index == indices.get(&target.backend).copied())
    {
        return Ok(Arc::clone(old));
    }
    let mut routes = Vec::with_capacity(config.routes.len());
    for (number, route) in config.routes.iter().enumerate() {
        let action = match &route.action {
            RouteAction::Forward(forward) => Action::Forward(split(forward, indices).map_err(|sum| {
                let route =
                    route.name.as_ref().map_or_else(|| format!("route #{number}"), |name| format!("route `{name}`"));
                CompileError::Weights { virtual_host: Arc::clone(&config.name), route, sum }
            })?),
            RouteAction::Unsupported(what) => Action::Unsupported(Arc::clone(what)),
        };
        routes.push(Route { name: route.name.clone(), action });
    }
    let throttle = config.retry_throttling.as_ref().map(|throttling| {
        let kept = old.and_then(|old| old.throttle.clone());
        kept.unwrap_or_else(|| Arc::new(Throttle::new(throttling)))
    });
    let new = VirtualHost { config: Arc::clone(config), table: RouteTable::new(&config.routes), routes, throttle };
    let used = |index: &u32| old.is_some_and(|old| old.targets().any(|target| target.index == Some(*index)));
    touched.extend(new.targets().filter_map(|target| target.index).filter(|index| !used(index)));
    Ok(Arc::new(new))
}

impl VirtualHost {
    /// Every backend some route may draw.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let splits = self.routes.iter().filter_map(|route| match &route.action {
            Action::Forward(split) => Some(split),
            Action::Unsupported(_) => None,
        });
        splits.flat_map(|split| split.targets.iter())
    }
}

/// Compiles the backends of a route; the error is a sum of weights that cannot be drawn from.
fn split(forward: &model::Forward, indices: &HashMap<BackendId, u32>) -> Result<Split, u64> {
    let route_policy = Arc::new(forward.policy.clone());
    let mut targets = Vec::with_capacity(forward.backends.len());
    let mut bounds = Vec::with_capacity(forward.backends.len());
    let mut sum = 0_u64;
    for weighted in forward.backends.iter().filter(|weighted| weighted.weight > 0) {
        sum += u64::from(weighted.weight);
        let over = &weighted.policy;
        let policy = if *over == model::PolicyOverride::default() {
            Arc::clone(&route_policy)
        } else {
            Arc::new(RoutePolicy {
                timeout: over.timeout.unwrap_or(forward.policy.timeout),
                retry: over.retry.clone().unwrap_or_else(|| forward.policy.retry.clone()),
                hedge: over.hedge.clone().unwrap_or_else(|| forward.policy.hedge.clone()),
                session: forward.policy.session.clone(),
                hash: over.hash.clone().unwrap_or_else(|| Arc::clone(&forward.policy.hash)),
            })
        };
        let index = indices.get(&weighted.backend).copied();
        let (backend, subset) = (weighted.backend.clone(), weighted.subset.clone());
        targets.push(Target { backend, index, weight: weighted.weight, subset, policy });
        bounds.push(sum);
    }
    if sum == 0 || sum > u64::from(u32::MAX) {
        return Err(sum);
    }
    Ok(Split { targets: targets.into(), bounds: bounds.into() })
}

pub(super) fn same_hosts(old: &[Arc<VirtualHost>], new: &[Arc<VirtualHost>]) -> bool {
    old.len() == new.len()
        && old.iter().zip(new).all(|(old, new)| {
            Arc::ptr_eq(old, new) || old.config.hosts == new.config.hosts && old.config.name == new.config.name
        })
}

pub(super) fn named(virtual_hosts: &[Arc<VirtualHost>]) -> HashMap<Arc<str>, u32> {
    let named = (0..).zip(virtual_hosts).filter(|(_, host)| host.config.hosts.is_empty());
    named.map(|(index, host)| (Arc::clone(host.name()), index)).collect()
}

pub(super) fn host_table<E: std::error::Error>(
    virtual_hosts: &[Arc<VirtualHost>],
) -> Result<HostTable, CompileError<E>> {
    let patterns = virtual_hosts
        .iter()
        .zip(0_u32..)
        .flat_map(|(host, index)| host.config.hosts.iter().map(move |pattern| (pattern, index)));
    HostTable::new(patterns).map_err(|conflict| CompileError::HostConflict {
        host: conflict.pattern.to_string(),
        first: Arc::clone(virtual_hosts[conflict.first as usize].name()),
        second: Arc::clone(virtual_hosts[conflict.second as usize].name()),
    })
}
