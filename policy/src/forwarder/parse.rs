//! From the text of `forwarder.toml` to a policy: sections and entries, then what holds between them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::check;
use super::{
    Check, Control, Health, Inject, Interface, Limits, Metrics, Offload, OnDown, Peer, Policy, ProxyProtocol,
    Reach, SourcePort, Upstream, UpstreamPort,
};
use crate::fields::{self, At, Names};
use crate::gateway::parse::{Probe, allow_list, list, or_absent, probe};
use crate::reader::{Reader, Table, Value};
use crate::{
    AllowList, ConfigError, Host, Name, PortRange, Problem, Protocol, Protocols, Source, address, text,
};

/// The keepalive towards an edge, unless the file says otherwise: below the 30 s after which carriers forget.
const KEEPALIVE: Duration = Duration::from_secs(25);

pub(super) struct PeerAt {
    pub(super) value: Peer,
    pub(super) key_at: crate::Position,
    pub(super) prefixes: Vec<At<IpNetwork>>,
}

pub(super) fn parse(source: &Source<'_>) -> Result<Policy, Vec<ConfigError>> {
    let reader = Reader::new(source);
    let document = reader.document();
    let policy = document.as_ref().and_then(|document| read(&Table::root(&reader, document), &reader));
    let (mut policy, warnings) = reader.finish(policy)?;
    policy.warnings = warnings;
    Ok(policy)
}

/// Every section is read before any is missed, so that all errors are found.
fn read(root: &Table<'_>, reader: &Reader<'_>) -> Option<Policy> {
    let interface = root.required("interface").and_then(|value| interface(&value.table("[interface]")?));
    let mut peer_names = Names::of(root, "peer");
    let mut list_names = Names::of(root, "list");
    let lists: Vec<_> =
        root.tables("list", "[[list]]").iter().map(|table| list(table, &mut list_names)).collect();
    let mut inject_names = Names::new("inject");
    let mut reach_names = Names::new("reach");
    let peers: Vec<Option<PeerAt>> = root
        .tables("peer", "[[peer]]")
        .iter()
        .map(|table| peer(table, &mut peer_names, interface.as_ref().map(|at| &at.value)))
        .collect();
    if peers.is_empty() && peer_names.is_complete() {
        peer_names.set_incomplete();
        root.report(Problem::MissingKey { key: "[[peer]]", table: "the file".to_owned() });
    }
    let tunnel: Vec<IpNetwork> = peers.iter().flatten().flat_map(|peer| peer.value.address.clone()).collect();
    let known: Vec<Name> = peers.iter().flatten().map(|peer| peer.value.name.clone()).collect();
    let inject: Vec<Option<At<Inject>>> = root
        .tables("inject", "[[inject]]")
        .iter()
        .map(|table| inject(table, &mut inject_names, (&peer_names, &list_names), &known))
        .collect();
    let reach: Vec<Option<ReachAt>> = root
        .tables("reach", "[[reach]]")
        .iter()
        .map(|table| reach(table, &mut reach_names, &peer_names, &tunnel))
        .collect();
    let (metrics, hosts) = fields::metrics(root);
    let control = control(root);
    let limits = limits(root);
    let state_directory = fields::state_directory(root);
    let log = fields::log(root);
    let offload = offload(root);
    root.close();

    let interface = interface?;
    let peers: Vec<PeerAt> = peers.into_iter().flatten().collect();
    let inject: Vec<At<Inject>> = inject.into_iter().flatten().collect();
    let reach: Vec<ReachAt> = reach.into_iter().flatten().collect();
    check::everything(reader, &interface, &peers, &inject, &reach, &metrics);
    Some(Policy {
        interface: interface.value,
        peers: peers.into_iter().map(|peer| peer.value).collect(),
        inject: check::most_specific_first(inject.into_iter().map(|inject| inject.value).collect()),
        reach: reach.into_iter().map(|reach| reach.value).collect(),
        lists: lists.into_iter().collect::<Option<_>>()?,
        metrics: Metrics { listen: metrics.into_iter().map(|listen| listen.value).collect(), hosts },
        control: control?,
        limits,
        state_directory: state_directory?,
        log: log?,
        offload,
        warnings: Vec::new(),
    })
}

