//! What an import has understood so far, and its text.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ipnetwork::IpNetwork;

use super::link_port;
use super::outcome::{Finding, FindingKind, Import, ImportError, KeyFile, ListFile};
use policy::gateway::Service;
use policy::pairing::pairing;
use policy::sections::Link;
use policy::{AllowList, Name, PortRange, Protocols, Source, forwarder, gateway, prefix};
use zeroize::Zeroizing;

/// Everything both configurations will say.
pub(super) struct Draft {
    pub(super) edge: Edge,
    pub(super) origin: Origin,
    pub(super) lists: Vec<List>,
    pub(super) keys: Vec<KeyFile>,
    pub(super) findings: Vec<Finding>,
}

pub(super) struct Edge {
    pub(super) key_file: String,
    pub(super) address: Vec<IpNetwork>,
    pub(super) listen_port: u16,
    pub(super) mtu: Option<u16>,
    /// The interface towards the internet.
    pub(super) wan: String,
    pub(super) lan: Vec<IpNetwork>,
    pub(super) peers: Vec<EdgePeer>,
    pub(super) publish: Vec<Publish>,
    pub(super) allow: Vec<Allow>,
}

pub(super) struct EdgePeer {
    pub(super) name: String,
    pub(super) public_key: String,
    pub(super) preshared_key_file: Option<String>,
    pub(super) allowed_ips: Vec<IpNetwork>,
    pub(super) endpoint: Option<String>,
}

pub(super) struct List {
    pub(super) name: String,
    pub(super) prefixes: Vec<IpNetwork>,
}

pub(super) struct Publish {
    pub(super) name: String,
    pub(super) protocols: Protocols,
    pub(super) forward: PortForward,
    /// Prefixes and `@NAME`s; empty for everyone.
    pub(super) allow: Vec<String>,
}

/// Where a published port listens, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortForward {
    /// One address of the edge; `None` for every one.
    pub(super) address: Option<IpAddr>,
    /// Whether only unauthenticated sources get it.
    pub(super) wan_only: bool,
    pub(super) ports: PortRange,
    pub(super) target: IpAddr,
    pub(super) target_ports: PortRange,
    pub(super) masquerade: bool,
}

pub(super) struct Allow {
    pub(super) name: String,
    pub(super) from: Vec<String>,
    pub(super) to: Vec<String>,
    pub(super) service: Service,
    pub(super) masquerade: bool,
}

pub(super) struct Origin {
    pub(super) key_file: String,
    pub(super) address: Vec<IpNetwork>,
    pub(super) mtu: Option<u16>,
    pub(super) peers: Vec<OriginPeer>,
    pub(super) services: Vec<OriginService>,
    pub(super) reach: Vec<Reach>,
}

pub(super) struct OriginPeer {
    pub(super) name: String,
    pub(super) public_key: String,
    pub(super) preshared_key_file: Option<String>,
    pub(super) endpoint: String,
    pub(super) allowed_ips: Vec<IpNetwork>,
    pub(super) keepalive: Option<u64>,
    /// Own address and key file of a second edge.
    pub(super) own: Option<(Vec<IpNetwork>, String)>,
}

#[derive(Clone)]
pub(super) struct OriginService {
    pub(super) name: String,
    pub(super) protocols: Protocols,
    pub(super) address: IpAddr,
    pub(super) ports: PortRange,
    pub(super) upstream: String,
    pub(super) proxy_protocol: bool,
    pub(super) peer: String,
    /// Prefixes and `@NAME`s; empty for everyone.
    pub(super) allow: Vec<String>,
}

pub(super) struct Reach {
    pub(super) name: String,
    pub(super) protocols: Protocols,
    pub(super) listen: SocketAddr,
    pub(super) target: SocketAddr,
    pub(super) peer: String,
    pub(super) privileged: bool,
}

/// Written where an export had no key: base64 that reads as an instruction, and that is no real
/// key.
pub(super) const NO_KEY: &str = "PUT+THE+PUBLIC+KEY+OF+THE+OTHER+SIDE+HERE00=";

impl Draft {
    pub(super) fn note(&mut self, kind: FindingKind, text: impl Into<String>) {
        self.findings.push(Finding { at: None, column: None, kind, text: text.into() });
    }

