//! The 5-tuple that names a flow.

use std::net::{IpAddr, SocketAddr};

use super::{Ip, protocol};

/// Addresses, ports and protocol of one direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiveTuple {
    /// Protocol number.
    pub protocol: u8,
    /// Source address.
    pub src: IpAddr,
    /// Source port; 0 for protocols without ports.
    pub source_port: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port; 0 for protocols without ports.
    pub destination_port: u16,
}

impl FiveTuple {
    /// The flow of a packet whose header is parsed. A later fragment has no ports: `None`.
    #[inline]
    pub fn of(ip: &Ip, packet: &[u8]) -> Option<Self> {
        if ip.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return None;
        }
        let (source_port, destination_port) = match ip.protocol {
            protocol::TCP | protocol::UDP => {
                let h: &[u8; 4] = ip.payload(packet).first_chunk()?;
                (u16::from_be_bytes([h[0], h[1]]), u16::from_be_bytes([h[2], h[3]]))
            }
            _ => (0, 0),
        };
        Some(Self { protocol: ip.protocol, src: ip.src, source_port, dst: ip.dst, destination_port })
    }

    /// Source address and port.
    pub const fn source(&self) -> SocketAddr {
        SocketAddr::new(self.src, self.source_port)
    }

    /// Destination address and port.
    pub const fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.dst, self.destination_port)
    }

    /// The other direction of the flow.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            protocol: self.protocol,
            src: self.dst,
            source_port: self.destination_port,
            dst: self.src,
            destination_port: self.source_port,
        }
    }
}
