//! The port of the link: open out of the tunnel alone, and only while the daemon has its socket.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::{
    Chains, Family, accept, daddr, dnatted, dport, ended, equal, goto, iif, in_set, is_family, is_protocol,
    named, not_in_set, rule, saddr, state, unequal,
};
use crate::ruleset::sets::{LINK_SOURCES, NEW_LINKS_BY_SOURCE};
use crate::{Protocol, prefix};

/// Most links that all peers together may begin in a second, twice as many at once: enough for
/// every peer after a restart, and too few to fill conntrack.
const NEW_LINKS: u32 = 50;
/// Most links that one peer may begin in a second, four times as many at once: it cannot use up
/// what all may.
const NEW_LINKS_OF_PEER: u32 = 5;

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

    /// Peers, and the temporary peer of a pairing, reach those of the daemon's `sockets` that this
    /// policy has for the link. A host behind a peer is none.
    ///
    /// No connection mark opens it, and no program of the edge, whose packets come in by loopback.
    /// A segment of a flow that is not known gets the kernel's reset, so that a peer begins again at
    /// once when the edge has restarted.
    pub(super) fn link(&self, sockets: &[SocketAddr], joiner: Option<IpAddr>) -> Vec<Value> {
        let mut rules = vec![ended([dnatted()], self.dropped("input", "link"))];
        let open: Vec<Value> = self
            .policy
            .link_addresses(sockets)
            .into_iter()
            .map(|own| {
                let (family, known) = (family_of(own), state(&["new", "established"]));
                rule([iif(self.tun()), known, equal(&daddr(family), own.to_string()), accept()])
            })
            .collect();
        if !open.is_empty() {
            rules.extend(self.begins_link(joiner));
        }
        rules.extend(open);
        rules.push(ended([], self.dropped("input", "link")));
        rules
    }

    /// Who may begin a link, and how often.
    fn begins_link(&self, joiner: Option<IpAddr>) -> Vec<Value> {
        let begun = || [iif(self.tun()), state(&["new"])];
        let mut rules = Vec::new();
        for family in Family::BOTH {
            let joins = joiner.filter(|&joiner| family_of(joiner) == family);
            let joins = joins.map(|joiner| unequal(&saddr(family), joiner.to_string()));
            let other = [is_family(family), not_in_set(saddr(family), LINK_SOURCES, family)];
            let other = begun().into_iter().chain(other).chain(joins);
            rules.push(ended(other.collect::<Vec<_>>(), self.dropped("input", "link")));
            let over = over(NEW_LINKS_OF_PEER, 4 * NEW_LINKS_OF_PEER);
            let set = named(&format!("{NEW_LINKS_BY_SOURCE}{}", family.digit()));
            let meter = json!({"set": {"op": "update", "elem": saddr(family), "set": set, "stmt": [over]}});
            let too_many = begun().into_iter().chain([is_family(family), meter]);
            rules.push(ended(too_many.collect::<Vec<_>>(), self.dropped("input", "too_many_new")));
        }
        let too_many = begun().into_iter().chain([over(NEW_LINKS, 2 * NEW_LINKS)]);
        rules.push(ended(too_many.collect::<Vec<_>>(), self.dropped("input", "too_many_new")));
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
}

/// Matches what is more than `rate` a second, and more than `burst` at once.
fn over(rate: u32, burst: u32) -> Value {
    json!({"limit": {"rate": rate, "burst": burst, "per": "second", "inv": true}})
}

pub(super) const fn family_of(address: IpAddr) -> Family {
    if address.is_ipv6() { Family::V6 } else { Family::V4 }
}
