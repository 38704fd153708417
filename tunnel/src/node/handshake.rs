//! Handshake messages from the outer network: what is admitted, and for which peer it is.

use super::Node;
use super::handshake_limiter::Admission;
use super::identity::Identity;
use super::peer::Peer;
use super::received::Arrival;
use super::receiver::Receiver;
use super::status::Event;
use super::table::Table;
use super::wire::{COOKIE_LEN, Message};
use crate::key::PublicKey;
use crate::reason::DropReason;
use crate::time::Now;
use crate::transmit::SendQueue;

/// One message that is not data, with all that is needed to handle it.
pub(super) struct HandshakeMessage<'a> {
    pub(super) node: &'a Node,
    pub(super) table: &'a Table,
    pub(super) now: Now,
    pub(super) arrival: Arrival,
    pub(super) message: Message,
    pub(super) datagram: &'a [u8],
}

impl<'a> HandshakeMessage<'a> {
    /// Handles it; without a private key nothing is answered.
    pub(super) fn receive(&self, out: &mut SendQueue) {
        let identity = self.node.identity.load();
        let Some(identity) = identity.as_deref() else { return self.drop_for(DropReason::BadMac) };
        let is_cookie = matches!(self.message, Message::Cookie { .. });
        if !is_cookie && !self.is_admitted(identity, out) {
            return;
        }
        let peer = match self.peer(identity) {
            Ok(peer) => peer,
            Err(reason) => return self.drop_for(reason),
        };
        let (path, datagram) = (self.arrival.path, self.datagram);
        let mut peer = Receiver::lock(self.node, peer, self.now, out);
        match self.message {
            Message::Initiation => peer.receive_initiation(path, datagram, out),
            Message::Response { receiver } => peer.receive_response(path, receiver, datagram, out),
            Message::Cookie { .. } => peer.receive_cookie(datagram),
            Message::Data { .. } => {}
        }
        peer.release();
    }

    fn drop_for(&self, reason: DropReason) {
        self.node.drops.count(reason);
    }

    /// Whether the limiter admits it; if not, a cookie may go to `out`.
    fn is_admitted(&self, identity: &Identity, out: &mut SendQueue) -> bool {
        let source = self.arrival.path.remote.ip();
        match identity.limiter.admit(source, self.datagram, self.now.instant) {
            Admission::Pass => return true,
            Admission::Cookie(reply) => {
                self.drop_for(DropReason::RateLimited);
                if let Some(slot) = out.slot(COOKIE_LEN) {
                    slot.copy_from_slice(&reply);
                    out.commit(self.arrival.path, 0, COOKIE_LEN);
                }
            }
            Admission::Refuse(reason) => {
                if reason == DropReason::BadMac && matches!(self.message, Message::Initiation) {
                    self.node.refused.lock().note_foreign(source, self.now.instant);
                }
                self.drop_for(reason);
            }
        }
        false
    }

    /// An initiation came with a key that no peer has.
    fn note_unknown(&self, identity: &Identity, key: PublicKey) {
        if self.node.awaited.load().as_deref() != Some(&key) {
            self.node.refused.lock().note_unknown(key, self.now.instant);
        } else if identity.is_initiation_of(&key, self.datagram) {
            self.node.events.push(Event::AwaitedKey { key });
        }
    }

    /// The peer it is for, not yet proven.
    fn peer(&self, identity: &Identity) -> Result<&'a Peer, DropReason> {
        let (Message::Response { receiver } | Message::Cookie { receiver }) = self.message else {
            let key = identity.initiator(self.datagram).ok_or(DropReason::BadHandshake)?;
            let peer = self.table.by_key(&key).map(AsRef::as_ref);
            if peer.is_none() {
                self.note_unknown(identity, key);
            }
            return peer.ok_or(DropReason::UnknownPeer);
        };
        self.table.by_index(receiver).map(AsRef::as_ref).ok_or(DropReason::UnknownIndex)
    }
}
