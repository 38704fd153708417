//! SYNs that came while there was no room: one that is repeated is not from a forged address.
//!
//! A flood from forged addresses repeats nothing, while a real client repeats its SYN after a
//! second (RFC 6298 §2.1). So under pressure the first SYN of a flow leaves a mark in a table of
//! fixed size, and only the second is served.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tunnel::time::Instant;

use super::key::FlowKey;

/// Marks: a megabyte, enough for three seconds of 80,000 SYNs per second.
const SLOTS: usize = 1 << 18;
/// A SYN this soon after the first is a duplicate, not a new try.
const SOONEST: Duration = Duration::from_millis(500);
/// Later than this it is forgotten: clients try after one, three and seven seconds.
const LATEST: Duration = Duration::from_secs(8);
/// The unit of a mark's time.
const UNIT: Duration = Duration::from_millis(100);

/// Marks of SYNs, hashed with a random key so that no client can choose a slot.
pub struct Greylist {
    /// Upper half: a tag of the flow. Lower half: when, in [`UNIT`]s, wrapping; 0 is never used.
    slots: Box<[u32]>,
    key: RandomState,
}

impl Default for Greylist {
    fn default() -> Self {
        Self { slots: vec![0; SLOTS].into_boxed_slice(), key: RandomState::new() }
    }
}

impl Greylist {
    /// Whether this flow's SYN came before, some time ago; if not, it is marked.
    pub fn is_repeated(&mut self, now: Instant, flow: &FlowKey) -> bool {
        let hash = self.key.hash_one(flow);
        let tag = (hash >> 32) as u32 & 0xffff_0000;
        let time = stamp(now);
        let index = usize::try_from(hash % SLOTS as u64).unwrap_or_default();
        let Some(slot) = self.slots.get_mut(index) else { return false };
        if *slot & 0xffff != 0 && *slot & 0xffff_0000 == tag {
            let age = UNIT * u32::from((time as u16).wrapping_sub(*slot as u16));
            if (SOONEST..=LATEST).contains(&age) {
                *slot = 0;
                return true;
            }
            if age < SOONEST {
                return false;
            }
        }
        *slot = tag | time;
        false
    }
}

/// The time in units, wrapping at 16 bits, never 0.
fn stamp(now: Instant) -> u32 {
    let units = now.since_boot().as_millis() / UNIT.as_millis();
    (u32::try_from(units & 0xffff).unwrap_or_default()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::EdgeId;

    #[test]
    fn a_syn_that_is_sent_again_after_a_second_is_served_and_a_duplicate_is_not() {
        let mut greylist = Greylist::default();
        assert!(!greylist.is_repeated(at(0), &flow(1)));
        assert!(!greylist.is_repeated(at(200), &flow(1)));
        assert!(greylist.is_repeated(at(1_000), &flow(1)));
        assert!(!greylist.is_repeated(at(1_100), &flow(1)), "each time costs two");
    }

    #[test]
    fn what_is_never_repeated_is_never_served_and_displaces_no_other() {
        let mut greylist = Greylist::default();
        greylist.is_repeated(at(0), &flow(0));
        let served =
            (1..150_000).filter(|n| greylist.is_repeated(at(u64::from(*n) / 150), &flow(*n))).count();
        assert!(served < 10, "{served}");
        let honest = 1_000_000..1_000_200;
        honest.clone().for_each(|n| {
            greylist.is_repeated(at(2_000), &flow(n));
        });
        (2_000_000..2_050_000).for_each(|n| {
            greylist.is_repeated(at(2_500), &flow(n));
        });
        // Each mark survives with e^-0.19: 165 on average, with a deviation of five.
        let came = honest.filter(|n| greylist.is_repeated(at(3_000), &flow(*n))).count();
        assert!(came > 130, "{came} of 200 came through a flood of 50,000 per second");
    }

    #[test]
    fn a_mark_is_forgotten() {
        let mut greylist = Greylist::default();
        greylist.is_repeated(at(0), &flow(1));
        assert!(!greylist.is_repeated(at(9_000), &flow(1)));
        assert!(greylist.is_repeated(at(10_000), &flow(1)));
    }

    fn flow(number: u32) -> FlowKey {
        let remote = (std::net::Ipv4Addr::from(0x0a00_0000 + number), 4_000).into();
        FlowKey { edge: EdgeId(0), local: "192.168.88.2:443".parse().unwrap(), remote }
    }

    fn at(milliseconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(1_000) + Duration::from_millis(milliseconds))
    }
}
