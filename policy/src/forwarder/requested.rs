//! The public ports that an origin's services request of its edges.

use std::net::IpAddr;

use super::model::{Peer, Policy, Service};
use crate::PublicPorts;
use crate::gateway::Requested;

impl Policy {
    /// What the services request of one of the peers, in the order of the file.
    #[must_use]
    pub fn requested_of(&self, peer: &Peer) -> Vec<Requested> {
        let its = self.services.iter().filter(|service| service.peers.contains(&peer.name));
        its.flat_map(|service| service.requested_of(peer)).collect()
    }
}

impl Service {
    /// Its ports, each with where they lead to: its first address of each family, IPv4 first.
    fn requested_of(&self, peer: &Peer) -> Vec<Requested> {
        let targets = self.publish_targets(&peer.address);
        let first = |is_ipv4| targets.iter().copied().find(|target| target.is_ipv4() == is_ipv4);
        let targets: Vec<IpAddr> = [first(true), first(false)].into_iter().flatten().collect();
        let Some(publish) = self.publish.as_ref().filter(|_| !targets.is_empty()) else { return Vec::new() };
        let requested = |port: &PublicPorts| Requested {
            service: self.name.clone(),
            port: *port,
            targets: targets.clone(),
            target_ports: self.ports,
            allow: publish.from.clone(),
        };
        publish.ports.iter().map(requested).collect()
    }
}
