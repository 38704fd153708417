//! From the text of `gateway.toml` to a policy: sections and entries, then what holds between them.

mod allow;
mod publish;
mod settings;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::check;
use super::dns::dns;
use super::entries::{AllowAt, InterfaceAt, MayPublishAt, PeerAt, Places, PublishAt};
use super::model::{Interface, Peer, Policy};
use super::sides;
use super::standby::{StandbyAt, standby};
use crate::fields::{self, At, Probe, or_absent, probe};
use crate::names::Names;
use crate::reader::{Reader, Table, Value};
use crate::sections::{self, Daemon, List, Shared};
use crate::{ConfigError, InterfaceName, Problem, PublicPorts, Source, text};

use allow::{Parties, allow};
use publish::publish;
use settings::{containers, control, kernel, watch};

/// Folder of the daemon's state, unless the file says otherwise.
const STATE_DIRECTORY: &str = "/var/lib/causeway";
/// The most peers one edge may have.
const MAX_PEERS: usize = 4_096;
/// The most publishes and allows together: their number must fit 16 bits of a conntrack mark.
const MAX_SERVICES: usize = 16_384;

/// Reads and validates the text of `gateway.toml`.
///
/// Files that it names are not opened: the daemon does, and reports what is wrong with them through
/// [`FileRef::error`](crate::FileRef::error).
///
/// # Errors
/// Every error in the text at once, in the order of the text; never an empty list.
pub fn parse(source: &Source<'_>) -> Result<Policy, Vec<ConfigError>> {
    let (policy, warnings) = Reader::read_file(source, read)?;
    Ok(Policy { warnings, ..policy })
}

/// Every section is read before an absent one ends this, so that all errors are found.
fn read(root: &Table<'_>, reader: &Reader<'_>) -> Option<Policy> {
    let interface = root.required("interface").and_then(|value| interface(&value.table("[interface]")?));
    let wan = sides::wan(root);
    let dns = dns(root, wan.as_ref().and_then(|(wan, ..)| wan.name.as_ref()));
    let (lan, lan_interfaces) = sides::lan(root);
    let entries = Entries::read(root, reader, interface.as_ref().map(|at| &at.value), &lan);
    let shared = Shared::read(root, Daemon::Gateway);
    let kernel = kernel(root);
    let standby = standby(root);
    let container_interfaces = containers(root);
    let watch = watch(root);
    root.close();

    let (interface, (wan, wan_interfaces, accept_at), standby) = (interface?, wan?, standby?);
    sides::own_interfaces(reader, [&wan_interfaces, &lan_interfaces], &interface.value.name);
    let mut policy = Policy {
        interface: interface.value,
        wan,
        lan: lan.iter().map(|prefix| prefix.value).collect(),
        lan_interfaces: lan_interfaces.iter().map(|interface| interface.value.clone()).collect(),
        peers: Vec::new(),
        publish: Vec::new(),
        allow: Vec::new(),
        lists: entries.lists.into_iter().collect::<Option<_>>()?,
        dns,
        notify: shared.notify?,
        metrics: shared.metrics,
        page: shared.page,
        control: control(shared.control?),
        link: shared.link?,
        standby: standby.as_ref().map(StandbyAt::value),
        state_directory: shared.state_directory?.unwrap_or_else(|| STATE_DIRECTORY.into()),
        log: shared.log?,
        offload: shared.offload,
        kernel,
        container_interfaces,
        watch,
        warnings: Vec::new(),
    };
    let places = Places {
        mtu: interface.mtu_at,
        accept: accept_at,
        metrics: shared.metrics_at,
        page: shared.page_at,
        tunnel_port: shared.link_at.unwrap_or(interface.listen_port_at),
        may_publish: entries.peers.iter().map(may_publish_at).collect(),
        standby,
        are_ends_known: entries.are_ends_known,
    };
    check::everything(reader, &mut policy, &places, entries.peers, entries.publish, entries.allow);
    Some(policy)
}

