//! What the operator should know of the machine, with what to do about it: pure.

use std::net::IpAddr;

use daemon::health::HopName;
use policy::prefix::is_special;
use policy::trust::Listener;
use policy::{Host, Protocol};

use super::finding::Finding::{self, Fine, Missing, Note};
use super::machine::{Listening, Machine, Reach, is_shared};
use super::proposal::{Named, Settings, public_ports};
use super::text::described;

/// The oldest kernel and nft that are supported (Debian 12).
const KERNEL: [u32; 2] = [6, 1];
const NFT: [u32; 3] = [1, 0, 6];

/// Everything, in the order in which a packet finds it.
pub(super) fn of(machine: &Machine, settings: &Settings, named: Named<'_>) -> Vec<Finding> {
    by_hop(machine, settings, named).into_iter().map(|(_, finding)| finding).collect()
}

/// The same, each with the hop that it belongs to.
pub(super) fn by_hop(machine: &Machine, settings: &Settings, named: Named<'_>) -> Vec<(HopName, Finding)> {
    let groups = [
        (HopName::Route, ways_in(machine)),
        (HopName::PublicName, name(machine, settings, named).into_iter().collect()),
        (HopName::Forward, routers(machine).into_iter().collect()),
        (HopName::WanPort, lan(settings).into_iter().chain(ports(machine, settings)).collect()),
        (HopName::Ruleset, firewalls(machine, settings)),
        (HopName::Daemon, system(machine)),
    ];
    groups.into_iter().flat_map(|(hop, found)| found.into_iter().map(move |one| (hop, one))).collect()
}

/// How the internet reaches this machine, or why it does not.
fn ways_in(machine: &Machine) -> Vec<Finding> {
    let [four, six] = [false, true].map(|ipv6| machine.reach(ipv6));
    let by = |ipv6| machine.uplink(ipv6).map_or("", |uplink| uplink.link.name.as_str());
    let mut found = Vec::new();
    match four {
        Reach::Own(address) => found.push(Fine(format!("{} has the public address {address}", by(false)))),
        Reach::Router { own, router } => {
            let router =
                router.map_or_else(|| "a router".to_owned(), |router| format!("the router {router}"));
            found.push(Fine(format!(
                "{} has the address {own}, behind {router}, which has to forward (see below)",
                by(false)
            )));
        }
        Reach::Shared(address) => found.push(shared(by(false), address, six)),
        Reach::No => {}
    }
    match (four, six) {
        (Reach::No, Reach::No) => found.push(Missing(
            "no interface has a default route: connect this machine to the internet, then run causeway setup again"
                .to_owned(),
        )),
        (Reach::No, Reach::Own(address)) => {
            found.push(Fine(format!("{} has the public address {address}", by(true))));
            found.push(Note(
                "there is no way in by IPv4: visitors who have IPv4 alone do not reach this edge".to_owned(),
            ));
        }
        (_, Reach::Own(address)) => {
            found.push(Fine(format!("{} has the public address {address}", by(true))));
        }
        _ => {}
    }
    let wireless = [false, true].into_iter().filter_map(|ipv6| machine.uplink(ipv6));
    if let Some(uplink) = wireless.into_iter().find(|uplink| machine.wireless.contains(&uplink.link.name)) {
        found.push(Note(format!(
            "{} is Wi-Fi: every visitor waits for it and goes when it goes; a cable is better",
            uplink.link.name
        )));
    }
    found
}

/// An address that the provider shares among many.
fn shared(interface: &str, address: IpAddr, six: Reach) -> Finding {
    let why = format!(
        "{interface} has the address {address}, which the provider shares among many (carrier-grade NAT): nothing from outside \
         can reach this machine by IPv4"
    );
    match six {
        Reach::Own(own) => {
            Note(format!("{why}; by IPv6 it can, at {own}, for visitors and machines that have IPv6"))
        }
        Reach::No | Reach::Router { .. } | Reach::Shared(_) => Missing(format!(
            "{why}, so it is no edge: ask the provider for a public address, or set up the edge on another machine that has \
             one, such as a small rented server, and make this machine an origin (causeway join)"
        )),
    }
}

