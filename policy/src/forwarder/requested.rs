//! The public ports that an origin's services request of its edges.

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
    /// Its ports, each with the one address that they lead to: of IPv4 where there is one.
    fn requested_of(&self, peer: &Peer) -> Vec<Requested> {
        let targets = self.publish_targets(&peer.address);
        let target = targets.iter().find(|target| target.is_ipv4()).or_else(|| targets.first());
        let (Some(publish), Some(&target)) = (&self.publish, target) else { return Vec::new() };
        let requested = |port: &PublicPorts| Requested {
            service: self.name.clone(),
            port: *port,
            target,
            target_ports: self.ports,
            allow: publish.from.clone(),
        };
        publish.ports.iter().map(requested).collect()
    }
}
