//! The tunnel of a file, as both ends have it: addresses, keys, peers.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::super::draft::{Draft, Edge, EdgePeer, NO_KEY, Names, Origin, OriginPeer, everywhere, key_file};
use super::super::outcome::{Finding, FindingKind, ImportError, KeyFile};
use super::file::with_defaults;
use super::{Reader, Section};
use policy::{prefix, text};

/// The port on which WireGuard listens by default.
const USUAL_PORT: u16 = 51_820;

impl Reader<'_> {
    fn mtu(&self) -> Option<u16> {
        let mtu = self.interface.value("mtu")?.parse().ok().filter(|&mtu| mtu >= 576)?;
        let all = self.peers.iter().flat_map(|peer| peer.prefixes("allowedips", false));
        let has_v6 = self.address().into_iter().chain(all).any(|prefix| prefix.is_ipv6());
        // IPv6 needs 1280, whatever the file says; the line has its finding.
        (mtu >= 1_280 || !has_v6).then_some(mtu)
    }

    pub(super) fn has_low_mtu(&self) -> bool {
        self.interface.value("mtu").is_some_and(|mtu| mtu.parse::<u16>().is_ok()) && self.mtu().is_none()
    }

    pub(super) fn address(&self) -> Vec<IpNetwork> {
        self.interface.prefixes("address", true)
    }

    pub(super) fn listen_port(&self) -> u16 {
        self.interface.value("listenport").and_then(text::port).unwrap_or(USUAL_PORT)
    }

    /// The interface's own public key, or [`NO_KEY`].
    pub(super) fn own_public_key(&self) -> String {
        let key = self.interface.value("privatekey").and_then(|key| (self.derive)(key));
        key.map_or_else(|| NO_KEY.to_owned(), |key| key.to_string())
    }

    /// Begins with the keys: the file's own, and that of the other end, which no file holds.
    fn draft(&self, edge: Edge, origin: Origin, other_key: &str) -> Draft {
        let own_file = format!("{}.key", self.stem);
        let mut draft = Draft { edge, origin, lists: Vec::new(), keys: Vec::new(), findings: Vec::new() };
        match self.interface.value("privatekey") {
            Some(key) => draft.keys.push(key_file(&own_file, key)),
            None => draft.note(
                FindingKind::Missing,
                format!("{own_file}: the private key of {}, which the file does not hold", self.file),
            ),
        }
        if !self.is_alone {
            return draft;
        }
        draft.note(
            FindingKind::Missing,
            format!(
                "{other_key}: the other end's private key; make a pair with `gatewayctl keygen` if it is lost"
            ),
        );
        if self.own_public_key() == NO_KEY {
            let text =
                format!("the public key of {}: replace {NO_KEY:?} in the other configuration", self.file);
            draft.note(FindingKind::Missing, text);
        }
        draft
    }

    /// The file of a preshared key, and its content where the import holds it.
    fn preshared(&self, peer: &Section, name: &str) -> Option<(String, Option<KeyFile>)> {
        let file = format!("{name}.psk");
        if let Some(key) = peer.value("presharedkey") {
            return Some((file.clone(), Some(key_file(&file, key))));
        }
        let key = peer.value("publickey")?;
        self.machine.preshared.iter().any(|known| known == key).then_some((file, None))
    }

    /// The name of a peer: stated, or by the one sign that there is, which is reported.
    fn name(
        &self,
        number: usize,
        peer: &Section,
        otherwise: &str,
        names: &mut Names,
    ) -> (String, Option<Finding>) {
        if let Some(stated) = self.options.names.get(number) {
            return (names.claim(stated, otherwise), None);
        }
        let mut known: Vec<&(String, u32)> = peer.names.iter().collect();
        known.dedup_by(|a, b| a.0 == b.0);
        let (name, line, text) = match known.as_slice() {
            [] => {
                let name = names.claim("", otherwise);
                let line = peer.values.first().map(|entry| entry.place.line);
                let text =
                    format!("the peer's name {name:?}, since the file gives none: choose one with --name");
                (name, line, text)
            }
            [(name, line)] => {
                let name = names.claim(name, otherwise);
                let text = format!(
                    "the peer's name {name:?}, by the comment in this line: choose another with --name"
                );
                (name, Some(*line), text)
            }
            [(_, line), ..] => {
                let given =
                    known.iter().map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>().join(" and ");
                let name = names.claim("", otherwise);
                let text = format!(
                    "the peer's name {name:?}, since comments give it {given}: choose one with --name"
                );
                (name, Some(*line), text)
            }
        };
        let at = line.map(|line| (self.file.to_owned(), line));
        (name, Some(Finding { at, column: None, kind: FindingKind::Assumed, text }))
    }

    /// Prefixes of a peer that no later one has as well: WireGuard gives them to the last.
    fn own_prefixes(&self, number: usize) -> Vec<IpNetwork> {
        let of = |peer: &&Section| with_defaults(&peer.prefixes("allowedips", false));
        let later: Vec<IpNetwork> = self.peers.iter().skip(number + 1).flat_map(of).collect();
        let mut own = self.peers.get(number).map(of).unwrap_or_default();
        own.retain(|prefix| !later.contains(prefix));
        own
    }

    /// The file is the edge's.
    pub(super) fn edge(&self) -> Draft {
        let address = self.address();
        let port = self.listen_port();
        let is_saved = self.interface.value("saveconfig").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let (mut names, mut keys, mut peers) = (Names::default(), Vec::new(), Vec::<EdgePeer>::new());
        let (mut notes, mut left_out) = (Vec::new(), Vec::new());
        for (number, peer) in self.peers.iter().enumerate() {
            let (name, note) = self.name(number, peer, "origin", &mut names);
            notes.extend(note);
            let key = peer.public_key().map_or_else(|| NO_KEY.to_owned(), |key| key.to_string());
            let allowed_ips = self.own_prefixes(number);
            // Of two sections of one key the last decides.
            let mut later = self.peers.iter().skip(number + 1);
            let is_replaced =
                peer.public_key().is_some() && later.any(|later| later.public_key() == peer.public_key());
            if is_replaced || allowed_ips.is_empty() || peers.iter().any(|other| other.public_key == key) {
                left_out.push(name);
                continue;
            }
            let preshared = self.preshared(peer, &name);
            let preshared_key_file = preshared.as_ref().map(|(file, _)| file.clone());
            keys.push(preshared);
            let endpoint = peer.endpoint().filter(|_| !is_saved).map(|endpoint| endpoint.to_string());
            peers.push(EdgePeer { name, public_key: key, preshared_key_file, allowed_ips, endpoint });
        }
        let wan = self.sides.wan.clone();
        let key_file = format!("{}.key", self.stem);
        let edge = Edge {
            key_file,
            address,
            listen_port: port,
            mtu: self.mtu(),
            wan,
            lan: Vec::new(),
            peers,
            publish: Vec::new(),
            allow: Vec::new(),
        };
        let origin = self.origin_of(&edge, 0);
        let other_key = origin.key_file.clone();
        let mut draft = self.draft(edge, origin, &other_key);
        self.keep(keys, &mut draft);
        draft.findings.extend(notes);
        if self.is_alone {
            draft.note(
                FindingKind::Missing,
                "[[peer]] endpoint in forwarder.toml: the edge's public name and port",
            );
        }
        let wan = match (self.sides.is_stated, self.sides.is_named) {
            (true, _) => None,
            (_, true) => Some("by the rules of the file; the file has no value for [lan] prefixes"),
            _ => Some("the file has no value for it, nor for [lan] prefixes"),
        };
        if let Some(sign) = wan {
            let text = format!("[wan] interface = {:?} in gateway.toml: {sign}", draft.edge.wan);
            draft.note(FindingKind::Assumed, text);
        }
        for name in left_out {
            draft.note(
                FindingKind::NoCounterpart,
                format!("peer {name:?} has no key or prefix of its own, or a later peer has them"),
            );
        }
        draft
    }

    /// The configuration of the peer with this number, behind the edge.
    pub(super) fn origin_of(&self, edge: &Edge, number: usize) -> Origin {
        let peer = edge.peers.get(number);
        let name = peer.map_or("origin", |peer| peer.name.as_str());
        let allowed = peer.map(|peer| peer.allowed_ips.as_slice()).unwrap_or_default();
        let key = peer.map(|peer| peer.public_key.as_str()).unwrap_or_default();
        let section = self.peers.iter().find(|section| section.value("publickey") == Some(key));
        let edge_peer = OriginPeer {
            name: self.stem.clone(),
            public_key: self.own_public_key(),
            preshared_key_file: peer.and_then(|peer| peer.preshared_key_file.clone()),
            endpoint: format!("{}.example.com:{}", self.stem, edge.listen_port),
            allowed_ips: everywhere(),
            keepalive: Some(section.and_then(|section| section.keepalive()).unwrap_or(25)),
            own: None,
        };
        Origin {
            key_file: format!("{name}-origin.key"),
            address: other_side(&edge.address, allowed).into_iter().map(|(address, _)| address).collect(),
            mtu: self.mtu(),
            peers: vec![edge_peer],
            services: Vec::new(),
            reach: Vec::new(),
        }
    }

    fn keep(&self, keys: Vec<Option<(String, Option<KeyFile>)>>, draft: &mut Draft) {
        for (file, key) in keys.into_iter().flatten() {
            match key {
                Some(key) => draft.keys.push(key),
                None => draft.note(
                    FindingKind::Missing,
                    format!("{file}: the preshared key, which {} reads from another file", self.file),
                ),
            }
        }
    }

    /// The file is the origin's.
    pub(super) fn origin(&self) -> Result<Draft, ImportError> {
        let address = self.address();
        let (mut names, mut keys, mut peers) = (Names::default(), Vec::new(), Vec::<OriginPeer>::new());
        let (mut notes, mut first, mut left_out) = (Vec::new(), None, Vec::new());
        for (number, peer) in self.peers.iter().enumerate() {
            let (name, note) = self.name(number, peer, "edge", &mut names);
            notes.extend(note);
            let key = peer.public_key().map_or_else(|| NO_KEY.to_owned(), |key| key.to_string());
            let endpoint = peer.endpoint().filter(|_| !peers.iter().any(|other| other.public_key == key));
            let Some(endpoint) = endpoint else {
                left_out.push(name);
                continue;
            };
            first.get_or_insert(*peer);
            let preshared = self.preshared(peer, &name);
            let preshared_key_file = preshared.as_ref().map(|(file, _)| file.clone());
            keys.push(preshared);
            let allowed_ips = with_defaults(&peer.prefixes("allowedips", false));
            peers.push(OriginPeer {
                name,
                public_key: key,
                preshared_key_file,
                endpoint: endpoint.to_string(),
                allowed_ips: if allowed_ips.is_empty() { everywhere() } else { allowed_ips },
                keepalive: peer.keepalive(),
                own: None,
            });
        }
        let part = "[Peer] with an Endpoint, which an origin dials";
        let first = first.ok_or_else(|| ImportError::NotWgQuick { file: self.file.to_owned(), part })?;
        let edge = self.edge_of(&address, first, peers.first());
        let lan = edge.lan.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let key_file = format!("{}.key", self.stem);
        let (services, reach) = (Vec::new(), Vec::new());
        let origin = Origin { key_file, address, mtu: self.mtu(), peers, services, reach };
        let mut draft = self.draft(edge, origin, "edge-side.key");
        self.keep(keys, &mut draft);
        draft.findings.extend(notes);
        for name in left_out {
            draft.note(
                FindingKind::NoCounterpart,
                format!("peer {name:?} has no Endpoint or the key of another"),
            );
        }
        if !self.is_alone {
            return Ok(draft);
        }
        draft.note(
            FindingKind::Missing,
            "[[publish]] and [[allow]] in gateway.toml, [[service]] and [[reach]] in forwarder.toml: the file lists \
             no services",
        );
        draft.note(
            FindingKind::Assumed,
            "[wan] interface = \"eth0\" in gateway.toml: the file has no value for it",
        );
        if !lan.is_empty() {
            let text =
                format!("[lan] prefixes in gateway.toml: {lan}, since the file routes them to the edge");
            draft.note(FindingKind::Assumed, text);
        }
        Ok(draft)
    }

    /// The edge that an origin's file dials.
    fn edge_of(&self, address: &[IpNetwork], first: &Section, named: Option<&OriginPeer>) -> Edge {
        let allowed = with_defaults(&first.prefixes("allowedips", false));
        let in_tunnel = |prefix: &IpNetwork| {
            address.iter().any(|own| own.contains(prefix.network()) || prefix.contains(own.ip()))
        };
        let edge: Vec<IpNetwork> =
            other_side(address, &allowed).into_iter().map(|(address, _)| address).collect();
        let is_edge = |prefix: &IpNetwork| edge.iter().any(|edge| prefix::host(*prefix) == Some(edge.ip()));
        let is_lan =
            |prefix: &IpNetwork| !prefix::is_default(*prefix) && !in_tunnel(prefix) && !is_edge(prefix);
        // A network of the internet is let in by AllowedIPs, and is no LAN unless it is routed.
        let is_private = |prefix: &&IpNetwork| {
            prefix::is_private(**prefix) && prefix::is_private(IpNetwork::from(prefix.broadcast()))
        };
        let private = allowed.iter().filter(is_private);
        let routed = private.chain(&self.machine.routes).copied();
        let lan = prefix::disjoint(routed.filter(is_lan));
        Edge {
            key_file: "edge-side.key".to_owned(),
            address: edge,
            listen_port: first.endpoint().map_or(USUAL_PORT, |endpoint| endpoint.port),
            mtu: self.mtu(),
            wan: "eth0".to_owned(),
            lan,
            peers: vec![EdgePeer {
                name: self.stem.clone(),
                public_key: self.own_public_key(),
                preshared_key_file: named.and_then(|peer| peer.preshared_key_file.clone()),
                allowed_ips: address.iter().map(|own| IpNetwork::from(own.ip())).collect(),
                endpoint: None,
            }],
            publish: Vec::new(),
            allow: Vec::new(),
        }
    }

    /// Addresses of the other end that the file does not have.
    pub(super) fn guessed_addresses(&self, allowed: &[IpNetwork]) -> Vec<IpAddr> {
        let others = other_side(&self.address(), allowed);
        others.into_iter().filter(|(_, is_given)| !is_given).map(|(address, _)| address.ip()).collect()
    }
}

