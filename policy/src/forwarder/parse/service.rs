//! `[[service]]`: what is matched, and where it is carried to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::publish::{self, Written};
use crate::fields::{self, At, or_absent};
use crate::forwarder::model::{Peer, ProxyProtocol, Publish, Service, publish_targets};
use crate::forwarder::upstream::{Check, Health, Upstream, UpstreamPort};
use crate::names::Names;
use crate::reader::{Table, Value};
use crate::sections::allow_list;
use crate::{AllowList, Host, Name, PortRange, Position, Problem, Protocol, Protocols, prefix, text};

/// One `[[service]]`.
pub(super) fn service(
    table: &Table<'_>,
    names: &mut Names,
    (peers, lists): (&Names, &Names),
    every: &[&Peer],
) -> Option<At<Service>> {
    let name = names.claim(table);
    let through = table.optional("peer").map_or_else(
        || Some(every.iter().map(|peer| peer.name.clone()).collect::<Vec<_>>()),
        |value| {
            let items = value.one_or_many();
            items.into_iter().map(|item| peers.peer(item, item.string()?)).collect::<Option<Vec<_>>>()
        },
    );
    let own = own_addresses(every, through.as_deref().unwrap_or_default());
    let Taken { protocols, addresses, ports, publish, at } = taken(table, &own);
    let visitors = table.optional("names").map(|value| publish::names(value, protocols));
    let visitor = match table.optional("visitor") {
        Some(value) if value.is_string("off") => Some(false),
        Some(value) => value.bad("\"off\", or leave the key out"),
        None => Some(true),
    };
    let upstreams = table.required("upstream").map(|value| {
        let one = |item| upstream(item, ports, protocols);
        value.one_or_many().into_iter().map(one).collect::<Option<Vec<_>>>()
    });
    let health = match table.optional("health") {
        Some(value) => health(value, protocols, ports),
        None => Some(can_be_checked(protocols, ports).then_some(Health::DEFAULT)),
    };
    let proxy_protocol = table.optional("proxy_protocol").map_or(Some(ProxyProtocol::Off), |value| {
        let proxy = proxy_protocol(value)?;
        if proxy != ProxyProtocol::Off && protocols.is_some_and(|protocols| protocols.contains(Protocol::Udp))
        {
            value.report(Problem::ProxyNeedsTcp);
        }
        Some(proxy)
    });
    let allow = table.optional("allow").map_or(Some(AllowList::Any), |value| allow_list(value, lists));
    table.close();
    let value = Service {
        name: name?,
        protocols: protocols?,
        addresses: addresses?,
        ports: ports?,
        publish: or_absent(publish)?,
        names: or_absent(visitors)?.unwrap_or_default(),
        visitor: visitor?,
        upstreams: upstreams?.filter(|upstreams| !upstreams.is_empty())?,
        health: health?,
        proxy_protocol: proxy_protocol?,
        peers: through?,
        allow: allow?,
    };
    Some(At::new(value, at?))
}

/// Which packets an entry takes, and what it publishes of that.
struct Taken {
    protocols: Option<Protocols>,
    addresses: Option<Vec<IpNetwork>>,
    ports: Option<PortRange>,
    /// `None` inside when there is a `publish` with an error.
    publish: Option<Option<Publish>>,
    at: Option<Position>,
}

/// Without a `match` an entry takes what it publishes, at these own addresses in the tunnel.
fn taken(table: &Table<'_>, own: &[IpNetwork]) -> Taken {
    let publish = table.optional("publish");
    let given = table.optional("protocol").is_some().then(|| fields::protocols(table));
    let written = publish.and_then(|value| Written::read(value, given.flatten()));
    let protocols = match (given, &written) {
        (Some(given), _) => given,
        (None, Some(written)) => Some(written.protocols()),
        (None, None) => Some(Protocols::Tcp),
    };
    let matched = if publish.is_some() { table.optional("match") } else { table.required("match") };
    let (addresses, ports) = match matched {
        Some(value) => destination(value).unzip(),
        None => written.as_ref().and_then(|written| Some((own.to_vec(), written.taken()?))).unzip(),
    };
    let requested = || published(written?, protocols?, ports?, (addresses.as_deref()?, own));
    let requested = publish.map(|_| requested());
    Taken { protocols, ports, publish: requested, at: matched.or(publish).map(Value::at), addresses }
}

/// `ADDRESS:PORT`; the address may be a prefix or `*`, the port a range or `*`.
fn destination(value: Value<'_>) -> Option<(Vec<IpNetwork>, PortRange)> {
    let expected = "ADDRESS:PORT, where the address may be a prefix or `*` and the port a range or `*`";
    let (address, ports) = value.parse(expected, |written| {
        let (address, ports) = text::split_port(written)?;
        let address = if address == "*" { None } else { Some(text::prefix(address)?) };
        let ports = if ports == "*" { PortRange::ALL } else { text::ports(ports)? };
        Some((address, ports))
    })?;
    let host_bits = address.filter(|&prefix| prefix::network(prefix) != prefix);
    if let Some(prefix) = host_bits {
        let network = prefix::network(prefix).to_string();
        value.report(Problem::HostBits { written: prefix.to_string(), network });
        return None;
    }
    Some((address.into_iter().collect(), ports))
}

/// The own addresses in the tunnels of these peers, each as a prefix of one address.
fn own_addresses(every: &[&Peer], through: &[Name]) -> Vec<IpNetwork> {
    let through = every.iter().filter(|peer| through.contains(&peer.name));
    let mut own: Vec<_> =
        through.flat_map(|peer| &peer.address).map(|address| IpNetwork::from(address.ip())).collect();
    own.sort_unstable();
    own.dedup();
    own
}

fn published(
    written: Written<'_>,
    protocols: Protocols,
    ports: PortRange,
    (addresses, own): (&[IpNetwork], &[IpNetwork]),
) -> Option<Publish> {
    if publish_targets(addresses, own).is_empty() {
        written.report_no_target();
        return None;
    }
    written.publish(protocols, ports)
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

/// The longest path of a Unix-domain socket that every system takes (`sun_path` of macOS less the
/// final zero).
const UNIX_PATH: usize = 103;

/// Whether a connection to the upstream says that it works: of several ports, none need be in use.
fn can_be_checked(protocols: Option<Protocols>, ports: Option<PortRange>) -> bool {
    protocols != Some(Protocols::Udp) && ports.is_none_or(|ports| ports.count() == 1)
}

/// `"off"`, or how upstreams are checked.
fn health(
    value: Value<'_>,
    protocols: Option<Protocols>,
    ports: Option<PortRange>,
) -> Option<Option<Health>> {
    if value.is_string("off") {
        return Some(None);
    }
    if !value.is_table() {
        return value.bad("\"off\", or a table such as { check = \"tcp\" }");
    }
    let table = value.table("health")?;
    if !can_be_checked(protocols, ports) {
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
    let every = fields::duration(&table, "every", Health::DEFAULT.every);
    let timeout = fields::duration(&table, "timeout", Health::DEFAULT.timeout);
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
    Some(Some(Health { check: check?, every, timeout, counts_dials: false }))
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
