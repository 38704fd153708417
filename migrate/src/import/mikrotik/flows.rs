//! Sets of flows: products of what a rule can ask about, and unions of such products.

use super::ranges::Ranges;

/// A pair of families and sets, of which every combination is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    /// Numbers of the interfaces on which it arrives.
    pub(super) arrives: Ranges,
    /// Numbers of the interfaces by which it leaves.
    pub(super) leaves: Ranges,
    /// Numbers of transport protocols; ICMP and ICMPv6 are echo requests only.
    pub(super) protocols: Ranges,
    pub(super) sources: Ranges,
    pub(super) destinations: Ranges,
    /// Destination ports.
    pub(super) ports: Ranges,
}

/// The most products that one set may have; more are no longer separated.
const MOST: usize = 2_000;

pub(super) const TCP: u128 = 6;
pub(super) const UDP: u128 = 17;
pub(super) const ECHO: u128 = 1;

impl Flow {
    /// Every flow there is.
    pub(super) fn all() -> Self {
        Self {
            arrives: Ranges::all(),
            leaves: Ranges::all(),
            protocols: Ranges::all(),
            sources: Ranges::all(),
            destinations: Ranges::all(),
            ports: Ranges::all(),
        }
    }

    fn parts(&self) -> [&Ranges; 6] {
        [&self.arrives, &self.leaves, &self.protocols, &self.sources, &self.destinations, &self.ports]
    }

    fn from_parts([arrives, leaves, protocols, sources, destinations, ports]: [Ranges; 6]) -> Self {
        Self { arrives, leaves, protocols, sources, destinations, ports }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts().iter().any(|part| part.is_empty())
    }

    /// The replies of a flow; [`ports`](Self::ports) are then their source ports.
    pub(super) fn reversed(&self) -> Self {
        Self {
            arrives: self.leaves.clone(),
            leaves: self.arrives.clone(),
            sources: self.destinations.clone(),
            destinations: self.sources.clone(),
            ..self.clone()
        }
    }

    /// What both hold.
    pub(super) fn and(&self, other: &Self) -> Option<Self> {
        let mut parts = [const { Ranges::empty() }; 6];
        for (part, (mine, theirs)) in parts.iter_mut().zip(self.parts().into_iter().zip(other.parts())) {
            *part = mine.and(theirs);
            if part.is_empty() {
                return None;
            }
        }
        Some(Self::from_parts(parts))
    }

    /// What only this one holds, as products that do not overlap.
    fn minus(&self, other: &Self) -> Vec<Self> {
        let Some(common) = self.and(other) else { return vec![self.clone()] };
        let mut rest = Vec::new();
        let mut left: Vec<Ranges> = self.parts().into_iter().cloned().collect();
        for (at, inside) in common.parts().into_iter().enumerate() {
            let outside = left.get(at).map(|mine| mine.minus(inside)).unwrap_or_default();
            if !outside.is_empty() {
                let mut parts: Vec<Ranges> = left.clone();
                if let Some(part) = parts.get_mut(at) {
                    *part = outside;
                }
                rest.extend(<[Ranges; 6]>::try_from(parts).ok().map(Self::from_parts));
            }
            if let Some(part) = left.get_mut(at) {
                *part = inside.clone();
            }
        }
        rest
    }

    /// Both as one product, when they differ in one part at most.
    fn joined(&self, other: &Self) -> Option<Self> {
        let differing = self.parts().into_iter().zip(other.parts()).filter(|(a, b)| a != b).count();
        if differing > 1 {
            return None;
        }
        let mut parts = [const { Ranges::empty() }; 6];
        for (part, (mine, theirs)) in parts.iter_mut().zip(self.parts().into_iter().zip(other.parts())) {
            *part = if mine == theirs { mine.clone() } else { mine.or(theirs) };
        }
        Some(Self::from_parts(parts))
    }
}

/// A union of products.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flows(Vec<Flow>);

impl Flows {
    pub(super) const fn empty() -> Self {
        Self(Vec::new())
    }