/// The address of the other end with the length of the shared network, and whether the file has it:
/// a single allowed address of that network, or else one next to ours.
fn other_side(own: &[IpNetwork], allowed: &[IpNetwork]) -> Vec<(IpNetwork, bool)> {
    let of = |own: &IpNetwork| {
        let is_alone = prefix::host(*own).is_some();
        let single = |prefix: &&IpNetwork| {
            prefix::host(**prefix).is_some_and(|host| {
                let is_near = own.contains(host) || is_alone && host.is_ipv4() == own.is_ipv4();
                is_near && host != own.ip()
            })
        };
        let given = allowed.iter().find(single).map(IpNetwork::ip);
        let address = given.unwrap_or_else(|| neighbour(*own));
        IpNetwork::new(address, own.prefix()).ok().map(|address| (address, given.is_some()))
    };
    own.iter().filter_map(of).collect()
}

/// The first host of a network, or the second when we are that.
fn neighbour(own: IpNetwork) -> IpAddr {
    let next = |address: IpAddr, step: u8| match address {
        IpAddr::V4(address) => IpAddr::V4(address.to_bits().wrapping_add(u32::from(step)).into()),
        IpAddr::V6(address) => IpAddr::V6(address.to_bits().wrapping_add(u128::from(step)).into()),
    };
    let flipped = |address: IpAddr| match address {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() ^ 1).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() ^ 1).into()),
    };
    let (bits, usual): (u8, u8) = if own.is_ipv4() { (32, 24) } else { (128, 64) };
    if bits - own.prefix() == 1 {
        return flipped(own.ip());
    }
    // A single address says nothing about its network.
    let length = if bits == own.prefix() { usual } else { own.prefix() };
    let network =
        IpNetwork::new(own.ip(), length).map_or_else(|_| own.network(), |network| network.network());
    let first = next(network, 1);
    if own.ip() == first { next(first, 1) } else { first }
}
