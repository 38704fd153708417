//! The joiner's side of a pairing, as `causeway join` has it.

use std::collections::VecDeque;

use ipnetwork::IpNetwork;
use policy::Name;
use tunnel::key::PublicKey;

use super::code::Code;
use super::message::{Failure, Message, Offer, Refusal, SCHEMA, Terms};
use super::words::{Opening, Words};
use crate::link::message::Bytes;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinEvent {
    /// The edge has said what it offers: the operators compare the words.
    Offered {
        /// What the edge offers.
        terms: Box<Terms>,
        /// What both operators compare.
        words: Words,
    },
    /// The edge has the new peer.
    Accepted,
    /// The edge keeps it: the pairing is complete.
    Kept,
    /// There will be no pairing.
    Ended(JoinFault),
}

/// Why a pairing ended at the joiner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinFault {
    /// A frame that is no message.
    #[error("what the edge sent is no pairing; are both machines of one version?")]
    Malformed,
    /// A message that has no place here.
    #[error("a message of the edge came out of its order; are both machines of one version?")]
    OutOfOrder,
    /// The edge has another version of the messages.
    #[error(
        "the edge pairs by version {0} of the messages, this machine by version {SCHEMA}; update the older of the two"
    )]
    Schema(u32),
    /// What the edge opened is not what it was bound to.
    #[error(
        "the edge altered its terms after it was bound to them; this is an attack or a fault: do not use this code"
    )]
    Altered,
    /// The terms cannot be used.
    #[error("the terms of the edge cannot be used: its {0}")]
    Terms(&'static str),
    /// The edge refused.
    #[error(transparent)]
    Refused(Refusal),
    /// The connection ended.
    #[error(
        "the connection to the edge ended: `causeway pair` has ended there, the time of the code is over, a second machine came with the code, or the way is cut"
    )]
    Gone,
}

enum State {
    /// The commitment has not come.
    Waiting,
    /// It has, and the offer is sent.
    Committed(Bytes<32>),
    /// The edge has opened what it was bound to.
    Opened,
    /// The edge has accepted.
    Accepted,
    /// This end has written its configuration.
    Written,
    /// The pairing is complete, or there is none.
    Over,
}

/// One pairing. It reads no clock and has no socket.
pub struct JoinPairing {
    code: Code,
    key: PublicKey,
    offer: Offer,
    state: State,
    frames: VecDeque<Vec<u8>>,
    events: VecDeque<JoinEvent>,
}

impl JoinPairing {
    /// A pairing by this code, for the holder of `key`; `nonce` is random, and of no other pairing.
    #[must_use]
    pub fn new(code: Code, key: PublicKey, nonce: [u8; 32], name: Name, version: Name) -> Self {
        let offer = Offer { key: Bytes(*key.as_bytes()), nonce: Bytes(nonce), name, version };
        Self { code, key, offer, state: State::Waiting, frames: VecDeque::new(), events: VecDeque::new() }
    }

    /// A frame of the edge.
    pub fn handle_frame(&mut self, frame: &[u8]) {
        if matches!(self.state, State::Over) {
            return;
        }
        let Some(message) = Message::parse(frame) else { return self.end(JoinFault::Malformed) };
        match (&self.state, message) {
            (_, Message::Unknown) => {}
            (_, Message::Refused { reason }) => self.end(JoinFault::Refused(reason)),
            (State::Waiting, Message::Commitment { commitment, schema }) => {
                if schema != SCHEMA {
                    return self.end(JoinFault::Schema(schema));
                }
                self.send(&Message::Offer(self.offer.clone()));
                self.state = State::Committed(commitment);
            }
            (State::Committed(commitment), Message::Opening { nonce, terms }) => {
                let commitment = *commitment;
                self.handle_opening(commitment, &Opening { nonce: &nonce, terms: &terms });
            }
            (State::Opened, Message::Accepted) => {
                self.state = State::Accepted;
                self.events.push_back(JoinEvent::Accepted);
            }
            (State::Written, Message::Kept) => {
                self.state = State::Over;
                self.events.push_back(JoinEvent::Kept);
            }
            _ => self.end(JoinFault::OutOfOrder),
        }
    }

    fn handle_opening(&mut self, commitment: Bytes<32>, opening: &Opening<'_>) {
        if opening.commitment(&self.code) != commitment {
            return self.end(JoinFault::Altered);
        }
        let words = opening.words(&self.code, &self.offer, &self.key);
        let Ok(terms) = serde_json::from_str::<Terms>(opening.terms) else {
            return self.end(JoinFault::Terms("form is not understood"));
        };
        if let Some(fault) = unusable(&terms, &self.code, &self.key) {
            return self.end(JoinFault::Terms(fault));
        }
        self.state = State::Opened;
        self.events.push_back(JoinEvent::Offered { terms: Box::new(terms), words });
    }

    /// The connection ended.
    pub fn handle_disconnected(&mut self) {
        if !matches!(self.state, State::Over) {
            self.end(JoinFault::Gone);
        }
    }

    /// This end has written its configuration; the edge then keeps the new peer, or goes back.
    pub fn written(&mut self) {
        if matches!(self.state, State::Accepted) {
            self.state = State::Written;
            self.send(&Message::Written);
        }
    }

    /// This end does not go on; the edge gets the reason.
    pub fn fail(&mut self, reason: Failure) {
        if !matches!(self.state, State::Over) {
            self.state = State::Over;
            self.send(&Message::Failed { reason });
        }
    }

    /// Takes a frame for the edge, in order.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// Takes what happened, oldest first.
    pub fn poll_event(&mut self) -> Option<JoinEvent> {
        self.events.pop_front()
    }

    fn send(&mut self, message: &Message) {
        self.frames.push_back(message.to_bytes());
    }

    fn end(&mut self, fault: JoinFault) {
        self.state = State::Over;
        self.events.push_back(JoinEvent::Ended(fault));
    }
}

/// What of the terms this end cannot use.
fn unusable(terms: &Terms, code: &Code, own: &PublicKey) -> Option<&'static str> {
    let is_own = |address: &IpNetwork| address.contains(code.edge_address);
    let is_taken =
        |address: &IpNetwork| address.ip() == code.edge_address || address.ip() == code.address.ip();
    if terms.addresses.iter().any(is_taken) {
        Some("address for this machine is the edge's own, or that of the code")
    } else if !terms.addresses.iter().any(is_own) {
        Some("address for this machine is not in the edge's network")
    } else if terms.addresses.len() > MAX_ADDRESSES {
        Some("addresses for this machine are too many")
    } else if terms.ports().is_none() {
        Some("ports are not understood")
    } else if terms
        .next_key
        .is_some_and(|key| !is_next_key(key, &[code.edge_key, code.one_time.public(), *own]))
    {
        Some("next key is none that may be used")
    } else {
        None
    }
}

/// Whether a key may be the edge's next one: `others` are taken.
fn is_next_key(Bytes(key): Bytes<32>, others: &[PublicKey]) -> bool {
    PublicKey::from_bytes(key).is_ok_and(|key| !others.contains(&key))
}

/// One of each family, and room for one more of each.
const MAX_ADDRESSES: usize = 4;
