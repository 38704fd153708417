//! Ports of the edge itself that a change of trust closes, and those that a published port takes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Trust, common};
use crate::Protocol;
use crate::gateway::Policy;
use crate::system::{Link, LinkKind, System};

/// A socket of the machine that waits for connections or datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The address it is bound to; unspecified for all of the machine's.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
}

/// One line for each listening port and interface that was open to hosts there by an earlier
/// release, whose guard knew the WAN by the names in `[wan] interface`, and no longer is.
#[must_use]
pub fn closed_since_names(
    policy: &Policy,
    system: &System,
    trust: &Trust,
    listeners: &[Listener],
) -> Vec<String> {
    let lost = |link: &&Link| {
        let is_wan = policy.wan.interfaces.iter().any(|name| name.as_str() == link.name);
        let was_open = match (policy.wan.interfaces.is_empty(), is_wan) {
            (true, _) => !system.is_uplink(link.index),
            (false, false) => true,
            // That release let in only sources in [lan] there.
            (false, true) => !common(&policy.lan, &system.carried(link)).is_empty(),
        };
        was_open && !trust.holds(link.index)
    };
    closed(policy, system, listeners, lost)
}

/// One line for each listening port and interface whose hosts were trusted and no longer are.
#[must_use]
pub fn closed_between(
    policy: &Policy,
    system: &System,
    (before, after): (&Trust, &Trust),
    listeners: &[Listener],
) -> Vec<String> {
    closed(policy, system, listeners, |link| before.holds(link.index) && !after.holds(link.index))
}

fn closed(
    policy: &Policy,
    system: &System,
    listeners: &[Listener],
    lost: impl Fn(&&Link) -> bool,
) -> Vec<String> {
    let mut lines = Vec::new();
    let outside = system.links.iter().filter(|link| {
        link.kind != LinkKind::Loopback
            && link.name != policy.interface.name.as_str()
            && !link.addresses.is_empty()
    });
    for link in outside.filter(|link| lost(link)) {
        for listener in
            listeners.iter().filter(|listener| is_reached(listener, link) && !is_open(policy, listener))
        {
            let (protocol, port, name) = (listener.protocol.as_str(), listener.port, &link.name);
            lines.push(format!(
                "{protocol}/{port} becomes closed to hosts on {name}: add \"{protocol}/{port}\" to [wan] accept, or list the \
                 LAN's interface under [lan]"
            ));
        }
    }
    lines.sort();
    lines.dedup();
    lines
}

/// Whether hosts of a link can reach the socket.
fn is_reached(listener: &Listener, link: &Link) -> bool {
    let family = |address: &IpNetwork| address.is_ipv4() == listener.address.is_ipv4();
    let own = link.addresses.iter().any(|address| address.ip() == listener.address);
    // A wildcard of IPv6 takes IPv4 as well.
    own || (listener.address.is_unspecified()
        && (listener.address.is_ipv6() || link.addresses.iter().any(family)))
}

/// Whether every source may open the port, trusted or not.
fn is_open(policy: &Policy, listener: &Listener) -> bool {
    let accepted =
        policy.wan.accept.iter().any(|accept| {
            accept.protocols.contains(listener.protocol) && accept.ports.contains(listener.port)
        });
    let published = policy.publish.iter().any(|publish| {
        publish.protocols.contains(listener.protocol) && publish.ports.contains(listener.port)
    });
    let own = listener.protocol == Protocol::Udp && listener.port == policy.interface.listen_port;
    accepted || published || own
}

/// One line for each published port that a program of the edge listens on.
#[must_use]
pub fn taken(policy: &Policy, listeners: &[Listener]) -> Vec<String> {
    let mut lines = Vec::new();
    for publish in policy.publish.iter().filter(|publish| !publish.wan_only) {
        for listener in listeners.iter().filter(|listener| {
            publish.protocols.contains(listener.protocol)
                && publish.ports.contains(listener.port)
                && !listener.address.is_loopback()
                && publish
                    .address
                    .is_none_or(|own| listener.address.is_unspecified() || listener.address == own)
        }) {
            let (protocol, port) = (listener.protocol.as_str(), listener.port);
            lines.push(format!(
                "{protocol}/{port} is served on the edge itself ({}), but {} publishes it: LAN hosts and containers get the \
                 origin instead; write listen = \"wan:{port}\" to publish it on the WAN side alone, or move the edge's own service",
                std::net::SocketAddr::new(listener.address, port),
                publish.name
            ));
        }
    }
    lines.sort();
    lines.dedup();
    lines
}

impl Trust {
    /// Whether anything on an interface is trusted.
    #[must_use]
    pub fn holds(&self, index: u32) -> bool {
        self.containers.contains(&index) || self.lan.iter().any(|(link, _)| *link == index)
    }
}
