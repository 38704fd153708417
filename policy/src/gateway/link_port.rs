//! The port of the link belongs to the link alone: no other section has it.

use std::net::IpAddr;

use super::entries::{AllowAt, Places, PublishAt};
use super::model::{Party, Policy, Service};
use crate::reader::Reader;
use crate::sections::PageListen;
use crate::{PortRange, Position, Problem, Protocols};

/// Reports what has the link's port, or leads a peer to it.
pub(super) fn check(
    reader: &Reader<'_>,
    policy: &Policy,
    places: &Places,
    publish: &[PublishAt],
    allow: &[AllowAt],
) {
    let link = LinkPort { reader, policy };
    link.sockets(places);
    for accept in &places.accept {
        link.ports(("`[wan] accept`", &accept.at), accept.value.protocols, accept.value.ports);
    }
    for entry in publish {
        link.ports(("a [[publish]]", &entry.listen_at), entry.value.protocols, entry.value.ports);
    }
    allow.iter().for_each(|entry| link.allow(entry));
}

struct LinkPort<'a, 't> {
    reader: &'a Reader<'t>,
    policy: &'a Policy,
}

impl LinkPort<'_, '_> {
    fn report(&self, at: &Position, what: &'static str) {
        let problem = Problem::OnLinkPort { what, port: self.policy.link.port };
        self.reader.report_at(at.clone(), problem);
    }

    /// The daemon's other sockets.
    fn sockets(&self, places: &Places) {
        let port = self.policy.link.port;
        if self.policy.interface.listen_port == port {
            self.report(&places.tunnel_port, "`[interface] listen_port`");
        }
        for metrics in &places.metrics {
            let address = metrics.value.ip();
            if metrics.value.port() == port && (address.is_unspecified() || self.is_own(address)) {
                self.report(&metrics.at, "the metrics page at this address");
            }
        }
        for page in places.page.iter().filter(|page| page.value.port() == port) {
            let is_in_tunnel = match page.value {
                PageListen::Address(at) => at.ip().is_unspecified() || self.is_own(at.ip()),
                PageListen::Lan(_) => false,
            };
            if is_in_tunnel {
                self.report(&page.at, "the status page at this address");
            }
        }
    }

    fn ports(&self, (what, at): (&'static str, &Position), protocols: Protocols, ports: PortRange) {
        if self.policy.link.is_among(protocols, ports) {
            self.report(at, what);
        }
    }

    /// What a peer may open to an address that the edge has in the tunnel.
    fn allow(&self, entry: &AllowAt) {
        let Service::Ports { protocols, ports } = &entry.value.service else { return };
        if !ports.iter().any(|range| self.policy.link.is_among(*protocols, *range)) {
            return;
        }
        let is_of_peer = entry.from.iter().any(|from| matches!(from.value, Party::Peer(_)));
        let to = entry.to.iter().filter(|_| is_of_peer).find(|to| match &to.value {
            Party::Edge => true,
            Party::Lan(prefix) | Party::Behind { prefix, .. } => {
                self.policy.interface.address.iter().any(|own| prefix.contains(own.ip()))
            }
            Party::Peer(_) | Party::Wan => false,
        });
        if let Some(to) = to {
            self.report(&to.at, "an [[allow]] from a peer to the edge itself");
        }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.policy.interface.address.iter().any(|own| own.ip() == address)
    }
}
