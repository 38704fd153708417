//! What must happen to a packet that opens a flow, computed from the documented meaning of the
//! configuration.
//!
//! This is the reference: tests compare the compiled rules with it in a real kernel. It shares no
//! code with the compiler: it reads the policy entry by entry, as `configs/gateway.toml` describes
//! it. Rates, counts and bandwidths are not part of it, since they depend on what went before.

mod case;
mod places;
mod types;

use self::case::Case;
pub use self::types::{Arrival, Entry, Judgement, Outcome, Packet, Redirect, Surroundings, Transport};
use crate::gateway::Policy;

/// Decides about the first packet of a flow.
#[must_use]
pub fn evaluate(policy: &Policy, surroundings: &Surroundings, packet: &Packet) -> Outcome {
    judge(policy, surroundings, packet).outcome
}

/// Decides about the first packet of a flow, and returns the entry that decided.
#[must_use]
pub fn judge<'p>(policy: &'p Policy, surroundings: &Surroundings, packet: &Packet) -> Judgement<'p> {
    Case::new(policy, surroundings, packet).judge()
}
