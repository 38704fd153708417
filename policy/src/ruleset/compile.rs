//! From a policy to the whole table.

use super::chains::Chains;
use super::{Ruleset, services, sets};
use crate::gateway::Policy;

pub(super) fn compile(policy: &Policy, mtu: u16) -> Ruleset {
    let marks = services::assign(policy);
    let mut table_sets = sets::places(policy);
    table_sets.extend(sets::publishes(policy, &marks));
    table_sets.extend(sets::accounts(policy, &marks));
    table_sets.extend(sets::allow_lists(policy, &marks));
    table_sets.extend(sets::meters(policy));
    let (chains, drops) = Chains::new(policy, &marks, mtu).build();
    Ruleset { chains, sets: table_sets, services: marks, drops }
}
