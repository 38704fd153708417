//! Builders of nftables' JSON (libnftables-json(5)), so that chains read like rules.

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::{PortRange, Protocol, Protocols};

/// An IP version, for what nftables keeps apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn is_ipv6(self) -> bool {
        matches!(self, Self::V6)
    }

    /// `4` or `6`, the last character of names of sets.
    pub(super) const fn digit(self) -> char {
        if self.is_ipv6() { '6' } else { '4' }
    }

    pub(super) const fn header(self) -> &'static str {
        if self.is_ipv6() { "ip6" } else { "ip" }
    }

    pub(super) const fn nfproto(self) -> &'static str {
        if self.is_ipv6() { "ipv6" } else { "ipv4" }
    }

    pub(super) const fn address_type(self) -> &'static str {
        if self.is_ipv6() { "ipv6_addr" } else { "ipv4_addr" }
    }

    pub(super) const fn icmp(self) -> &'static str {
        if self.is_ipv6() { "icmpv6" } else { "icmp" }
    }

    pub(super) fn holds(self, prefix: IpNetwork) -> bool {
        prefix.is_ipv6() == self.is_ipv6()
    }
}

/// A rule of these statements.
pub(super) fn rule<const N: usize>(statements: [Value; N]) -> Value {
    Value::Array(statements.into())
}

fn compare(op: &str, left: &Value, right: &Value) -> Value {
    json!({"match": {"op": op, "left": left, "right": right}})
}

pub(super) fn equal(left: &Value, right: impl Into<Value>) -> Value {
    compare("==", left, &right.into())
}

pub(super) fn unequal(left: &Value, right: impl Into<Value>) -> Value {
    compare("!=", left, &right.into())
}

pub(super) fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

pub(super) fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

pub(super) fn iif(name: &str) -> Value {
    equal(&meta("iifname"), name)
}

pub(super) fn not_oif(name: &str) -> Value {
    unequal(&meta("oifname"), name)
}

pub(super) fn oif(name: &str) -> Value {
    equal(&meta("oifname"), name)
}

/// The beginning of every rule of [`super::OWN_DSTNAT`]: the packet goes to an address of this
/// machine other than loopback's.
pub(super) fn to_own_address(family: Family) -> [Value; 2] {
    let loopback = match family {
        Family::V4 => json!({"prefix": {"addr": "127.0.0.0", "len": 8}}),
        Family::V6 => json!("::1"),
    };
    [oif("lo"), unequal(&daddr(family), loopback)]
}

pub(super) fn saddr(family: Family) -> Value {
    payload(family.header(), "saddr")
}

pub(super) fn daddr(family: Family) -> Value {
    payload(family.header(), "daddr")
}

pub(super) fn dport() -> Value {
    payload("th", "dport")
}

pub(super) fn is_family(family: Family) -> Value {
    equal(&meta("nfproto"), family.nfproto())
}

/// Whether this is a TCP segment that does not ask for a new connection.
pub(super) fn is_stray() -> Value {
    let flags = json!({"&": [payload("tcp", "flags"), ["fin", "syn", "rst", "ack"]]});
    unequal(&flags, "syn")
}

/// TCP or UDP.
pub(super) fn has_ports() -> Value {
    equal(&meta("l4proto"), json!({"set": ["tcp", "udp"]}))
}

pub(super) fn is_protocol(protocol: Protocol) -> Value {
    equal(&meta("l4proto"), protocol.as_str())
}

pub(super) fn is_one_of(protocols: Protocols) -> Value {
    match protocols {
        Protocols::Tcp => is_protocol(Protocol::Tcp),
        Protocols::Udp => is_protocol(Protocol::Udp),
        Protocols::Both => has_ports(),
    }
}

pub(super) fn concat(parts: impl IntoIterator<Item = Value>) -> Value {
    json!({"concat": parts.into_iter().collect::<Vec<_>>()})
}

pub(super) fn set_of(items: impl IntoIterator<Item = Value>) -> Value {
    json!({"set": items.into_iter().collect::<Vec<_>>()})
}