    /// The texts of `gateway.toml` and `forwarder.toml`.
    pub(super) fn texts(&self) -> (String, String) {
        let usual = Link::default().port;
        let link = link_port::free(&self.edge, &self.origin).filter(|port| *port != usual);
        let section = link.map(|port| format!("\n[link]\nport = {port}\n")).unwrap_or_default();
        (self.edge.text(&self.lists) + &section, self.origin.text(&self.lists) + &section)
    }

    /// The texts, read back by the parsers that the daemons use; what does not pair up is one more
    /// finding.
    pub(super) fn finish(mut self) -> Result<Import, ImportError> {
        let (gateway_text, forwarder_text) = self.texts();
        let contradiction = |errors: Vec<policy::ConfigError>, file: &str| match errors.into_iter().next() {
            Some(error) => ImportError::Contradiction { error: Box::new(error) },
            None => ImportError::NotWgQuick { file: file.to_owned(), part: "[Interface]" },
        };
        let edge = Source { name: Path::new("gateway.toml"), text: &gateway_text };
        let edge = gateway::parse(&edge).map_err(|errors| contradiction(errors, "gateway.toml"))?;
        let origin = Source { name: Path::new("forwarder.toml"), text: &forwarder_text };
        let origin = forwarder::parse(&origin).map_err(|errors| contradiction(errors, "forwarder.toml"))?;
        for warning in edge.warnings.iter().chain(&origin.warnings) {
            self.note(FindingKind::Assumed, warning.to_string());
        }
        for publish in &edge.publish {
            let text = public(publish, &self.lists);
            self.note(FindingKind::Public, text);
        }
        for finding in pairing(&edge, &origin) {
            self.note(FindingKind::NoCounterpart, finding.to_string());
        }
        self.in_order();
        let lists = self.lists.iter().map(List::file).collect();
        let Self { keys, findings, .. } = self;
        Ok(Import { gateway: gateway_text, forwarder: forwarder_text, lists, keys, findings })
    }
}

impl Draft {
    /// Findings by file and line, those without a place last.
    fn in_order(&mut self) {
        let mut files: Vec<String> = Vec::new();
        for (file, _) in self.findings.iter().filter_map(|finding| finding.at.as_ref()) {
            if !files.contains(file) {
                files.push(file.clone());
            }
        }
        self.findings.sort_by_key(|finding| match &finding.at {
            Some((file, line)) => (files.iter().position(|known| known == file), *line),
            None => (Some(files.len()), 0),
        });
    }
}

/// A published port in one line: source, port, target.
fn public(publish: &gateway::Publish, known: &[List]) -> String {
    let address = publish.address.map_or_else(|| "every address".to_owned(), |address| address.to_string());
    let from = match &publish.allow {
        AllowList::Any => "everyone".to_owned(),
        AllowList::Only { prefixes, lists } => {
            let prefixes = prefixes.iter().map(ToString::to_string);
            let named = lists.iter().map(|name| {
                let list = known.iter().find(|list| list.name == name.as_str());
                let count = list.map_or(0, |list| list.prefixes.len());
                format!("@{name} ({count} prefixes in lists/{name}.list)")
            });
            prefixes.chain(named).collect::<Vec<_>>().join(", ")
        }
    };
    let protocols = publish.protocols.iter().map(|protocol| protocol.as_str()).collect::<Vec<_>>().join("+");
    let targets = publish
        .targets
        .iter()
        .map(|target| format!("{} of peer {:?}", with_ports(target.address, target.ports), target.peer))
        .collect::<Vec<_>>()
        .join(" and ");
    let (name, ports) = (&publish.name, publish.ports);
    format!("from {from} to {protocols}/{ports} of {address}, on to {targets}: publish {name:?}")
}

impl List {
    fn file_name(&self) -> String {
        format!("lists/{}.list", self.name)
    }

    fn file(&self) -> ListFile {
        let text = self.prefixes.iter().map(|prefix| format!("{prefix}\n")).collect();
        ListFile { name: self.file_name(), text }
    }
}

impl Edge {
    /// Whether a packet to the address goes to a peer.
    pub(super) fn owner(&self, prefix: IpNetwork) -> Option<&EdgePeer> {
        let holds = |allowed: &&IpNetwork| {
            allowed.prefix() > 0 && allowed.prefix() <= prefix.prefix() && allowed.contains(prefix.network())
        };
        let longest = |peer: &&EdgePeer| peer.allowed_ips.iter().filter(holds).map(|p| p.prefix()).max();
        self.peers.iter().filter(|peer| longest(peer).is_some()).max_by_key(longest)
    }

