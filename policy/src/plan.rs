//! What a policy asks of the kernel and of the WireGuard node, as data; and how two plans differ.

use ipnetwork::IpNetwork;

use crate::{HostPort, InterfaceName, Mtu, Name, PublicKey};

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
}

/// The TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: InterfaceName,
    /// Its addresses.
    pub addresses: Vec<IpNetwork>,
    /// Its MTU.
    pub mtu: Mtu,
    /// Packets that may wait in it.
    pub tx_queue_length: u32,
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
    /// What does not work without it.
    pub reason: &'static str,
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

/// One difference between two plans, as a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What part of the plan: `ruleset`, `route`, `rule`, `sysctl`, `device` or `peer`.
    pub part: &'static str,
    /// `+ …`, `- …` or `~ … → …`.
    pub line: String,
}
