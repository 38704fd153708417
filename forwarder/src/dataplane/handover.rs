//! An upgrade in place, as the two data threads see it: the old one keeps its flows, the new one has
//! the tunnels, and packets of those flows cross between them.
//!
//! This adds to [`DataPlane`], which calls it: a hand-over touches every part of the data plane
//! between two rounds, so nothing smaller could own it.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use parking_lot::Mutex;
use tunnel::io::clock;
use tunnel::node::Received;
use tunnel::offload::SuperPacket;
use tunnel::time::{Instant, Now};

use super::edge::Edge;
use super::{DataPlane, LINK_DRAIN, Stop, carry, token};
use crate::flow::EdgeId;
use crate::handover::message::{HEAD, MAX_KEYS, MAX_MESSAGE};
use crate::handover::{self, Descriptors, Exchange, Message, OldProcess};
use crate::stats::Dropped;

/// Messages taken from the other process before flows have their turn.
const MESSAGES: usize = 64;
/// How long datagrams are passed on whose session is not known here, until there is one.
const OLD_SESSION: Duration = Duration::from_secs(30);

/// The other process of this forwarder, while there is one.
pub(super) struct Other {
    exchange: Arc<Mutex<Exchange>>,
    /// Whether it is the old one; otherwise it has the tunnels.
    is_old: bool,
    /// Until when datagrams of unknown sessions are passed to the old one.
    old_session_until: Instant,
    buffer: Vec<u8>,
}

/// A message that was received, without the bytes at the end of the buffer.
enum Arrived {
    Packet { edge: EdgeId, offload: tunnel::offload::Offload, length: usize },
    Datagram { edge: EdgeId, from: std::net::SocketAddr, stride: u16, length: usize },
    Session(EdgeId),
    Ended(handover::PassedFlow),
    Other,
}

impl Other {
    /// Watches the socket to the other process.
    pub(super) fn watch(
        registry: &Registry,
        exchange: Exchange,
        is_old: bool,
        now: Instant,
    ) -> io::Result<Self> {
        let fd = exchange.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&fd), token::EXCHANGE, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            exchange: Arc::new(Mutex::new(exchange)),
            is_old,
            old_session_until: now.after(OLD_SESSION),
            buffer: vec![0; MAX_MESSAGE],
        })
    }

    /// The socket, where the other process is the old one.
    pub(super) fn old(&self) -> Option<&Mutex<Exchange>> {
        self.is_old.then_some(&*self.exchange)
    }

    pub(super) fn ready(&self, ready: (bool, bool)) {
        self.exchange.lock().ready(ready.0, ready.1);
    }

    /// Passes datagrams to the old process that are for a session of its own; `false` when they are
    /// for this process.
    pub(super) fn pass_datagrams(&self, now: Now, edge: &Edge, received: &Received<'_>) -> bool {
        let Some(id) = edge.old_id.filter(|_| self.is_old && now.instant < self.old_session_until) else {
            return false;
        };
        if edge.node.may_take(received.contents) {
            return false;
        }
        let stride = u16::try_from(received.stride).unwrap_or(u16::MAX);
        let message = Message::Datagram { edge: id, from: received.from, stride, bytes: received.contents };
        self.exchange.lock().send_packet(&message);
        true
    }

    /// Passes a packet to the old process if it is for a flow of its own.
    pub(super) fn pass_packet(
        &self,
        old: Option<&OldProcess>,
        edge: &Edge,
        packet: &SuperPacket<'_>,
    ) -> bool {
        let Some((old, id)) = old.zip(edge.old_id) else { return false };
        let is_its = old.takes(id, packet.bytes);
        if is_its {
            let message = Message::Packet { edge: id, offload: packet.offload, bytes: packet.bytes };
            self.exchange.lock().send_packet(&message);
        }
        is_its
    }

    fn receive(&mut self) -> Option<Arrived> {
        let length = self.exchange.lock().receive(&mut self.buffer)?;
        let bytes = self.buffer.get(..length).unwrap_or_default();
        Some(match Message::read(bytes) {
            Ok(Message::Packet { edge, offload, bytes }) => {
                Arrived::Packet { edge, offload, length: bytes.len() }
            }
            Ok(Message::Datagram { edge, from, stride, bytes }) => {
                Arrived::Datagram { edge, from, stride, length: bytes.len() }
            }
            Ok(Message::Session(edge)) => Arrived::Session(edge),
            Ok(Message::Ended(flow)) => Arrived::Ended(flow),
            // Of another release, or too late.
            Ok(_) | Err(_) => Arrived::Other,
        })
    }

    /// The bytes at the end of the message that was received last.
    fn bytes(&mut self, length: usize) -> &mut [u8] {
        self.buffer.get_mut(HEAD..HEAD + length).unwrap_or_default()
    }
}

