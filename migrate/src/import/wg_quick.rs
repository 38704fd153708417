//! A `wg-quick` file, of either end, as both configurations.
//!
//! The file of an end whose peers all have an `Endpoint` is the origin's, since the origin dials;
//! any other is the edge's.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use zeroize::Zeroizing;

use super::draft::{
    Draft, Edge, EdgePeer, Inject, NO_KEY, Names, Origin, OriginPeer, Publish, everywhere, is_everyone,
    key_file, plain_name, stem,
};
use super::outcome::{Derive, Finding, FindingKind, Import, ImportError, KeyFile, MAX_BYTES};
use policy::{PortRange, Protocols, PublicKey, Source, prefix, text};

/// The port on which WireGuard listens by default.
const USUAL_PORT: u16 = 51_820;

/// Reads a `wg-quick` file and writes both configurations; the public keys of private keys that it
/// holds come from `derive`.
///
/// # Errors
/// [`ImportError`], when there is no tunnel in it.
pub fn wg_quick(source: &Source<'_>, derive: Derive<'_>) -> Result<Import, ImportError> {
    let file = source.name.display().to_string();
    if source.text.len() > MAX_BYTES {
        return Err(ImportError::TooLarge { file, bytes: source.text.len() });
    }
    let (sections, findings) = sections(source.text, &file);
    let interface = sections.iter().find(|section| section.title == "interface");
    let missing = |part| ImportError::NotWgQuick { file: file.clone(), part };
    let interface = interface.filter(|section| !section.prefixes("address", true).is_empty());
    let interface = interface.ok_or_else(|| missing("[Interface] with an address"))?;
    let peers: Vec<&Section> = sections.iter().filter(|section| section.title == "peer").collect();
    let first = *peers.first().ok_or_else(|| missing("[Peer]"))?;
    let reader = Reader { file: &file, stem: stem(source.name), interface, peers: &peers, derive };
    let mut draft = if peers.iter().all(|peer| peer.endpoint().is_some()) {
        reader.origin(first)
    } else {
        reader.edge(first)
    };
    draft.findings.splice(0..0, findings);
    reader.lines(&sections, &mut draft);
    draft.finish()
}

struct Section {
    title: String,
    /// What a comment in the section says; people keep names there.
    comment: Option<String>,
    values: Vec<(u32, String, Zeroizing<String>)>,
}

/// The sections, and a finding for every line that belongs to none.
fn sections(text: &str, file: &str) -> (Vec<Section>, Vec<Finding>) {
    let (mut sections, mut findings): (Vec<Section>, Vec<Finding>) = (Vec::new(), Vec::new());
    for (number, line) in (1_u32..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let (content, comment) = line.split_once('#').unwrap_or((line, ""));
        let content = content.trim();
        if let Some(title) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let title = title.trim().to_ascii_lowercase();
            sections.push(Section { title, comment: None, values: Vec::new() });
        }
        let section = sections.last_mut();
        if let (Some(section), Some(name)) = (section, plain_name(comment)) {
            section.comment.get_or_insert(name);
        }
        if content.is_empty() || content.starts_with('[') {
            continue;
        }
        match (sections.last_mut(), content.split_once('=')) {
            (Some(section), Some((key, value))) => {
                let value = Zeroizing::new(value.trim().to_owned());
                section.values.push((number, key.trim().to_ascii_lowercase(), value));
            }
            _ => findings.push(Finding {
                at: Some((file.to_owned(), number)),
                column: None,
                kind: FindingKind::NoCounterpart,
                text: "a line that is neither a section nor KEY = VALUE in one".to_owned(),
            }),
        }
    }
    (sections, findings)
}

impl Section {
    fn value(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(_, known, _)| known == key).map(|(_, _, value)| value.as_str())
    }

    /// Prefixes of every line with this key, host bits kept or cleared, each once.
    fn prefixes(&self, key: &str, with_host: bool) -> Vec<IpNetwork> {
        let lines = self.values.iter().filter(|(_, known, _)| known == key);
        let items =
            lines.flat_map(|(_, _, value)| value.split(',')).filter_map(|item| text::prefix(item.trim()));
        let mut prefixes: Vec<IpNetwork> = Vec::new();
        for prefix in items.map(|prefix| if with_host { prefix } else { prefix::network(prefix) }) {
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
        prefixes
    }

    fn endpoint(&self) -> Option<policy::HostPort> {
        self.value("endpoint").and_then(text::host_port)
    }

    fn public_key(&self) -> Option<PublicKey> {
        self.value("publickey").and_then(|key| key.parse::<PublicKey>().ok())
    }

    fn keepalive(&self) -> Option<u64> {
        self.value("persistentkeepalive")?.parse().ok().filter(|seconds| (1..=65_535).contains(seconds))
    }
}

