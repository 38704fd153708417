//! Conntrack marks and counters: how rules, metrics and listings know a service.

use std::collections::BTreeMap;

use crate::Name;
use crate::gateway::Policy;

/// The lowest number of an `[[allow]]` entry; publishes have the numbers below it.
const FIRST_ALLOW: u16 = 0x8000;
/// The number of flows from the WAN that `[wan] accept` lets in.
pub(super) const ACCEPTED: u16 = 0xffff;

/// Which bits of a conntrack mark say that it is ours.
pub(super) const OURS: u32 = 0xffff_0000;
/// Which bits say that it is ours, and of a publish (0) or an allow.
pub(super) const OURS_AND_KIND: u32 = 0xffff_8000;
/// The bit that tells allows from publishes.
pub(super) const ALLOW_BIT: u32 = FIRST_ALLOW as u32;

/// A service with the conntrack mark of its flows.
///
/// The mark depends on the name, not on the place in the file, so that flows keep theirs through changes of other
/// services: FNV-1a of the name in 15 bits, and the next free number when two names meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceMark {
    /// Name in the configuration.
    pub name: Name,
    /// Where it stands.
    pub kind: ServiceKind,
    /// The conntrack mark of its flows.
    pub mark: u32,
}

/// What kind of entry a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceKind {
    /// `[[publish]]`
    Publish,
    /// `[[allow]]`
    Allow,
}

impl ServiceKind {
    /// The word in names of counters.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Allow => "allow",
        }
    }
}

impl ServiceMark {
    /// The named counter of packets and bytes in the direction of the flow's first packet.
    #[must_use]
    pub fn counter_in(&self) -> String {
        format!("{}_in_{}", self.kind.as_str(), self.name)
    }

    /// The named counter of packets and bytes in the other direction.
    #[must_use]
    pub fn counter_out(&self) -> String {
        format!("{}_out_{}", self.kind.as_str(), self.name)
    }
}

/// A reason to drop a packet, with the named counter that counts it; `stage` and `reason` are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DropCounter {
    /// Where in the packet's way: `prerouting`, `input`, `forward`, `output` or `postrouting`.
    pub stage: &'static str,
    /// Why.
    pub reason: &'static str,
}

impl DropCounter {
    /// The name of the counter.
    #[must_use]
    pub fn counter(&self) -> String {
        format!("drop_{}_{}", self.stage, self.reason)
    }
}

/// Gives every publish and allow its mark; publishes first, each kind in the order of the file.
pub(super) fn assign(policy: &Policy) -> Vec<ServiceMark> {
    let publishes = numbers(policy.publish.iter().map(|publish| &publish.name), 1, FIRST_ALLOW - 1);
    let allows = numbers(policy.allow.iter().map(|allow| &allow.name), FIRST_ALLOW, ACCEPTED - 1);
    let service = |kind, name: &Name, numbers: &BTreeMap<&Name, u16>| {
        let mark = policy.kernel.ct_mark | u32::from(numbers.get(name).copied().unwrap_or(0));
        ServiceMark { name: name.clone(), kind, mark }
    };
    let publish = policy.publish.iter().map(|entry| service(ServiceKind::Publish, &entry.name, &publishes));
    let allow = policy.allow.iter().map(|entry| service(ServiceKind::Allow, &entry.name, &allows));
    publish.chain(allow).collect()
}

/// A number from `low` to `high` for each name; the table is at most half full, so a free one is near.
fn numbers<'n>(names: impl Iterator<Item = &'n Name>, low: u16, high: u16) -> BTreeMap<&'n Name, u16> {
    let span = u32::from(high - low) + 1;
    let mut sorted: Vec<&Name> = names.collect();
    sorted.sort_unstable();
    let mut taken = std::collections::BTreeSet::new();
    let mut numbers = BTreeMap::new();
    for name in sorted {
        let start = fnv1a(name.as_str()) % span;
        let free = (0..span).map(|step| (start + step) % span).find(|offset| !taken.contains(offset));
        if let Some(offset) = free {
            taken.insert(offset);
            numbers.insert(name, low.saturating_add(u16::try_from(offset).unwrap_or(0)));
        }
    }
    numbers
}

/// The 32-bit hash of Fowler, Noll and Vo (RFC 9923), stable over versions and machines.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
