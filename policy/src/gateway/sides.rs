//! `[wan]` and `[lan]`: the two sides of the edge.

use ipnetwork::IpNetwork;

use super::entries::WanAt;
use super::model::{Accept, Wan};
use crate::fields::{self, At, or_absent};
use crate::prefix::{covers, is_default};
use crate::reader::{Reader, Table, Value};
use crate::{Host, InterfaceName, Problem, text};

pub(super) fn wan(root: &Table<'_>) -> Option<WanAt> {
    let Some(table) = root.table("wan", "[wan]") else {
        return Some((Wan::default(), Vec::new(), Vec::new()));
    };
    let interfaces =
        table.optional("interface").map_or(Some(Vec::new()), |value| interfaces(value.one_or_many()));
    let name = table.optional("name").map(public_name);
    let items = table.optional("accept").map_or(Vec::new(), |value| value.items("an array of strings"));
    let accept: Vec<At<Accept>> = items.into_iter().filter_map(accepted).collect();
    table.close();
    let interfaces = interfaces?;
    let wan = Wan {
        name: or_absent(name)?,
        interfaces: interfaces.iter().map(|interface| interface.value.clone()).collect(),
        accept: accept.iter().map(|accept| accept.value).collect(),
    };
    Some((wan, interfaces, accept))
}

/// The edge's public name or address.
pub(super) fn public_name(value: Value<'_>) -> Option<Host> {
    value.parse("a DNS name or an address without a port, such as \"kyiv.example.com\"", text::host)
}

pub(super) fn interfaces(items: Vec<Value<'_>>) -> Option<Vec<At<InterfaceName>>> {
    items.into_iter().map(|item| Some(At::new(fields::interface_name(item)?, item.at()))).collect()
}

/// The tunnel and loopback are neither the WAN nor the LAN.
pub(super) fn own_interfaces(reader: &Reader<'_>, named: [&[At<InterfaceName>]; 2], tunnel: &InterfaceName) {
    let is_own = |named: &&At<InterfaceName>| named.value == *tunnel || named.value.as_str() == "lo";
    for named in named.into_iter().flatten().filter(is_own) {
        reader.report_at(named.at.clone(), Problem::OwnInterface { name: named.value.to_string() });
    }
}

pub(super) fn accepted(value: Value<'_>) -> Option<At<Accept>> {
    let accept = value.parse("protocol/port, such as \"tcp/22\" or \"udp/60000-60010\"", |written| {
        let (protocols, ports) = written.split_once('/')?;
        Some(Accept { protocols: text::protocols(protocols)?, ports: text::ports(ports)? })
    })?;
    Some(At::new(accept, value.at()))
}

pub(super) fn lan(root: &Table<'_>) -> (Vec<At<IpNetwork>>, Vec<At<InterfaceName>>) {
    let Some(table) = root.table("lan", "[lan]") else { return (Vec::new(), Vec::new()) };
    let prefixes = table.required("prefixes").map_or(Vec::new(), |value| {
        value.items("an array of prefixes").into_iter().filter_map(lan_prefix).collect()
    });
    let named = table.optional("interfaces").and_then(|value| interfaces(value.one_or_many()));
    table.close();
    (prefixes, named.unwrap_or_default())
}

/// A prefix that a local network can have: neither everything, nor multicast, nor what every link
/// has of its own.
pub(super) fn lan_prefix(value: Value<'_>) -> Option<At<IpNetwork>> {
    let prefix = fields::prefix(value)?;
    let link_local = ["fe80::/10", "224.0.0.0/4", "ff00::/8"];
    let everywhere = link_local.iter().filter_map(|text| text.parse::<IpNetwork>().ok());
    let refused = everywhere.filter(|other| other.is_ipv4() == prefix.value.is_ipv4());
    let overlaps = |other: IpNetwork| covers(other, prefix.value) || covers(prefix.value, other);
    if is_default(prefix.value) || refused.into_iter().any(overlaps) {
        value.report(Problem::NoLanPrefix { prefix: prefix.value.to_string() });
        return None;
    }
    Some(prefix)
}
