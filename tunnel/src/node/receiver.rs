//! A locked peer that receives: what its messages are, and what follows from them.

use std::net::IpAddr;

use boringtun::noise::TunnResult;
use boringtun::noise::errors::WireGuardError;

use super::core::{Answer, Session};
use super::liveness::{Prober, probe_data};
use super::locked_peer::{LockedPeer, Output};
use super::old_timestamp::Reaction;
use super::peer::Peer;
use super::probes::Answered;
use super::received::Arrival;
use super::service_probing::may_answer_a_syn;
use super::status::{Event, PeerState};
use super::table::Table;
use super::wire::{DATA_HEADER, INITIATION_LEN, sender_index};
use super::{Node, path_mtu_search};
use crate::endpoint::Endpoint;
use crate::packet::icmp::Echo;
use crate::packet::{Ip, protocol};
use crate::reason::DropReason;
use crate::sink::InnerSink;
use crate::time::Now;
use crate::transmit::SendQueue;

/// What a data message turned out to be.
enum Content {
    Packet {
        len: usize,
    },
    Keepalive,
    /// A probe, with the answer to send; or the answer to one of ours, with what to send for it.
    Probe(Option<Vec<u8>>),
    Refused(DropReason),
    /// Not authentic: nothing about the peer changes.
    Foreign(DropReason),
}

/// A locked peer that receives, and what came in while it was locked.
pub(super) struct Receiver<'a> {
    pub(super) locked: LockedPeer<'a>,
    bytes: usize,
    packets: usize,
    /// Whether something authentic came.
    is_heard: bool,
    /// The inner source that was last found to be this peer's.
    trusted: Option<IpAddr>,
}

impl<'a> Receiver<'a> {
    /// Locks a peer, whose `Tunn` may send something in `out` first.
    pub(super) fn lock(node: &'a Node, peer: &'a Peer, now: Now, out: &mut SendQueue) -> Self {
        let mut locked = LockedPeer::lock(node, peer, now);
        locked.refresh(out);
        Self { locked, bytes: 0, packets: 0, is_heard: false, trusted: None }
    }

    /// Counts what came in, and releases the peer.
    pub(super) fn release(self) {
        self.locked.peer.stats.add_received(self.packets, self.bytes);
        self.locked.release();
    }

    fn drop_for(&self, reason: DropReason) {
        self.locked.node.drops.count(reason);
    }

    /// Takes a cookie. It proves nothing about where the peer is: the endpoint stays.
    pub(super) fn receive_cookie(&mut self, datagram: &[u8]) {
        let mut scratch = [0; INITIATION_LEN];
        let tunn = self.locked.core.tunn.as_mut();
        let result = tunn.map(|tunn| tunn.decapsulate(None, datagram, &mut scratch));
        if matches!(result, Some(TunnResult::Done)) {
            self.bytes += datagram.len();
        } else {
            self.drop_for(DropReason::BadHandshake);
        }
    }

    pub(super) fn receive_initiation(&mut self, path: Endpoint, datagram: &[u8], out: &mut SendQueue) {
        let Err(error) = self.answer_initiation(path, datagram, out) else { return };
        if !matches!(error, WireGuardError::WrongTai64nTimestamp) {
            return self.drop_for(DropReason::BadHandshake);
        }
        self.drop_for(DropReason::OldTimestamp);
        let (now, core) = (self.locked.now.instant, &mut *self.locked.core);
        let facts = core.peer_facts(now);
        match core.old_timestamps.judge(now, facts) {
            Reaction::Drop => {}
            Reaction::Probe => {
                if let Some(prober) = &mut core.probes.prober {
                    prober.probe_now(now);
                }
            }
            Reaction::Answer => {
                self.locked.rebuild_tunn();
                if self.answer_initiation(path, datagram, out).is_err() {
                    self.drop_for(DropReason::BadHandshake);
                }
            }
            Reaction::Initiate { is_news } => {
                let event = Event::OldTimestamp { peer: self.locked.peer.id };
                self.locked.node.events.extend(is_news.then_some(event));
                self.locked.initiate(Some(path), out);
            }
        }
    }

    /// Answers an initiation to where it came from; the error is why it cannot be answered.
    fn answer_initiation(
        &mut self,
        path: Endpoint,
        datagram: &[u8],
        out: &mut SendQueue,
    ) -> Result<(), WireGuardError> {
        let mut index = None;
        let output = self.locked.emit(out, INITIATION_LEN, Some(path), |tunn, slot| {
            let result = tunn.decapsulate(None, datagram, slot);
            if let TunnResult::WriteToNetwork(response) = &result {
                index = sender_index(response);
            }
            result
        });
        match output {
            Output::Sent(_) => {
                self.bytes += datagram.len();
                let (at, core) = (self.locked.now.instant, &mut *self.locked.core);
                core.answer = index.map(|index| Answer { index, at });
                core.has_unproven_timestamp = true;
                core.attempt = None;
                core.expired = false;
                if core.remembers_timestamp || self.locked.endpoint.is_none() {
                    self.locked.roam(path);
                }
            }
            Output::Failed(error) => return Err(error),
            Output::Nothing => self.drop_for(DropReason::NoSession),
            Output::Full => {}
        }
        Ok(())
    }