/// Peers, lists, services and private flows as they are read.
struct Entries {
    peers: Vec<PeerAt>,
    lists: Vec<Option<List>>,
    publish: Vec<PublishAt>,
    allow: Vec<AllowAt>,
    /// Whether interface, LAN and peers were read without an error.
    are_ends_known: bool,
}

impl Entries {
    fn read(
        root: &Table<'_>,
        reader: &Reader<'_>,
        interface: Option<&Interface>,
        lan: &[At<IpNetwork>],
    ) -> Self {
        let tunnel = interface.map_or(&[][..], |interface| &interface.address);
        let mut peer_names = Names::of(root, "peer");
        let mut list_names = Names::of(root, "list");
        let mut service_names = Names::new("publish or allow");
        let peers = peers(root, &mut peer_names, tunnel);
        check::peers(reader, lan, &peers);
        let are_ends_known =
            reader.error_count() == 0 && peer_names.is_complete() && !root.is_misspelt("lan", &["wan"]);
        let lists = root.tables("list", "[[list]]");
        let lists = lists.iter().map(|table| sections::list(table, &mut list_names)).collect();
        let publish = bounded(root.tables("publish", "[[publish]]"), "publish", MAX_SERVICES)
            .iter()
            .filter_map(|table| publish(table, &mut service_names, &list_names, tunnel))
            .collect();
        let lan: Vec<IpNetwork> = lan.iter().map(|prefix| prefix.value).collect();
        let own: Vec<IpAddr> = tunnel.iter().map(IpNetwork::ip).collect();
        let known: Vec<&Peer> = peers.iter().map(|peer| &peer.value).collect();
        let parties =
            Parties { peers: &known, names: &peer_names, lan: &lan, own: &own, are_known: are_ends_known };
        let allow = bounded(root.tables("allow", "[[allow]]"), "allow", MAX_SERVICES)
            .iter()
            .filter_map(|table| allow(table, &mut service_names, &parties))
            .collect();
        Self { peers, lists, publish, allow, are_ends_known }
    }
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

fn interface(table: &Table<'_>) -> Option<InterfaceAt> {
    let name = table.optional("name").map_or_else(|| InterfaceName::new("gw0"), fields::interface_name);
    let address = table.required("address").and_then(fields::own_addresses);
    let listen_port = table.optional("listen_port");
    let listen_port_at = listen_port.map_or_else(|| table.at(), |value| value.at());
    let listen_port = listen_port.map_or(Some(51_820), fields::port);
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
    Some(InterfaceAt { value: interface, mtu_at: mtu.at, listen_port_at })
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
    let may_publish = table.optional("may_publish").map(may_publish).unwrap_or_default();
    table.close();
    let (public_key, allowed_ips) = (public_key?, allowed_ips?);
    let kind = or_absent(probe)?.unwrap_or(Probe::Auto);
    let value = Peer {
        name: name?,
        public_key: public_key.value,
        preshared_key_file: or_absent(preshared_key_file)?,
        allowed_ips: allowed_ips.iter().map(|prefix| prefix.value).collect(),
        endpoint: or_absent(endpoint)?,
        keepalive: or_absent(keepalive)?.flatten(),
        may_publish: may_publish.iter().map(|entry| entry.value).collect(),
        probe: kind.address(),
        is_probed: !matches!(kind, Probe::Off),
    };
    let prefixes_at = allowed_ips.into_iter().map(|prefix| prefix.at).collect();
    Some(PeerAt { value, key_at: public_key.at, prefixes_at, may_publish })
}

fn may_publish(value: Value<'_>) -> Vec<At<PublicPorts>> {
    let read = |item: Value<'_>| Some(At::new(PublicPorts::read(item)?, item.at()));
    value.one_or_many().into_iter().filter_map(read).collect()
}

fn may_publish_at(peer: &PeerAt) -> MayPublishAt {
    MayPublishAt { peer: peer.value.name.clone(), entries: peer.may_publish.clone() }
}