    fn text(&self, lists: &[List]) -> String {
        let mut text =
            String::from("# Written by `gatewayctl import`; read its findings before you use it.\n");
        table("[interface]", &mut text);
        key("address", array(&self.address), &mut text);
        key("listen_port", self.listen_port, &mut text);
        key("private_key_file", quoted(&self.key_file), &mut text);
        mtu(self.mtu, &mut text);
        table("[wan]", &mut text);
        key("interface", quoted(&self.wan), &mut text);
        key("accept", "[]", &mut text);
        if !self.lan.is_empty() {
            table("[lan]", &mut text);
            key("prefixes", array(&self.lan), &mut text);
        }
        self.peers.iter().for_each(|peer| peer.write(&mut text));
        let used = self.publish.iter().flat_map(|publish| &publish.allow);
        list_tables(used, lists, &mut text);
        self.publish.iter().for_each(|publish| publish.write(&mut text));
        self.allow.iter().for_each(|allow| allow.write(&mut text));
        text
    }
}

impl EdgePeer {
    fn write(&self, text: &mut String) {
        table("[[peer]]", text);
        key("name", quoted(&self.name), text);
        key("public_key", quoted(&self.public_key), text);
        self.preshared_key_file.iter().for_each(|file| key("preshared_key_file", quoted(file), text));
        key("allowed_ips", array(&self.allowed_ips), text);
        self.endpoint.iter().for_each(|endpoint| key("endpoint", quoted(endpoint), text));
    }
}

impl Publish {
    fn write(&self, text: &mut String) {
        table("[[publish]]", text);
        key("name", quoted(&self.name), text);
        key("protocol", protocols(self.protocols), text);
        let forward = &self.forward;
        let listen = match (forward.address, forward.wan_only) {
            (Some(address), _) => with_ports(address, forward.ports),
            (None, true) => format!("wan:{}", forward.ports),
            (None, false) => forward.ports.to_string(),
        };
        key("listen", quoted(listen), text);
        key("target", quoted(with_ports(forward.target, forward.target_ports)), text);
        if forward.masquerade {
            key("source", quoted("masquerade"), text);
        }
        if !self.allow.is_empty() {
            key("allow", array(&self.allow), text);
        }
    }
}

impl Allow {
    fn write(&self, text: &mut String) {
        table("[[allow]]", text);
        key("name", quoted(&self.name), text);
        key("from", array(&self.from), text);
        key("to", array(&self.to), text);
        match &self.service {
            Service::Echo => key("protocol", array(&["icmp"]), text),
            Service::Ports { protocols: transports, ports } => {
                key("protocol", protocols(*transports), text);
                key("ports", array(ports), text);
            }
        }
        if self.masquerade {
            key("source", quoted("masquerade"), text);
        }
    }
}

impl Origin {
    fn text(&self, lists: &[List]) -> String {
        let mut text =
            String::from("# Written by `gatewayctl import`; read its findings before you use it.\n");
        table("[interface]", &mut text);
        key("address", array(&self.address), &mut text);
        key("private_key_file", quoted(&self.key_file), &mut text);
        mtu(self.mtu, &mut text);
        for peer in &self.peers {
            table("[[peer]]", &mut text);
            key("name", quoted(&peer.name), &mut text);
            key("public_key", quoted(&peer.public_key), &mut text);
            peer.preshared_key_file
                .iter()
                .for_each(|file| key("preshared_key_file", quoted(file), &mut text));
            key("endpoint", quoted(&peer.endpoint), &mut text);
            key("allowed_ips", array(&peer.allowed_ips), &mut text);
            peer.keepalive.iter().for_each(|s| key("keepalive", quoted(format!("{s}s")), &mut text));
            if let Some((address, key_file)) = &peer.own {
                key("address", array(address), &mut text);
                key("private_key_file", quoted(key_file), &mut text);
            }
        }
        list_tables(self.services.iter().flat_map(|service| &service.allow), lists, &mut text);
        self.services.iter().for_each(|service| service.write(&mut text));
        self.reach.iter().for_each(|reach| reach.write(&mut text));
        text
    }
}

