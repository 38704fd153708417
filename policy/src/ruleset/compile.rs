//! From a policy to the whole table.

use super::chains::Chains;
use super::{Ruleset, links, reply_path, services, sets};
use crate::conditions::Conditions;
use crate::gateway::Policy;

pub(super) fn compile(policy: &Policy, mtu: u16, conditions: &Conditions) -> Ruleset {
    let marks = services::assign(policy, &conditions.marks);
    let mut table_sets = sets::places(policy);
    table_sets.extend(links::sets(&conditions.trust));
    table_sets.extend(reply_path::sets(policy, conditions));
    table_sets.extend(sets::publishes(policy, &marks));
    table_sets.extend(sets::accounts(policy, &marks));
    table_sets.extend(sets::allow_lists(policy, &marks));
    table_sets.extend(sets::to_wan(policy, &marks));
    table_sets.extend(sets::peers(policy));
    table_sets.extend(sets::link(policy, &conditions.link));
    table_sets.extend(sets::meters(policy));
    let (chains, drops) = Chains::new(policy, &marks, mtu).build(conditions);
    Ruleset { chains, sets: table_sets, services: marks, drops }
}
