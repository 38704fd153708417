//! What the two edges of a pair send each other.

use serde_json::{Value, json};

use super::link::family_of;
use super::{Chains, Family, accept, ended, equal, meta, payload, route_back, rule, saddr, set_of, to_local};
use crate::gateway::STANDBY_PORTS;

/// VRRP's protocol number (RFC 9568 §7); a machine may lack the file that has its name.
const VRRP: u8 = 112;
/// What a VRRP packet has that no router has passed on (RFC 9568 §5.1.1.3).
const UNROUTED: u8 = 255;

impl Chains<'_> {
    /// Packets of the other edge to this one, by the interface that the route to it leads by: VRRP
    /// that no router has passed on, and the ports of the pair. Whoever writes the other edge's
    /// source on that link passes too.
    pub(super) fn other_edge(&self) -> Vec<Value> {
        let Some(standby) = &self.policy.standby else { return Vec::new() };
        let family = family_of(standby.other);
        let is_its = || equal(&saddr(family), standby.other.to_string());
        let hops = match family {
            Family::V4 => payload("ip", "ttl"),
            Family::V6 => payload("ip6", "hoplimit"),
        };
        let ports = equal(&payload("udp", "dport"), set_of(STANDBY_PORTS.map(|port| json!(port))));
        vec![
            rule([is_its(), is_vrrp(), equal(&hops, UNROUTED), route_back(), to_local(), accept()]),
            ended([is_its(), is_vrrp()], self.dropped("input", "wan_guard")),
            rule([is_its(), ports, route_back(), to_local(), accept()]),
        ]
    }

    /// VRRP of anyone else on the WAN, before its flow can count as known: this edge's own packets
    /// make one.
    pub(super) fn foreign_vrrp(&self) -> Vec<Value> {
        let of_pair = self.policy.standby.iter();
        of_pair.map(|_| ended([is_vrrp()], self.dropped("input", "wan_guard"))).collect()
    }
}

fn is_vrrp() -> Value {
    equal(&meta("l4proto"), VRRP)
}
