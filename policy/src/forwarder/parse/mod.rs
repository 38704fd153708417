//! From the text of `forwarder.toml` to a policy: sections and entries, then what holds between
//! them.

mod limits;
mod publish;
mod reach;
mod service;

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use self::limits::limits;
use self::reach::reach;
use self::service::service;
use super::caddy::caddy;
use super::check;
use super::entries::{PeerAt, ReachAt};
use super::model::{Control, Interface, Peer, Policy, Service};
use super::steer::{public_address, steer};
use crate::fields::{self, At, Probe, or_absent, probe};
use crate::names::Names;
use crate::reader::{Reader, Table};
use crate::sections::{self, Daemon, Shared};
use crate::{ConfigError, Problem, Source, text};

/// The keepalive towards an edge, unless the file says otherwise: below the 30 s after which
/// carriers forget.
const KEEPALIVE: Duration = Duration::from_secs(25);

/// Reads and validates the text of `forwarder.toml`.
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
    let mut peer_names = Names::of(root, "peer");
    let mut list_names = Names::of(root, "list");
    let lists: Vec<_> =
        root.tables("list", "[[list]]").iter().map(|table| sections::list(table, &mut list_names)).collect();
    let mut service_names = Names::new("service");
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
    let known: Vec<&Peer> = peers.iter().flatten().map(|peer| &peer.value).collect();
    // `[[inject]]` is the name that it had.
    let mut entries = root.tables("service", "[[service]]");
    entries.extend(root.tables("inject", "[[inject]]"));
    let services: Vec<Option<At<Service>>> = entries
        .iter()
        .map(|table| service(table, &mut service_names, (&peer_names, &list_names), &known))
        .collect();
    let reach: Vec<Option<ReachAt>> = root
        .tables("reach", "[[reach]]")
        .iter()
        .map(|table| reach(table, &mut reach_names, &peer_names, &tunnel))
        .collect();
    let shared = Shared::read(root, Daemon::Forwarder);
    let limits = limits(root);
    let caddy = caddy(root);
    let steer = steer(root, &known, known.len() == peers.len());
    root.close();

    let interface = interface?;
    let peers: Vec<PeerAt> = peers.into_iter().flatten().collect();
    let services: Vec<At<Service>> = services.into_iter().flatten().collect();
    let reach: Vec<ReachAt> = reach.into_iter().flatten().collect();
    check::everything(reader, &interface, &peers, &services, &reach, &shared.pages());
    let link = shared.link?;
    check::link_port(reader, link, &peers, &reach);
    Some(Policy {
        interface: interface.value,
        peers: peers.into_iter().map(|peer| peer.value).collect(),
        services: check::most_specific_first(services.into_iter().map(|service| service.value).collect()),
        reach: reach.into_iter().map(|reach| reach.value).collect(),
        lists: lists.into_iter().collect::<Option<_>>()?,
        notify: shared.notify?,
        metrics: shared.metrics,
        page: shared.page,
        control: Control { socket: shared.control?.socket },
        link,
        limits,
        state_directory: shared.state_directory?,
        log: shared.log?,
        offload: shared.offload,
        caddy: caddy?,
        steer: steer?,
        warnings: Vec::new(),
    })
}

/// The interface, and the place of its MTU.
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
    let next_public_key = table.optional("next_public_key").map(fields::public_key);
    let preshared_key_file = table.optional("preshared_key_file").map(fields::file);
    let endpoint = table
        .required("endpoint")
        .and_then(|value| value.parse("host:port, such as \"kyiv.example.com:51820\"", text::host_port));
    let public_address = public_address(table.optional("public_address"), endpoint.as_ref());
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
    let next_public_key = or_absent(next_public_key)?;
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
        next_public_key: next_public_key.as_ref().map(|key| key.value),
        preshared_key_file: or_absent(preshared_key_file)?,
        endpoint: endpoint?,
        public_address: public_address?,
        allowed_ips,
        keepalive: keepalive?,
        probe: match probe? {
            Probe::Auto => other_end(&address),
            given @ (Probe::Off | Probe::Address(_)) => given.address(),
        },
        address,
        private_key_file,
    };
    Some(PeerAt { value, key_at: public_key.at, next_key_at: next_public_key.map(|key| key.at), prefixes })
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
