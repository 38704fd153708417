//! From the outer network to the inner one.

use std::sync::atomic::Ordering;

use boringtun::noise::TunnResult;
use boringtun::noise::errors::WireGuardError;

use super::core::{Answer, Session};
use super::old_stamp::AfterOldStamp;
use super::peer::{Peer, canonical};
use super::table::Table;
use super::turn::{Output, Turn};
use super::{Event, Node, Received};
use crate::admission::Admission;
use crate::endpoint::Endpoint;
use crate::packet::protocol;
use crate::reason::DropReason;
use crate::sink::InnerSink;
use crate::time::Now;
use crate::transmit::SendQueue;
use crate::wire::{COOKIE_LEN, DATA_HEADER, INITIATION_LEN, Message, REJECT_AFTER_MESSAGES, sender_index};

/// Where and how a datagram came.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub(super) path: Endpoint,
    pub(super) ecn: u8,
}

/// What a data message turned out to be.
enum Content {
    Packet {
        len: usize,
    },
    Keepalive,
    Consumed(Option<Vec<u8>>),
    Refused(DropReason),
    /// Not authentic: nothing about the peer changes.
    Foreign(DropReason),
}

impl Node {
    pub(super) fn receive(
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
            self.count_drop(DropReason::NotWireGuard);
        }
        let mut held: Option<Turn<'_>> = None;
        for datagram in received.contents.chunks(received.stride.max(1)) {
            let Some(message) = Message::classify(datagram) else {
                self.count_drop(DropReason::NotWireGuard);
                continue;
            };
            let Message::Data { receiver, counter } = message else {
                held.take().into_iter().for_each(Turn::finish);
                self.receive_handshake(&table, now, arrival, message, datagram, out);
                continue;
            };
            if counter >= REJECT_AFTER_MESSAGES {
                self.count_drop(DropReason::CounterExhausted);
                continue;
            }
            let mut turn = match held.take() {
                Some(turn) if turn.peer.index == receiver >> 8 => turn,
                other => {
                    other.into_iter().for_each(Turn::finish);
                    let Some(peer) = table.by_index(receiver) else {
                        self.count_drop(DropReason::UnknownIndex);
                        continue;
                    };
                    let mut turn = Turn::new(self, peer, now);
                    turn.refresh(out);
                    turn
                }
            };
            turn.receive_data(&table, arrival, (receiver, counter), datagram, sink, out);
            held = Some(turn);
        }
        held.into_iter().for_each(Turn::finish);
    }

    fn receive_handshake(
        &self,
        table: &Table,
        now: Now,
        arrival: Arrival,
        message: Message,
        datagram: &[u8],
        out: &mut SendQueue,
    ) {
        let identity = self.identity.load();
        let Some(identity) = identity.as_deref() else { return self.count_drop(DropReason::BadMac) };
        if let Message::Cookie { receiver } = message {
            return self.receive_cookie(table, now, receiver, datagram, out);
        }
        match identity.door.admit(arrival.path.remote.ip(), datagram, now.instant) {
            Admission::Pass => {}
            Admission::Cookie(reply) => return self.send_cookie(&reply, arrival, out),
            Admission::Refuse(reason) => {
                if reason == DropReason::BadMac && matches!(message, Message::Initiation) {
                    self.refused.lock().note_foreign(arrival.path.remote.ip(), now.instant);
                }
                return self.count_drop(reason);
            }
        }
        let peer: Option<&Peer> = if let Message::Response { receiver } = message {
            table.by_index(receiver).map(AsRef::as_ref)
        } else {
            let Some(key) = identity.initiator(datagram) else {
                return self.count_drop(DropReason::BadHandshake);
            };
            let peer = table.by_key(&key).map(AsRef::as_ref);
            if peer.is_none() {
                self.refused.lock().note_unknown(key, now.instant);
            }
            peer
        };
        let Some(peer) = peer else {
            let is_response = matches!(message, Message::Response { .. });
            return self.count_drop(if is_response {
                DropReason::UnknownIndex
            } else {
                DropReason::UnknownPeer
            });
        };
        let mut turn = Turn::new(self, peer, now);
        turn.refresh(out);
        if let Message::Response { receiver } = message {
            turn.receive_response(arrival, receiver, datagram, out);
        } else {
            turn.receive_initiation(arrival, datagram, out);
        }
        turn.finish();
    }

    fn receive_cookie(&self, table: &Table, now: Now, receiver: u32, datagram: &[u8], out: &mut SendQueue) {
        let Some(peer) = table.by_index(receiver) else { return self.count_drop(DropReason::UnknownIndex) };
        let mut turn = Turn::new(self, peer, now);
        turn.refresh(out);
        // It proves nothing about where the peer is: the endpoint stays.
        let mut scratch = [0; INITIATION_LEN];
        let result = turn.core.tunn.as_mut().map(|tunn| tunn.decapsulate(None, datagram, &mut scratch));
        if !matches!(result, Some(TunnResult::Done)) {
            self.count_drop(DropReason::BadHandshake);
        } else {
            turn.received.bytes += datagram.len();
        }
        turn.finish();
    }

    fn send_cookie(&self, reply: &[u8; COOKIE_LEN], arrival: Arrival, out: &mut SendQueue) {
        self.count_drop(DropReason::RateLimited);
        if let Some(slot) = out.slot(COOKIE_LEN) {
            slot.copy_from_slice(reply);
            out.commit(arrival.path, 0, COOKIE_LEN);
        }
    }
}