/// Where the public name leads; nothing about none where none would help.
fn name(machine: &Machine, settings: &Settings, named: Named<'_>) -> Option<Finding> {
    let reach = [false, true].map(|ipv6| machine.reach(ipv6));
    let Some(name) = &settings.name else {
        let is_reached = reach.iter().any(|reach| matches!(reach, Reach::Own(_) | Reach::Router { .. }));
        return is_reached.then(|| Missing(NO_NAME.to_owned()));
    };
    let Host::Name(_) = name else { return Some(Fine(format!("other machines find this edge at {name}"))) };
    let Some(addresses) = named.addresses else {
        return Some(Note(format!("the public name {name} was not looked up")));
    };
    let own: Vec<IpAddr> = reach.into_iter().filter_map(Reach::own).collect();
    let is_behind_router = matches!(reach, [Reach::Router { .. }, _]);
    let leads = format!("{name} leads to {}", shown(addresses));
    Some(if addresses.is_empty() {
        Missing(format!("{name} has no address: set the DNS record {}", record(name, is_behind_router, &own)))
    } else if addresses.iter().any(|address| own.contains(address)) {
        Fine(format!("{leads}, this machine"))
    } else if addresses.iter().all(|address| is_special(*address)) {
        Missing(format!(
            "{leads}, which no host of the internet reaches: set its DNS record to the public address"
        ))
    } else if is_behind_router && addresses.iter().any(IpAddr::is_ipv4) {
        Fine(format!("{leads}, which must be the router's internet address"))
    } else {
        let own = if own.is_empty() { "no public address".to_owned() } else { shown(&own) };
        Missing(format!("{leads}, and this machine has {own}: correct its DNS record"))
    })
}

const NO_NAME: &str = "this edge has no public name yet: make a DNS record that leads to the internet address of its router, \
    without a proxy, and write it as [wan] name; causeway pair needs it";

/// The record that a name needs.
fn record(name: &Host, is_behind_router: bool, own: &[IpAddr]) -> String {
    match own.first().filter(|_| !is_behind_router) {
        Some(address @ IpAddr::V4(_)) => format!("{name} A {address}"),
        Some(address @ IpAddr::V6(_)) => format!("{name} AAAA {address}"),
        None => format!("{name} A ADDRESS, with the internet address of the router"),
    }
}

