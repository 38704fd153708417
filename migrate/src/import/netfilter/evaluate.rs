//! What the rules of a file do with one flow.
//!
//! A flow is followed as the kernel does: its first packet through prerouting, routing, forward and
//! postrouting, then one further packet each way through what they pass.

use std::net::IpAddr;

use super::{Action, Chain, Condition, Hook, Kind, Ports, Rule, Ruleset, State, Target};
use policy::Protocol;

/// The first packet of a flow from outside.
#[derive(Clone, Copy, Debug)]
pub(in crate::import) struct Packet<'a> {
    /// The interface that it comes in by.
    pub(in crate::import) interface: &'a str,
    pub(in crate::import) source: IpAddr,
    pub(in crate::import) source_port: u16,
    /// An address of the machine.
    pub(in crate::import) destination: IpAddr,
    pub(in crate::import) port: u16,
    pub(in crate::import) protocol: Protocol,
}

/// What happens to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::import) enum Fate {
    /// It goes into the tunnel.
    Tunnel(Way),
    /// The rule changes its destination to what is not in the tunnel.
    Elsewhere { by: usize },
    /// Nothing changes its destination.
    Untouched,
    /// A rule refuses it, or a chain that lets nothing else through.
    Refused { dnat: Option<usize>, by: Option<usize> },
    /// It reaches a rule that cannot be read.
    Unclear { dnat: Option<usize>, by: usize },
}

/// How a flow goes into the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::import) struct Way {
    pub(in crate::import) address: IpAddr,
    pub(in crate::import) ports: Ports,
    pub(in crate::import) source: SourceAddress,
    /// The rule that changes the destination.
    pub(in crate::import) by: usize,
}

/// The source that the far end sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::import) enum SourceAddress {
    /// The client's.
    Client,
    /// The edge's, by this rule.
    Edge { by: usize },
    /// One that is not the edge's in the tunnel.
    Other { by: usize },
}

/// What is around the rules.
pub(in crate::import) struct World<'a> {
    pub(in crate::import) rules: &'a Ruleset,
    /// The name of the tunnel's interface.
    pub(in crate::import) tunnel: &'a str,
    /// The edge's addresses in the tunnel.
    pub(in crate::import) own: &'a [IpAddr],
    /// Whether an address is routed into the tunnel.
    pub(in crate::import) is_in_tunnel: &'a dyn Fn(IpAddr) -> bool,
}

/// Chains within chains.
const DEPTH: usize = 16;

struct Flow<'a> {
    packet: Packet<'a>,
    outgoing: Option<&'a str>,
    state: State,
    is_changed: bool,
    is_local: bool,
}

/// The chain that a rule is in, within which base chain.
#[derive(Clone, Copy)]
struct Within<'c> {
    chain: &'c Chain,
    is_nat: bool,
    depth: usize,
}

enum Verdict {
    /// The chain is at its end, or a rule returned from it.
    Return,
    Accept,
    Refuse(Option<usize>),
    Dnat(Target, usize),
    Redirect,
    Source(SourceAddress),
    Unclear(usize),
}

enum Is {
    Yes,
    No,
    Unclear,
}

