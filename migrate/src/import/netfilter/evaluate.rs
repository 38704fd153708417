//! What the rules of a file do with one flow.
//!
//! A flow is followed as the kernel does: its first packet through prerouting, routing, forward and
//! postrouting, then one further packet each way through what they pass, prerouting included.

use std::net::IpAddr;

use super::{Action, Chain, Condition, Hook, Kind, Ports, Rule, Ruleset, State, Target};
use policy::Protocol;

/// The first packet of a flow.
#[derive(Clone, Copy, Debug)]
pub(in crate::import) struct Packet<'a> {
    /// The interface that it comes in by.
    pub(in crate::import) interface: &'a str,
    pub(in crate::import) source: IpAddr,
    pub(in crate::import) source_port: u16,
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
    /// It is refused.
    Refused { dnat: Option<usize>, by: Refuser },
    /// It reaches a rule that cannot be read.
    Unclear { dnat: Option<usize>, by: usize },
}

/// What refuses a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::import) enum Refuser {
    Rule(usize),
    /// A chain that lets nothing else through, or a machine that does not forward.
    Policy,
    /// The AllowedIPs of the other end.
    AllowedIps,
    /// A chain of the other end that lets nothing else through, or an end that does not forward.
    PolicyThere,
    /// The other end, either for itself or for a host behind it, which the file does not distinguish.
    OwnOrNot,
}

/// How a flow goes into the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::import) struct Way {
    pub(in crate::import) address: IpAddr,
    pub(in crate::import) ports: Ports,
    pub(in crate::import) source: SourceAddress,
    /// The rule that changes the destination.
    pub(in crate::import) by: usize,
    /// What gets it at the other end, where that end's rules are known.
    pub(in crate::import) there: Option<There>,
}

/// What gets a flow that came out of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::import) struct There {
    pub(in crate::import) address: IpAddr,
    pub(in crate::import) ports: Ports,
    /// Whether that is the machine itself.
    pub(in crate::import) is_own: bool,
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

/// Why a flow does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::import) enum Stop {
    Refused(Refuser),
    Unclear(usize),
}

/// What is around the rules.
pub(in crate::import) struct World<'a> {
    pub(in crate::import) rules: &'a Ruleset,
    /// The name of the tunnel's interface.
    pub(in crate::import) tunnel: &'a str,
    /// The machine's own addresses in the tunnel.
    pub(in crate::import) own: &'a [IpAddr],
    /// Whether an address is routed into the tunnel.
    pub(in crate::import) is_in_tunnel: &'a dyn Fn(IpAddr) -> bool,
}

/// Chains within chains.
const DEPTH: usize = 16;
/// The most rules that fit one flow: chains that jump to one another often fit without end.
const MOST_PASSED: usize = 20_000;
/// The priority at which the kernel changes destinations, those of replies to a changed source as
/// well.
const NAT: i32 = -100;

#[derive(Clone, Copy)]
struct Flow<'a> {
    packet: Packet<'a>,
    outgoing: Option<&'a str>,
    state: State,
    is_changed: bool,
    is_local: bool,
    is_reply: bool,
    is_hidden: bool,
}

/// A destination that a rule changes; without an address, to the machine itself.
#[derive(Clone, Copy)]
struct Change {
    address: Option<IpAddr>,
    ports: Ports,
    by: usize,
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
    Stop(Stop),
    Change(Change),
    Source(SourceAddress),
}

enum Is {
    Yes,
    No,
    Unclear,
}

impl Stop {
    const fn of(self, dnat: Option<usize>) -> Fate {
        match self {
            Self::Refused(by) => Fate::Refused { dnat, by },
            Self::Unclear(by) => Fate::Unclear { dnat, by },
        }
    }
}

