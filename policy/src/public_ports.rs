//! Public ports of one protocol, as both ends write them.

use std::fmt;

use crate::reader::Value;
use crate::{PortRange, Protocol, text};

/// Public ports of one protocol, written `443`, `443/udp` or `5000-5010`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicPorts {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Public ports.
    pub ports: PortRange,
}

impl PublicPorts {
    /// Whether the two share a port.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.protocol == other.protocol && self.ports.overlaps(other.ports)
    }

    /// Whether this TCP port is among them.
    #[must_use]
    pub fn is_tcp(self, port: u16) -> bool {
        self.protocol == Protocol::Tcp && self.ports.contains(port)
    }

    /// Reads `443`, `443/udp` or `5000-5010`; without a protocol it is TCP's.
    #[must_use]
    pub fn parse(written: &str) -> Option<Self> {
        let (ports, protocol) = parse(written)?;
        Some(Self { protocol: protocol.unwrap_or(Protocol::Tcp), ports })
    }

    /// Reads one entry; without a protocol it is TCP's.
    pub(crate) fn read(item: Value<'_>) -> Option<Self> {
        let (ports, protocol) = read(item)?;
        Some(Self { protocol: protocol.unwrap_or(Protocol::Tcp), ports })
    }
}

/// Ports, and their protocol where it is written.
pub(crate) fn read(item: Value<'_>) -> Option<(PortRange, Option<Protocol>)> {
    item.parse_number(EXPECTED, parse)
}

fn parse(written: &str) -> Option<(PortRange, Option<Protocol>)> {
    let (ports, protocol) = match written.split_once('/') {
        Some((ports, protocol)) => (ports, Some(text::protocol(protocol)?)),
        None => (written, None),
    };
    Some((text::ports(ports)?, protocol))
}

const EXPECTED: &str =
    "a port or a range, with \"/udp\" for UDP, such as \"443\", \"443/udp\" or \"5000-5010\"";

impl fmt::Display for PublicPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Tcp => write!(f, "{}", self.ports),
            Protocol::Udp => write!(f, "{}/udp", self.ports),
        }
    }
}