/// The interface, and where its MTU stands.
fn interface(table: &Table<'_>) -> Option<At<Interface>> {
    let address = table.required("address").and_then(fields::own_addresses);
    let private_key_file = table.required("private_key_file").and_then(fields::file);
    let mtu = fields::mtu(table);
    let listen_port = table.optional("listen_port").map(fields::port);
    table.close();
    let mtu = mtu?;
    let interface = Interface {
        address: address?,
        private_key_file: private_key_file?,
        mtu: mtu.value,
        listen_port: or_absent(listen_port)?,
    };
    Some(At::new(interface, mtu.at))
}

fn peer(table: &Table<'_>, names: &mut Names, interface: Option<&Interface>) -> Option<PeerAt> {
    let name = names.claim(table);
    let public_key = table.required("public_key").and_then(fields::public_key);
    let preshared_key_file = table.optional("preshared_key_file").map(fields::file);
    let endpoint = table
        .required("endpoint")
        .and_then(|value| value.parse("host:port, such as \"kyiv.example.com:51820\"", text::host_port));
    let address = match table.optional("address") {
        Some(value) => fields::own_addresses(value),
        None => interface.map(|interface| interface.address.clone()),
    };
    let tunnel = address.as_deref().unwrap_or_default();
    let prefixes = table.optional("allowed_ips").map(|value| fields::peer_prefixes(value, tunnel));
    let keepalive = table.optional("keepalive").map_or(Some(Some(KEEPALIVE)), fields::keepalive);
    let private_key_file = table.optional("private_key_file").map(fields::file);
    let probe = table.optional("probe").map_or(Some(Probe::Auto), |value| probe(value, tunnel));
    table.close();
    let (public_key, address) = (public_key?, address?);
    let private_key_file = or_absent(private_key_file)?
        .or_else(|| interface.map(|interface| interface.private_key_file.clone()))?;
    let prefixes = prefixes.unwrap_or_default();
    let everywhere = [IpAddr::from([0_u8; 4]), IpAddr::from([0_u8; 16])];
    let allowed_ips = if prefixes.is_empty() {
        everywhere.into_iter().filter_map(|address| IpNetwork::new(address, 0).ok()).collect()
    } else {
        prefixes.iter().map(|prefix| prefix.value).collect()
    };
    let value = Peer {
        name: name?,
        public_key: public_key.value,
        preshared_key_file: or_absent(preshared_key_file)?,
        endpoint: endpoint?,
        allowed_ips,
        keepalive: keepalive?,
        probe: match probe? {
            Probe::Auto => other_end(&address),
            given @ (Probe::Off | Probe::Address(_)) => given.address(),
        },
        address,
        private_key_file,
    };
    Some(PeerAt { value, key_at: public_key.at, prefixes })
}

/// The only other host of a /30, /31, /126 or /127 that holds one of our addresses.
fn other_end(own: &[IpNetwork]) -> Option<IpAddr> {
    own.iter().find_map(|network| {
        let bits: u8 = if network.is_ipv4() { 32 } else { 128 };
        match bits - network.prefix() {
            1 => Some(flipped(network.ip(), 0b01)),
            2 => Some(flipped(network.ip(), 0b11)).filter(|_| is_middle(*network)),
            _ => None,
        }
    })
}

fn flipped(address: IpAddr, mask: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() ^ u32::from(mask)).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() ^ u128::from(mask)).into()),
    }
}

/// Whether the address is neither the first nor the last of its network.
fn is_middle(network: IpNetwork) -> bool {
    network.ip() != network.network() && network.ip() != network.broadcast()
}

