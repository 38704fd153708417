//! What is to be done outside of this machine, once: pure.

use super::machine::{Machine, Reach};
use super::proposal::{Settings, public_ports};

/// The visit to the router, or to what else filters in front of this machine; nothing where nothing
/// helps.
pub(super) fn visit(machine: &Machine, settings: &Settings) -> Vec<String> {
    let ports = ports(settings);
    let reach = [false, true].map(|ipv6| machine.reach(ipv6));
    let own: Vec<String> =
        reach.into_iter().filter_map(Reach::own).map(|address| address.to_string()).collect();
    let own = own.join(" and ");
    let at_firewall = || {
        format!(
            "at the firewall of the router or provider, once: let in {ports} to {own}; with IPv6 there is nothing to forward"
        )
    };
    match reach {
        [Reach::Own(_), _] => vec![format!(
            "there is no router to visit, as this machine has {own} itself; if the provider has a firewall (security group), let in \
             {ports}"
        )],
        [Reach::Router { own, router }, six] => {
            let router = router.map_or_else(String::new, |router| format!(" {router}"));
            let by = machine.uplink(false).map_or("", |uplink| uplink.link.name.as_str());
            let forward = format!(
                "at the router{router}, once: forward {ports} to {own}, without masquerading what it forwards (else every visitor \
                 has the router's address), and have it always give this machine ({by}) the address {own}"
            );
            [forward].into_iter().chain(six.own().map(|_| at_firewall())).collect()
        }
        [Reach::No | Reach::Shared(_), Reach::Own(_)] => vec![at_firewall()],
        [Reach::No | Reach::Shared(_), _] => Vec::new(),
    }
}

fn ports(settings: &Settings) -> String {
    let ports: Vec<String> =
        public_ports(settings).iter().map(|(protocol, ports)| format!("{protocol}/{ports}")).collect();
    match ports.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        _ => ports.join(""),
    }
}
