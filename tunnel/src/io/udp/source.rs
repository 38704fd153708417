//! The one address that a socket may send from, which moves between two machines.
//!
//! Whoever has the address sends; the other machine must be silent, also when it was frozen while the
//! address went, so an answer is believed for a second only.

use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;

use crate::endpoint::LocalSide;
use crate::time::Instant;

/// How long the answer counts whether the address is here.
const BELIEVED: Duration = Duration::from_secs(1);

/// The address, and whether it was here when last asked.
#[derive(Debug)]
pub(super) struct Source {
    local: LocalSide,
    asked: Mutex<Option<(Instant, bool)>>,
}

impl Source {
    pub(super) const fn new(address: IpAddr) -> Self {
        Self { local: LocalSide { address, interface: 0 }, asked: Mutex::new(None) }
    }

    pub(super) const fn local(&self) -> LocalSide {
        self.local
    }

    /// Whether a datagram may leave at `now`; asks `is_own` again when the last answer is old.
    pub(super) fn may_send(&self, now: Instant, is_own: impl FnOnce(IpAddr) -> bool) -> bool {
        let mut asked = self.asked.lock();
        match *asked {
            Some((at, is_here)) if now.since(at) < BELIEVED => is_here,
            _ => {
                let is_here = is_own(self.local.address);
                *asked = Some((now, is_here));
                is_here
            }
        }
    }

    /// Takes what was found out at `now`.
    pub(super) fn set(&self, now: Instant, is_here: bool) {
        *self.asked.lock() = Some((now, is_here));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_without_the_address_and_the_answer_is_old_after_a_second() {
        let source = Source::new("192.0.2.2".parse().unwrap());
        assert!(!source.may_send(at(0), |_| false));
        assert!(!source.may_send(at(999), |_| panic!("asked too early")));
        assert!(source.may_send(at(1_000), |_| true));
        // A machine that was frozen in between asks before it sends.
        assert!(!source.may_send(at(60_000), |_| false));
    }

    #[test]
    fn what_was_found_out_counts_at_once() {
        let source = Source::new("192.0.2.2".parse().unwrap());
        assert!(source.may_send(at(0), |_| true));
        source.set(at(10), false);
        assert!(!source.may_send(at(11), |_| panic!("it is known")));
        source.set(at(12), true);
        assert!(source.may_send(at(13), |_| panic!("it is known")));
    }

    fn at(milliseconds: u64) -> Instant {
        Instant::from_boot(Duration::from_millis(milliseconds))
    }
}
