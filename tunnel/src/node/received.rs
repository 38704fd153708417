//! A message from the outer network, before anything in it is authenticated.

use std::net::SocketAddr;

use crate::endpoint::{Endpoint, LocalSide};

/// One received UDP message: one datagram, or several of `stride` bytes that the kernel joined
/// (UDP_GRO).
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// The address and interface it came to, when the socket knows.
    pub to: Option<LocalSide>,
    /// ECN bits of the outer header.
    pub ecn: u8,
    /// Length of every datagram but the last, which may be shorter; at least 1.
    pub stride: usize,
    /// The datagrams back to back.
    pub contents: &'a mut [u8],
}

/// Where and how a datagram came.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub(super) path: Endpoint,
    pub(super) ecn: u8,
}
