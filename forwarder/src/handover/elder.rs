//! What the newer process knows of the elder: which flows are its, and until when.

use std::collections::HashSet;

use tunnel::time::Instant;

use crate::flow::FlowKey;

/// A flow of the elder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ElderFlow {
    /// TCP or UDP, as in the IP header.
    pub protocol: u8,
    /// Its edge and ends.
    pub key: FlowKey,
}

/// Which process a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// This one.
    Own,
    /// The elder.
    Elder,
}

/// The elder, as long as it has flows.
#[derive(Debug)]
pub struct Elder {
    flows: HashSet<ElderFlow>,
    limit: usize,
    is_complete: bool,
    ends: Instant,
}

impl Elder {
    /// An elder that has not reported any flow yet. It may have `limit` flows, as `[limits] flows`
    /// has it, and they end at `ends` at the latest.
    #[must_use]
    pub fn new(limit: usize, ends: Instant) -> Self {
        Self { flows: HashSet::new(), limit, is_complete: false, ends }
    }

    /// Takes flows that it has. Returns how many were beyond the limit: their packets are treated as
    /// those of unknown flows.
    pub fn handle_flows(&mut self, flows: impl IntoIterator<Item = ElderFlow>) -> usize {
        let mut beyond = 0;
        for flow in flows {
            if self.flows.len() < self.limit || self.flows.contains(&flow) {
                self.flows.insert(flow);
            } else {
                beyond += 1;
            }
        }
        beyond
    }

    /// It has reported all of its flows: the tunnel can be taken over.
    pub const fn handle_ready(&mut self) {
        self.is_complete = true;
    }

    /// One of its flows has ended: the next packet of that key begins a flow here.
    pub fn handle_ended(&mut self, flow: &ElderFlow) {
        self.flows.remove(flow);
    }

    /// Whether it has reported all of its flows.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whose a packet is. What opens a flow with the key of one of the elder's is the elder's too,
    /// which knows whether that is the same flow, still opening.
    #[must_use]
    pub fn keeper(&self, flow: &ElderFlow) -> Keeper {
        if self.flows.contains(flow) { Keeper::Elder } else { Keeper::Own }
    }

    /// How many flows it has, for `status` and the metrics.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Whether nothing is left for it: its flows have ended, or their time is over.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.is_complete && self.flows.is_empty() || now >= self.ends
    }

    /// When its time is over.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.ends
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tunnel::packet::protocol;

    use super::*;
    use crate::flow::EdgeId;

    #[test]
    fn packets_of_its_flows_are_the_elders_until_the_flow_ends() {
        let mut elder = Elder::new(10, at(30));
        assert_eq!(elder.handle_flows([flow(1), flow(2)]), 0);
        elder.handle_ready();
        assert_eq!(elder.keeper(&flow(1)), Keeper::Elder);
        assert_eq!(elder.keeper(&flow(3)), Keeper::Own);
        let udp = ElderFlow { protocol: protocol::UDP, ..flow(1) };
        assert_eq!(elder.keeper(&udp), Keeper::Own, "the same ends in another protocol");
        elder.handle_ended(&flow(1));
        assert_eq!(elder.keeper(&flow(1)), Keeper::Own);
        assert_eq!(elder.flows(), 1);
    }

    #[test]
    fn it_is_over_after_its_last_flow_or_its_time_and_not_before_it_has_reported_all() {
        let mut elder = Elder::new(10, at(30));
        assert!(!elder.is_over(at(0)), "it has not reported anything");
        elder.handle_flows([flow(1)]);
        elder.handle_ended(&flow(1));
        assert!(!elder.is_over(at(1)), "more may come");
        elder.handle_ready();
        assert!(elder.is_complete() && elder.is_over(at(1)));

        let mut elder = Elder::new(10, at(30));
        elder.handle_flows([flow(1)]);
        elder.handle_ready();
        assert!(!elder.is_over(at(29)));
        assert!(elder.is_over(elder.deadline()), "a flow that never ends");
        // One that never reports is over as well.
        assert!(Elder::new(10, at(30)).is_over(at(30)));
    }

    #[test]
    fn flows_beyond_the_limit_are_not_taken_and_one_that_is_named_twice_counts_once() {
        let mut elder = Elder::new(2, at(30));
        assert_eq!(elder.handle_flows([flow(1), flow(1), flow(2), flow(3), flow(1)]), 1);
        assert_eq!(elder.flows(), 2);
        assert_eq!(elder.keeper(&flow(3)), Keeper::Own);
        elder.handle_ended(&flow(1));
        assert_eq!(elder.handle_flows([flow(3)]), 0, "there is room again");
    }

    fn flow(port: u16) -> ElderFlow {
        let end = |address: [u8; 4], port| std::net::SocketAddr::from((address, port));
        let (local, remote) = (end([192, 168, 88, 2], 443), end([203, 0, 113, 10], port));
        ElderFlow { protocol: protocol::TCP, key: FlowKey { edge: EdgeId(0), local, remote } }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(seconds))
    }
}
