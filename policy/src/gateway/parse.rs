//! From the text of `gateway.toml` to a policy: sections and entries, then what holds between them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::check::{self, AllowAt, PeerAt, PublishAt};
use super::sides;
use super::{
    Allow, Control, Interface, InterfacePattern, Kernel, Limits, List, Metrics, Offload, Party, Peer, Policy,
    Publish, Service, SourceHandling, Target,
};
use crate::fields::{self, At, Names};
use crate::net::is_private;
use crate::reader::{Reader, Table, Value, excerpt};
use crate::{
    AllowList, ConfigError, InterfaceName, Name, PortRange, Problem, Protocols, Source, address, text,
};

/// Folder of the daemon's state, unless the file says otherwise.
const STATE_DIRECTORY: &str = "/var/lib/causeway";
/// The most peers one edge may have.
const MAX_PEERS: usize = 4_096;
/// The most publishes and allows together: their number must fit 16 bits of a conntrack mark.
const MAX_SERVICES: usize = 16_384;

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
    let wan = sides::wan(root);
    let (lan, lan_interfaces) = sides::lan(root);
    let tunnel = interface.as_ref().map_or(&[][..], |at| &at.value.address);
    let mut peer_names = Names::of(root, "peer");
    let mut list_names = Names::of(root, "list");
    let mut service_names = Names::new("publish or allow");
    let peers = peers(root, &mut peer_names, tunnel);
    check::peers(reader, &lan, &peers);
    let are_ends_known =
        reader.error_count() == 0 && peer_names.is_complete() && !root.is_misspelt("lan", &["wan"]);
    let lists: Vec<Option<List>> =
        root.tables("list", "[[list]]").iter().map(|table| list(table, &mut list_names)).collect();
    let publish: Vec<PublishAt> = bounded(root.tables("publish", "[[publish]]"), "publish", MAX_SERVICES)
        .iter()
        .filter_map(|table| publish(table, &mut service_names, &list_names, tunnel))
        .collect();
    let lan_prefixes: Vec<IpNetwork> = lan.iter().map(|prefix| prefix.value).collect();
    let own: Vec<IpAddr> = interface.iter().flat_map(|at| &at.value.address).map(IpNetwork::ip).collect();
    let known_peers: Vec<&Peer> = peers.iter().map(|peer| &peer.value).collect();
    let parties = Parties {
        peers: &known_peers,
        names: &peer_names,
        lan: &lan_prefixes,
        own: &own,
        are_known: are_ends_known,
    };
    let allow: Vec<AllowAt> = bounded(root.tables("allow", "[[allow]]"), "allow", MAX_SERVICES)
        .iter()
        .filter_map(|table| allow(table, &mut service_names, &parties))
        .collect();
    let (metrics, hosts) = fields::metrics(root);
    let control = control(root);
    let state_directory = fields::state_directory(root);
    let log = fields::log(root);
    let offload = offload(root);
    let kernel = kernel(root);
    let container_interfaces = containers(root);
    let watch = watch(root);
    root.close();

    let (interface, (wan, wan_interfaces, accept_at)) = (interface?, wan?);
    sides::own_interfaces(reader, [&wan_interfaces, &lan_interfaces], &interface.value.name);
    let mut policy = Policy {
        interface: interface.value,
        wan,
        lan: lan_prefixes,
        lan_interfaces: lan_interfaces.iter().map(|interface| interface.value.clone()).collect(),
        peers: Vec::new(),
        publish: Vec::new(),
        allow: Vec::new(),
        lists: lists.into_iter().collect::<Option<_>>()?,
        metrics: Metrics { listen: metrics.into_iter().map(|listen| listen.value).collect(), hosts },
        control: control?,
        state_directory: state_directory?.unwrap_or_else(|| STATE_DIRECTORY.into()),
        log: log?,
        offload,
        kernel,
        container_interfaces,
        watch,
        warnings: Vec::new(),
    };
    check::everything(
        reader,
        &mut policy,
        &check::Places { mtu: interface.at, accept: accept_at, are_ends_known },
        peers,
        publish,
        allow,
    );
    Some(policy)
}

fn peers(root: &Table<'_>, names: &mut Names, tunnel: &[IpNetwork]) -> Vec<PeerAt> {
    let tables = bounded(root.tables("peer", "[[peer]]"), "peer", MAX_PEERS);
    tables.iter().filter_map(|table| peer(table, names, tunnel)).collect()
}

