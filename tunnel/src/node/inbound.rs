//! From the outer network to the inner one.

use super::Node;
use super::handshake::HandshakeMessage;
use super::peer::canonical;
use super::received::{Arrival, Received};
use super::receiver::Receiver;
use super::wire::{Message, REJECT_AFTER_MESSAGES};
use crate::endpoint::Endpoint;
use crate::reason::DropReason;
use crate::sink::InnerSink;
use crate::time::Now;
use crate::transmit::SendQueue;

impl Node {
    /// Whether a received message is for this node, as far as can be seen: not when its first datagram
    /// is data for a session of another.
    #[must_use]
    pub fn may_take(&self, message: &[u8]) -> bool {
        match message.first_chunk().map(Message::classify_data) {
            Some(Some(receiver)) => self.table.load().by_index(receiver).is_some(),
            Some(None) | None => true,
        }
    }

    /// Takes one received message: decrypted packets go to `sink`, replies (handshakes, cookies,
    /// keepalives) to `out`.
    ///
    /// Datagrams of one peer that lie next to each other are decrypted under one lock, in order.
    /// Without a private key nothing is answered.
    pub fn handle_received(
        &self,
        now: Now,
        received: Received<'_>,
        sink: &mut impl InnerSink,
        out: &mut SendQueue,
    ) {
        let table = self.table.load();
        let path = Endpoint { remote: canonical(received.from), local: received.to };
        let arrival = Arrival { path, ecn: received.ecn };
        if received.contents.is_empty() {
            self.drops.count(DropReason::NotWireGuard);
        }
        let mut held: Option<Receiver<'_>> = None;
        for datagram in received.contents.chunks(received.stride.max(1)) {
            let Some(message) = Message::classify(datagram) else {
                self.drops.count(DropReason::NotWireGuard);
                continue;
            };
            let Message::Data { receiver, counter } = message else {
                held.take().into_iter().for_each(Receiver::release);
                HandshakeMessage { node: self, table: &table, now, arrival, message, datagram }.receive(out);
                continue;
            };
            if counter >= REJECT_AFTER_MESSAGES {
                self.drops.count(DropReason::CounterExhausted);
                continue;
            }
            let mut peer = match held.take() {
                Some(peer) if peer.locked.peer.index == receiver >> 8 => peer,
                other => {
                    other.into_iter().for_each(Receiver::release);
                    let Some(peer) = table.by_index(receiver) else {
                        self.drops.count(DropReason::UnknownIndex);
                        continue;
                    };
                    Receiver::lock(self, peer, now, out)
                }
            };
            peer.receive_data(&table, arrival, (receiver, counter), datagram, sink, out);
            held = Some(peer);
        }
        held.into_iter().for_each(Receiver::release);
    }
}
