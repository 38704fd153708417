//! The packet mark by which a reply leaves by the uplink that its flow came in by.

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use super::Set;
use super::json::{Family, daddr, direction, equal, mapped, meta, rule, set_of, unequal};
use super::sets::{fixed, prefixes};
use crate::conditions::Conditions;
use crate::gateway::Policy;

/// From the addresses of uplinks to their marks, and the networks to which replies go by their own
/// routes.
pub(super) fn sets(policy: &Policy, conditions: &Conditions) -> Vec<Set> {
    let mut sets = Vec::new();
    for family in Family::BOTH {
        let digit = family.digit();
        let (mut marks, mut public) = (Vec::new(), Vec::new());
        for uplink in &conditions.uplinks {
            let own = uplink.addresses.iter().filter(|address| address.is_ipv6() == family.is_ipv6());
            for address in own {
                marks.push(json!([address.to_string(), uplink.mark(policy)]));
                if !policy.lan.iter().any(|lan| lan.contains(*address)) {
                    public.push(json!(address.to_string()));
                }
            }
        }
        let kind = json!({"type": family.address_type(), "map": "mark"});
        sets.push(fixed(format!("uplinks{digit}"), kind, marks));
        // The edge's own programs reach services by these addresses, which are those of the public
        // name.
        sets.push(fixed(format!("public{digit}"), json!({"type": family.address_type()}), public));
        sets.push(prefixes(format!("near{digit}"), family, near(policy, conditions)));
    }
    sets
}

/// The LAN, containers and the tunnel, which are behind no uplink.
fn near(policy: &Policy, conditions: &Conditions) -> impl Iterator<Item = IpNetwork> {
    let lan = policy.lan.iter().copied();
    let containers = conditions.trust.container_networks.iter().copied();
    lan.chain(containers).chain(policy.tunnel_prefixes())
}

/// Marks replies; a packet that has a mark keeps it, but for the outer socket's own `fwmark`.
pub(super) fn rules(policy: &Policy) -> Vec<Value> {
    Family::BOTH.into_iter().map(|family| mark_reply(policy, family)).collect()
}

fn mark_reply(policy: &Policy, family: Family) -> Value {
    let original = json!({"ct": {"key": format!("{} daddr", family.header()), "dir": "original"}});
    let unmarked = set_of([json!(0), json!(policy.kernel.fwmark)]);
    rule([
        direction("reply"),
        equal(&meta("mark"), unmarked),
        unequal(&daddr(family), format!("@near{}", family.digit())),
        json!({"mangle": {"key": meta("mark"), "value": mapped(&original, &format!("uplinks{}", family.digit()))}}),
    ])
}
