//! From the machine and the operator's answers to a complete configuration, and what is to be known
//! about it: pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use policy::gateway::{Accept, Answers};
use policy::{Host, PortRange, Protocol, Protocols, PublicPorts};

use super::finding::Finding;
use super::findings;
use super::machine::{Lan, Listening, Machine, Reach};
use super::text;
use super::tunnel_network;

/// WireGuard's usual port.
const WIREGUARD: u16 = 51_820;
/// The port of the metrics page.
pub(super) const METRICS: u16 = 9_586;
/// Programs by which an operator reaches the machine.
const SHELLS: [&str; 3] = ["sshd", "dropbear", "tinysshd"];
/// Where the kernel begins to choose ports by itself: sockets there are no services of UDP.
const EPHEMERAL: u16 = 32_768;
/// Ports of DHCP clients, whose servers are on the link.
const DHCP_CLIENTS: [u16; 2] = [68, 546];

/// A configuration, and what to know about it.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    /// What it says.
    pub(super) settings: Settings,
    /// Its text, with comments.
    pub(super) text: String,
    /// What was found.
    pub(super) findings: Vec<Finding>,
}

/// The values of a configuration.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The edge's own addresses in the tunnel.
    pub(super) address: Vec<IpNetwork>,
    /// WireGuard's port.
    pub(super) listen_port: u16,
    /// The edge's public name or address.
    pub(super) name: Option<Host>,
    /// Ports of this machine that stay open.
    pub(super) accept: Vec<Accept>,
    /// Sockets that become closed to the internet.
    pub(super) closed: Vec<Listening>,
    /// The local network.
    pub(super) lan: Lan,
    /// Whether the port of the metrics page is free.
    pub(super) has_metrics: bool,
}

/// What is known of the edge's public name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Named<'n> {
    /// The addresses that it leads to; `None` when it was not looked up.
    pub(super) addresses: Option<&'n [IpAddr]>,
}

/// Why there is no proposal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoProposal {
    /// Every private network is in use.
    #[error(
        "every network that the tunnel could have is in use on this machine; answer with one that is free: \
         [interface] address = [\"ADDRESS/LENGTH\"]"
    )]
    NoNetwork,
    /// The network that was answered is in use.
    #[error(
        "[interface] address {own} is in {used}, which this machine uses already; take another network for the tunnel"
    )]
    Used {
        /// The answer.
        own: IpNetwork,
        /// What is used.
        used: IpNetwork,
    },
}

impl Proposal {
    /// What this machine comes to with these answers.
    ///
    /// # Errors
    /// [`NoProposal`]
    pub(super) fn of(machine: &Machine, answers: &Answers, named: Named<'_>) -> Result<Self, NoProposal> {
        let settings = Settings::of(machine, answers)?;
        let findings = findings::of(machine, &settings, named);
        Ok(Self { text: text::of(machine, &settings), settings, findings })
    }
}

impl Settings {
    fn of(machine: &Machine, answers: &Answers) -> Result<Self, NoProposal> {
        let lan = lan(machine, answers);
        let accept = answers.accept.clone().unwrap_or_else(|| shell_ports(machine));
        let listen_port = answers.listen_port.unwrap_or_else(|| wireguard_port(machine));
        Ok(Self {
            address: address(machine, answers, &lan)?,
            listen_port,
            name: answers.name.clone().or_else(|| own_name(machine)),
            closed: closed(machine, &accept, listen_port),
            accept,
            lan,
            has_metrics: !machine.listening.iter().any(|found| {
                found.socket.protocol == Protocol::Tcp
                    && found.socket.port == METRICS
                    && (found.socket.address.is_unspecified() || found.socket.address.is_loopback())
            }),
        })
    }

    /// Whether every source may open a port of this machine.
    pub(super) fn accepts(&self, protocol: Protocol, port: u16) -> bool {
        accepts(&self.accept, protocol, port)
    }
}

/// The ports that visitors need: WireGuard's, and those that `pair` offers to an origin.
pub(super) fn public_ports(settings: &Settings) -> Vec<(Protocol, PortRange)> {
    let tunnel = PortRange::new(settings.listen_port, settings.listen_port).map(|port| (Protocol::Udp, port));
    let web = crate::pair::USUAL.into_iter().filter_map(PublicPorts::parse);
    tunnel.into_iter().chain(web.map(|ports| (ports.protocol, ports.ports))).collect()
}