struct Reader<'a> {
    file: &'a str,
    stem: String,
    interface: &'a Section,
    peers: &'a [&'a Section],
    derive: Derive<'a>,
}

impl Reader<'_> {
    fn mtu(&self) -> Option<u16> {
        self.interface.value("mtu")?.parse().ok().filter(|&mtu| mtu >= 576)
    }

    /// The interface's own public key, or [`NO_KEY`].
    fn own_public_key(&self) -> String {
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

    fn preshared(&self, peer: &Section, name: &str) -> Option<(String, KeyFile)> {
        let file = format!("{name}.psk");
        peer.value("presharedkey").map(|key| (file.clone(), key_file(&file, key)))
    }

    /// The file is the edge's.
    fn edge(&self, first: &Section) -> Draft {
        let address = self.interface.prefixes("address", true);
        let port = self.interface.value("listenport").and_then(text::port).unwrap_or(USUAL_PORT);
        let (mut names, mut keys, mut peers) = (Names::default(), Vec::new(), Vec::<EdgePeer>::new());
        let mut left_out = Vec::new();
        for peer in self.peers {
            let name = names.claim(peer.comment.as_deref().unwrap_or_default(), "origin");
            let key = peer.public_key().map_or_else(|| NO_KEY.to_owned(), |key| key.to_string());
            let taken: Vec<IpNetwork> = peers.iter().flat_map(|other| other.allowed_ips.clone()).collect();
            let mut allowed_ips = peer.prefixes("allowedips", false);
            allowed_ips.retain(|prefix| !taken.contains(prefix));
            if allowed_ips.is_empty() || peers.iter().any(|other| other.public_key == key) {
                left_out.push(name);
                continue;
            }
            let preshared = self.preshared(peer, &name);
            let preshared_key_file = preshared.as_ref().map(|(file, _)| file.clone());
            keys.extend(preshared.map(|(_, key)| key));
            let endpoint = peer.endpoint().map(|endpoint| endpoint.to_string());
            peers.push(EdgePeer { name, public_key: key, preshared_key_file, allowed_ips, endpoint });
        }
        let name = peers.first().map_or_else(|| "origin".to_owned(), |peer| peer.name.clone());
        let edge_peer = OriginPeer {
            name: self.stem.clone(),
            public_key: self.own_public_key(),
            preshared_key_file: peers.first().and_then(|peer| peer.preshared_key_file.clone()),
            endpoint: format!("{}.example.com:{port}", self.stem),
            allowed_ips: everywhere(),
            keepalive: Some(first.keepalive().unwrap_or(25)),
            own: None,
        };
        let origin = Origin {
            key_file: format!("{name}-origin.key"),
            address: other_side(&address, &first.prefixes("allowedips", false)),
            mtu: self.mtu(),
            peers: vec![edge_peer],
            inject: Vec::new(),
            reach: Vec::new(),
        };
        let (lan, publish, allow) = (Vec::new(), Vec::new(), Vec::new());
        let key_file = format!("{}.key", self.stem);
        let edge = Edge {
            key_file,
            address,
            listen_port: port,
            mtu: self.mtu(),
            wan: "eth0".to_owned(),
            lan,
            peers,
            publish,
            allow,
        };
        let other_key = origin.key_file.clone();
        let mut draft = self.draft(edge, origin, &other_key);
        draft.keys.extend(keys);
        draft.note(
            FindingKind::Missing,
            "[[peer]] endpoint in forwarder.toml: the edge's public name and port",
        );
        draft.note(
            FindingKind::Assumed,
            "[wan] interface = \"eth0\" in gateway.toml; the file has no value for [lan] prefixes",
        );
        for name in left_out {
            draft.note(FindingKind::NoCounterpart, format!("peer {name:?} has no key or prefix of its own"));
        }
        draft
    }

    /// The file is the origin's.
    fn origin(&self, first: &Section) -> Draft {
        let address = self.interface.prefixes("address", true);
        let (mut names, mut keys, mut peers) = (Names::default(), Vec::new(), Vec::<OriginPeer>::new());
        for peer in self.peers {
            let name = names.claim(peer.comment.as_deref().unwrap_or_default(), "edge");
            let key = peer.public_key().map_or_else(|| NO_KEY.to_owned(), |key| key.to_string());
            if peers.iter().any(|other| other.public_key == key) {
                continue;
            }
            let preshared = self.preshared(peer, &name);
            let preshared_key_file = preshared.as_ref().map(|(file, _)| file.clone());
            keys.extend(preshared.map(|(_, key)| key));
            let allowed_ips = peer.prefixes("allowedips", false);
            peers.push(OriginPeer {
                name,
                public_key: key,
                preshared_key_file,
                endpoint: peer.endpoint().map(|endpoint| endpoint.to_string()).unwrap_or_default(),
                allowed_ips: if allowed_ips.is_empty() { everywhere() } else { allowed_ips },
                keepalive: peer.keepalive(),
                own: None,
            });
        }
        let own_hosts: Vec<IpNetwork> = address.iter().map(|own| IpNetwork::from(own.ip())).collect();
        let allowed = first.prefixes("allowedips", false);
        let edge_address = other_side(&address, &allowed);
        let in_tunnel = |prefix: &IpNetwork| address.iter().any(|own| own.contains(prefix.network()));
        let lan: Vec<IpNetwork> =
            allowed.into_iter().filter(|prefix| !is_everyone(*prefix) && !in_tunnel(prefix)).collect();
        let edge = Edge {
            key_file: "edge-side.key".to_owned(),
            address: edge_address,
            listen_port: first.endpoint().map_or(USUAL_PORT, |endpoint| endpoint.port),
            mtu: self.mtu(),
            wan: "eth0".to_owned(),
            lan,
            peers: vec![EdgePeer {
                name: self.stem.clone(),
                public_key: self.own_public_key(),
                preshared_key_file: peers.first().and_then(|peer| peer.preshared_key_file.clone()),
                allowed_ips: own_hosts,
                endpoint: None,
            }],
            publish: Vec::new(),
            allow: Vec::new(),
        };
        let key_file = format!("{}.key", self.stem);
        let (inject, reach) = (Vec::new(), Vec::new());
        let origin = Origin { key_file, address, mtu: self.mtu(), peers, inject, reach };
        let mut draft = self.draft(edge, origin, "edge-side.key");
        draft.keys.extend(keys);
        draft.note(
            FindingKind::Missing,
            "[[publish]] and [[allow]] in gateway.toml, [[inject]] and [[reach]] in forwarder.toml: a wg-quick file lists \
             no services",
        );
        draft.note(FindingKind::Assumed, "[wan] interface = \"eth0\" in gateway.toml");
        draft
    }

    /// One finding for every line that is not simply a value of the tunnel.
    fn lines(&self, sections: &[Section], draft: &mut Draft) {
        let mut names = Names::default();
        for (section, (line, key, value)) in
            sections.iter().flat_map(|section| section.values.iter().map(move |value| (section, value)))
        {
            let (kind, text) = match key.as_str() {
                "privatekey"
                | "address"
                | "listenport"
                | "mtu"
                | "publickey"
                | "presharedkey"
                | "allowedips"
                | "endpoint"
                | "persistentkeepalive" => continue,
                "postup" | "preup" => {
                    for command in value.split([';', '\n']).flat_map(|part| part.split("&&")) {
                        let (kind, text) = hook(command, draft, &mut names);
                        draft.findings.push(self.finding(*line, kind, text));
                    }
                    continue;
                }
                "postdown" | "predown" => {
                    (FindingKind::Replaced, "`gateway down` removes what the edge created".into())
                }
                "dns" => (FindingKind::Stays, "name servers are configured on the machine itself".into()),
                "table" | "fwmark" => {
                    (FindingKind::Replaced, "routes and marks are set in [kernel], which has defaults".into())
                }
                "saveconfig" => {
                    (FindingKind::Replaced, "the daemons never write their configurations".into())
                }
                other => (FindingKind::NoCounterpart, format!("{other} in [{}] is unknown", section.title)),
            };
            draft.findings.push(self.finding(*line, kind, text));
        }
    }

    fn finding(&self, line: u32, kind: FindingKind, text: String) -> Finding {
        Finding { at: Some((self.file.to_owned(), line)), column: None, kind, text }
    }
}