impl Turn<'_> {
    fn receive_initiation(&mut self, arrival: Arrival, datagram: &[u8], out: &mut SendQueue) {
        let Err(error) = self.answer_initiation(arrival, datagram, out) else { return };
        if !matches!(error, WireGuardError::WrongTai64nTimestamp) {
            return self.node.count_drop(DropReason::BadHandshake);
        }
        self.node.count_drop(DropReason::OldStamp);
        if self.handle_old_stamp(arrival.path, out) == AfterOldStamp::Answer
            && self.answer_initiation(arrival, datagram, out).is_err()
        {
            self.node.count_drop(DropReason::BadHandshake);
        }
    }

    /// Answers an initiation to where it came from; the error is why it is none to answer.
    fn answer_initiation(
        &mut self,
        arrival: Arrival,
        datagram: &[u8],
        out: &mut SendQueue,
    ) -> Result<(), WireGuardError> {
        let mut index = None;
        let output = self.emit(out, INITIATION_LEN, Some(arrival.path), |tunn, slot| {
            let result = tunn.decapsulate(None, datagram, slot);
            if let TunnResult::WriteToNetwork(response) = &result {
                index = sender_index(response);
            }
            result
        });
        match output {
            Output::Sent(_) => {
                self.received.bytes += datagram.len();
                self.core.answer = index.map(|index| Answer { index, at: self.now.instant });
                self.core.has_unproven_stamp = true;
                self.core.attempt = None;
                self.core.expired = false;
                if self.core.remembers_stamp || self.endpoint.is_none() {
                    self.roam(arrival.path);
                }
            }
            Output::Failed(error) => return Err(error),
            Output::Nothing => self.node.count_drop(DropReason::NoSession),
            Output::Full => {}
        }
        Ok(())
    }

    fn receive_response(&mut self, arrival: Arrival, receiver: u32, datagram: &[u8], out: &mut SendQueue) {
        let output = self.emit(out, INITIATION_LEN, Some(arrival.path), |tunn, slot| {
            tunn.decapsulate(None, datagram, slot)
        });
        match output {
            Output::Sent(_) => {
                self.received.bytes += datagram.len();
                self.roam(arrival.path);
                self.core.note_answered(receiver, self.now.instant);
                self.note_session(Session { since: self.now.instant, initiator: true });
                self.note_heard();
                self.flush(out);
            }
            Output::Failed(_) => self.node.count_drop(DropReason::BadHandshake),
            Output::Nothing => self.node.count_drop(DropReason::NoSession),
            Output::Full => {}
        }
    }

    fn receive_data(
        &mut self,
        table: &Table,
        arrival: Arrival,
        (receiver, counter): (u32, u64),
        datagram: &[u8],
        sink: &mut impl InnerSink,
        out: &mut SendQueue,
    ) {
        // Room for the tag too: the packet is decrypted in place.
        let room = datagram.len().saturating_sub(DATA_HEADER);
        let Some(slot) = sink.slot(room) else { return self.node.count_drop(DropReason::SinkFull) };
        let content = self.open(table, datagram, slot);
        if let Content::Foreign(reason) = content {
            return self.node.count_drop(reason);
        }
        self.follow_peer(arrival.path, receiver, counter);
        self.confirm_answer(receiver);
        self.note_heard();
        match content {
            Content::Packet { len } => {
                sink.commit(self.peer.id, len, arrival.ecn);
                self.note_data_received(datagram.len());
            }
            Content::Keepalive => self.received.bytes += datagram.len(),
            Content::Consumed(answer) => {
                self.note_data_received(datagram.len());
                if let Some(answer) = answer {
                    self.send_own(&answer, out);
                }
            }
            Content::Refused(reason) => self.node.count_drop(reason),
            Content::Foreign(_) => {}
        }
        if self.core.waiting > 0 {
            self.flush(out);
        }
    }

    /// Decrypts one data message into `slot` and judges what is inside.
    #[inline]
    fn open(&mut self, table: &Table, datagram: &[u8], slot: &mut [u8]) -> Content {
        if self.core.is_past_life(self.now.instant) {
            return Content::Foreign(DropReason::BadTag);
        }
        let Some(tunn) = self.core.tunn.as_mut() else { return Content::Foreign(DropReason::NoSession) };
        let (packet, source) = match tunn.decapsulate(None, datagram, slot) {
            TunnResult::WriteToTunnelV4(packet, source) => (packet, source.into()),
            TunnResult::WriteToTunnelV6(packet, source) => (packet, source.into()),
            TunnResult::Done => return Content::Keepalive,
            TunnResult::Err(WireGuardError::InvalidPacket) => {
                return Content::Refused(DropReason::MalformedDecrypted);
            }
            TunnResult::Err(error) => return Content::Foreign(data_drop(&error)),
            TunnResult::WriteToNetwork(_) => return Content::Foreign(DropReason::BadTag),
        };
        if !has_whole_header(packet) {
            return Content::Refused(DropReason::MalformedDecrypted);
        }
        if self.received.trusted != Some(source) {
            if table.allowed_ips.owner(source) != Some(self.peer.id) {
                return Content::Refused(DropReason::SpoofedSource);
            }
            self.received.trusted = Some(source);
        }
        if is_icmp(packet)
            && self.node.liveness.is_some()
            && let Some(answer) = self.probe_traffic(packet)
        {
            return Content::Consumed(answer);
        }
        Content::Packet { len: packet.len() }
    }

    fn note_data_received(&mut self, len: usize) {
        self.core.traffic.owed.get_or_insert(self.now.instant);
        self.received.bytes += len;
        self.received.packets += 1;
    }

    /// Notes that something authentic came.
    fn note_heard(&mut self) {
        self.core.traffic.unanswered = None;
        if std::mem::replace(&mut self.received.heard, true) {
            return;
        }
        self.core.traffic.received = self.now.instant;
        self.core.traffic.stamped = self.core.ticked;
        self.peer.vitals.heard.store(Some(self.now.instant.since_boot()));
        // What is announced follows in the next turn of the timers, unless it gets better just now.
        if self.core.announced != super::PeerState::Up {
            self.announce_state();
        }
    }

    /// Follows the peer to where its newest packet came from.
    fn follow_peer(&mut self, path: Endpoint, receiver: u32, counter: u64) {
        let (index, highest) = self.core.newest;
        if index == receiver && counter < highest {
            return;
        }
        self.core.newest = (receiver, counter);
        self.roam(path);
    }

    fn roam(&mut self, path: Endpoint) {
        if self.endpoint == Some(path) {
            return;
        }
        let before = self.endpoint.map(|endpoint| endpoint.remote);
        let moved = before != Some(path.remote);
        self.endpoint = Some(path);
        *self.peer.path.lock() = Some(path);
        if moved {
            if let Some(search) = &mut self.core.search {
                search.restart();
            }
            if let Some(before) = before {
                self.core.rivals.note_move(self.now.instant, before, path.remote);
            }
            self.peer.vitals.endpoint_changes.fetch_add(1, Ordering::Relaxed);
            self.node.events.push(Event::EndpointChanged { peer: self.peer.id, endpoint: path });
        }
    }

    /// The first data through a session that the peer opened: now it is agreed, and its initiation was no replay.
    fn confirm_answer(&mut self, receiver: u32) {
        let Some(answer) = self.core.answer.filter(|answer| answer.index == receiver) else { return };
        self.core.answer = None;
        self.core.has_unproven_stamp = false;
        self.core.remembers_stamp = true;
        self.note_session(Session { since: answer.at, initiator: false });
    }
}