fn shown(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Routers behind the first one that seem to translate addresses again.
fn routers(machine: &Machine) -> Option<Finding> {
    let Reach::Router { .. } = machine.reach(false) else { return None };
    let hop = machine.hops.iter().find(|hop| is_special(**hop))?;
    let check = "look at the router's own internet address on its status page";
    if is_shared(*hop) {
        return Some(Note(format!(
            "behind the router comes {hop}, an address of carrier-grade NAT; {check}: if it begins with 100.64 to 100.127, \
             nothing from outside can reach this machine, and the edge has to be another one"
        )));
    }
    Some(Note(format!(
        "behind the router comes another one with the private address {hop}; {check}: if it is private, two routers translate \
         (double NAT), and the outer one must forward the same ports to the inner one, or become a bridge"
    )))
}

fn lan(settings: &Settings) -> Option<Finding> {
    if settings.lan.prefixes.is_empty() {
        return None;
    }
    let prefixes: Vec<String> = settings.lan.prefixes.iter().map(ToString::to_string).collect();
    let interfaces = settings.lan.interfaces.join(" and ");
    Some(Fine(format!("the local network is {} by {interfaces}", prefixes.join(", "))))
}

/// Ports that other programs have.
fn ports(machine: &Machine, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    for (protocol, ports) in public_ports(settings) {
        let port = ports.first();
        let is_tunnel = (protocol, port) == (Protocol::Udp, settings.listen_port);
        let Some(listening) = machine.on_port(protocol, port).next() else { continue };
        let used = described(listening);
        found.push(Missing(if is_tunnel {
            format!("{used} is in use on this machine, and WireGuard needs it: answer with another [interface] listen_port")
        } else {
            format!(
                "{used} is in use on this machine, so no origin can publish it by itself: stop that program, or move it to \
                 another port"
            )
        }));
    }
    if settings.listen_port != 51_820 {
        found.push(Note(format!("WireGuard's port is udp/{}", settings.listen_port)));
    }
    let is_open = |port: u16| settings.accepts(Protocol::Tcp, port);
    if let Some(port) = machine.ssh_session.filter(|port| !is_open(*port)) {
        found.push(Note(format!(
            "[wan] accept lacks tcp/{port}, by which you are here: new connections from the internet to it are refused"
        )));
    }
    let is_public = |closed: &&Listening| {
        let Listener { protocol, port, .. } = closed.socket;
        public_ports(settings).iter().any(|public| public.0 == protocol && public.1.contains(port))
    };
    let closed: Vec<String> =
        settings.closed.iter().filter(|closed| !is_public(closed)).map(described).collect();
    if !closed.is_empty() {
        found.push(Note(format!(
            "the internet can no longer open {}; add to [wan] accept what should stay open",
            closed.join(", ")
        )));
    }
    found
}

fn firewalls(machine: &Machine, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    if !machine.firewalls.is_empty() {
        let names: Vec<String> = machine.firewalls.iter().map(ToString::to_string).collect();
        found.push(Note(format!(
            "other firewalls are active: {}; their rules stay, and a packet must pass them as well as this edge's",
            names.join(", ")
        )));
    }
    if machine.has_legacy_rules {
        found.push(Note(format!(
            "there are tables of iptables-legacy, which nft does not show: look at iptables-legacy-save, and let udp/{} and packets \
             of gw0 pass there",
            settings.listen_port
        )));
    }
    found
}

fn system(machine: &Machine) -> Vec<Finding> {
    let mut found = Vec::new();
    match &machine.nft {
        None => found.push(Missing("nft is not installed: apt install nftables".to_owned())),
        Some(nft) if is_older(nft, &NFT) => {
            found.push(Note(format!("nft {nft} is older than 1.0.6, the oldest that is tested")));
        }
        Some(_) => {}
    }
    if is_older(&machine.kernel, &KERNEL) {
        found.push(Note(format!(
            "the kernel {} is older than 6.1, the oldest that is tested",
            machine.kernel
        )));
    }
    if !machine.has_tun {
        found.push(Missing("there is no /dev/net/tun: modprobe tun".to_owned()));
    }
    if machine.clock.is_behind {
        found.push(Missing(
            "the clock is behind, and peers refuse handshakes older than the last: set it (timedatectl set-ntp true)".to_owned(),
        ));
    } else if machine.clock.is_set == Some(false) {
        found.push(Note("no time server has set the clock yet: see timedatectl".to_owned()));
    }
    if machine.name_servers.is_empty() {
        found.push(Note(
            "no name server is configured (/etc/resolv.conf): names cannot be looked up here".to_owned(),
        ));
    }
    found
}

/// Whether a version is lower; one that cannot be read is not.
fn is_older(version: &str, than: &[u32]) -> bool {
    let parts = version.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    let parts: Vec<u32> = parts.take(than.len()).collect();
    !parts.is_empty() && parts.as_slice() < than
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, is_old) in [
            ("6.1.0-28-amd64", false),
            ("5.15.0-1-amd64", true),
            ("6.12.25+rpt-rpi-v8", false),
            ("10.0", false),
            ("6", true),
            ("", false),
        ] {
            assert_eq!(is_older(version, &KERNEL), is_old, "{version}");
        }
        assert!(is_older("1.0.2", &NFT) && !is_older("1.1.1", &NFT));
    }
}