fn inject(
    table: &Table<'_>,
    names: &mut Names,
    (peers, lists): (&Names, &Names),
    every: &[Name],
) -> Option<At<Inject>> {
    let name = names.claim(table);
    let protocols = fields::protocols(table);
    let matched = table.required("match");
    let (address, ports) = matched.and_then(destination).unzip();
    let upstreams = table.required("upstream").map(|value| {
        let one = |item| upstream(item, ports, protocols);
        value.one_or_many().into_iter().map(one).collect::<Option<Vec<_>>>()
    });
    let health = table.optional("health").map(|value| health(value, protocols, ports));
    let proxy_protocol = table.optional("proxy_protocol").map_or(Some(ProxyProtocol::Off), |value| {
        let proxy = proxy_protocol(value)?;
        if proxy != ProxyProtocol::Off && protocols.is_some_and(|protocols| protocols.contains(Protocol::Udp))
        {
            value.report(Problem::ProxyNeedsTcp);
        }
        Some(proxy)
    });
    let through = table.optional("peer").map_or_else(
        || Some(every.to_vec()),
        |value| {
            let items = value.one_or_many();
            items.into_iter().map(|item| peers.peer(item, item.string()?)).collect::<Option<Vec<_>>>()
        },
    );
    let allow = table.optional("allow").map_or(Some(AllowList::Any), |value| allow_list(value, lists));
    table.close();
    let value = Inject {
        name: name?,
        protocols: protocols?,
        address: address?,
        ports: ports?,
        upstreams: upstreams?.filter(|upstreams| !upstreams.is_empty())?,
        health: or_absent(health)?,
        proxy_protocol: proxy_protocol?,
        peers: through?,
        allow: allow?,
    };
    Some(At::new(value, matched?.at()))
}

/// `ADDRESS:PORT`; the address may be a prefix or `*`, the port a range or `*`.
fn destination(value: Value<'_>) -> Option<(Option<IpNetwork>, PortRange)> {
    let expected = "ADDRESS:PORT, where the address may be a prefix or `*` and the port a range or `*`";
    let (address, ports) = value.parse(expected, |written| {
        let (address, ports) = text::split_port(written)?;
        let address = if address == "*" { None } else { Some(text::prefix(address)?) };
        let ports = if ports == "*" { PortRange::ALL } else { text::ports(ports)? };
        Some((address, ports))
    })?;
    let host_bits = address.filter(|&prefix| text::network(prefix) != prefix);
    if let Some(prefix) = host_bits {
        let network = text::network(prefix).to_string();
        value.report(Problem::HostBits { written: prefix.to_string(), network });
        return None;
    }
    Some((address, ports))
}

/// `HOST:PORT`, `HOST:FIRST-LAST`, `HOST:*` or `unix:/PATH`.
fn upstream(value: Value<'_>, matched: Option<PortRange>, protocols: Option<Protocols>) -> Option<Upstream> {
    if let Some(path) = value.string()?.strip_prefix("unix:") {
        if protocols.is_some_and(|protocols| protocols.contains(Protocol::Udp)) {
            value.report(Problem::UnixNeedsTcp);
        }
        // The kernel's limit, the final zero included.
        let fits = path.starts_with('/') && (2..=UNIX_PATH).contains(&path.len()) && !path.contains('\0');
        let path = fits.then(|| PathBuf::from(path));
        let expected = "unix: and an absolute path of at most 103 bytes, such as \"unix:/run/caddy.sock\"";
        return path.map(Upstream::Unix).or_else(|| value.bad(expected));
    }
    let expected = "HOST:PORT, such as \"127.0.0.1:8443\" or \"caddy:*\", or \"unix:/PATH\"";
    let (host, ports) = value.parse(expected, |written| {
        let (host, ports) = text::split_port(written)?;
        let ports = if ports == "*" { None } else { Some(text::ports(ports)?) };
        Some((text::host(host)?, ports))
    })?;
    let Some(ports) = ports else { return Some(Upstream::Network { host, port: UpstreamPort::Keep }) };
    if let Some(matched) = matched.filter(|matched| matched.count() != ports.count()) {
        value.report(Problem::RangeMismatch {
            here: ports.to_string(),
            here_count: ports.count(),
            there: matched.to_string(),
            there_count: matched.count(),
        });
    }
    Some(Upstream::Network { host, port: UpstreamPort::From(ports.first()) })
}

