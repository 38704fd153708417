//! What does not match, in words.

use std::fmt;
use std::net::SocketAddr;

use crate::gateway::Refusal;
use crate::{Name, Protocol, PublicPorts};

/// A mismatch; prints as one line that names both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The forwarder has no peer that is this edge.
    NoEdge,
    /// The edge has no peer that is this forwarder.
    NoOrigin {
        /// The forwarder's addresses in the tunnel.
        address: String,
    },
    /// The public key that one side has for the other is not the other's.
    WrongKey {
        /// The file that holds the wrong key.
        file: &'static str,
        /// The peer there.
        peer: Name,
    },
    /// Only one side has a preshared key.
    PresharedOnOneSide {
        /// The file that has it.
        file: &'static str,
    },
    /// The forwarder dials another port than the edge listens on.
    OtherPort {
        /// What it dials.
        endpoint: u16,
        /// What the edge listens on.
        listen: u16,
    },
    /// The link has another port at each side.
    OtherLinkPort {
        /// The edge's.
        gateway: u16,
        /// The forwarder's.
        forwarder: u16,
    },
    /// The two sides cut packets at different sizes.
    OtherMtu {
        /// The edge's.
        gateway: u16,
        /// The forwarder's.
        forwarder: u16,
    },
    /// A published port that the forwarder answers with a reset.
    PublishWithoutService {
        /// The service.
        publish: Name,
        /// Its protocol.
        protocol: Protocol,
        /// What nothing matches at the origin.
        target: SocketAddr,
    },
    /// A private flow into the tunnel that the forwarder answers with a reset.
    AllowWithoutService {
        /// The entry.
        allow: Name,
        /// Its protocol.
        protocol: Protocol,
        /// What nothing matches at the origin.
        target: SocketAddr,
    },
    /// A private flow out of the tunnel that nothing at the origin opens.
    AllowWithoutReach {
        /// The entry.
        allow: Name,
    },
    /// A local listener whose flows the edge drops.
    ReachWithoutAllow {
        /// The listener.
        reach: Name,
        /// Where its flows go.
        target: SocketAddr,
    },
    /// A PROXY header that would carry the edge's address instead of the client's.
    ProxyBehindMasquerade {
        /// The service.
        publish: Name,
        /// The entry with the header.
        service: Name,
    },
    /// An upstream in the tunnel's own network, where no program listens.
    UpstreamInTunnel {
        /// The service.
        publish: Name,
        /// The entry behind it.
        service: Name,
        /// Where it leads.
        upstream: String,
    },
    /// Sources that the origin drops, since its peer may not send from them.
    SourcesNotAllowed {
        /// The service.
        publish: Name,
        /// Whom its packets come from at the origin.
        from: String,
        /// The edge as a peer of the origin.
        peer: Name,
    },
    /// The forwarder sends from an address that the edge does not take from it.
    AddressNotAllowed {
        /// The forwarder as a peer of the edge.
        peer: Name,
        /// Its addresses.
        address: String,
    },
    /// A public port that an entry requests and the edge does not grant.
    PublishRefused {
        /// The entry.
        service: Name,
        /// The ports.
        ports: PublicPorts,
        /// The forwarder as a peer of the edge.
        peer: Name,
        /// Why.
        refusal: Refusal,
    },
    /// Clients who may use the public port but not the entry behind it.
    NarrowerService {
        /// The service.
        publish: Name,
        /// The entry.
        service: Name,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEdge => {
                write!(
                    f,
                    "no peer of forwarder.toml is this edge; one needs its public key and an address in its network"
                )
            }
            Self::NoOrigin { address } => {
                write!(
                    f,
                    "no peer of gateway.toml has {address} in its allowed_ips; add the forwarder as a peer"
                )
            }
            Self::WrongKey { file, peer } => {
                write!(
                    f,
                    "{file}: public_key of peer {peer:?} is not the key of the other side; copy it again"
                )
            }
            Self::PresharedOnOneSide { file } => {
                write!(f, "only {file} has a preshared_key_file; both sides need the same key, or none")
            }
            Self::OtherPort { endpoint, listen } => write!(
                f,
                "forwarder.toml dials port {endpoint}, but gateway.toml listens on {listen}; right only if a router \
                 in between forwards the one to the other"
            ),
            Self::OtherLinkPort { gateway, forwarder } => write!(
                f,
                "[link] port is {gateway} in gateway.toml and {forwarder} in forwarder.toml; write the same"
            ),
            Self::OtherMtu { gateway, forwarder } => {
                write!(
                    f,
                    "mtu is {gateway} in gateway.toml and {forwarder} in forwarder.toml; write the same"
                )
            }
            Self::PublishWithoutService { .. }
            | Self::AllowWithoutService { .. }
            | Self::AllowWithoutReach { .. }
            | Self::ReachWithoutAllow { .. }
            | Self::ProxyBehindMasquerade { .. }
            | Self::UpstreamInTunnel { .. }
            | Self::SourcesNotAllowed { .. }
            | Self::AddressNotAllowed { .. }
            | Self::PublishRefused { .. }
            | Self::NarrowerService { .. } => self.entry(f),
        }
    }
}