impl World<'_> {
    /// What happens to a flow; every rule that fits one of its packets is added to `passed`.
    pub(in crate::import) fn fate(&self, packet: Packet<'_>, passed: &mut Vec<usize>) -> Fate {
        let flow = Flow { packet, outgoing: None, state: State::New, is_changed: false, is_local: true };
        let mut dnat = None;
        for chain in self.at(Hook::Prerouting) {
            if self.is_nat(chain) && dnat.is_some() {
                continue;
            }
            match self.run(self.base(chain), &flow, passed) {
                Verdict::Dnat(target, by) => dnat = Some((target, by)),
                Verdict::Redirect => return Fate::Untouched,
                Verdict::Refuse(by) => return Fate::Refused { dnat: dnat.map(|(_, by)| by), by },
                Verdict::Unclear(by) => return Fate::Unclear { dnat: dnat.map(|(_, by)| by), by },
                Verdict::Return | Verdict::Accept | Verdict::Source(_) => {}
            }
        }
        let Some((target, by)) = dnat else { return Fate::Untouched };
        let Some(port) = target.ports.of(packet.port) else { return Fate::Unclear { dnat: Some(by), by } };
        if self.own.contains(&target.address) || !(self.is_in_tunnel)(target.address) {
            return Fate::Elsewhere { by };
        }
        if self.rules.forwards.get(usize::from(target.address.is_ipv6())) == Some(&Some(false)) {
            return Fate::Refused { dnat: Some(by), by: None };
        }
        let packet = Packet { destination: target.address, port, ..packet };
        // A port within the range is kept.
        let is_kept = matches!(target.ports, Ports::Within(first, last) if first != last);
        let ports = if is_kept { Ports::Same } else { target.ports };
        let way = Way { address: target.address, ports, source: SourceAddress::Client, by };
        self.forwarded(packet, way, passed)
    }

    fn forwarded(&self, packet: Packet<'_>, mut way: Way, passed: &mut Vec<usize>) -> Fate {
        let new = Flow {
            packet,
            outgoing: Some(self.tunnel),
            state: State::New,
            is_changed: true,
            is_local: false,
        };
        let dnat = Some(way.by);
        for chain in self.at(Hook::Forward).into_iter().chain(self.at(Hook::Postrouting)) {
            match self.run(self.base(chain), &new, passed) {
                Verdict::Refuse(by) => return Fate::Refused { dnat, by },
                Verdict::Unclear(by) => return Fate::Unclear { dnat, by },
                Verdict::Source(source) if way.source == SourceAddress::Client => way.source = source,
                Verdict::Source(_)
                | Verdict::Return
                | Verdict::Accept
                | Verdict::Dnat(..)
                | Verdict::Redirect => {}
            }
        }
        let later = Flow { state: State::Established, ..new };
        let reply = Packet {
            interface: self.tunnel,
            source: packet.destination,
            source_port: packet.port,
            destination: packet.source,
            port: packet.source_port,
            protocol: packet.protocol,
        };
        let reply = Flow {
            packet: reply,
            outgoing: Some(packet.interface),
            state: State::Established,
            is_changed: true,
            is_local: false,
        };
        for flow in [later, reply] {
            let hooks = [Hook::Forward, Hook::Postrouting];
            for chain in hooks.into_iter().flat_map(|hook| self.at(hook)).filter(|chain| !self.is_nat(chain))
            {
                match self.run(self.base(chain), &flow, passed) {
                    Verdict::Refuse(by) => return Fate::Refused { dnat, by },
                    Verdict::Unclear(by) => return Fate::Unclear { dnat, by },
                    Verdict::Source(_)
                    | Verdict::Return
                    | Verdict::Accept
                    | Verdict::Dnat(..)
                    | Verdict::Redirect => {}
                }
            }
        }
        Fate::Tunnel(way)
    }

    fn at(&self, hook: Hook) -> Vec<&Chain> {
        let called = |chain: &&Chain| chain.base.is_some_and(|base| base.hook == hook);
        let mut chains: Vec<&Chain> = self.rules.chains.iter().filter(called).collect();
        chains.sort_by_key(|chain| chain.base.map(|base| base.priority));
        chains
    }

    fn is_nat(&self, chain: &Chain) -> bool {
        chain.base.is_some_and(|base| base.is_nat)
    }

    fn base<'c>(&self, chain: &'c Chain) -> Within<'c> {
        Within { chain, is_nat: self.is_nat(chain), depth: 0 }
    }

    fn run(&self, within: Within<'_>, flow: &Flow<'_>, passed: &mut Vec<usize>) -> Verdict {
        let chain = within.chain;
        if !is_of_family(chain.id.space, flow.packet.source) {
            return Verdict::Return;
        }
        for &number in &chain.rules {
            let Some(rule) = self.rules.rule(number) else { continue };
            if matches!(rule.action, Action::Nothing | Action::ClampMss) {
                continue;
            }
            match self.fits(rule, flow) {
                Is::No => continue,
                Is::Unclear => return Verdict::Unclear(number),
                Is::Yes => passed.push(number),
            }
            match self.act(within, (rule, number), flow, passed) {
                Some(Verdict::Return) => break,
                Some(verdict) => return verdict,
                None => {}
            }
        }
        if within.depth == 0 && chain.refuses { Verdict::Refuse(None) } else { Verdict::Return }
    }

    /// What a rule that fits decides; `None` when the next one is asked.
    fn act(
        &self,
        within: Within<'_>,
        (rule, number): (&Rule, usize),
        flow: &Flow<'_>,
        passed: &mut Vec<usize>,
    ) -> Option<Verdict> {
        let (chain, has_state) = (within.chain, flow.state == State::New);
        Some(match &rule.action {
            Action::Accept => Verdict::Accept,
            Action::Refuse => Verdict::Refuse(Some(number)),
            Action::Return => Verdict::Return,
            // The kernel has no such rule outside a chain of NAT.
            Action::Dnat(_) | Action::Redirect | Action::Masquerade | Action::Snat(_) if !within.is_nat => {
                Verdict::Unclear(number)
            }
            Action::Dnat(target) if has_state => Verdict::Dnat(*target, number),
            Action::Redirect if has_state => Verdict::Redirect,
            Action::Masquerade if has_state => Verdict::Source(SourceAddress::Edge { by: number }),
            Action::Snat(address) if has_state && self.own.contains(address) => {
                Verdict::Source(SourceAddress::Edge { by: number })
            }
            Action::Snat(_) if has_state => Verdict::Source(SourceAddress::Other { by: number }),
            Action::Jump(name) | Action::Goto(name) => {
                let into = self.rules.chains.iter().find(|known| {
                    known.id.space == chain.id.space
                        && known.id.table == chain.id.table
                        && known.id.name == *name
                });
                let Some(into) = into.filter(|_| within.depth < DEPTH) else {
                    return Some(Verdict::Unclear(number));
                };
                let within = Within { chain: into, depth: within.depth + 1, ..within };
                let verdict = self.run(within, flow, passed);
                if matches!((&verdict, &rule.action), (Verdict::Return, Action::Jump(_))) {
                    return None;
                }
                verdict
            }
            Action::Unclear => Verdict::Unclear(number),
            Action::Dnat(_)
            | Action::Redirect
            | Action::Masquerade
            | Action::Snat(_)
            | Action::ClampMss
            | Action::Nothing => return None,
        })
    }

    fn fits(&self, rule: &Rule, flow: &Flow<'_>) -> Is {
        if !rule.conditions.iter().all(|condition| condition.holds(flow)) {
            return Is::No;
        }
        if rule.unread.is_some() { Is::Unclear } else { Is::Yes }
    }
}