/// The longest path of a Unix-domain socket that every system takes (`sun_path` of macOS less the final zero).
const UNIX_PATH: usize = 103;
/// How often an upstream is asked, and for how long, unless the file says otherwise.
const HEALTH: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(2));

fn health(value: Value<'_>, protocols: Option<Protocols>, ports: Option<PortRange>) -> Option<Health> {
    let table = value.table("health")?;
    if protocols == Some(Protocols::Udp) || ports.is_some_and(|ports| ports.count() > 1) {
        value.report(Problem::HealthNeedsOnePort);
    }
    let kind = table.required("check").and_then(|value| {
        let known = ["tcp", "http", "tls"];
        value.parse("\"tcp\", \"http\" or \"tls\"", |written| known.into_iter().find(|kind| *kind == written))
    });
    let check = match kind {
        Some("http") => {
            let name = table.required("name").and_then(server_name);
            let path = table.optional("path").map_or(Some(Arc::from("/")), path);
            name.zip(path).map(|(name, path)| Check::Http { name, path })
        }
        Some("tls") => table.required("name").and_then(server_name).map(|name| Check::Tls { name }),
        Some(_) => Some(Check::Tcp),
        None => None,
    };
    let every = fields::duration(&table, "every", HEALTH.0);
    let timeout = fields::duration(&table, "timeout", HEALTH.1);
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(3600));
    for (key, duration) in [("every", every), ("timeout", timeout)] {
        if !(least..=most).contains(&duration)
            && let Some(value) = table.optional(key)
        {
            value.bad::<()>("a duration from \"100ms\" to \"1h\"");
        }
    }
    // A check that failed to read asked for keys that others have.
    if kind.is_some() {
        table.close();
    } else {
        table.report_missing();
    }
    Some(Health { check: check?, every, timeout })
}

fn server_name(value: Value<'_>) -> Option<Arc<str>> {
    value.parse("a name such as \"emby.example.com\"", |written| match text::host(written)? {
        Host::Name(name) => Some(name),
        Host::Address(_) => None,
    })
}

fn path(value: Value<'_>) -> Option<Arc<str>> {
    value.parse("a path such as \"/health\"", |written| {
        let printable = written.bytes().all(|byte| byte.is_ascii_graphic());
        (written.starts_with('/') && printable && written.len() <= 1_024).then(|| Arc::from(written))
    })
}

fn proxy_protocol(value: Value<'_>) -> Option<ProxyProtocol> {
    value.parse("\"v1\", \"v2\" or \"off\"", |written| match written {
        "off" => Some(ProxyProtocol::Off),
        "v1" => Some(ProxyProtocol::V1),
        "v2" => Some(ProxyProtocol::V2),
        _ => None,
    })
}

pub(super) struct ReachAt {
    pub(super) value: Reach,
    pub(super) listen_at: crate::Position,
    pub(super) target_at: crate::Position,
}

fn reach(table: &Table<'_>, names: &mut Names, peers: &Names, tunnel: &[IpNetwork]) -> Option<ReachAt> {
    let name = names.claim(table);
    let protocols: Option<Protocols> = fields::protocols(table);
    let listen =
        table.required("listen").and_then(|value| Some(At::new(fields::socket_address(value)?, value.at())));
    let target = table.required("target").and_then(|value| Some(At::new(target(value, tunnel)?, value.at())));
    let peer = match table.optional("peer") {
        Some(value) => value.string().and_then(|written| peers.peer(value, written)),
        None => {
            let only = peers.only();
            if only.is_none() && !peers.is_empty() {
                table.report(Problem::AmbiguousPeer);
            }
            only
        }
    };
    let source_port = table.optional("source_port").map_or(Some(SourcePort::Any), |value| {
        value.parse("\"any\" or \"privileged\"", |written| match written {
            "any" => Some(SourcePort::Any),
            "privileged" => Some(SourcePort::Privileged),
            _ => None,
        })
    });
    let on_down = table.optional("on_down").map_or(Some(OnDown::Refuse), |value| {
        value.parse("\"refuse\" or \"hold\"", |written| match written {
            "refuse" => Some(OnDown::Refuse),
            "hold" => Some(OnDown::Hold),
            _ => None,
        })
    });
    table.close();
    let (listen, target) = (listen?, target?);
    let value = Reach {
        name: name?,
        protocols: protocols?,
        listen: listen.value,
        target: target.value,
        peer: peer?,
        source_port: source_port?,
        on_down: on_down?,
    };
    Some(ReachAt { value, listen_at: listen.at, target_at: target.at })
}

