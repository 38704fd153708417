//! One pairing at a time, as the gateway carries it: what may come and go, and when it ends.
//!
//! Whoever owns the connections of the temporary peer calls [`Relay::accept`] for each, passes
//! bytes and time, and closes a connection once [`Relay::is_over`]. The node has the temporary peer
//! while [`Relay::peer`] names it, and no longer.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use policy::PublicKey;
use tunnel::time::Instant;

use super::control::{LIFETIME, MAX_FRAME, MAX_FRAMES, PairingEnd, PairingReply, UNASKED};
use crate::link::frame::{FrameReader, frame};

/// How long a connection may last next to another one before that is a second joiner: the end of
/// the first may come after the beginning of the second.
const OVERLAP: Duration = Duration::from_millis(500);
/// How long the temporary peer stays after the end of a pairing with a connection, so that the last
/// frames and the end of the connection reach it.
const LINGER: Duration = Duration::from_secs(1);

/// The peer that a code belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemporaryPeer {
    /// Its public key.
    pub key: PublicKey,
    /// Its only address in the tunnel.
    pub address: IpAddr,
}

/// A pairing is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a pairing is open already; end the other `causeway pair` (without one it ends by itself in {} seconds)",
    UNASKED
)]
pub struct AlreadyOpen;

/// The command sends more than a pairing carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a message for the other machine is longer than {} bytes, or more than {} wait; pair again",
    MAX_FRAME,
    MAX_FRAMES
)]
pub struct Oversized;

/// One connection of the temporary peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// What only the owner of the node knows of a pairing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Datagrams that came to WireGuard's port since the pairing began.
    pub datagrams: u64,
    /// Handshakes among them that no known peer made, nor the temporary one.
    pub unknown: u64,
    /// Whether an authentic datagram of the temporary peer came.
    pub is_heard: bool,
    /// Whether the temporary peer has a session.
    pub has_session: bool,
}

/// The pairing that is open, or the one that was open last.
#[derive(Debug, Default)]
pub struct Relay {
    pairing: Option<Pairing>,
    last: u64,
}

#[derive(Debug)]
struct Pairing {
    peer: TemporaryPeer,
    opened: Instant,
    asked: Instant,
    connections: u32,
    joiner: Option<Connection>,
    /// A connection that came while the one before was open, and when.
    second: Option<(ConnectionId, Instant)>,
    received: VecDeque<Vec<u8>>,
    end: Option<Ended>,
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    reader: FrameReader,
    /// Frames with their lengths.
    output: VecDeque<Vec<u8>>,
    /// Bytes of the first that were sent.
    sent: usize,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    why: PairingEnd,
    /// Until when the temporary peer stays.
    until: Instant,
    is_removed: bool,
}

impl Relay {
    /// Begins a pairing.
    ///
    /// # Errors
    /// [`AlreadyOpen`]
    pub fn open(&mut self, now: Instant, peer: TemporaryPeer) -> Result<(), AlreadyOpen> {
        self.handle_timeout(now);
        if self.current().is_some() {
            return Err(AlreadyOpen);
        }
        self.pairing = Some(Pairing::new(peer, now));
        Ok(())
    }

    /// Whether this is the key of the pairing that is open, or of the one that was open last.
    #[must_use]
    pub fn is_of(&self, key: &PublicKey) -> bool {
        self.pairing.as_ref().is_some_and(|pairing| pairing.peer.key == *key)
    }

    /// Queues frames for the joiner, and takes those that came; frames for a connection that is not
    /// there are discarded. A pairing of another `key` is closed for this caller.
    ///
    /// # Errors
    /// [`Oversized`]; none of the frames is queued then.
    pub fn exchange(
        &mut self,
        now: Instant,
        key: &PublicKey,
        frames: Vec<Vec<u8>>,
        seen: Seen,
    ) -> Result<PairingReply, Oversized> {
        self.handle_timeout(now);
        let is_of = self.is_of(key);
        if let Some(pairing) = self.current().filter(|_| is_of) {
            pairing.asked = now;
            pairing.queue(frames)?;
        }
        let Some(pairing) = self.pairing.as_mut().filter(|_| is_of) else {
            return Ok(PairingReply { end: Some(PairingEnd::Closed), ..PairingReply::default() });
        };
        Ok(PairingReply {
            datagrams: seen.datagrams,
            unknown: seen.unknown,
            is_heard: seen.is_heard,
            has_session: seen.has_session,
            connections: pairing.connections,
            is_connected: pairing.end.is_none() && pairing.joiner.is_some(),
            frames: pairing.received.drain(..).collect(),
            end: pairing.end.map(|end| end.why),
        })
    }