/// Why a data message did not open.
fn data_drop(error: &WireGuardError) -> DropReason {
    match error {
        WireGuardError::DuplicateCounter | WireGuardError::InvalidCounter => DropReason::Replayed,
        WireGuardError::DestinationBufferTooSmall
        | WireGuardError::IncorrectPacketLength
        | WireGuardError::UnexpectedPacket
        | WireGuardError::WrongPacketType
        | WireGuardError::WrongIndex
        | WireGuardError::WrongKey
        | WireGuardError::InvalidTai64nTimestamp
        | WireGuardError::WrongTai64nTimestamp
        | WireGuardError::InvalidMac
        | WireGuardError::InvalidAeadTag
        | WireGuardError::InvalidPacket
        | WireGuardError::NoCurrentSession
        | WireGuardError::LockFailed
        | WireGuardError::ConnectionExpired
        | WireGuardError::UnderLoad => DropReason::BadTag,
    }
}

/// Whether a decrypted packet, cut to its own length, still holds its IP header.
#[inline]
fn has_whole_header(packet: &[u8]) -> bool {
    let Some(first) = packet.first() else { return false };
    let header = if first >> 4 == 4 { usize::from(first & 0x0f) * 4 } else { 40 };
    header >= 20 && packet.len() >= header
}

#[inline]
fn is_icmp(packet: &[u8]) -> bool {
    let at = if packet.first().is_some_and(|first| first >> 4 == 4) { 9 } else { 6 };
    packet.get(at).is_some_and(|next| matches!(*next, protocol::ICMP | protocol::ICMPV6))
}
