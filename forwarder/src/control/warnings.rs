//! What a person should look at although flows are carried: sentences for `status`, each with its fix.

use tunnel::time::Now;

use super::Shared;

/// Everything to look at now.
#[must_use]
pub fn warnings(shared: &Shared, now: Now) -> Vec<String> {
    clock(shared, now).into_iter().collect()
}

/// The wall clock is one for all edges; each node knows what it used of it.
fn clock(shared: &Shared, now: Now) -> Option<String> {
    shared.edges.iter().find_map(|edge| edge.node.clock_fault(now)).map(|fault| fault.to_string())
}
