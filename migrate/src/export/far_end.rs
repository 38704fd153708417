//! What every export shares: the peer as it sees itself, and what can be wrong.

use ipnetwork::IpNetwork;
use policy::gateway::{Allow, Party, Peer, Policy};
use policy::suggest::nearest;
use policy::{HostPort, Mtu, Name, PublicKey, prefix, text};
use thiserror::Error;

/// What the far side must know about the edge and `gateway.toml` does not say.
#[derive(Clone, Debug)]
pub struct EdgeSide {
    /// The edge's name at the far side.
    pub name: Name,
    /// Its public name or address, and the port that reaches its WireGuard.
    pub endpoint: HostPort,
    /// The public key that belongs to its private key file.
    pub public_key: PublicKey,
}

impl EdgeSide {
    /// Takes a name and `HOST:PORT` as they are written on a command line.
    ///
    /// # Errors
    /// [`ExportError::BadEdge`], when one of them is not that.
    pub fn new(name: &str, endpoint: &str, public_key: PublicKey) -> Result<Self, ExportError> {
        let name = Name::new(name).ok_or(ExportError::BadEdge {
            expected: "a name of 1 to 32 letters, digits, `-`, `_` and `.`",
        })?;
        let endpoint = text::host_port(endpoint).ok_or(ExportError::BadEdge {
            expected: "an endpoint HOST:PORT, such as kyiv.example.com:51820",
        })?;
        Ok(Self { name, endpoint, public_key })
    }
}

/// Why nothing could be exported.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ExportError {
    /// No such peer.
    #[error("there is no peer {name:?}; the peers are {known}{}", nearest.as_ref().map(|near| format!(": did you mean {near:?}?")).unwrap_or_default())]
    UnknownPeer {
        /// What was asked for.
        name: String,
        /// The name that was probably meant.
        nearest: Option<String>,
        /// Every peer.
        known: String,
    },
    /// A value about the edge is malformed.
    #[error("the edge needs {expected}")]
    BadEdge {
        /// What is expected.
        expected: &'static str,
    },
    /// Without an address of its own in the tunnel the far side cannot be configured.
    #[error(
        "peer {peer:?} has no single address of the tunnel's network in its allowed_ips; add one, such as \"10.77.88.2/32\""
    )]
    NoTunnelAddress {
        /// The peer.
        peer: Name,
    },
    /// There is no listener to write.
    #[error(
        "no [[service]] has proxy_protocol; a server learns the client's address only from a PROXY header"
    )]
    NoHeader,
    /// The listener is reached over a network, so it must know from where.
    #[error(
        "{upstream} is not a loopback address: give the forwarder's address on that network, so that only its headers are accepted"
    )]
    ForwarderUnknown {
        /// The upstream.
        upstream: String,
    },
}

/// A peer of the edge as it sees itself.
pub(super) struct FarEnd<'p> {
    pub(super) policy: &'p Policy,
    pub(super) peer: &'p Peer,
    pub(super) edge: &'p EdgeSide,
    /// Own addresses with the length of the tunnel's network.
    pub(super) address: Vec<IpNetwork>,
}

impl<'p> FarEnd<'p> {
    pub(super) fn new(policy: &'p Policy, peer: &str, edge: &'p EdgeSide) -> Result<Self, ExportError> {
        let found = policy.peers.iter().find(|known| known.name.as_str() == peer);
        let names = || policy.peers.iter().map(|peer| peer.name.as_str());
        let peer = found.ok_or_else(|| ExportError::UnknownPeer {
            name: peer.chars().take(Name::MAX).collect(),
            nearest: nearest(peer, names()).map(str::to_owned),
            known: names().collect::<Vec<_>>().join(", "),
        })?;
        let own = |prefix: &IpNetwork| {
            let address = prefix::host(*prefix)?;
            let network = policy.interface.address.iter().find(|network| network.contains(address))?;
            IpNetwork::new(address, network.prefix()).ok()
        };
        let address: Vec<IpNetwork> = peer.allowed_ips.iter().filter_map(own).collect();
        if address.is_empty() {
            return Err(ExportError::NoTunnelAddress { peer: peer.name.clone() });
        }
        Ok(Self { policy, peer, edge, address })
    }

    pub(super) fn mtu(&self) -> u16 {
        mtu(self.policy)
    }

    /// Whether anything of the address family crosses the tunnel.
    pub(super) fn has_family(&self, v4: bool) -> bool {
        self.address.iter().chain(&self.peer.allowed_ips).any(|prefix| prefix.is_ipv4() == v4)
    }

    /// Every address of the families in use: clients keep their addresses, so they come from
    /// anywhere.
    pub(super) fn everyone(&self) -> Vec<&'static str> {
        let families = [(true, "0.0.0.0/0"), (false, "::/0")];
        families.into_iter().filter(|(v4, _)| self.has_family(*v4)).map(|(_, prefix)| prefix).collect()
    }

    /// Networks behind the edge that the far side may open flows to.
    pub(super) fn behind_edge(&self) -> impl Iterator<Item = IpNetwork> {
        self.policy.lan.iter().copied().filter(|prefix| self.has_family(prefix.is_ipv4()))
    }
}

impl FarEnd<'_> {
    /// One comment for each entry that lets this peer out to the internet.
    pub(super) fn left_out(&self) -> String {
        let is_from = |allow: &&Allow| allow.from.contains(&Party::Peer(self.peer.name.clone()));
        let why =
            "which of its connections the far end sends through the tunnel is for its own routes to say";
        to_wan(self.policy).filter(is_from).map(|allow| left_out(allow, why)).collect()
    }
}

/// Entries that let peers out to the internet.
pub(super) fn to_wan(policy: &Policy) -> impl Iterator<Item = &Allow> {
    policy.allow.iter().filter(|allow| allow.to.contains(&Party::Wan))
}

/// A comment that an entry is left out, and why.
pub(super) fn left_out(allow: &Allow, why: &str) -> String {
    format!("# Left out: [[allow]] {:?} to = [\"wan\"]: {why}.\n", allow.name.as_str())
}

pub(super) fn mtu(policy: &Policy) -> u16 {
    match policy.interface.mtu {
        Mtu::Fixed(mtu) => mtu,
        // What fits every path of 1500 bytes.
        Mtu::Auto => 1420,
    }
}

/// The prefixes of a party of a private flow; none for the edge itself.
pub(super) fn prefixes(party: &Party, policy: &Policy) -> Vec<IpNetwork> {
    match party {
        Party::Edge | Party::Wan => Vec::new(),
        Party::Lan(prefix) | Party::Behind { prefix, .. } => vec![*prefix],
        Party::Peer(name) => {
            let peers = policy.peers.iter().filter(|peer| peer.name == *name);
            peers.flat_map(|peer| &peer.allowed_ips).copied().filter(|prefix| prefix.prefix() > 0).collect()
        }
    }
}

pub(super) fn join<T: ToString>(items: impl IntoIterator<Item = T>, between: &str) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(between)
}