/// What a command of `PostUp` becomes; a plain DNAT becomes a published port.
fn hook(command: &str, draft: &mut Draft, names: &mut Names) -> (FindingKind, String) {
    let shown: String = command.trim().chars().take(120).collect();
    if let Some((protocols, ports, target, target_ports)) = dnat(command) {
        let listen_port = draft.edge.listen_port;
        let taken = draft.edge.publish.iter().any(|other| other.ports.overlaps(ports))
            || (protocols == Protocols::Udp && ports.contains(listen_port));
        let behind = draft.edge.owner(IpNetwork::from(target)).map(|peer| peer.name.clone());
        let Some(_) = behind.filter(|_| !taken) else {
            return (
                FindingKind::NoCounterpart,
                format!("`{shown}`: the target is behind no peer, or the port is already published"),
            );
        };
        let name = names.claim(&format!("port-{ports}"), "port");
        let peer = draft.origin.peers.first().map(|peer| peer.name.clone()).unwrap_or_default();
        let upstream = super::draft::with_ports(target, target_ports);
        let (address, allow) = (target, Vec::new());
        let inject = Inject {
            name: name.clone(),
            protocols,
            address,
            ports: target_ports,
            upstream,
            proxy_protocol: false,
            peer,
            allow,
        };
        draft.origin.inject.push(inject);
        let text = format!(
            "publish and inject {name:?}; its server sees the forwarder's address unless proxy_protocol is set"
        );
        draft.edge.publish.push(Publish {
            name,
            protocols,
            address: None,
            wan_only: false,
            ports,
            target,
            target_ports,
            masquerade: false,
            allow: Vec::new(),
        });
        return (FindingKind::Carried, text);
    }
    if command.contains("ip_forward") || command.contains("TCPMSS") {
        return (FindingKind::Replaced, format!("`{shown}`: the gateway does this itself"));
    }
    if command.contains("MASQUERADE") {
        let text = format!(
            "`{shown}`: clients keep their addresses; the LAN's own internet access is not the gateway's task"
        );
        return (FindingKind::Replaced, text);
    }
    (FindingKind::NoCounterpart, format!("`{shown}`"))
}