impl OriginService {
    fn write(&self, text: &mut String) {
        table("[[service]]", text);
        key("name", quoted(&self.name), text);
        key("protocol", protocols(self.protocols), text);
        key("match", quoted(with_ports(self.address, self.ports)), text);
        key("upstream", quoted(&self.upstream), text);
        if self.proxy_protocol {
            key("proxy_protocol", quoted("v2"), text);
        }
        key("peer", array(&[&self.peer]), text);
        if !self.allow.is_empty() {
            key("allow", array(&self.allow), text);
        }
    }
}

impl Reach {
    fn write(&self, text: &mut String) {
        table("[[reach]]", text);
        key("name", quoted(&self.name), text);
        key("protocol", protocols(self.protocols), text);
        key("listen", quoted(self.listen), text);
        key("target", quoted(self.target), text);
        key("peer", quoted(&self.peer), text);
        if self.privileged {
            key("source_port", quoted("privileged"), text);
        }
    }
}

/// A prefix as the configurations write it: a single address without its length.
pub(super) fn shortest(prefix: IpNetwork) -> String {
    prefix::host(prefix).map_or_else(|| prefix.to_string(), |host| host.to_string())
}

/// `192.168.88.2:443`, `[fd00::2]:5000-5010`.
pub(super) fn with_ports(address: IpAddr, ports: PortRange) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{ports}"),
        IpAddr::V6(address) => format!("[{address}]:{ports}"),
    }
}

/// The `[[list]]` entries of lists that are used.
fn list_tables<'a>(used: impl Iterator<Item = &'a String>, lists: &[List], text: &mut String) {
    let used: BTreeSet<&str> = used.filter_map(|item| item.strip_prefix('@')).collect();
    for list in lists.iter().filter(|list| used.contains(list.name.as_str())) {
        table("[[list]]", text);
        key("name", quoted(&list.name), text);
        key("file", quoted(list.file_name()), text);
    }
}

fn table(title: &str, text: &mut String) {
    let _ = writeln!(text, "\n{title}");
}

fn key(key: &str, value: impl std::fmt::Display, text: &mut String) {
    let _ = writeln!(text, "{key} = {value}");
}

fn mtu(mtu: Option<u16>, text: &mut String) {
    mtu.iter().for_each(|mtu| key("mtu", mtu, text));
}

fn quoted(value: impl ToString) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn array<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

fn protocols(protocols: Protocols) -> String {
    array(&protocols.iter().collect::<Vec<_>>())
}

/// Names that have been given, each once.
#[derive(Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// A safe and unique name near to `wanted`; `otherwise` when nothing of it is left.
    pub(super) fn claim(&mut self, wanted: &str, otherwise: &str) -> String {
        let base = plain_name(wanted).unwrap_or_else(|| otherwise.to_owned());
        let numbered = (2..).map(|number: u32| format!("{base}-{number}"));
        let free = std::iter::once(base.clone()).chain(numbered).find(|name| !self.0.contains(name));
        let name = free.unwrap_or(base);
        self.0.insert(name.clone());
        name
    }
}

/// Lower case, other signs as one `-`, at most 24 characters; `None` when no letter or digit is
/// left.
pub(super) fn plain_name(wanted: &str) -> Option<String> {
    let mut name = String::new();
    for character in wanted.chars() {
        if character.is_ascii_alphanumeric() {
            name.push(character.to_ascii_lowercase());
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        if name.len() >= 24 {
            break;
        }
    }
    let name = name.trim_end_matches('-');
    Name::new(name).map(|name| name.to_string())
}

/// A prefix that holds every address of its family.
pub(super) fn is_everyone(prefix: IpNetwork) -> bool {
    prefix.prefix() == 0
}

/// The prefixes of both address families that hold every address.
pub(super) fn everywhere() -> Vec<IpNetwork> {
    ["0.0.0.0/0", "::/0"].iter().filter_map(|text| text.parse().ok()).collect()
}

/// A key file with this content.
pub(super) fn key_file(name: &str, key: &str) -> KeyFile {
    KeyFile { name: name.to_owned(), text: Zeroizing::new(format!("{key}\n")) }
}

/// A name out of a file's name.
pub(super) fn stem(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    plain_name(&stem).unwrap_or_else(|| "edge".to_owned())
}