impl Finding {
    /// Prints a mismatch of entries.
    fn entry(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PublishWithoutService { publish, protocol, target } => write!(
                f,
                "publish {publish:?} leads to {protocol} {target}, which no [[service]] matches: clients are refused"
            ),
            Self::AllowWithoutService { allow, protocol, target } => write!(
                f,
                "allow {allow:?} leads to {protocol} {target}, which no [[service]] matches: connections are refused"
            ),
            Self::AllowWithoutReach { allow } => {
                write!(
                    f,
                    "allow {allow:?} lets the forwarder in, but no [[reach]] uses it; remove one or add the other"
                )
            }
            Self::ReachWithoutAllow { reach, target } => {
                write!(
                    f,
                    "reach {reach:?} leads to {target}, which no [[allow]] lists: the edge drops its connections"
                )
            }
            Self::ProxyBehindMasquerade { publish, service } => write!(
                f,
                "service {service:?} writes a PROXY header, but publish {publish:?} masquerades: it would carry the \
                 edge's address; set source = \"preserve\""
            ),
            Self::UpstreamInTunnel { publish, service, upstream } => write!(
                f,
                "service {service:?} of publish {publish:?} leads to {upstream}, in the tunnel's own network, where no program \
                 listens: write 127.0.0.1 for a program of the origin, or the LAN address of another machine"
            ),
            Self::SourcesNotAllowed { publish, from, peer } => write!(
                f,
                "publish {publish:?} is for {from}, but allowed_ips of peer {peer:?} in forwarder.toml do not have that: the \
                 forwarder drops their packets; add it"
            ),
            Self::AddressNotAllowed { peer, address } => write!(
                f,
                "peer {peer:?} of gateway.toml does not have the forwarder's address {address} in its allowed_ips: the edge \
                 drops its packets; add it"
            ),
            Self::PublishRefused { service, ports, peer, refusal } => {
                write!(
                    f,
                    "service {service:?} requests the public port {ports}, {}",
                    refused(*refusal, *ports, peer)
                )
            }
            Self::NarrowerService { publish, service } => write!(
                f,
                "service {service:?} has another allow than publish {publish:?}: some clients pass the edge and are \
                 refused at the origin; write the same in both"
            ),
            Self::NoEdge
            | Self::NoOrigin { .. }
            | Self::WrongKey { .. }
            | Self::PresharedOnOneSide { .. }
            | Self::OtherPort { .. }
            | Self::OtherLinkPort { .. }
            | Self::OtherMtu { .. } => Ok(()),
        }
    }
}

/// Why a requested port is not granted, and how to fix it.
fn refused(refusal: Refusal, ports: PublicPorts, peer: &Name) -> String {
    match refusal {
        Refusal::NotAllowed => format!(
            "which may_publish of peer {peer:?} in gateway.toml does not have: the edge refuses it; add \"{ports}\""
        ),
        Refusal::InUse => {
            "which gateway.toml uses itself: the edge refuses it; request another port".to_owned()
        }
        Refusal::RequestedTwice => {
            "which an entry before it requests as well: leave it to one of them".to_owned()
        }
        Refusal::TargetElsewhere => format!(
            "whose packets would go to an address that the edge does not route to peer {peer:?}; add it to allowed_ips in \
             gateway.toml"
        ),
        Refusal::OtherCount => "but `match` has another number of ports; write as many".to_owned(),
        Refusal::UnknownList => {
            "for a list that gateway.toml does not have; add it there as a [[list]]".to_owned()
        }
        Refusal::TooMany => "but an edge grants 64 ports or ranges to a peer; request fewer".to_owned(),
    }
}