fn target(value: Value<'_>, tunnel: &[IpNetwork]) -> Option<SocketAddr> {
    let target =
        value.parse("an address and a port beyond the tunnel, such as \"192.168.1.2:2049\"", |written| {
            let (address, ports) = text::address_ports(written)?;
            (ports.count() == 1).then_some(SocketAddr::new(address, ports.first()))
        })?;
    fields::sound(value, target, address::unusable(target.ip(), tunnel))
}

fn control(root: &Table<'_>) -> Option<Control> {
    let Some(table) = root.table("control", "[control]") else { return Some(Control { socket: None }) };
    let socket = table.optional("socket").map(fields::socket_path);
    table.close();
    Some(Control { socket: or_absent(socket)? })
}

fn limits(root: &Table<'_>) -> Limits {
    let default = Limits::default();
    let Some(table) = root.table("limits", "[limits]") else { return default };
    let count = |key, most: u64, default: u32| {
        let value = table.optional(key).and_then(|value| value.integer(1..=most));
        value.and_then(|count| u32::try_from(count).ok()).unwrap_or(default)
    };
    let limits = Limits {
        flows: count("flows", 1_000_000, default.flows),
        pending_dials: count("pending_dials", 100_000, default.pending_dials),
        flows_per_client: count("flows_per_client", 1_000_000, default.flows_per_client),
        pending_per_client: count("pending_per_client", 100_000, default.pending_per_client),
        udp_flows: count("udp_flows", 100_000, default.udp_flows),
        udp_flows_per_client: count("udp_flows_per_client", 100_000, default.udp_flows_per_client),
        udp_timeout: table.optional("udp_timeout").and_then(udp_timeout).unwrap_or(default.udp_timeout),
        buffer_bytes: table.optional("buffers").and_then(buffers).unwrap_or(default.buffer_bytes),
        dial_timeout: fields::duration(&table, "dial_timeout", default.dial_timeout),
        drain: fields::duration(&table, "drain", default.drain),
    };
    table.close();
    limits
}

/// RFC 4787 REQ-5: no mapping may end before it was silent for two minutes.
fn udp_timeout(value: Value<'_>) -> Option<Duration> {
    let bounds = Duration::from_secs(120)..=Duration::from_secs(24 * 3600);
    value.parse("a duration from \"2m\" to \"24h\"", |written| {
        text::duration(written).filter(|duration| bounds.contains(duration))
    })
}

fn buffers(value: Value<'_>) -> Option<u64> {
    let bounds = (1 << 20)..=(1 << 40);
    value.parse("a size from \"1MiB\" to \"1024GiB\"", |written| {
        text::bytes(written).filter(|bytes| bounds.contains(bytes))
    })
}

fn offload(root: &Table<'_>) -> Offload {
    let table = root.table("offload", "[offload]");
    let switch = |key| fields::switch(table.as_ref(), key);
    let offload =
        Offload { udp_gso: switch("udp_gso"), udp_gro: switch("udp_gro"), busy_poll: switch("busy_poll") };
    table.iter().for_each(Table::close);
    offload
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 16_384,
            pending_dials: 1_024,
            flows_per_client: 4_096,
            pending_per_client: 256,
            udp_flows: 4_096,
            udp_flows_per_client: 256,
            udp_timeout: Duration::from_secs(300),
            buffer_bytes: 256 << 20,
            dial_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(30),
        }
    }
}