fn bounded<'r>(mut tables: Vec<Table<'r>>, what: &'static str, limit: usize) -> Vec<Table<'r>> {
    if let Some(table) = tables.get(limit) {
        table.report(Problem::TooMany { what, limit });
        tables.truncate(limit);
    }
    tables
}

/// The interface, and where its MTU stands.
fn interface(table: &Table<'_>) -> Option<At<Interface>> {
    let name = table.optional("name").map_or_else(|| InterfaceName::new("gw0"), fields::interface_name);
    let address = table.required("address").and_then(fields::own_addresses);
    let listen_port = table.optional("listen_port").map_or(Some(51_820), fields::port);
    let private_key_file = table.required("private_key_file").and_then(fields::file);
    let mtu = fields::mtu(table);
    table.close();
    let mtu = mtu?;
    let interface = Interface {
        name: name?,
        address: address?,
        listen_port: listen_port?,
        private_key_file: private_key_file?,
        mtu: mtu.value,
    };
    Some(At::new(interface, mtu.at))
}

fn peer(table: &Table<'_>, names: &mut Names, tunnel: &[IpNetwork]) -> Option<PeerAt> {
    let name = names.claim(table);
    let public_key = table.required("public_key").and_then(fields::public_key);
    let preshared_key_file = table.optional("preshared_key_file").map(fields::file);
    let allowed_ips = table.required("allowed_ips").map(|value| fields::peer_prefixes(value, tunnel));
    let endpoint = table
        .optional("endpoint")
        .map(|value| value.parse("host:port, such as \"origin.example.com:51820\"", text::host_port));
    let keepalive = table.optional("keepalive").map(fields::keepalive);
    let probe = table.optional("probe").map(|value| probe(value, tunnel));
    table.close();
    let (public_key, allowed_ips) = (public_key?, allowed_ips?);
    let value = Peer {
        name: name?,
        public_key: public_key.value,
        preshared_key_file: or_absent(preshared_key_file)?,
        allowed_ips: allowed_ips.iter().map(|prefix| prefix.value).collect(),
        endpoint: or_absent(endpoint)?,
        keepalive: or_absent(keepalive)?.flatten(),
        probe: or_absent(probe)?.unwrap_or(Probe::Auto).address(),
    };
    let auto_probe = probe.flatten().is_none_or(|probe| matches!(probe, Probe::Auto));
    let prefixes_at = allowed_ips.into_iter().map(|prefix| prefix.at).collect();
    Some(PeerAt { value, key_at: public_key.at, prefixes_at, auto_probe })
}

/// An absent key is `Some(None)`; a bad value, which has been reported, is `None`.
#[allow(
    clippy::option_option,
    reason = "absent and bad are two answers; naming them would hide that neither is a value"
)]
pub(crate) fn or_absent<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(None) => None,
        Some(Some(value)) => Some(Some(value)),
        None => Some(None),
    }
}

/// What `probe` says.
#[derive(Clone, Copy)]
pub(crate) enum Probe {
    Auto,
    Off,
    Address(IpAddr),
}

impl Probe {
    pub(crate) const fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::Auto | Self::Off => None,
        }
    }
}

/// What `probe` says, in a tunnel of these networks.
pub(crate) fn probe(value: Value<'_>, tunnel: &[IpNetwork]) -> Option<Probe> {
    let probe =
        value.parse("an address inside the tunnel, \"auto\" or \"off\"", |written| match written {
            "auto" => Some(Probe::Auto),
            "off" => Some(Probe::Off),
            address => text::address(address).map(Probe::Address),
        })?;
    let problem = probe.address().and_then(|address| address::unusable(address, tunnel));
    fields::sound(value, probe, problem)
}

pub(crate) fn list(table: &Table<'_>, names: &mut Names) -> Option<List> {
    let name = names.claim(table);
    let file = table.required("file").and_then(fields::file);
    let urls = table.optional("url").map(Value::one_or_many).unwrap_or_default();
    let urls =
        urls.into_iter().filter_map(|item| item.parse("an https:// address", text::fetchable)).collect();
    table.close();
    Some(List { name: name?, file: file?, urls, prefixes: Vec::new() })
}

