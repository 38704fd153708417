//! Where trust is less than the configuration says, as messages.

use ipnetwork::IpNetwork;

use super::{Pins, Trust, common};
use crate::gateway::Policy;
use crate::system::System;

/// What is not as the configuration says, each with its fix.
#[must_use]
pub fn remarks(policy: &Policy, pins: &Pins, system: &System) -> Vec<String> {
    let mut remarks = Vec::new();
    let trust = pins.trust(policy, system);
    let absent = policy.wan.interfaces.iter().filter(|name| system.named(name.as_str()).is_none());
    remarks.extend(absent.map(|name| wan_absent(name.as_str(), system)));
    for name in pins.missing().filter(|_| !policy.lan_interfaces.is_empty()) {
        remarks.push(format!(
            "[lan] interfaces: there is no {name}, so nothing is trusted there until it appears; the interfaces are {}",
            names(system)
        ));
    }
    for (index, address) in pins.unresolved(system) {
        let name = system.link(index).map_or_else(String::new, |link| link.name.clone());
        remarks.push(format!(
            "the next hop {address} by {name} does not answer, so its packets cannot be distinguished from the LAN's: nothing \
             is trusted on {name} until it answers"
        ));
    }
    let lost = policy.lan.iter().filter(|prefix| !is_somewhere(&trust, **prefix));
    remarks.extend(lost.filter_map(|&prefix| unpinned(prefix, policy, pins, system)));
    remarks
}

fn is_somewhere(trust: &Trust, prefix: IpNetwork) -> bool {
    trust.lan.iter().any(|&(_, source)| !common(&[prefix], &[source]).is_empty())
}

fn wan_absent(name: &str, system: &System) -> String {
    let uplinks: Vec<&str> = system
        .links
        .iter()
        .filter(|link| system.is_uplink(link.index))
        .map(|link| link.name.as_str())
        .collect();
    let instead = match uplinks.as_slice() {
        [] => format!("no interface has a default route; the interfaces are {}", names(system)),
        uplinks => format!("the default route leaves by {}", uplinks.join(", ")),
    };
    format!("[wan] interface: there is no {name}; {instead}; correct the name or remove it")
}

/// Why a prefix of `[lan]` is nowhere trusted.
fn unpinned(prefix: IpNetwork, policy: &Policy, pins: &Pins, system: &System) -> Option<String> {
    let mut carriers =
        system.links.iter().filter(|link| !common(&[prefix], &system.carried(link)).is_empty());
    let place = format!("no source in {prefix} of [lan] is trusted");
    let Some(link) = carriers.next() else {
        return Some(format!(
            "{place}: no interface has an address or a static route in it; see `ip address`"
        ));
    };
    let name = &link.name;
    if system.is_uplink(link.index) && policy.lan_interfaces.is_empty() {
        return Some(format!(
            "{place}: {name} carries it, and the default route as well; if the LAN uses that interface too, write \
             `interfaces = [\"{name}\"]` under [lan]"
        ));
    }
    // What a pinned interface waits for is another remark.
    (!pins.pins.contains_key(&link.index)).then(|| {
        format!(
            "{place}: {name} carries it now, but was not the LAN's interface when the configuration was applied; if it is, \
             run gatewayctl reload"
        )
    })
}

fn names(system: &System) -> String {
    let names: Vec<&str> =
        system.links.iter().map(|link| link.name.as_str()).filter(|name| *name != "lo").collect();
    names.join(", ")
}

impl Trust {
    /// Who is trusted, a line for each interface, by the names that they have now.
    #[must_use]
    pub fn lines(&self, system: &System) -> Vec<String> {
        let mut lines = Vec::new();
        for link in &system.links {
            let sources: Vec<String> = self
                .lan
                .iter()
                .filter(|(index, _)| *index == link.index)
                .map(|(_, source)| source.to_string())
                .collect();
            if !sources.is_empty() {
                lines.push(format!("{}: LAN sources {}", link.name, sources.join(", ")));
            }
            if self.containers.contains(&link.index) {
                lines.push(format!("{}: containers", link.name));
            }
        }
        lines
    }
}
