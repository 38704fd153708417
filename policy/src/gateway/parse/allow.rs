//! `[[allow]]`: private flows, and who can be named in them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::publish::source;
use crate::fields::{self, At};
use crate::gateway::check;
use crate::gateway::entries::AllowAt;
use crate::gateway::model::{Allow, Party, Peer, Service, SourceHandling};
use crate::names::Names;
use crate::prefix::{covers, is_private};
use crate::reader::{Table, Value};
use crate::{PortRange, Problem, Protocols, text};

/// Who can be named at either end of a private flow.
pub(super) struct Parties<'a> {
    pub(super) peers: &'a [&'a Peer],
    pub(super) names: &'a Names,
    pub(super) lan: &'a [IpNetwork],
    pub(super) own: &'a [IpAddr],
    /// Whether all of these were read without an error: else an end that is not among them is not
    /// reported as unknown.
    pub(super) are_known: bool,
}

/// One `[[allow]]`.
pub(super) fn allow(table: &Table<'_>, names: &mut Names, parties: &Parties<'_>) -> Option<AllowAt> {
    let name = names.claim(table);
    let from = table.required("from").map(|value| parties.read(value, false));
    let to = table.required("to").map(|value| parties.read(value, true));
    let service = service(table);
    let is_source_written = table.optional("source").is_some();
    let source = source(table);
    table.close();
    let (from, to, mut source) = (from??, to??, source?);
    if !is_source_written && to.iter().any(|party| party.value == Party::Wan) {
        source.value = SourceHandling::Masquerade;
    }
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
            return value.bad("no `ports`, as ICMP has none");
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
    let ports = PortRange::merged(read.filter(|ports| !ports.is_empty())?);
    Some(At::new(Service::Ports { protocols: protocols?, ports }, value.at()))
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
        if written == "wan" && target {
            return Some(Party::Wan);
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
                false if target => Problem::OutsideTarget { written },
                false => Problem::OutsideSource { written },
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