impl DataPlane {
    /// Copies of the sockets that a new process needs.
    pub(super) fn descriptors(&self) -> io::Result<Descriptors> {
        let mut descriptors = Descriptors::default();
        for edge in self.edges.iter() {
            descriptors
                .add(handover::edge(edge.id, &edge.name, edge.endpoint(clock::now())), edge.descriptor()?);
        }
        for listener in &self.listeners {
            let (address, socket) = listener.descriptor()?;
            descriptors.add(handover::reach("tcp", address), socket);
        }
        for listener in self.flows.udp_listeners() {
            let (address, socket) = listener.descriptor()?;
            descriptors.add(handover::reach("udp", address), socket);
        }
        Ok(descriptors)
    }

    /// Takes the tunnels from the old process, which keeps its flows; before this runs.
    ///
    /// # Errors
    /// From the system.
    pub fn take_over(&mut self, (exchange, old): (Exchange, OldProcess)) -> io::Result<()> {
        tracing::info!(flows = old.flows(), "took over from the old process, which keeps its flows");
        self.other = Some(Other::watch(self.poll.registry(), exchange, true, clock::instant())?);
        *self.flows.old() = Some(old);
        Ok(())
    }

    /// Gives the tunnels to the new process; the flows go on here.
    pub(super) fn hand_over(&mut self, now: Now, exchange: Exchange, drain: Duration) {
        let other = match Other::watch(self.poll.registry(), exchange, false, now.instant) {
            Ok(other) => other,
            Err(error) => {
                // The new process sees the end of its socket, and ends.
                tracing::warn!(%error, "the tunnels cannot be handed over");
                return self.stop(now, Duration::ZERO);
            }
        };
        self.flows.stop();
        for listener in std::mem::take(&mut self.listeners).iter_mut() {
            listener.unwatch(self.poll.registry());
            listener.release_held(&self.stats);
        }
        for edge in self.edges.iter_mut() {
            edge.hand_over(self.poll.registry(), &other.exchange);
        }
        self.network = None;
        let flows = self.flows.pass();
        let count = flows.len();
        {
            let mut exchange = other.exchange.lock();
            for part in flows.chunks(MAX_KEYS) {
                exchange.send(&Message::Flows(part.to_vec()));
            }
            exchange.send(&Message::TakeOver(drain));
        }
        self.other = Some(other);
        let links_end = Some(now.instant.after(LINK_DRAIN));
        self.stop = Some(Stop { flows_end: now.instant.after(drain), links_end });
        tracing::info!(
            flows = count,
            seconds = drain.as_secs(),
            "the new process has the tunnels: the flows of this one go on until they end"
        );
    }

    /// Whether another process has the tunnels.
    pub(super) fn has_handed_over(&self) -> bool {
        self.other.as_ref().is_some_and(|other| !other.is_old)
    }

    /// Flows that a stop waits for.
    pub(super) fn awaited(&mut self) -> usize {
        if self.has_handed_over() {
            return self.flows.all_active();
        }
        let old = self.flows.old().as_ref().map_or(0, OldProcess::flows);
        self.flows.active() + old
    }

