//! Pairing: how a new peer is added without carrying keys by hand.
//!
//! `causeway pair` at the edge and `causeway join` at the other machine exchange public keys through
//! a temporary peer, whose private key is the code. The gateway knows that peer while `pair` runs
//! and carries frames between the two; it neither reads nor makes them.

pub mod control;
pub mod relay;