impl World<'_> {
    /// What happens to a flow from outside; every rule that fits one of its packets is added to
    /// `passed`.
    pub(in crate::import) fn fate(&self, packet: Packet<'_>, passed: &mut Vec<usize>) -> Fate {
        let (change, through) = self.arrive(packet, true, passed);
        let dnat = change.filter(|change| change.address.is_some()).map(|change| change.by);
        if let Err(stop) = through {
            return stop.of(dnat);
        }
        let Some((change, address)) = change.and_then(|change| Some((change, change.address?))) else {
            return Fate::Untouched;
        };
        let Change { ports, by, .. } = change;
        let Some(port) = ports.of(packet.port) else { return Fate::Unclear { dnat, by } };
        if self.own.contains(&address) || !(self.is_in_tunnel)(address) {
            return Fate::Elsewhere { by };
        }
        if !self.forwards(address) {
            return Fate::Refused { dnat, by: Refuser::Policy };
        }
        let after = Packet { destination: address, port, ..packet };
        let mut way = Way { address, ports, source: SourceAddress::Client, by, there: None };
        match self.forwarded(packet, after, self.tunnel, true, passed) {
            Ok(source) => way.source = source,
            Err(stop) => return stop.of(dnat),
        }
        way.ports = kept(ports);
        Fate::Tunnel(way)
    }

    /// What gets a flow that comes out of the tunnel; `inside` is the interface that leads to hosts
    /// behind this machine.
    pub(in crate::import) fn end(
        &self,
        packet: Packet<'_>,
        inside: &str,
        passed: &mut Vec<usize>,
    ) -> Result<There, Stop> {
        let here = self.ended(packet, true, inside, passed);
        if self.own.contains(&packet.destination) {
            return here;
        }
        // Which addresses it has besides those in the tunnel is not known: both must be right.
        match (here, self.ended(packet, false, inside, passed)) {
            (Ok(here), Ok(there)) if (here.address, here.ports) == (there.address, there.ports) => Ok(there),
            (Err(stop), Err(_)) | (Err(stop @ Stop::Unclear(_)), _) | (_, Err(stop @ Stop::Unclear(_))) => {
                Err(stop)
            }
            _ => Err(Stop::Refused(Refuser::OwnOrNot)),
        }
    }

    fn ended(
        &self,
        packet: Packet<'_>,
        is_local: bool,
        inside: &str,
        passed: &mut Vec<usize>,
    ) -> Result<There, Stop> {
        let (change, through) = self.arrive(packet, is_local, passed);
        through?;
        let own = self.own.iter().find(|own| own.is_ipv4() == packet.destination.is_ipv4());
        let (address, is_own, ports, by) = match change {
            None => (packet.destination, is_local, Ports::Same, None),
            Some(Change { address: None, ports, by }) => {
                (own.copied().unwrap_or(packet.destination), true, ports, Some(by))
            }
            Some(Change { address: Some(address), ports, by }) => {
                (address, self.own.contains(&address) || address.is_loopback(), ports, Some(by))
            }
        };
        let port = ports.of(packet.port).ok_or(Stop::Unclear(by.unwrap_or_default()))?;
        if address.is_loopback() && !self.rules.routes_loopback {
            return Err(Stop::Refused(by.map_or(Refuser::Policy, Refuser::Rule)));
        }
        let after = Packet { destination: address, port, ..packet };
        match is_own {
            true => self.received(packet, after, change.is_some(), passed)?,
            false if !self.forwards(address) => return Err(Stop::Refused(Refuser::Policy)),
            false => drop(self.forwarded(packet, after, inside, change.is_some(), passed)?),
        }
        Ok(There { address, ports: kept(ports), is_own })
    }

    fn forwards(&self, address: IpAddr) -> bool {
        self.rules.forwards.get(usize::from(address.is_ipv6())) != Some(&Some(false))
    }

    /// The first packet through prerouting: what becomes of its destination.
    fn arrive(
        &self,
        packet: Packet<'_>,
        is_local: bool,
        passed: &mut Vec<usize>,
    ) -> (Option<Change>, Result<(), Stop>) {
        let mut flow = Flow {
            packet,
            outgoing: None,
            state: State::New,
            is_changed: false,
            is_local,
            is_reply: false,
            is_hidden: false,
        };
        let mut change: Option<Change> = None;
        for chain in self.at(Hook::Prerouting) {
            if self.is_nat(chain) && change.is_some() {
                continue;
            }
            match self.run(self.base(chain), &flow, passed) {
                Verdict::Change(found) => {
                    let Some(port) = found.ports.of(packet.port) else {
                        return (Some(found), Err(Stop::Unclear(found.by)));
                    };
                    let destination = found.address.unwrap_or(packet.destination);
                    let is_local = found.address.is_none_or(|to| self.own.contains(&to));
                    let packet = Packet { destination, port, ..packet };
                    flow = Flow { packet, is_changed: true, is_local, ..flow };
                    change = Some(found);
                }
                Verdict::Stop(stop) => return (change, Err(stop)),
                Verdict::Return | Verdict::Accept | Verdict::Source(_) => {}
            }
        }
        (change, Ok(()))
    }

    /// A flow that is forwarded: its first packet, a further one, and its reply.
    fn forwarded(
        &self,
        before: Packet<'_>,
        after: Packet<'_>,
        leaves: &str,
        is_changed: bool,
        passed: &mut Vec<usize>,
    ) -> Result<SourceAddress, Stop> {
        let new = Flow {
            packet: after,
            outgoing: Some(leaves),
            state: State::New,
            is_changed,
            is_local: false,
            is_reply: false,
            is_hidden: false,
        };
        let own = self.own.iter().find(|own| own.is_ipv4() == after.source.is_ipv4()).copied();
        let (mut source, mut flow) = (SourceAddress::Client, new);
        for chain in self.at(Hook::Forward).into_iter().chain(self.at(Hook::Postrouting)) {
            match self.run(self.base(chain), &flow, passed) {
                Verdict::Stop(stop) => return Err(stop),
                Verdict::Source(found) if source == SourceAddress::Client => {
                    source = found;
                    flow.is_hidden = true;
                    flow.packet.source = own.unwrap_or(after.source);
                }
                Verdict::Source(_) | Verdict::Return | Verdict::Accept | Verdict::Change(_) => {}
            }
        }
        let hidden = own.filter(|_| source != SourceAddress::Client);
        let reply = Packet {
            interface: leaves,
            source: after.destination,
            source_port: after.port,
            destination: after.source,
            port: after.source_port,
            protocol: after.protocol,
        };
        // Until its destination is changed back, a reply is for the source that the far end saw.
        let early = Packet { destination: hidden.unwrap_or(reply.destination), ..reply };
        let state = State::Established;
        let later = Flow { state, is_hidden: hidden.is_some(), ..new };
        let reply_out = Flow { packet: reply, outgoing: Some(before.interface), is_reply: true, ..later };
        let first = Flow { packet: before, outgoing: None, is_local: is_changed, ..later };
        let reply_in =
            Flow { packet: early, outgoing: None, is_local: hidden.is_some(), is_reply: true, ..later };
        self.pass_in(first, Flow { outgoing: None, ..later }, passed)?;
        self.pass(&[Hook::Forward, Hook::Postrouting], &later, passed)?;
        self.pass_in(reply_in, Flow { outgoing: None, ..reply_out }, passed)?;
        self.pass(&[Hook::Forward, Hook::Postrouting], &reply_out, passed)?;
        Ok(source)
    }

    /// A flow that the machine itself gets: its first packet, a further one, and its reply.
    fn received(
        &self,
        before: Packet<'_>,
        after: Packet<'_>,
        is_changed: bool,
        passed: &mut Vec<usize>,
    ) -> Result<(), Stop> {
        let new = Flow {
            packet: after,
            outgoing: None,
            state: State::New,
            is_changed,
            is_local: true,
            is_reply: false,
            is_hidden: false,
        };
        self.pass(&[Hook::Input], &new, passed)?;
        let later = Flow { state: State::Established, ..new };
        self.pass_in(Flow { packet: before, ..later }, later, passed)?;
        self.pass(&[Hook::Input], &later, passed)?;
        let reply = Packet {
            interface: "",
            source: after.destination,
            source_port: after.port,
            destination: after.source,
            port: after.source_port,
            protocol: after.protocol,
        };
        let reply =
            Flow { packet: reply, outgoing: Some(self.tunnel), is_local: false, is_reply: true, ..later };
        self.pass(&[Hook::Output, Hook::Postrouting], &reply, passed)
    }

    /// A further packet or a reply through prerouting: before its destination is changed, and then.
    fn pass_in(&self, before: Flow<'_>, after: Flow<'_>, passed: &mut Vec<usize>) -> Result<(), Stop> {
        for chain in self.at(Hook::Prerouting).into_iter().filter(|chain| !self.is_nat(chain)) {
            let is_early = chain.base.is_some_and(|base| base.priority < NAT);
            let flow = if is_early { &before } else { &after };
            if let Verdict::Stop(stop) = self.run(self.base(chain), flow, passed) {
                return Err(stop);
            }
        }
        Ok(())
    }

    /// Packets through what is no NAT at these hooks.
    fn pass(&self, hooks: &[Hook], flow: &Flow<'_>, passed: &mut Vec<usize>) -> Result<(), Stop> {
        let chains = hooks.iter().flat_map(|hook| self.at(*hook)).filter(|chain| !self.is_nat(chain));
        for chain in chains {
            if let Verdict::Stop(stop) = self.run(self.base(chain), flow, passed) {
                return Err(stop);
            }
        }
        Ok(())
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
                Is::Unclear => return Verdict::Stop(Stop::Unclear(number)),
                Is::Yes if passed.len() >= MOST_PASSED => return Verdict::Stop(Stop::Unclear(number)),
                Is::Yes => passed.push(number),
            }
            match self.act(within, (rule, number), flow, passed) {
                Some(Verdict::Return) => break,
                Some(verdict) => return verdict,
                None => {}
            }
        }
        if within.depth == 0 && chain.refuses {
            Verdict::Stop(Stop::Refused(Refuser::Policy))
        } else {
            Verdict::Return
        }
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
        let unclear = Verdict::Stop(Stop::Unclear(number));
        Some(match &rule.action {
            Action::Accept => Verdict::Accept,
            Action::Refuse => Verdict::Stop(Stop::Refused(Refuser::Rule(number))),
            Action::Return => Verdict::Return,
            // The kernel has no such rule outside a chain of NAT.
            Action::Dnat(_) | Action::Redirect(_) | Action::Masquerade | Action::Snat(_)
                if !within.is_nat =>
            {
                unclear
            }
            Action::Dnat(Target { address, ports }) if has_state => {
                Verdict::Change(Change { address: Some(*address), ports: *ports, by: number })
            }
            Action::Redirect(ports) if has_state => {
                Verdict::Change(Change { address: None, ports: *ports, by: number })
            }
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
                    return Some(unclear);
                };
                let within = Within { chain: into, depth: within.depth + 1, ..within };
                let verdict = self.run(within, flow, passed);
                if matches!((&verdict, &rule.action), (Verdict::Return, Action::Jump(_))) {
                    return None;
                }
                verdict
            }
            Action::Unclear => unclear,
            Action::Dnat(_)
            | Action::Redirect(_)
            | Action::Masquerade
            | Action::Snat(_)
            | Action::ClampMss
            | Action::Nothing => return None,
        })
    }

    fn fits(&self, rule: &Rule, flow: &Flow<'_>) -> Is {
        // Of the replies only the first has SYN, so what is asked of it is not true of all.
        let is_open = |condition: &Condition| condition.kind == Kind::AnySyn && flow.is_reply;
        if !rule.conditions.iter().all(|condition| is_open(condition) || condition.holds(flow)) {
            return Is::No;
        }
        if let Action::Dnat(Target { address, .. }) | Action::Snat(address) = &rule.action
            && address.is_ipv4() != flow.packet.source.is_ipv4()
        {
            return Is::No;
        }
        if rule.unread.is_some() || rule.conditions.iter().any(is_open) { Is::Unclear } else { Is::Yes }
    }
}

/// A port within a range is kept.
const fn kept(ports: Ports) -> Ports {
    match ports {
        Ports::Within(first, last) if first != last => Ports::Same,
        Ports::Same | Ports::One(_) | Ports::Shifted { .. } | Ports::Within(..) => ports,
    }
}

/// Whether the chains of a program see packets of this family.
fn is_of_family(space: &str, address: IpAddr) -> bool {
    match space {
        "nft ip" => address.is_ipv4(),
        "nft ip6" => address.is_ipv6(),
        space if space.ends_with("ip6tables") => address.is_ipv6(),
        space if space.ends_with("iptables") => address.is_ipv4(),
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
                states.contains(&flow.state)
                    || (flow.is_changed && states.contains(&State::Dnat))
                    || (flow.is_hidden && states.contains(&State::Snat))
            }
            Kind::Syn | Kind::AnySyn => packet.protocol == Protocol::Tcp && flow.state == State::New,
            Kind::Local => flow.is_local,
            Kind::IsIpv6 => packet.source.is_ipv6(),
            Kind::Never => false,
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
