//! The way of a flow through the edge and, where its file was read, through the origin.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::super::netfilter::Rule;
use super::super::netfilter::evaluate::{Fate, Packet, Refuser, SourceAddress, Stop, There, Way, World};
use policy::prefix::host;

/// Both machines, or the edge alone. Rules of the origin are numbered on after those of the edge.
pub(super) struct Path<'a> {
    pub(super) edge: &'a World<'a>,
    pub(super) origin: Option<Far<'a>>,
}

/// The origin.
pub(super) struct Far<'a> {
    pub(super) world: World<'a>,
    pub(super) file: &'a str,
    /// Interfaces that may lead to hosts behind it.
    pub(super) inside: &'a [String],
    /// Whose packets it takes from the edge.
    pub(super) allowed: &'a [IpNetwork],
    /// Whether the edge sends what is for an address to this peer.
    pub(super) is_behind: &'a dyn Fn(IpAddr) -> bool,
}

impl Path<'_> {
    /// What happens to a flow from outside; every rule that fits one of its packets is added to
    /// `passed`.
    pub(super) fn fate(&self, packet: Packet<'_>, passed: &mut Vec<usize>) -> Fate {
        let fate = self.edge.fate(packet, passed);
        let (Fate::Tunnel(way), Some(far)) = (fate, &self.origin) else { return fate };
        if !(far.is_behind)(way.address) {
            return fate;
        }
        let mut there = Vec::new();
        let end = self.beyond(packet, way, far, &mut there);
        passed.extend(there.into_iter().map(|number| self.there(number)));
        let dnat = Some(way.by);
        match end {
            Ok(there) => Fate::Tunnel(Way { there: Some(there), ..way }),
            Err(Stop::Unclear(by)) => Fate::Unclear { dnat, by: self.there(by) },
            Err(Stop::Refused(Refuser::Rule(by))) => {
                Fate::Refused { dnat, by: Refuser::Rule(self.there(by)) }
            }
            Err(Stop::Refused(Refuser::Policy)) => Fate::Refused { dnat, by: Refuser::PolicyThere },
            Err(Stop::Refused(by)) => Fate::Refused { dnat, by },
        }
    }

    fn beyond(
        &self,
        packet: Packet<'_>,
        way: Way,
        far: &Far<'_>,
        passed: &mut Vec<usize>,
    ) -> Result<There, Stop> {
        let own = self.edge.own.iter().find(|own| own.is_ipv4() == way.address.is_ipv4());
        let source = match way.source {
            SourceAddress::Client => packet.source,
            SourceAddress::Edge { .. } | SourceAddress::Other { .. } => {
                own.copied().ok_or(Stop::Refused(Refuser::AllowedIps))?
            }
        };
        // Nothing comes in from outside with the edge's own address.
        let is_its_own = |prefix: &IpNetwork| {
            way.source == SourceAddress::Client && self.edge.own.iter().any(|own| host(*prefix) == Some(*own))
        };
        if !far.allowed.iter().any(|prefix| prefix.contains(source) && !is_its_own(prefix)) {
            return Err(Stop::Refused(Refuser::AllowedIps));
        }
        let port = way.ports.of(packet.port).ok_or(Stop::Unclear(way.by))?;
        let interface = far.world.tunnel;
        let packet = Packet { interface, source, destination: way.address, port, ..packet };
        let mut ends = far.inside.iter().map(|inside| far.world.end(packet, inside, passed));
        let first = ends.next().unwrap_or(Err(Stop::Refused(Refuser::PolicyThere)))?;
        for end in ends {
            if end? != first {
                return Err(Stop::Refused(Refuser::OwnOrNot));
            }
        }
        Ok(first)
    }

    fn there(&self, number: usize) -> usize {
        self.edge.rules.rules.len().saturating_add(number)
    }

    /// The number of a rule of the origin in its own file.
    pub(super) fn number_there(&self, number: usize) -> Option<usize> {
        number.checked_sub(self.edge.rules.rules.len())
    }

    /// Whether the origin refuses.
    pub(super) fn is_there(&self, by: Refuser) -> bool {
        match by {
            Refuser::Rule(number) => self.number_there(number).is_some(),
            Refuser::PolicyThere | Refuser::OwnOrNot => true,
            Refuser::Policy | Refuser::AllowedIps => false,
        }
    }

    pub(super) fn rule(&self, number: usize) -> Option<&Rule> {
        match self.number_there(number) {
            None => self.edge.rules.rule(number),
            Some(there) => self.origin.as_ref()?.world.rules.rule(there),
        }
    }

    /// Every rule, those of the origin first: flows reach them later.
    pub(super) fn rules(&self) -> Vec<&Rule> {
        let there = self.origin.iter().flat_map(|far| &far.world.rules.rules);
        there.chain(&self.edge.rules.rules).collect()
    }

    /// Whose packets the origin takes from the edge.
    pub(super) fn allowed(&self) -> &[IpNetwork] {
        self.origin.as_ref().map(|far| far.allowed).unwrap_or_default()
    }

    /// The line of a rule, with its file where that is the origin's.
    pub(super) fn place(&self, number: usize) -> String {
        let line = self.rule(number).map_or(0, |rule| rule.place.line);
        match self.origin.as_ref().filter(|_| self.number_there(number).is_some()) {
            Some(far) => format!("line {line} of {}", far.file),
            None => format!("line {line}"),
        }
    }
}
