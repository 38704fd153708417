//! Poll tokens: the kind of a source in the top byte, its number below.

use mio::Token;

use crate::flow::{EdgeId, SlotId};

/// Bits of a token below the kind; a [`SlotId`] has 56.
const KIND_SHIFT: u32 = 56;

/// The source of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Commands wait.
    Waker,
    /// The system reports a change of the network.
    Network,
    /// The socket between the old process and the new one.
    Exchange,
    /// The socket of this edge.
    Edge(EdgeId),
    /// The listener of this index.
    Listener(usize),
    /// The kernel socket of this flow.
    Flow(SlotId),
    /// The kernel socket of this UDP flow.
    Datagrams(SlotId),
    /// The UDP listener of this number.
    UdpListener(u32),
}

/// The token of the waker.
pub(super) const WAKER: Token = Token(0);

/// The token of the socket that reports changes of the network.
pub(super) const NETWORK: Token = Token(1);

/// The token of the socket between the old process and the new one.
pub(super) const EXCHANGE: Token = Token(2);

/// The token of an edge's socket.
#[must_use]
pub(super) const fn edge(id: EdgeId) -> Token {
    Token((1 << KIND_SHIFT) | id.0 as usize)
}

/// The token of a listener.
#[must_use]
pub(super) const fn listener(index: usize) -> Token {
    Token((2 << KIND_SHIFT) | index)
}

/// The token of a flow's socket.
#[must_use]
pub(super) const fn flow(id: SlotId) -> Token {
    Token((3 << KIND_SHIFT) | id.to_bits() as usize)
}

/// The token of a UDP flow's socket.
#[must_use]
pub(super) const fn datagrams(id: SlotId) -> Token {
    Token((4 << KIND_SHIFT) | id.to_bits() as usize)
}

/// The token of a UDP listener.
#[must_use]
pub(super) const fn udp_listener(number: u32) -> Token {
    Token((5 << KIND_SHIFT) | number as usize)
}

/// The source of a token; `None` for one that was never given out.
#[must_use]
pub(super) const fn source(token: Token) -> Option<Source> {
    let number = token.0 & ((1 << KIND_SHIFT) - 1);
    match token.0 >> KIND_SHIFT {
        0 if number == 1 => Some(Source::Network),
        0 if number == 2 => Some(Source::Exchange),
        0 => Some(Source::Waker),
        1 => Some(Source::Edge(EdgeId((number & 0xffff_ffff) as u32))),
        2 => Some(Source::Listener(number)),
        3 => Some(Source::Flow(SlotId::from_bits(number as u64))),
        4 => Some(Source::Datagrams(SlotId::from_bits(number as u64))),
        5 => Some(Source::UdpListener((number & 0xffff_ffff) as u32)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_leads_back_to_its_source() {
        let id = SlotId::from_bits(0x00ff_ffff_ffff_ffff);
        for (token, expected) in [
            (WAKER, Source::Waker),
            (NETWORK, Source::Network),
            (EXCHANGE, Source::Exchange),
            (edge(EdgeId(3)), Source::Edge(EdgeId(3))),
            (listener(70_000), Source::Listener(70_000)),
            (flow(id), Source::Flow(id)),
            (datagrams(id), Source::Datagrams(id)),
            (udp_listener(u32::MAX), Source::UdpListener(u32::MAX)),
        ] {
            assert_eq!(source(token), Some(expected));
        }
    }
}
