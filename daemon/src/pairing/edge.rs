//! The edge's side of a pairing, as `causeway pair` has it.

use std::collections::VecDeque;

use policy::Name;
use tunnel::key::PublicKey;

use super::code::Code;
use super::message::{Failure, Message, Offer, Refusal, Terms};
use super::words::{Opening, Words};
use crate::link::message::Bytes;

/// The one who wants to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joiner {
    /// Its public key.
    pub key: PublicKey,
    /// The name of the machine.
    pub name: Name,
    /// The version of the product there.
    pub version: Name,
    /// What both operators compare.
    pub words: Words,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeEvent {
    /// One wants to join: the operator decides, once.
    Offered(Joiner),
    /// The joiner has written its configuration: the pairing is complete.
    Written,
    /// There will be no pairing.
    Ended(EdgeFault),
}

/// Why a pairing ended at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EdgeFault {
    /// A frame that is no message.
    #[error("what came with the code is no pairing")]
    Malformed,
    /// A message that has no place here.
    #[error("a message came out of its order")]
    OutOfOrder,
    /// A public key with which no secret can be agreed.
    #[error("the other machine's key is none that may be used")]
    BadKey,
    /// A second offer.
    #[error("a second key came with the code")]
    SecondKey,
    /// A second connection after an offer.
    #[error("a second machine came with the code")]
    SecondJoiner,
    /// The connection ended before the decision, or before the joiner had written its
    /// configuration.
    #[error("the other machine's connection ended")]
    Gone,
    /// The joiner gave up.
    #[error(transparent)]
    Failed(Failure),
    /// The operator refused, or had to.
    #[error("the other machine was refused")]
    Refused,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// No one has connected.
    Waiting,
    /// The commitment is sent.
    Committed,
    /// There is an offer, not decided.
    Offered,
    /// The operator said yes.
    Accepted,
    /// The pairing is complete, or there is none.
    Over,
}

/// One pairing. It reads no clock and has no socket: connections and frames go in, frames and
/// events come out.
pub struct EdgePairing {
    code: Code,
    nonce: Bytes<32>,
    terms: String,
    schema: u32,
    state: State,
    frames: VecDeque<Vec<u8>>,
    events: VecDeque<EdgeEvent>,
}

impl EdgePairing {
    /// A pairing by this code; `nonce` is random, and of no other pairing.
    #[must_use]
    pub fn new(code: Code, nonce: [u8; 32], terms: &Terms) -> Self {
        let schema = terms.schema();
        // Every field has a form in JSON.
        let terms = serde_json::to_string(terms).unwrap_or_default();
        Self {
            code,
            nonce: Bytes(nonce),
            terms,
            schema,
            state: State::Waiting,
            frames: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A connection of the temporary peer came.
    pub fn handle_connected(&mut self) {
        match self.state {
            State::Waiting | State::Committed => {
                let commitment = self.opening().commitment(&self.code);
                self.frames.clear();
                self.send(&Message::Commitment { commitment, schema: self.schema });
                self.state = State::Committed;
            }
            State::Offered | State::Accepted => self.burn(EdgeFault::SecondJoiner),
            State::Over => {}
        }
    }

    /// The connection ended. Before an offer another may come; afterwards the nonce is spent.
    pub fn handle_disconnected(&mut self) {
        match self.state {
            State::Waiting | State::Over => {}
            State::Committed => self.state = State::Waiting,
            State::Offered | State::Accepted => self.end(EdgeFault::Gone),
        }
    }

    /// A frame of the joiner.
    pub fn handle_frame(&mut self, frame: &[u8]) {
        if self.state == State::Over {
            return;
        }
        match Message::parse(frame) {
            None => self.burn(EdgeFault::Malformed),
            Some(Message::Offer(offer)) => self.handle_offer(&offer),
            Some(Message::Written) if self.state == State::Accepted => {
                self.state = State::Over;
                self.events.push_back(EdgeEvent::Written);
            }
            Some(Message::Failed { reason }) => self.end(EdgeFault::Failed(reason)),
            Some(Message::Unknown) => {}
            Some(
                Message::Written
                | Message::Commitment { .. }
                | Message::Opening { .. }
                | Message::Accepted
                | Message::Refused { .. },
            ) => self.burn(EdgeFault::OutOfOrder),
        }
    }

    fn handle_offer(&mut self, offer: &Offer) {
        match self.state {
            State::Committed => {}
            State::Offered | State::Accepted => return self.burn(EdgeFault::SecondKey),
            State::Waiting | State::Over => return self.burn(EdgeFault::OutOfOrder),
        }
        let own = [self.code.edge_key, self.code.one_time.public()];
        let key = PublicKey::from_bytes(offer.key.0).ok().filter(|key| !own.contains(key));
        let Some(key) = key else { return self.burn(EdgeFault::BadKey) };
        let words = self.opening().words(&self.code, offer, &key);
        self.state = State::Offered;
        self.send(&Message::Opening { nonce: self.nonce, terms: self.terms.clone() });
        let Offer { name, version, .. } = offer.clone();
        self.events.push_back(EdgeEvent::Offered(Joiner { key, name, version, words }));
    }

    /// The operator said yes, and the edge has the new peer. Without an offer nothing happens.
    pub fn accept(&mut self) {
        if self.state == State::Offered {
            self.state = State::Accepted;
            self.send(&Message::Accepted);
        }
    }

    /// There will be no pairing; the joiner gets the reason.
    pub fn refuse(&mut self, reason: Refusal) {
        if self.state != State::Over {
            self.send(&Message::Refused { reason });
            self.end(EdgeFault::Refused);
        }
    }

    /// Takes a frame for the joiner, in order.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// Takes what happened, oldest first.
    pub fn poll_event(&mut self) -> Option<EdgeEvent> {
        self.events.pop_front()
    }

    const fn opening(&self) -> Opening<'_> {
        Opening { nonce: &self.nonce, terms: self.terms.as_str() }
    }

    fn send(&mut self, message: &Message) {
        self.frames.push_back(message.to_bytes());
    }

    /// Ends the pairing because of what came with the code: it is of no use any more.
    fn burn(&mut self, fault: EdgeFault) {
        self.send(&Message::Refused { reason: Refusal::Burnt });
        self.end(fault);
    }

    fn end(&mut self, fault: EdgeFault) {
        self.state = State::Over;
        self.events.push_back(EdgeEvent::Ended(fault));
    }
}
