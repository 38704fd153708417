//! `[offload]`: what is done for many packets at once, and busy-polling.

use crate::Switch;
use crate::reader::{Table, Value};

/// `[offload]`: each can be turned off.
///
/// The forwarder has no TUN device: there the two switches of the TUN are always the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Super-packets read from the TUN (TSO, and USO where the kernel has it).
    pub tun_gso: Switch,
    /// Decrypted packets coalesced before they are written to the TUN.
    pub tun_gro: Switch,
    /// Several datagrams per send on the outer socket (`UDP_SEGMENT`).
    pub udp_gso: Switch,
    /// Several datagrams per receive on the outer socket (`UDP_GRO`).
    pub udp_gro: Switch,
    /// Busy-polling for a moment before sleeping, while request/response traffic is active.
    pub busy_poll: Switch,
}

impl Offload {
    /// Each switch with its key.
    #[must_use]
    pub const fn switches(&self) -> [(&'static str, Switch); 5] {
        [
            ("tun_gso", self.tun_gso),
            ("tun_gro", self.tun_gro),
            ("udp_gso", self.udp_gso),
            ("udp_gro", self.udp_gro),
            ("busy_poll", self.busy_poll),
        ]
    }
}

/// `[offload]`, with the switches of the TUN device where there is one.
pub(super) fn offload(root: &Table<'_>, has_tun: bool) -> Offload {
    let Some(table) = root.table("offload", "[offload]") else { return Offload::default() };
    let [tun_gso, tun_gro] = match has_tun {
        true => ["tun_gso", "tun_gro"].map(|key| switch(&table, key)),
        false => <[Switch; 2]>::default(),
    };
    let [udp_gso, udp_gro, busy_poll] = ["udp_gso", "udp_gro", "busy_poll"].map(|key| switch(&table, key));
    table.close();
    Offload { tun_gso, tun_gro, udp_gso, udp_gro, busy_poll }
}

fn switch(table: &Table<'_>, key: &'static str) -> Switch {
    let parse = |value: Value<'_>| {
        value.parse("\"auto\" or \"off\"", |written| {
            [Switch::Auto, Switch::Off].into_iter().find(|switch| switch.as_str() == written)
        })
    };
    table.optional(key).and_then(parse).unwrap_or_default()
}
