//! The port of the link: open out of the tunnel alone, and only while the daemon has its socket.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::{
    Chains, Family, accept, daddr, dnatted, dport, ended, equal, goto, iif, in_set, is_protocol, rule, saddr,
    state,
};
use crate::{Protocol, prefix};

/// Most links that all peers together may begin in a second, twice as many at once: enough for
/// every peer after a restart, and too few to fill conntrack.
const NEW_LINKS: u32 = 50;

impl Chains<'_> {
    /// Packets to the link's port at an address that the edge has in the tunnel, whatever led them
    /// there; this goes before all that accepts.
    pub(super) fn to_link(&self) -> Vec<Value> {
        let to_own = |family| {
            let own = in_set(daddr(family), "own", family);
            rule([is_protocol(Protocol::Tcp), equal(&dport(), self.policy.link.port), own, goto("link")])
        };
        Family::BOTH.map(to_own).into()
    }

    /// Peers reach those of the daemon's `sockets` that this policy has for the link.
    ///
    /// No connection mark opens it, and no program of the edge, whose packets come in by loopback.
    /// A segment of a flow that is not known gets the kernel's reset, so that a peer begins again at
    /// once when the edge has restarted.
    pub(super) fn link(&self, sockets: &[SocketAddr]) -> Vec<Value> {
        let mut rules = vec![ended([dnatted()], self.dropped("input", "link"))];
        let open: Vec<Value> = sockets
            .iter()
            .filter(|at| self.is_of_link(**at))
            .map(|at| at.ip())
            .map(|own| {
                let (family, known) = (family_of(own), state(&["new", "established"]));
                rule([iif(self.tun()), known, equal(&daddr(family), own.to_string()), accept()])
            })
            .collect();
        if !open.is_empty() {
            let over = json!({"limit": {
                "rate": NEW_LINKS, "burst": 2 * NEW_LINKS, "per": "second", "inv": true,
            }});
            let begun = [iif(self.tun()), state(&["new"]), over];
            rules.push(ended(begun, self.dropped("input", "too_many_new")));
        }
        rules.extend(open);
        rules.push(ended([], self.dropped("input", "link")));
        rules
    }

    /// Packets of the temporary peer of a pairing: to the link, which its own chain opens, and to
    /// nothing else, whatever flow they belong to. An address that is routed to a peer is that
    /// peer's.
    pub(super) fn of_joiner(&self, joiner: IpAddr) -> Vec<Value> {
        let mut prefixes = self.policy.peers.iter().flat_map(|peer| &peer.allowed_ips);
        if prefixes.any(|&allowed| prefix::routes(allowed, joiner)) {
            return Vec::new();
        }
        let family = family_of(joiner);
        let is_its = || equal(&saddr(family), joiner.to_string());
        let own = in_set(daddr(family), "own", family);
        let port = equal(&dport(), self.policy.link.port);
        vec![
            rule([is_its(), is_protocol(Protocol::Tcp), port, own, accept()]),
            ended([is_its()], self.dropped("prerouting", "not_listed")),
        ]
    }

    fn is_of_link(&self, socket: SocketAddr) -> bool {
        let mut own = self.policy.interface.address.iter();
        socket.port() == self.policy.link.port && own.any(|own| own.ip() == socket.ip())
    }
}

const fn family_of(address: IpAddr) -> Family {
    if address.is_ipv6() { Family::V6 } else { Family::V4 }
}