    /// Ends the pairing; the connection is closed once what waits was sent.
    pub fn close(&mut self, now: Instant) {
        self.handle_timeout(now);
        if let Some(pairing) = self.current() {
            pairing.end(now, PairingEnd::Closed);
        }
        self.handle_timeout(now);
    }

    /// The temporary peer, as long as the node must have it.
    #[must_use]
    pub fn peer(&self) -> Option<TemporaryPeer> {
        let pairing = self.pairing.as_ref()?;
        let is_removed = pairing.end.is_some_and(|end| end.is_removed);
        (!is_removed).then_some(pairing.peer)
    }

    /// Why there is no pairing.
    #[must_use]
    pub fn end(&self) -> Option<PairingEnd> {
        self.pairing.as_ref().map_or(Some(PairingEnd::Closed), |pairing| pairing.end.map(|end| end.why))
    }

    /// Takes a connection of the temporary peer; `None` when it is to be closed at once.
    pub fn accept(&mut self, now: Instant) -> Option<ConnectionId> {
        self.handle_timeout(now);
        let id = ConnectionId(self.last + 1);
        let pairing = self.current()?;
        pairing.connections = pairing.connections.saturating_add(1);
        match (&pairing.joiner, pairing.second) {
            (None, _) => pairing.begin(id),
            (Some(_), None) => pairing.second = Some((id, now)),
            (Some(_), Some(_)) => {
                pairing.end(now, PairingEnd::SecondJoiner);
                return None;
            }
        }
        self.last = id.0;
        Some(id)
    }

    /// Whether bytes of this connection are to be read.
    #[must_use]
    pub fn wants_input(&self, id: ConnectionId) -> bool {
        let pairing = self.pairing.as_ref().filter(|pairing| pairing.end.is_none());
        pairing.is_some_and(|pairing| pairing.joiner.as_ref().is_some_and(|joiner| joiner.id == id))
    }

    /// Takes bytes that came.
    pub fn handle_input(&mut self, now: Instant, id: ConnectionId, bytes: &[u8]) {
        self.handle_timeout(now);
        if self.wants_input(id)
            && let Some(pairing) = self.current()
        {
            pairing.take(now, bytes);
        }
    }

    /// What is to be sent next.
    #[must_use]
    pub fn poll_output(&self, id: ConnectionId) -> &[u8] {
        let joiner = self.pairing.as_ref().and_then(|pairing| pairing.joiner.as_ref());
        joiner.filter(|joiner| joiner.id == id).map_or(&[], Connection::rest)
    }

    /// So many bytes were sent.
    pub fn handle_sent(&mut self, id: ConnectionId, count: usize) {
        let joiner = self.pairing.as_mut().and_then(|pairing| pairing.joiner.as_mut());
        if let Some(joiner) = joiner.filter(|joiner| joiner.id == id) {
            joiner.handle_sent(count);
        }
    }

    /// The connection is closed or failed.
    pub fn handle_hangup(&mut self, now: Instant, id: ConnectionId) {
        self.handle_timeout(now);
        if let Some(pairing) = &mut self.pairing {
            pairing.handle_hangup(id);
        }
    }

