//! `[[publish]]`: public ports.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::fields::{self, At, or_absent};
use crate::gateway::entries::PublishAt;
use crate::gateway::model::{Limits, Publish, SourceHandling};
use crate::names::Names;
use crate::reader::{Table, Value};
use crate::sections::allow_list;
use crate::{AllowList, PortRange, address, text};

/// One `[[publish]]`.
pub(super) fn publish(
    table: &Table<'_>,
    names: &mut Names,
    lists: &Names,
    tunnel: &[IpNetwork],
) -> Option<PublishAt> {
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
    let expected = "a port, a range \"5000-5010\", \"ADDRESS:PORT\", or \"wan:PORT\" for the WAN side only";
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

/// `source`, which `[[publish]]` and `[[allow]]` have.
pub(super) fn source(table: &Table<'_>) -> Option<At<SourceHandling>> {
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
