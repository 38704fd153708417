//! What the machine is like when a policy is compiled.

use std::net::{IpAddr, SocketAddr};

use crate::ruleset::ServiceMark;
use crate::trust::Trust;
use crate::uplinks::Uplink;

/// What a plan depends on besides the policy: what the machine is like at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The inner MTU that was found on the paths, for `mtu = "auto"`; until one is,
    /// [`INITIAL_MTU`](crate::plan::INITIAL_MTU).
    pub mtu: Option<u16>,
    /// Which sources are trusted; by default only the tunnel and loopback.
    pub trust: Trust,
    /// The services of the table in force: those that stay keep their marks.
    pub marks: Vec<ServiceMark>,
    /// The uplinks by which replies go back.
    pub uplinks: Vec<Uplink>,
    /// Whether replies leave by the only uplink without marks.
    pub is_only_way: bool,
    /// The priority of the first routing rule, where rules of others leave no room behind the
    /// configured one.
    pub rule_priority: Option<u32>,
    /// The sockets of the link that the daemon owns: only these are open to peers, and only while
    /// they are at an address and the port that the policy has for the link.
    pub link: Vec<SocketAddr>,
    /// The address of the temporary peer of a pairing: it reaches the link and nothing else. Without
    /// effect where the policy gives the address to a peer.
    pub pairing: Option<IpAddr>,
}