/// `iptables -t nat -A PREROUTING [-i IF] -p PROTOCOL --dport PORTS -j DNAT --to-destination
/// ADDRESS[:PORTS]`, and nothing else.
fn dnat(command: &str) -> Option<(Protocols, PortRange, IpAddr, PortRange)> {
    let (mut protocols, mut ports, mut to, mut jump) = (None, None, None, None);
    let mut words = command.split_whitespace();
    words.next().filter(|word| matches!(word.rsplit('/').next(), Some("iptables" | "ip6tables")))?;
    while let Some(flag) = words.next() {
        match flag {
            "-t" | "-A" | "-I" | "-i" | "--in-interface" | "-m" => drop(words.next()),
            "-p" | "--protocol" => protocols = words.next().and_then(text::protocols),
            "--dport" | "--destination-port" => {
                ports = words.next().and_then(|p| text::ports(&p.replace(':', "-")))
            }
            "-j" | "--jump" => jump = words.next(),
            "--to-destination" | "--to" => to = words.next(),
            _ => return None,
        }
    }
    let (protocols, ports, to) = (protocols?, ports?, to.filter(|_| jump == Some("DNAT"))?);
    let (address, target_ports) =
        text::address_ports(to).or_else(|| text::address(to).map(|address| (address, ports)))?;
    (target_ports.count() == ports.count()).then_some((protocols, ports, address, target_ports))
}

/// The address of the other end with the length of the shared network: a single allowed address
/// inside it, or the next.
fn other_side(own: &[IpNetwork], allowed: &[IpNetwork]) -> Vec<IpNetwork> {
    let of = |own: &IpNetwork| {
        let single = |prefix: &&IpNetwork| {
            prefix::host(**prefix).is_some_and(|host| own.contains(host) && host != own.ip())
        };
        let given = allowed.iter().find(single).map(IpNetwork::ip);
        IpNetwork::new(given.unwrap_or_else(|| neighbour(own.ip())), own.prefix()).ok()
    };
    own.iter().filter_map(of).collect()
}

/// The other usable address of a /30 where there is one: hosts 1 and 2 are each other's neighbours.
fn neighbour(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) if address.to_bits() & 3 == 0 => IpAddr::V4((address.to_bits() ^ 1).into()),
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() ^ 3).into()),
        IpAddr::V6(address) if address.to_bits() & 3 == 0 => IpAddr::V6((address.to_bits() ^ 1).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() ^ 3).into()),
    }
}