    /// Sends the new process what is left for it, before the end of this one.
    pub(super) fn finish_exchange(&mut self) {
        if let Some(other) = &self.other {
            let mut exchange = other.exchange.lock();
            let ended = self.flows.take_ended();
            ended.into_iter().for_each(|flow| exchange.send(&Message::Ended(flow)));
            exchange.finish();
        }
    }

    /// Takes what the other process sent, and reports what ended; `true` when there is more.
    pub(super) fn exchange(&mut self, now: Now) -> bool {
        let Some(mut other) = self.other.take() else { return false };
        let mut again = false;
        for left in (0..MESSAGES).rev() {
            // What the old process sends for a tunnel waits in its socket until there is room.
            let has_room = !other.is_old || self.edges.iter_mut().all(Edge::make_room);
            if !has_room || !other.exchange.lock().is_readable() {
                break;
            }
            match other.receive() {
                Some(arrived) => self.handle_arrived(now, &mut other, arrived),
                None => break,
            }
            again = left == 0;
        }
        let ended = self.flows.take_ended();
        let mut exchange = other.exchange.lock();
        ended.into_iter().for_each(|flow| exchange.send(&Message::Ended(flow)));
        for _ in 0..exchange.take_dropped() {
            self.stats.refuse(Dropped::HandoverFull);
        }
        let is_closed = exchange.is_closed();
        drop(exchange);
        if is_closed {
            self.handle_other_end(now, &other);
        }
        if !(is_closed && other.is_old) {
            self.other = Some(other);
        }
        if let Some(old) = self.flows.old() {
            self.stats.old.show(old.flows(), old.deadline());
        }
        again
    }

    fn handle_arrived(&mut self, now: Now, other: &mut Other, arrived: Arrived) {
        match arrived {
            Arrived::Packet { edge, offload, length } if other.is_old => {
                if let Some(edge) = self.edges.find_old(edge) {
                    use crate::cell::Egress as _;
                    edge.outlet(now).send(SuperPacket { bytes: other.bytes(length), offload });
                }
            }
            Arrived::Packet { edge, offload, length } => {
                if let Some(edge) = self.edges.get_mut(edge) {
                    let packet = SuperPacket { bytes: other.bytes(length), offload };
                    self.flows.handle_packet(now, edge, packet);
                }
            }
            Arrived::Datagram { edge, from, stride, length } if !other.is_old => {
                if let Some(edge) = self.edges.get_mut(edge) {
                    let contents = other.bytes(length);
                    let received = Received { from, to: None, ecn: 0, stride: stride.into(), contents };
                    edge.handle_received(now, received, &mut self.inlet);
                    carry(now, &mut self.inlet, &mut self.flows, edge, None);
                }
            }
            Arrived::Session(edge) if !other.is_old => {
                if let Some(edge) = self.edges.get_mut(edge) {
                    edge.use_relay();
                }
                self.flows.tcp(now).resume(edge);
            }
            Arrived::Ended(flow) if other.is_old => {
                if let Some(old) = self.flows.old() {
                    old.handle_ended(&flow);
                }
            }
            Arrived::Datagram { .. } | Arrived::Session(_) | Arrived::Ended(_) | Arrived::Other => {}
        }
    }

    fn handle_other_end(&mut self, now: Now, other: &Other) {
        if other.is_old {
            let left = self.flows.old().take().map_or(0, |old| old.flows());
            self.edges.iter_mut().for_each(|edge| edge.old_id = None);
            self.stats.old.end();
            tracing::info!(flows = left, "the old process has ended");
        } else if let Some(stop) = self.stop.as_mut().filter(|stop| stop.flows_end > now.instant) {
            tracing::warn!("the new process has ended, and with it the tunnels of the flows that are left");
            stop.flows_end = now.instant;
        }
    }
}
