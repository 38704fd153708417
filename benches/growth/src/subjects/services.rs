//! Services of both daemons' files.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use benches::hot::Loop;
use policy::ruleset::Present;
use policy::{Name, Protocol, Source, forwarder, gateway};

use super::Kept;

const KEY: &str = "eHl6eHl6eHl6eHl6eHl6eHl6eHl6eHl6eHl6eHl6eHk=";
const FIRST_PORT: u32 = 10_000;

/// The entry of a new flow out of the tunnel, at the origin.
pub(super) fn find(services: u32) -> Loop {
    let (policy, peer) = (origin(services), Name::new("kyiv"));
    let mut turn = 0_u32;
    Loop::new("new flow", 1, move || {
        turn = turn.wrapping_add(1);
        let port = FIRST_PORT + (turn.wrapping_mul(0x9e37_79b1) >> 8) % services;
        let destination = SocketAddr::from((Ipv4Addr::new(192, 168, 88, 2), u16::try_from(port).ok()?));
        let policy = policy.as_ref()?;
        policy.service_for(peer.as_ref()?, Protocol::Tcp, destination).map(|_| 1)
    })
}

/// The policy of an origin.
pub(super) fn memory(services: u32) -> Kept {
    Kept::in_heap(origin(services))
}

/// The file of an edge read and compiled, to what is given to the kernel.
pub(super) fn apply(services: u32) -> Loop {
    let text = edge_text(services);
    Loop::new("apply", 1, move || {
        let policy = gateway::parse(&Source { name: Path::new("gateway.toml"), text: &text }).ok()?;
        let ruleset = policy.plan().ruleset.install(&Present::nothing());
        ruleset.as_object().map(|object| object.len().max(1))
    })
}

fn origin(services: u32) -> Option<forwarder::Policy> {
    let mut text = format!(
        "[interface]\naddress = [\"10.77.88.2/30\"]\nprivate_key_file = \"wroclaw.key\"\nmtu = 1420\n\n\
         [[peer]]\nname = \"kyiv\"\npublic_key = \"{KEY}\"\nendpoint = \"192.0.2.2:51820\"\n\
         allowed_ips = [\"0.0.0.0/0\", \"::/0\"]\nkeepalive = \"25s\"\n"
    );
    for port in (FIRST_PORT..).take(usize::try_from(services).unwrap_or_default()) {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[[service]]\nname = \"s{port}\"\nprotocol = [\"tcp\"]\nmatch = \"192.168.88.2:{port}\"\n\
             upstream = \"127.0.0.1:{port}\"\n"
        );
    }
    forwarder::parse(&Source { name: Path::new("forwarder.toml"), text: &text }).ok()
}

fn edge_text(services: u32) -> String {
    let mut text = format!(
        "[interface]\nname = \"gw0\"\naddress = [\"10.77.88.1/30\"]\nlisten_port = 51820\n\
         private_key_file = \"kyiv.key\"\nmtu = 1420\n\n[wan]\ninterface = \"eth0\"\n\n\
         [[peer]]\nname = \"wroclaw\"\npublic_key = \"{KEY}\"\n\
         allowed_ips = [\"10.77.88.2/32\", \"192.168.88.0/24\"]\n"
    );
    for port in (FIRST_PORT..).take(usize::try_from(services).unwrap_or_default()) {
        let _ = write!(
            text,
            "\n[[publish]]\nname = \"s{port}\"\nprotocol = [\"tcp\"]\nlisten = \"{port}\"\n\
             target = \"192.168.88.2:{port}\"\n"
        );
    }
    text
}
