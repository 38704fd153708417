//! What a `[[service]]` requests of the edge, and what its visitors ask for: `publish` and `names`.

use std::sync::Arc;

use crate::forwarder::model::Publish;
use crate::reader::Value;
use crate::sections::far_allow_list;
use crate::{AllowList, Host, PortRange, Protocol, Protocols, PublicPorts, public_ports, text};

/// The most names of one service.
const MAX_NAMES: usize = 64;

/// `publish` as it is written.
pub(super) struct Written<'v> {
    value: Value<'v>,
    ports: Vec<Ports<'v>>,
    from: AllowList,
    /// The protocols of an entry that has none.
    default: Protocols,
}

/// One entry of it.
struct Ports<'v> {
    value: Value<'v>,
    range: PortRange,
    protocol: Option<Protocol>,
}

impl<'v> Written<'v> {
    /// A port, a list of them, or a table with `ports` and `from`; a port without a protocol has
    /// those of the service's `protocol`, or else TCP.
    pub(super) fn read(value: Value<'v>, protocols: Option<Protocols>) -> Option<Self> {
        let (ports, from) = if value.is_table() {
            let table = value.table("publish")?;
            let ports = table.required("ports").and_then(read_ports);
            let from = table.optional("from").map_or(Some(AllowList::Any), far_allow_list);
            table.close();
            (ports, from)
        } else {
            (read_ports(value), Some(AllowList::Any))
        };
        Some(Self { value, ports: ports?, from: from?, default: protocols.unwrap_or(Protocols::Tcp) })
    }

    /// The protocols of its entries.
    pub(super) fn protocols(&self) -> Protocols {
        let has = |wanted| {
            let is_wanted = |ports: &Ports<'_>| match ports.protocol {
                Some(protocol) => protocol == wanted,
                None => self.default.contains(wanted),
            };
            self.ports.iter().any(is_wanted)
        };
        match (has(Protocol::Tcp), has(Protocol::Udp)) {
            (true, true) => Protocols::Both,
            (false, true) => Protocols::Udp,
            (true | false, false) => Protocols::Tcp,
        }
    }

    /// The ports that a service without a `match` takes: the published ones.
    pub(super) fn taken(&self) -> Option<PortRange> {
        let first = self.ports.first()?.range;
        match self.ports.iter().find(|ports| ports.range != first) {
            Some(other) => other
                .value
                .bad("the same port as before it, as there is no `match`: write a [[service]] for each port"),
            None => Some(first),
        }
    }

    /// What is requested for a service with these protocols and ports.
    pub(super) fn publish(self, protocols: Protocols, taken: PortRange) -> Option<Publish> {
        let mut requested: Vec<PublicPorts> = Vec::new();
        for Ports { value, range, protocol } in self.ports {
            if range.count() != taken.count() {
                return value.bad("as many ports as `match` has");
            }
            if protocol.is_some_and(|protocol| !protocols.contains(protocol)) {
                return value.bad("ports of a protocol that `protocol` has");
            }
            let written = protocol.map_or(self.default, Protocols::from);
            for protocol in written.iter() {
                let ports = PublicPorts { protocol, ports: range };
                if requested.iter().any(|other| other.overlaps(ports)) {
                    return value.bad("each port once");
                }
                requested.push(ports);
            }
        }
        Some(Publish { ports: requested, from: self.from })
    }

    /// Reports that the edge could not know where to send what it opens.
    pub(super) fn report_no_target(&self) {
        self.value.bad::<()>(
            "a port of a service whose `match` has an own address in the tunnel, or a single address",
        );
    }
}

fn read_ports(value: Value<'_>) -> Option<Vec<Ports<'_>>> {
    let read = |item| {
        let (range, protocol) = public_ports::read(item)?;
        Some(Ports { value: item, range, protocol })
    };
    let ports: Vec<_> = value.one_or_many().into_iter().map(read).collect();
    ports.into_iter().collect::<Option<Vec<_>>>().filter(|ports| !ports.is_empty())
}

/// Host names, in lower case.
pub(super) fn names(value: Value<'_>, protocols: Option<Protocols>) -> Option<Vec<Arc<str>>> {
    if protocols == Some(Protocols::Udp) {
        return value.bad("no names, as they are asked for over TCP alone");
    }
    let mut names: Vec<Arc<str>> = Vec::new();
    for item in value.one_or_many() {
        let expected = "a host name, such as \"emby.example.com\"";
        let name = item.parse(expected, |written| match text::host(written)? {
            Host::Name(name) => Some(Arc::from(name.trim_end_matches('.').to_ascii_lowercase())),
            Host::Address(_) => None,
        })?;
        if names.contains(&name) {
            return item.bad("each name once");
        }
        if names.len() == MAX_NAMES {
            return item.bad("at most 64 names in a service");
        }
        names.push(name);
    }
    Some(names)
}
