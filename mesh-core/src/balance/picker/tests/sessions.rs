//! Requests of a session, which has its endpoint already.

use super::*;

/// gRFC A55, A75
#[test]
fn a_session_keeps_its_endpoint_as_long_as_that_can_serve() {
    use State::{Connecting, Failing, Idle, Ready};
    let said = |pick: Option<Pick<'_, ()>>| match pick {
        Some(Pick::Ready(chosen)) => format!("ready {}", chosen.endpoint.address()),
        Some(Pick::Await(endpoint)) => format!("await {}", endpoint.address()),
        None => "-".to_owned(),
        Some(other) => format!("{other:?}"),
    };
    let mut kit = Kit::new(LoadBalancer::RoundRobin, &[Ready, Idle, Connecting, Failing, Ready, Ready, Ready, Ready]);
    kit.config.endpoints[4].health = model::Health::Draining;
    kit.config.endpoints[5].health = model::Health::Unhealthy;
    kit.config.endpoints[6].weight = 0;
    kit.endpoints[7].set_healthy(false);
    let wanted = [
        "ready 127.0.0.1:1000",
        "await 127.0.0.1:1001",
        "await 127.0.0.1:1002",
        "-",
        "ready 127.0.0.1:1004",
        "-",
        "-",
        "-",
    ];
    let picker = kit.picker();
    for (endpoint, wanted) in kit.endpoints.iter().zip(wanted) {
        assert_eq!(said(picker.pick_bound(endpoint.address(), &[])), wanted, "{}", endpoint.address());
        assert_eq!(said(picker.pick_bound(endpoint.address(), &kit.endpoints)), "-", "it was tried");
    }
    assert_eq!(said(picker.pick_bound(&std::net::SocketAddr::from(([127, 0, 0, 1], 999)).into(), &[])), "-");
    // What drains, is unhealthy or weighs nothing is not chosen for anybody else.
    assert_eq!(kit.count(&picker, 100), [100, 0, 0, 0, 0, 0, 0, 0]);

    // Pick first connects one after the other.
    kit.config.load_balancer = LoadBalancer::PickFirst { shuffle: false };
    let picker = kit.picker();
    assert_eq!(said(picker.pick_bound(kit.endpoints[0].address(), &[])), "ready 127.0.0.1:1000");
    assert_eq!(said(picker.pick_bound(kit.endpoints[1].address(), &[])), "-");
}