/// The address by which the internet reaches this machine, if it has one of its own; behind a
/// router it is that one's, which is not known here.
pub(super) fn own_name(machine: &Machine) -> Option<Host> {
    match [false, true].map(|ipv6| machine.reach(ipv6)) {
        [Reach::Own(address), _] | [Reach::No | Reach::Shared(_), Reach::Own(address)] => {
            Some(Host::Address(address))
        }
        _ => None,
    }
}

/// What was answered of the local network; the rest of it by what the interfaces have.
fn lan(machine: &Machine, answers: &Answers) -> Lan {
    let all = || machine.system.links.iter().map(|link| link.name.clone());
    match (&answers.lan, &answers.lan_interfaces) {
        (None, None) => machine.lan(),
        (Some(prefixes), _) if prefixes.is_empty() => Lan::default(),
        (None, Some(named)) => {
            let interfaces = names(named);
            Lan { prefixes: machine.private_networks(&interfaces), named: named.clone(), interfaces }
        }
        (Some(prefixes), Some(named)) => {
            Lan { prefixes: prefixes.clone(), named: named.clone(), interfaces: names(named) }
        }
        (Some(prefixes), None) => {
            let carriers: Vec<String> = all().filter(|name| machine.carries(name, prefixes)).collect();
            let named = machine.uplinks_alone(&carriers);
            Lan { prefixes: prefixes.clone(), named, interfaces: carriers }
        }
    }
}

fn names(named: &[policy::InterfaceName]) -> Vec<String> {
    named.iter().map(ToString::to_string).collect()
}

fn address(machine: &Machine, answers: &Answers, lan: &Lan) -> Result<Vec<IpNetwork>, NoProposal> {
    let used: Vec<IpNetwork> = machine.networks().chain(lan.prefixes.iter().copied()).collect();
    let Some(own) = &answers.address else {
        return tunnel_network::choose(&used).map(|own| vec![own]).ok_or(NoProposal::NoNetwork);
    };
    for &own in own {
        if let Some(&used) = used.iter().find(|used| tunnel_network::overlap(**used, own)) {
            return Err(NoProposal::Used { own, used });
        }
    }
    Ok(own.clone())
}

/// WireGuard's usual port, or the first one after it that no program has.
fn wireguard_port(machine: &Machine) -> u16 {
    let is_used = |port: u16| {
        machine
            .listening
            .iter()
            .any(|found| found.socket.protocol == Protocol::Udp && found.socket.port == port)
    };
    (WIREGUARD..=u16::MAX).find(|&port| !is_used(port)).unwrap_or(WIREGUARD)
}

/// The ports by which an operator reaches this machine.
fn shell_ports(machine: &Machine) -> Vec<Accept> {
    let is_shell = |found: &&Listening| {
        let program = found.program.as_deref().unwrap_or_default();
        found.socket.protocol == Protocol::Tcp && (SHELLS.contains(&program) || found.socket.port == 22)
    };
    let ports: BTreeSet<u16> =
        machine.open().filter(is_shell).map(|found| found.socket.port).chain(machine.ssh_session).collect();
    let accept = |port| Some(Accept { protocols: Protocols::Tcp, ports: PortRange::new(port, port)? });
    ports.into_iter().filter_map(accept).collect()
}

fn accepts(accept: &[Accept], protocol: Protocol, port: u16) -> bool {
    accept.iter().any(|accept| accept.protocols.contains(protocol) && accept.ports.contains(port))
}

/// The sockets that hosts of the internet can no longer open, one for each port.
fn closed(machine: &Machine, accept: &[Accept], listen_port: u16) -> Vec<Listening> {
    let is_service = |found: &&Listening| match found.socket.protocol {
        Protocol::Tcp => true,
        Protocol::Udp => {
            let port = found.socket.port;
            port < EPHEMERAL && !DHCP_CLIENTS.contains(&port)
        }
    };
    let mut closed: Vec<Listening> = machine
        .open()
        .filter(is_service)
        .filter(|found| !accepts(accept, found.socket.protocol, found.socket.port))
        .filter(|found| (found.socket.protocol, found.socket.port) != (Protocol::Udp, listen_port))
        .cloned()
        .collect();
    closed.sort_by_key(|found| (found.socket.protocol, found.socket.port, found.program.is_none()));
    closed.dedup_by_key(|found| (found.socket.protocol, found.socket.port));
    closed
}