/// Whether the chains of a program see packets of this family.
fn is_of_family(space: &str, address: IpAddr) -> bool {
    match space {
        "iptables" | "nft ip" => address.is_ipv4(),
        "ip6tables" | "nft ip6" => address.is_ipv6(),
        _ => true,
    }
}

impl Condition {
    fn holds(&self, flow: &Flow<'_>) -> bool {
        let packet = &flow.packet;
        let holds = match &self.kind {
            Kind::Incoming(names) => names.iter().any(|name| is_interface(name, packet.interface)),
            Kind::Outgoing(names) => {
                flow.outgoing.is_some_and(|out| names.iter().any(|name| is_interface(name, out)))
            }
            Kind::Source(prefixes) => prefixes.iter().any(|prefix| prefix.contains(packet.source)),
            Kind::Destination(prefixes) => prefixes.iter().any(|prefix| prefix.contains(packet.destination)),
            Kind::Protocol(protocols) => protocols.contains(&Some(packet.protocol)),
            Kind::SourcePort(ports) => within(ports, packet.source_port),
            Kind::Port(ports) => within(ports, packet.port),
            Kind::State(states) => {
                states.contains(&flow.state) || (flow.is_changed && states.contains(&State::Dnat))
            }
            Kind::Syn => packet.protocol == Protocol::Tcp && flow.state == State::New,
            Kind::Local => flow.is_local,
            Kind::IsIpv6 => packet.source.is_ipv6(),
        };
        holds != self.is_negated
    }
}

fn within(ports: &[(u16, u16)], port: u16) -> bool {
    ports.iter().any(|(first, last)| (*first..=*last).contains(&port))
}

/// Whether a name, which may end in `+`, is that of an interface.
pub(in crate::import) fn is_interface(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(stem) => name.starts_with(stem),
        None => pattern == name,
    }
}

impl Ports {
    /// The port that `port` becomes; `None` when the kernel picks one.
    pub(in crate::import) fn of(self, port: u16) -> Option<u16> {
        match self {
            Self::Same => Some(port),
            Self::One(one) => Some(one),
            Self::Shifted { from, last, to } => {
                (from..=last).contains(&port).then(|| to.saturating_add(port - from))
            }
            Self::Within(first, last) if first == last => Some(first),
            Self::Within(first, last) => (first..=last).contains(&port).then_some(port),
        }
    }
}
