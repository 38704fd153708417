//! Segmentation and checksum offload in this process: packets of up to 64 KiB cross the kernel
//! once.

pub mod coalesce;
pub mod split;
pub mod virtio;

pub use coalesce::{CoalesceOptions, CoalesceStats, Coalescer};
pub use split::{Segments, SplitError};

#[cfg(test)]
mod tests;

/// What is still to be done to a packet before it may go on a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Nothing: a complete packet.
    #[default]
    None,
    /// The transport checksum holds only the pseudo-header sum.
    Checksum {
        /// Where summing starts, from the first byte of the IP header.
        start: u16,
        /// Where the checksum lies, from `start`.
        offset: u16,
    },
    /// A TCP super-packet over IPv4, to be cut into segments of this many payload bytes.
    Tcp4 {
        /// Payload bytes per segment.
        segment_size: u16,
    },
    /// A TCP super-packet over IPv6.
    Tcp6 {
        /// Payload bytes per segment.
        segment_size: u16,
    },
    /// A UDP super-packet over IPv4.
    Udp4 {
        /// Payload bytes per datagram.
        segment_size: u16,
    },
    /// A UDP super-packet over IPv6.
    Udp6 {
        /// Payload bytes per datagram.
        segment_size: u16,
    },
}

impl Offload {
    /// Whether the packet is to be cut into several.
    #[must_use]
    pub const fn is_super(self) -> bool {
        !matches!(self, Self::None | Self::Checksum { .. })
    }
}

/// An IP packet of up to 64 KiB with what is still to be done to it.
#[derive(Debug)]
pub struct SuperPacket<'a> {
    /// From the first byte of the IP header.
    pub bytes: &'a mut [u8],
    /// What is still to be done.
    pub offload: Offload,
}