pub(super) fn named(set: &str) -> Value {
    Value::String(format!("@{set}"))
}

/// The verdict that a named map has for a key.
pub(super) fn mapped(key: &Value, map: &str) -> Value {
    json!({"map": {"key": key, "data": named(map)}})
}

pub(super) fn ports(range: PortRange) -> Value {
    match range.count() {
        1 => json!(range.first()),
        _ => json!({"range": [range.first(), range.last()]}),
    }
}

pub(super) fn prefix(prefix: IpNetwork) -> Value {
    let full = if prefix.is_ipv4() { 32 } else { 128 };
    if prefix.prefix() == full {
        return json!(prefix.ip().to_string());
    }
    json!({"prefix": {"addr": prefix.network().to_string(), "len": prefix.prefix()}})
}

pub(super) fn state(states: &[&str]) -> Value {
    compare("in", &json!({"ct": {"key": "state"}}), &json!(states))
}

pub(super) fn dnatted() -> Value {
    compare("in", &json!({"ct": {"key": "status"}}), &json!("dnat"))
}

/// Whether an earlier packet of the flow has passed.
pub(super) fn seen_before() -> Value {
    compare("in", &json!({"ct": {"key": "status"}}), &json!("confirmed"))
}

pub(super) fn direction(direction: &str) -> Value {
    equal(&json!({"ct": {"key": "direction"}}), direction)
}

pub(super) fn ct_mark() -> Value {
    json!({"ct": {"key": "mark"}})
}

/// Whether the bits of the conntrack mark under `mask` are those of `value`.
pub(super) fn marked(mask: u32, value: u32) -> Value {
    equal(&json!({"&": [ct_mark(), mask]}), value)
}

pub(super) fn set_ct_mark(value: impl Into<Value>) -> Value {
    json!({"mangle": {"key": ct_mark(), "value": value.into()}})
}

/// Whether the packet is to an address of this machine.
pub(super) fn to_local() -> Value {
    equal(&fib_type(), "local")
}

/// Whether the packet is to no address of this machine.
pub(super) fn not_to_local() -> Value {
    unequal(&fib_type(), "local")
}

/// Whether the packet is to this machine, alone or with others.
pub(super) fn to_local_or_all() -> Value {
    equal(&fib_type(), json!({"set": ["local", "broadcast", "multicast"]}))
}

fn fib_type() -> Value {
    json!({"fib": {"result": "type", "flags": ["daddr"]}})
}

/// Whether the packet is to everyone on its link.
pub(super) fn to_all() -> Value {
    equal(&fib_type(), "broadcast")
}

/// Whether the route back to the source leaves by another interface than the packet came in by.
pub(super) fn no_route_back() -> Value {
    equal(&fib_way_back(), false)
}

/// Whether the route back to the source leaves by the interface that the packet came in by.
pub(super) fn route_back() -> Value {
    equal(&fib_way_back(), true)
}

fn fib_way_back() -> Value {
    json!({"fib": {"result": "oif", "flags": ["saddr", "iif"]}})
}

pub(super) fn counter(name: &str) -> Value {
    json!({"counter": name})
}

/// Counts in the named counter that a map gives for the conntrack mark.
pub(super) fn counter_by_mark(map: &str) -> Value {
    json!({"counter": mapped(&ct_mark(), map)})
}

pub(super) fn by_mark(map: &str) -> Value {
    json!({"vmap": {"key": ct_mark(), "data": named(map)}})
}

/// Jumps to the chain that a map has for the address.
pub(super) fn by_address(address: &Value, map: &str) -> Value {
    json!({"vmap": {"key": address, "data": named(map)}})
}

pub(super) fn jump(chain: &str) -> Value {
    json!({"jump": {"target": chain}})
}

pub(super) fn goto(chain: &str) -> Value {
    json!({"goto": {"target": chain}})
}

pub(super) fn accept() -> Value {
    json!({"accept": null})
}

pub(super) fn drop() -> Value {
    json!({"drop": null})
}

pub(super) fn leave() -> Value {
    json!({"return": null})
}
