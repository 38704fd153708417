//! The control protocol of the `relay` program: one JSON object per line, one answer per line.

use serde::{Deserialize, Serialize};

use crate::faults::Faults;
use crate::path::Counters;
use crate::shell::{Direction, Relay};

/// A request, for example `{"faults": {"direction": "forward", "faults": {"drop": 0.05}}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Replace the faults of one direction.
    Faults {
        /// Which one.
        direction: Direction,
        /// By these.
        faults: Faults,
    },
    /// Go on from a new source port.
    Rebind {},
    /// Start or stop recording.
    Record {
        /// Of this direction.
        direction: Direction,
        /// Start, or stop.
        on: bool,
    },
    /// Send the last recorded datagrams again.
    Replay {
        /// Of this direction.
        direction: Direction,
        /// How many.
        count: usize,
    },
    /// Report what happened so far.
    Counters {},
}

/// The reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Done,
    /// Done: the address now used towards the target.
    Rebound(String),
    /// Done: this many were sent again.
    Replayed(usize),
    /// The counters of both directions.
    Counters {
        /// Towards the target.
        forward: Counters,
        /// Back from it.
        back: Counters,
    },
    /// Not done, and why.
    Error(String),
}

/// Carries out one request line.
pub fn answer(relay: &Relay, line: &str) -> Answer {
    let request = match serde_json::from_str(line) {
        Ok(request) => request,
        Err(error) => return Answer::Error(error.to_string()),
    };
    match request {
        Request::Faults { direction, faults } => match relay.set_faults(direction, faults) {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Error(format!("{error:?}")),
        },
        Request::Rebind {} => match relay.rebind() {
            Ok(address) => Answer::Rebound(address.to_string()),
            Err(error) => Answer::Error(error.to_string()),
        },
        Request::Record { direction, on } => {
            relay.record(direction, on);
            Answer::Done
        }
        Request::Replay { direction, count } => Answer::Replayed(relay.replay(direction, count)),
        Request::Counters {} => Answer::Counters {
            forward: relay.counters(Direction::Forward),
            back: relay.counters(Direction::Back),
        },
    }
}
