//! The faults of one direction.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The faults of one direction; the default is a perfect path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Probability that a datagram is lost.
    pub drop: f64,
    /// Probability that a datagram arrives twice.
    pub duplicate: f64,
    /// Probability that a datagram is held back until [`Faults::reorder_depth`] later ones have
    /// passed.
    pub reorder: f64,
    /// How many later datagrams overtake a held one; it never waits longer than 100 ms.
    pub reorder_depth: u64,
    /// Time every datagram takes, in milliseconds.
    pub delay_ms: u64,
    /// Largest extra time, uniformly drawn per datagram, in milliseconds; by itself it reorders.
    pub jitter_ms: u64,
    /// Probability that one bit of a datagram is flipped.
    pub flip: f64,
    /// Probability that a datagram is cut to a random shorter length.
    pub truncate: f64,
    /// Datagrams with more bytes than this vanish, as at a path-MTU black hole.
    pub mtu: Option<usize>,
    /// Bytes per second; what does not fit waits in a queue of bounded size.
    pub rate: Option<u64>,
    /// Everything vanishes.
    pub blackhole: bool,
    /// Spans in which everything vanishes.
    pub blackhole_windows: Vec<Window>,
}

/// A span of time since the relay started, in milliseconds; the end is outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// First millisecond.
    pub from_ms: u64,
    /// First millisecond after.
    pub to_ms: u64,
}

/// Faults that cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidFaults {
    /// A probability outside 0 to 1.
    Probability,
    /// A rate of 0 bytes per second; `blackhole` is meant for that.
    Rate,
    /// A delay or jitter above an hour.
    Delay,
}

impl Faults {
    /// Refuses values that make no sense.
    pub fn check(&self) -> Result<(), InvalidFaults> {
        let probabilities = [self.drop, self.duplicate, self.reorder, self.flip, self.truncate];
        if probabilities.iter().any(|value| !(0.0..=1.0).contains(value)) {
            return Err(InvalidFaults::Probability);
        }
        if self.rate == Some(0) {
            return Err(InvalidFaults::Rate);
        }
        let hour = 3_600_000;
        if self.delay_ms > hour || self.jitter_ms > hour {
            return Err(InvalidFaults::Delay);
        }
        Ok(())
    }

    pub(crate) fn swallows(&self, now: Duration) -> bool {
        let now = now.as_millis();
        let inside = |window: &Window| (u128::from(window.from_ms)..u128::from(window.to_ms)).contains(&now);
        self.blackhole || self.blackhole_windows.iter().any(inside)
    }
}
