//! Paths that lose long packets without an ICMP error: a router's message that a packet was too big
//! is lost too, or was never sent.
//!
//! Where timeouts follow one another a short segment is tried. When that arrives and what follows
//! it in full size does not, long packets are lost on this path (black hole detection in the terms
//! of RFC 8899 §4.3 and RFC 4821 §7.7). An outage is none: when it is over, long ones arrive again.

/// Bytes of payload that every link carries: IPv6's least MTU of 1280 (RFC 8200 §5), less its
/// header and TCP's.
pub(super) const SHORT: u64 = 1_220;
/// Timeouts in a row before a short segment is tried.
const STALLS: u32 = 2;

/// What timeouts have shown about long packets.
#[derive(Debug, Default)]
pub(super) struct BlackHole {
    /// Timeouts since something was last acknowledged.
    stalls: u32,
    trial: Trial,
    is_found: bool,
}

/// A short segment that was sent in place of a long one, by where it ends.
#[derive(Debug, Default)]
enum Trial {
    #[default]
    None,
    UnderWay(u64),
    Arrived(u64),
}

impl BlackHole {
    /// Whether segments are to be short for now.
    pub(super) fn is_trying(&self, segment: usize) -> bool {
        self.stalls >= STALLS && segment as u64 > SHORT
    }

    /// The first unacknowledged bytes left again, in a segment that is short on purpose and ends
    /// here.
    pub(super) fn handle_short(&mut self, end: u64) {
        self.trial = Trial::UnderWay(end);
    }

    /// Something was acknowledged, all up to here.
    pub(super) fn handle_progress(&mut self, acknowledged: u64) {
        self.stalls = 0;
        match self.trial {
            Trial::UnderWay(end) | Trial::Arrived(end) if acknowledged > end + SHORT => {
                self.trial = Trial::None
            }
            Trial::UnderWay(end) if acknowledged >= end => self.trial = Trial::Arrived(end),
            Trial::None | Trial::UnderWay(_) | Trial::Arrived(_) => {}
        }
    }

    /// The retransmission timeout ran out with so much unacknowledged.
    pub(super) fn handle_timeout(&mut self, outstanding: u64) {
        self.stalls = self.stalls.saturating_add(1);
        if matches!(self.trial, Trial::Arrived(_)) && outstanding > SHORT {
            self.trial = Trial::None;
            self.is_found = true;
        }
    }

    /// Whether the path has been found to lose long packets, once.
    pub(super) fn take_finding(&mut self) -> bool {
        std::mem::take(&mut self.is_found)
    }
}
