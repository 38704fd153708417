//! `[[reach]]`: local listeners.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;

use crate::fields::{self, At};
use crate::forwarder::entries::ReachAt;
use crate::forwarder::model::{OnDown, Reach, SourcePort};
use crate::names::Names;
use crate::reader::{Table, Value};
use crate::{Problem, Protocols, address, text};

/// One `[[reach]]`.
pub(super) fn reach(
    table: &Table<'_>,
    names: &mut Names,
    peers: &Names,
    tunnel: &[IpNetwork],
) -> Option<ReachAt> {
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
