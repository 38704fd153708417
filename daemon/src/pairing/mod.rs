//! Pairing: how a new peer is added without carrying keys by hand.
//!
//! `causeway pair` at the edge and `causeway join` at the other machine exchange public keys through
//! a temporary peer, whose private key is the code. The gateway knows that peer while `pair` runs
//! and carries frames between the two; it neither reads nor makes them.
//!
//! Pure, without sockets, files or clocks:
//! - [`code`]: the line of text; `letters` makes its characters.
//! - [`message`]: what the two ends send. [`edge`] and [`joiner`]: the two ends. [`words`]: what
//!   both operators compare; `hash` has the digests.
//! - [`control`]: what `causeway pair` asks of the gateway. [`relay`]: how the gateway carries frames.

pub mod code;
pub mod control;
pub mod edge;
#[cfg(test)]
mod example;
mod hash;
pub mod joiner;
mod letters;
pub mod message;
pub mod relay;
#[cfg(test)]
mod tests;
pub mod words;