fn publish(table: &Table<'_>, names: &mut Names, lists: &Names, tunnel: &[IpNetwork]) -> Option<PublishAt> {
    let name = names.claim(table);
    let protocols = fields::protocols(table);
    let listen = table.required("listen").and_then(|value| Some(At::new(listen(value)?, value.at())));
    let targets: Option<Vec<_>> = table.required("target").map(|value| {
        let read = |item| Some(At::new(target(item, tunnel)?, item.at()));
        value.one_or_many().into_iter().filter_map(read).collect()
    });
    let source = source(table);
    let allow = table.optional("allow").map_or(Some(AllowList::Any), |value| allow_list(value, lists));
    let limits =
        table.optional("limits").map_or(Some(Limits::default()), |value| limits(value, allow.as_ref()));
    table.close();
    let (listen, targets, source) = (listen?, targets?, source?);
    let value = Publish {
        name: name?,
        protocols: protocols?,
        address: listen.value.address,
        ports: listen.value.ports,
        wan_only: listen.value.wan_only,
        targets: Vec::new(),
        source: source.value,
        allow: allow?,
        limits: limits?,
    };
    Some(PublishAt { value, listen_at: listen.at, source_at: source.at, targets })
}

/// What `listen` says.
struct Listen {
    address: Option<IpAddr>,
    ports: PortRange,
    wan_only: bool,
}

fn listen(value: Value<'_>) -> Option<Listen> {
    let expected = "a port, a range \"5000-5010\", \"ADDRESS:PORT\", or \"wan:PORT\" for the WAN side alone";
    value.parse_number(expected, |written| {
        let (wan_only, ports) = match written.strip_prefix("wan:") {
            Some(ports) => (true, ports),
            None => (false, written),
        };
        if let Some(ports) = text::ports(ports) {
            return Some(Listen { address: None, ports, wan_only });
        }
        let (address, ports) = text::address_ports(written)?;
        let is_one = !address.is_unspecified() && !address.is_multicast();
        is_one.then_some(Listen { address: Some(address), ports, wan_only })
    })
}

fn target(value: Value<'_>, tunnel: &[IpNetwork]) -> Option<(IpAddr, PortRange)> {
    let expected = "an address and a port or range, such as \"192.168.88.2:443\" or \"[fd00::2]:5000-5010\"";
    let target = value.parse(expected, text::address_ports)?;
    fields::sound(value, target, address::unusable(target.0, tunnel))
}

fn source(table: &Table<'_>) -> Option<At<SourceHandling>> {
    let Some(value) = table.optional("source") else {
        return Some(At::new(SourceHandling::Preserve, table.at()));
    };
    let handling = value.parse("\"preserve\" or \"masquerade\"", |written| match written {
        "preserve" => Some(SourceHandling::Preserve),
        "masquerade" => Some(SourceHandling::Masquerade),
        _ => None,
    });
    Some(At::new(handling?, value.at()))
}

/// Prefixes and `@NAME`s; both whole address families together are [`AllowList::Any`].
pub(crate) fn allow_list(value: Value<'_>, lists: &Names) -> Option<AllowList> {
    let (mut prefixes, mut named) = (Vec::new(), Vec::new());
    for item in value.one_or_many() {
        let written = item.string()?;
        match written.strip_prefix('@') {
            Some(name) => named.push(known_list(item, name, lists)?),
            None => prefixes.push(fields::prefix(item)?.value),
        }
    }
    let whole = |v4: bool| prefixes.iter().any(|prefix| prefix.prefix() == 0 && prefix.is_ipv4() == v4);
    Some(if whole(true) && whole(false) {
        AllowList::Any
    } else {
        AllowList::Only { prefixes, lists: named }
    })
}

fn known_list(value: Value<'_>, written: &str, lists: &Names) -> Option<Name> {
    let known = lists.contains(written);
    if known.is_none() && lists.is_complete() {
        let (nearest, known) = lists.suggestions(written);
        value.report(Problem::UnknownList { name: excerpt(written), nearest, known });
    }
    known
}

fn limits(value: Value<'_>, allow: Option<&AllowList>) -> Option<Limits> {
    let table = value.table("limits")?;
    let new_per_source = table.optional("new_per_source").map(|value| {
        value.parse("a rate such as \"50/second\", or \"0\" for no limit", |written| match written {
            "0" => Some(None),
            rate => text::rate(rate).map(Some),
        })
    });
    let flows_per_source = table.optional("flows_per_source").map(|value| value.integer(0..=1_000_000));
    let bandwidth = table.optional("bandwidth").map(|value| {
        value.parse_number(
            "a bandwidth such as \"100mbit\" or \"10mbyte\", or \"0\" for no limit",
            |written| match written {
                "0" => Some(None),
                bandwidth => text::bandwidth(bandwidth).map(Some),
            },
        )
    });
    table.close();
    let limits = Limits {
        new_per_source: or_absent(new_per_source)?.flatten(),
        flows_per_source: or_absent(flows_per_source)?
            .and_then(|count| u32::try_from(count).ok())
            .filter(|&n| n > 0),
        bandwidth: or_absent(bandwidth)?.flatten(),
    };
    let per_source = limits.new_per_source.is_some() || limits.flows_per_source.is_some();
    if let Some(AllowList::Only { lists, .. }) = allow.filter(|_| per_source)
        && let Some(list) = lists.first()
    {
        value.warn(format!(
            "a limit per source behind @{list} throttles the proxy, not its clients; remove new_per_source and \
             flows_per_source if @{list} is a list of proxies"
        ));
    }
    Some(limits)
}

