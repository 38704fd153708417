//! The headers of TCP and UDP.

use super::{Ip, Malformed, Sum, protocol};

/// TCP flag bits (RFC 9293 §3.1, RFC 3168).
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets a connection.
    pub const RST: u8 = 0x04;
    /// Push to the application.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// The fields of a TCP header, checked against the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Bytes of the header with options: 20 to 60.
    pub header_len: usize,
    /// Flag bits ([`tcp_flags`]).
    pub flags: u8,
    /// Window as sent, without scaling.
    pub window: u16,
    /// The checksum field.
    pub checksum: u16,
}

impl Tcp {
    /// Reads a header from what follows the IP header.
    ///
    /// # Errors
    /// [`Malformed`], when the header does not fit.
    #[inline]
    pub fn parse(segment: &[u8]) -> Result<Self, Malformed> {
        let h: &[u8; 20] = segment.first_chunk().ok_or(Malformed::Short)?;
        let header_len = usize::from(h[12] >> 4) * 4;
        if header_len < 20 || header_len > segment.len() {
            return Err(Malformed::HeaderLength);
        }
        Ok(Self {
            source_port: u16::from_be_bytes([h[0], h[1]]),
            destination_port: u16::from_be_bytes([h[2], h[3]]),
            sequence: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            acknowledgement: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
            header_len,
            flags: h[13],
            window: u16::from_be_bytes([h[14], h[15]]),
            checksum: u16::from_be_bytes([h[16], h[17]]),
        })
    }

    /// The maximum segment size option, when the header carries one (RFC 9293 §3.7.1).
    pub fn maximum_segment_size(&self, segment: &[u8]) -> Option<u16> {
        let mut options = segment.get(20..self.header_len)?;
        loop {
            match *options {
                [] | [0, ..] => return None,
                [1, ref rest @ ..] => options = rest,
                [2, 4, high, low, ..] => return Some(u16::from_be_bytes([high, low])),
                [_, length, ..] if length >= 2 => options = options.get(usize::from(length)..)?,
                _ => return None,
            }
        }
    }
}

/// The fields of a UDP header, checked against the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Bytes of header and payload.
    pub length: usize,
    /// The checksum field; 0 means none (IPv4 only).
    pub checksum: u16,
}

impl Udp {
    /// Bytes of a UDP header.
    pub const HEADER_LEN: usize = 8;

    /// Reads a header from what follows the IP header.
    ///
    /// # Errors
    /// [`Malformed`], when the length field does not fit.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<Self, Malformed> {
        let h: &[u8; 8] = datagram.first_chunk().ok_or(Malformed::Short)?;
        let length = usize::from(u16::from_be_bytes([h[4], h[5]]));
        if length < Self::HEADER_LEN || length > datagram.len() {
            return Err(Malformed::TotalLength);
        }
        Ok(Self {
            source_port: u16::from_be_bytes([h[0], h[1]]),
            destination_port: u16::from_be_bytes([h[2], h[3]]),
            length,
            checksum: u16::from_be_bytes([h[6], h[7]]),
        })
    }
}

impl Ip {
    /// Whether the transport checksum of this packet is right; true for a UDP checksum of zero over
    /// IPv4, which means none, and for protocols without one. Fragments cannot be verified and
    /// count as wrong.
    #[inline]
    pub fn transport_checksum_is_valid(&self, packet: &[u8]) -> bool {
        let payload = self.payload(packet);
        if self.fragment.is_some() {
            return false;
        }
        match self.protocol {
            protocol::UDP if self.is_v4() && payload.get(6..8) == Some(&[0, 0]) => true,
            protocol::UDP | protocol::TCP | protocol::ICMPV6 => Sum::new()
                .pseudo_header(self.src, self.dst, self.protocol, payload.len())
                .bytes(payload)
                .is_valid(),
            protocol::ICMP => Sum::new().bytes(payload).is_valid(),
            _ => true,
        }
    }
}
