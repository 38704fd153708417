//! What a running forwarder takes of another configuration.

use std::time::Duration;

use super::model::{Limits, Peer, Policy, Service};
use super::{caddy, steer};
use crate::Name;
use crate::change::{Change, Settings};
use crate::sections::Notify;

impl Policy {
    /// What `next` has otherwise and cannot change while the daemon runs.
    #[must_use]
    pub fn needs_restart(&self, next: &Self) -> Option<&'static str> {
        let has_port = self.interface.listen_port.is_some();
        let is_first_kept = match (self.peers.first(), next.peers.first()) {
            (Some(old), Some(new)) => old.is_same_tunnel(new),
            (old, new) => old.is_none() && new.is_none(),
        };
        let checks = [
            (has_port && !is_first_kept, "the first [[peer]], which has [interface] listen_port,"),
            (self.interface.mtu != next.interface.mtu, "[interface] mtu"),
            (self.interface.listen_port != next.interface.listen_port, "[interface] listen_port"),
            (self.control != next.control, "[control]"),
            (self.state_directory != next.state_directory, "[state]"),
            (self.offload != next.offload, "[offload]"),
        ];
        checks.into_iter().find(|(changed, _)| *changed).map(|(_, what)| what)
    }

    /// What `next` changes, a line each; keys are compared by the names of their files alone.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let mut changes = peers(&self.peers, &next.peers);
        let (old, new) = (with_sorted_peers(&self.services), with_sorted_peers(&next.services));
        entries("service", &old, &new, |entry| entry.name.to_string(), &mut changes);
        entries("reach", &self.reach, &next.reach, |entry| entry.name.to_string(), &mut changes);
        entries("list", &self.lists, &next.lists, |list| list.name.to_string(), &mut changes);
        let mut settings = Settings { lines: changes };
        Notify::note_changes(&self.notify, &next.notify, &mut settings);
        self.metrics.note_changes(&next.metrics, &mut settings);
        self.page.note_changes(&next.page, &mut settings);
        self.link.note_changes(next.link, &mut settings);
        for ((key, old), (_, new)) in limits(&self.limits).into_iter().zip(limits(&next.limits)) {
            settings.field("limits", key, &old, &new);
        }
        caddy::note_changes(self.caddy.as_ref(), next.caddy.as_ref(), &mut settings);
        steer::note_changes(self.steer.as_ref(), next.steer.as_ref(), &mut settings);
        self.log.note_changes(next.log, &mut settings);
        settings.lines
    }
}

impl Peer {
    /// Whether the tunnel to this peer is also the one to `next`: one with another name, or with
    /// other addresses of ours, is another tunnel, and flows cannot move to it.
    #[must_use]
    pub fn is_same_tunnel(&self, next: &Self) -> bool {
        self.name == next.name && self.address == next.address
    }
}

/// The services, whose peers are named in whatever order.
fn with_sorted_peers(services: &[Service]) -> Vec<Service> {
    let mut services = services.to_vec();
    services
        .iter_mut()
        .for_each(|service| service.peers.sort_by(|one, other| one.as_str().cmp(other.as_str())));
    services
}

/// Peers that go, differ or come, by name; their places do not matter.
fn peers(old: &[Peer], new: &[Peer]) -> Vec<Change> {
    fn find<'p>(peers: &'p [Peer], name: &Name) -> Option<&'p Peer> {
        peers.iter().find(|peer| peer.name == *name)
    }
    let mut lines = Vec::new();
    for peer in old {
        let name = &peer.name;
        let Some(next) = find(new, name) else {
            lines.push(format!("- {name} (its flows end)"));
            continue;
        };
        if !peer.is_same_tunnel(next) {
            lines.push(format!("~ {name} address (its flows end)"));
        }
        lines.extend(changed_keys(peer, next).into_iter().map(|key| format!("~ {name} {key}")));
    }
    let come = new.iter().filter(|peer| find(old, &peer.name).is_none());
    lines.extend(come.map(|peer| format!("+ {}", peer.name)));
    lines.into_iter().map(|line| Change { part: "peer", line }).collect()
}

/// `[limits]`, as it is written.
fn limits(limits: &Limits) -> [(&'static str, String); 10] {
    let seconds = |time: Duration| format!("{}s", time.as_secs_f64());
    [
        ("flows", limits.flows.to_string()),
        ("pending_dials", limits.pending_dials.to_string()),
        ("flows_per_client", limits.flows_per_client.to_string()),
        ("pending_per_client", limits.pending_per_client.to_string()),
        ("udp_flows", limits.udp_flows.to_string()),
        ("udp_flows_per_client", limits.udp_flows_per_client.to_string()),
        ("udp_timeout", seconds(limits.udp_timeout)),
        ("buffers", limits.buffer_bytes.to_string()),
        ("dial_timeout", seconds(limits.dial_timeout)),
        ("drain", seconds(limits.drain)),
    ]
}

/// The keys of a `[[peer]]` that stays which have another value.
fn changed_keys(old: &Peer, new: &Peer) -> Vec<&'static str> {
    let keys = [
        ("public_key", old.public_key != new.public_key),
        ("next_public_key", old.next_public_key != new.next_public_key),
        ("endpoint", old.endpoint != new.endpoint),
        ("allowed_ips", old.allowed_ips != new.allowed_ips),
        ("keepalive", old.keepalive != new.keepalive),
        ("public_address", old.public_address != new.public_address),
        ("probe", old.probe != new.probe),
        ("preshared_key_file", old.preshared_key_file != new.preshared_key_file),
        ("private_key_file", old.private_key_file != new.private_key_file),
    ];
    keys.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

/// Entries that go, come or differ, by name.
fn entries<T: PartialEq>(
    part: &'static str,
    old: &[T],
    new: &[T],
    name: impl Fn(&T) -> String,
    changes: &mut Vec<Change>,
) {
    let of = |entries: &[T], wanted: &str| entries.iter().position(|entry| name(entry) == wanted);
    for entry in old {
        let (name, now) = (name(entry), of(new, &name(entry)).and_then(|place| new.get(place)));
        match now {
            None => changes.push(Change { part, line: format!("- {name}") }),
            Some(now) if now != entry => changes.push(Change { part, line: format!("~ {name}") }),
            Some(_) => {}
        }
    }
    let come = new.iter().map(&name).filter(|name| of(old, name).is_none());
    changes.extend(come.map(|name| Change { part, line: format!("+ {name}") }));
}
