//! Whether an edge's configuration and an origin's match.

mod finding;

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

pub use self::finding::Finding;
use crate::forwarder::{self, ProxyProtocol};
use crate::gateway::{self, Allow, Party, Publish, Requests, Service, SourceHandling};
use crate::{AllowList, Mtu, Protocol, PublicKey, prefix};

/// Public keys that belong to the private key files, where the caller could read those.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnKeys {
    /// Of the edge.
    pub gateway: Option<PublicKey>,
    /// Of the origin towards this edge.
    pub forwarder: Option<PublicKey>,
}

/// The mismatches between an edge and an origin, by their files only.
#[must_use]
pub fn pairing(gateway: &gateway::Policy, forwarder: &forwarder::Policy) -> Vec<Finding> {
    pairing_with_keys(gateway, forwarder, &OwnKeys::default())
}

/// The mismatches between an edge and an origin, their own public keys included.
#[must_use]
pub fn pairing_with_keys(
    gateway: &gateway::Policy,
    forwarder: &forwarder::Policy,
    keys: &OwnKeys,
) -> Vec<Finding> {
    let Some(edge) = edge_of(gateway, forwarder, keys) else { return vec![Finding::NoEdge] };
    let Some(origin) = origin_of(gateway, edge, keys) else {
        let addresses: Vec<String> = edge.address.iter().map(|own| own.ip().to_string()).collect();
        return vec![Finding::NoOrigin { address: addresses.join(", ") }];
    };
    let pair = Pair { gateway, forwarder, edge, origin };
    let mut findings = pair.tunnel(keys);
    let (served, refused) = pair.requested();
    findings.extend(served.publish.iter().flat_map(|publish| pair.publish(publish)));
    findings.extend(refused);
    findings.extend(gateway.allow.iter().flat_map(|allow| pair.allow(allow)));
    findings.extend(pair.reaches());
    findings
}

/// The forwarder's peer that is this edge: the one with its key or its address, or the only one.
fn edge_of<'f>(
    gateway: &gateway::Policy,
    forwarder: &'f forwarder::Policy,
    keys: &OwnKeys,
) -> Option<&'f forwarder::Peer> {
    let by_key = forwarder.peers.iter().find(|peer| keys.gateway.is_some_and(|key| peer.has_key(key)));
    let shares_network = |peer: &&forwarder::Peer| {
        peer.address
            .iter()
            .any(|own| gateway.interface.address.iter().any(|address| own.contains(address.ip())))
    };
    // With single addresses at both ends no network is shared, but the edge routes ours to a peer.
    let is_routed = |peer: &&forwarder::Peer| {
        let mut routed = gateway.peers.iter().flat_map(|peer| &peer.allowed_ips);
        routed.any(|prefix| prefix.prefix() > 0 && peer.address.iter().any(|own| prefix.contains(own.ip())))
    };
    by_key
        .or_else(|| forwarder.peers.iter().find(shares_network))
        .or_else(|| forwarder.peers.iter().find(is_routed))
}

/// The edge's peer that is this forwarder: the one with its key, or the one that owns its address.
fn origin_of<'g>(
    gateway: &'g gateway::Policy,
    edge: &forwarder::Peer,
    keys: &OwnKeys,
) -> Option<&'g gateway::Peer> {
    let by_key = gateway.peers.iter().find(|peer| keys.forwarder == Some(peer.public_key));
    let owns = |peer: &&gateway::Peer| {
        edge.address.iter().any(|own| peer.allowed_ips.iter().any(|prefix| prefix.contains(own.ip())))
    };
    by_key.or_else(|| gateway.peers.iter().find(owns))
}

struct Pair<'a> {
    gateway: &'a gateway::Policy,
    forwarder: &'a forwarder::Policy,
    edge: &'a forwarder::Peer,
    origin: &'a gateway::Peer,
}