/// Who can be named at either end of a private flow.
struct Parties<'a> {
    peers: &'a [&'a Peer],
    names: &'a Names,
    lan: &'a [IpNetwork],
    own: &'a [IpAddr],
    /// Whether nothing of these was in error: else whoever is not among them is not called unknown.
    are_known: bool,
}

fn allow(table: &Table<'_>, names: &mut Names, parties: &Parties<'_>) -> Option<AllowAt> {
    let name = names.claim(table);
    let from = table.required("from").map(|value| parties.read(value, false));
    let to = table.required("to").map(|value| parties.read(value, true));
    let service = service(table);
    let source = source(table);
    table.close();
    let (from, to, source) = (from??, to??, source?);
    let value = Allow {
        name: name?,
        from: from.iter().map(|party| party.value.clone()).collect(),
        to: to.iter().map(|party| party.value.clone()).collect(),
        service: service?.value,
        source: source.value,
    };
    Some(AllowAt { value, at: table.at(), from, to, source_at: source.at })
}

/// `protocol` and `ports`; `protocol = ["icmp"]` alone is an echo request and has no ports.
fn service(table: &Table<'_>) -> Option<At<Service>> {
    let protocol = table.optional("protocol");
    let echo = protocol.is_some_and(|value| {
        value.is_string("icmp") || matches!(value.peek().as_slice(), [only] if only.is_string("icmp"))
    });
    if echo {
        let ports = table.optional("ports");
        if let Some(value) = ports {
            return value.bad("nothing: ICMP has no ports");
        }
        return Some(At::new(Service::Echo, table.at()));
    }
    let protocols: Option<Protocols> = fields::protocols(table);
    // Where the protocol cannot be read it may have been one without ports.
    let is_known = protocols.is_some() && !table.is_misspelt("protocol", &[]);
    let value = if is_known { table.required("ports")? } else { table.optional("ports")? };
    let expected = "a port or a range, such as \"2049\" or \"5000-5010\"";
    let items = value.one_or_many();
    let read: Option<Vec<PortRange>> =
        items.into_iter().map(|item| item.parse_number(expected, text::ports)).collect();
    let ports = merged(read.filter(|ports| !ports.is_empty())?);
    Some(At::new(Service::Ports { protocols: protocols?, ports }, value.at()))
}

/// Sorted, and joined where they touch or overlap.
pub(crate) fn merged(mut ports: Vec<PortRange>) -> Vec<PortRange> {
    ports.sort_unstable();
    let mut joined: Vec<PortRange> = Vec::new();
    for range in ports {
        match joined.last_mut() {
            Some(last) if u32::from(range.first()) <= u32::from(last.last()) + 1 => {
                *last = PortRange::new(last.first(), last.last().max(range.last())).unwrap_or(*last);
            }
            _ => joined.push(range),
        }
    }
    joined
}

impl Parties<'_> {
    fn read(&self, value: Value<'_>, target: bool) -> Option<Vec<At<Party>>> {
        let items = value.one_or_many();
        let parties: Vec<Option<At<Party>>> =
            items.into_iter().map(|item| Some(At::new(self.party(item, target)?, item.at()))).collect();
        parties.into_iter().collect::<Option<Vec<_>>>().filter(|parties| !parties.is_empty())
    }

    fn party(&self, value: Value<'_>, target: bool) -> Option<Party> {
        let written = value.string()?;
        if written == "self" {
            return Some(Party::Edge);
        }
        if let Some(name) = written.strip_prefix("peer:") {
            return self.names.peer(value, name).map(Party::Peer);
        }
        if text::prefix(written).is_none() {
            return value.bad("\"self\", \"peer:NAME\", or an address or prefix");
        }
        let prefix = fields::prefix(value)?.value;
        let party = self.addressed(prefix, target);
        if party.is_none() && self.are_known {
            let written = prefix.to_string();
            value.report(match is_private(prefix) {
                true => Problem::UnknownParty { written },
                false => Problem::OutsideParty { written },
            });
        }
        party
    }

    fn addressed(&self, prefix: IpNetwork, target: bool) -> Option<Party> {
        let own = self.own.iter().any(|&own| IpNetwork::from(own) == prefix);
        if own || self.lan.iter().any(|&lan| covers(lan, prefix)) {
            return Some(Party::Lan(prefix));
        }
        let peer = check::owner(self.peers.iter().copied(), prefix).filter(|_| target)?;
        Some(Party::Behind { prefix, peer })
    }
}

