//! What a sender gets whose packet has nowhere to go: ICMP "host unreachable", at a bounded rate.

use crate::packet::Ip;
use crate::packet::icmp::Error;
use crate::reason::DropReason;
use crate::time::Instant;

/// Errors that may leave at once after a pause.
const BURST: u64 = 50;
/// Errors per second in the long run, as many as Linux sends (`icmp_msgs_per_sec`).
const PER_SECOND: u64 = 1000;

/// Builds the errors of one sending thread.
pub(super) struct Unreachable {
    credit: u64,
    counted_at: Instant,
}

impl Unreachable {
    pub(super) const fn new(now: Instant) -> Self {
        Self { credit: BURST, counted_at: now }
    }

    /// The error for the sender of `packet`, which was dropped for `reason`; `None` where no error
    /// may be sent.
    ///
    /// Its source is the destination: an address of this machine would be a martian on its way in.
    pub(super) fn error_for(&mut self, now: Instant, reason: DropReason, packet: &[u8]) -> Option<Vec<u8>> {
        if !matches!(reason, DropReason::NoPeer | DropReason::NoEndpoint | DropReason::NoSession) {
            return None;
        }
        let earned = u64::try_from(now.since(self.counted_at).as_millis()).unwrap_or(u64::MAX);
        if earned > 0 {
            self.credit = self.credit.saturating_add(earned.saturating_mul(PER_SECOND) / 1000).min(BURST);
            self.counted_at = now;
        }
        let ip = Ip::parse(packet).ok()?;
        let rest = self.credit.checked_sub(1)?;
        let error = Error::HostUnreachable.build(packet, ip.dst)?;
        self.credit = rest;
        Some(error)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_packet_without_a_peer_is_answered_by_an_error_that_quotes_it() {
        let answer = Unreachable::new(at(0)).error_for(at(0), DropReason::NoPeer, &packet()).unwrap();

        assert_eq!(answer[9], 1, "ICMP");
        assert_eq!(&answer[12..20], [192, 0, 2, 9, 10, 0, 0, 1]);
        assert_eq!(&answer[20..22], [3, 1]);
        assert_eq!(&answer[28..], packet());
    }

    #[test]
    fn only_packets_that_have_nowhere_to_go_are_answered() {
        let mut unreachable = Unreachable::new(at(0));
        for reason in DropReason::ALL {
            let answered = unreachable.error_for(at(0), *reason, &packet()).is_some();
            let nowhere =
                matches!(reason, DropReason::NoPeer | DropReason::NoEndpoint | DropReason::NoSession);
            assert_eq!(answered, nowhere, "{reason:?}");
        }
    }

    #[test]
    fn answers_are_bounded_at_once_and_in_the_long_run() {
        let mut unreachable = Unreachable::new(at(0));
        let mut answers = |now| {
            (0..200).filter(|_| unreachable.error_for(now, DropReason::NoPeer, &packet()).is_some()).count()
        };

        assert_eq!(answers(at(0)), 50);
        assert_eq!(answers(at(10)), 10);
        assert_eq!(answers(at(60_000)), 50);
    }

    fn at(milliseconds: u64) -> Instant {
        Instant::from_boot(Duration::from_millis(milliseconds))
    }

    /// An empty UDP datagram from 10.0.0.1 to 192.0.2.9.
    fn packet() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 192, 0, 2, 9];
        packet.extend([0, 1, 0, 2, 0, 8, 0, 0]);
        packet
    }
}