    pub(super) fn receive_response(
        &mut self,
        path: Endpoint,
        receiver: u32,
        datagram: &[u8],
        out: &mut SendQueue,
    ) {
        let output = self
            .locked
            .emit(out, INITIATION_LEN, Some(path), |tunn, slot| tunn.decapsulate(None, datagram, slot));
        match output {
            Output::Sent(_) => {
                let now = self.locked.now.instant;
                self.bytes += datagram.len();
                self.locked.roam(path);
                self.locked.core.note_answered(receiver, now);
                self.locked.note_session(Session { since: now, initiator: true });
                self.note_heard();
                self.locked.flush(out);
            }
            Output::Failed(_) => self.drop_for(DropReason::BadHandshake),
            Output::Nothing => self.drop_for(DropReason::NoSession),
            Output::Full => {}
        }
    }

    pub(super) fn receive_data(
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
        let Some(slot) = sink.slot(room) else { return self.drop_for(DropReason::SinkFull) };
        let content = self.open(table, datagram, slot);
        if let Content::Foreign(reason) = content {
            return self.drop_for(reason);
        }
        self.follow_peer(arrival.path, receiver, counter);
        self.confirm_answer(receiver);
        self.note_heard();
        match content {
            Content::Packet { len } => {
                sink.commit(self.locked.peer.id, len, arrival.ecn);
                self.note_data_received(datagram.len());
            }
            Content::Keepalive => self.bytes += datagram.len(),
            Content::Probe(answer) => {
                self.note_data_received(datagram.len());
                if let Some(answer) = answer {
                    self.locked.send_own(&answer, out);
                }
            }
            Content::Refused(reason) => self.drop_for(reason),
            Content::Foreign(_) => {}
        }
        if self.locked.core.waiting > 0 {
            self.locked.flush(out);
        }
    }

    /// Decrypts one data message into `slot` and judges what is inside.
    #[inline]
    fn open(&mut self, table: &Table, datagram: &[u8], slot: &mut [u8]) -> Content {
        if self.locked.core.is_expired(self.locked.now.instant) {
            return Content::Foreign(DropReason::BadTag);
        }
        let Some(tunn) = self.locked.core.tunn.as_mut() else {
            return Content::Foreign(DropReason::NoSession);
        };
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
        if self.trusted != Some(source) {
            if table.allowed_ips.owner(source) != Some(self.locked.peer.id) {
                return Content::Refused(DropReason::SpoofedSource);
            }
            self.trusted = Some(source);
        }
        if is_icmp(packet)
            && self.locked.node.liveness.is_some()
            && let Some(answer) = self.handle_probe(packet)
        {
            return Content::Probe(answer);
        }
        if self.locked.core.service_probes.is_listening()
            && (may_answer_a_syn(packet) || is_icmp(packet))
            && let Some(answer) = self.locked.handle_service_reply(packet)
        {
            return Content::Probe(answer);
        }
        Content::Packet { len: packet.len() }
    }

    /// Handles probes: returns the answer to a probe of the peer, or nothing to send after the
    /// answer to one of ours. `None` for any other packet.
    fn handle_probe(&mut self, packet: &[u8]) -> Option<Option<Vec<u8>>> {
        let ip = Ip::parse(packet).ok()?;
        let echo = Echo::parse(&ip, packet)?;
        let locked = &mut self.locked;
        let data = probe_data(echo.data).filter(|_| locked.node.interface.owns(ip.dst))?;
        if !echo.is_reply {
            return Some(Echo { is_reply: true, data, ..echo }.build(ip.dst, ip.src));
        }
        let was_losing = locked.core.probes.prober.as_ref().is_some_and(Prober::is_losing);
        match locked.core.probes.handle_reply(&echo, locked.now.instant) {
            Answered::Size => path_mtu_search::publish(locked),
            Answered::Liveness => {
                if was_losing {
                    locked.core.shared_key.note_survival(locked.now.instant);
                }
                locked.core.recovery.stop();
                if let Some(prober) = &locked.core.probes.prober {
                    locked.peer.stats.publish_probes(prober);
                }
            }
            Answered::Nothing if locked.core.probes.prober.is_none() => return None,
            Answered::Nothing => {}
        }
        Some(None)
    }

    fn note_data_received(&mut self, len: usize) {
        self.locked.core.traffic.owed.get_or_insert(self.locked.now.instant);
        self.bytes += len;
        self.packets += 1;
    }

    /// Notes that something authentic came.
    fn note_heard(&mut self) {
        let (now, core) = (self.locked.now.instant, &mut *self.locked.core);
        core.traffic.unanswered = None;
        if std::mem::replace(&mut self.is_heard, true) {
            return;
        }
        core.traffic.received = now;
        core.traffic.received_tick = core.ticked;
        self.locked.peer.stats.heard.store(Some(now.since_boot()));
        // What is announced follows with the next run of the timers, unless it gets better just
        // now.
        if core.announced != PeerState::Up {
            self.locked.announce_state();
        }
    }

    /// Follows the peer to where its newest packet came from.
    fn follow_peer(&mut self, path: Endpoint, receiver: u32, counter: u64) {
        let (index, highest) = self.locked.core.newest;
        if index == receiver && counter < highest {
            return;
        }
        self.locked.core.newest = (receiver, counter);
        self.locked.roam(path);
    }

    /// The first data through a session that the peer opened: now it is agreed, and its initiation
    /// was no replay.
    fn confirm_answer(&mut self, receiver: u32) {
        let core = &mut *self.locked.core;
        let Some(answer) = core.answer.filter(|answer| answer.index == receiver) else { return };
        core.answer = None;
        core.has_unproven_timestamp = false;
        core.remembers_timestamp = true;
        self.locked.note_session(Session { since: answer.at, initiator: false });
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
