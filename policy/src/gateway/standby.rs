//! `[standby]`: one of two edges at one site, which share an address.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::entries::PublishAt;
use super::model::Policy;
use crate::change::Settings;
use crate::fields::{self, At};
use crate::prefix::covers;
use crate::reader::{Reader, Table, Value};
use crate::{PortRange, Problem, Protocol, address, text};

/// UDP port on which an edge gets from the other what it must know to take over.
pub const REPLICATION_PORT: u16 = 51_898;
/// UDP port of conntrackd, as `gatewayctl export conntrackd` sets it.
pub const CONNTRACKD_PORT: u16 = 3_780;

/// `[standby]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standby {
    /// The shared address: the edge that has it is active, and sends WireGuard's packets from it.
    pub address: IpAddr,
    /// The other edge, on the link between the two.
    pub other: IpAddr,
}

impl Standby {
    /// Notes what `next` has otherwise.
    pub(crate) fn note_changes(old: Option<&Self>, next: Option<&Self>, changes: &mut Settings) {
        let address = |standby: Option<&Self>| standby.map(|standby| standby.address);
        changes.option("standby", "address", address(old).as_ref(), address(next).as_ref());
        let other = |standby: Option<&Self>| standby.map(|standby| standby.other);
        changes.option("standby", "other", other(old).as_ref(), other(next).as_ref());
    }
}

/// `[standby]` with the places of its addresses.
pub(super) struct StandbyAt {
    address: At<IpAddr>,
    other: At<IpAddr>,
}

impl StandbyAt {
    pub(super) const fn value(&self) -> Standby {
        Standby { address: self.address.value, other: self.other.value }
    }
}

/// Reads the section; `Some(None)` where the file does not have it.
pub(super) fn standby(root: &Table<'_>) -> Option<Option<StandbyAt>> {
    let Some(table) = root.table("standby", "[standby]") else { return Some(None) };
    let address = table.required("address").and_then(host);
    let other = table.required("other").and_then(host);
    table.close();
    Some(Some(StandbyAt { address: address?, other: other? }))
}

fn host(value: Value<'_>) -> Option<At<IpAddr>> {
    let expected = "an address without a prefix length, such as \"192.0.2.2\"";
    let written = value.parse(expected, text::address)?;
    fields::sound(value, At::new(written, value.at()), address::unusable(written, &[]))
}

/// Checks the addresses against each other and the tunnel, and the ports against what is published.
pub(super) fn check(reader: &Reader<'_>, policy: &Policy, standby: &StandbyAt, publish: &[PublishAt]) {
    if standby.address.value == standby.other.value {
        let address = standby.other.value.to_string();
        reader.report_at(standby.other.at.clone(), Problem::StandbySame { address });
    }
    for (key, at) in [("address", &standby.address), ("other", &standby.other)] {
        let prefix = IpNetwork::from(at.value);
        if let Some(tunnel) = policy.tunnel_prefixes().find(|tunnel| covers(*tunnel, prefix)) {
            let (address, tunnel) = (at.value.to_string(), tunnel.to_string());
            reader.report_at(at.at.clone(), Problem::StandbyInTunnel { key, address, tunnel });
        }
    }
    for entry in publish.iter().filter(|entry| entry.value.protocols.contains(Protocol::Udp)) {
        let used = |port: &u16| entry.value.ports.contains(*port);
        if let Some(port) = PORTS.into_iter().find(used) {
            reader.report_at(entry.listen_at.clone(), Problem::PublishOnStandbyPort { port });
        }
    }
}

/// What `other` may send to.
pub(crate) const PORTS: [u16; 2] = [CONNTRACKD_PORT, REPLICATION_PORT];

/// Whether a range has a port of the pair.
pub(super) fn has_port(protocol: Protocol, ports: PortRange) -> bool {
    protocol == Protocol::Udp && PORTS.into_iter().any(|port| ports.contains(port))
}
