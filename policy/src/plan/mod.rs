//! What a policy requires of the kernel and of the WireGuard node, as data; and how two plans
//! differ.

mod diff;
mod routing;

use ipnetwork::IpNetwork;

pub use routing::{replaced_value, switch_value};

pub use crate::change::Change;
pub use crate::conditions::Conditions;
use crate::gateway::Policy;
use crate::ruleset::Ruleset;
use crate::{HostPort, InterfaceName, Mtu, Name, PublicKey};

/// The inner MTU with which `mtu = "auto"` starts, until the path's MTU is known.
pub const INITIAL_MTU: u16 = 1420;

/// Everything that a policy requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The nftables table.
    pub ruleset: Ruleset,
    /// Device, routes, rules and switches.
    pub routing: Routing,
    /// What the WireGuard node must have.
    pub peers: Vec<PlannedPeer>,
}

impl Policy {
    /// Compiles the policy for a machine of which nothing is known.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.plan_under(&Conditions::default())
    }

    /// Compiles the policy for a machine as it is.
    #[must_use]
    pub fn plan_under(&self, conditions: &Conditions) -> Plan {
        let mtu = match self.interface.mtu {
            Mtu::Fixed(mtu) => mtu,
            Mtu::Auto => conditions.mtu.unwrap_or(INITIAL_MTU),
        };
        Plan {
            ruleset: Ruleset::compile(self, mtu, conditions),
            routing: routing::compile(self, mtu, conditions),
            peers: planned_peers(self),
        }
    }
}

impl Plan {
    /// What would change from this plan to `next`, part by part, one line each.
    #[must_use]
    pub fn diff(&self, next: &Self) -> Vec<Change> {
        diff::diff(self, next)
    }
}

fn planned_peers(policy: &Policy) -> Vec<PlannedPeer> {
    let planned = |peer: &crate::gateway::Peer| {
        let mut allowed_ips = peer.allowed_ips.clone();
        allowed_ips.sort_unstable();
        PlannedPeer {
            name: peer.name.clone(),
            public_key: peer.public_key,
            preshared: peer.preshared_key_file.is_some(),
            allowed_ips,
            endpoint: peer.endpoint.clone(),
            keepalive_seconds: peer.keepalive.and_then(|keepalive| u16::try_from(keepalive.as_secs()).ok()),
        }
    };
    policy.peers.iter().map(planned).collect()
}

/// Addresses, routes, rules and switches that the edge needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// The persistent TUN device.
    pub device: Device,
    /// What to add to the kernel's routing tables.
    pub routes: Vec<Route>,
    /// What to add to the kernel's routing policy.
    pub rules: Vec<Rule>,
    /// Switches under `/proc/sys` that must have a value.
    pub sysctls: Vec<Sysctl>,
    /// Tables that hold copies of uplinks' default routes, for packets with their marks.
    pub uplinks: Vec<UplinkTable>,
}

/// The TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: InterfaceName,
    /// Its addresses.
    pub addresses: Vec<IpNetwork>,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// Packets that may wait in it.
    pub tx_queue_length: u32,
}

/// The table of one uplink; its rules and routes have the protocol number behind the one of other
/// routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UplinkTable {
    /// The index of the interface whose default routes are copied.
    pub link: u32,
    /// Into which table.
    pub table: u32,
    /// For packets with which mark.
    pub mark: u32,
    /// The priority of the rule.
    pub priority: u32,
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// To where.
    pub destination: IpNetwork,
    /// By what.
    pub kind: RouteKind,
    /// In which table.
    pub table: u32,
    /// Of routes to one destination the lowest metric wins.
    pub metric: u32,
    /// By which the daemon knows its own routes.
    pub protocol: u8,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Into the TUN device.
    Tunnel,
    /// Answers with ICMP unreachable; holds when the device is down or gone.
    Unreachable,
}

/// One routing rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Whether it is for IPv6; else for IPv4.
    pub ipv6: bool,
    /// Lower comes first.
    pub priority: u32,
    /// Which packets.
    pub selector: Selector,
    /// The table that is consulted; 254 is `main`.
    pub table: u32,
    /// By which the daemon knows its own rules.
    pub protocol: u8,
}

/// Which packets a routing rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// Packets that carry this firewall mark.
    Fwmark(u32),
    /// Packets to this prefix.
    To(IpNetwork),
    /// Every packet.
    All,
}

/// A switch under `/proc/sys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Path below `/proc/sys`, parts separated by `/`.
    pub path: String,
    /// The value it must have.
    pub value: u32,
    /// When set, only this value is wrong: any other is a choice of the machine's own that works as
    /// well.
    pub instead_of: Option<u32>,
    /// What does not work without it.
    pub reason: &'static str,
}

impl Sysctl {
    /// Whether the switch must be changed where it reads as `value`.
    #[must_use]
    pub fn is_wrong(&self, value: &str) -> bool {
        match self.instead_of {
            Some(wrong) => value == wrong.to_string(),
            None => value != self.value.to_string(),
        }
    }
}

/// What the WireGuard node must have for one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPeer {
    /// Name in the configuration.
    pub name: Name,
    /// Public key.
    pub public_key: PublicKey,
    /// Whether a preshared key must be read from the peer's file.
    pub preshared: bool,
    /// Prefixes, sorted.
    pub allowed_ips: Vec<IpNetwork>,
    /// Where to dial it.
    pub endpoint: Option<HostPort>,
    /// Seconds between keepalives.
    pub keepalive_seconds: Option<u16>,
}
