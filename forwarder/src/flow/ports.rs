//! Source ports of reached flows: not in use, and not used towards the same target a short while
//! ago.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use policy::forwarder::SourcePort;
use tunnel::time::Instant;

use super::key::{EdgeId, FlowKey};

/// How long a port rests before it is used again towards the same target: one maximum segment
/// lifetime there and back, so that neither the target's TIME-WAIT nor a NAT on the path takes the
/// new flow for the old one.
pub const QUARANTINE: Duration = Duration::from_secs(60);

/// Ports that NFS servers take for privileged, without those below 600 that other services own.
const PRIVILEGED: RangeInclusive<u16> = 600..=1023;
/// The dynamic ports of RFC 6335.
const DYNAMIC: RangeInclusive<u16> = 49152..=65535;

/// Allocates source ports; bounded by the number of ports that can rest within [`QUARANTINE`].
#[derive(Debug, Default)]
pub struct Ports {
    resting: HashSet<FlowKey>,
    order: VecDeque<(Instant, FlowKey)>,
    next: u16,
}

/// Most keys that may rest; beyond it the oldest are free early.
const MAX_RESTING: usize = 65_536;

impl Ports {
    /// A port allocator that starts at `seed`, so that a restart does not use the same ports again.
    #[must_use]
    pub fn new(seed: u16) -> Self {
        Self { next: seed, ..Self::default() }
    }

    /// A key for a new flow to `remote` whose port is neither resting nor `in_use`; `None` when all
    /// are.
    pub fn allocate(
        &mut self,
        now: Instant,
        edge: EdgeId,
        ends: (SocketAddr, SocketAddr),
        kind: SourcePort,
        in_use: impl Fn(&FlowKey) -> bool,
    ) -> Option<FlowKey> {
        self.expire(now);
        let range = match kind {
            SourcePort::Any => DYNAMIC,
            SourcePort::Privileged => PRIVILEGED,
        };
        let (mut local, remote) = ends;
        let count = range.end() - range.start() + 1;
        for _ in 0..count {
            let port = range.start() + self.next % count;
            self.next = self.next.wrapping_add(1);
            local.set_port(port);
            let key = FlowKey { edge, local, remote };
            if !self.resting.contains(&key) && !in_use(&key) {
                return Some(key);
            }
        }
        None
    }

    /// The flow is over: its port rests.
    pub fn release(&mut self, now: Instant, key: FlowKey) {
        if self.order.len() >= MAX_RESTING
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.resting.remove(&oldest);
        }
        if self.resting.insert(key) {
            self.order.push_back((now.after(QUARANTINE), key));
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((until, key)) = self.order.front()
            && *until <= now
        {
            self.resting.remove(key);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: EdgeId = EdgeId(0);

    #[test]
    fn a_privileged_port_is_between_600_and_1023() {
        let mut ports = Ports::new(12_345);
        let key = ports.allocate(at(0), EDGE, ends(), SourcePort::Privileged, |_| false).unwrap();
        assert!((600..=1023).contains(&key.local.port()));
    }

    #[test]
    fn every_port_is_used_before_there_is_none() {
        let mut ports = Ports::new(9);
        let mut used = HashSet::new();
        while let Some(key) =
            ports.allocate(at(0), EDGE, ends(), SourcePort::Privileged, |key| used.contains(key))
        {
            assert!(used.insert(key));
        }
        assert_eq!(used.len(), 424);
    }

    #[test]
    fn a_port_rests_for_a_minute() {
        let mut ports = Ports::new(0);
        for _ in 0..424 {
            let key = ports.allocate(at(0), EDGE, ends(), SourcePort::Privileged, |_| false).unwrap();
            ports.release(at(0), key);
        }
        assert!(ports.allocate(at(59), EDGE, ends(), SourcePort::Privileged, |_| false).is_none());
        assert!(ports.allocate(at(60), EDGE, ends(), SourcePort::Privileged, |_| false).is_some());
    }

    #[test]
    fn a_resting_port_is_free_towards_another_target() {
        let mut ports = Ports::new(0);
        for _ in 0..424 {
            let key = ports.allocate(at(0), EDGE, ends(), SourcePort::Privileged, |_| false).unwrap();
            ports.release(at(0), key);
        }
        let other = (ends().0, "192.168.1.2:111".parse().unwrap());
        assert!(ports.allocate(at(1), EDGE, other, SourcePort::Privileged, |_| false).is_some());
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(seconds))
    }

    fn ends() -> (SocketAddr, SocketAddr) {
        ("10.77.88.2:0".parse().unwrap(), "192.168.1.2:2049".parse().unwrap())
    }
}