    pub(super) fn of(flow: Flow) -> Self {
        if flow.is_empty() { Self::empty() } else { Self(vec![flow]) }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.0.iter()
    }

    pub(super) fn and(&self, flow: &Flow) -> Self {
        Self(self.0.iter().filter_map(|mine| mine.and(flow)).collect())
    }

    /// What only this set holds; nothing when that cannot be given exactly any more: narrower, never
    /// wider.
    pub(super) fn minus(&self, flow: &Flow) -> Self {
        self.try_minus(flow).unwrap_or_default()
    }

    fn try_minus(&self, flow: &Flow) -> Option<Self> {
        let rest: Vec<Flow> = self.0.iter().flat_map(|mine| mine.minus(flow)).collect();
        (rest.len() <= MOST).then_some(Self(rest))
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        other.0.iter().fold(self.clone(), |rest, flow| rest.minus(flow))
    }

    /// What did not pass, of which nothing may be carried; everything when that cannot be given
    /// exactly any more.
    pub(super) fn refused(&self, passed: &Self) -> Self {
        let rest = passed.0.iter().try_fold(self.clone(), |rest, flow| rest.try_minus(flow));
        rest.unwrap_or_else(|| Self(vec![Flow::all()]))
    }

    pub(super) fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Each product, changed; those that become empty are left out.
    pub(super) fn map(&self, change: impl Fn(&Flow) -> Flow) -> Self {
        Self(self.0.iter().map(change).filter(|flow| !flow.is_empty()).collect())
    }

    /// The same flows in fewer products.
    pub(super) fn merged(mut self) -> Self {
        let mut at = 0;
        while let Some(flow) = self.0.get(at).cloned() {
            let rest = self.0.iter().enumerate().skip(at + 1);
            let found = rest.into_iter().find_map(|(other, with)| Some((other, flow.joined(with)?)));
            match found {
                Some((other, joined)) => {
                    self.0.remove(other);
                    if let Some(place) = self.0.get_mut(at) {
                        *place = joined;
                    }
                    at = 0;
                }
                None => at += 1,
            }
        }
        self.0.sort();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(sources: (u128, u128), ports: (u128, u128)) -> Flow {
        Flow { sources: Ranges::of(sources.0, sources.1), ports: Ranges::of(ports.0, ports.1), ..Flow::all() }
    }

    #[test]
    fn what_is_taken_away_is_gone_and_nothing_else() {
        let all = Flows::of(flow((0, 99), (0, 99)));
        let rest = all.minus(&flow((10, 19), (50, 59))).minus(&flow((0, 99), (90, 200)));
        for source in 0..100 {
            for port in 0..100 {
                let gone = (10..20).contains(&source) && (50..60).contains(&port) || port >= 90;
                let holds = rest.iter().filter(|f| f.sources.contains(source) && f.ports.contains(port));
                assert_eq!(holds.count(), usize::from(!gone), "{source} {port}");
            }
        }
    }

    #[test]
    fn what_is_too_much_to_follow_is_refused_on_both_sides() {
        let mut many = Flows::empty();
        for step in 0..60 {
            many.add(Flows::of(Flow { sources: Ranges::one(step), ports: Ranges::one(step), ..Flow::all() }));
            many.add(Flows::of(Flow {
                leaves: Ranges::one(step),
                arrives: Ranges::one(step + 1),
                ..Flow::all()
            }));
            many.add(Flows::of(Flow {
                protocols: Ranges::one(step),
                leaves: Ranges::one(step),
                ..Flow::all()
            }));
        }
        let all = Flows::of(Flow::all());
        assert!(all.without(&many).is_empty());
        assert_eq!(all.refused(&many), all);
    }

    #[test]
    fn products_that_differ_in_one_part_become_one() {
        let all = Flows::of(flow((0, 99), (0, 99)));
        let mut rest = all.minus(&flow((10, 19), (50, 59)));
        rest.add(Flows::of(flow((10, 19), (50, 59))));
        assert_eq!(rest.merged(), all);
    }
}