    /// Whether the connection is to be closed.
    #[must_use]
    pub fn is_over(&self, id: ConnectionId) -> bool {
        let Some(pairing) = &self.pairing else { return true };
        let of_joiner = pairing.joiner.as_ref().filter(|joiner| joiner.id == id);
        let is_second = pairing.second.is_some_and(|(second, _)| second == id);
        match (pairing.end, of_joiner) {
            (None, joiner) => joiner.is_none() && !is_second,
            (Some(end), Some(joiner)) => end.is_removed || joiner.rest().is_empty(),
            (Some(_), None) => true,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let pairing = self.pairing.as_ref()?;
        match pairing.end {
            Some(end) => (!end.is_removed).then_some(end.until),
            None => Some(pairing.expires().min(pairing.is_forgotten_at()).min(pairing.overlaps_until())),
        }
    }

    /// Does what time alone brings.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(pairing) = &mut self.pairing else { return };
        if pairing.end.is_none() {
            if now >= pairing.expires() {
                pairing.end(now, PairingEnd::Expired);
            } else if now >= pairing.is_forgotten_at() {
                pairing.end(now, PairingEnd::Closed);
            } else if now >= pairing.overlaps_until() {
                pairing.end(now, PairingEnd::SecondJoiner);
            }
        }
        if let Some(end) = pairing.end.as_mut().filter(|end| now >= end.until) {
            end.is_removed = true;
            pairing.joiner = None;
        }
    }

    /// The pairing, while it is open.
    fn current(&mut self) -> Option<&mut Pairing> {
        self.pairing.as_mut().filter(|pairing| pairing.end.is_none())
    }
}

impl Pairing {
    const fn new(peer: TemporaryPeer, now: Instant) -> Self {
        Self {
            peer,
            opened: now,
            asked: now,
            connections: 0,
            joiner: None,
            second: None,
            received: VecDeque::new(),
            end: None,
        }
    }

    const fn expires(&self) -> Instant {
        self.opened.after(Duration::from_secs(LIFETIME as u64))
    }

    const fn is_forgotten_at(&self) -> Instant {
        self.asked.after(Duration::from_secs(UNASKED as u64))
    }

    fn overlaps_until(&self) -> Instant {
        self.second.map_or(self.expires(), |(_, came)| came.after(OVERLAP))
    }

    /// Begins with a connection: nothing of the one before is left in either direction.
    fn begin(&mut self, id: ConnectionId) {
        self.received.clear();
        let reader = FrameReader::new(MAX_FRAME);
        self.joiner = Some(Connection { id, reader, output: VecDeque::new(), sent: 0 });
    }

    fn end(&mut self, now: Instant, why: PairingEnd) {
        let is_connected = self.joiner.is_some() || self.second.is_some();
        let until = if is_connected { now.after(LINGER) } else { now };
        self.end = Some(Ended { why, until, is_removed: false });
        self.second = None;
        if why != PairingEnd::Closed {
            self.received.clear();
            if let Some(joiner) = &mut self.joiner {
                joiner.output.clear();
            }
        }
    }

    fn queue(&mut self, frames: Vec<Vec<u8>>) -> Result<(), Oversized> {
        let waiting = self.joiner.as_ref().map_or(0, |joiner| joiner.output.len());
        if waiting + frames.len() > MAX_FRAMES || frames.iter().any(|frame| frame.len() > MAX_FRAME) {
            return Err(Oversized);
        }
        if let Some(joiner) = &mut self.joiner {
            joiner.output.extend(frames.iter().filter_map(|body| frame(body)));
        }
        Ok(())
    }

    fn take(&mut self, now: Instant, mut bytes: &[u8]) {
        while !bytes.is_empty()
            && let Some(joiner) = &mut self.joiner
        {
            match joiner.reader.take(&mut bytes) {
                Ok(None) => {}
                Ok(Some(frame)) if self.received.len() < MAX_FRAMES => self.received.push_back(frame),
                Ok(Some(_)) | Err(_) => return self.end(now, PairingEnd::TooMuch),
            }
        }
    }

    fn handle_hangup(&mut self, id: ConnectionId) {
        if self.second.is_some_and(|(second, _)| second == id) {
            self.second = None;
        }
        if self.joiner.as_ref().is_some_and(|joiner| joiner.id == id) {
            self.joiner = None;
            if let Some((second, _)) = self.second.take() {
                self.begin(second);
            }
        }
    }
}

impl Connection {
    fn rest(&self) -> &[u8] {
        self.output.front().and_then(|first| first.get(self.sent..)).unwrap_or_default()
    }

    fn handle_sent(&mut self, count: usize) {
        self.sent += count;
        if self.rest().is_empty() {
            self.output.pop_front();
            self.sent = 0;
        }
    }
}