impl Pair<'_> {
    fn tunnel(&self, keys: &OwnKeys) -> Vec<Finding> {
        let mut findings = Vec::new();
        if keys.gateway.is_some_and(|key| !self.edge.has_key(key)) {
            findings.push(Finding::WrongKey { file: "forwarder.toml", peer: self.edge.name.clone() });
        }
        if keys.forwarder.is_some_and(|key| key != self.origin.public_key) {
            findings.push(Finding::WrongKey { file: "gateway.toml", peer: self.origin.name.clone() });
        }
        match (&self.origin.preshared_key_file, &self.edge.preshared_key_file) {
            (Some(_), None) => findings.push(Finding::PresharedOnOneSide { file: "gateway.toml" }),
            (None, Some(_)) => findings.push(Finding::PresharedOnOneSide { file: "forwarder.toml" }),
            _ => {}
        }
        let is_allowed =
            |own: &IpNetwork| self.origin.allowed_ips.iter().any(|prefix| prefix.contains(own.ip()));
        if !self.edge.address.iter().any(is_allowed) {
            let addresses: Vec<String> = self.edge.address.iter().map(|own| own.ip().to_string()).collect();
            let (peer, address) = (self.origin.name.clone(), addresses.join(", "));
            findings.push(Finding::AddressNotAllowed { peer, address });
        }
        let (endpoint, listen) = (self.edge.endpoint.port, self.gateway.interface.listen_port);
        if endpoint != listen {
            findings.push(Finding::OtherPort { endpoint, listen });
        }
        let (gateway, forwarder) = (self.gateway.link.port, self.forwarder.link.port);
        if gateway != forwarder {
            findings.push(Finding::OtherLinkPort { gateway, forwarder });
        }
        if let (Mtu::Fixed(gateway), Mtu::Fixed(forwarder)) =
            (self.gateway.interface.mtu, self.forwarder.interface.mtu)
            && gateway != forwarder
        {
            findings.push(Finding::OtherMtu { gateway, forwarder });
        }
        findings
    }

    /// What the edge publishes, with what the origin requests and is granted; and what it is refused,
    /// as far as the files show.
    fn requested(&self) -> (gateway::Policy, Vec<Finding>) {
        let requested = self.forwarder.requested_of(self.edge);
        let mut requests = Requests::default();
        requests.replace(&self.origin.name, requested.clone());
        let judged = requests.judge(self.gateway, &[]);
        let replies = judged.replies.get(&self.origin.name).into_iter().flatten();
        let refused = requested.iter().zip(replies).filter_map(|(requested, reply)| {
            let (service, ports) = (requested.service.clone(), requested.port);
            let peer = self.origin.name.clone();
            Some(Finding::PublishRefused { service, ports, peer, refusal: reply.err()? })
        });
        let refused = refused.collect();
        (judged.served, refused)
    }

    fn publish(&self, publish: &Publish) -> Vec<Finding> {
        let mut findings = Vec::new();
        for target in publish.targets.iter().filter(|target| target.peer == self.origin.name) {
            if let Some(from) = self.dropped_sources(publish, target.address.is_ipv6()) {
                let (publish, peer) = (publish.name.clone(), self.edge.name.clone());
                findings.push(Finding::SourcesNotAllowed { publish, from, peer });
            }
            for protocol in publish.protocols.iter() {
                let mut ports = target.ports.first()..=target.ports.last();
                let address = |port| SocketAddr::new(target.address, port);
                let missing = ports.clone().find(|&port| self.service(protocol, address(port)).is_none());
                if let Some(port) = missing {
                    let (publish, target) = (publish.name.clone(), address(port));
                    findings.push(Finding::PublishWithoutService { publish, protocol, target });
                }
                let Some(service) = ports.find_map(|port| self.service(protocol, address(port))) else {
                    continue;
                };
                let (publish_name, service_name) = (publish.name.clone(), service.name.clone());
                findings.extend(self.upstreams(publish, service));
                if publish.source == SourceHandling::Masquerade
                    && service.proxy_protocol != ProxyProtocol::Off
                {
                    findings.push(Finding::ProxyBehindMasquerade {
                        publish: publish_name,
                        service: service_name,
                    });
                } else if service.allow != AllowList::Any && service.allow != publish.allow {
                    findings.push(Finding::NarrowerService { publish: publish_name, service: service_name });
                }
            }
        }
        findings
    }

    fn upstreams(&self, publish: &Publish, service: &forwarder::Service) -> Vec<Finding> {
        let tunnel: Vec<IpNetwork> =
            self.forwarder.peers.iter().flat_map(|peer| peer.address.iter().copied()).collect();
        let inside = service.upstreams.iter().filter(|upstream| upstream.is_within(&tunnel));
        let finding = |upstream: &forwarder::Upstream| Finding::UpstreamInTunnel {
            publish: publish.name.clone(),
            service: service.name.clone(),
            upstream: upstream.to_string(),
        };
        inside.map(finding).collect()
    }

    /// Sources of a service, of one family, that may not come through this edge at the origin.
    fn dropped_sources(&self, publish: &Publish, is_ipv6: bool) -> Option<String> {
        let of_family = |prefix: &&IpNetwork| prefix.is_ipv6() == is_ipv6;
        let allowed: Vec<IpNetwork> = self.edge.allowed_ips.iter().filter(of_family).copied().collect();
        let holds = |prefix: IpNetwork| {
            prefix::is_everything(&allowed) || allowed.iter().any(|allowed| prefix::covers(*allowed, prefix))
        };
        if publish.source == SourceHandling::Masquerade {
            let own = self.gateway.interface.address.iter().filter(of_family).map(|own| own.ip());
            return own.into_iter().find(|own| !holds(IpNetwork::from(*own))).map(|own| own.to_string());
        }
        match &publish.allow {
            AllowList::Any if prefix::is_everything(&allowed) => None,
            AllowList::Any => Some("everyone".to_owned()),
            AllowList::Only { prefixes, lists } => {
                let named = self.gateway.lists.iter().filter(|list| lists.contains(&list.name));
                let mut sources =
                    prefixes.iter().chain(named.flat_map(|list| &list.prefixes)).filter(of_family);
                sources.find(|source| !holds(**source)).map(ToString::to_string)
            }
        }
    }

    fn service(&self, protocol: Protocol, destination: SocketAddr) -> Option<&forwarder::Service> {
        self.forwarder.service_for(&self.edge.name, protocol, destination)
    }

    fn allow(&self, allow: &Allow) -> Vec<Finding> {
        let Service::Ports { protocols, ports } = &allow.service else { return Vec::new() };
        let mut findings = Vec::new();
        if allow.from.contains(&Party::Peer(self.origin.name.clone())) {
            let opened = self.through_this_edge().any(|reach| {
                self.is_target(&allow.to, reach.target.ip())
                    && reach.protocols.iter().any(|protocol| protocols.contains(protocol))
                    && ports.iter().any(|range| range.contains(reach.target.port()))
            });
            if !opened {
                findings.push(Finding::AllowWithoutReach { allow: allow.name.clone() });
            }
        }
        for address in allow.to.iter().filter_map(|to| self.single_address(to)) {
            for (protocol, range) in
                protocols.iter().flat_map(|protocol| ports.iter().map(move |range| (protocol, range)))
            {
                let targets = (range.first()..=range.last()).map(|port| SocketAddr::new(address, port));
                let missing = targets.into_iter().find(|&target| self.service(protocol, target).is_none());
                if let Some(target) = missing {
                    findings.push(Finding::AllowWithoutService {
                        allow: allow.name.clone(),
                        protocol,
                        target,
                    });
                }
            }
        }
        findings
    }

    /// One address behind this origin; a whole prefix is not tried address by address.
    fn single_address(&self, to: &Party) -> Option<IpAddr> {
        match to {
            Party::Behind { prefix, peer } if *peer == self.origin.name => {
                let full = if prefix.is_ipv4() { 32 } else { 128 };
                (prefix.prefix() == full).then(|| prefix.ip())
            }
            Party::Peer(_) | Party::Edge | Party::Lan(_) | Party::Behind { .. } | Party::Wan => None,
        }
    }

    fn through_this_edge(&self) -> impl Iterator<Item = &forwarder::Reach> {
        self.forwarder.reach.iter().filter(|reach| reach.peer == self.edge.name)
    }

    /// The edge's own addresses are not all in its file, so `"self"` may be any address.
    fn is_target(&self, to: &[Party], address: IpAddr) -> bool {
        to.iter().any(|to| match to {
            Party::Edge => true,
            Party::Wan => {
                let inside = self.gateway.lan.iter().copied().chain(self.gateway.tunnel_prefixes());
                !prefix::is_special(address) && !inside.into_iter().any(|prefix| prefix.contains(address))
            }
            Party::Lan(prefix) | Party::Behind { prefix, .. } => prefix.contains(address),
            Party::Peer(name) => {
                let peer = self.gateway.peers.iter().find(|peer| peer.name == *name);
                peer.is_some_and(|peer| peer.allowed_ips.iter().any(|prefix| prefix.contains(address)))
            }
        })
    }

    fn reaches(&self) -> Vec<Finding> {
        let from = Party::Peer(self.origin.name.clone());
        let allowed = |reach: &forwarder::Reach| {
            self.gateway.allow.iter().filter(|allow| allow.from.contains(&from)).any(|allow| {
                let Service::Ports { protocols, ports } = &allow.service else { return false };
                self.is_target(&allow.to, reach.target.ip())
                    && reach.protocols.iter().all(|protocol| protocols.contains(protocol))
                    && ports.iter().any(|range| range.contains(reach.target.port()))
            })
        };
        let closed = self.through_this_edge().filter(|reach| !allowed(reach));
        closed
            .map(|reach| Finding::ReachWithoutAllow { reach: reach.name.clone(), target: reach.target })
            .collect()
    }
}
