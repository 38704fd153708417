//! UDP flows: one connected socket for each flow out of the tunnel, the listener's socket for each reached
//! one.
//!
//! A flow lives while the side that opened it sends (RFC 4787 REQ-5, REQ-6): two minutes until it
//! has shown that replies reach it, `[limits] udp_timeout` from then on. Where there are too many,
//! the oldest that has not shown it is ended first; one that has is never ended for another.

mod dialler;
mod flow;
mod flows;
mod handler;
mod listener;
mod reach;

pub(super) use flows::UdpFlows;
pub(super) use handler::UdpHandler;
pub use listener::Listener;
