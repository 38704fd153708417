//! A seeded UDP relay that loses, delays, reorders, duplicates, corrupts and rebinds.
//!
//! [`Path`] is the pure part: datagrams and the time go in, datagrams come out when they are due,
//! and the same seed does the same to the same input. [`Relay`] puts two of them, one for each
//! direction, between real sockets.

mod control;
mod faults;
mod path;
mod random;
mod shell;

pub use control::{Answer, Request, answer};
pub use faults::{Faults, InvalidFaults, Window};
pub use path::{Counters, Path, QUEUE_LIMIT, RECORD_LIMIT};
pub use random::Random;
pub use shell::{Direction, Relay};

#[cfg(test)]
mod tests;
