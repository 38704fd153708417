//! The public ports that the services request of an edge.

use daemon::link::publish::Port;
use policy::forwarder::{Peer, Policy, Service};
use policy::gateway::Requested;
use policy::PublicPorts;

/// What the services of a policy request of one of its peers, in the order of the file.
#[must_use]
pub(super) fn requested(policy: &Policy, peer: &Peer) -> Vec<Port> {
    let its = policy.services.iter().filter(|service| service.peers.contains(&peer.name));
    its.flat_map(|service| of_service(service, peer)).collect()
}

/// The ports of one service, each with the one address that they lead to: IPv4 where there is one.
fn of_service(service: &Service, peer: &Peer) -> Vec<Port> {
    let targets = service.publish_targets(&peer.address);
    let target = targets.iter().find(|target| target.is_ipv4()).or_else(|| targets.first());
    let (Some(publish), Some(&target)) = (&service.publish, target) else { return Vec::new() };
    let port = |port: &PublicPorts| {
        Port::from(&Requested {
            service: service.name.clone(),
            port: *port,
            target,
            target_ports: service.ports,
            allow: publish.from.clone(),
        })
    };
    publish.ports.iter().map(port).collect()
}
