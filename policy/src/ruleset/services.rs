//! Conntrack marks and counters: how rules, metrics and listings know a service.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Name;
use crate::gateway::Policy;

/// The lowest number of what a peer publishes by itself; `[[publish]]` entries have the numbers
/// below it, so that no grant takes the number of one.
const FIRST_GRANT: u16 = 0x6000;
/// The lowest number of an `[[allow]]` entry; publishes have the numbers below it.
const FIRST_ALLOW: u16 = 0x8000;
/// The number of flows from the WAN that `[wan] accept` lets in.
pub(super) const ACCEPTED: u16 = 0xffff;

/// Which bits of a conntrack mark say that it is ours.
pub(super) const OURS: u32 = 0xffff_0000;
/// Which bits say that it is ours, and whether it is that of a publish (0) or of an allow.
pub(super) const OURS_AND_KIND: u32 = 0xffff_8000;
/// The bit that distinguishes allows from publishes.
pub(super) const ALLOW_BIT: u32 = FIRST_ALLOW as u32;

/// A service with the conntrack mark of its flows.
///
/// A service keeps its mark for as long as it is in the table, whatever other services come and go,
/// since its flows carry it. A new one gets the mark that its name gives: FNV-1a in the numbers of
/// its kind, and the next free one when another has it. What peers publish by themselves has numbers
/// of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceMark {
    /// Name in the configuration.
    pub name: Name,
    /// What kind of entry it is.
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

/// A reason to drop a packet, with the named counter that counts it; `stage` and `reason` are
/// metric labels.
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

/// Gives every publish and allow its mark; publishes first, each kind in the order of the policy.
pub(super) fn assign(policy: &Policy, before: &[ServiceMark]) -> Vec<ServiceMark> {
    let assigned = |kind, is_granted, names: Vec<&Name>, (low, high): (u16, u16)| {
        let is_own = |service: &&ServiceMark| service.kind == kind && service.name.is_granted() == is_granted;
        let own = before.iter().filter(is_own);
        let number = |service: &ServiceMark| service.mark.checked_sub(policy.kernel.ct_mark);
        let kept = own
            .filter_map(|service| Some((service.name.clone(), u16::try_from(number(service)?).ok()?)))
            .filter(|(_, number)| (low..=high).contains(number));
        numbers(names, (low, high), &kept.collect())
    };
    let (granted, own): (Vec<&Name>, Vec<&Name>) =
        policy.publish.iter().map(|publish| &publish.name).partition(|name| name.is_granted());
    let mut publishes = assigned(ServiceKind::Publish, false, own, (1, FIRST_GRANT - 1));
    publishes.extend(assigned(ServiceKind::Publish, true, granted, (FIRST_GRANT, FIRST_ALLOW - 1)));
    let names = policy.allow.iter().map(|allow| &allow.name).collect();
    let allows = assigned(ServiceKind::Allow, false, names, (FIRST_ALLOW, ACCEPTED - 1));
    let service = |kind, name: &Name, numbers: &BTreeMap<Name, u16>| {
        let mark = policy.kernel.ct_mark | u32::from(numbers.get(name).copied().unwrap_or(0));
        ServiceMark { name: name.clone(), kind, mark }
    };
    let publish = policy.publish.iter().map(|entry| service(ServiceKind::Publish, &entry.name, &publishes));
    let allow = policy.allow.iter().map(|entry| service(ServiceKind::Allow, &entry.name, &allows));
    publish.chain(allow).collect()
}