/// Whether every address of `inner` is in `outer`.
pub(crate) fn covers(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

fn control(root: &Table<'_>) -> Option<Control> {
    let table = root.table("control", "[control]");
    let field = |key| table.as_ref().and_then(|table| table.optional(key));
    let socket =
        field("socket").map_or_else(|| Some("/run/causeway/gateway.sock".into()), fields::socket_path);
    let group = field("group").map_or_else(
        || Some("causeway".to_owned()),
        |value| {
            value.parse("a group name of at most 32 letters, digits, `-`, `_` and `.`", |written| {
                Name::new(written).map(|name| name.to_string())
            })
        },
    );
    table.iter().for_each(Table::close);
    Some(Control { socket: socket?, group: group? })
}

fn offload(root: &Table<'_>) -> Offload {
    let table = root.table("offload", "[offload]");
    let switch = |key| fields::switch(table.as_ref(), key);
    let offload = Offload {
        tun_gso: switch("tun_gso"),
        tun_gro: switch("tun_gro"),
        udp_gso: switch("udp_gso"),
        udp_gro: switch("udp_gro"),
        busy_poll: switch("busy_poll"),
    };
    table.iter().for_each(Table::close);
    offload
}

fn kernel(root: &Table<'_>) -> Kernel {
    let table = root.table("kernel", "[kernel]");
    let number = |key, range: std::ops::RangeInclusive<u64>, default: u32| {
        let value = table.as_ref().and_then(|table| table.optional(key));
        value
            .and_then(|value| value.integer(range))
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(default)
    };
    let default = Kernel::default();
    let kernel = Kernel {
        fwmark: number("fwmark", 1..=0xffff_ffef, default.fwmark),
        ct_mark: number("ct_mark", 0x1_0000..=0xffff_0000, default.ct_mark),
        route_table: number("route_table", 1..=0xffff_ffef, default.route_table),
        rule_priority: number("rule_priority", 1..=32_763, default.rule_priority),
        route_protocol: u8::try_from(number("route_protocol", 5..=254, default.route_protocol.into()))
            .unwrap_or(default.route_protocol),
    };
    if let Some(table) = &table {
        if kernel.ct_mark & 0xffff != 0 {
            let with = "the numbers of services, which take its lower 16 bits";
            table.report(Problem::KernelNumberClash { key: "ct_mark", with });
        }
        if (237..=255).contains(&kernel.route_table) {
            let with = "a table of the system (253 default, 254 main, 255 local)";
            table.report(Problem::KernelNumberClash { key: "route_table", with });
        }
    }
    table.iter().for_each(Table::close);
    kernel
}

fn containers(root: &Table<'_>) -> Vec<InterfacePattern> {
    let table = root.table("containers", "[containers]");
    let value = table.as_ref().and_then(|table| table.optional("interfaces"));
    let expected = "an interface name, which may end in `*`";
    let patterns = match value {
        Some(value) => {
            let items = value.items("an array of interface names").into_iter();
            items.filter_map(|item| item.parse(expected, InterfacePattern::new)).collect()
        }
        None => ["docker0", "br-*", "podman*"].into_iter().filter_map(InterfacePattern::new).collect(),
    };
    table.iter().for_each(Table::close);
    patterns
}

fn watch(root: &Table<'_>) -> bool {
    let Some(table) = root.table("reload", "[reload]") else { return false };
    let watch = table.optional("watch").and_then(Value::boolean).unwrap_or(false);
    table.close();
    watch
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            fwmark: 0x4357,
            ct_mark: 0x4357_0000,
            route_table: 4357,
            rule_priority: 4357,
            route_protocol: 157,
        }
    }
}

pub(super) type TargetAt = At<(IpAddr, PortRange)>;

impl TargetAt {
    pub(super) fn resolved(&self, peer: Name) -> Target {
        Target { address: self.value.0, ports: self.value.1, peer }
    }
}
