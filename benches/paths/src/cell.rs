//! One path of the matrix.

use std::fmt;

use relay::Faults;

/// How many later datagrams overtake one that is held back.
const DEPTH: u64 = 3;

/// Loss, delay and reordering, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cell {
    /// Percent.
    pub(crate) loss: f64,
    /// Milliseconds.
    pub(crate) round_trip: u64,
    /// Percent.
    pub(crate) reorder: f64,
    /// Bytes per second.
    pub(crate) rate: u64,
}

impl Cell {
    /// The faults of one direction of the relay: half of the round trip, rounded up one way and
    /// down the other.
    pub(crate) fn faults(&self, is_forward: bool) -> Faults {
        Faults {
            drop: self.loss / 100.0,
            reorder: self.reorder / 100.0,
            reorder_depth: DEPTH,
            delay_ms: (self.round_trip + u64::from(is_forward)) / 2,
            rate: Some(self.rate),
            ..Faults::default()
        }
    }

    /// Bytes that a good TCP moves in about this many seconds (Mathis and others, 1997), so that
    /// every transfer ends.
    pub(crate) fn bytes(&self, seconds: u64) -> u64 {
        let round_trip = self.round_trip as f64 / 1e3;
        let line = self.rate as f64 * 0.9;
        let loss = self.loss / 100.0;
        // On a short path most of the time is spent on timeouts, which the formula leaves out.
        let lossy = if loss > 0.0 {
            1_380.0 * 1.3 / (round_trip * loss.sqrt() * (1.0 + 0.1 * loss / round_trip))
        } else {
            line
        };
        (line.min(lossy) * seconds as f64) as u64
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} % lost, {} ms, {} % reordered", self.loss, self.round_trip, self.reorder)
    }
}