/// A number from `low` to `high` for each name: the one that it had, else one that is and was free;
/// there are more numbers than names of any kind, so there is one.
fn numbers(names: Vec<&Name>, (low, high): (u16, u16), kept: &BTreeMap<Name, u16>) -> BTreeMap<Name, u16> {
    let span = u32::from(high - low) + 1;
    let mut sorted = names;
    sorted.sort_unstable();
    let mut taken: BTreeSet<u32> =
        kept.values().map(|number| u32::from(number.saturating_sub(low))).collect();
    let mut numbers = BTreeMap::new();
    let mut given = BTreeSet::new();
    for name in sorted {
        // Of two names that were kept with one number, the first has it.
        if let Some(&number) = kept.get(name).filter(|number| given.insert(**number)) {
            numbers.insert(name.clone(), number);
            continue;
        }
        let start = fnv1a(name.as_str()) % span;
        let mut tried = (0..span).map(|step| (start + step) % span);
        if let Some(offset) = tried.find(|offset| !taken.contains(offset)) {
            taken.insert(offset);
            numbers.insert(name.clone(), low.saturating_add(u16::try_from(offset).unwrap_or(0)));
        }
    }
    numbers
}

/// The marks of the services in a table, from what `nft -j list table` prints; none where there is
/// no table.
///
/// The kernel outlives the daemon, and so does what its flows are marked with.
#[must_use]
pub fn marks_in_force(listing: &str) -> Vec<ServiceMark> {
    let listing: Value = serde_json::from_str(listing).unwrap_or_default();
    let objects = listing.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let maps = objects.filter_map(|object| object.get("map"));
    let counters = maps.filter(|map| map.get("name").and_then(Value::as_str) == Some("count_in"));
    let elements = counters.filter_map(|map| map.get("elem")?.as_array()).flatten();
    elements
        .filter_map(|element| {
            let [mark, counter] = element.as_array()?.as_slice() else { return None };
            let (kind, name) = counter.as_str()?.split_once("_in_")?;
            let kind = [ServiceKind::Publish, ServiceKind::Allow]
                .into_iter()
                .find(|known| known.as_str() == kind)?;
            let name = Name::new(name).or_else(|| Name::granted(name))?;
            Some(ServiceMark { name, kind, mark: u32::try_from(mark.as_u64()?).ok()? })
        })
        .collect()
}

/// The 32-bit hash of Fowler, Noll and Vo (RFC 9923), stable over versions and machines.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::Source;
    use crate::gateway::parse;

    #[test]
    fn a_service_whose_name_collides_takes_no_other_services_mark() {
        let before = assign(&policy(&["https"]), &[]);
        let alone = assign(&policy(&["a48607"]), &[]);
        assert_eq!(before[0].mark, alone[0].mark, "the names do not collide any more; find others");

        let both = assign(&policy(&["a48607", "https"]), &before);

        assert_eq!(both[1].mark, before[0].mark);
        assert_ne!(both[0].mark, both[1].mark);
        let again = assign(&policy(&["a48607"]), &both);
        assert_eq!(again[0].mark, both[0].mark, "it moved when the other went");
    }

    #[test]
    fn marks_are_read_back_from_the_table_in_force() {
        let services = assign(&policy(&["https", "a_in_b"]), &[]);
        let elements: Vec<_> =
            services.iter().map(|service| json!([service.mark, service.counter_in()])).collect();
        let map =
            json!({"map": {"family": "inet", "table": "causeway", "name": "count_in", "elem": elements}});
        let listing = json!({"nftables": [{"metainfo": {}}, map]}).to_string();

        assert_eq!(marks_in_force(&listing), services);
        for damaged in
            ["", "{}", "[1", r#"{"nftables":[{"map":{"name":"count_in","elem":[[1],"x",["a","b"]]}}]}"#]
        {
            assert_eq!(marks_in_force(damaged), []);
        }
    }

    fn policy(names: &[&str]) -> Policy {
        let mut text = String::from(
            "[interface]\naddress = [\"10.77.88.1/30\"]\nprivate_key_file = \"k\"\n[[peer]]\nname = \"w\"\n\
             public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nallowed_ips = [\"192.168.88.0/24\"]\n",
        );
        for (port, name) in (443..).zip(names) {
            text.push_str(&format!(
                "[[publish]]\nname = \"{name}\"\nlisten = \"{port}\"\ntarget = \"192.168.88.2:{port}\"\n"
            ));
        }
        parse(&Source { name: Path::new("gateway.toml"), text: &text }).unwrap()
    }
}
